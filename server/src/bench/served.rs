//! The served model: rates that rise until the latency is not kept any more. Latencies count from when a request was due.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::Progress;
use super::knee::{self, Tried, Verdict};
use super::{number, time};
use crate::load::http::{self, Target};
use crate::load::{self, Outcome, Requests};
use crate::text::{SENTENCE, cut};
use crate::threads::cpu_time;

/// Less than this share of the requests answered in time is not what was asked for.
const REACHED: f64 = 0.95;
/// Steps that the time is meant for.
const STEPS: u32 = 12;
/// A step is no shorter: a pause of the machine would be most of it.
const SHORTEST: Duration = Duration::from_millis(200);
/// How often it is looked whether to go on.
const LOOK: Duration = Duration::from_millis(50);
/// A share of one CPU at which the load generator, one thread, is what limits.
const BUSY: f64 = 0.9;
/// Answers of which the slowest in a hundred says something.
const TELLING: u64 = 200;

/// What was measured of a server.
#[derive(Clone, Debug, Serialize)]
pub struct Served {
    /// Where requests went.
    pub url: String,
    /// Whether the server was started for this.
    pub own: bool,
    /// Connections at a time.
    pub connections: usize,
    /// Rows of a request.
    pub rows_per_request: usize,
    /// As many requests as are answered, on all connections.
    pub closed: Step,
    /// Constant rates, in the order in which they were tried.
    pub steps: Vec<Step>,
    /// The place among the steps of the greatest rate that was kept.
    pub knee: Option<usize>,
    /// What to know of it.
    pub warnings: Vec<String>,
}

/// A rate that was tried.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// Requests that came a second; `null` for a closed loop.
    pub rate: Option<f64>,
    /// Good answers a second.
    pub answered_per_second: f64,
    /// Good answers.
    pub answered: u64,
    /// The median latency, in microseconds.
    pub p50_us: f64,
    /// What 99 of 100 answers did not exceed.
    pub p99_us: f64,
    /// What 999 of 1000 answers did not exceed.
    pub p999_us: f64,
    /// How late 99 of 100 requests left at most: for a lack of free connections, or because the load generator was.
    pub late_p99_us: f64,
    /// What 99 of 100 answers did not exceed from when their requests left.
    pub service_p99_us: f64,
    /// Requests that had no good answer.
    pub errors: u64,
    /// What they had, such as `503: 12`.
    pub error_kinds: String,
    /// The load generator's share of one CPU.
    pub generator_cpu: f64,
    /// The server's CPUs, where they are known.
    pub server_cpus: Option<f64>,
    /// Whether it was too much.
    pub verdict: Verdict,
}

/// What to send, where, and what must be kept.
pub struct Plan<'a> {
    /// Where to.
    pub target: Target,
    /// Bodies, in turn.
    pub bodies: Vec<String>,
    /// Rows of each.
    pub rows_per_request: usize,
    /// Connections at a time.
    pub connections: usize,
    /// The p99 that must be kept, in microseconds.
    pub latency_us: f64,
    /// How long all of it may take, about.
    pub budget: Duration,
    /// CPU time of the server, where it is known.
    pub cpu: &'a dyn Fn() -> Option<Duration>,
    /// Whether it was started for this.
    pub own: bool,
}

