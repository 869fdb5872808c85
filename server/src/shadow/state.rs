//! What a server tells of its challengers, so that any server, or the command line, can add up what all of them saw.

use serde::{Deserialize, Serialize};

use super::stats::Statistics;
use crate::verdict::state::Evidence;

/// The shadow of one model on one server: `GET /models/{model}/shadow`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    /// The model's name.
    pub model: String,
    /// The server, told apart from all others, so that none is counted twice.
    pub server: String,
    /// `epoch` of the `aliases.json` that it serves; 0 where there is none.
    pub epoch: u64,
    /// How far ahead the champion's forecast looks, in seconds.
    pub horizon_seconds: Option<u64>,
    /// What answers.
    pub champion: Version,
    /// What scores in the shadow, in the order of `aliases.json`.
    pub challengers: Vec<Compared>,
    /// The champion before, while it is compared with the one that replaced it.
    pub previous: Option<Compared>,
}

/// A version of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Its number.
    pub version: String,
    /// SHA-256 of its bytes.
    pub sha256: String,
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
}
