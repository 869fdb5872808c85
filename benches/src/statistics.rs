//! What the statistics of the shadow cost: recording rows that both models answered, and joining labels to them.

use std::time::Duration;

use anyhow::{Result, ensure};
use fastrand::Rng;
use onnxd::verdict::state::{Answer, Label, Recorder, Row, Source, Target};

/// Seconds ahead that forecasts are of.
const HORIZON: u64 = 300;
/// Rows that differ; they come again and again, at later times.
const DIFFERENT: usize = 65_536;

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

/// What comes with the rows.
#[derive(Clone, Copy)]
enum With {
    Nothing,
    /// Each row tells the value that an earlier forecast was of.
    Values,
    /// That, and whether it was an anomaly, of one in twenty.
    Labels,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    ensure!(arguments.series > 0 && arguments.rows > 0 && arguments.rounds > 0, "give at least one of each");
    let answers = answers();
    println!("{} series, {} rounds of {} rows", arguments.series, arguments.rounds, arguments.rows);
    let mut values = 0.0;
    for (name, with) in
        [("rows", With::Nothing), ("rows with values", With::Values), ("rows with values and labels", With::Labels)]
    {
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

/// Pairs of answers: 3 rows in 1,000 are alarms, mostly of both.
fn answers() -> Vec<(Answer, Answer)> {
    let mut random = Rng::with_seed(1);
    let draw = |random: &mut Rng, alarm| Answer {
        alarm: Some(alarm),
        score: Some(f64::from(random.f32())),
        forecast: Some(f64::from(100.0 * random.f32())),
    };
    (0..DIFFERENT)
        .map(|_| {
            let alarm = random.u32(..1000) < 3;
            let other = if random.u32(..10) == 0 { random.u32(..1000) < 3 } else { alarm };
            (draw(&mut random, alarm), draw(&mut random, other))
        })
        .collect()
}

/// Nanoseconds of processor time a row of each round, ascending.
fn measure(arguments: &Arguments, answers: &[(Answer, Answer)], with: With) -> Vec<f64> {
    let mut recorder = Recorder::new(Some(HORIZON));
    let mut number = 0;
    let mut round = |rows: u64| {
        let started = clock();
        for _ in 0..rows {
            row(&mut recorder, arguments.series, number, answers, with);
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

fn row(recorder: &mut Recorder, series: u64, number: u64, answers: &[(Answer, Answer)], with: With) {
    let (champion, challenger) = answers[number as usize % answers.len()];
    // As hashes are: spread over all numbers.
    let name = (number % series + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let at = 1_800_000_000 + number / series * 60 + number % series * 60 / series;
    let target = Target::At { series: name, at };
    if !matches!(with, With::Nothing) {
        recorder.label(&Label { target, anomaly: None, value: champion.forecast, source: Source::Metric });
    }
    recorder.record(number + 1, &Row { series: name, at, champion, challenger });
    if matches!(with, With::Labels) && number.is_multiple_of(20) {
        recorder.label(&Label { target, anomaly: champion.alarm, value: None, source: Source::Human });
    }
}
