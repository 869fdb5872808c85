//! Adds up what servers saw.

use std::collections::BTreeSet;

use crate::shadow::state::{Compared, Refused, State, Version};
use crate::shadow::stats::Statistics;
use crate::shadow::{MOST, ROLES};
use crate::verdict::drift::Drift;
use crate::verdict::state::Evidence;

/// What all servers saw together.
pub(super) struct Merged {
    pub(super) model: String,
    pub(super) epoch: u64,
    pub(super) champion: Version,
    /// How far ahead the champion's forecast looks, in seconds.
    pub(super) horizon: Option<u64>,
    /// The latest time of any row, where the times are those of a recording.
    pub(super) recorded: Option<u64>,
    /// Servers that told.
    pub(super) told: usize,
    /// Those that did not, or not of this champion, and why.
    pub(super) missing: Vec<String>,
    pub(super) challengers: Vec<Contender>,
    /// Challengers that no server runs, and why: those that refused them say so.
    pub(super) refused: Vec<(Contender, Vec<String>)>,
    pub(super) previous: Option<Contender>,
    /// How inputs differ from those of the champion's training.
    pub(super) drift: Drift,
}

/// A version beside the champion.
pub(super) struct Contender {
    pub(super) role: String,
    pub(super) version: Version,
    pub(super) statistics: Statistics,
    pub(super) evidence: Evidence,
    /// How inputs differ from those of its own training.
    pub(super) drift: Drift,
    /// Servers that told of this champion, but do not run this version.
    pub(super) lacking: Vec<String>,
}

impl Merged {
    /// Adds them up.
    ///
    /// # Errors
    /// One sentence when there is no state.
    pub(super) fn of(states: &[State], missing: &[String]) -> Result<Self, String> {
        let mut servers = BTreeSet::new();
        let once: Vec<&State> = states.iter().filter(|state| servers.insert(&state.server)).collect();
        // Of several on the highest epoch, the first: a server's own, where a server judges.
        let Some(judged) = once.iter().rev().max_by_key(|state| state.epoch) else {
            return Err("no server told what it saw of the model".into());
        };
        let mut missing = missing.to_vec();
        let mut told = vec![];
        for state in &once {
            match differs(state, judged) {
                Some(how) => missing.push(format!("{} {how}", state.server)),
                None => told.push(*state),
            }
        }
        let mut drift = Drift::default();
        told.iter().for_each(|state| drift.merge(&state.drift));
        let compared = told.iter().flat_map(|state| state.challengers.iter().chain(&state.previous));
        let recorded = compared.filter_map(|compared| compared.evidence.until).max();
        let challengers = contenders(&told, |state| state.challengers.iter().collect());
        let refused = refused(&told, &challengers);
        Ok(Self {
            recorded: recorded.filter(|_| judged.event_time),
            drift,
            model: judged.model.clone(),
            epoch: judged.epoch,
            champion: judged.champion.clone(),
            horizon: judged.horizon_seconds,
            told: told.len(),
            missing,
            challengers,
            refused,
            previous: former(&told),
        })
    }
}

/// Why what a server saw is of something else.
fn differs(state: &State, judged: &State) -> Option<String> {
    if state.model != judged.model {
        return Some(format!("told of the model {:?}", state.model));
    }
    if state.epoch != judged.epoch {
        return Some(format!("is on epoch {}, not yet on {}", state.epoch, judged.epoch));
    }
    (state.champion != judged.champion).then(|| {
        let name = |version: &Version| format!("{} ({:.12})", version.version, version.sha256);
        format!("serves version {} as champion, others {}", name(&state.champion), name(&judged.champion))
    })
}

/// The champion before. A server that has started since then, or that had no memory for it, has seen nothing of it: that is nothing
/// that it owes.
fn former(told: &[&State]) -> Option<Contender> {
    let found = contenders(told, |state| state.previous.iter().collect()).into_iter().next();
    found.map(|former| Contender { lacking: vec![], ..former })
}

