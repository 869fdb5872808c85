//! onnxd against the floor, in rounds that take turns, because the machine's speed drifts: only ratios within one
//! round say anything.

use std::{fmt::Write as _, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

use crate::{
    bodies,
    load::{self, Plan},
    progress,
    report::{self, Figures, Provenance, median, micros, range},
    server::Server,
    svg::{self, Bar},
};

/// Async threads of the echoes. The floor is the faster one.
const ECHO_THREADS: [usize; 2] = [1, 2];

/// Measures onnxd as a ratio to an echo that has no model.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The binary to measure.
    #[arg(long, required_unless_present = "onnxd_url", requires = "repository")]
    onnxd: Option<PathBuf>,
    /// The repository it serves.
    #[arg(long, requires = "onnxd")]
    repository: Option<PathBuf>,
    /// A server that already runs, instead of a binary: http://127.0.0.1:8080/predict.
    #[arg(long, conflicts_with = "onnxd")]
    onnxd_url: Option<String>,
    /// Reports go to a folder of today's date in here.
    #[arg(long, default_value = "benches/runs")]
    out: PathBuf,
    #[arg(long, default_value_t = 7)]
    rounds: u32,
    /// Seconds measured per server and number of connections in each round.
    #[arg(long, default_value = "2", value_parser = crate::seconds)]
    seconds: Duration,
    /// Seconds of the same load before each measurement, not counted.
    #[arg(long, default_value = "0.5", value_parser = crate::seconds)]
    warm_up: Duration,
    #[arg(long, value_delimiter = ',', default_values_t = [64, 1])]
    connections: Vec<usize>,
    /// More arguments for `onnxd serve`.
    #[arg(last = true)]
    more: Vec<String>,
}

#[derive(Serialize)]
struct Measurement {
    round: u32,
    server: String,
    connections: usize,
    #[serde(flatten)]
    figures: Figures,
}

/// One figure of onnxd over the same figure of the floor.
#[derive(Serialize)]
struct Ratio {
    figure: &'static str,
    connections: usize,
    better: &'static str,
    floor: String,
    floor_median: f64,
    onnxd_median: f64,
    per_round: Vec<f64>,
    median: f64,
}

#[derive(Serialize)]
struct Comparison {
    #[serde(flatten)]
    provenance: Provenance,
    seconds: f64,
    ratios: Vec<Ratio>,
    measurements: Vec<Measurement>,
}

/// How to read a figure, and which way is better.
struct Figure {
    name: &'static str,
    better: &'static str,
    of: fn(&Figures) -> Option<f64>,
}

const THROUGHPUT: Figure =
    Figure { name: "requests/s", better: "higher", of: |figures| Some(figures.requests_per_second) };
const P50: Figure = Figure { name: "p50", better: "lower", of: |figures| figures.p50_us };
const P99: Figure = Figure { name: "p99", better: "lower", of: |figures| figures.p99_us };
const CPU: Figure = Figure { name: "CPU/request", better: "lower", of: |figures| figures.server_cpu_us_per_request };

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    ensure!(arguments.rounds > 0, "at least one round is needed");
    let mut servers = Vec::new();
    for threads in ECHO_THREADS {
        servers.push(Server::echo(threads)?);
    }
    servers.push(match (&arguments.onnxd, &arguments.onnxd_url) {
        (Some(binary), _) => {
            let repository = arguments.repository.as_ref().context("--repository is needed with --onnxd")?;
            Server::onnxd("onnxd", binary, repository, &arguments.more)?
        }
        (None, url) => Server::running("onnxd", url.as_deref().context("--onnxd or --onnxd-url is needed")?)?,
    });
    let measurements = measure(arguments, &servers)?;
    let errors: u64 = measurements.iter().map(|measurement| measurement.figures.errors).sum();
    let ratios = ratios(&measurements, &arguments.connections)?;
    let provenance = Provenance::now(arguments.onnxd.as_deref());
    let folder = provenance.folder(&arguments.out)?;
    let comparison = Comparison { provenance, seconds: arguments.seconds.as_secs_f64(), ratios, measurements };
    let markdown = comparison.markdown(errors);
    println!("{markdown}");
    report::write(&folder, "compare", &comparison, &markdown, &comparison.chart())?;
    ensure!(errors == 0, "{errors} requests were not answered well: the figures do not count");
    Ok(())
}

fn measure(arguments: &Arguments, servers: &[Server]) -> Result<Vec<Measurement>> {
    let bodies = bodies::ordinary();
    let mut measurements = Vec::new();
    for round in 1..=arguments.rounds {
        for &connections in &arguments.connections {
            for turn in 0..servers.len() {
                // Another server is first in each round.
                let server = &servers[(turn + round as usize) % servers.len()];
                let mut plan = Plan {
                    target: server.target.clone(),
                    bodies: bodies.clone(),
                    connections,
                    duration: arguments.warm_up,
                    rate: None,
                    watch: None,
                };
                load::run(&plan)?;
                plan.duration = arguments.seconds;
                let before = server.cpu();
                let outcome = load::run(&plan)?;
                let cpu = server.cpu().zip(before).map(|(after, before)| after - before);
                let figures = Figures::new(&outcome, cpu);
                progress(&format!(
                    "round {round}/{}: {} at {connections}: {:.0}/s, p50 {}, p99 {}, {} errors",
                    arguments.rounds,
                    server.name,
                    figures.requests_per_second,
                    micros(figures.p50_us),
                    micros(figures.p99_us),
                    figures.errors
                ));
                measurements.push(Measurement { round, server: server.name.clone(), connections, figures });
            }
        }
    }
    Ok(measurements)
}

