//! What the tests share: a real server on free ports, repositories made of the fixtures, a plain HTTP client.

#![allow(
    clippy::print_stderr,
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "shared by the test files, each of which uses its own part"
)]

pub mod grpc;
pub mod http;
pub mod peer;
pub mod proxy;
pub mod repo;
pub mod s3;
pub mod s3repo;
mod wire;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use http::Reply;

/// How long any condition may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `condition` gives a value.
#[track_caller]
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(begin.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// The project's folder.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("server/ lies in the project").into()
}

/// Runs the program; gives exit code, output and errors.
pub fn onnxd(args: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_onnxd")).args(args).current_dir(root()).output().expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (output.status.code().expect("a code"), text(output.stdout), text(output.stderr))
}

/// A running `onnxd serve`.
pub struct Server {
    child: Child,
    folder: TempDir,
    pub http: SocketAddr,
    pub grpc: SocketAddr,
    pub ops: SocketAddr,
}

impl Server {
    /// Starts a server and waits until it is ready.
    pub fn start(repository: &Path, args: &[&str]) -> Self {
        let server = Self::launch(repository, args);
        wait_for("readiness", || (server.ops("/readyz").status == 200).then_some(()));
        server.wait_for_trials();
        server
    }

    /// Waits until no version is being tried out.
    pub fn wait_for_trials(&self) {
        wait_for("the trials", || {
            let status = self.ops("/status").json();
            let mut models = status["models"].as_array().expect("a list").iter();
            models.all(|model| model["trying"] == Value::Array(vec![])).then_some(())
        });
    }

    /// Starts a server and waits until it listens.
    pub fn launch(repository: &Path, args: &[&str]) -> Self {
        Self::launch_with(repository, args, &s3::ENVIRONMENT)
    }

    /// Starts a server in user and mount namespaces of its own, after this shell script has changed them.
    pub fn launch_after(script: &str, repository: &Path, args: &[&str]) -> Self {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-ec", &format!("{script}; exec \"$@\""), "sh"]);
        command.arg(env!("CARGO_BIN_EXE_onnxd"));
        Self::spawn(command, Some(repository), args, &s3::ENVIRONMENT)
    }

    /// Starts a server with these variables in its environment and waits until it listens.
    pub fn launch_with(repository: &Path, args: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::spawn(Command::new(env!("CARGO_BIN_EXE_onnxd")), Some(repository), args, environment)
    }

    /// The same, where the environment alone says what to serve.
    pub fn launch_by(environment: &[(&str, &str)]) -> Self {
        Self::spawn(Command::new(env!("CARGO_BIN_EXE_onnxd")), None, &[], environment)
    }

    /// Starts this copy of the program, which has to find ONNX Runtime by itself, and waits until it is ready.
    pub fn start_copy(program: &Path, repository: &Path) -> Self {
        let mut command = Command::new(program);
        command.env_remove("ORT_DYLIB_PATH").env_remove("LD_LIBRARY_PATH");
        let server = Self::spawn(command, Some(repository), &[], &s3::ENVIRONMENT);
        wait_for("readiness", || (server.ops("/readyz").status == 200).then_some(()));
        server
    }

    fn spawn(mut command: Command, repository: Option<&Path>, args: &[&str], environment: &[(&str, &str)]) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let ports = folder.path().join("ports.json");
        let log = fs::File::create(folder.path().join("log")).expect("a log file");
        let mut child = command
            .arg("serve")
            .args(repository)
            .args(args)
            // In the environment, so that a test's flags win.
            .env("ONNXD_HTTP", "127.0.0.1:0")
            .env("ONNXD_GRPC", "127.0.0.1:0")
            .env("ONNXD_OPS", "127.0.0.1:0")
            .env("ONNXD_PORTS_FILE", &ports)
            .env("ONNXD_DRAIN_DELAY", "0s")
            .env("ONNXD_POLL_INTERVAL", "1s")
            .env("ONNXD_LOG_FORMAT", "json")
            // Whoever runs the tests may have credentials of their own.
            .env_remove("AWS_ACCESS_KEY_ID")
            .env_remove("AWS_SECRET_ACCESS_KEY")
            .env_remove("AWS_SESSION_TOKEN")
            .env_remove("AWS_PROFILE")
            .envs(environment.iter().copied())
            .current_dir(root())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the server starts");
        let bound = wait_for("the ports file", || {
            if let Ok(Some(status)) = child.try_wait() {
                let log = fs::read_to_string(folder.path().join("log")).unwrap_or_default();
                panic!("the server ended with {status}:\n{log}");
            }
            serde_json::from_str::<Value>(&fs::read_to_string(&ports).ok()?).ok()
        });
        let address = |key: &str| bound[key].as_str().expect("an address").parse().expect("an address");
        Self { http: address("http"), grpc: address("grpc"), ops: address("ops"), child, folder }
    }

    /// `POST path` on the data port.
    pub fn post(&self, path: &str, body: &str) -> Reply {
        http::request(self.http, "POST", path, &[("content-type", "application/json")], body.as_bytes())
    }

    /// `POST /predict`, which must succeed.
    #[track_caller]
    pub fn predict(&self, body: &Value) -> Value {
        let reply = self.post("/predict", &body.to_string());
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()
    }

    /// `GET path` on the operations port.
    pub fn ops(&self, path: &str) -> Reply {
        http::request(self.ops, "GET", path, &[], b"")
    }

    /// The `/status` of one model.
    pub fn model_status(&self, name: &str) -> Value {
        let status = self.ops("/status").json();
        let models = status["models"].as_array().expect("a list");
        models.iter().find(|m| m["name"] == name).cloned().unwrap_or_default()
    }

    /// The statistics of `/models/anomaly/shadow`.
    pub fn shadow(&self) -> Value {
        self.ops("/models/anomaly/shadow").json()["challengers"][0]["statistics"].clone()
    }

    /// The value of one series, by its exact text up to the value.
    pub fn metric(&self, series: &str) -> Option<f64> {
        let page = self.ops("/metrics").text();
        page.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
    }

    /// Everything logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).expect("the log")
    }

    /// The ONNX Runtime that it loaded, from the log.
    #[track_caller]
    pub fn library(&self) -> PathBuf {
        let library = self.log().lines().find_map(|line| {
            let line: Value = serde_json::from_str(line).ok()?;
            line["library"].as_str().map(PathBuf::from)
        });
        library.expect("the library in the log")
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by name.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.pid().to_string()]).status().expect("kill runs");
        assert!(status.success());
    }

    /// Stops it in good order, its cache written.
    pub fn stop(mut self) {
        self.signal("TERM");
        assert!(self.wait().success(), "{}", self.log());
    }

    /// Waits for the end.
    pub fn wait(&mut self) -> ExitStatus {
        wait_for("the server to end", || self.child.try_wait().expect("a child"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of the server\n{}", self.log());
        }
    }
}

/// Resident memory of a process in bytes.
pub fn resident(pid: u32) -> u64 {
    memory(pid, "VmRSS:")
}

/// A size in bytes that the system tells of a process.
pub fn memory(pid: u32, what: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find_map(|l| l.strip_prefix(what)).expect("a line");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}
