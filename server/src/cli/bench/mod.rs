//! `onnxd bench`: what a model reaches on this machine, and with which settings.

mod print;

use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::{Arg, ArgMatches, Command, value_parser};
use indicatif::{ProgressBar, ProgressStyle};

use super::{Failure, model, open, print_json};
use crate::bench::alone::{self, Alone, Plan, Server};
use crate::bench::child::Start;
use crate::bench::rows::Rows;
use crate::bench::served::{self, Served};
use crate::bench::{Machine, Report, Sent, choice, svg};
use crate::config::{self, Config, Raw};
use crate::inspect;
use crate::load::http::Target;
use crate::model::check::{self, Invariance, Profile};
use crate::model::runtime::Runtime;
use crate::model::session::Session;
use crate::model::signature::{Rows as Takes, Signature};
use crate::model::{Artifact, INLINE_BATCH_LIMIT};
use crate::replay::input::Format;
use crate::replay::load;

/// The least latency that is asked for where nobody says one.
const LEAST_LATENCY: f64 = 5000.0;
/// And at least so many times what a request's rows take alone.
const TIMES_ONE_ROW: f64 = 10.0;
/// The share of the time that the model alone has.
const ALONE: f64 = 0.3;
/// Requests that differ.
const BODIES: usize = 256;
/// And their bytes together.
const BODY_BYTES: usize = 64 << 20;
/// How long a server may take to load what the probe has loaded in its time.
const PATIENCE: u32 = 4;
/// Settings of the server that change what it reaches.
const SETTINGS: &[&str] = &[
    "http-threads",
    "workers",
    "batch-delay",
    "queue-rows",
    "s3-endpoint",
    "require-signature",
    "model-limit",
    "onnxruntime",
    "providers",
    "probe-timeout",
    "probe-memory",
];

pub(super) fn command() -> Command {
    let value =
        |name: &'static str, of: &'static str, help: &'static str| Arg::new(name).long(name).value_name(of).help(help);
    let command = Command::new("bench")
        .about("Measures what a model reaches on this machine, and says which settings get the most out of it")
        .long_about(
            "Measures what a model reaches on this machine, with rows of yours, and says which settings get the most out of it.\n\n\
             First the model alone, in this process: rows a second for 1, 2, 4, .. rows in a run, on one thread and on more. The \
             best batch is the smallest within 5 % of the greatest rate, among runs that take at most half of --latency, and the \
             best number of workers the fewest. What the server chooses by itself is compared with that.\n\n\
             Then the model in a server: requests come at a constant rate, one row each, that rises until the p99 passes --latency, \
             requests fail or fewer are answered than come. A latency counts from when its request was due, so that one that waits \
             behind others is told as slow. The greatest rate that is kept is the knee.",
        )
        .after_long_help(
            "Examples:\n  \
             onnxd bench models\n  \
             onnxd bench model.onnx --rows requests.csv --latency 20ms\n  \
             onnxd bench models/anomaly/1 --only alone --json | jq .alone.best\n\n\
             Columns:\n  \
             rows in a run  rows that the model gets at once\n  \
             rows/s         rows that all threads together answer in a second\n  \
             a run          how long one run takes (median)\n  \
             requests/s     the rate at which requests came; max: each connection sends its next one when it is answered\n  \
             answered/s     good answers\n  \
             p50 p99 p99.9  latencies that so many of 100 answers did not exceed\n  \
             errors         requests without a good answer\n\n\
             Nothing is changed, and nothing is connected to but the repository, the server that is started for this on the \
             loopback, and --url. Ctrl-C ends it early; what was measured until then \
             is told.\n\n\
             Exit code: 0 when it was measured, 1 when the model or a row failed, 2 for a mistake in the command line.",
        )
        .arg(
            Arg::new("repository")
                .value_name("REPOSITORY")
                .help("A model repository (a folder or s3://bucket/prefix), the folder of one version, or an .onnx file [default: models]"),
        )
        .arg(value("model", "NAME", "The model. Not needed when the repository holds one"))
        .arg(value("rows", "FILE", "Rows to send: CSV, NDJSON, Parquet, or JSON as a request has it; the first 4,096 are used [default: the golden samples of the manifest, else made-up rows]"))
        .arg(value("format", "FORMAT", "What the file is, where its name does not tell").value_parser(Format::NAMES))
        .arg(
            value("latency", "DURATION", "The p99 that must be kept [default: 10 times one row's own time, at least 5ms]")
                .value_parser(|text: &str| humantime::parse_duration(text).map_err(|e| format!("{e}: a duration such as 5ms"))),
        )
        .arg(value("seconds", "NUMBER", "How long all of it may take, about").value_parser(value_parser!(f64)).default_value("60"))
        .arg(value("connections", "COUNT", "Connections at a time").value_parser(value_parser!(u16).range(1..)).default_value("64"))
        .arg(value("batch", "ROWS", "Rows of a request").value_parser(value_parser!(u16).range(1..)).default_value("1"))
        .arg(value("url", "URL", "A server that runs already, such as http://localhost:8080 or http://localhost:8080/models/NAME/predict [default: one is started]"))
        .arg(value("only", "PART", "The model alone, or the served one only").value_parser(["alone", "served"]))
        .arg(value("svg", "FILE", "Writes the pictures to this file"))
        .arg(value("config", "FILE", "Settings in TOML [default: ./onnxd.toml if it exists]"))
        .arg(Arg::new("json").long("json").action(clap::ArgAction::SetTrue).help("Prints JSON in place of text"));
    config::with_settings(command.next_help_heading("Settings of the server"), SETTINGS)
}

