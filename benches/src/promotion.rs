//! How fast two replicas take up a promotion in S3, and what that costs their clients; what a quiet poll costs; and how
//! long a start takes, with S3 and without.

mod report;

use std::{
    path::PathBuf,
    sync::{Arc, atomic::AtomicUsize},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use onnxd::load::{self, Histogram, Outcome, Plan, Watch, http};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    bodies,
    bucket::{self, S3},
    forward::{Exchange, Forward},
    progress,
    report::{Provenance, write},
    server::Server,
};

const REPLICAS: [&str; 2] = ["replica 1", "replica 2"];
/// The load before the write. All of it but its first moments is what the time around a change is compared with.
const BEFORE: Duration = Duration::from_millis(1_300);
const FIRST_MOMENTS: Duration = Duration::from_millis(200);
/// So much of the load before the first new answer, and after it, is the time around a change.
const AROUND: Duration = Duration::from_millis(500);
/// How long the load may go on before a replica answers with the new version.
const LONGEST: Duration = Duration::from_secs(60);
/// Requests a second to each replica where a version must be loaded. It is loaded at low priority: with all CPUs busy, as
/// under a closed loop, that takes seconds and says more of the machine than of the server.
const RATE: f64 = 2_000.0;
/// How long a change without load may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Polls that are counted.
const POLLS: usize = 10;

/// Measures how fast replicas that read from S3 take up a promotion, and what it costs.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    setup: bucket::Setup,
    /// Reports go to a folder of today's date and this machine in here.
    #[arg(long, default_value = "benches/runs")]
    out: PathBuf,
    /// Promotions measured in each case.
    #[arg(long, default_value_t = 20)]
    promotions: u32,
    /// Starts measured in each case.
    #[arg(long, default_value_t = 7)]
    starts: u32,
    /// Connections to each replica.
    #[arg(long, default_value_t = 8)]
    connections: usize,
}

/// What is promoted, and how often replicas look.
#[derive(Clone, Copy)]
struct Case {
    interval: Duration,
    /// Whether no replica has seen the version before. Otherwise it is the champion before.
    is_new: bool,
}

const CASES: [Case; 3] = [
    Case { interval: Duration::from_secs(1), is_new: false },
    Case { interval: Duration::from_secs(5), is_new: false },
    Case { interval: Duration::from_secs(1), is_new: true },
];

/// What one replica's clients saw of one promotion.
#[derive(Serialize)]
struct Taken {
    case: String,
    poll_interval_seconds: f64,
    number: u32,
    to: String,
    replica: &'static str,
    /// From right before the write was sent to the first answer of the new version.
    seconds: f64,
    /// The write itself.
    write_seconds: f64,
    before: Latency,
    during: Latency,
    answered: u64,
    failed: u64,
}

#[derive(Serialize)]
struct Latency {
    answers: u64,
    p99_us: f64,
    slowest_us: f64,
}

/// Starts of one kind.
#[derive(Serialize)]
struct Starts {
    name: &'static str,
    /// From the start of the process until it was ready.
    seconds: Vec<f64>,
}

#[derive(Serialize)]
struct Measured {
    #[serde(flatten)]
    provenance: Provenance,
    connections: usize,
    taken: Vec<Taken>,
    polls: Vec<Exchange>,
    starts: Vec<Starts>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    ensure!(arguments.promotions > 0 && arguments.starts > 0, "at least one promotion and one start are needed");
    let s3 = S3::start(&arguments.setup, 0)?;
    s3.fill(&arguments.setup)?;
    let mut taken = Vec::new();
    for case in CASES {
        promote(arguments, &s3, case, &mut taken)?;
    }
    let polls = poll(arguments, &s3)?;
    let starts = start(arguments, s3)?;
    let failed: u64 = taken.iter().map(|taken| taken.failed).sum();
    let provenance = Provenance::now(Some(&arguments.setup.onnxd));
    let folder = provenance.folder(&arguments.out)?;
    let measured = Measured { provenance, connections: arguments.connections, taken, polls, starts };
    let markdown = measured.markdown();
    println!("{markdown}");
    write(&folder, "promotion", &measured, &markdown, &measured.chart())?;
    ensure!(failed == 0, "{failed} requests were not answered well");
    Ok(())
}

impl Case {
    fn name(self) -> String {
        format!("{} s, {}", self.interval.as_secs(), if self.is_new { "new" } else { "in memory" })
    }

    fn rate(self) -> Option<f64> {
        self.is_new.then_some(RATE)
    }
}

