//! Passes labels on to the other servers of the same models, which may have the rows that they are of.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::{Engine, lock};
use crate::batch::Lane;
use crate::peers::{Peers, Teller, Told};
use crate::serving::ServingSet;
use crate::shadow::state::{MOST_WINDOWS, Passed};
use crate::verdict::state::{Label, Target};

/// Labels of a model that wait to be sent. Beyond, the oldest go: what they label is seldom waited for that long.
const MOST: usize = 65_536;
/// Labels of one message, about a megabyte.
const MESSAGE: usize = 8192;

/// Labels that are collected for a second and then sent together: rows that tell their values come one by one.
pub(super) struct Passing {
    teller: Teller,
    to_anyone: bool,
    waiting: Mutex<BTreeMap<String, Vec<Label>>>,
}

impl Passing {
    /// Passes labels on to these servers, if there are any.
    ///
    /// # Errors
    /// One sentence when the system refuses a thread.
    pub(super) fn start(peers: &Peers) -> Result<Self, String> {
        let (teller, to_anyone) = (Teller::start(peers.clone())?, !peers.is_empty());
        Ok(Self { teller, to_anyone, waiting: Mutex::default() })
    }

    fn add(&self, model: &str, labels: &[Label]) {
        if !self.to_anyone || labels.is_empty() {
            return;
        }
        let mut waiting = lock(&self.waiting);
        if !waiting.contains_key(model) {
            waiting.insert(model.into(), vec![]);
        }
        if let Some(waiting) = waiting.get_mut(model) {
            let excess = (waiting.len() + labels.len()).saturating_sub(MOST).min(waiting.len());
            waiting.drain(..excess);
            waiting.extend_from_slice(labels);
        }
    }

    /// Sends what was collected, in the name of this server.
    pub(super) fn send(&self, server: &str) {
        if !self.to_anyone {
            return;
        }
        for (model, labels) in std::mem::take(&mut *lock(&self.waiting)) {
            let is_window = |label: &Label| matches!(label.target, Target::Window { .. });
            let (windows, others): (Vec<Label>, Vec<Label>) = labels.into_iter().partition(is_window);
            for labels in windows.chunks(MOST_WINDOWS).chain(others.chunks(MESSAGE)) {
                let passed = Passed { server: server.into(), labels: labels.to_vec() };
                let body = serde_json::to_vec(&passed).expect("numbers and names can always be written");
                self.teller.tell(&format!("/models/{model}/labels"), body.into());
            }
        }
    }
}

impl Engine {
    /// Hands labels to all that are compared with a model's champion, here and on the other servers; `false` when one of
    /// those here had no room.
    pub fn tell(&self, lane: &Lane, set: &ServingSet, labels: Vec<Label>) -> bool {
        self.pass_on(lane, &labels);
        set.tell(labels, false)
    }

    /// Hands labels to the other servers alone.
    pub fn pass_on(&self, lane: &Lane, labels: &[Label]) {
        self.shared.passing.add(&lane.name, labels);
    }

    /// What became of the messages to other servers.
    #[must_use]
    pub fn passed(&self) -> Told {
        self.shared.passing.teller.told()
    }
}
