//! onnxd beside what people would serve a model with in Python: same model, same rows, same load, one run.
//!
//! Servers take turns, in another order each round. onnxd stays up, idle while another is loaded, and is loaded for a
//! moment in every turn: a server is compared with what onnxd did seconds before.

mod catalog;
mod model;
mod protocol;
mod report;
mod running;
mod size;
mod tree;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use onnxd::load::Outcome;
use serde::Serialize;

use self::{
    catalog::{PEERS, Peer, Places},
    model::Model,
    report::{Report, Sizes},
    running::Running,
};
use crate::{
    progress,
    report::{Figures, Provenance, micros},
};

/// Measures onnxd beside other servers.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The binary to measure.
    #[arg(long)]
    onnxd: PathBuf,
    /// Folders of models with an aliases.json, whose champions are served.
    #[arg(
        long,
        value_delimiter = ',',
        default_values = ["models/anomaly", "target/bench-models/gbt", "target/bench-models/iforest"]
    )]
    models: Vec<PathBuf>,
    /// Which servers; without it all.
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// Worker processes of each server, instead of what was found best for it.
    #[arg(long)]
    workers: Option<u32>,
    /// Where their programs are.
    #[arg(long, default_value = "benches/peers")]
    programs: PathBuf,
    /// Where their packages are installed.
    #[arg(long, default_value = ".venv-peers")]
    environments: PathBuf,
    /// Reports go to a folder of today's date in here.
    #[arg(long, default_value = "benches/runs")]
    out: PathBuf,
    #[arg(long, default_value_t = 2)]
    rounds: u32,
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Seconds of the closed loop, and of the open one.
    #[arg(long, default_value = "3", value_parser = crate::seconds)]
    seconds: Duration,
    /// Seconds of the same load before, not counted; some servers learn their batch size.
    #[arg(long, default_value = "1.5", value_parser = crate::seconds)]
    warm_up: Duration,
}

/// One server with one model in one round.
#[derive(Serialize)]
struct Measurement {
    round: u32,
    model: String,
    server: String,
    cold_start_s: f64,
    memory_bytes: Option<u64>,
    processes: usize,
    closed: Figures,
    /// onnxd under the same load, right before; itself for onnxd.
    onnxd_requests_per_second: f64,
    /// Of the open loop: half of what the closed loop reached.
    rate: f64,
    open: Figures,
    /// onnxd at that rate.
    onnxd_open: Option<Figures>,
    #[serde(skip)]
    open_outcome: Outcome,
    #[serde(skip)]
    onnxd_open_outcome: Option<Outcome>,
}

/// A server that could not be measured.
#[derive(Serialize)]
struct Failure {
    round: u32,
    model: String,
    server: String,
    error: String,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    ensure!(arguments.rounds > 0, "at least one round is needed");
    let binary = fs::canonicalize(&arguments.onnxd).with_context(|| format!("no {}", arguments.onnxd.display()))?;
    let places = Places::new(&arguments.programs, &arguments.environments, arguments.workers)?;
    let peers = chosen(&arguments.peers)?;
    let mut models = Vec::new();
    for folder in &arguments.models {
        models.push(Model::champion(folder)?);
    }
    let mut bench =
        Bench { arguments, binary: &binary, places: &places, measurements: Vec::new(), failures: Vec::new() };
    let mut library = None;
    for round in 1..=arguments.rounds {
        for model in &models {
            library = library.or(bench.round(round, model, &peers)?);
        }
    }
    let sizes = Sizes::new(&places, &peers, &binary, library.as_deref())?;
    let provenance = Provenance::now(Some(&binary));
    let folder = provenance.folder(&arguments.out)?;
    let Bench { measurements, failures, .. } = bench;
    let failed: Vec<_> = failures.iter().map(|failure| failure.server.clone()).collect();
    Report::new(provenance, arguments, sizes, measurements, failures).write(&folder)?;
    ensure!(failed.is_empty(), "not measured as meant, see the report: {}", failed.join(", "));
    Ok(())
}

/// The servers by name; by that of their environment, all of it.
fn chosen(names: &[String]) -> Result<Vec<&'static Peer>> {
    for name in names {
        let known = PEERS.iter().any(|peer| peer.name == name || peer.environment == name);
        ensure!(known, "no server {name}: there are {}", PEERS.map(|peer| peer.name).join(", "));
    }
    let wanted =
        |peer: &&Peer| names.is_empty() || names.iter().any(|name| peer.name == name || peer.environment == name);
    Ok(PEERS.iter().filter(wanted).collect())
}

struct Bench<'a> {
    arguments: &'a Arguments,
    binary: &'a Path,
    places: &'a Places,
    measurements: Vec<Measurement>,
    failures: Vec<Failure>,
}

