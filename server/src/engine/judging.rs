//! Judges challengers now and then; in the mode `auto`, does what the verdict says.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::{Engine, Shared, lock};
use crate::judge::{self, Judgement, Mode, StepKind};
use crate::model::check::Stage;
use crate::promotion::{self, Author, ChangeError};
use crate::shadow::ROLES;
use crate::shadow::origin::now;
use crate::shadow::state::{Refused, State};
use crate::source::Hint;
use crate::swap::Rejected;

/// Servers of which each may ask all others every time that it judges.
const OFTEN: usize = 8;

/// What an engine knows of its verdicts.
#[derive(Default)]
pub(super) struct Judging {
    /// When it judged last.
    latest: Mutex<Option<Instant>>,
    /// Whether it does at present.
    busy: AtomicBool,
    /// By what all servers saw, for the metrics.
    judgements: Mutex<Vec<Judgement>>,
    /// When all servers of a model were asked last, and how many they are.
    asked: Mutex<BTreeMap<String, (Instant, usize)>>,
    /// The epochs that a change was made or lost on: their servers still tell of them until they have read the next one.
    settled: Mutex<BTreeMap<String, u64>>,
}

/// Judging is over when it is dropped, also by a panic.
struct Busy(Arc<Shared>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.judging.busy.store(false, Ordering::Release);
    }
}

impl Engine {
    /// What this engine saw of a model's challengers; `None` while nothing serves. It may have to wait until the shadow's
    /// threads get a CPU.
    #[must_use]
    pub fn shadow_state(&self, model: &str) -> Option<State> {
        self.shared.shadow_state(model)
    }

    /// The latest verdicts and drifts of models: by what all servers saw, as far as they were asked.
    #[must_use]
    pub fn judgements(&self) -> Vec<Judgement> {
        lock(&self.shared.judging.judgements).clone()
    }
}

impl Shared {
    fn shadow_state(&self, model: &str) -> Option<State> {
        let set = self.lanes.load().get(model)?.serving.get()?;
        let refused = self.refused(model, set.epoch);
        Some(State::of(model.into(), self.id.clone(), self.options.event_time, &set, refused))
    }

    /// The challengers of an epoch that are refused for what they are: that they cannot be read says nothing of them.
    fn refused(&self, model: &str, epoch: u64) -> Vec<Refused> {
        let reports = lock(&self.reports);
        let report = reports.get(model).filter(|report| report.wanted.as_ref().is_some_and(|w| w.epoch == epoch));
        let rejected = report.into_iter().flat_map(|report| &report.rejected);
        let of_challengers = rejected.filter(|r| r.role == ROLES[0] && r.stage != Stage::Fetch && !r.passing);
        of_challengers
            .map(|Rejected { version, stage, reason, .. }| Refused {
                version: version.clone(),
                reason: format!("refused at {stage}: {reason}"),
            })
            .collect()
    }

    /// Judges, if it is time, on a thread of its own: to ask other servers and to write may take long.
    pub(super) fn judge(self: &Arc<Self>, hints: &Sender<Hint>) {
        let mut latest = lock(&self.judging.latest);
        let interval = self.options.verdict.interval;
        if latest.is_some_and(|at| at.elapsed() < interval) || self.judging.busy.swap(true, Ordering::AcqRel) {
            return;
        }
        *latest = Some(Instant::now());
        let (shared, hints) = (Arc::clone(self), hints.clone());
        let judge = move || {
            let busy = Busy(shared);
            busy.0.judge_all(&hints);
        };
        if let Err(error) = std::thread::Builder::new().name("verdict".into()).spawn(judge) {
            tracing::error!(%error, "challengers are to be judged, but no thread can be started");
            self.judging.busy.store(false, Ordering::Release);
        }
    }

