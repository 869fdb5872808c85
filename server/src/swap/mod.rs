//! What serves is brought to what the repository asks for, again and again. How one name is brought there is in
//! `transact.rs`.
//!
//! Either the new set serves, or the old one goes on as if nothing had happened and the reason is in one log line, one
//! metric and the status. A bad champion refuses the whole set; a bad challenger only leaves its own place empty, since a
//! challenger must never hold the champion back. One thread does all of it, the heavy parts at low priority,
//! away from requests; what may take long, downloads and trials, goes on beside it, and the set is looked at again at their end.

mod recall;
mod transact;
mod trial;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;

use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::model::check::{Profile, Rejection, Stage};
use crate::model::runtime::Runtime;
use crate::model::{Duty, ModelId, Threads};
use crate::probe::Probe;
use crate::record::{self, Recording};
use crate::serving::ServingSet;
use crate::shadow;
use crate::shadow::kept::Kept;
use crate::source::{Hint, Listing, Source, Wanted};
use crate::threads::LowPriority;
use trial::Trials;

/// Profiles that are remembered, so that going back to a version does not probe it again.
const KNOWN_PROFILES: usize = 64;
/// The first pause before a fetch that failed is tried again; doubled each time, up to the poll interval.
const FIRST_RETRY: Duration = Duration::from_millis(200);

/// How long the thread sleeps at most while it waits for the end of a trial, which wakes it.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Why a name does not serve that is held.
const UNLOADED: &str = "it was unloaded by a call: load it to serve it again";

/// A version that was refused, and why.
#[derive(Clone, Debug, Serialize)]
pub struct Rejected {
    /// champion, challenger or previous.
    pub role: &'static str,
    /// The version.
    pub version: String,
    /// The stage that refused it.
    pub stage: Stage,
    /// One sentence.
    pub reason: String,
    /// Whether it is tried again by itself.
    pub passing: bool,
    /// Unix time.
    pub at: f64,
}

/// What became of one model name's wishes.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// What the repository asks for.
    pub wanted: Option<Wanted>,
    /// What was refused of it.
    pub rejected: Vec<Rejected>,
    /// Versions that are being tried out, or wait for that.
    pub trying: Vec<String>,
    /// Why the repository's wish cannot be read.
    pub error: Option<String>,
}

/// What swaps need to know and do not change.
pub(crate) struct Context {
    pub(crate) runtime: Runtime,
    pub(crate) source: Arc<Source>,
    pub(crate) probe: Probe,
    pub(crate) threads: Threads,
    pub(crate) allow_signature_change: bool,
    pub(crate) poll_interval: Duration,
    pub(crate) guard_period: Duration,
    pub(crate) compare_previous: Duration,
    pub(crate) shadow: shadow::Limits,
    pub(crate) kept: Option<Arc<Kept>>,
    pub(crate) record: Option<record::Options>,
    pub(crate) memory: Memory,
    pub(crate) metrics: Arc<Metrics>,
}

/// The state of the transaction's thread.
pub(crate) struct Swapper {
    context: Arc<Context>,
    loader: LowPriority,
    trials: Trials,
    attempts: HashMap<String, Attempt>,
    profiles: HashMap<ModelId, Profile>,
    /// Files in which requests are recorded, by model.
    recordings: HashMap<String, Arc<Mutex<Recording>>>,
    /// Sets that no longer serve. Dropped here, when the last request has left them, so that no other thread pays for it.
    retired: Vec<Arc<ServingSet>>,
    /// What served before this process started: it serves until what is asked for can.
    served: BTreeMap<String, Wanted>,
    /// What the repository asked for when it was last read.
    listing: Option<Listing>,
    next_look: Instant,
    failures: u32,
    state: Reading,
}

/// How reading the repository goes.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// Why it cannot be read at present.
    pub error: Option<String>,
    /// When it was last read, by this process or by one before it with the same cache.
    pub read_at: Option<SystemTime>,
    /// Whether what serves was taken from the cache, without asking the repository.
    pub from_cache: bool,
}

/// What a version is wanted as.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Champion,
    Challenger,
    /// The champion before.
    Previous,
}

impl Role {
    const fn duty(self) -> Duty {
        match self {
            // A rollback then loads nothing.
            Self::Champion | Self::Previous => Duty::Serve,
            Self::Challenger => Duty::Shadow,
        }
    }
}