/// Promotes again and again under load.
fn promote(arguments: &Arguments, s3: &S3, case: Case, taken: &mut Vec<Taken>) -> Result<()> {
    point(s3, "1", None, None)?;
    // Before the servers, so that they are gone first.
    let caches = [tempfile::tempdir()?, tempfile::tempdir()?];
    let interval = format!("{}s", case.interval.as_secs());
    let mut replicas = Vec::new();
    for (name, cache) in REPLICAS.iter().zip(&caches) {
        let cache = cache.path().to_string_lossy();
        let more = ["--poll-interval", &interval, "--cache", &cache];
        replicas.push(S3::replica(name, &arguments.setup.onnxd, &s3.endpoint(), [0; 3], &more)?);
    }
    // From here on both versions are in memory.
    let epoch = point(s3, "2", Some("1"), None)?;
    replicas.iter().try_for_each(|replica| await_epoch(replica, epoch))?;
    let mut from = "2".to_owned();
    for number in 1..=arguments.promotions {
        let (to, hash) = if case.is_new {
            let version = (number + 2).to_string();
            let hash = s3.add(&arguments.setup, &version)?;
            (version, Some(hash))
        } else {
            (if number % 2 == 1 { "1" } else { "2" }.to_owned(), None)
        };
        let before = replicas.iter().map(loads).collect::<Result<Vec<_>>>()?;
        // The golden section spreads the writes evenly between two polls.
        thread::sleep(case.interval.mul_f64(f64::from(number) * 0.618 % 1.0));
        let write = || point(s3, &to, Some(&from), hash.as_deref());
        let (outcomes, written, write) = under_load(arguments, &replicas, (&to, case.rate()), write)?;
        for (index, replica) in replicas.iter().enumerate() {
            let name = REPLICAS[index];
            let told = || format!("{name}, {}: {}", case.name(), state(replica));
            let one = Taken::new(case, number, (&from, &to), name, &outcomes[index], written, write);
            let one = one.with_context(told)?;
            let loaded = loads(replica)? - before[index];
            ensure!(loaded == u64::from(case.is_new), "{loaded} models were loaded: {}", told());
            progress(&format!(
                "{}: {number}/{}: {name}: {:.3} s, {} failed",
                case.name(),
                arguments.promotions,
                one.seconds,
                one.failed
            ));
            taken.push(one);
        }
        from = to;
    }
    Ok(())
}

/// Writes the pointer on the condition that it is still what was read; gives its epoch. `hash` is of the manifest of a
/// champion that the pointer did not name yet.
fn point(s3: &S3, champion: &str, previous: Option<&str>, hash: Option<&str>) -> Result<u64> {
    let (mut pointer, etag) = s3.pointer()?;
    let epoch = pointer["epoch"].as_u64().unwrap_or(0) + 1;
    pointer["champion"] = json!(champion);
    pointer["previous"] = json!(previous);
    pointer["challengers"] = json!([]);
    pointer["epoch"] = json!(epoch);
    if let Some(hash) = hash {
        pointer["manifest_sha256"][champion] = json!(hash);
    }
    s3.point(&pointer, &etag)?;
    Ok(epoch)
}

/// Loads both replicas and writes meanwhile; gives what came back, when the write began and how long it took.
fn under_load(
    arguments: &Arguments,
    replicas: &[Server],
    (to, rate): (&str, Option<f64>),
    write: impl FnOnce() -> Result<u64>,
) -> Result<(Vec<Outcome>, Instant, Duration)> {
    let watch = Watch {
        version: to.to_owned(),
        missing: Arc::new(AtomicUsize::new(replicas.len())),
        after: AROUND + Duration::from_millis(100),
    };
    thread::scope(|scope| {
        let load = |server: &Server| {
            let target = server.target.clone();
            let mut plan = Plan::new(target, bodies::ordinary(), arguments.connections, LONGEST);
            (plan.rate, plan.is_good, plan.watch) = (rate, bodies::has_score, Some(watch.clone()));
            scope.spawn(move || load::run(&plan))
        };
        let loads: Vec<_> = replicas.iter().map(load).collect();
        thread::sleep(BEFORE);
        let written = Instant::now();
        let result = write();
        let took = written.elapsed();
        let mut outcomes = Vec::new();
        for load in loads {
            outcomes.push(load.join().ok().context("the load generator ended badly")??);
        }
        result?;
        Ok((outcomes, written, took))
    })
}

impl Taken {
    fn new(
        case: Case,
        number: u32,
        (from, to): (&str, &str),
        replica: &'static str,
        outcome: &Outcome,
        written: Instant,
        write: Duration,
    ) -> Result<Self> {
        let watched = outcome.watched.as_ref().context("nothing was watched")?;
        let first = watched.first(to, written).context("the new version gave no answer")?;
        let other = watched.changes.iter().find(|(version, _)| version != from && version != to);
        ensure!(other.is_none(), "answers came from {other:?}");
        Ok(Self {
            case: case.name(),
            poll_interval_seconds: case.interval.as_secs_f64(),
            number,
            to: to.to_owned(),
            replica,
            seconds: (first - written).as_secs_f64(),
            write_seconds: write.as_secs_f64(),
            // The last step before the write is left out: the write lies in it.
            before: Latency::of(&watched.between(watched.start + FIRST_MOMENTS, written - Duration::from_millis(100))),
            during: Latency::of(&watched.between(first - AROUND, first + AROUND)),
            answered: outcome.answered(),
            failed: outcome.errors(),
        })
    }
}

