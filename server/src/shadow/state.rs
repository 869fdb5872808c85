//! What a server tells of its challengers, so that any server, or the command line, can add up what all of them saw.

use serde::{Deserialize, Serialize};

use super::stats::Statistics;
use super::{Challenger, ROLES};
use crate::model::Model;
use crate::serving::ServingSet;
use crate::verdict::drift::Drift;
use crate::verdict::state::{Evidence, Label};

/// The shadow of one model on one server: `GET /models/{model}/shadow`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    /// The model's name.
    pub model: String,
    /// The server, told apart from all others, so that none is counted twice.
    pub server: String,
    /// `epoch` of the `aliases.json` that it serves; 0 where there is none.
    pub epoch: u64,
    /// Whether the times of the rows are those of a recording, and the latest of them is now.
    #[serde(default)]
    pub event_time: bool,
    /// How far ahead the champion's forecast looks, in seconds.
    pub horizon_seconds: Option<u64>,
    /// What answers.
    pub champion: Version,
    /// What scores in the shadow, in the order of `aliases.json`.
    pub challengers: Vec<Compared>,
    /// What should score and was refused for good.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<Refused>,
    /// How the values that came differ from those of the champion's training.
    #[serde(default)]
    pub drift: Drift,
    /// The champion before, while it is compared with the one that replaced it.
    pub previous: Option<Compared>,
}

/// Windows of one request or message: each is looked for among all rows that wait for their labels.
pub const MOST_WINDOWS: usize = 256;

/// Labels that one server passes on to the others.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Passed {
    /// The server that took them.
    pub server: String,
    /// What they say.
    pub labels: Vec<Label>,
}

/// A version of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Its number.
    pub version: String,
    /// SHA-256 of its bytes.
    pub sha256: String,
}

/// A challenger that this server refused, and will refuse again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Its number.
    pub version: String,
    /// The stage of the swap that refused it, and one sentence.
    pub reason: String,
}

/// A version that is compared with the champion.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Compared {
    /// challenger, challenger-2, challenger-3 or previous.
    pub role: String,
    /// Which it is.
    #[serde(flatten)]
    pub version: Version,
    /// Share of the pairs with the same decision.
    pub agreement: Option<f64>,
    /// What was counted since both are in memory.
    pub statistics: Statistics,
    /// What the verdict stands on, counted since the two were first compared.
    pub evidence: Evidence,
    /// How the values that were compared differ from those of its own training; of no feature where that is not known, as of the
    /// champion before.
    #[serde(default, skip_serializing_if = "Drift::is_empty")]
    pub drift: Drift,
}

impl State {
    /// What a server saw. It may have to wait until the shadow's threads get a CPU.
    #[must_use]
    pub fn of(model: String, server: String, event_time: bool, set: &ServingSet, refused: Vec<Refused>) -> Self {
        Self {
            event_time,
            model,
            server,
            epoch: set.epoch,
            horizon_seconds: set.champion.signature.horizon(),
            champion: Version::of(&set.champion),
            challengers: set.challengers.iter().map(|challenger| Compared::of(challenger)).collect(),
            refused,
            drift: set.observer.as_ref().map(|observer| observer.drift()).unwrap_or_default(),
            previous: set.former().map(|former| Compared::of(former)),
        }
    }
}

impl Version {
    /// That of a model.
    #[must_use]
    pub fn of(model: &Model) -> Self {
        Self { version: model.id.version.clone(), sha256: model.id.sha256.clone() }
    }
}

impl Compared {
    fn of(challenger: &Challenger) -> Self {
        let statistics = challenger.statistics();
        let (evidence, drift) = {
            let recorder = challenger.recorder();
            (recorder.evidence().clone(), recorder.drift())
        };
        Self {
            role: ROLES[challenger.role()].into(),
            version: Version::of(challenger.model()),
            agreement: statistics.agreement(),
            statistics,
            evidence,
            drift,
        }
    }
}
