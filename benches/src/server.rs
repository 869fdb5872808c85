//! Servers under measurement: started, waited for, and ended with the value that stands for them.

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use onnxd::load::http::{self, Target};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

/// A model is probed and loaded before a server is ready; that takes seconds, never this long.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// The log's name in a server's folder.
const LOG: &str = "log";

/// The addresses a server writes once it listens.
#[derive(Serialize, Deserialize)]
pub(crate) struct Ports {
    pub(crate) http: SocketAddr,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) grpc: Option<SocketAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ops: Option<SocketAddr>,
}

impl Ports {
    /// Tells whoever started this server, and whoever watches.
    pub(crate) fn tell(&self, file: Option<&Path>) -> Result<()> {
        let grpc = self.grpc.map(|address| format!(", gRPC {address}")).unwrap_or_default();
        crate::progress(&format!("http://{}/predict{grpc}", self.http));
        file.map_or(Ok(()), |file| Ok(fs::write(file, serde_json::to_vec(self)?)?))
    }
}

/// A server that answers `/predict`. Dropping it ends the process.
pub(crate) struct Server {
    pub(crate) name: String,
    pub(crate) target: Target,
    pub(crate) grpc: Option<SocketAddr>,
    pub(crate) ops: Option<SocketAddr>,
    /// From the start of the process until it was ready.
    pub(crate) ready_after: Duration,
    process: Process,
}

struct Process {
    child: Child,
    /// Its ports file and its log; and where it runs, so that nothing it writes outlives it.
    folder: TempDir,
}

impl Server {
    /// The floor, as a process of its own like the server it is compared with; told features and answer, or with those of
    /// the anomaly model.
    pub(crate) fn echo(threads: usize, more: &[String]) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe().context("this executable has no path")?);
        command.args(["echo", "--threads", &threads.to_string()]).args(more);
        Self::start(&format!("echo-{threads}"), command)
    }

    /// The least server with the model of a version's folder.
    pub(crate) fn least(threads: usize, version: &Path) -> Result<Self> {
        let version = fs::canonicalize(version).with_context(|| format!("no {}", version.display()))?;
        let mut command = Command::new(std::env::current_exe().context("this executable has no path")?);
        command.args(["least", "--threads", &threads.to_string()]).arg(version);
        Self::start(&format!("least-{threads}"), command)
    }

    /// `onnxd serve` on a repository, with whatever else it is to be told.
    pub(crate) fn onnxd(name: &str, binary: &Path, repository: &Path, more: &[String]) -> Result<Self> {
        let mut command = Command::new(fs::canonicalize(binary).with_context(|| format!("no {}", binary.display()))?);
        command.arg("serve").arg(fs::canonicalize(repository).with_context(|| format!("no {}", repository.display()))?);
        command.args(["--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--ops", "127.0.0.1:0"]).args(more);
        Self::start(name, command)
    }

    /// Starts what writes its addresses to a ports file, and waits until it is ready.
    pub(crate) fn start(name: &str, mut command: Command) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let (ports_file, log) = (folder.path().join("ports.json"), folder.path().join(LOG));
        let begin = Instant::now();
        let child = command
            .arg("--ports-file")
            .arg(&ports_file)
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(File::create(&log)?)
            .stderr(File::options().append(true).open(&log)?)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let mut process = Process { child, folder };
        let ports = process.ports(&ports_file).with_context(|| format!("{name} did not become ready"))?;
        let target = Target { address: ports.http, path: "/predict".to_owned() };
        let ready_after = begin.elapsed();
        let (name, Ports { grpc, ops, .. }) = (name.to_owned(), ports);
        Ok(Self { name, target, grpc, ops, ready_after, process })
    }

    /// Waits until `condition` holds for the text of `/metrics`.
    pub(crate) fn await_metrics(&self, what: &str, condition: impl Fn(&str) -> bool) -> Result<()> {
        let until = Instant::now() + READY_WITHIN;
        while Instant::now() < until {
            if condition(&self.metrics()?) {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(50));
        }
        bail!("{}: {what} not seen in /metrics within {READY_WITHIN:?}{}", self.name, self.log())
    }

    /// The text of `/metrics`.
    pub(crate) fn metrics(&self) -> Result<String> {
        let ops = self.ops.with_context(|| format!("{} has no operations listener", self.name))?;
        match http::get(ops, "/metrics")? {
            (200, text) => Ok(text),
            (status, _) => bail!("{}: /metrics answered {status}", self.name),
        }
    }

    /// CPU time used since the process began, where the system tells.
    pub(crate) fn cpu(&self) -> Option<Duration> {
        cpu_of(&fs::read_to_string(format!("/proc/{}/stat", self.process.child.id())).ok()?)
    }

    /// Memory that is resident now in MiB, where the system tells.
    pub(crate) fn resident_mib(&self) -> Option<f64> {
        resident_of(&fs::read_to_string(format!("/proc/{}/status", self.process.child.id())).ok()?)
    }

    /// The process and where its log is.
    pub(crate) fn process(&self) -> (u32, PathBuf) {
        (self.process.child.id(), self.process.folder.path().join(LOG))
    }

    fn log(&self) -> String {
        self.process.log_tail()
    }
}