impl Bench<'_> {
    /// All servers with one model; returns where onnxd found its library.
    fn round(&mut self, round: u32, model: &Model, peers: &[&Peer]) -> Result<Option<PathBuf>> {
        let mut onnxd = Running::onnxd(self.binary, model).with_context(|| format!("onnxd with {}", model.name))?;
        let expected = onnxd.scores(&model.rows)?;
        let own = self.measure(round, model, "onnxd", &mut onnxd, None)?;
        self.add(own);
        for turn in 0..peers.len() {
            // Another server is first in each round.
            let peer = peers[(turn + round as usize - 1) % peers.len()];
            let measured = Running::peer(self.places, peer, model, &expected)
                .and_then(|mut running| self.measure(round, model, peer.name, &mut running, Some(&onnxd)));
            match measured {
                Ok(measurement) => self.add(measurement),
                Err(error) => self.fail(round, model, peer.name, &format!("{error:#}")),
            }
        }
        Ok(size::library(&onnxd.tree.log()))
    }

    /// Puts one server under load, and onnxd beside it.
    fn measure(
        &self,
        round: u32,
        model: &Model,
        name: &str,
        running: &mut Running,
        beside: Option<&Running>,
    ) -> Result<Measurement> {
        let Arguments { connections, seconds, warm_up, .. } = *self.arguments;
        let rows = &model.rows;
        running.load(rows, connections, warm_up, None)?;
        let neighbour = match beside {
            Some(onnxd) => {
                onnxd.load(rows, connections, warm_up / 5, None)?;
                Some(Figures::new(&onnxd.load(rows, connections, seconds / 2, None)?, None))
            }
            None => None,
        };
        let before = running.tree.cpu();
        let outcome = running.load(rows, connections, seconds, None)?;
        let cpu = running.tree.cpu().saturating_sub(before);
        let closed = Figures::new(&outcome, Some(cpu));
        let (memory_bytes, processes) = (running.tree.memory(), running.tree.count());
        let rate = (closed.requests_per_second / 2.0).max(1.0);
        let open_outcome = running.load(rows, connections, seconds, Some(rate))?;
        let onnxd_open_outcome =
            beside.map(|onnxd| onnxd.load(rows, connections, seconds / 2, Some(rate))).transpose()?;
        Ok(Measurement {
            round,
            model: model.name.clone(),
            server: name.to_owned(),
            cold_start_s: running.cold_start.as_secs_f64(),
            memory_bytes,
            processes,
            onnxd_requests_per_second: neighbour
                .as_ref()
                .map_or(closed.requests_per_second, |one| one.requests_per_second),
            closed,
            rate,
            open: Figures::new(&open_outcome, None),
            onnxd_open: onnxd_open_outcome.as_ref().map(|outcome| Figures::new(outcome, None)),
            open_outcome,
            onnxd_open_outcome,
        })
    }

    fn add(&mut self, measurement: Measurement) {
        let Measurement { round, model, server, cold_start_s, closed, open, .. } = &measurement;
        progress(&format!(
            "round {round}/{}: {model}, {server}: start {cold_start_s:.2} s, {:.0}/s (onnxd {:.0}/s), at half of it \
             p50 {}, p99 {}; {} errors",
            self.arguments.rounds,
            closed.requests_per_second,
            measurement.onnxd_requests_per_second,
            micros(open.p50_us),
            micros(open.p99_us),
            closed.errors + open.errors,
        ));
        let (round, model, server) = (*round, model.clone(), server.clone());
        let errors = closed.errors + open.errors;
        self.measurements.push(measurement);
        if errors > 0 {
            self.failures.push(Failure { round, model, server, error: format!("{errors} requests not answered well") });
        }
    }

    fn fail(&mut self, round: u32, model: &Model, server: &str, error: &str) {
        progress(&format!("round {round}: {}, {server}: {error}", model.name));
        let (model, server, error) = (model.name.clone(), server.to_owned(), error.to_owned());
        self.failures.push(Failure { round, model, server, error });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_chosen_by_name_or_environment() {
        let names = |text: &[&str]| {
            let names: Vec<_> = text.iter().map(|name| (*name).to_owned()).collect();
            chosen(&names).map(|peers| peers.iter().map(|peer| peer.name).collect::<Vec<_>>())
        };
        assert_eq!(names(&["fastapi", "mlflow"]).expect("both are known"), ["fastapi-1", "fastapi-2", "mlflow"]);
        assert_eq!(names(&["fastapi-2"]).expect("it is known"), ["fastapi-2"]);
        assert_eq!(names(&[]).expect("all are meant").len(), PEERS.len());
        assert!(names(&["flask"]).is_err_and(|error| error.to_string().contains("kserve")));
    }
}
