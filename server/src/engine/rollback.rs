//! What an engine does when the guard of a new champion trips.

use std::sync::Arc;
use std::sync::mpsc::Sender;

use super::Shared;
use crate::guard::{Evidence, Guard};
use crate::model::ModelId;
use crate::promotion::{self, Author, Change, ChangeError};
use crate::source::Hint;
use crate::source::aliases::Aliases;

impl Shared {
    /// Rolls back champions that are far worse than the ones before.
    pub(super) fn guard(self: &Arc<Self>, hints: &Sender<Hint>) {
        for (name, lane) in self.lanes.load().iter() {
            let Some(set) = lane.serving.get() else { continue };
            let Some(guard) = set.guard.clone() else { continue };
            let Some(evidence) = guard.look(&set.tally) else { continue };
            let (shared, name, hints) = (Arc::clone(self), name.clone(), hints.clone());
            let champion = set.champion.id.clone();
            // Writing may wait for an S3 server, and requests that wait too long must still be answered meanwhile.
            let roll_back = move || shared.roll_back(&name, &champion, &guard, evidence, &hints);
            if let Err(error) = std::thread::Builder::new().name("guard".into()).spawn(roll_back) {
                tracing::error!(%error, "a champion is to be rolled back, but no thread can be started");
            }
        }
    }

    fn roll_back(&self, name: &str, champion: &ModelId, guard: &Guard, evidence: Evidence, hints: &Sender<Hint>) {
        let (version, to) = (&champion.version, guard.previous.model().id.version.clone());
        let finding = evidence.finding.clone();
        tracing::error!(model = name, version, to, test = evidence.test, finding, "the new champion is rolled back");
        let author = Author {
            by: format!("guard of onnxd at {}", promotion::host()),
            reason: format!("version {version}: {finding}"),
            evidence: serde_json::to_value(evidence).unwrap_or_default(),
        };
        let outcome = match self.write_back(name, champion, to, &author) {
            Ok(true) => {
                guard.done();
                "guard_rolled_back"
            }
            Ok(false) => {
                tracing::info!(model = name, version, "it was replaced before it was rolled back");
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

    /// Whether the pointer was written back; `false` when it names another champion meanwhile. One that was changed in
    /// other ways, by a new challenger say, is still to be written back.
    fn write_back(&self, name: &str, champion: &ModelId, to: String, author: &Author) -> Result<bool, ChangeError> {
        let present = promotion::present(&self.source, name)?;
        let is_its = |aliases: &Aliases| {
            aliases.champion == champion.version
                && aliases.manifest_sha256.get(&champion.version).map(|pin| pin.to_ascii_lowercase())
                    == champion.manifest_sha256
        };
        let Some((aliases, _)) = present.filter(|(aliases, _)| is_its(aliases)) else { return Ok(false) };
        let change = Change::RollBack(Some(to));
        promotion::change(&self.source, name, &change, author, Some(aliases.epoch), false).map(|done| done.changed)
    }
}