pub(super) fn run(matches: &ArgMatches, raw: &Raw, executable: &Path, out: &mut dyn Write) -> Result<(), Failure> {
    let config = raw.resolve().map_err(Failure::Usage)?;
    let begin = Instant::now();
    let seconds = matches.get_one::<f64>("seconds").copied().unwrap_or(60.0);
    let budget = Duration::try_from_secs_f64(seconds).ok().filter(|budget| !budget.is_zero()).ok_or_else(|| {
        Failure::Usage(vec![format!("--seconds is {seconds}: it must be a number above 0, such as 60")])
    })?;
    let only = matches.get_one::<String>("only").map(String::as_str);
    let (alone, serving) = match only {
        Some("alone") => (budget, Duration::ZERO),
        Some(_) => (Duration::ZERO, budget),
        None => (budget.mul_f64(ALONE), budget.mul_f64(1.0 - ALONE)),
    };
    let stop = super::interrupted();
    let bar = bar(budget);
    let mut subject = Subject::load(matches, &config, executable)?;
    subject.prove(budget / 10)?;
    let latency_us = matches.get_one::<Duration>("latency").map(|latency| 1e6 * latency.as_secs_f64());
    let latency_us = latency_us.unwrap_or_else(|| subject.usual_latency(matches));
    let mut progress = Meter { bar: &bar, stop: &stop, done: Duration::ZERO };
    let alone = match only {
        Some("served") => None,
        _ => Some(subject.alone(&config, alone, latency_us, &mut progress)?),
    };
    progress.done = begin.elapsed();
    let served = match only {
        Some("alone") => None,
        _ if stop.load(Ordering::Relaxed) => None,
        _ => subject.served(matches, &config, executable, (serving, latency_us), &mut progress)?,
    };
    bar.finish_and_clear();
    if alone.is_none() && served.is_none() {
        return Err(Failure::Failed("it was ended before anything was measured".into()));
    }
    let report = Report {
        model: subject.artifact.id.clone(),
        machine: Machine {
            cpus: config.cpus,
            onnxruntime: subject.runtime.version(),
            providers: subject.runtime.providers().shown().used,
        },
        rows: Sent { from: subject.rows.from.clone(), count: subject.rows.len() },
        latency_us,
        warnings: subject.warnings(alone.as_ref()),
        alone,
        served,
        interrupted: stop.load(Ordering::Relaxed),
        seconds: begin.elapsed().as_secs_f64(),
    };
    if let Some(path) = matches.get_one::<String>("svg") {
        std::fs::write(path, svg::draw(&report)).map_err(|e| Failure::Failed(format!("{path}: {e}")))?;
    }
    if matches.get_flag("json") { print_json(&report, out) } else { print::report(&report, out) }
}

