//! What an engine does when the guard of a new champion trips.

use std::sync::Arc;
use std::sync::mpsc::Sender;

use super::Shared;
use crate::guard::{Evidence, Guard};
use crate::promotion::{self, Author, Change, ChangeError};
use crate::source::Hint;

impl Shared {
    /// Rolls back champions that are far worse than the ones before.
    pub(super) fn guard(self: &Arc<Self>, hints: &Sender<Hint>) {
        for (name, lane) in self.lanes.load().iter() {
            let Some(set) = lane.serving.get() else { continue };
            let Some(guard) = set.guard.clone() else { continue };
            let Some(evidence) = guard.look(&set.tally) else { continue };
            let (shared, name, hints) = (Arc::clone(self), name.clone(), hints.clone());
            let (version, epoch) = (set.champion.id.version.clone(), set.epoch);
            // Writing may wait for an S3 server, and requests that wait too long must still be answered meanwhile.
            let roll_back = move || shared.roll_back(&name, &version, epoch, &guard, evidence, &hints);
            if let Err(error) = std::thread::Builder::new().name("guard".into()).spawn(roll_back) {
                tracing::error!(%error, "a champion is to be rolled back, but no thread can be started");
            }
        }
    }

    fn roll_back(
        &self,
        name: &str,
        version: &str,
        epoch: u64,
        guard: &Guard,
        evidence: Evidence,
        hints: &Sender<Hint>,
    ) {
        let to = guard.previous.model.id.version.clone();
        let finding = evidence.finding.clone();
        tracing::error!(model = name, version, to, test = evidence.test, finding, "the new champion is rolled back");
        let author = Author {
            by: format!("guard of onnxd at {}", promotion::host()),
            reason: format!("version {version}: {finding}"),
            evidence: serde_json::to_value(evidence).unwrap_or_default(),
        };
        let result = promotion::change(&self.source, name, &Change::RollBack(Some(to)), &author, Some(epoch), false);
        let outcome = match result {
            Ok(_) => {
                guard.done();
                "guard_rolled_back"
            }
            Err(ChangeError::Lost(reason)) => {
                tracing::info!(model = name, reason, "the champion was changed before it was rolled back");
                guard.done();
                "lost"
            }
            Err(error) => {
                tracing::error!(model = name, %error, "the rollback failed and is tried again; by hand: onnxd rollback");
                guard.failed();
                "failed"
            }
        };
        self.metrics.promotion(name, outcome);
        // Nobody listens any more when the server stops.
        let _ = hints.send(Hint::Changed);
    }
}
