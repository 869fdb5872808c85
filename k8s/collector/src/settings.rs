//! Flags and environment: what the user said, and what follows from it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use reqwest::Url;

use crate::baseline::Parameters;
use crate::endpoint::Endpoint;
use crate::fleet::Fleet;
use crate::labels::Labels;
use crate::rows::Rows;
use crate::server::Server;
use crate::shown::Shown;
use crate::store::Store;
use crate::tick::Collector;

/// The program's arguments.
#[derive(Debug, Parser)]
#[command(
    name = "collector",
    version,
    about = "Reads CPU, memory and disk I/O of pods and nodes from Prometheus, says how unusual each is, asks onnxd, and shows what is anomalous",
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Asks Prometheus every minute, for ever
    ///
    /// At the start the last hours are read, so that nothing is kept on disk and nothing warms up. Each flag may be an environment
    /// variable instead.
    #[command(
        after_help = "Example:\n  collector run --prometheus http://prometheus:9090 --server http://anomaly-api --rows s3://metrics/rows"
    )]
    Run(Run),
    /// Sends recorded data through the same code, at any speed
    ///
    /// FILE is CSV with a header, or Parquet (*.parquet), in the order of ts: series, ts (seconds of Unix time), cpu_percent,
    /// memory_percent, disk_io; memory and disk may be empty. A column `anomaly` (true or false) says where there were faults: they
    /// are told to the server as labels, and the summary counts what was detected. Rows carry the recorded ts: start the server with
    /// --event-time.
    #[command(after_help = "Example:\n  onnxd serve models --event-time &\n  collector replay day.csv --speed 600")]
    Replay(Replay),
}

/// Settings of both commands.
#[derive(Args, Debug)]
pub struct Common {
    /// The prediction server's data port
    #[arg(long, value_name = "URL", env = "COLLECTOR_SERVER", default_value = "http://127.0.0.1:8080", value_parser = url)]
    pub server: Url,
    /// A file with the bearer token for the prediction server; read anew for each request
    #[arg(long, value_name = "FILE", env = "COLLECTOR_SERVER_TOKEN_FILE")]
    pub server_token_file: Option<PathBuf>,
    /// The model that is asked
    #[arg(long, value_name = "NAME", env = "COLLECTOR_MODEL", default_value = "anomaly", value_parser = model)]
    pub model: String,
    /// Rows of one request at most: the server's --max-rows
    #[arg(long, value_name = "ROWS", env = "COLLECTOR_MAX_ROWS", default_value_t = 65_536, value_parser = positive)]
    pub max_rows: u64,
    /// Time for one answer, of Prometheus or the server
    #[arg(long, value_name = "TIME", env = "COLLECTOR_TIMEOUT", default_value = "10s", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
    /// Time between two ticks, whole seconds; forecasts are judged where five minutes are a multiple of it
    #[arg(long, value_name = "TIME", env = "COLLECTOR_STEP", default_value = "1m", value_parser = humantime::parse_duration)]
    pub step: Duration,
    /// Series that are known at once; more are refused and counted. Each takes up to 24 KB
    #[arg(long, value_name = "SERIES", env = "COLLECTOR_MAX_SERIES", default_value_t = 10_000, value_parser = positive)]
    pub max_series: u64,
    /// Where feature rows are written as Parquet: a folder or s3://bucket/prefix; left out, nowhere
    #[arg(long, value_name = "PLACE", env = "COLLECTOR_ROWS")]
    pub rows: Option<String>,
    /// Time after which a file of rows is written; sooner where it has 100,000
    #[arg(long, value_name = "TIME", env = "COLLECTOR_ROWS_EVERY", default_value = "10m", value_parser = humantime::parse_duration)]
    pub rows_every: Duration,
    /// Rows that wait to be written at most; while they cannot be written, the oldest are lost beyond
    #[arg(long, value_name = "ROWS", env = "COLLECTOR_ROWS_BUFFER", default_value_t = 200_000, value_parser = positive)]
    pub rows_buffer: u64,
    /// Another S3 server than Amazon's
    #[arg(long, value_name = "URL", env = "COLLECTOR_S3_ENDPOINT", value_parser = address)]
    pub s3_endpoint: Option<String>,
    /// Where metrics and health are served; port 0 takes any (the log says which), off closes it
    #[arg(long, value_name = "ADDRESS", env = "COLLECTOR_OPS", default_value = "127.0.0.1:8083", value_parser = ops)]
    pub ops: Ops,
    /// What is logged: a level, or a filter such as info,hyper=debug
    #[arg(long, value_name = "FILTER", env = "COLLECTOR_LOG", default_value = "info")]
    pub log: String,
    /// How: pretty, json, or auto (pretty on a terminal)
    #[arg(long, value_name = "FORMAT", env = "COLLECTOR_LOG_FORMAT", default_value = "auto", value_parser = ["auto", "pretty", "json"])]
    pub log_format: String,
}

