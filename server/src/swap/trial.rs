//! Trials of models, one at a time and beside everything else: one that hangs keeps nothing waiting but other trials, and that of
//! a champion takes the place of any other.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;

use super::Context;
use crate::model::check::{Profile, Rejection, Stage};
use crate::probe::{Line, Stop, line};
use crate::source::{Fetched, Hint, Revision};
use crate::threads::lower_priority;

/// What there is to say of a version.
pub(super) enum Found {
    /// Its trial waits or runs, and ends with [`Hint::Done`].
    Comes,
    /// It passed: said once.
    Passed(Box<Fetched>, Box<Profile>),
    /// It did not. Said once where it may pass another time, else until it is forgotten.
    Refused(Rejection),
}

/// The trials that run, wait, or ended.
pub(super) struct Trials {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    /// In the order in which they came.
    all: Vec<Trial>,
}

struct Trial {
    name: String,
    revision: Revision,
    /// Whether it is to answer.
    is_champion: bool,
    fetched: Box<Fetched>,
    state: State,
}

enum State {
    Waits,
    Runs(Stop, Receiver<Result<Profile, Rejection>>),
    Ended(Result<Box<Profile>, Rejection>),
}

struct Job {
    fetched: Fetched,
    line: Line,
    result: Sender<Result<Profile, Rejection>>,
}

impl Trials {
    /// Starts the thread of trials; it ends with the value.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub(super) fn start(context: Arc<Context>, hints: Sender<Hint>) -> std::io::Result<Self> {
        let (jobs, work) = channel::<Job>();
        let body = move || {
            // A child inherits it.
            lower_priority();
            for Job { fetched, line, result } in work {
                let run = || context.examine(&fetched, &line);
                // A panic was reported by the panic hook, and is a result that never comes.
                if let Ok(found) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
                    // Nobody waits for a trial that was stopped.
                    let _ = result.send(found);
                }
                drop(result);
                let _ = hints.send(Hint::Done);
            }
        };
        let thread = std::thread::Builder::new().name("trial".into()).spawn(body)?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread), all: vec![] })
    }

    /// What became of a version, if it was given to [`Trials::add`].
    pub(super) fn find(&mut self, name: &str, revision: &Revision, is_champion: bool) -> Option<Found> {
        let at = self.all.iter().position(|trial| trial.name == name && trial.revision == *revision)?;
        self.all[at].is_champion |= is_champion;
        self.go_on();
        match &self.all[at].state {
            State::Waits | State::Runs(..) => Some(Found::Comes),
            State::Ended(Err(rejection)) => {
                let rejection = rejection.clone();
                if rejection.passing {
                    self.all.remove(at);
                }
                Some(Found::Refused(rejection))
            }
            State::Ended(Ok(profile)) => {
                let profile = profile.clone();
                Some(Found::Passed(self.all.remove(at).fetched, profile))
            }
        }
    }

    /// Tries out a version as soon as it is its turn.
    pub(super) fn add(&mut self, name: &str, revision: &Revision, is_champion: bool, fetched: Fetched) {
        let (name, revision, fetched) = (name.to_owned(), revision.clone(), Box::new(fetched));
        self.all.push(Trial { name, revision, is_champion, fetched, state: State::Waits });
        self.go_on();
    }

    /// Ends and forgets the trials of a model's versions that are not wanted any more, and what was refused.
    pub(super) fn keep_only(&mut self, name: &str, wanted: &dyn Fn(&Revision) -> bool) {
        self.all.retain_mut(|trial| {
            let keeps = trial.name != name || (wanted(&trial.revision) && !matches!(trial.state, State::Ended(Err(_))));
            if !keeps && let State::Runs(stop, _) = &trial.state {
                stop.stop();
            }
            if trial.name == name {
                // Whoever wants it says again what for.
                trial.is_champion = false;
            }
            keeps
        });
    }

    /// The same for the models that are not there any more.
    pub(super) fn keep_names(&mut self, is_there: &dyn Fn(&str) -> bool) {
        let gone: Vec<String> =
            self.all.iter().map(|trial| trial.name.clone()).filter(|name| !is_there(name)).collect();
        gone.iter().for_each(|name| self.keep_only(name, &|_| false));
    }

    /// The versions of a model whose trial waits or runs.
    pub(super) fn of(&self, name: &str) -> Vec<String> {
        let open = |trial: &&Trial| trial.name == name && !matches!(trial.state, State::Ended(_));
        self.all.iter().filter(open).map(|trial| trial.revision.version.clone()).collect()
    }

    /// Whether the trial of a version waits or runs.
    pub(super) fn is_open(&self, name: &str, revision: &Revision) -> bool {
        let mut open = self.all.iter().filter(|trial| !matches!(trial.state, State::Ended(_)));
        open.any(|trial| trial.name == name && trial.revision == *revision)
    }

    /// The models of which a version's trial waits or runs.
    pub(super) fn names(&self) -> BTreeSet<String> {
        let open = self.all.iter().filter(|trial| !matches!(trial.state, State::Ended(_)));
        open.map(|trial| trial.name.clone()).collect()
    }

    /// Whether a version that is to answer waits or runs.
    pub(super) fn has_champions(&self) -> bool {
        self.all.iter().any(|trial| trial.is_champion && !matches!(trial.state, State::Ended(_)))
    }

    /// Takes the result of the one that runs, and starts the next.
    fn go_on(&mut self) {
        let runs = self.all.iter().position(|trial| matches!(trial.state, State::Runs(..)));
        if let Some(at) = runs {
            let State::Runs(stop, result) = &self.all[at].state else { return };
            let ended = match result.try_recv() {
                Ok(result) => State::Ended(result.map(Box::new)),
                Err(TryRecvError::Disconnected) => {
                    State::Ended(Err(Stage::Probe.reject("trying it out panicked, see the log")))
                }
                Err(TryRecvError::Empty) => {
                    if self.all[at].is_champion || !self.champion_waits() {
                        return;
                    }
                    stop.stop();
                    State::Waits
                }
            };
            self.all[at].state = ended;
        }
        let is_champion = self.champion_waits();
        let next =
            self.all.iter_mut().find(|trial| matches!(trial.state, State::Waits) && trial.is_champion == is_champion);
        if let (Some(trial), Some(jobs)) = (next, &self.jobs) {
            let ((stop, line), (result, found)) = (line(), channel());
            // The thread ends after this one does.
            let _ = jobs.send(Job { fetched: Fetched::clone(&trial.fetched), line, result });
            trial.state = State::Runs(stop, found);
        }
    }

    fn champion_waits(&self) -> bool {
        self.all.iter().any(|trial| trial.is_champion && matches!(trial.state, State::Waits))
    }
}

impl Drop for Trials {
    fn drop(&mut self) {
        self.jobs = None;
        for trial in &self.all {
            if let State::Runs(stop, _) = &trial.state {
                stop.stop();
            }
        }
        if let Some(thread) = self.thread.take() {
            // It catches what panics.
            let _ = thread.join();
        }
    }
}
