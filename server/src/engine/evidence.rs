//! Keeps the evidence over restarts.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Shared;

/// How often what is new is written. As much of it is lost when the process is killed.
const PAUSE: Duration = Duration::from_secs(60);

impl Shared {
    /// Writes what is new, again and again, until the engine stops.
    pub(super) fn keep_evidence(self: &Arc<Self>) {
        while !self.stop.load(Ordering::Relaxed) {
            std::thread::park_timeout(PAUSE);
            self.save_evidence();
        }
    }

    /// Writes what is new. It may have to wait for the shadow's threads, which get a CPU only when it is idle.
    pub(super) fn save_evidence(&self) {
        let Some(kept) = &self.kept else { return };
        for (name, lane) in self.lanes.load().iter() {
            let Some(set) = lane.serving.get() else { continue };
            let serves = || lane.serving.get().is_some_and(|now| Arc::ptr_eq(&now, &set));
            let written = |saved: std::io::Result<bool>| {
                saved.unwrap_or_else(|error| {
                    let folder = kept.folder().display();
                    tracing::warn!(model = name, %folder, %error, "the evidence cannot be kept over a restart");
                    false
                })
            };
            for challenger in set.compared().filter(|challenger| challenger.is_new()) {
                let saved = challenger.recorder().save();
                if !written(kept.save(&[&set.champion, challenger.model()], &saved, serves)) {
                    challenger.renew();
                }
            }
            if let Some(observer) = set.observer.as_ref().filter(|observer| observer.is_new())
                && !written(kept.save(&[&set.champion], &observer.drift(), serves))
            {
                observer.renew();
            }
        }
    }
}
