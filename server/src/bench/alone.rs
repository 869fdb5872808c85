//! The model without a server: rows a second for each number of rows in a run, on one thread and on more, with a session a
//! thread as the server has them.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::choice::{Advice, Choice};
use super::rows::Rows;
use super::{Progress, several, time};
use crate::model::check::{self, Profile};
use crate::model::runtime::Runtime;
use crate::model::session::Session;
use crate::model::tensor::Tensor;
use crate::model::{Artifact, Infer, RunError};

/// Values of a batch above which larger ones are not measured: an image has many thousands.
const MOST_VALUES: usize = 16 << 20;
/// Batches of one size at most, so that runs see rows that differ.
const WINDOWS: usize = 256;
/// How often each cell is measured: what changes meanwhile on the machine then meets all cells alike.
const ROUNDS: u32 = 3;
/// A run that takes longer than this and than the time for its cell is the longest that is measured.
const LONG: Duration = Duration::from_millis(250);
/// Percent by which rounds differ on a machine that nobody else uses, and then some.
const UNSTEADY: f64 = 25.0;
/// Percent of the time that runs take at least where nothing else uses the CPUs.
const RAN: f64 = 70.0;
/// When a run is stopped.
const RUN_LIMIT: Duration = Duration::from_secs(120);

/// What was measured, and what follows from it.
#[derive(Clone, Debug, Serialize)]
pub struct Alone {
    /// By threads, then by batch.
    pub cells: Vec<Cell>,
    /// What gets the most out of the model.
    pub best: Choice,
    /// What the server does by itself, or as it was told.
    pub server: Server,
    /// What to change; empty when there is nothing.
    pub advice: Vec<Advice>,
    /// The batch from which on a run was too long to be measured.
    pub too_long: Option<usize>,
}

/// One number of rows in a run, on one number of threads.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Cell {
    /// Threads that ran at a time.
    pub workers: usize,
    /// Rows of a run.
    pub batch: usize,
    /// Rows of all threads together.
    pub rows_per_second: f64,
    /// Median time of a run, in microseconds.
    pub run_us: f64,
    /// How far the rounds were apart: greatest less least, divided by the median.
    pub spread: f64,
}

/// What the server does with the model.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Server {
    /// Most rows in one run.
    pub max_batch: usize,
    /// Whether rows of different requests may share a run.
    pub batches: bool,
    /// Threads that run models.
    pub workers: usize,
    /// Threads that serve requests.
    pub http_threads: usize,
    /// Rows that may run where the request is, without a worker; 0 for a model too slow for that.
    pub inline_rows: usize,
}

/// What to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Numbers of threads.
    pub workers: Vec<usize>,
    /// Numbers of rows.
    pub batches: Vec<usize>,
    /// How long all of it may take.
    pub budget: Duration,
}

/// What one cell did in one round.
#[derive(Clone, Copy)]
struct Round {
    rows_per_second: f64,
    run_us: f64,
}

impl Plan {
    /// Powers of two: threads up to those of the server, rows up to the most that a run has.
    #[must_use]
    pub fn new(workers: usize, max_batch: usize, values: usize, budget: Duration) -> Self {
        let most = max_batch.min((MOST_VALUES / values.max(1)).max(1));
        Self { workers: powers(workers), batches: powers(most), budget }
    }
}

/// 1, 2, 4, .. and the number itself.
fn powers(most: usize) -> Vec<usize> {
    let mut powers: Vec<usize> =
        std::iter::successors(Some(1_usize), |n| n.checked_mul(2)).take_while(|n| *n < most).collect();
    powers.push(most.max(1));
    powers
}

/// What to know where others use the machine too: rounds that are far apart, or threads that wait for a CPU between runs, since
/// the median run does not see that.
#[must_use]
pub fn unsteady(cells: &[Cell]) -> Option<String> {
    let mut spreads: Vec<f64> = cells.iter().map(|cell| cell.spread).collect();
    let mut ran: Vec<f64> = cells.iter().map(Cell::ran).collect();
    let (spread, ran) = (100.0 * middle(&mut spreads), 100.0 * middle(&mut ran));
    let what = if ran < RAN {
        format!("threads ran {ran:.0} % of the time only")
    } else if spread > UNSTEADY {
        format!("the rounds differ by {spread:.0} %")
    } else {
        return None;
    };
    Some(format!("{what}: something else uses this machine; measure again when it does not"))
}

/// Opens a session for each thread, as the server does.
///
/// # Errors
/// What loading says.
pub fn sessions(
    runtime: &Runtime,
    artifact: &Artifact,
    profile: &Profile,
    count: usize,
) -> Result<Vec<Session>, String> {
    let open = |_| check::open(runtime, artifact, Some(profile)).map(|(session, _)| session);
    (0..count).map(open).collect::<Result<_, _>>().map_err(|e| e.to_string())
}

