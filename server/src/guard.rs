//! The guard after a promotion: the new champion is compared with the one before while it serves, and rolled back when it
//! is far worse. It is coarse and quick; whether a challenger deserves to be promoted is for the shadow's statistics.
//!
//! The champion before scores the same rows in the shadow meanwhile. So an incident, on which both alert, and rows on which
//! both fail, which any client can send, are no reason to go back. The time of runs is compared with what was counted
//! ([`Tally`]) while the other was champion; how long requests waited says more of the load than of the champion.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::shadow::Challenger;
use crate::shadow::stats::Statistics;

/// A share of failures below this is not told apart from none.
const FLOOR: f64 = 0.01;
/// How many times the failures, the run time or the alerts of the one before are too many.
const TIMES: f64 = 3.0;
/// Natural logarithm of the odds against chance, for one look; 600 looks (one a second in 10 minutes) make 5e-4.
const EVIDENCE: f64 = 14.0;
/// The same for looks at failures after the period; 86,400 looks (a day) make 5e-4.
const LATE_EVIDENCE: f64 = 19.0;
/// After the period failures are counted anew this often, so that hours without any hide none.
const WINDOW: Duration = Duration::from_secs(600);
/// Retries before they say whose fault it was.
const RETRIES: u64 = 4;
/// Runs before their times are compared, and by how much a run must be longer to matter.
const RUNS: u64 = 50;
const SLOWER: Duration = Duration::from_millis(2);
/// Pairs and differing decisions before alerts are compared, and the share of all rows by which they must differ.
const PAIRS: u64 = 500;
const DIFFERENT: u64 = 30;
const SHARE: f64 = 0.005;
/// The first pause before a rollback that failed is tried again; doubled each time.
const RETRY: Duration = Duration::from_secs(2);
/// A rollback of which nothing was heard for this long is tried again.
const SILENT: Duration = Duration::from_secs(120);

/// What is counted of a champion while it serves.
#[derive(Debug, Default)]
pub struct Tally {
    answered: AtomicU64,
    failed: AtomicU64,
    not_finite: AtomicU64,
    unanswered: AtomicU64,
    runs: AtomicU64,
    rows: AtomicU64,
    nanoseconds: AtomicU64,
}

/// How a request ended, as far as the champion is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It was answered.
    Answered,
    /// The model failed on it.
    Failed,
    /// The answer was not finite.
    NotFinite,
    /// It was not run in time, or refused because the queue was full.
    Unanswered,
}

/// What the champion before made of requests on which the champion failed, as far as it came to them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Retried {
    /// Requests that it answers.
    pub answered: u64,
    /// Requests on which it fails too: the rows are to blame.
    pub failed: u64,
}

impl Retried {
    const fn since(self, before: Self) -> Self {
        Self { answered: self.answered - before.answered, failed: self.failed - before.failed }
    }

    /// Of `bad` requests on which the champion failed, those that are its own fault. The shadow does not come to all.
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share")]
    fn own(self, bad: u64) -> u64 {
        if self.answered + self.failed < RETRIES {
            return 0;
        }
        (bad as f64 * share(self.answered, self.answered + self.failed)) as u64
    }
}

/// The numbers of a [`Tally`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Counts {
    /// Requests answered.
    pub answered: u64,
    /// Requests on which the model failed.
    pub failed: u64,
    /// Requests with an answer that was not finite.
    pub not_finite: u64,
    /// Requests not run in time or refused for a full queue.
    pub unanswered: u64,
    /// Runs.
    pub runs: u64,
    /// Rows in them.
    pub rows: u64,
    /// Their duration together.
    pub seconds: f64,
}

impl Tally {
    /// Counts a request.
    pub fn request(&self, end: End) {
        let counter = match end {
            End::Answered => &self.answered,
            End::Failed => &self.failed,
            End::NotFinite => &self.not_finite,
            End::Unanswered => &self.unanswered,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a run.
    pub fn run(&self, rows: usize, took: Duration) {
        self.runs.fetch_add(1, Ordering::Relaxed);
        self.rows.fetch_add(rows as u64, Ordering::Relaxed);
        self.nanoseconds.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// What was counted up to now.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            answered: read(&self.answered),
            failed: read(&self.failed),
            not_finite: read(&self.not_finite),
            unanswered: read(&self.unanswered),
            runs: read(&self.runs),
            rows: read(&self.rows),
            seconds: Duration::from_nanos(read(&self.nanoseconds)).as_secs_f64(),
        }
    }
}

impl Counts {
    fn since(&self, before: &Self) -> Self {
        Self {
            answered: self.answered - before.answered,
            failed: self.failed - before.failed,
            not_finite: self.not_finite - before.not_finite,
            unanswered: self.unanswered - before.unanswered,
            runs: self.runs - before.runs,
            rows: self.rows - before.rows,
            seconds: self.seconds - before.seconds,
        }
    }

