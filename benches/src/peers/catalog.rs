//! The servers: how each is started and asked. Why each is set so is in `benches/peers/README.md`.

use std::{
    ffi::OsStr,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use super::{model::Model, protocol::Protocol};

/// A server with its settings.
pub(super) struct Peer {
    /// Told apart by it in the report; more than one may have the same environment.
    pub(super) name: &'static str,
    /// The folder of its program in `benches/peers` and of its packages in `.venv-peers`.
    pub(super) environment: &'static str,
    /// Packages whose versions the report gives.
    pub(super) packages: &'static [&'static str],
    pub(super) protocol: Protocol,
    pub(super) path: &'static str,
    /// Processes or replicas that serve: what answered most of 0 or 1 and 2 (`--workers` takes another number).
    pub(super) workers: u32,
    /// How it is started, after `prepare.py` if its program has one.
    command: fn(&Start<'_>) -> Command,
}

/// What a command is made from.
struct Start<'a> {
    peer: &'a Peer,
    programs: &'a Path,
    bin: &'a Path,
    port: u16,
    workers: u32,
}

pub(super) const PEERS: [Peer; 8] = [
    Peer {
        name: "fastapi-1",
        environment: "fastapi",
        packages: &["fastapi", "uvicorn", "uvloop", "onnxruntime"],
        protocol: Protocol::Named,
        path: "/predict",
        workers: 1,
        command: fastapi,
    },
    Peer {
        name: "fastapi-2",
        environment: "fastapi",
        packages: &["fastapi", "uvicorn", "uvloop", "onnxruntime"],
        protocol: Protocol::Named,
        path: "/predict",
        workers: 2,
        command: fastapi,
    },
    Peer {
        name: "kserve",
        environment: "kserve",
        packages: &["kserve", "uvicorn", "uvloop", "onnxruntime"],
        protocol: Protocol::KserveV1,
        path: "/v1/models/model:predict",
        workers: 2,
        command: kserve,
    },
    Peer {
        name: "mlserver",
        environment: "mlserver",
        packages: &["mlserver", "uvicorn", "uvloop", "onnxruntime"],
        protocol: Protocol::OpenInference,
        path: "/v2/models/model/infer",
        workers: 0,
        command: mlserver,
    },
    Peer {
        name: "litserve",
        environment: "litserve",
        packages: &["litserve", "uvicorn", "uvloop", "onnxruntime"],
        protocol: Protocol::Named,
        path: "/predict",
        workers: 1,
        command: own_program,
    },
    Peer {
        name: "bentoml",
        environment: "bentoml",
        packages: &["bentoml", "uvicorn", "uvloop", "onnxruntime"],
        protocol: Protocol::Rows,
        path: "/predict",
        workers: 2,
        command: bentoml,
    },
    Peer {
        name: "mlflow",
        environment: "mlflow",
        packages: &["mlflow", "uvicorn", "uvloop", "onnxruntime"],
        protocol: Protocol::Mlflow,
        path: "/invocations",
        workers: 2,
        command: mlflow,
    },
    Peer {
        name: "rayserve",
        environment: "rayserve",
        packages: &["ray", "uvicorn", "uvloop", "onnxruntime"],
        protocol: Protocol::Named,
        path: "/predict",
        workers: 1,
        command: own_program,
    },
];

/// Where the programs and their packages are.
pub(super) struct Places {
    pub(super) programs: PathBuf,
    pub(super) environments: PathBuf,
    /// Of all servers, instead of each one's own number.
    pub(super) workers: Option<u32>,
}

impl Places {
    /// Both as absolute paths, since servers run elsewhere.
    pub(super) fn new(programs: &Path, environments: &Path, workers: Option<u32>) -> Result<Self> {
        let absolute = |path: &Path| {
            fs::canonicalize(path).with_context(|| format!("no {}: `make peers` makes it", path.display()))
        };
        Ok(Self { programs: absolute(programs)?, environments: absolute(environments)?, workers })
    }

    pub(super) fn environment(&self, peer: &Peer) -> PathBuf {
        self.environments.join(peer.environment)
    }

    /// The versions that the lock file pins, of the packages that make the server what it is.
    pub(super) fn versions(&self, peer: &Peer) -> Result<Vec<String>> {
        let file = self.programs.join(peer.environment).join("requirements.lock");
        let lock = fs::read_to_string(&file).with_context(|| format!("no {}", file.display()))?;
        let pinned = |package: &&str| {
            let version = lock.lines().find_map(|line| line.strip_prefix(*package)?.strip_prefix("=="))?;
            Some(format!("{package} {}", version.split_whitespace().next()?))
        };
        Ok(peer.packages.iter().filter_map(pinned).collect())
    }