impl Process {
    fn ports(&mut self, file: &Path) -> Result<Ports> {
        let until = Instant::now() + READY_WITHIN;
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended, {status}{}", self.log_tail());
            }
            let ports = fs::read(file).ok().and_then(|bytes| serde_json::from_slice::<Ports>(&bytes).ok());
            if let Some(ports) = ports
                && http::get(ports.http, "/readyz").is_ok_and(|(status, _)| status == 200)
            {
                return Ok(ports);
            }
            thread::sleep(Duration::from_millis(2));
        }
        bail!("not within {READY_WITHIN:?}{}", self.log_tail())
    }

    fn log_tail(&self) -> String {
        tail(&fs::read_to_string(self.folder.path().join(LOG)).unwrap_or_default(), 8)
    }
}

/// What a log ends with, for an error's text.
pub(crate) fn tail(log: &str, most: usize) -> String {
    let lines: Vec<_> = log.lines().collect();
    let tail = &lines[lines.len().saturating_sub(most)..];
    if tail.is_empty() { String::new() } else { format!("; its log ends:\n{}", tail.join("\n")) }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself, and then there is nothing to do.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// What `/proc/<id>/stat` says of a process.
#[derive(Clone, Copy)]
pub(crate) struct Stat {
    pub(crate) started: u64,
    pub(crate) parent: u32,
    /// User and system time.
    pub(crate) cpu: Duration,
    pub(crate) dead: bool,
}

/// Its fields (proc_pid_stat(5)); CPU time is counted in hundredths of a second.
pub(crate) fn stat_of(text: &str) -> Option<Stat> {
    // The second field is the name in brackets, which may hold spaces.
    let fields: Vec<_> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(Stat {
        dead: matches!(*fields.first()?, "Z" | "X"),
        parent: u32::try_from(number(4)?).ok()?,
        cpu: Duration::from_millis((number(14)? + number(15)?) * 10),
        started: number(22)?,
    })
}

fn cpu_of(stat: &str) -> Option<Duration> {
    Some(stat_of(stat)?.cpu)
}

/// The number of a line such as `VmRSS:     61440 kB` of the texts under `/proc/<id>`.
pub(crate) fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// In mebibytes.
fn resident_of(status: &str) -> Option<f64> {
    Some(kilobytes(status, "VmRSS:")? as f64 / 1024.0)
}

/// The values of a metric in the text of `/metrics`, each with its labels as they stand there.
pub(crate) fn samples<'a>(metrics: &'a str, name: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
    metrics.lines().filter_map(move |line| {
        let (labels, value) = line.strip_prefix(name)?.strip_prefix('{')?.rsplit_once("} ")?;
        Some((labels, value.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_user_and_system_time() {
        let stat = "17 (a (b) c) S 1 17 17 0 -1 4194560 500 0 0 0 120 30 0 0 20 0 3 0 1000 1 1";
        assert_eq!(cpu_of(stat), Some(Duration::from_millis(1500)));
        assert_eq!(cpu_of("nonsense"), None);
    }

    #[test]
    fn resident_memory_is_read_in_mebibytes() {
        assert_eq!(resident_of("Name:\tonnxd\nVmRSS:\t   61440 kB\nThreads:\t7\n"), Some(60.0));
        assert_eq!(resident_of("Name:\tonnxd\n"), None);
    }

    #[test]
    fn a_server_that_does_not_start_says_why() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo no model here >&2; exit 3"]);
        let error = Server::start("broken", command).err().expect("it ends at once");
        assert!(format!("{error:#}").contains("no model here"), "{error:#}");
    }
}