    fn judge_all(&self, hints: &Sender<Hint>) {
        let settings = &self.options.verdict;
        let names: Vec<String> = self.lanes.load().keys().cloned().collect();
        let mut judgements = vec![];
        for name in names {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let Some(own) = self.shadow_state(&name) else { continue };
            let compared = !own.challengers.is_empty() || !own.refused.is_empty() || own.previous.is_some();
            if !compared && own.drift.features.is_empty() {
                continue;
            }
            let alone = |own| judge::judge(&[own], &[], settings, now()).ok();
            let judgement = if !compared {
                alone(own)
            } else if self.is_its_turn(&name) {
                let judgement = self.ask_all(&name, own);
                if let Some(judgement) = judgement.as_ref().filter(|_| settings.mode == Mode::Auto) {
                    self.decide(judgement, hints);
                }
                judgement
            } else {
                self.latest(&name, own.epoch).or_else(|| alone(own))
            };
            judgements.extend(judgement);
        }
        *lock(&self.judging.judgements) = judgements;
    }

    /// The latest verdict on a model, if it is of this epoch.
    fn latest(&self, name: &str, epoch: u64) -> Option<Judgement> {
        let judgements = lock(&self.judging.judgements);
        judgements.iter().find(|judgement| judgement.model == name && judgement.epoch == epoch).cloned()
    }

    /// Each of many servers asks all others: the more there are, the more seldom each does, so that they tell no more often.
    fn is_its_turn(&self, name: &str) -> bool {
        let times = |servers: usize| u32::try_from(servers / OFTEN).unwrap_or(u32::MAX).max(1);
        let asked = lock(&self.judging.asked).get(name).copied();
        asked.is_none_or(|(at, servers)| at.elapsed() >= self.options.verdict.interval * (times(servers) - 1))
    }

    /// The verdict of all servers; without peers, of this one.
    fn ask_all(&self, name: &str, own: State) -> Option<Judgement> {
        let settings = &self.options.verdict;
        let gathered = settings.peers.gather_here::<State>(&format!("/models/{name}/shadow"));
        let gathered = gathered
            .inspect_err(|error| tracing::warn!(model = name, error, "challengers could not be judged"))
            .ok()?;
        let mut states = vec![own];
        states.extend(gathered.answers);
        lock(&self.judging.asked).insert(name.into(), (Instant::now(), states.len()));
        judge::judge(&states, &gathered.missing, settings, now()).ok()
    }

    /// Does what the verdict of all servers says.
    fn decide(&self, judgement: &Judgement, hints: &Sender<Hint>) {
        let name = judgement.model.as_str();
        if !judgement.servers.missing.is_empty() {
            let missing = judgement.servers.missing.join("; ");
            tracing::debug!(model = name, missing, "nothing is decided before all servers have told");
        }
        if lock(&self.judging.settled).get(name) == Some(&judgement.epoch) {
            return;
        }
        let Some(step) = judgement.step() else { return };
        let (version, reason) = (&step.of.version.version, step.reason());
        let author = Author {
            // Of several on one machine, each writes something else: who was first is seen by that.
            by: format!("verdict of onnxd at {}", self.id),
            reason: reason.clone(),
            evidence: judgement.evidence(),
        };
        let settle = || {
            lock(&self.judging.settled).insert(name.into(), judgement.epoch);
        };
        let outcome = match promotion::carry_out(&self.source, judgement, &step, &author, false) {
            Ok(done) => {
                tracing::info!(model = name, version, reason, epoch = done.aliases.epoch, "a verdict was carried out");
                if let Some(warning) = done.warning {
                    tracing::warn!(model = name, warning, "a promotion is incomplete");
                }
                settle();
                match step.kind {
                    StepKind::Promote => "auto_promoted",
                    StepKind::BringBack => "auto_rolled_back",
                    StepKind::Reject => "auto_rejected",
                }
            }
            Err(ChangeError::Lost(message)) => {
                tracing::info!(model = name, version, message, "someone else was before a verdict");
                settle();
                "lost"
            }
            Err(ChangeError::Refused(error) | ChangeError::Failed(error)) => {
                tracing::warn!(model = name, version, error, "a verdict could not be carried out and is tried again");
                "failed"
            }
        };
        self.metrics.promotion(name, outcome);
        // Nobody listens any more when the server stops.
        let _ = hints.send(Hint::Changed);
    }
}
