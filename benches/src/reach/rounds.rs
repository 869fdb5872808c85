//! Who is measured in a round, and what came of all rounds.

use std::time::Duration;

use anyhow::Result;
use onnxd::load::{self, Plan};
use serde::Serialize;

use super::Group;
use crate::{
    report::{Figures, median},
    server::Server,
};

/// One figure of a measurement, and which way is better.
#[derive(Clone, Copy)]
pub(super) struct Figure {
    pub(super) name: &'static str,
    pub(super) unit: Unit,
    of: fn(&Figures) -> Option<f64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Rate,
    Micros,
}

pub(super) const THROUGHPUT: Figure =
    Figure { name: "throughput", unit: Unit::Rate, of: |figures| Some(figures.requests_per_second) };
pub(super) const P50: Figure = Figure { name: "p50", unit: Unit::Micros, of: |figures| figures.p50_us };
pub(super) const P99: Figure = Figure { name: "p99", unit: Unit::Micros, of: |figures| figures.p99_us };
pub(super) const P999: Figure = Figure { name: "p99.9", unit: Unit::Micros, of: |figures| figures.p999_us };
/// Of an open loop, without the wait for the generator.
pub(super) const FROM_SENT_P99: Figure =
    Figure { name: "p99 from when it was sent", unit: Unit::Micros, of: |figures| figures.from_sent_p99_us };
pub(super) const CPU: Figure =
    Figure { name: "server's CPU a request", unit: Unit::Micros, of: |figures| figures.server_cpu_us_per_request };

/// One that takes its turn.
pub(super) struct Party<'a> {
    pub(super) name: String,
    /// How long it is measured, if not as long as the others of the run.
    pub(super) seconds: Option<Duration>,
    /// Measures for so long.
    pub(super) run: Box<dyn FnMut(Duration) -> Result<Figures> + 'a>,
}

impl<'a> Party<'a> {
    /// A server under a load, with its CPU time.
    pub(super) fn server(name: &str, server: &'a Server, plan: Plan) -> Self {
        let run = move |duration| {
            let before = server.cpu();
            let outcome = load::run(&Plan { duration, ..plan.clone() })?;
            let cpu = server.cpu().zip(before).map(|(after, before)| after - before);
            Ok(Figures::new(&outcome, cpu))
        };
        Self { name: name.to_owned(), seconds: None, run: Box::new(run) }
    }
}

/// What is kept of one turn.
#[derive(Serialize)]
pub(super) struct Measurement {
    pub(super) group: Group,
    pub(super) round: u32,
    pub(super) party: String,
    #[serde(flatten)]
    pub(super) figures: Figures,
}

/// The rounds of each party.
pub(super) struct Series(Vec<(String, Vec<Figures>)>);

impl Series {
    pub(super) fn new(parties: &[Party<'_>]) -> Self {
        Self(parties.iter().map(|party| (party.name.clone(), Vec::new())).collect())
    }

    pub(super) fn add(&mut self, party: usize, figures: Figures) {
        self.0[party].1.push(figures);
    }

    /// A figure of a party, round by round; nothing where it is not known of all rounds.
    pub(super) fn of(&self, party: &str, figure: Figure) -> Vec<f64> {
        let rounds = self.0.iter().find(|(name, _)| name == party).map(|(_, rounds)| rounds.as_slice());
        let rounds = rounds.unwrap_or_default();
        rounds.iter().map(figure.of).collect::<Option<Vec<_>>>().unwrap_or_default()
    }

    /// The party whose median is the best.
    pub(super) fn best<'a>(&self, parties: &[&'a str], figure: Figure) -> Option<&'a str> {
        let medians = parties.iter().map(|party| (*party, median(&self.of(party, figure))));
        match figure.unit {
            Unit::Rate => medians.max_by(|(_, a), (_, b)| a.total_cmp(b)),
            Unit::Micros => medians.min_by(|(_, a), (_, b)| a.total_cmp(b)),
        }
        .map(|(party, _)| party)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use onnxd::load::Outcome;

    /// Rounds of answers a second.
    pub(in super::super) fn series(parties: &[(&str, &[u64])]) -> Series {
        let figures = |answers: &u64| {
            let mut outcome = Outcome { elapsed: Duration::from_secs(1), ..Outcome::default() };
            (0..*answers).for_each(|_| outcome.latency.record(Duration::from_micros(10_000 / answers)));
            outcome.statuses.insert(200, *answers);
            Figures::new(&outcome, None)
        };
        Series(
            parties.iter().map(|(name, rounds)| ((*name).to_owned(), rounds.iter().map(figures).collect())).collect(),
        )
    }

    #[test]
    fn the_best_has_the_most_answers_and_the_least_latency() {
        let series = series(&[("a", &[100, 80, 10]), ("b", &[70, 90, 100])]);
        assert_eq!(series.best(&["a", "b"], THROUGHPUT), Some("b"));
        assert_eq!(series.best(&["a", "b"], P50), Some("b"));
        assert_eq!(series.best(&["a"], THROUGHPUT), Some("a"));
        assert_eq!(series.of("a", CPU), [0.0; 0], "it is not known");
        assert_eq!(series.of("c", P50), [0.0; 0]);
    }
}