/// What is measured.
struct Subject {
    runtime: Runtime,
    artifact: Artifact,
    manifest: Option<Vec<u8>>,
    profile: Profile,
    signature: Signature,
    session: Option<Session>,
    rows: Rows,
}

impl Subject {
    fn load(matches: &ArgMatches, config: &Config, executable: &Path) -> Result<Self, Failure> {
        let (artifact, manifest) = artifact(matches, config)?;
        let runtime = Runtime::load(config.engine.onnxruntime.as_deref()).map_err(Failure::Failed)?;
        let runtime = runtime.with_providers(&config.engine.providers);
        let mut probe = config.engine.probe.clone();
        probe.executable = Some(executable.into());
        let refused = |e: &dyn std::fmt::Display| {
            let id = &artifact.id;
            Failure::Failed(format!(
                "{} version {} would not be served: {e}: `onnxd inspect` says more of it",
                id.name, id.version
            ))
        };
        let profile = probe.examine(&runtime, &artifact, manifest.as_deref()).map_err(|e| refused(&e))?;
        let (mut session, signature) = check::open(&runtime, &artifact, Some(&profile)).map_err(|e| refused(&e))?;
        let rows = match matches.get_one::<String>("rows") {
            Some(file) => {
                let format = matches.get_one::<String>("format").and_then(|name| Format::named(name));
                Rows::of_file(Path::new(file), format, &signature)
            }
            None => Rows::known(&signature, artifact.manifest.as_deref(), &profile, &mut session),
        };
        let rows = rows.map_err(Failure::Failed)?;
        Ok(Self { runtime, artifact, manifest, profile, signature, session: Some(session), rows })
    }

    /// Runs all rows once.
    fn prove(&mut self, budget: Duration) -> Result<(), Failure> {
        let Some(session) = &mut self.session else { return Ok(()) };
        self.rows.prove(session, self.profile.max_batch, budget).map_err(Failure::Failed)
    }

    /// The latency that is asked for where nobody says one.
    fn usual_latency(&self, matches: &ArgMatches) -> f64 {
        let rows = matches.get_one::<u16>("batch").copied().map_or(1, usize::from);
        LEAST_LATENCY.max(TIMES_ONE_ROW * self.profile.run_us(rows))
    }

    /// Measures the model without a server.
    fn alone(
        &mut self,
        config: &Config,
        budget: Duration,
        latency_us: f64,
        progress: &mut Meter<'_>,
    ) -> Result<Alone, Failure> {
        let batches = self.profile.invariance != Invariance::No;
        let server = Server {
            max_batch: self.profile.max_batch,
            batches,
            workers: config.engine.threads.workers,
            http_threads: config.engine.threads.http,
            inline_rows: self.profile.inline_rows(INLINE_BATCH_LIMIT),
        };
        let plan = Plan::new(server.workers, server.max_batch, self.rows.values(), budget);
        let more = alone::sessions(&self.runtime, &self.artifact, &self.profile, server.workers - 1);
        let mut sessions: Vec<Session> =
            self.session.take().into_iter().chain(more.map_err(Failure::Failed)?).collect();
        let measured = alone::measure(&mut sessions, &self.rows, &plan, &mut |done, told| progress.is_at(done, told));
        let (cells, too_long) = measured.map_err(Failure::Failed)?;
        let none = || Failure::Failed("it was ended before anything was measured".into());
        let best = choice::best(&cells, latency_us).ok_or_else(none)?;
        let advice = choice::advice(&cells, best, server, latency_us);
        Ok(Alone { cells, best, server, advice, too_long })
    }