fn ratios(measurements: &[Measurement], connections: &[usize]) -> Result<Vec<Ratio>> {
    let mut ratios = Vec::new();
    for &connections in connections {
        let series = |server: &str, figure: &Figure| -> Vec<f64> {
            let mine = measurements.iter().filter(|one| one.server == server && one.connections == connections);
            mine.filter_map(|one| (figure.of)(&one.figures)).collect()
        };
        let floor = ECHO_THREADS
            .map(|threads| format!("echo-{threads}"))
            .into_iter()
            .max_by(|a, b| median(&series(a, &THROUGHPUT)).total_cmp(&median(&series(b, &THROUGHPUT))))
            .context("no echo was measured")?;
        // One connection's throughput is its latency over again.
        let figures: &[Figure] = if connections > 1 { &[THROUGHPUT, P50, P99, CPU] } else { &[P50, P99] };
        for figure in figures {
            let (ours, theirs) = (series("onnxd", figure), series(&floor, figure));
            if ours.is_empty() || ours.len() != theirs.len() {
                continue; // not known of a server that is not our process
            }
            let per_round: Vec<_> = ours.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs).collect();
            ratios.push(Ratio {
                figure: figure.name,
                connections,
                better: figure.better,
                floor: floor.clone(),
                floor_median: median(&theirs),
                onnxd_median: median(&ours),
                median: median(&per_round),
                per_round,
            });
        }
    }
    Ok(ratios)
}

impl Ratio {
    fn label(&self) -> String {
        let plural = if self.connections == 1 { "" } else { "s" };
        format!("{}, {} connection{plural}", self.figure, self.connections)
    }

    fn shown(&self, value: f64) -> String {
        if self.figure == THROUGHPUT.name { format!("{value:.0}/s") } else { micros(Some(value)) }
    }
}

impl Comparison {
    fn markdown(&self, errors: u64) -> String {
        let rounds = self.ratios.first().map_or(0, |ratio| ratio.per_round.len());
        let mut text = format!(
            "# onnxd over the echo floor\n\n{}\nThe floor is the echo at its best thread count. {rounds} rounds of \
             {} s each, taking turns; closed loop; {errors} errors. Absolute figures drift with the machine: read the \
             ratios.\n\n| figure | better | onnxd | floor | floor is | ratio, median | each round |\n\
             |---|---|---|---|---|---|---|\n",
            self.provenance.markdown(),
            self.seconds
        );
        for ratio in &self.ratios {
            let rounds: Vec<_> = ratio.per_round.iter().map(|value| format!("{value:.2}")).collect();
            let _written = writeln!(
                text,
                "| {} | {} | {} | {} | {} | **{:.2}** | {} |",
                ratio.label(),
                ratio.better,
                ratio.shown(ratio.onnxd_median),
                ratio.shown(ratio.floor_median),
                ratio.floor,
                ratio.median,
                rounds.join(" ")
            );
        }
        text
    }

    fn chart(&self) -> String {
        let bars = self.ratios.iter().map(|ratio| {
            let (low, high) = range(&ratio.per_round);
            let note = format!(
                "{} is better; {} over {}",
                ratio.better,
                ratio.shown(ratio.onnxd_median),
                ratio.shown(ratio.floor_median)
            );
            Bar { label: ratio.label(), note, value: ratio.median, low, high }
        });
        svg::chart(
            "onnxd over the echo floor",
            &format!(
                "median of the rounds and their range; {}, load generator on the same cores; {}",
                self.provenance.machine, self.provenance.date
            ),
            "an HTTP echo without a model",
            &bars.collect::<Vec<_>>(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{histogram::Histogram, load::Outcome};
    use std::collections::BTreeMap;

    fn measured(round: u32, server: &str, answers: u64) -> Measurement {
        let mut latency = Histogram::new();
        (0..answers).for_each(|_| latency.record(Duration::from_micros(100)));
        let outcome = Outcome {
            elapsed: Duration::from_secs(1),
            latency,
            service: Histogram::new(),
            lateness: Histogram::new(),
            statuses: BTreeMap::from([(200, answers)]),
            broken: 0,
            wrong_bodies: 0,
            unanswered: 0,
            watched: None,
        };
        Measurement { round, server: server.to_owned(), connections: 64, figures: Figures::new(&outcome, None) }
    }

    #[test]
    fn the_floor_is_the_faster_echo_and_rounds_are_compared_with_themselves() {
        let measurements = [
            measured(1, "echo-1", 100),
            measured(1, "echo-2", 90),
            measured(1, "onnxd", 80),
            measured(2, "onnxd", 20),
            measured(2, "echo-2", 30),
            measured(2, "echo-1", 40),
        ];
        let ratios = ratios(&measurements, &[64]).expect("there is a floor");
        assert_eq!((ratios[0].figure, ratios[0].floor.as_str()), ("requests/s", "echo-1"));
        assert_eq!(ratios[0].per_round, [0.8, 0.5]);
        assert_eq!(ratios.len(), 3, "CPU is not known");
    }
}
