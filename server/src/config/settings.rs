//! Every setting, declared once: `--help`, the environment, `onnxd.toml`, `--print-config` and `docs/configuration.md` are
//! all made from this table.

/// One setting.
#[derive(Debug)]
pub struct Setting {
    /// The flag without dashes; in `onnxd.toml` the same; in the environment `ONNXD_` and upper case with `_`.
    pub name: &'static str,
    /// What stands for the value in `--help`.
    pub value: &'static str,
    /// The value when nobody sets one; empty when there is none.
    pub default: &'static str,
    /// What it does and why one would change it.
    pub help: &'static str,
}

impl Setting {
    /// The environment variable.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("ONNXD_{}", self.name.to_ascii_uppercase().replace('-', "_"))
    }

    /// Whether it is a switch: given without a value.
    #[must_use]
    pub fn is_switch(&self) -> bool {
        self.default == "false"
    }
}

/// A group of settings under a heading.
#[derive(Debug)]
pub struct Group {
    /// The heading.
    pub title: &'static str,
    /// Its settings.
    pub settings: &'static [Setting],
}

macro_rules! settings {
    ($($title:literal { $($name:literal $value:literal = $default:literal, $help:literal;)+ })+) => {
        /// All settings.
        pub const GROUPS: &[Group] = &[$(Group {
            title: $title,
            settings: &[$(Setting { name: $name, value: $value, default: $default, help: $help }),+],
        }),+];
    };
}

