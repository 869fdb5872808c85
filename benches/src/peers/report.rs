//! What is written of a run: all figures, one table a model, one chart.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use anyhow::Result;
use onnxd::load::Outcome;
use serde::Serialize;

use super::{
    Arguments, Failure, Measurement,
    catalog::{PEERS, Peer, Places},
    size,
};
use crate::{
    report::{self, Figures, Provenance, median, micros, range},
    svg::{self, Bar},
};

/// Everything of a run.
#[derive(Serialize)]
pub(super) struct Report {
    #[serde(flatten)]
    provenance: Provenance,
    rounds: u32,
    connections: usize,
    seconds: f64,
    sizes: Sizes,
    summary: Vec<Row>,
    failures: Vec<Failure>,
    measurements: Vec<Measurement>,
}

/// Bytes on disk, and versions, by server.
#[derive(Serialize)]
pub(super) struct Sizes {
    bytes: BTreeMap<String, u64>,
    versions: BTreeMap<String, Vec<String>>,
}

/// One server with one model over the rounds.
#[derive(Serialize)]
struct Row {
    model: String,
    server: String,
    requests_per_second: f64,
    /// How many times as much onnxd answered right beside it: the median, and each round.
    onnxd_times: f64,
    onnxd_times_per_round: Vec<f64>,
    cpu_us_per_request: f64,
    memory_bytes: Option<f64>,
    processes: usize,
    cold_start_s: f64,
    rate: f64,
    /// At that rate, of all rounds together.
    open: Figures,
    onnxd_open: Option<Figures>,
    errors: u64,
}

impl Sizes {
    pub(super) fn new(places: &Places, peers: &[&Peer], onnxd: &Path, library: Option<&Path>) -> Result<Self> {
        let mut sizes = Self { bytes: BTreeMap::new(), versions: BTreeMap::new() };
        let files = [Some(onnxd), library].into_iter().flatten();
        let lengths = files.map(|file| Ok(std::fs::metadata(file)?.len()));
        sizes.bytes.insert("onnxd".to_owned(), lengths.sum::<Result<u64>>()?);
        for peer in peers {
            sizes.bytes.insert(peer.name.to_owned(), size::of(&places.environment(peer))?);
            sizes.versions.insert(peer.name.to_owned(), places.versions(peer)?);
        }
        Ok(sizes)
    }
}

impl Report {
    pub(super) fn new(
        provenance: Provenance,
        arguments: &Arguments,
        sizes: Sizes,
        measurements: Vec<Measurement>,
        failures: Vec<Failure>,
    ) -> Self {
        let summary = summary(&measurements);
        Self {
            provenance,
            rounds: arguments.rounds,
            connections: arguments.connections,
            seconds: arguments.seconds.as_secs_f64(),
            sizes,
            summary,
            failures,
            measurements,
        }
    }