/// The last try for one name.
#[derive(Default)]
struct Attempt {
    wanted: Option<Result<Wanted, String>>,
    /// When it is tried again, and how often it was.
    retry: Option<(Instant, u32)>,
    /// Whether a version of it is being downloaded or tried out.
    coming: bool,
    /// Whether that is the champion.
    waits: bool,
    /// The reasons that were logged.
    told: Vec<String>,
}

/// What became of one try.
#[derive(Default)]
struct Outcome {
    rejected: Vec<Rejected>,
    /// The champion is being downloaded or tried out: what serves goes on.
    champion_comes: bool,
    /// A challenger, or the champion before, is.
    challenger_comes: bool,
    /// There is more to do once this serves.
    more: bool,
}

/// Where sets are published and reported.
pub(crate) trait Lanes {
    /// What serves now under a name.
    fn serving(&self, name: &str) -> Option<Arc<ServingSet>>;
    /// Makes a set visible and gives the one before; the first one of a name starts its threads.
    fn publish(&self, name: &str, set: ServingSet) -> Result<Option<Arc<ServingSet>>, String>;
    /// Takes what became of a name's wishes.
    fn report(&self, name: &str, report: Report);
    /// Names that are not to be served, whatever the repository says.
    fn held(&self) -> BTreeSet<String>;
    /// Lets nothing serve under a name any more.
    fn withdraw(&self, name: &str);
    /// Whether anything serves.
    fn is_serving(&self) -> bool;
    /// Drops the reports of names that are no longer listed.
    fn forget(&self, listing: &Listing);
}

impl Swapper {
    pub(crate) fn new(context: Context, hints: Sender<Hint>) -> std::io::Result<Self> {
        let read_at = context.source.last_read();
        let served = context.source.last_served();
        let (context, loader) = (Arc::new(context), LowPriority::start()?);
        let trials = Trials::start(Arc::clone(&context), hints)?;
        Ok(Self {
            context,
            loader,
            trials,
            attempts: HashMap::new(),
            profiles: HashMap::new(),
            recordings: HashMap::new(),
            retired: vec![],
            served,
            listing: None,
            next_look: Instant::now(),
            failures: 0,
            state: Reading { read_at, ..Reading::default() },
        })
    }

    /// Reads the repository when it is time to, and brings each name to what is wanted of it. While the repository cannot
    /// be read, what serves goes on; a process that never read it serves what its cache says served last.
    pub(crate) fn step(&mut self, lanes: &impl Lanes, hint: Option<Hint>) {
        let look = hint == Some(Hint::Changed) || (!self.waits_for_trials() && Instant::now() >= self.next_look);
        if look {
            self.look(lanes, hint == Some(Hint::Changed));
        }
        let held = lanes.held();
        held.iter().for_each(|name| self.withdraw(name, lanes));
        let listing = self.listing.take().unwrap_or_default();
        let due: Vec<&String> = listing
            .iter()
            .filter(|(name, wanted)| !held.contains(*name) && self.is_due(name, wanted))
            .map(|(name, _)| name)
            .collect();
        for name in due {
            let report = self.attempt(name, listing[name].clone(), lanes);
            lanes.report(name, report);
        }
        self.listing = Some(listing);
    }

    fn look(&mut self, lanes: &impl Lanes, hinted: bool) {
        let source = Arc::clone(&self.context.source);
        match source.look(hinted) {
            Ok(listing) => {
                if self.state.error.take().is_some() {
                    tracing::info!("the repository can be read again");
                }
                (self.failures, self.state.from_cache) = (0, false);
                self.state.read_at = Some(SystemTime::now());
                // A folder that comes back is tried anew. What serves goes on without its folder.
                self.attempts.retain(|name, _| listing.contains_key(name));
                self.trials.keep_names(&|name| listing.contains_key(name));
                lanes.forget(&listing);
                source.keep_only(&listing, &self.served);
                let outcome = if self.listing.as_ref() == Some(&listing) { "unchanged" } else { "changed" };
                self.context.metrics.poll(source.kind(), outcome);
                self.listing = Some(listing);
            }
            Err(error) => {
                self.failures += 1;
                self.context.metrics.poll(source.kind(), "error");
                if self.state.error.as_ref() != Some(&error) {
                    tracing::error!(error, "the repository cannot be read; what serves goes on");
                }
                self.state.error = Some(error);
                if self.listing.is_none() {
                    let served: Listing = self.served.iter().map(|(name, w)| (name.clone(), Ok(w.clone()))).collect();
                    self.state.from_cache = !served.is_empty();
                    self.listing = Some(served);
                }
            }
        }
        self.next_look = Instant::now() + source.pause(self.context.poll_interval, self.failures, lanes.is_serving());
    }

