//! The champion before, after a restart: it is compared again for what is left of its time.
//!
//! It comes after the champion serves, and whatever is wrong with it, the champion goes on.

use std::sync::Arc;
use std::time::Duration;

use super::{Lanes, Outcome, Role, Swapper};
use crate::guard::{Guard, Tally};
use crate::model::check::Stage;
use crate::serving::ServingSet;
use crate::shadow::PREVIOUS;
use crate::shadow::origin::now;
use crate::source::{Revision, Wanted};

impl Swapper {
    /// The champion before, where it should be compared and is not in memory, and for how long.
    pub(super) fn forgotten<'a>(&self, set: &ServingSet, wanted: &'a Wanted) -> Option<(&'a Revision, Duration)> {
        let (previous, promoted) = (wanted.previous.as_ref()?, wanted.promoted_at?);
        let age = Duration::from_secs(now().saturating_sub(promoted));
        let left = self.context.compare_previous.checked_sub(age).filter(|left| !left.is_zero())?;
        let is_other =
            set.champion.id.version != previous.version || set.champion.id.manifest_sha256 != previous.manifest_sha256;
        let is_missing = set.guard.is_none() && set.previous.is_none();
        // One that challenges is compared anyway, and what is kept of it over a restart is of both.
        let challenges = wanted.challengers.iter().any(|challenger| challenger.version == previous.version);
        (is_missing && is_other && !challenges && self.context.memory.has_room()).then_some((previous, left))
    }

    /// Loads the champion before and compares it with the one that serves, on the evidence that was kept.
    pub(super) fn recall(&mut self, name: &str, wanted: &Wanted, lanes: &impl Lanes, outcome: &mut Outcome) {
        let Some(set) = lanes.serving(name) else { return };
        let Some((revision, left)) = self.forgotten(&set, wanted) else { return };
        let version = &revision.version;
        // A rollback then loads nothing.
        let model = match self.obtain(name, revision, Role::Previous, Some(&set)) {
            Ok(Some(model)) => model,
            Ok(None) => return outcome.challenger_comes = true,
            Err(rejection) => return outcome.rejected.push(rejection.of("previous", version)),
        };
        if let Err(reason) = model.signature.can_shadow(&set.champion.signature) {
            return outcome.rejected.push(Stage::Verify.reject(reason).of("previous", version));
        }
        let former = match self.start(name, Arc::clone(&model), PREVIOUS, &set.champion) {
            Ok(former) => Arc::new(former),
            Err(error) => {
                let rejection = Stage::Load.not_yet(format!("cannot start a thread: {error}"));
                return outcome.rejected.push(rejection.of("previous", version));
            }
        };
        // What the one before did in its time is not known any more, so that runs have nothing to be longer than.
        let (period, age) = (self.context.guard_period, self.context.compare_previous.saturating_sub(left));
        let period = (!period.is_zero()).then(|| period.saturating_sub(age));
        let guard = Guard::new(former, &Tally::default(), period, left);
        let set = ServingSet {
            champion: Arc::clone(&set.champion),
            challengers: set.challengers.clone(),
            previous: Some(model),
            tally: Arc::clone(&set.tally),
            guard: Some(Arc::new(guard)),
            observer: set.observer.clone(),
            epoch: set.epoch,
        };
        set.assign_roles();
        match lanes.publish(name, set) {
            Ok(old) => self.retired.extend(old),
            Err(reason) => return outcome.rejected.push(Stage::Load.not_yet(reason).of("previous", version)),
        }
        let hours = left.as_secs() / 3600;
        tracing::info!(model = name, version, hours, "the champion before is compared again");
    }
}