settings! {
    "Models" {
        "repository" "PATH" = "models", "The model repository: a folder or s3://bucket/prefix with <model>/aliases.json or <model>/<version>/model.onnx, or one .onnx file.";
        "models" "NAMES" = "", "Only these models of the repository, with commas between. Of a bucket, names that are given need not be listed.";
        "default-model" "NAME" = "", "The model that answers /predict. Not needed when the repository holds one model.";
        "poll-interval" "DURATION" = "5s", "How often the repository is read when the system tells of no change (buckets and network file systems never tell).";
        "guard-period" "DURATION" = "10m", "How long a new champion is watched after a promotion: when it fails, or is slow, not finite or alerting far beyond the one before, it is rolled back. Failures are watched as long as --compare-previous. 0s: not at all.";
        "compare-previous" "DURATION" = "24h", "How long the champion before is compared with the new one in the shadow after a promotion, so that evidence may bring it back, or failures do.";
        "memory-limit" "SIZE" = "auto", "The memory that the process may use. Beyond three quarters of it, the champion before is not kept in memory, and a rollback loads it. auto: what the cgroup allows.";
        "require-signature" "FILE" = "", "Public keys (Ed25519, PEM): only versions load whose manifest.json.sig was made by one of them.";
        "model-limit" "SIZE" = "2GiB", "The files of one version together; they are held in memory while it is tried out and loaded.";
        "allow-signature-change" "BOOL" = "false", "Lets a champion replace one that takes or gives other things. Clients of the old one may get errors.";
        "onnxruntime" "FILE" = "", "The ONNX Runtime library, 1.31 or newer. Otherwise looked for in ORT_DYLIB_PATH, beside the executable, in the Python environment that it is installed in, in .venv, in the system's library path.";
        "providers" "LIST" = "cpu", "What ONNX Runtime runs models with, the preferred first, with commas between: cpu, cuda, tensorrt, openvino, migraphx, coreml. The library must have them. What does not start is told in the log, and the next one serves; cpu is the last resort, whether named or not.";
    }
    "S3" {
        "s3-endpoint" "URL" = "", "Another S3 server than Amazon's, such as http://localhost:9000; buckets are then named in the path. Credentials and region come from where AWS tools look for them: environment, ~/.aws, the pod's or the instance's role.";
        "cache" "FOLDER" = "auto", "Where what an S3 repository gave is kept, so that a start without it serves. auto: $XDG_CACHE_HOME/onnxd or ~/.cache/onnxd; off: nowhere.";
        "cache-size" "SIZE" = "10GiB", "What the cache may hold; what was not used for longest goes first, what serves never.";
    }
    "Listeners" {
        "http" "ADDRESS" = "127.0.0.1:8080", "Where requests are taken. Port 0 takes any free one; containers need 0.0.0.0:8080.";
        "grpc" "ADDRESS" = "127.0.0.1:8081", "Where gRPC requests are taken (Open Inference Protocol, health, reflection). 'off' closes it.";
        "ops" "ADDRESS" = "127.0.0.1:8082", "Where health, metrics and status are told. 'off' closes it.";
        "tls-cert" "FILE" = "", "The certificate of --http and --grpc, with those between it and its authority, in PEM: both then take TLS alone (1.2 or 1.3). Read again when it is another one.";
        "tls-key" "FILE" = "", "The private key of --tls-cert, in PEM; read again too.";
        "tls-client-ca" "FILE" = "", "Certificates of authorities, in PEM: --http and --grpc then serve only clients with a certificate that one of them signed. Read again too.";
        "admin-token-file" "FILE" = "", "Bearer tokens for POST /models/{model}/promote, /rollback and /reload on the operations port, and for load and unload: a token alone, or lines of NAME TOKEN [ACTIONS [MODELS]], where TOKEN may be sha256:HASH. Read at each call. Without it they are refused.";
        "allowed-hosts" "NAMES" = "", "Names by which the operations port may be asked, beside addresses, localhost and names of the cluster; and, on every port, hosts whose pages may send what changes anything. With commas between.";
        "predict-route" "PATH" = "", "One more path for predictions, which takes and gives what Vertex AI does. Vertex AI names it in AIP_PREDICT_ROUTE.";
        "health-route" "PATH" = "", "One more path for readiness. Vertex AI names it in AIP_HEALTH_ROUTE.";
        "ports-file" "FILE" = "", "Writes the bound addresses to this file, as JSON, once they can be connected to.";
        "max-connections" "COUNT" = "4096", "Connections served at a time by each of --http and --grpc; more wait in the system's backlog.";
        "body-limit" "SIZE" = "16MiB", "The largest body of a request; for NDJSON, the longest line; for gRPC, the largest message.";
        "bodies-limit" "SIZE" = "256MiB", "All bodies, and lines of NDJSON, that are being received or decoded, together; beyond, requests get 503 at once.";
        "max-rows" "COUNT" = "65536", "The most rows of one request.";
        "request-timeout" "DURATION" = "10s", "How long a request may take: receiving it, waiting for a run, and the run. Also how long a client may leave its answers unread, all that its connection waits for.";
    }
    "Threads and queue" {
        "http-threads" "COUNT" = "auto", "Threads that serve requests and run cheap models themselves. auto: half of the CPUs that the process may use.";
        "workers" "COUNT" = "auto", "Threads that run the other models, and sessions of each model. auto: the CPUs that the process may use.";
        "queue-rows" "COUNT" = "4096", "Rows of a model that may wait for a run; beyond, requests get 503 at once.";
        "batch-delay" "DURATION" = "0s", "How long the oldest job may wait for others to share its run. Even at 0, jobs that wait anyway share one.";
    }
    "Shadow" {
        "shadow-sample" "SHARE" = "1.0", "Share of the champion's batches that challengers score too, 0 to 1.";
        "shadow-cpu" "SHARE" = "0.25", "Share of one CPU that all challengers together may take, above 0 to 1; what one cannot keep up with is dropped and counted.";
        "shadow-queue-rows" "COUNT" = "8192", "Rows that may wait for each challenger.";
        "state" "FOLDER" = "auto", "Where the evidence for challengers is kept over restarts, for this server alone. auto: $XDG_STATE_HOME/onnxd/ADDRESS or ~/.local/state/onnxd/ADDRESS, by the address of --http, unless its port is 0; off: nowhere.";
        "event-time" "BOOL" = "false", "Takes the times (ts) of rows as the time of the evidence, however long ago they are: for recorded rows. Without it, a ts that is not of about now is refused.";
    }
    "Verdict" {
        "verdict" "MODE" = "manual", "What servers do when the evidence decides: manual tells it (/models/{model}/verdict, onnxd verdict, metrics); auto promotes, rejects, or brings the champion before back, by one conditional write with the evidence in the ledger.";
        "verdict-rule" "RULE" = "better", "What a challenger must be: better than the champion; or equivalent, for the same model quantised or on another runtime.";
        "verdict-alpha" "SHARE" = "0.01", "Probability of ever promoting a challenger that is no better, however often one looks; challengers share it.";
        "verdict-least-time" "DURATION" = "24h", "Time before which nobody is promoted: a daily cycle.";
        "verdict-most-time" "DURATION" = "14d", "Time after which a challenger that was not promoted is rejected, at most 14d.";
        "verdict-least-rows" "COUNT" = "1000", "Rows that both must have answered before anybody is promoted.";
        "verdict-least-series" "COUNT" = "3", "Series that rows must have named before anybody is promoted; 1 where there is one thing to measure, 0 where rows name none.";
        "verdict-interval" "DURATION" = "30s", "How often a server judges.";
        "peers" "LIST" = "", "Operations ports of the other servers of the same models, HOST:PORT with commas between; a name stands for all of its addresses, and may stand for this server too. What all of them saw is added up before anything is decided.";
    }
    "Recording" {
        "record" "FILE" = "", "Records requests as NDJSON in this file, for onnxd replay: features, time, and a hash in the place of the series' name. Each model's file has its name before the extension (requests.anomaly.ndjson); at 64 MiB a file becomes FILE.1, in the place of the one before.";
        "record-sample" "SHARE" = "0.01", "Share of the rows that are recorded, 0 to 1. A series is recorded for whole hours, so that its forecasts can be judged.";
    }
    "Trying out new models" {
        "probe-timeout" "DURATION" = "30s", "How long the child process that first loads a model may take.";
        "probe-memory" "SIZE" = "auto", "Address space of that process; with other --providers than cpu, the memory that it may write to. auto: most of what --memory-limit leaves beside what this process uses, 4 GiB at most.";
    }
    "Stopping" {
        "drain-delay" "DURATION" = "5s", "After SIGTERM, how long requests are still taken while /readyz says no, so that load balancers notice. Ctrl-C skips it.";
        "grace-period" "DURATION" = "25s", "After SIGTERM, how long all of stopping may take; Kubernetes kills after 30 s.";
    }
    "Log" {
        "log" "FILTER" = "info", "What is logged: error, warn, info, debug, trace, or a filter such as onnxd=debug.";
        "log-format" "FORMAT" = "auto", "pretty, json, or auto: pretty on a terminal.";
    }
}