    /// Takes a name out of service that is held. Without its last try, it is tried anew when it is not held any more.
    fn withdraw(&mut self, name: &str, lanes: &impl Lanes) {
        let (set, tried) = (lanes.serving(name), self.attempts.remove(name));
        if set.is_none() && tried.is_none() {
            return;
        }
        lanes.withdraw(name);
        self.retired.extend(set);
        self.trials.keep_only(name, &|_| false);
        let wanted = tried.and_then(|tried| tried.wanted?.ok());
        lanes.report(name, Report { wanted, error: Some(UNLOADED.into()), ..Report::default() });
        tracing::info!(model = name, "unloaded by a call");
    }

    fn is_due(&self, name: &str, wanted: &Result<Wanted, String>) -> bool {
        self.attempts.get(name).is_none_or(|last| {
            last.coming
                || last.wanted.as_ref() != Some(wanted)
                || last.retry.is_some_and(|(at, _)| Instant::now() >= at)
        })
    }

    /// How long the thread may sleep.
    pub(crate) fn next_step(&self) -> Duration {
        let now = Instant::now();
        let retries = self.attempts.values().filter_map(|a| a.retry).map(|(at, _)| at);
        let next_look = if self.waits_for_trials() { now + LONGEST_WAIT } else { self.next_look };
        let next = retries.chain([next_look]).min().unwrap_or(now).saturating_duration_since(now);
        if self.retired.is_empty() { next } else { next.min(FIRST_RETRY) }
    }

    /// A repository that fails may keep this thread for seconds at each look: what is being tried out is served before.
    fn waits_for_trials(&self) -> bool {
        self.failures > 0 && !self.trials.names().is_empty()
    }

    /// Drops the sets that nobody uses any more.
    pub(crate) fn release(&mut self) {
        self.retired.retain(|set| Arc::strong_count(set) > 1);
    }

    /// The models of which a version is being tried out, or waits for that.
    pub(crate) fn trying(&self) -> BTreeSet<String> {
        self.trials.names()
    }

    /// How reading the repository goes.
    pub(crate) fn reading(&self) -> Reading {
        self.state.clone()
    }

    /// Whether every champion was tried: none of them is still on its way, or, where others serve already, none but those that are
    /// downloaded.
    pub(crate) fn has_tried(&self, is_serving: bool) -> bool {
        if is_serving { !self.trials.has_champions() } else { !self.attempts.values().any(|attempt| attempt.waits) }
    }

    /// The epoch of the pointer by which a name serves, or served before this process started.
    fn pointer(&self, name: &str, lanes: &impl Lanes) -> u64 {
        match lanes.serving(name) {
            Some(set) => set.epoch,
            None => self.served.get(name).map_or(0, |wanted| wanted.epoch),
        }
    }