impl Plan<'_> {
    /// Looks for the knee. `None` when it was ended before anything was measured.
    ///
    /// # Errors
    /// One sentence when the server cannot be reached or refuses the first request.
    pub fn run(&self, progress: &mut Progress<'_>) -> Result<Option<Served>, String> {
        self.ask_once()?;
        let begin = Instant::now();
        let step = (self.budget / (STEPS + 2)).max(SHORTEST);
        // What is not warm yet is not measured.
        let warm = self.step(None, step / 2, begin, progress)?;
        let Some(closed) = warm.and(self.step(None, step, begin, progress)?) else { return Ok(None) };
        let (mut steps, mut tried): (Vec<Step>, Vec<Tried>) = (vec![], vec![]);
        while let Some(rate) = knee::next(&tried, closed.answered_per_second.max(1.0)) {
            // The first ones are there however long they take.
            if steps.len() > 1 && begin.elapsed() + step > self.budget {
                break;
            }
            let Some(step) = self.step(Some(rate), step, begin, progress)? else { break };
            tried.push(Tried { rate, verdict: step.verdict });
            steps.push(step);
        }
        let greatest = knee::greatest_kept(&tried);
        let knee = tried.iter().position(|one| one.verdict == Verdict::Kept && Some(one.rate) == greatest);
        let mut served = Served {
            url: format!("http://{}{}", self.target.address, self.target.path),
            own: self.own,
            connections: self.connections,
            rows_per_request: self.rows_per_request,
            closed,
            steps,
            knee,
            warnings: vec![],
        };
        served.warnings = served.warn();
        Ok(Some(served))
    }

    /// One request, so that a mistake is told as the server says it.
    fn ask_once(&self) -> Result<(), String> {
        let url = format!("http://{}{}", self.target.address, self.target.path);
        let body = self.bodies.first().map(String::as_bytes).unwrap_or_default();
        let (answer, bytes) = http::exchange(self.target.address, &self.target.post(body))
            .map_err(|e| format!("{url} does not answer: {e:#}: is a server there, and does it speak HTTP/1.1?"))?;
        if answer.status == 200 {
            return Ok(());
        }
        let text = cut(String::from_utf8_lossy(&bytes[answer.body]).into_owned(), SENTENCE);
        Err(format!("{url} answers the first row with {}: {text}: name rows that it takes with --rows", answer.status))
    }

    /// One run of the load generator; `None` when it was ended early.
    fn step(
        &self,
        rate: Option<f64>,
        duration: Duration,
        begin: Instant,
        progress: &mut Progress<'_>,
    ) -> Result<Option<Step>, String> {
        let bodies = Requests::json(self.bodies.iter().cloned());
        let plan = load::Plan::new(self.target.clone(), bodies, self.connections, duration);
        let plan = load::Plan { rate, ..plan };
        let told = rate.map_or_else(|| "as many as are answered".into(), |rate| format!("{} requests/s", number(rate)));
        let (done, ended) = channel();
        let before = (self.cpu)();
        let work = move || {
            let outcome = load::run(&plan).map_err(|e| format!("{e:#}"));
            // Nobody listens when it was ended early.
            let _ = done.send((outcome, cpu_time()));
        };
        std::thread::Builder::new()
            .name("load".into())
            .spawn(work)
            .map_err(|e| format!("cannot start a thread: {e}"))?;
        let (outcome, cpu) = loop {
            match ended.recv_timeout(LOOK) {
                Ok(ended) => break ended,
                Err(RecvTimeoutError::Timeout) if progress(begin.elapsed(), &told) => {}
                Err(RecvTimeoutError::Timeout) => return Ok(None),
                Err(RecvTimeoutError::Disconnected) => return Err("the load generator panicked".into()),
            }
        };
        let outcome = outcome.map_err(|e| format!("the load could not be sent: {e}"))?;
        let seconds = outcome.elapsed.as_secs_f64();
        let used = (self.cpu)().zip(before).map(|(after, before)| (after - before).as_secs_f64() / seconds);
        Ok(Some(self.judge(rate, &outcome, cpu.as_secs_f64() / seconds, used)))
    }

    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    fn judge(&self, rate: Option<f64>, outcome: &Outcome, generator_cpu: f64, server_cpus: Option<f64>) -> Step {
        let quantile = |q: f64| outcome.latency.quantile_us(q).unwrap_or(f64::INFINITY);
        let errors = outcome.errors();
        let answered = outcome.statuses.get(&200).copied().unwrap_or(0).saturating_sub(outcome.wrong_bodies);
        let answered_per_second = answered as f64 / outcome.elapsed.as_secs_f64();
        let p99_us = quantile(0.99);
        let service_p99_us = outcome.service.quantile_us(0.99).unwrap_or(p99_us);
        // By Little's law, at most so many connections were in use at a time, with a half to spare.
        let is_free = rate.is_some_and(|rate| 2.0 * rate * service_p99_us / 1e6 < self.connections as f64);
        let verdict = match rate {
            _ if errors > outcome.unanswered => Verdict::Errors,
            Some(rate) if outcome.unanswered > 0 || answered_per_second < REACHED * rate => Verdict::NotReached,
            Some(_) if p99_us > self.latency_us && service_p99_us <= self.latency_us && is_free => Verdict::Late,
            Some(_) if p99_us > self.latency_us => Verdict::Slow,
            _ => Verdict::Kept,
        };
        Step {
            rate,
            answered_per_second,
            answered,
            p50_us: quantile(0.5),
            p99_us,
            p999_us: quantile(0.999),
            late_p99_us: outcome.lateness.quantile_us(0.99).unwrap_or(0.0),
            service_p99_us,
            errors,
            error_kinds: kinds(outcome),
            generator_cpu,
            server_cpus,
            verdict,
        }
    }
}

