//! Models that a call takes out of service, and another one brings back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Engine, Shared, lock};

impl Engine {
    /// Stops serving a model until [`Engine::load`], whatever becomes of the repository; requests that have found it are
    /// answered. Waits until it has stopped, for `limit` at most; `false` when that takes longer, and then it comes later.
    #[must_use]
    pub fn unload(&self, name: &str, limit: Duration) -> bool {
        lock(&self.shared.held).insert(name.into());
        self.look_and_wait(name, limit)
    }

    /// Reads the repository now, and serves a model again that was unloaded. Waits as [`Engine::unload`] does.
    #[must_use]
    pub fn load(&self, name: &str, limit: Duration) -> bool {
        lock(&self.shared.held).remove(name);
        self.look_and_wait(name, limit)
    }

    /// Whether a model is not served because of [`Engine::unload`].
    #[must_use]
    pub fn is_unloaded(&self, name: &str) -> bool {
        lock(&self.shared.held).contains(name)
    }
}

impl Shared {
    /// Takes a lane away from those that requests find.
    pub(super) fn take_out(&self, name: &str) {
        let mut lanes = BTreeMap::clone(&self.lanes.load());
        if let Some(lane) = lanes.remove(name) {
            self.lanes.store(Arc::new(lanes));
            lock(&self.leaving).push(lane);
        }
    }

    /// Ends the lanes that were withdrawn when no request is left in them: only their workers hold them then.
    pub(super) fn end_lanes(&self) {
        // A thread that has ended keeps its stack until nobody can join it any more.
        lock(&self.workers).retain(|worker| !worker.is_finished());
        lock(&self.leaving).retain(|lane| {
            lane.expire();
            let in_use = Arc::strong_count(lane) > 1 + self.options.threads.workers;
            if !in_use {
                lane.close();
            }
            in_use
        });
    }
}