/// Measures all cells, one round after the other. Gives the cells and the batch that was too long, if there was one.
///
/// # Errors
/// When a run fails.
pub fn measure(
    sessions: &mut [impl Infer],
    rows: &Rows,
    plan: &Plan,
    progress: &mut Progress<'_>,
) -> Result<(Vec<Cell>, Option<usize>), String> {
    let count = plan.workers.len() * plan.batches.len();
    let slice = plan.budget / (ROUNDS * u32::try_from(count).unwrap_or(u32::MAX));
    let mut rounds: Vec<(usize, usize, Vec<Round>)> = vec![];
    let mut too_long: Option<usize> = None;
    let begin = Instant::now();
    'all: for round in 0..ROUNDS {
        for workers in &plan.workers {
            for batch in &plan.batches {
                let place = rounds.iter().position(|(w, b, _)| (w, b) == (workers, batch));
                // One that took more than its share has had its time, and so have those that come after it.
                let slow = place.is_some_and(|at| rounds[at].2[0].run_us > 2e6 * slice.as_secs_f64());
                if too_long.is_some_and(|most| *batch >= most) || (round > 0 && (slow || place.is_none())) {
                    continue;
                }
                let told = format!("{} in a run on {}", several(*batch, "row"), several(*workers, "thread"));
                if !progress(begin.elapsed(), &told) && round > 0 {
                    break 'all;
                }
                let seen = one(&mut sessions[..*workers], rows, *batch, slice)?;
                match place {
                    Some(place) => rounds[place].2.push(seen),
                    None => rounds.push((*workers, *batch, vec![seen])),
                }
                let run = Duration::from_secs_f64(seen.run_us / 1e6);
                let over = begin.elapsed() > plan.budget * 2;
                if round == 0 && (run > LONG.max(slice * 4) || over) {
                    too_long = plan.batches.iter().copied().find(|larger| larger > batch);
                    break;
                }
            }
        }
    }
    let cells = rounds.iter().map(|(workers, batch, rounds)| Cell::of(*workers, *batch, rounds));
    Ok((cells.collect(), too_long))
}

/// Runs batches of one size on every session at a time.
fn one(sessions: &mut [impl Infer], rows: &Rows, batch: usize, slice: Duration) -> Result<Round, String> {
    let windows = (rows.len() / batch).clamp(1, WINDOWS);
    let batches: Vec<Vec<Tensor>> = (0..windows).map(|window| rows.batch(window * batch, batch)).collect();
    let barrier = Barrier::new(sessions.len());
    let work = std::thread::scope(|scope| {
        let threads = sessions.iter_mut().enumerate().map(|(thread, session)| {
            let (batches, barrier) = (&batches, &barrier);
            // Each begins at another batch, as the rows of different requests differ.
            scope.spawn(move || turns(session, batches, thread * 7, barrier, slice))
        });
        let threads: Vec<_> = threads.collect();
        let ended =
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err("the model panicked".into())));
        ended.collect::<Result<Vec<_>, String>>()
    });
    let work = work.map_err(|e| format!("a run of {} failed: {e}", several(batch, "row")))?;
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    let rate = work.iter().map(|(times, took)| (times.len() * batch) as f64 / took.as_secs_f64()).sum();
    let mut times: Vec<f64> = work.into_iter().flat_map(|(times, _)| times).collect();
    Ok(Round { rows_per_second: rate, run_us: middle(&mut times) })
}

/// One thread's runs: their times in microseconds, and how long all of them took.
fn turns(
    session: &mut impl Infer,
    batches: &[Vec<Tensor>],
    begin: usize,
    barrier: &Barrier,
    slice: Duration,
) -> Result<(Vec<f64>, Duration), String> {
    let mut run =
        |turn: usize| session.run(&batches[(begin + turn) % batches.len()], Instant::now() + RUN_LIMIT).map(drop);
    // The first run finds no memory allocated for it.
    let first = run(0);
    barrier.wait();
    first.map_err(told)?;
    let (start, mut times) = (Instant::now(), vec![]);
    let mut before = start;
    loop {
        run(times.len() + 1).map_err(told)?;
        let now = Instant::now();
        times.push((now - before).as_secs_f64() * 1e6);
        before = now;
        if now - start >= slice {
            return Ok((times, now - start));
        }
    }
}

fn told(error: RunError) -> String {
    match error {
        RunError::Deadline => format!("it did not end in {}", time(RUN_LIMIT.as_secs_f64() * 1e6)),
        RunError::Failed(reason) => reason,
    }
}

impl Cell {
    /// The share of the time that its threads ran, as the median run tells it.
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    fn ran(&self) -> f64 {
        self.rows_per_second * self.run_us / 1e6 / (self.workers * self.batch) as f64
    }

    fn of(workers: usize, batch: usize, rounds: &[Round]) -> Self {
        let of = |value: fn(&Round) -> f64| rounds.iter().map(value).collect::<Vec<f64>>();
        let mut rates = of(|round| round.rows_per_second);
        let rows_per_second = middle(&mut rates);
        // Sorted by now.
        let spread = (rates[rates.len() - 1] - rates[0]) / rows_per_second;
        Self { workers, batch, rows_per_second, run_us: middle(&mut of(|round| round.run_us)), spread }
    }
}

/// The median; sorts.
fn middle(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_others_use_is_told() {
        let cell = |rows_per_second, spread| Cell { workers: 2, batch: 4, rows_per_second, run_us: 100.0, spread };
        // Two threads without a pause would run 80,000 rows a second.
        assert_eq!(unsteady(&[cell(79_000.0, 0.02)]), None);
        let told = |cell| unsteady(&[cell]).expect("something is told");
        assert!(told(cell(20_000.0, 0.02)).starts_with("threads ran 25 % of the time only: "));
        assert!(told(cell(79_000.0, 0.4)).starts_with("the rounds differ by 40 %: "));
    }

    #[test]
    fn sizes_double_up_to_the_most_that_a_run_has() {
        assert_eq!(powers(1), [1]);
        assert_eq!(powers(12), [1, 2, 4, 8, 12]);
        let plan = Plan::new(2, 1024, 5, Duration::from_secs(1));
        assert_eq!((plan.workers.as_slice(), plan.batches.len()), (&[1, 2][..], 11));
        // An image of 150,528 values: 111 of them are as much as is kept.
        assert_eq!(Plan::new(1, 1024, 150_528, Duration::ZERO).batches.last(), Some(&111));
    }
}
