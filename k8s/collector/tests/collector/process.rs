//! What the tests start: the collector, onnxd, Prometheus; and plain HTTP.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// How long any condition may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `condition` gives a value.
#[track_caller]
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(begin.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// The project's folder.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("k8s/collector lies in the project").into()
}

/// `GET path`: status and body; none while nobody answers.
pub fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: test\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split_whitespace().nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

/// The value of a metric, by its name with labels as it stands in the page.
pub fn value(page: &str, name: &str) -> Option<f64> {
    page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|one| one.local_addr()).expect("a port").port()
}

/// A program that ends with the test, and its log.
pub struct Program {
    child: Child,
    pub log: PathBuf,
}

impl Program {
    fn start(mut command: Command, log: PathBuf) -> Self {
        let file = File::options().create(true).append(true).open(&log).expect("a log");
        let (out, err) = (file.try_clone().expect("a log"), file);
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        Self { child: command.spawn().expect("it starts"), log }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until `condition` gives a value; tells the log where that does not come, or the program ends meanwhile.
    #[track_caller]
    fn until<T>(&mut self, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
        let begin = Instant::now();
        wait_for(what, || {
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("it ended with {status}, before {what}:\n{}", self.log());
            }
            assert!(begin.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}:\n{}", self.log());
            condition()
        })
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(&mut self) -> ExitStatus {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").arg(&pid).status().expect("kill").success());
        let child = &mut self.child;
        wait_for("the end", || child.try_wait().expect("a child"))
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A `collector` that runs, and its operations port.
pub struct Collector {
    pub program: Program,
    pub ops: SocketAddr,
}

impl Collector {
    /// Starts it with these arguments; it listens on any port.
    pub fn start(folder: &Path, args: &[&str]) -> Self {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let mut command = Command::new(env!("CARGO_BIN_EXE_collector"));
        command.args(args).args(["--ops", "127.0.0.1:0", "--log-format", "json"]);
        command.envs(S3_ENVIRONMENT);
        let mut program = Program::start(command, folder.join(format!("collector-{number}.log")));
        let log = program.log.clone();
        let ops = program.until("the operations port", || {
            let text = fs::read_to_string(&log).ok()?;
            let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            lines.into_iter().find_map(|line| line["ops"].as_str()?.parse().ok())
        });
        Self { program, ops }
    }

    pub fn page(&self) -> String {
        get(self.ops, "/metrics").map(|(_, page)| page).unwrap_or_default()
    }

    pub fn value(&self, name: &str) -> Option<f64> {
        value(&self.page(), name)
    }

    /// Waits until a metric is what is wanted.
    #[track_caller]
    pub fn until(&mut self, name: &str, wanted: impl Fn(f64) -> bool) -> f64 {
        let (ops, mut last) = (self.ops, None);
        let what = name;
        let log = self.program.log.clone();
        self.program.until(name, || {
            let now = value(&get(ops, "/metrics")?.1, what);
            if now != last {
                // Beside the log's lines: how it came to what it is.
                let mut file = File::options().append(true).open(&log).ok()?;
                let _ = writeln!(file, "{what} is {now:?}");
                last = now;
            }
            now.filter(|value| wanted(*value))
        })
    }

    /// Waits until a metric is not there.
    #[track_caller]
    pub fn until_gone(&mut self, name: &str) {
        let ops = self.ops;
        self.program.until(name, || value(&get(ops, "/metrics")?.1, name).is_none().then_some(()));
    }

    /// Waits for this many more ticks with an outcome.
    #[track_caller]
    pub fn ticks(&mut self, outcome: &str, more: f64) {
        let name = format!("collector_ticks_total{{outcome=\"{outcome}\"}}");
        let now = self.value(&name).unwrap_or(0.0);
        self.until(&name, |value| value >= now + more);
    }

    /// The log's lines of a part that have this text.
    pub fn said(&self, part: &str, text: &str) -> usize {
        let log = self.program.log();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|line| line["part"] == part && line.to_string().contains(text)).count()
    }
}

/// Runs the collector to its end: exit code, output, errors.
pub fn collector(args: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_collector"));
    let output = command.args(args).envs(S3_ENVIRONMENT).stdin(Stdio::null()).output().expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

pub const S3_ENVIRONMENT: [(&str, &str); 4] = [
    ("AWS_ACCESS_KEY_ID", "test"),
    ("AWS_SECRET_ACCESS_KEY", "test"),
    ("AWS_REGION", "us-east-1"),
    ("AWS_EC2_METADATA_DISABLED", "true"),
];

/// A real `onnxd` that serves the project's models.
pub struct Onnxd {
    pub program: Program,
    pub port: u16,
    pub ops: SocketAddr,
    folder: PathBuf,
    args: Vec<String>,
}

impl Onnxd {
    /// Starts it; none, and a line that says why, where it is not built.
    pub fn start(folder: &Path, args: &[&str]) -> Option<Self> {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        Self::start_at(folder, free_port(), args)
    }

    fn start_at(folder: &Path, port: u16, args: Vec<String>) -> Option<Self> {
        #[expect(clippy::disallowed_methods, reason = "the one setting of these tests")]
        let named = std::env::var("ONNXD_BINARY").ok().map(PathBuf::from);
        let binary = named.unwrap_or_else(|| root().join("target/debug/onnxd"));
        if !binary.is_file() {
            eprintln!("skipped: no {}: build onnxd, or name it by ONNXD_BINARY", binary.display());
            return None;
        }
        let ports = folder.join("ports.json");
        let _ = fs::remove_file(&ports);
        let mut command = Command::new(binary);
        command.arg("serve").arg(root().join("models")).args(&args).current_dir(folder);
        command.args(["--http", &format!("127.0.0.1:{port}"), "--grpc", "off", "--ops", "127.0.0.1:0"]);
        command.args(["--drain-delay", "0s", "--ports-file"]).arg(&ports).arg("--state").arg(folder.join("state"));
        let library = root().join(".venv/lib");
        if let Some(library) = find(&library, "libonnxruntime.so.") {
            command.env("ORT_DYLIB_PATH", library);
        }
        let mut program = Program::start(command, folder.join("onnxd.log"));
        let ops: SocketAddr = program.until("onnxd", || {
            let bound: Value = serde_json::from_str(&fs::read_to_string(&ports).ok()?).ok()?;
            let ops = bound["ops"].as_str()?.parse().ok()?;
            // The challenger is there too, so that it sees all rows.
            let status: Value = serde_json::from_str(&get(ops, "/status")?.1).ok()?;
            let models = status["models"].as_array()?;
            let tried = models.iter().all(|model| model["trying"] == Value::Array(vec![]));
            (get(ops, "/readyz")?.0 == 200 && tried).then_some(ops)
        });
        Some(Self { program, port, ops, folder: folder.into(), args })
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn metric(&self, name: &str) -> f64 {
        get(self.ops, "/metrics").and_then(|(_, page)| value(&page, name)).unwrap_or(0.0)
    }

    /// Starts it anew at the same port.
    pub fn restart(&mut self) {
        self.program.kill();
        *self = Self::start_at(&self.folder.clone(), self.port, self.args.clone()).expect("it was there before");
    }
}

/// A file below a folder whose name begins so.
fn find(folder: &Path, begin: &str) -> Option<PathBuf> {
    for entry in fs::read_dir(folder).ok()?.flatten() {
        let path = entry.path();
        if path.is_dir() {
            if let Some(found) = find(&path, begin) {
                return Some(found);
            }
        } else if entry.file_name().to_string_lossy().starts_with(begin) {
            return Some(path);
        }
    }
    None
}

/// A real Prometheus.
pub struct Prometheus {
    program: Program,
    pub port: u16,
    folder: PathBuf,
}

impl Prometheus {
    /// Starts it with a history (OpenMetrics), scraping these ports every second; none, and a line that says why, where it is not
    /// installed.
    pub fn start(folder: &Path, history: &str, scraped: &[u16]) -> Option<Self> {
        for program in ["prometheus", "promtool"] {
            if Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
                eprintln!("skipped: no {program} in PATH (Debian: apt-get install prometheus)");
                return None;
            }
        }
        fs::write(folder.join("history"), history).expect("a file");
        let mut promtool = Command::new("promtool");
        promtool.args(["tsdb", "create-blocks-from", "openmetrics"]).arg(folder.join("history"));
        let made = promtool.arg(folder.join("data")).output().expect("promtool");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let one = Self { port: free_port(), ..Self::scraping(folder, scraped) };
        Some(one.started())
    }

    fn scraping(folder: &Path, scraped: &[u16]) -> Self {
        let targets: Vec<String> = scraped.iter().map(|port| format!("\"127.0.0.1:{port}\"")).collect();
        let config = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nscrape_configs: [{{job_name: all, file_sd_configs: [{{files: ['{}'], refresh_interval: 1s}}]}}]\n",
            folder.join("targets.json").display()
        );
        fs::write(folder.join("prometheus.yml"), config).expect("a file");
        fs::write(folder.join("targets.json"), format!("[{{\"targets\": [{}]}}]", targets.join(","))).expect("a file");
        let idle = Program::start(Command::new("true"), folder.join("prometheus.log"));
        Self { program: idle, port: 0, folder: folder.into() }
    }

    fn started(mut self) -> Self {
        self.restart();
        self
    }

    /// Scrapes this port too.
    pub fn scrape(&self, port: u16) {
        let path = self.folder.join("targets.json");
        let text = fs::read_to_string(&path).expect("a file").replace("]}]", &format!(",\"127.0.0.1:{port}\"]}}]"));
        let next = self.folder.join("targets.next");
        fs::write(&next, text).expect("a file");
        fs::rename(next, path).expect("a file");
    }

    pub fn kill(&mut self) {
        self.program.kill();
    }

    /// Starts it anew with its data, at the same port.
    pub fn restart(&mut self) {
        self.program.kill();
        let mut command = Command::new("prometheus");
        command.arg(format!("--config.file={}", self.folder.join("prometheus.yml").display()));
        command.arg(format!("--storage.tsdb.path={}", self.folder.join("data").display()));
        command.args([
            "--storage.tsdb.retention.time=1y".to_owned(),
            format!("--web.listen-address=127.0.0.1:{}", self.port),
        ]);
        let port = self.port;
        self.program = Program::start(command, self.folder.join("prometheus.log"));
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        self.program.until("Prometheus", || (get(address, "/-/ready")?.0 == 200).then_some(()));
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

/// Python of the project's environment, with the training's packages; none, and a line that says why, where it is not there.
pub fn python(script: &str, args: &[&str]) -> Option<String> {
    let python = root().join(".venv/bin/python");
    if !python.is_file() {
        eprintln!("skipped: no .venv: `make test` makes it");
        return None;
    }
    let mut command = Command::new(python);
    command.arg("-c").arg(script).args(args).env("PYTHONPATH", root().join("training/src")).envs(S3_ENVIRONMENT);
    let output = command.output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).expect("text"))
}

/// An S3 server (moto); it ends with its input.
pub struct S3 {
    _child: Child,
    pub url: String,
}

impl S3 {
    pub fn start() -> Option<Self> {
        let python = root().join(".venv/bin/python");
        if !python.is_file() {
            eprintln!("skipped: no .venv: `make test` makes it");
            return None;
        }
        let mut command = Command::new(python);
        command.arg(root().join("server/tests/s3_server.py"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("moto starts");
        let mut port = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().expect("output")), &mut port)
            .expect("a port");
        Some(Self { _child: child, url: format!("http://127.0.0.1:{}", port.trim()) })
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = self._child.kill();
        let _ = self._child.wait();
    }
}

/// A temporary folder.
pub fn folder() -> TempDir {
    TempDir::new().expect("a temporary folder")
}
