//! What a model's name stands for right now: one immutable set, replaced whole, so that a request sees one of them.

use std::sync::Arc;

use arc_swap::ArcSwapOption;

use crate::guard::{Guard, Tally};
use crate::model::Model;
use crate::shadow::{Challenger, Observer, PREVIOUS};
use crate::verdict::state::Label;

/// The models behind one name. Every request and every batch belongs to exactly one set.
pub struct ServingSet {
    /// Answers requests.
    pub champion: Arc<Model>,
    /// Score the champion's rows in the shadow, in the order of their roles.
    pub challengers: Vec<Arc<Challenger>>,
    /// The champion before, kept in memory so that a rollback loads nothing.
    pub previous: Option<Arc<Model>>,
    /// What is counted of the champion while it serves.
    pub tally: Arc<Tally>,
    /// The watch over a champion that was just promoted.
    pub guard: Option<Arc<Guard>>,
    /// Sees what the champion is asked.
    pub observer: Option<Arc<Observer>>,
    /// `epoch` of the `aliases.json` that asked for this set; 0 where there is none.
    pub epoch: u64,
}

impl ServingSet {
    /// A champion alone, that nothing was counted of.
    #[must_use]
    pub fn of(champion: Arc<Model>, epoch: u64) -> Self {
        Self {
            champion,
            challengers: vec![],
            previous: None,
            tally: Arc::default(),
            guard: None,
            observer: None,
            epoch,
        }
    }

    /// All that are compared with the champion: the challengers and, for a while after a promotion, the champion before.
    pub fn compared(&self) -> impl Iterator<Item = &Arc<Challenger>> {
        self.challengers.iter().chain(self.former())
    }

    /// Tells all that are compared which role they have, and how many run beside them.
    pub fn assign_roles(&self) {
        let (sharers, beside) = (self.compared().count(), self.challengers.len());
        self.challengers.iter().enumerate().for_each(|(role, challenger)| challenger.assign(role, sharers, beside));
        self.former().iter().for_each(|former| former.assign(PREVIOUS, sharers, 1));
    }

    /// The champion before, while it is compared.
    #[must_use]
    pub fn former(&self) -> Option<&Arc<Challenger>> {
        self.guard.as_ref().filter(|guard| guard.is_active()).map(|guard| &guard.previous)
    }

    /// Whether anything sees the champion's rows beside itself.
    #[must_use]
    pub fn is_shadowed(&self) -> bool {
        self.observer.is_some() || self.compared().next().is_some()
    }

    /// Hands labels to all that are compared. `false` when one of them had no room, so that they may be sent again: each
    /// counts a label once. `passed` when another server passed them on.
    #[must_use]
    pub fn tell(&self, labels: Vec<Label>, passed: bool) -> bool {
        let labels: Arc<[Label]> = labels.into();
        // All of them, also when the first one has no room.
        self.compared().filter(|challenger| !challenger.tell(&labels, passed)).count() == 0
    }
}

/// The cell that holds the present set.
#[derive(Default)]
pub struct Serving(ArcSwapOption<ServingSet>);

impl Serving {
    /// The present set; `None` until a champion was published.
    #[must_use]
    pub fn get(&self) -> Option<Arc<ServingSet>> {
        self.0.load_full()
    }

    /// Makes a set visible to every request from now on, and gives the one before.
    pub fn publish(&self, set: ServingSet) -> Option<Arc<ServingSet>> {
        self.0.swap(Some(Arc::new(set)))
    }
}