/// All settings, in order.
pub fn all() -> impl Iterator<Item = &'static Setting> {
    GROUPS.iter().flat_map(|group| group.settings)
}

/// `docs/configuration.md`.
#[must_use]
pub fn markdown() -> String {
    let mut text = String::from(
        "# Configuration\n\n\
         Generated from `server/src/config/settings.rs` by the test `documents`; do not edit.\n\n\
         A flag wins over the environment, the environment over `onnxd.toml` (or `--config FILE`), that over the default.\n\
         `onnxd serve --print-config` shows what results and where each value comes from. Durations are written like `500ms`,\n\
         `10s`, `2m`; sizes like `64KiB`, `16MiB`; shares from 0 to 1.\n\n\
         What SageMaker and Vertex AI set counts where nobody set anything else: the port of `SAGEMAKER_BIND_TO_PORT` or\n\
         `AIP_HTTP_PORT` (on 0.0.0.0), the paths of `AIP_PREDICT_ROUTE` and `AIP_HEALTH_ROUTE`, and, where another variable of\n\
         SageMaker is set, port 8080 and the models in `/opt/ml/model`.\n",
    );
    for group in GROUPS {
        text += &format!(
            "\n## {}\n\n| flag and key | environment | default | what it does |\n|---|---|---|---|\n",
            group.title
        );
        for s in group.settings {
            let default = if s.default.is_empty() { "none".to_owned() } else { format!("`{}`", s.default) };
            let value = if s.is_switch() { String::new() } else { format!(" {}", s.value) };
            let help = s.help.replace('<', "\\<");
            text += &format!("| `--{}{value}` | `{}` | {default} | {help} |\n", s.name, s.variable());
        }
    }
    text
}