    const fn requests(&self) -> u64 {
        self.answered + self.failed + self.not_finite + self.unanswered
    }
}

/// Why a champion is rolled back: what the ledger keeps.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evidence {
    /// errors, not_finite, latency or alerts.
    pub test: &'static str,
    /// One sentence.
    pub finding: String,
    /// What was counted of the new champion.
    pub champion: Counts,
    /// What was counted of the one before, while it was champion.
    pub previous: Counts,
    /// What the one before made of requests on which it failed.
    pub retried_failed: Retried,
    /// What the one before made of requests with an answer that was not finite.
    pub retried_not_finite: Retried,
    /// Rows that both scored, by decision: the new champion's, then the other's.
    pub decisions: std::collections::BTreeMap<String, u64>,
    /// How long the new champion had served.
    pub after_seconds: f64,
}

/// The watch over one new champion.
pub struct Guard {
    /// The champion before, which scores the same rows in the shadow.
    pub previous: Arc<Challenger>,
    baseline: Counts,
    since: Instant,
    /// How long it watches for everything; never for anything without.
    period: Option<Duration>,
    /// How long it watches for failures, and the champion before is compared at all.
    compared: Duration,
    state: Mutex<State>,
    /// Mirrors `state` for the threads that serve.
    active: std::sync::atomic::AtomicBool,
}

#[derive(Debug)]
enum State {
    Watching,
    /// For failures only, as counted since then.
    Failures(Window),
    /// Tripped; it is tried again then, if it is not done before.
    Tripped(Box<Evidence>, Instant, u32),
    Ended,
}

/// Where counting began.
#[derive(Debug)]
struct Window {
    since: Instant,
    counts: Counts,
    retried: [Retried; 2],
}

/// What `/status` tells of a guard.
#[derive(Clone, Debug, Serialize)]
pub struct GuardStatus {
    /// The version it is compared with.
    pub against: String,
    /// watching, `watching_failures` after the period, tripped or ended.
    pub state: &'static str,
    /// Why it tripped.
    pub evidence: Option<Evidence>,
}

impl Guard {
    /// A guard that begins now. `baseline` is what was counted of the one before. It watches for all faults for a period, and for
    /// failures as long as the one before is compared, at least as long; without a period it only compares.
    #[must_use]
    pub fn new(previous: Arc<Challenger>, baseline: &Tally, period: Option<Duration>, compared: Duration) -> Self {
        Self {
            previous,
            baseline: baseline.counts(),
            since: Instant::now(),
            period,
            compared: compared.max(period.unwrap_or_default()),
            state: Mutex::new(if period.is_some() { State::Watching } else { State::Ended }),
            active: true.into(),
        }
    }

    /// Whether rows are still to be scored by the champion before.
    pub fn is_active(&self) -> bool {
        self.active.load(Ordering::Relaxed)
    }

    /// What `/status` tells; nothing of one that only compares.
    #[must_use]
    pub fn status(&self) -> Option<GuardStatus> {
        self.period?;
        let (state, evidence) = match &*self.lock() {
            State::Watching => ("watching", None),
            State::Failures(_) => ("watching_failures", None),
            State::Tripped(evidence, ..) => ("tripped", Some((**evidence).clone())),
            State::Ended => ("ended", None),
        };
        Some(GuardStatus { against: self.previous.model().id.version.clone(), state, evidence })
    }

