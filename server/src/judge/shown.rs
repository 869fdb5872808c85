//! What people look at beside a decision: the place where whatever is counted becomes what the console draws.

use std::collections::BTreeMap;

use serde::Serialize;

use super::merge::Contender;
use crate::shadow::stats::Statistics;
use crate::verdict::draws::{Labelled, Told};
use crate::verdict::drift::{Drift, Feature};
use crate::verdict::evidence::Alarms;
use crate::verdict::scores::Distances;
use crate::verdict::sketch::Sketch;
use crate::verdict::state::{Events, Evidence, Labels, Source};

/// Counts and shares of one version beside the champion, all servers together.
#[derive(Clone, Debug, Serialize)]
pub struct Shown {
    /// Rows that both answered.
    pub pairs: u64,
    /// When the first of them was seen, in seconds of Unix time.
    pub since: Option<u64>,
    /// When the latest was.
    pub until: Option<u64>,
    /// Share of the pairs with the same decision.
    pub agreement: Option<f64>,
    /// Decisions that are alarms: one draw a half hour.
    pub alarms: Alarms,
    /// Labelled rows by who labelled them, then anomalies and normals.
    pub labels: BTreeMap<Source, BTreeMap<&'static str, Counted>>,
    /// How the scores are distributed.
    pub scores: Sides<Vec<u64>>,
    /// How far apart these are.
    pub score_distances: Option<Distances>,
    /// Mean squared difference of the scores from the labels, of rows that have both (Brier).
    pub brier: Option<Sides<f64>>,
    /// How long both took for the same rows.
    pub latency: Sides<Quantiles>,
    /// Rows that the challenger failed on.
    pub errors: Events,
    /// Runs of the challenger that took too long.
    pub slow: Events,
    /// What was counted row by row since both are in memory.
    pub statistics: Statistics,
}

/// The same of both.
#[derive(Clone, Debug, Serialize)]
pub struct Sides<T> {
    /// The champion's.
    pub champion: T,
    /// The challenger's.
    pub challenger: T,
}

/// Labelled rows of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counted {
    /// Hours of which the draw is one on which only the champion is right.
    pub champion: u64,
    /// Hours of which it is one on which only the challenger is.
    pub challenger: u64,
    /// Rows on which both are right or both are wrong.
    pub concordant: u64,
    /// Hours in which both were right on some.
    pub right: u64,
}

/// Times that shares of the runs take at most, in seconds; `None` without any.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Quantiles {
    /// Half of them.
    pub p50: Option<f64>,
    /// 90 %.
    pub p90: Option<f64>,
    /// 99 %.
    pub p99: Option<f64>,
}

/// How far a feature is from how it was in training.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Drifted {
    /// The population stability index, less what noise alone would have.
    pub psi: f64,
    /// Natural logarithm of the evidence that it is distributed otherwise.
    pub log_e: f64,
    /// Whether it is, beyond doubt and by so much that it matters.
    pub alarm: bool,
}

pub(super) fn drift(drift: &Drift) -> BTreeMap<String, Drifted> {
    let told = |feature: &Feature| {
        let e = feature.log_e();
        // Zero, but for rounding.
        let log_e = if e.abs() < 1e-9 { 0.0 } else { e };
        Drifted { psi: feature.psi(), log_e, alarm: feature.is_alarm() }
    };
    drift.features.iter().map(|(name, feature)| (name.clone(), told(feature))).collect()
}

impl Quantiles {
    fn of(times: &Sketch) -> Self {
        Self { p50: times.quantile(0.5), p90: times.quantile(0.9), p99: times.quantile(0.99) }
    }
}

impl Shown {
    pub(super) fn of(one: &Contender) -> Self {
        let Contender { evidence, statistics, .. } = one;
        let (scores, latency) = (&evidence.scores, &evidence.latency);
        Self {
            pairs: evidence.requests,
            since: evidence.since(),
            until: evidence.until,
            agreement: statistics.agreement(),
            alarms: evidence.draws.alarms().any,
            labels: labels(evidence),
            scores: Sides { champion: scores.champion.counts.clone(), challenger: scores.challenger.counts.clone() },
            score_distances: scores.distances(),
            brier: brier(evidence),
            latency: Sides {
                champion: Quantiles::of(&latency.champion),
                challenger: Quantiles::of(&latency.challenger),
            },
            errors: evidence.active.failed(),
            slow: evidence.slow,
            statistics: statistics.clone(),
        }
    }
}

fn brier(evidence: &Evidence) -> Option<Sides<f64>> {
    let mut all = Labels::default();
    evidence.labels.values().for_each(|labels| all.merge(*labels));
    all.brier.means().map(|(champion, challenger)| Sides { champion, challenger })
}

fn labels(evidence: &Evidence) -> BTreeMap<Source, BTreeMap<&'static str, Counted>> {
    let Told { anomalies, normals } = evidence.draws.labels();
    let mut labels = BTreeMap::new();
    for (source, (anomalies, normals)) in Source::LABELS.into_iter().zip(anomalies.into_iter().zip(normals)) {
        let agreed = evidence.labels.get(&source).copied().unwrap_or_default();
        let counted = |Labelled { pairs, right }: Labelled, concordant| Counted {
            champion: pairs.champion,
            challenger: pairs.challenger,
            concordant,
            right,
        };
        let kinds =
            [("anomalies", counted(anomalies, agreed.anomalies)), ("normals", counted(normals, agreed.normals))];
        if kinds.iter().any(|(_, counted)| *counted != Counted::default()) {
            labels.insert(source, BTreeMap::from(kinds));
        }
    }
    labels
}