/// `collector run`.
#[derive(Args, Debug)]
pub struct Run {
    /// The Prometheus server, or what speaks its API
    #[arg(long, value_name = "URL", env = "COLLECTOR_PROMETHEUS", default_value = "http://127.0.0.1:9090", value_parser = url)]
    pub prometheus: Url,
    /// A file with the bearer token for Prometheus; read anew for each request
    #[arg(long, value_name = "FILE", env = "COLLECTOR_PROMETHEUS_TOKEN_FILE")]
    pub prometheus_token_file: Option<PathBuf>,
    /// What is measured, by which queries: a TOML file; left out, pods and nodes as --print-config shows
    #[arg(long, value_name = "FILE", env = "COLLECTOR_SOURCES")]
    pub sources: Option<PathBuf>,
    /// How long after its time a tick is asked for: scrapes that began before may take as long
    #[arg(long, value_name = "TIME", env = "COLLECTOR_DELAY", default_value = "10s", value_parser = humantime::parse_duration)]
    pub delay: Duration,
    /// Shows the sources as they are used, and ends: a file to begin with
    #[arg(long)]
    pub print_config: bool,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would show it")]
    pub common: Common,
}

/// `collector replay`.
#[derive(Args, Debug)]
pub struct Replay {
    /// Recorded data: CSV or Parquet
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// How many recorded seconds pass in one; left out, as fast as the server answers
    #[arg(long, value_name = "TIMES", env = "COLLECTOR_SPEED", value_parser = speed)]
    pub speed: Option<f64>,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would show it")]
    pub common: Common,
}

/// Where the operations port is, if anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ops {
    /// Closed.
    Off,
    /// There.
    At(SocketAddr),
}

impl Common {
    /// What is wrong with the settings together, all at once.
    #[must_use]
    pub fn mistakes(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        if self.step.as_secs() == 0 || self.step.subsec_nanos() != 0 || self.step > Duration::from_secs(300) {
            mistakes.push(format!("step is {:?}: write whole seconds, from 1s to 5m", self.step));
        }
        if self.timeout.is_zero() || self.timeout >= self.step {
            mistakes.push(format!("timeout is {:?}: write less than the step, {:?}", self.timeout, self.step));
        }
        if self.rows_every < Duration::from_secs(1) {
            mistakes.push(format!("rows-every is {:?}: write 1s at least", self.rows_every));
        }
        mistakes
    }

    /// Seconds between two ticks.
    #[must_use]
    pub fn step_seconds(&self) -> i64 {
        i64::try_from(self.step.as_secs()).unwrap_or(i64::MAX)
    }

    /// The rows' writer, if they are written.
    ///
    /// # Errors
    /// When the place cannot be one.
    pub fn rows(&self) -> Result<Option<Arc<Rows>>, String> {
        let Some(place) = &self.rows else { return Ok(None) };
        let store = Store::new(place, self.s3_endpoint.clone())?;
        Ok(Some(Arc::new(Rows::new(store, self.rows_every, size(self.rows_buffer)))))
    }

    /// What goes through a tick.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn collector(&self, rows: Option<Arc<Rows>>, shown: Arc<Shown>) -> Result<Collector, String> {
        let endpoint = Endpoint::new(self.server.clone(), self.server_token_file.clone(), self.timeout)?;
        let server = Server::new(endpoint, self.model.clone(), size(self.max_rows));
        let fleet = Fleet::new(Parameters::default(), size(self.max_series));
        let labels = Labels::new(self.step_seconds(), size(self.max_series));
        Ok(Collector::new(fleet, server, labels, rows, shown))
    }
}

/// A count as a size.
#[must_use]
pub fn size(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

fn url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|e| format!("{e}: write http://host:port"))?;
    match url.scheme() {
        "http" | "https" if url.has_host() => Ok(url),
        _ => Err("write http://host:port, or https://".into()),
    }
}

fn address(text: &str) -> Result<String, String> {
    url(text).map(|_| text.to_owned())
}

fn model(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if text.is_empty() || !text.chars().all(plain) {
        return Err("a model's name has letters, digits, -, _ and . only".into());
    }
    Ok(text.to_owned())
}

fn positive(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("write a whole number from 1".into()),
        Ok(number) => Ok(number),
    }
}

fn speed(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(speed) if speed.is_finite() && speed > 0.0 => Ok(speed),
        _ => Err("write a number above 0, such as 60".into()),
    }
}

fn ops(text: &str) -> Result<Ops, String> {
    if text == "off" {
        return Ok(Ops::Off);
    }
    text.parse().map(Ops::At).map_err(|_| "write an address and a port, such as 127.0.0.1:8083, or off".into())
}
