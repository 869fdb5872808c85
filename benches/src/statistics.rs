//! What the statistics of the shadow cost: recording rows that both models answered, and joining labels to them.

use std::time::Duration;

use anyhow::{Result, ensure};
use onnxd::verdict::state::{Answer, Recorder};

use crate::pairs::{self, DIFFERENT, HORIZON, With};

/// Measures the statistics of the shadow lane, on one thread.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Series, each with a row a minute.
    #[arg(long, default_value_t = 1000)]
    series: u64,
    /// Rows of each round.
    #[arg(long, default_value_t = 500_000)]
    rows: u64,
    /// Rounds, of which the median counts.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Fail if rows with values cost more nanoseconds than this.
    #[arg(long)]
    most: Option<f64>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    ensure!(arguments.series > 0 && arguments.rows > 0 && arguments.rounds > 0, "give at least one of each");
    let answers = pairs::answers();
    println!("{} series, {} rounds of {} rows", arguments.series, arguments.rounds, arguments.rows);
    let mut values = 0.0;
    for (name, with) in [
        ("rows", With::Nothing),
        ("rows with values", With::Values),
        ("rows with values and labels", With::Labels),
        ("rows with values and inputs", With::Inputs),
    ] {
        let figures = measure(arguments, &answers, with);
        let middle = figures[figures.len() / 2];
        println!("{name:<28} {middle:>5.0} ns/row   {:.0} to {:.0}", figures[0], figures[figures.len() - 1]);
        if matches!(with, With::Values) {
            values = middle;
        }
    }
    if let Some(most) = arguments.most {
        ensure!(values <= most, "a row costs {values:.0} ns, beyond {most:.0}");
    }
    Ok(())
}

/// Nanoseconds of processor time a row of each round, ascending.
fn measure(arguments: &Arguments, answers: &[(Answer, Answer)], with: With) -> Vec<f64> {
    let mut recorder = Recorder::new(Some(HORIZON));
    if matches!(with, With::Inputs) {
        recorder = recorder.trained(pairs::references());
    }
    let mut number = 0;
    let mut round = |rows: u64| {
        let started = clock();
        for _ in 0..rows {
            pairs::row(&mut recorder, arguments.series, number, answers, with);
            number += 1;
        }
        (clock() - started).as_secs_f64() * 1e9 / rows as f64
    };
    // As many as are kept, so that each further row takes the place of another.
    round(2 * DIFFERENT as u64);
    let mut figures: Vec<f64> = (0..arguments.rounds).map(|_| round(arguments.rows)).collect();
    figures.sort_by(f64::total_cmp);
    figures
}

/// Time that this thread had a processor, so that what else runs on the machine does not count.
#[cfg(target_os = "linux")]
fn clock() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).expect("less than a second"))
}

#[cfg(not(target_os = "linux"))]
fn clock() -> Duration {
    static STARTED: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    STARTED.get_or_init(std::time::Instant::now).elapsed()
}