/// The versions that any server runs, each with what all saw of it, in the order in which they are met first.
fn contenders<'a>(told: &[&'a State], run: impl Fn(&'a State) -> Vec<&'a Compared>) -> Vec<Contender> {
    let mut contenders: Vec<Contender> = vec![];
    for state in told {
        for compared in run(state) {
            match contenders.iter_mut().find(|known| known.version == compared.version) {
                Some(known) => {
                    known.evidence.merge(&compared.evidence);
                    known.statistics.merge(&compared.statistics);
                    known.drift.merge(&compared.drift);
                }
                None => contenders.push(Contender {
                    role: compared.role.clone(),
                    version: compared.version.clone(),
                    statistics: compared.statistics.clone(),
                    evidence: compared.evidence.clone(),
                    drift: compared.drift.clone(),
                    lacking: vec![],
                }),
            }
        }
    }
    for contender in &mut contenders {
        for state in told {
            if !run(state).iter().any(|compared| compared.version == contender.version) {
                let refused = state.refused.iter().find(|refused| refused.version == contender.version.version);
                contender.lacking.push(match refused {
                    Some(refused) => format!("{} does not run it: {}", state.server, refused.reason),
                    None => format!("{} does not run it", state.server),
                });
            }
        }
    }
    contenders
}

/// The versions that servers refused and none runs, in the places that are left, each with every reason.
fn refused(told: &[&State], run: &[Contender]) -> Vec<(Contender, Vec<String>)> {
    let mut free = ROLES[..MOST].iter().filter(|role| !run.iter().any(|one| one.role == **role));
    let mut all: Vec<(Contender, Vec<String>)> = vec![];
    for Refused { version, reason } in told.iter().flat_map(|state| &state.refused) {
        if run.iter().any(|one| one.version.version == *version) {
            continue;
        }
        if let Some((_, reasons)) = all.iter_mut().find(|(known, _)| known.version.version == *version) {
            if !reasons.contains(reason) {
                reasons.push(reason.clone());
            }
        } else if let Some(role) = free.next() {
            // Its bytes may be none that anyone could read.
            let version = Version { version: version.clone(), sha256: String::new() };
            let contender = Contender {
                role: (*role).into(),
                version,
                statistics: Statistics::default(),
                evidence: Evidence::default(),
                drift: Drift::default(),
                lacking: vec![],
            };
            all.push((contender, vec![reason.clone()]));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(number: &str) -> Version {
        Version { version: number.into(), sha256: number.repeat(64) }
    }

    fn compared(role: &str, number: &str, rows: u64) -> Compared {
        Compared {
            role: role.into(),
            version: version(number),
            agreement: None,
            statistics: Statistics::default(),
            evidence: Evidence { requests: rows, ..Evidence::default() },
            drift: Drift::default(),
        }
    }

    fn state(server: &str, challengers: Vec<Compared>, previous: Option<Compared>) -> State {
        State {
            model: "anomaly".into(),
            server: server.into(),
            epoch: 3,
            event_time: false,
            horizon_seconds: None,
            champion: version("2"),
            challengers,
            refused: vec![],
            drift: Drift::default(),
            previous,
        }
    }

    /// What is refused on all servers has lost; what runs on some says who refuses it.
    #[test]
    fn who_is_refused_everywhere_is_in_a_place_of_its_own() {
        let refused = |version: &str, reason: &str| Refused { version: version.into(), reason: reason.into() };
        let mut states = [state("a", vec![compared("challenger", "3", 5)], None), state("b", vec![], None)];
        states[0].refused = vec![refused("4", "wrong")];
        states[1].refused = vec![refused("3", "too large"), refused("4", "wrong"), refused("5", "dead")];
        let merged = Merged::of(&states, &[]).expect("two told");
        assert_eq!(merged.challengers[0].lacking, ["b does not run it: too large"]);
        let told: Vec<_> = merged.refused.iter().map(|(one, why)| (&*one.role, &*one.version.version, why)).collect();
        assert_eq!(
            told,
            [("challenger-2", "4", &vec!["wrong".to_owned()]), ("challenger-3", "5", &vec!["dead".into()])]
        );
    }

    /// A challenger is to run everywhere; the champion before only where it was in memory.
    #[test]
    fn who_has_no_champion_before_lacks_none() {
        let (challenger, previous) = (compared("challenger", "3", 5), compared("previous", "1", 7));
        let states = [
            state("started since", vec![], None),
            state("a", vec![challenger.clone()], Some(previous.clone())),
            state("b", vec![challenger], Some(previous)),
        ];
        let merged = Merged::of(&states, &[]).expect("three told");
        let previous = merged.previous.expect("two compare it");
        assert_eq!((previous.evidence.requests, previous.lacking.as_slice()), (14, [].as_slice()));
        assert_eq!(merged.challengers[0].lacking, ["started since does not run it"]);
        assert_eq!((merged.told, merged.missing.len()), (3, 0));
        assert!(Merged::of(&states[..1], &[]).expect("one told").previous.is_none());
    }
}