    fn window(&self, tally: &Tally) -> Window {
        Window { since: Instant::now(), counts: tally.counts(), retried: self.previous.retried() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks once; gives the evidence when a rollback must be tried now. The caller tells how that went.
    pub fn look(&self, tally: &Tally) -> Option<Evidence> {
        if self.since.elapsed() >= self.compared {
            self.active.store(false, Ordering::Relaxed);
        }
        let mut state = self.lock();
        match &mut *state {
            State::Ended => None,
            State::Watching | State::Failures(_) if self.since.elapsed() >= self.compared => {
                *state = State::Ended;
                None
            }
            State::Watching if self.period.is_none_or(|period| self.since.elapsed() >= period) => {
                *state = State::Failures(self.window(tally));
                None
            }
            State::Failures(window) if window.since.elapsed() >= WINDOW => {
                *window = self.window(tally);
                None
            }
            State::Watching | State::Failures(_) => {
                // The shadow's thread may be off the CPU for long while it holds them: then the next look sees them.
                let pairs = self.previous.try_statistics()?;
                let (now, retried) = (tally.counts(), self.previous.retried());
                let found = match &*state {
                    State::Failures(Window { counts, retried: before, .. }) => {
                        let (now, retried) =
                            (now.since(counts), [retried[0].since(before[0]), retried[1].since(before[1])]);
                        judge_failures(&now, &self.baseline, retried, LATE_EVIDENCE).map(|found| (found, now, retried))
                    }
                    _ => judge(&now, &self.baseline, &pairs, retried).map(|found| (found, now, retried)),
                };
                let ((test, finding), champion, [retried_failed, retried_not_finite]) = found?;
                let evidence = Evidence {
                    test,
                    finding,
                    champion,
                    previous: self.baseline,
                    retried_failed,
                    retried_not_finite,
                    decisions: pairs.decisions,
                    after_seconds: self.since.elapsed().as_secs_f64(),
                };
                *state = State::Tripped(Box::new(evidence.clone()), Instant::now() + SILENT, 0);
                Some(evidence)
            }
            State::Tripped(evidence, retry, _) => {
                let due = Instant::now() >= *retry;
                if due {
                    *retry = Instant::now() + SILENT;
                }
                due.then(|| (**evidence).clone())
            }
        }
    }

    /// The rollback was made, or is not needed any more.
    pub fn done(&self) {
        *self.lock() = State::Ended;
        self.active.store(false, Ordering::Relaxed);
    }

    /// The rollback could not be made; it is tried again after a while.
    pub fn failed(&self) {
        if let State::Tripped(_, retry, tries) = &mut *self.lock() {
            *retry = Instant::now() + RETRY * (1 << (*tries).min(5));
            *tries += 1;
        }
    }
}

/// The test that a champion fails beside the one before, and a sentence.
type Finding = (&'static str, String);

/// Compares a champion with the one before.
fn judge(now: &Counts, before: &Counts, pairs: &Statistics, retried: [Retried; 2]) -> Option<Finding> {
    judge_failures(now, before, retried, EVIDENCE).or_else(|| slower(now, before)).or_else(|| alerts(pairs))
}

/// Compares how often they fail.
fn judge_failures(now: &Counts, before: &Counts, [failed, not_finite]: [Retried; 2], evidence: f64) -> Option<Finding> {
    let rates = [
        ("errors", "failed in the model", failed.own(now.failed), before.failed),
        ("not_finite", "got an answer that was not finite", not_finite.own(now.not_finite), before.not_finite),
    ];
    rates.into_iter().find_map(|(test, what, bad, bad_before)| {
        let usual = share(bad_before, before.requests());
        exceeds(bad, now.requests(), (TIMES * usual).max(FLOOR), evidence).then(|| {
            let (all, percent) = (now.requests(), 100.0 * share(bad, now.requests()));
            let usual = match before.requests() {
                0 => String::new(),
                _ => format!(", which failed on {:.1} % in its time", 100.0 * usual),
            };
            let text = format!(
                "{percent:.1} % of the requests {what} ({bad} of {all}) and do not with the champion before{usual}"
            );
            (test, text)
        })
    })
}

#[expect(clippy::cast_precision_loss, reason = "exact for 2^53")]
fn share(part: u64, of: u64) -> f64 {
    if of == 0 { 0.0 } else { part as f64 / of as f64 }
}

/// Whether `bad` of `all` shows a rate above `rate`: the chance of so many under that rate is below e^-`evidence` by
/// Chernoff's bound, P(X >= k) <= exp(-n KL(k/n || rate)).
#[expect(clippy::cast_precision_loss, reason = "exact for 2^53")]
fn exceeds(bad: u64, all: u64, rate: f64, evidence: f64) -> bool {
    let (observed, rate) = (share(bad, all), rate.min(0.99));
    if observed <= rate {
        return false;
    }
    let term = |p: f64, q: f64| if p > 0.0 { p * (p / q).ln() } else { 0.0 };
    all as f64 * (term(observed, rate) + term(1.0 - observed, 1.0 - rate)) > evidence
}

/// Runs of the same size that take far longer.
#[expect(clippy::cast_precision_loss, reason = "exact for 2^53")]
fn slower(now: &Counts, before: &Counts) -> Option<Finding> {
    if now.runs < RUNS || before.runs < RUNS {
        return None;
    }
    let per_run = |counts: &Counts| counts.seconds / counts.runs as f64;
    let rows = |counts: &Counts| counts.rows as f64 / counts.runs as f64;
    // Larger batches may take longer.
    let usual = per_run(before) * (rows(now) / rows(before)).max(1.0);
    let mean = per_run(now);
    (mean > TIMES * usual && mean > usual + SLOWER.as_secs_f64()).then(|| {
        let text = format!("a run takes {:.1} ms, with the champion before {:.1} ms", mean * 1e3, usual * 1e3);
        ("latency", text)
    })
}

/// Decisions on the same rows of which one model makes far more.
fn alerts(pairs: &Statistics) -> Option<Finding> {
    let count = |key: &str| pairs.decisions.get(key).copied().unwrap_or(0);
    let (both, only_now, only_before) = (count("true>true"), count("true>false"), count("false>true"));
    if pairs.decided < PAIRS || only_now + only_before < DIFFERENT {
        return None;
    }
    let (now, before) = (share(both + only_now, pairs.decided), share(both + only_before, pairs.decided));
    let (more, less) = (now.max(before), now.min(before));
    (more > TIMES * less && more - less > SHARE).then(|| {
        let text = format!(
            "{:.2} % of the rows are decided true, the champion before decides so for {:.2} % of the same rows",
            100.0 * now,
            100.0 * before
        );
        ("alerts", text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(answered: u64, failed: u64) -> Counts {
        Counts { answered, failed, ..Counts::default() }
    }

    fn test(now: Counts, before: Counts, pairs: &Statistics) -> Option<&'static str> {
        let answered = Retried { answered: 10, failed: 0 };
        judge(&now, &before, pairs, [answered; 2]).map(|(test, _)| test)
    }

    #[test]
    fn failures_far_beyond_those_before_trip_and_few_do_not() {
        let none = Statistics::default();
        assert_eq!(test(counts(0, 3), counts(1000, 0), &none), None, "3 may be chance");
        assert_eq!(test(counts(0, 4), counts(1000, 0), &none), Some("errors"));
        assert_eq!(test(counts(990, 10), counts(1000, 0), &none), None, "1 % is not told apart from none");
        assert_eq!(test(counts(900, 100), counts(950, 50), &none), None, "twice as many as before");
        assert_eq!(test(counts(700, 300), counts(950, 50), &none), Some("errors"));
        let not_finite = Counts { not_finite: 50, ..counts(50, 0) };
        assert_eq!(test(not_finite, Counts::default(), &none), Some("not_finite"));
        let judged = |retried| judge(&counts(5000, 1000), &counts(1000, 0), &none, [retried; 2]);
        assert_eq!(judged(Retried { answered: 0, failed: 100 }), None, "any client can send what no model takes");
        assert_eq!(judged(Retried::default()), None, "nothing was tried with the one before");
        assert!(judged(Retried { answered: 50, failed: 50 }).is_some(), "half of them are its own");
        let overload = Counts { unanswered: 900, ..counts(100, 0) };
        assert_eq!(test(overload, counts(1000, 0), &none), None, "a busy hour");
    }

    #[test]
    fn failures_after_the_period_need_more_evidence_and_are_counted_anew() {
        let (day, bad) = (counts(9_000_000, 100), counts(9_000_000, 105));
        let retried = [Retried { answered: 5, failed: 0 }; 2];
        let late = |now: &Counts| judge_failures(now, &Counts::default(), retried, LATE_EVIDENCE).map(|(test, _)| test);
        assert_eq!(late(&bad), None, "beside a day without any");
        assert_eq!(late(&bad.since(&day)), Some("errors"));
        assert_eq!(late(&counts(0, 4)), None, "enough for one of 600 looks, not for one of a day");
        let (_, text) = judge_failures(&counts(0, 5), &Counts::default(), retried, LATE_EVIDENCE).expect("a finding");
        assert_eq!(text, "100.0 % of the requests failed in the model (5 of 5) and do not with the champion before");
    }

    #[test]
    fn runs_that_take_far_longer_trip_but_not_larger_batches_or_microseconds() {
        let none = Statistics::default();
        let runs = |seconds: f64, rows: u64| Counts { runs: 100, rows, seconds, ..counts(100, 0) };
        assert_eq!(test(runs(1.0, 100), runs(0.1, 100), &none), Some("latency"));
        assert_eq!(test(runs(1.0, 1000), runs(0.1, 100), &none), None, "ten times as many rows");
        assert_eq!(test(runs(0.1, 100), runs(0.001, 100), &none), None, "1 ms is not 2 ms longer");
        assert_eq!(test(Counts { runs: 10, ..runs(1.0, 100) }, runs(0.1, 100), &none), None, "too few");
    }

    #[test]
    fn alerts_are_compared_on_the_same_rows() {
        let pairs = |both: u64, only_now: u64, only_before: u64| {
            let decisions = [("true>true", both), ("true>false", only_now), ("false>true", only_before)];
            Statistics {
                decided: 1000,
                decisions: decisions.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect(),
                ..Statistics::default()
            }
        };
        let quiet = counts(1000, 0);
        assert_eq!(test(quiet, quiet, &pairs(600, 20, 0)), None, "an incident makes both alert");
        assert_eq!(test(quiet, quiet, &pairs(5, 400, 0)), Some("alerts"), "a champion that cries wolf");
        assert_eq!(test(quiet, quiet, &pairs(0, 0, 60)), Some("alerts"), "a champion that is silent");
        assert_eq!(test(quiet, quiet, &pairs(5, 15, 0)), None, "too few differ");
    }
}
