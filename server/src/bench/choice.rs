//! What the measured rates say of the settings: the best batch, the best number of workers, and whether anything is gained
//! by them.

use serde::Serialize;

use super::alone::{Cell, Server};
use super::{number, several, time};

/// Rates this close to the greatest are as good.
const CLOSE: f64 = 0.95;
/// What is gained by less is not worth a setting.
const WORTH: f64 = 0.05;

/// A number of rows in a run and a number of threads.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Choice {
    /// Rows of a run: the least within 5 % of the greatest rate.
    pub batch: usize,
    /// Threads: the fewest within 5 % of the greatest rate.
    pub workers: usize,
    /// What they reach.
    pub rows_per_second: f64,
    /// Median time of a run, in microseconds.
    pub run_us: f64,
}

/// A setting that is worth a change.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Advice {
    /// A flag of `onnxd serve`, or a key of the manifest.
    pub setting: &'static str,
    /// Its value.
    pub value: usize,
    /// What is gained, as a sentence.
    pub why: String,
}

/// The best of what was measured, among runs that take at most half of the latency: a row waits for the run before its own.
#[must_use]
pub fn best(cells: &[Cell], latency_us: f64) -> Option<Choice> {
    let fits = |cell: &&Cell| cell.batch == 1 || cell.run_us <= latency_us / 2.0;
    let greatest = |cells: &mut dyn Iterator<Item = &Cell>| cells.map(|cell| cell.rows_per_second).fold(0.0, f64::max);
    let most = greatest(&mut cells.iter().filter(fits));
    let good = cells.iter().filter(fits).filter(|cell| cell.rows_per_second >= CLOSE * most);
    let workers = good.map(|cell| cell.workers).min()?;
    let mut beside = cells.iter().filter(fits).filter(|cell| cell.workers == workers);
    let most = greatest(&mut beside.clone());
    let cell = beside.find(|cell| cell.rows_per_second >= CLOSE * most)?;
    let Cell { batch, workers, rows_per_second, run_us, .. } = *cell;
    Some(Choice { batch, workers, rows_per_second, run_us })
}

/// What to change of what the server does by itself; nothing when the difference is no more than the rounds differ.
#[must_use]
pub fn advice(cells: &[Cell], best: Choice, server: Server, latency_us: f64) -> Vec<Advice> {
    let cell = |workers: usize, batch: usize| cells.iter().find(|cell| (cell.workers, cell.batch) == (workers, batch));
    let largest = cells.iter().map(|cell| cell.batch).filter(|batch| *batch <= server.max_batch).max().unwrap_or(1);
    let mut advice = vec![];
    let (now, then) = (cell(server.workers, largest), cell(server.workers, best.batch));
    if let (Some(now), Some(then)) = (now, then)
        && server.batches
        && best.batch < largest
    {
        let key = "limits.max_batch";
        if let Some(gain) = gain(now, then) {
            let why = format!("{gain} rows/s than in runs of {largest} rows on {}", several(server.workers, "worker"));
            advice.push(Advice { setting: key, value: best.batch, why });
        } else if now.batch > 1 && now.run_us > latency_us / 2.0 {
            let (run, half) = (time(now.run_us), time(latency_us / 2.0));
            // The largest that still fits, since nothing is gained by less.
            let fits = cells.iter().filter(|cell| cell.workers == server.workers && cell.run_us <= latency_us / 2.0);
            let value = fits.map(|cell| cell.batch).max().unwrap_or(1);
            let why = format!(
                "where rows wait, a run of {largest} takes {run}, and whoever comes meanwhile waits for it: runs of {value} end \
                 within {half}, half of the latency"
            );
            advice.push(Advice { setting: key, value, why });
        }
    }
    if let (Some(now), Some(then)) = (then, cell(best.workers, best.batch))
        && best.workers != server.workers
        && let Some(gain) = gain(now, then)
    {
        let why = format!(
            "{gain} rows/s than on {}, in runs of {}",
            several(server.workers, "worker"),
            several(best.batch, "row")
        );
        advice.push(Advice { setting: "--workers", value: best.workers, why });
    }
    advice
}

/// How much more a cell does than another, when that is more than it is worth and than the rounds of both differ.
fn gain(now: &Cell, then: &Cell) -> Option<String> {
    let gain = then.rows_per_second / now.rows_per_second - 1.0;
    (gain > WORTH.max(now.spread).max(then.spread)).then(|| format!("{} % more", number(100.0 * gain)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: Server = Server { max_batch: 4, batches: true, workers: 2, http_threads: 1, inline_rows: 0 };
    const LATENCY: f64 = 5000.0;

    /// Rates of batches of 1, 2 and 4 on one thread and on two.
    fn cells(one: [f64; 3], two: [f64; 3], spread: f64) -> Vec<Cell> {
        let cells = [(1, one), (2, two)].into_iter().flat_map(|(workers, rates)| {
            [1, 2, 4].into_iter().zip(rates).map(move |(batch, rows_per_second)| {
                let run_us = 1e6 * f64::from(batch) / rows_per_second;
                Cell { workers, batch: batch.try_into().expect("small"), rows_per_second, run_us, spread }
            })
        });
        cells.collect()
    }

    fn told(cells: &[Cell]) -> (Choice, Vec<Advice>) {
        let best = best(cells, LATENCY).expect("cells");
        (best, advice(cells, best, SERVER, LATENCY))
    }

    #[test]
    fn the_least_that_is_as_good_is_best_and_then_there_is_nothing_to_change() {
        let (best, advice) = told(&cells([1e4, 1.9e4, 2e4], [2e4, 3.85e4, 4e4], 0.01));
        assert_eq!((best.batch, best.workers), (2, 2));
        assert_eq!(advice, []);
    }

    #[test]
    fn a_batch_that_costs_more_a_row_is_told_with_what_is_gained() {
        let (best, advice) = told(&cells([1e4, 2e4, 1e4], [2e4, 4e4, 2e4], 0.01));
        assert_eq!((best.batch, best.workers), (2, 2));
        assert_eq!(advice.len(), 1);
        assert_eq!((advice[0].setting, advice[0].value), ("limits.max_batch", 2));
        assert_eq!(advice[0].why, "100 % more rows/s than in runs of 4 rows on 2 workers");
        // The same where the rounds differ by more.
        assert_eq!(told(&cells([1e4, 2e4, 1e4], [2e4, 4e4, 2e4], 1.2)).1, []);
    }

    #[test]
    fn threads_that_are_in_each_others_way_are_told() {
        let (best, advice) = told(&cells([1e4, 2e4, 4e4], [0.5e4, 1e4, 2e4], 0.01));
        assert_eq!((best.batch, best.workers), (4, 1));
        assert_eq!((advice.len(), advice[0].setting, advice[0].value), (1, "--workers", 1));
    }

    #[test]
    fn runs_that_take_longer_than_half_of_the_latency_are_no_choice() {
        // 4 rows take 4 ms.
        let (best, advice) = told(&cells([900.0, 950.0, 1000.0], [900.0, 950.0, 1000.0], 0.01));
        assert_eq!((best.batch, best.workers), (2, 1));
        assert_eq!((advice.len(), advice[0].setting, advice[0].value), (1, "limits.max_batch", 2));
        assert!(advice[0].why.contains("a run of 4 takes 4 ms"), "{}", advice[0].why);
    }
}