fn kinds(outcome: &Outcome) -> String {
    let refused = outcome.statuses.iter().filter(|(status, _)| **status != 200);
    let mut kinds: Vec<String> = refused.map(|(status, count)| format!("{status}: {count}")).collect();
    let others = [
        ("broken connections", outcome.broken),
        ("not JSON", outcome.wrong_bodies),
        ("no answer in time", outcome.unanswered),
    ];
    kinds.extend(others.iter().filter(|(_, count)| *count > 0).map(|(kind, count)| format!("{kind}: {count}")));
    kinds.join(", ")
}

impl Served {
    /// The step of the greatest rate that was kept.
    #[must_use]
    pub fn at_knee(&self) -> Option<&Step> {
        self.knee.and_then(|knee| self.steps.get(knee))
    }

    /// What counts of each rate, in their order: a rate that was too much was tried twice.
    #[must_use]
    pub fn counted(&self) -> Vec<&Step> {
        let mut counted: Vec<&Step> = self.steps.iter().collect();
        let key = |step: &Step| step.rate.unwrap_or(f64::INFINITY);
        let is_much = |step: &Step| step.verdict != Verdict::Kept;
        counted.sort_by(|a, b| {
            let by_rate = key(a).total_cmp(&key(b));
            by_rate.then(is_much(a).cmp(&is_much(b))).then(a.errors.cmp(&b.errors)).then(a.p99_us.total_cmp(&b.p99_us))
        });
        counted.dedup_by(|later, kept| key(later).total_cmp(&key(kept)).is_eq());
        counted
    }

    fn warn(&self) -> Vec<String> {
        let mut warnings = vec![];
        if self.own {
            warnings.push("the load generator shares the CPUs with the server, which reaches more without it".into());
        }
        let busiest = self.steps.iter().chain([&self.closed]).map(|step| step.generator_cpu).fold(0.0, f64::max);
        if busiest > BUSY {
            warnings.push(format!(
                "the load generator, one thread, used {} % of a CPU: it may be what limits, not the server",
                number(100.0 * busiest)
            ));
        }
        let knee = self.at_knee().and_then(|step| step.rate).unwrap_or(0.0);
        let above = self.counted().into_iter().find(|step| step.rate.is_some_and(|rate| rate > knee));
        if let Some(step) = above.filter(|step| step.verdict == Verdict::Late) {
            warnings.push(format!(
                "at {} requests/s they left late though connections were free, and the server answered 99 of 100 within {}: the \
                 CPUs are too busy to tell more; a load generator on another machine (--url) does",
                number(step.rate.unwrap_or(0.0)),
                time(step.service_p99_us)
            ));
        }
        if let Some(step) = self.at_knee().filter(|step| step.answered < TELLING) {
            warnings.push(format!(
                "the p99 at the knee is of {} answers only: more --seconds make it more certain",
                step.answered
            ));
        }
        warnings
    }
}