    /// Prints the tables and writes the files.
    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        let markdown = self.markdown();
        println!("{markdown}");
        report::write(folder, "peers", self, &markdown, &self.chart())
    }

    fn models(&self) -> Vec<&str> {
        let mut models = Vec::new();
        for row in &self.summary {
            if !models.contains(&row.model.as_str()) {
                models.push(row.model.as_str());
            }
        }
        models
    }

    /// onnxd first, then the others from the nearest on; of one server with other settings, the better.
    fn shown(&self, model: &str) -> Vec<&Row> {
        let mut rows: Vec<_> = self.summary.iter().filter(|row| row.model == model).collect();
        rows.sort_by(|a, b| a.onnxd_times.total_cmp(&b.onnxd_times));
        rows.sort_by_key(|row| row.server != "onnxd");
        let mut seen = Vec::new();
        rows.retain(|row| {
            let environment = environment(&row.server);
            let first = !seen.contains(&environment);
            seen.push(environment);
            first
        });
        rows
    }

    fn markdown(&self) -> String {
        let mut text = format!(
            "# onnxd beside other servers\n\n{}\n{} rounds, servers taking turns; {} connections; {} s each of a closed loop \
             (requests/s, CPU, memory) and of an open loop at half of that rate (p50, p99, p99.9, from when a request was due). \
             *onnxd answers* compares with onnxd under the same load in the same turn; *onnxd p99* is onnxd's at the rate of \
             that row. Memory is the proportional set size of all processes, after the closed loop. The tolerance of scores is \
             1e-4. Absolute figures drift with the machine: read the ratios.\n",
            self.provenance.markdown(),
            self.rounds,
            self.connections,
            self.seconds,
        );
        for model in self.models() {
            let _written = write!(
                text,
                "\n## {model}\n\n| server | requests/s | onnxd answers | rate | p50 | p99 | p99.9 | onnxd p99 | CPU/request | \
                 memory | processes | start to first answer | installed |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|\n"
            );
            for row in self.shown(model) {
                let _written = writeln!(text, "{}", self.line(row));
            }
        }
        if !self.failures.is_empty() {
            text += "\n## Not as meant\n\n";
            for Failure { round, model, server, error } in &self.failures {
                let first = error.lines().next().unwrap_or_default();
                let _written = writeln!(text, "- round {round}, {model}, {server}: {first}");
            }
        }
        text += "\n## Versions\n\n";
        for (server, versions) in &self.sizes.versions {
            let _written = writeln!(text, "- {server}: {}", versions.join(", "));
        }
        text
    }

    fn line(&self, row: &Row) -> String {
        let (low, high) = range(&row.onnxd_times_per_round);
        let times = match row.server.as_str() {
            "onnxd" => "-".to_owned(),
            _ => format!("**{:.1} times** ({low:.1} to {high:.1})", row.onnxd_times),
        };
        format!(
            "| {} | {:.0} | {times} | {:.0}/s | {} | {} | {} | {} | {} | {} | {} | {:.2} s | {} |",
            row.server,
            row.requests_per_second,
            row.rate,
            micros(row.open.p50_us),
            micros(row.open.p99_us),
            micros(row.open.p999_us),
            micros(row.onnxd_open.as_ref().and_then(|figures| figures.p99_us)),
            micros(Some(row.cpu_us_per_request)),
            row.memory_bytes.map_or_else(|| "-".to_owned(), megabytes),
            row.processes,
            row.cold_start_s,
            self.sizes.bytes.get(&row.server).map_or_else(|| "-".to_owned(), |bytes| megabytes(*bytes as f64)),
        )
    }

    fn chart(&self) -> String {
        let mut bars = Vec::new();
        for model in self.models() {
            for row in self.shown(model).into_iter().filter(|row| row.server != "onnxd") {
                let parts: Vec<_> = row.onnxd_times_per_round.iter().map(|times| 1.0 / times).collect();
                let (low, high) = range(&parts);
                let note =
                    format!("{:.0}/s; onnxd answers {:.1} times as much", row.requests_per_second, row.onnxd_times);
                bars.push(Bar { label: format!("{model}, {}", row.server), note, value: median(&parts), low, high });
            }
        }
        let subtitle = format!(
            "requests/s over onnxd's in the same turn, {} connections, the rounds' median and range; {}, {}",
            self.connections, self.provenance.machine, self.provenance.date
        );
        svg::chart("Other servers over onnxd", &subtitle, "onnxd", &bars)
    }
}

fn environment(server: &str) -> &str {
    PEERS.iter().find(|peer| peer.name == server).map_or(server, |peer| peer.environment)
}

fn megabytes(bytes: f64) -> String {
    format!("{:.0} MB", bytes / 1e6)
}

/// One row for each model and server, in the order of the measurements.
fn summary(measurements: &[Measurement]) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for one in measurements {
        if rows.iter().any(|row| row.model == one.model && row.server == one.server) {
            continue;
        }
        let same: Vec<_> =
            measurements.iter().filter(|other| other.model == one.model && other.server == one.server).collect();
        rows.push(row(&same));
    }
    rows
}

