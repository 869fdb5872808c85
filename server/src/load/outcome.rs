//! What came back of a run.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Histogram, Watched};

/// What came back.
#[derive(Clone, Default)]
pub struct Outcome {
    /// How long it took, the wait for late answers included.
    pub elapsed: Duration,
    /// Of all answers, whatever their status: from when a request was due in an open loop, from when it left in a closed one.
    pub latency: Histogram,
    /// Open loop: the part of the latency that begins when the request left, which is the server's.
    pub service: Histogram,
    /// Open loop: how long after it was due a request left, because of the generator or of a lack of free connections.
    pub lateness: Histogram,
    /// Answers by their status. A gRPC call that is answered counts as 200, one that is refused as its code: 1 to 16.
    pub statuses: BTreeMap<u16, u64>,
    /// Connections refused or broken, answers that are no HTTP.
    pub broken: u64,
    /// Bodies of a 200, among those looked at, that are not what was asked for.
    pub wrong_bodies: u64,
    /// Requests due or sent that had no answer when the time was up.
    pub unanswered: u64,
    /// Of a plan that watches.
    pub watched: Option<Watched>,
}

impl Outcome {
    /// Requests that had an answer, good or bad.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.latency.count()
    }

    /// Everything that is not a good answer.
    #[must_use]
    pub fn errors(&self) -> u64 {
        let refused: u64 = self.statuses.iter().filter(|(status, _)| **status != 200).map(|(_, count)| count).sum();
        refused + self.broken + self.wrong_bodies + self.unanswered
    }

    /// Adds another run against the same server.
    pub fn merge(&mut self, other: &Self) {
        self.elapsed += other.elapsed;
        self.latency.merge(&other.latency);
        self.service.merge(&other.service);
        self.lateness.merge(&other.lateness);
        for (status, count) in &other.statuses {
            *self.statuses.entry(*status).or_default() += count;
        }
        self.broken += other.broken;
        self.wrong_bodies += other.wrong_bodies;
        self.unanswered += other.unanswered;
    }
}