    fn attempt(&mut self, name: &str, wanted: Result<Wanted, String>, lanes: &impl Lanes) -> Report {
        let mut attempt = Attempt { wanted: Some(wanted.clone()), ..Attempt::default() };
        let last = self.attempts.remove(name).filter(|last| last.wanted == attempt.wanted).unwrap_or_else(|| {
            let served = self.served.get(name).map(Ok);
            let may_serve: Vec<&Wanted> = [Some(wanted.as_ref()), served].into_iter().flatten().flatten().collect();
            self.trials
                .keep_only(name, &|revision| may_serve.iter().any(|wanted| wanted.all().any(|one| one == revision)));
            Attempt::default()
        });
        // A pointer that is gone, or hidden by a wrong answer, must not promote whatever has the highest number.
        let wanted = wanted.and_then(|wanted| {
            let gone = wanted.epoch == 0 && self.pointer(name, lanes) > 0;
            let error = "aliases.json is gone, or has no epoch any more: put it back (onnxd status shows the versions, onnxd \
                         promote writes it)";
            if gone { Err(error.to_owned()) } else { Ok(wanted) }
        });
        let report = match wanted {
            Err(error) => {
                tracing::error!(model = name, error, "what should be served cannot be read; what serves goes on");
                self.context.metrics.swap(name, "champion", "rejected", Stage::Fetch.name());
                self.context.source.forget(name);
                self.fall_back(name, None, &mut attempt, lanes);
                Report { error: Some(error), ..Report::default() }
            }
            Ok(wanted) => {
                let Outcome { rejected, champion_comes, challenger_comes, more } = self.transact(name, &wanted, lanes);
                (attempt.coming, attempt.waits) = (champion_comes || challenger_comes, champion_comes);
                if more {
                    attempt.retry = Some((Instant::now(), 0));
                }
                if rejected.iter().any(|r| r.passing) {
                    self.context.source.forget(name);
                    let tries = last.retry.map_or(0, |(_, tries)| tries + 1);
                    let pause = FIRST_RETRY * (1 << tries.min(10));
                    let most = self.context.source.longest_pause(self.context.poll_interval);
                    attempt.retry = Some((Instant::now() + pause.min(most), tries));
                }
                for rejection in &rejected {
                    self.tell(name, rejection, &last.told);
                }
                attempt.told = rejected.iter().map(|r| r.reason.clone()).collect();
                // A trial is over soon, a download is not.
                let is_far = champion_comes && !self.trials.is_open(name, &wanted.champion);
                if is_far || rejected.iter().any(|r| r.role == "champion") {
                    self.fall_back(name, Some(&wanted), &mut attempt, lanes);
                }
                if !attempt.coming && attempt.retry.is_none() {
                    // Nobody will ask for them.
                    self.trials.keep_only(name, &|_| false);
                }
                Report { wanted: Some(wanted), rejected, trying: self.trials.of(name), error: None }
            }
        };
        self.attempts.insert(name.into(), attempt);
        report
    }

    /// While nothing serves: what served before this process started, or the champion before the one that is wanted, as
    /// on the servers that were running when that was named.
    fn fall_back(&mut self, name: &str, wanted: Option<&Wanted>, attempt: &mut Attempt, lanes: &impl Lanes) {
        if lanes.serving(name).is_some() {
            return;
        }
        let previous = wanted.and_then(|wanted| {
            let previous = wanted.previous.clone()?;
            Some(Wanted { epoch: wanted.epoch, ..Wanted::of(previous) })
        });
        let former = self.served.get(name).cloned().into_iter().chain(previous);
        for former in former.filter(|former| wanted.is_none_or(|wanted| wanted.champion != former.champion)) {
            let version = &former.champion.version;
            let Outcome { rejected, champion_comes, .. } = self.transact(name, &former, lanes);
            if lanes.serving(name).is_some() {
                tracing::warn!(model = name, version, "what is asked for cannot serve yet: what did before serves");
                return;
            }
            if champion_comes {
                (attempt.coming, attempt.waits) = (true, true);
                return;
            }
            for Rejected { reason, .. } in rejected {
                tracing::debug!(model = name, version, reason, "a former champion was refused too");
            }
        }
    }

    /// One log line and one count for each refusal, however often it is tried again.
    fn tell(&self, name: &str, rejected: &Rejected, told: &[String]) {
        let Rejected { role, version, stage, reason, .. } = rejected;
        let stage = stage.name();
        if told.contains(reason) {
            tracing::debug!(model = name, role, version, stage, reason, "a model is still refused");
            return;
        }
        tracing::error!(model = name, role, version, stage, reason, "a model was refused; what serves goes on");
        self.context.metrics.swap(name, role, "rejected", stage);
    }
}

impl From<Rejected> for Outcome {
    fn from(rejected: Rejected) -> Self {
        Self { rejected: vec![rejected], ..Self::default() }
    }
}

impl Rejection {
    fn of(self, role: &'static str, version: &str) -> Rejected {
        let Self { stage, reason, passing } = self;
        Rejected { role, version: version.into(), stage, reason, passing, at: unix(SystemTime::now()) }
    }
}

/// Seconds since 1970.
#[must_use]
pub fn unix(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// The reports of all names.
pub type Reports = BTreeMap<String, Report>;