    /// Measures the model in a server.
    fn served(
        &mut self,
        matches: &ArgMatches,
        config: &Config,
        executable: &Path,
        (budget, latency_us): (Duration, f64),
        progress: &mut Meter<'_>,
    ) -> Result<Option<Served>, Failure> {
        // Its memory is the server's now.
        self.session = None;
        let start = Start {
            executable,
            runtime: &self.runtime,
            artifact: &self.artifact,
            manifest: self.manifest.as_deref(),
            threads: config.engine.threads,
            queue: config.engine.queue,
            patience: config.engine.probe.timeout * PATIENCE,
        };
        let url = matches.get_one::<String>("url");
        let own = match url {
            Some(_) => None,
            None => start.run(|| progress.is_at(Duration::ZERO, "starting onnxd serve")).map_err(Failure::Failed)?,
        };
        let target = match (url, &own) {
            (Some(url), _) => Target::parse(url).map_err(|e| Failure::Usage(vec![format!("--url {e:#}")]))?,
            (None, Some(own)) => Target { address: own.http, path: "/predict".into() },
            (None, None) => return Ok(None),
        };
        let number = |name: &str| matches.get_one::<u16>(name).copied().map_or(1, usize::from);
        let rows_per_request = number("batch");
        let count =
            self.rows.len().min((BODY_BYTES / self.rows.body(0, rows_per_request).len().max(1)).max(1)).min(BODIES);
        let plan = served::Plan {
            target,
            bodies: (0..count).map(|body| self.rows.body(body * rows_per_request, rows_per_request)).collect(),
            rows_per_request,
            connections: number("connections"),
            latency_us,
            budget,
            cpu: &|| own.as_ref()?.cpu(),
            own: own.is_some(),
        };
        plan.run(&mut |done, told| progress.is_at(done, told)).map_err(Failure::Failed)
    }

    fn warnings(&self, alone: Option<&Alone>) -> Vec<String> {
        let mut warnings = self.rows.warnings.clone();
        warnings.extend(self.runtime.providers().shown().warnings());
        warnings.extend(alone.and_then(|alone| alone::unsteady(&alone.cells)));
        if self.signature.rows == Takes::Whole {
            warnings.push("each request is one run: there are no batches".into());
        } else if self.profile.invariance == Invariance::No {
            warnings
                .push("rows of different requests never share a run: a batch here is a request of so many rows".into());
        }
        warnings
    }
}

/// The champion of a repository, or a file.
fn artifact(matches: &ArgMatches, config: &Config) -> Result<(Artifact, Option<Vec<u8>>), Failure> {
    let options = crate::source::Options { cache: None, ..config.engine.source.clone() };
    let path = options.repository.clone();
    if path.is_file() || path.join("model.onnx").is_file() {
        return inspect::artifact(&path).map_err(Failure::Failed);
    }
    let source = open(&options, false)?;
    let name = model(matches, &source)?;
    let wanted = load::wanted(&source, &name).map_err(Failure::Failed)?;
    let failed = |e: check::Rejection| Failure::Failed(format!("{name} version {}: {e}", wanted.champion.version));
    let fetched = load::fetch(&source, &name, &wanted.champion).map_err(failed)?;
    Ok((fetched.artifact, fetched.manifest))
}

/// Shows how far the whole is, and hears when it is to end.
struct Meter<'a> {
    bar: &'a ProgressBar,
    stop: &'a AtomicBool,
    /// What the parts before took.
    done: Duration,
}

impl Meter<'_> {
    fn is_at(&self, done: Duration, told: &str) -> bool {
        self.bar.set_position(u64::try_from((self.done + done).as_millis()).unwrap_or(u64::MAX));
        self.bar.set_message(told.to_owned());
        !self.stop.load(Ordering::Relaxed)
    }
}

/// Of time, on a terminal only.
fn bar(budget: Duration) -> ProgressBar {
    let style = ProgressStyle::with_template("{wide_bar} {msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
    let length = u64::try_from(budget.as_millis()).unwrap_or(u64::MAX);
    ProgressBar::with_draw_target(Some(length), super::progress_target()).with_style(style)
}