impl Latency {
    fn of(histogram: &Histogram) -> Self {
        let quantile = |q| histogram.quantile_us(q).unwrap_or_default();
        Self { answers: histogram.count(), p99_us: quantile(0.99), slowest_us: quantile(1.0) }
    }
}

/// A server's state of the model, as `/status` tells it.
pub(crate) fn state(server: &Server) -> Value {
    let status = server.ops.and_then(|ops| http::get(ops, "/status").ok());
    status.and_then(|(_, text)| serde_json::from_str(&text).ok()).unwrap_or_default()
}

/// How many models a server has loaded up to now.
fn loads(server: &Server) -> Result<u64> {
    let metrics = server.metrics()?;
    let series = "onnxd_model_load_duration_seconds_count{stage=\"load\"} ";
    let count = metrics.lines().find_map(|line| line.strip_prefix(series)?.parse().ok());
    count.with_context(|| format!("{}: /metrics does not tell how many models were loaded", server.name))
}

fn await_epoch(server: &Server, epoch: u64) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        if state(server)["models"][0]["epoch"] == json!(epoch) {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(50));
    }
    bail!("{} did not take up epoch {epoch} within {PATIENCE:?}: {}", server.name, state(server))
}

/// What polls cost while nothing changes.
fn poll(arguments: &Arguments, s3: &S3) -> Result<Vec<Exchange>> {
    progress("polls");
    let forward = Forward::start(s3.address)?;
    let cache = tempfile::tempdir()?;
    let endpoint = format!("http://{}", forward.address);
    let cache = cache.path().to_string_lossy();
    let more = ["--models", bucket::MODEL, "--poll-interval", "1s", "--cache", &cache];
    let server = S3::replica("polls", &arguments.setup.onnxd, &endpoint, [0; 3], &more)?;
    server.await_metrics("an unchanged poll", |metrics| {
        let unchanged = "onnxd_source_polls_total{source=\"s3\",outcome=\"unchanged\"} ";
        metrics.lines().filter_map(|line| line.strip_prefix(unchanged)).any(|count| count != "0")
    })?;
    forward.take();
    let (mut polls, until) = (Vec::new(), Instant::now() + PATIENCE);
    while polls.len() < POLLS {
        ensure!(Instant::now() < until, "{} polls in {PATIENCE:?}", polls.len());
        thread::sleep(Duration::from_millis(100));
        polls.extend(forward.take());
    }
    Ok(polls)
}

/// How long a start takes, with S3 and without.
fn start(arguments: &Arguments, s3: S3) -> Result<Vec<Starts>> {
    let endpoint = s3.endpoint();
    let cache = tempfile::tempdir()?;
    let once = |cache: &tempfile::TempDir| {
        let cache = cache.path().to_string_lossy();
        let server = S3::replica("start", &arguments.setup.onnxd, &endpoint, [0; 3], &["--cache", &cache])?;
        Ok::<_, anyhow::Error>(server.ready_after.as_secs_f64())
    };
    let times = |name: &'static str, start: &dyn Fn() -> Result<f64>| {
        progress(&format!("starts: {name}"));
        let seconds = (0..arguments.starts).map(|_| start()).collect::<Result<Vec<_>>>().context(name)?;
        Ok::<_, anyhow::Error>(Starts { name, seconds })
    };
    let mut starts = vec![times("S3 answers, empty cache", &|| once(&tempfile::tempdir()?))?];
    once(&cache)?;
    starts.push(times("S3 answers, full cache", &|| once(&cache))?);
    s3.signal("STOP")?;
    starts.push(times("S3 is silent, full cache", &|| once(&cache))?);
    drop(s3);
    starts.push(times("S3 refuses connections, full cache", &|| once(&cache))?);
    Ok(starts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use onnxd::load::Watched;

    fn outcome(start: Instant, answers: &[(&str, u64)]) -> Outcome {
        let missing = Arc::new(AtomicUsize::new(1));
        let watch = Watch { version: "2".to_owned(), missing, after: Duration::ZERO };
        let mut watched = Watched::new(start, watch);
        for (version, millis) in answers {
            watched.record(version, start + Duration::from_millis(*millis), Duration::from_millis(1));
        }
        Outcome { watched: Some(watched), ..Outcome::default() }
    }

    #[test]
    fn the_time_counts_from_the_write_to_the_first_new_answer() {
        let start = Instant::now();
        let written = start + Duration::from_secs(1);
        let answers = [("1", 10), ("1", 300), ("1", 500), ("1", 1_200), ("2", 1_400), ("1", 1_401), ("2", 1_402)];
        let of = |answers: &[_]| {
            Taken::new(CASES[0], 1, ("1", "2"), REPLICAS[0], &outcome(start, answers), written, Duration::ZERO)
        };
        let taken = of(&answers).expect("it was taken");
        assert!((taken.seconds - 0.4).abs() < 1e-9, "{}", taken.seconds);
        assert_eq!((taken.before.answers, taken.during.answers), (2, 4));
        assert!(of(&answers[..4]).is_err(), "it never came");
        assert!(of(&[("3", 1_300), ("2", 1_400)]).is_err(), "another version answered");
    }
}