    /// Runs what must be done once before a server can start; returns the command that starts it.
    pub(super) fn ready(&self, peer: &Peer, model: &Model, port: u16, folder: &Path) -> Result<Command> {
        let bin = self.environment(peer).join("bin");
        let workers = self.workers.unwrap_or(peer.workers);
        let dressed = |mut command: Command| {
            let mine = self.programs.join(peer.environment);
            let path = std::env::join_paths([self.programs.join("shared"), mine])?;
            command.env("PYTHONPATH", path).env("MODEL_FILE", model.file()).env("PORT", port.to_string());
            command.env("WORKERS", workers.to_string()).env("PATH", with_first(&bin)?);
            Ok::<_, anyhow::Error>(command)
        };
        let prepare = self.programs.join(peer.environment).join("prepare.py");
        if prepare.exists() {
            let mut command = Command::new(bin.join("python"));
            command.arg(prepare);
            let output = dressed(command)?.current_dir(folder).output().context("cannot start Python")?;
            ensure!(output.status.success(), "prepare.py: {}", String::from_utf8_lossy(&output.stderr));
        }
        dressed((peer.command)(&Start { peer, programs: &self.programs, bin: &bin, port, workers }))
    }
}

/// A port that is free now.
pub(super) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0)).context("no port is free")?.local_addr()?.port())
}

fn with_first(bin: &Path) -> Result<std::ffi::OsString> {
    let old = std::env::var_os("PATH").unwrap_or_default();
    Ok(std::env::join_paths(std::iter::once(bin.to_owned()).chain(std::env::split_paths(&old)))?)
}

fn command(program: &Path, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

/// A program that takes its port from the environment.
fn own_program(start: &Start<'_>) -> Command {
    let mut command =
        command(&start.bin.join("python"), [start.programs.join(start.peer.environment).join("serve.py")]);
    command.env("RAY_SERVE_THROUGHPUT_OPTIMIZED", "1").env("RAY_USAGE_STATS_ENABLED", "0");
    command
}

fn fastapi(start: &Start<'_>) -> Command {
    let (port, workers) = (start.port.to_string(), start.workers.to_string());
    let arguments = ["serve:app", "--host", "127.0.0.1", "--port", &port, "--workers", &workers];
    let fast = ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"];
    command(&start.bin.join("uvicorn"), arguments.into_iter().chain(fast))
}

/// By default it logs three lines for each request, which cost it about half of its throughput.
fn kserve(start: &Start<'_>) -> Command {
    let (port, workers) = (start.port.to_string(), start.workers.to_string());
    let program = start.programs.join("kserve");
    let mut command = command(&start.bin.join("python"), [program.join("serve.py")]);
    command.args(["--http_port", &port, "--workers", &workers, "--enable_grpc", "false", "--event-loop", "uvloop"]);
    command.args(["--enable_latency_logging", "false"]).arg("--log_config_file").arg(program.join("logging.json"));
    command
}

/// It listens on three ports; the free ones are looked for when it starts.
fn mlserver(start: &Start<'_>) -> Command {
    let mut command = command(&start.bin.join("mlserver"), [OsStr::new("start")]);
    command.arg(start.programs.join("mlserver")).env("MLSERVER_HTTP_PORT", start.port.to_string());
    // None: inference is done where the requests are.
    command.env("MLSERVER_PARALLEL_WORKERS", start.workers.to_string());
    for variable in ["MLSERVER_GRPC_PORT", "MLSERVER_METRICS_PORT"] {
        // Without a free port there is none to give, and the server says so.
        command.env(variable, free_port().unwrap_or_default().to_string());
    }
    command
}

fn bentoml(start: &Start<'_>) -> Command {
    let port = start.port.to_string();
    let arguments = ["serve", "serve:Predictor", "--host", "127.0.0.1", "--port", &port, "--working-dir"];
    let mut command = command(&start.bin.join("bentoml"), arguments);
    command.arg(start.programs.join("bentoml")).env("BENTOML_DO_NOT_TRACK", "True").env("BENTOML_HOME", ".");
    command
}

fn mlflow(start: &Start<'_>) -> Command {
    let (port, workers) = (start.port.to_string(), start.workers.to_string());
    let what = ["models", "serve", "--model-uri", "model", "--env-manager", "local"];
    let arguments = ["--host", "127.0.0.1", "--port", &port, "--workers", &workers];
    let mut command = command(&start.bin.join("mlflow"), what.into_iter().chain(arguments));
    // It starts uvicorn without a word about its access log, which uvicorn also reads from here.
    command.env("UVICORN_ACCESS_LOG", "false").env("MLFLOW_DISABLE_TELEMETRY", "true");
    command
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_server_has_a_program_and_pinned_versions() {
        let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers");
        let places = Places {
            programs: fs::canonicalize(&programs).expect("it is there"),
            environments: programs,
            workers: None,
        };
        for peer in &PEERS {
            let versions = places.versions(peer).expect("a lock file");
            assert_eq!(versions.len(), peer.packages.len(), "{}: {versions:?}", peer.name);
            assert!(versions.contains(&"onnxruntime 1.32.0".to_owned()), "{}: {versions:?}", peer.name);
        }
        assert_eq!(PEERS.iter().map(|peer| peer.name).collect::<HashSet<_>>().len(), PEERS.len());
    }
}