fn row(same: &[&Measurement]) -> Row {
    let middle = |of: &dyn Fn(&Measurement) -> f64| median(&same.iter().map(|one| of(one)).collect::<Vec<_>>());
    let times = |one: &Measurement| one.onnxd_requests_per_second / one.closed.requests_per_second.max(1e-9);
    let per_round: Vec<_> = same.iter().map(|one| times(one)).collect();
    let memory: Option<Vec<_>> = same.iter().map(|one| one.memory_bytes.map(|bytes| bytes as f64)).collect();
    let beside: Vec<_> = same.iter().filter_map(|one| one.onnxd_open_outcome.as_ref()).collect();
    Row {
        model: same[0].model.clone(),
        server: same[0].server.clone(),
        requests_per_second: middle(&|one| one.closed.requests_per_second),
        onnxd_times: median(&per_round),
        onnxd_times_per_round: per_round,
        cpu_us_per_request: middle(&|one| one.closed.server_cpu_us_per_request.unwrap_or_default()),
        memory_bytes: memory.map(|values| median(&values)),
        processes: same[0].processes,
        cold_start_s: middle(&|one| one.cold_start_s),
        rate: middle(&|one| one.rate),
        open: Figures::new(&together(same.iter().map(|one| &one.open_outcome)), None),
        onnxd_open: (!beside.is_empty()).then(|| Figures::new(&together(beside.into_iter()), None)),
        errors: same.iter().map(|one| one.closed.errors + one.open.errors).sum(),
    }
}

fn together<'a>(outcomes: impl Iterator<Item = &'a Outcome>) -> Outcome {
    let mut all = Outcome::default();
    outcomes.for_each(|outcome| all.merge(outcome));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn measured(round: u32, server: &str, rate: u64, onnxd: f64) -> Measurement {
        let mut outcome = Outcome { elapsed: Duration::from_secs(1), ..Outcome::default() };
        (0..rate).for_each(|_| outcome.latency.record(Duration::from_millis(u64::from(round))));
        Measurement {
            round,
            model: "gbt".to_owned(),
            server: server.to_owned(),
            cold_start_s: 1.0,
            memory_bytes: Some(50_000_000),
            processes: 1,
            closed: Figures::new(&outcome, Some(Duration::from_millis(100))),
            onnxd_requests_per_second: onnxd,
            rate: rate as f64 / 2.0,
            open: Figures::new(&outcome, None),
            onnxd_open: None,
            open_outcome: outcome,
            onnxd_open_outcome: None,
        }
    }

    #[test]
    fn a_server_is_compared_within_its_turn_and_the_better_setting_is_shown() {
        let measurements = vec![
            measured(1, "onnxd", 1000, 1000.0),
            measured(1, "fastapi-1", 100, 1000.0),
            measured(1, "fastapi-2", 150, 1200.0),
            measured(1, "mlflow", 10, 1000.0),
            measured(2, "fastapi-2", 50, 500.0),
        ];
        let summary = summary(&measurements);
        let fast = summary.iter().find(|row| row.server == "fastapi-2").expect("it was measured");
        assert_eq!((fast.requests_per_second, &fast.onnxd_times_per_round[..]), (100.0, &[8.0, 10.0][..]));
        assert_eq!((fast.onnxd_times, fast.open.answered), (9.0, 200));
        let sizes = Sizes {
            bytes: BTreeMap::from([("mlflow".to_owned(), 900_000_000)]),
            versions: BTreeMap::from([("mlflow".to_owned(), vec!["mlflow 3".to_owned()])]),
        };
        let failures =
            vec![Failure { round: 1, model: "gbt".into(), server: "bentoml".into(), error: "no\nmore".into() }];
        let report = Report {
            provenance: Provenance::now(None),
            rounds: 2,
            connections: 64,
            seconds: 1.0,
            sizes,
            summary,
            failures,
            measurements,
        };
        let servers: Vec<_> = report.shown("gbt").iter().map(|row| row.server.as_str()).collect();
        assert_eq!(servers.len(), 3);
        assert_eq!((servers[0], servers[2]), ("onnxd", "mlflow"));
        let markdown = report.markdown();
        assert!(markdown.contains("**100.0 times** (100.0 to 100.0)") && markdown.contains("900 MB"), "{markdown}");
        assert!(markdown.contains("- round 1, gbt, bentoml: no\n"), "{markdown}");
        assert!(report.chart().contains("gbt, mlflow"));
    }
}
