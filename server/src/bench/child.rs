//! The server that is measured: `onnxd serve` in a process of its own, on the loopback, with a copy of the model, so that
//! nothing of the user's repository, state or settings is touched.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use serde::Deserialize;
use tempfile::TempDir;

use crate::batch;
use crate::load::http;
use crate::model::providers::listed;
use crate::model::runtime::Runtime;
use crate::model::{Artifact, Threads};
use crate::probe::PASSED_ON;
use crate::source::MANIFEST;

const LOG: &str = "log";
/// How often it is looked whether it is ready.
const LOOK: Duration = Duration::from_millis(20);
/// A server without a manifest waits until a file is not written any more.
const AGE: Duration = Duration::from_secs(60);
/// Lines of its log that are told when it does not start.
const TAIL: usize = 5;

/// What it is started with.
pub struct Start<'a> {
    /// The `onnxd` program.
    pub executable: &'a Path,
    /// ONNX Runtime's library, and the providers that are asked of it.
    pub runtime: &'a Runtime,
    /// The model.
    pub artifact: &'a Artifact,
    /// Its manifest as it was written.
    pub manifest: Option<&'a [u8]>,
    /// Threads and sessions.
    pub threads: Threads,
    /// The queue.
    pub queue: batch::Limits,
    /// How long it may take until it serves.
    pub patience: Duration,
}

/// A server; ends when this is dropped.
pub struct Served {
    process: Child,
    /// Its repository, ports and log.
    folder: TempDir,
    /// Where it takes requests.
    pub http: SocketAddr,
}

#[derive(Deserialize)]
struct Ports {
    http: SocketAddr,
    ops: SocketAddr,
}

impl Start<'_> {
    /// Starts it and waits until it serves; `None` when `goes_on` says no.
    ///
    /// # Errors
    /// What could not be written or started, or what the server says of the model.
    pub fn run(&self, mut goes_on: impl FnMut() -> bool) -> Result<Option<Served>, String> {
        let failed = |what: &str, e: std::io::Error| format!("cannot {what} for the server that is measured: {e}");
        let folder = tempfile::Builder::new().prefix("onnxd-bench-").tempdir();
        let folder = folder.map_err(|e| failed("make a folder", e))?;
        let repository = folder.path().join("models");
        self.install(&repository).map_err(|e| failed("copy the model", e))?;
        let (ports_file, log) = (folder.path().join("ports.json"), folder.path().join(LOG));
        let log = File::create(log).map_err(|e| failed("write a log", e))?;
        let process = Command::new(self.executable)
            .arg("serve")
            .arg(&repository)
            .args(["--http", "127.0.0.1:0", "--ops", "127.0.0.1:0", "--grpc", "off", "--state", "off", "--log", "warn"])
            .args(["--http-threads", &self.threads.http.to_string(), "--workers", &self.threads.workers.to_string()])
            .args(["--queue-rows", &self.queue.queue_rows.to_string()])
            .args(["--batch-delay", &humantime::format_duration(self.queue.batch_delay).to_string()])
            .arg("--onnxruntime")
            .arg(self.runtime.path())
            .args(["--providers", &listed(self.runtime.providers().asked())])
            .arg("--ports-file")
            .arg(&ports_file)
            // Settings of the user that are not measured stay out: they are in the environment and the present folder.
            .current_dir(folder.path())
            .env_clear()
            .envs(PASSED_ON.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|e| failed("start onnxd", e))?;
        // From here on it ends with this value.
        let mut served = Served { process, folder, http: SocketAddr::from(([127, 0, 0, 1], 0)) };
        let begin = Instant::now();
        while begin.elapsed() < self.patience {
            if !goes_on() {
                return Ok(None);
            }
            if let Ok(Some(status)) = served.process.try_wait() {
                return Err(format!("the server that is measured ended ({status}){}", served.tail()));
            }
            let ports = fs::read(&ports_file).ok().and_then(|bytes| serde_json::from_slice::<Ports>(&bytes).ok());
            if let Some(ports) = ports
                && http::get(ports.ops, "/readyz").is_ok_and(|(status, _)| status == 200)
            {
                served.http = ports.http;
                return Ok(Some(served));
            }
            std::thread::sleep(LOOK);
        }
        Err(format!("the server that is measured was not ready within {:?}{}", self.patience, served.tail()))
    }

    /// A repository with this version of the model alone.
    fn install(&self, repository: &Path) -> std::io::Result<()> {
        let version = repository.join(&self.artifact.id.name).join(&self.artifact.id.version);
        fs::create_dir_all(&version)?;
        let write = |name: &str, bytes: &[u8]| {
            fs::write(version.join(name), bytes)?;
            File::options().write(true).open(version.join(name))?.set_modified(SystemTime::now() - AGE)
        };
        let name = self.artifact.manifest.as_ref().map_or("model.onnx", |manifest| manifest.artifact.path.as_str());
        write(name, &self.artifact.onnx)?;
        for file in &self.artifact.external {
            write(&file.path, &file.bytes)?;
        }
        self.manifest.map_or(Ok(()), |bytes| write(MANIFEST, bytes))
    }
}

impl Served {
    /// CPU time that it has used.
    #[must_use]
    pub fn cpu(&self) -> Option<Duration> {
        crate::process::stat(&self.process.id().to_string()).map(|stat| stat.cpu)
    }

    /// What it logged last.
    fn tail(&self) -> String {
        let log = fs::read_to_string(self.folder.path().join(LOG)).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL)..].join("; ");
        if tail.is_empty() { tail } else { format!(": {tail}") }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
