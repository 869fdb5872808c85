//! How near onnxd is to its floors, line by line of the goals: rounds that take turns, because the machine's speed drifts,
//! and only ratios within one round say anything.

mod groups;
mod line;
mod rounds;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use onnxd::load::model::Model;
use serde::Serialize;

use self::{
    line::Line,
    rounds::{Measurement, Party, Series},
};
use crate::{
    progress,
    report::{self, Figures, Provenance, micros},
    repository::Repository,
    server::Server,
    shadow,
};

/// Async threads of the echoes and of the least servers. The floor is the better one, for each figure.
const ECHO_THREADS: [usize; 2] = [1, 2];

/// Measures onnxd as ratios to floors, beside the goals.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The binary to measure.
    #[arg(long, default_value = "target/release/onnxd")]
    onnxd: PathBuf,
    /// The folder of the model whose version 1 is the champion and version 2 the light challenger.
    #[arg(long, default_value = "models/anomaly")]
    model: PathBuf,
    /// A repository of further models, as benches/peers makes it: each is compared with the echo.
    #[arg(long)]
    models: Option<PathBuf>,
    /// Reports go to a folder of today's date and this machine in here.
    #[arg(long, default_value = "benches/runs")]
    out: PathBuf,
    /// What to measure, instead of all.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Group>,
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Seconds measured per server in each round.
    #[arg(long, default_value = "1.5", value_parser = crate::seconds)]
    seconds: Duration,
    /// Seconds of the same load before each measurement, not counted.
    #[arg(long, default_value = "0.3", value_parser = crate::seconds)]
    warm_up: Duration,
    /// Two short rounds of each, to see that all works: no figures to keep.
    #[arg(long)]
    quick: bool,
    /// More arguments for `onnxd serve`.
    #[arg(last = true)]
    more: Vec<String>,
}

/// What is measured together, in the same rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
enum Group {
    /// Single rows, 64 connections.
    Rows,
    /// Single rows, 1 connection.
    One,
    /// Single rows at half the maximum rate, with the challenger and without.
    Half,
    /// 1,000 rows of JSON.
    Json,
    /// 1,000 rows as a tensor's bytes.
    Binary,
    /// Single rows over gRPC, 64 streams.
    Grpc,
    /// A swap every second at half the maximum rate.
    Swap,
    /// Time to the first answer, memory, size.
    Start,
    /// The models of --models.
    Models,
}

/// A run under way.
struct Reach {
    arguments: Arguments,
    lines: Vec<Line>,
    measurements: Vec<Measurement>,
    /// Requests a second of the champion alone at 64 connections.
    greatest: Option<f64>,
}

#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    provenance: Provenance,
    rounds: u32,
    seconds: f64,
    quick: bool,
    lines: Vec<Line>,
    measurements: Vec<Measurement>,
}

/// What is measured with and without the challenger.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Challenger {
    None,
    Light,
}

pub(crate) fn run(mut arguments: Arguments) -> Result<()> {
    if arguments.quick {
        arguments.rounds = 2;
        arguments.seconds = Duration::from_millis(300);
        arguments.warm_up = Duration::from_millis(100);
    }
    ensure!(arguments.rounds > 0, "at least one round is needed");
    let provenance = Provenance::now(Some(&arguments.onnxd));
    let mut reach = Reach { arguments, lines: Vec::new(), measurements: Vec::new(), greatest: None };
    for group in <Group as clap::ValueEnum>::value_variants() {
        if reach.is_wanted(*group) {
            reach.measure(*group).with_context(|| format!("{group:?}"))?;
        }
    }
    let Reach { arguments, lines, measurements, .. } = reach;
    let folder = provenance.folder(&arguments.out)?;
    let errors: u64 = measurements.iter().map(|one| one.figures.errors).sum();
    let Arguments { rounds, quick, .. } = arguments;
    let report = Report { provenance, rounds, seconds: arguments.seconds.as_secs_f64(), quick, lines, measurements };
    let markdown = report.markdown(errors);
    println!("{markdown}");
    report::write(&folder, "reach", &report, &markdown, &report.chart())?;
    progress(&format!("written to {}", folder.display()));
    ensure!(errors == 0, "{errors} requests were not answered well: the figures do not count");
    Ok(())
}

impl Reach {
    fn is_wanted(&self, group: Group) -> bool {
        match self.arguments.only.as_slice() {
            [] => group != Group::Models || self.arguments.models.is_some(),
            only => only.contains(&group),
        }
    }

    fn measure(&mut self, group: Group) -> Result<()> {
        match group {
            Group::Rows => self.rows(),
            Group::One => self.one(),
            Group::Half => self.half(),
            Group::Json => self.json(),
            Group::Binary => self.binary(),
            Group::Grpc => self.grpc(),
            Group::Swap => self.swap(),
            Group::Start => self.start(),
            Group::Models => self.models(),
        }
    }

    /// A version's folder.
    fn version(&self, version: &str) -> PathBuf {
        self.arguments.model.join(version)
    }

    /// Both versions under a pointer of our own.
    fn repository(&self, challenger: Challenger) -> Result<Repository> {
        let name = self.arguments.model.file_name().context("--model has no name")?.to_string_lossy();
        let mut repository = Repository::new(&name, &[&self.version("1"), &self.version("2")])?;
        let challengers: &[&str] = if challenger == Challenger::Light { &["2"] } else { &[] };
        repository.point("1", challengers, None)?;
        Ok(repository)
    }

    fn serve(&self, name: &str, challenger: Challenger) -> Result<(Server, Repository)> {
        let repository = self.repository(challenger)?;
        let server = self.onnxd(name, repository.path())?;
        if challenger == Challenger::Light {
            server.await_metrics("a challenger", shadow::has_challenger)?;
        }
        Ok((server, repository))
    }

    fn onnxd(&self, name: &str, repository: &Path) -> Result<Server> {
        Server::onnxd(name, &self.arguments.onnxd, repository, &self.arguments.more)
    }

    fn echoes(more: &[String]) -> Result<Vec<Server>> {
        ECHO_THREADS.iter().map(|threads| Server::echo(*threads, more)).collect()
    }

    /// The least servers with a model, with as many threads.
    fn least(version: &Path) -> Result<Vec<Server>> {
        ECHO_THREADS.iter().map(|threads| Server::least(*threads, version)).collect()
    }

    /// What a server tells of the measured model.
    fn told(&self, server: &Server) -> Result<Model> {
        Model::ask(server.target.address, None)
    }

    /// Measures all parties in each round, another one first each time.
    fn rounds(&mut self, group: Group, parties: &mut [Party<'_>]) -> Result<Series> {
        let Arguments { rounds, warm_up, seconds, .. } = self.arguments;
        let mut series = Series::new(parties);
        for round in 1..=rounds {
            for turn in 0..parties.len() {
                let index = (turn + round as usize) % parties.len();
                let party = &mut parties[index];
                (party.run)(warm_up)?;
                let figures = (party.run)(party.seconds.unwrap_or(seconds))?;
                let Figures { requests_per_second, p50_us, p99_us, errors, .. } = figures;
                progress(&format!(
                    "{group:?}, round {round}/{rounds}: {}: {requests_per_second:.0}/s, p50 {}, p99 {}, {errors} errors",
                    party.name,
                    micros(p50_us),
                    micros(p99_us),
                ));
                series.add(index, figures.clone());
                self.measurements.push(Measurement { group, round, party: party.name.clone(), figures });
            }
        }
        Ok(series)
    }
}
