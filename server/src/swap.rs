//! The transaction that changes what serves: fetch, verify, probe, load, publish.
//!
//! Either the new set serves, or the old one goes on as if nothing had happened and the reason is in one log line, one
//! metric and the status. A bad champion refuses the whole set; a bad challenger only leaves its own place empty, since a
//! challenger must never hold the champion back. One thread does all of it, the heavy parts at low priority,
//! away from requests.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;

use crate::metrics::Metrics;
use crate::model::check::{Profile, Rejection, Stage};
use crate::model::runtime::Runtime;
use crate::model::{Duty, Model, ModelId, Threads};
use crate::probe::Probe;
use crate::serving::{Challenger, ServingSet};
use crate::source::{Listing, Revision, Source, Wanted};
use crate::threads::LowPriority;

/// Profiles that are remembered, so that going back to a version does not probe it again.
const KNOWN_PROFILES: usize = 64;
/// The first pause before a fetch that failed is tried again; doubled each time, up to the poll interval.
const FIRST_RETRY: Duration = Duration::from_millis(200);

/// A version that was refused, and why.
#[derive(Clone, Debug, Serialize)]
pub struct Rejected {
    /// champion or challenger.
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
    /// Why the repository's wish cannot be read.
    pub error: Option<String>,
}

/// What swaps need to know and do not change.
pub(crate) struct Context {
    pub(crate) runtime: Runtime,
    pub(crate) source: Source,
    pub(crate) probe: Probe,
    pub(crate) threads: Threads,
    pub(crate) allow_signature_change: bool,
    pub(crate) poll_interval: Duration,
    pub(crate) metrics: Arc<Metrics>,
}

/// The state of the transaction's thread.
pub(crate) struct Swapper {
    context: Arc<Context>,
    loader: LowPriority,
    attempts: HashMap<String, Attempt>,
    profiles: HashMap<ModelId, Profile>,
    /// Sets that no longer serve. Dropped here, when the last request has left them, so that no other thread pays for it.
    retired: Vec<Arc<ServingSet>>,
    look_error: Option<String>,
}

impl Context {
    /// Fetches, probes and loads; a model in `memory` with the same bytes is taken as it is.
    fn load(
        &self,
        name: &str,
        wanted: &Revision,
        duty: Duty,
        profiles: &mut HashMap<ModelId, Profile>,
        memory: &[Arc<Model>],
    ) -> Result<Arc<Model>, Rejection> {
        let start = Instant::now();
        let fetched = self.source.fetch(name, wanted)?;
        self.metrics.stage("fetch", start.elapsed());
        let id = &fetched.artifact.id;
        if let Some(model) = memory.iter().find(|model| model.id == *id) {
            return Ok(Arc::clone(model));
        }
        let profile = match profiles.get(id) {
            Some(profile) => profile.clone(),
            None => {
                let start = Instant::now();
                tracing::info!(
                    model = name,
                    version = id.version,
                    bytes = fetched.artifact.onnx.len(),
                    "trying out a model"
                );
                let profile = self.probe.examine(&self.runtime, &fetched.artifact, fetched.manifest.as_deref())?;
                self.metrics.stage("probe", start.elapsed());
                if profiles.len() >= KNOWN_PROFILES {
                    profiles.clear();
                }
                profiles.insert(id.clone(), profile.clone());
                profile
            }
        };
        let start = Instant::now();
        let model = Model::load(&self.runtime, &fetched.artifact, profile, duty, self.threads)?;
        self.metrics.stage("load", start.elapsed());
        Ok(Arc::new(model))
    }
}

/// The last try for one name.
#[derive(Default)]
struct Attempt {
    wanted: Option<Result<Wanted, String>>,
    retry: Option<(Instant, Duration)>,
    /// The reasons that were logged.
    told: Vec<String>,
}

/// Where sets are published and reported.
pub(crate) trait Lanes {
    /// What serves now under a name.
    fn serving(&self, name: &str) -> Option<Arc<ServingSet>>;
    /// Makes a set visible and gives the one before; the first one of a name starts its threads.
    fn publish(&self, name: &str, set: ServingSet) -> Result<Option<Arc<ServingSet>>, String>;
    /// Takes what became of a name's wishes.
    fn report(&self, name: &str, report: Report);
    /// Drops the reports of names that are no longer listed.
    fn forget(&self, listing: &Listing);
}

impl Swapper {
    pub(crate) fn new(context: Context) -> std::io::Result<Self> {
        let (context, loader) = (Arc::new(context), LowPriority::start()?);
        Ok(Self {
            context,
            loader,
            attempts: HashMap::new(),
            profiles: HashMap::new(),
            retired: vec![],
            look_error: None,
        })
    }

    /// Reads the repository and brings each name to what is wanted of it.
    ///
    /// # Errors
    /// When the repository cannot be read; what serves goes on.
    pub(crate) fn step(&mut self, lanes: &impl Lanes) -> Result<(), String> {
        let source = self.context.source.kind();
        let listing = self.context.source.look().inspect_err(|error| {
            self.context.metrics.poll(source, "error");
            if self.look_error.as_ref() != Some(error) {
                tracing::error!(error, "the repository cannot be read; what serves goes on");
            }
            self.look_error = Some(error.clone());
        })?;
        self.look_error = None;
        // A folder that comes back is tried anew. What serves goes on without its folder.
        self.attempts.retain(|name, _| listing.contains_key(name));
        lanes.forget(&listing);
        let due: Listing = listing.into_iter().filter(|(name, wanted)| self.is_due(name, wanted)).collect();
        self.context.metrics.poll(source, if due.is_empty() { "unchanged" } else { "changed" });
        for (name, wanted) in due {
            let report = self.attempt(&name, wanted, lanes);
            lanes.report(&name, report);
        }
        Ok(())
    }

    fn is_due(&self, name: &str, wanted: &Result<Wanted, String>) -> bool {
        self.attempts.get(name).is_none_or(|last| {
            last.wanted.as_ref() != Some(wanted) || last.retry.is_some_and(|(at, _)| Instant::now() >= at)
        })
    }

    /// How long the thread may sleep.
    pub(crate) fn next_step(&self) -> Duration {
        let now = Instant::now();
        let retry =
            self.attempts.values().filter_map(|a| a.retry).map(|(at, _)| at.saturating_duration_since(now)).min();
        let poll = self.context.poll_interval;
        let retired = if self.retired.is_empty() { poll } else { FIRST_RETRY };
        retry.unwrap_or(poll).min(poll).min(retired)
    }

    /// Drops the sets that nobody uses any more.
    pub(crate) fn release(&mut self) {
        self.retired.retain(|set| Arc::strong_count(set) > 1);
    }

    fn attempt(&mut self, name: &str, wanted: Result<Wanted, String>, lanes: &impl Lanes) -> Report {
        let mut attempt = Attempt { wanted: Some(wanted.clone()), ..Attempt::default() };
        let last = self.attempts.remove(name).filter(|last| last.wanted == attempt.wanted).unwrap_or_default();
        let report = match wanted {
            Err(error) => {
                tracing::error!(model = name, error, "what should be served cannot be read; what serves goes on");
                self.context.metrics.swap(name, "champion", "rejected", Stage::Fetch.name());
                Report { error: Some(error), ..Report::default() }
            }
            Ok(wanted) => {
                let rejected = self.transact(name, &wanted, lanes);
                if rejected.iter().any(|r| r.passing) {
                    let pause = last.retry.map_or(FIRST_RETRY, |(_, pause)| pause * 2).min(self.context.poll_interval);
                    attempt.retry = Some((Instant::now() + pause, pause));
                }
                for rejection in &rejected {
                    self.tell(name, rejection, &last.told);
                }
                attempt.told = rejected.iter().map(|r| r.reason.clone()).collect();
                Report { wanted: Some(wanted), rejected, error: None }
            }
        };
        self.attempts.insert(name.into(), attempt);
        report
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

    /// Publishes the wanted set or leaves the present one.
    fn transact(&mut self, name: &str, wanted: &Wanted, lanes: &impl Lanes) -> Vec<Rejected> {
        let old = lanes.serving(name);
        let champion = match self.champion(name, &wanted.champion, old.as_deref()) {
            Ok(champion) => champion,
            Err(rejection) => return vec![rejection.of("champion", &wanted.champion.version)],
        };
        let mut rejected: Vec<Rejected> = wanted
            .misnamed
            .iter()
            .map(|(version, reason)| Stage::Fetch.reject(reason).of("challenger", version))
            .collect();
        let challenger = wanted.challengers.first().and_then(|revision| {
            self.challenger(name, revision, &champion, old.as_deref())
                .map_err(|rejection| rejected.push(rejection.of("challenger", &revision.version)))
                .ok()
        });
        if wanted.challengers.len() > 1 {
            let count = wanted.challengers.len();
            tracing::warn!(model = name, "aliases.json names {count} challengers; the first one is scored");
        }
        let same = |a: &Arc<Model>, b: &Arc<Model>| Arc::ptr_eq(a, b);
        let unchanged = old.as_ref().is_some_and(|old| {
            same(&old.champion, &champion)
                && old.epoch == wanted.epoch
                && old.challenger.as_ref().map(Arc::as_ptr) == challenger.as_ref().map(Arc::as_ptr)
        });
        if unchanged {
            return rejected;
        }
        let previous = old.as_ref().and_then(|old| {
            if same(&old.champion, &champion) { old.previous.clone() } else { Some(Arc::clone(&old.champion)) }
        });
        let (now, shadowed) = (Arc::clone(&champion), challenger.as_ref().map(|c| c.model.id.version.clone()));
        let set = ServingSet { champion, challenger, previous, epoch: wanted.epoch };
        match lanes.publish(name, set) {
            Ok(old) => self.retired.extend(old),
            Err(reason) => return vec![Stage::Load.not_yet(reason).of("champion", &now.id.version)],
        }
        let (champion, sha256) = (&now.id.version, &now.id.sha256);
        tracing::info!(model = name, champion, challenger = shadowed, epoch = wanted.epoch, sha256, "serving");
        for warning in &now.profile.warnings {
            tracing::warn!(model = name, version = champion, "{warning}");
        }
        self.context.metrics.swap(name, "champion", "published", "publish");
        if shadowed.is_some() {
            self.context.metrics.swap(name, "challenger", "published", "publish");
        }
        rejected
    }

    fn champion(&mut self, name: &str, wanted: &Revision, old: Option<&ServingSet>) -> Result<Arc<Model>, Rejection> {
        let champion = self.obtain(name, wanted, Duty::Serve, old)?;
        if let Some(old) = old
            && !self.context.allow_signature_change
            // Going back is always allowed, and so is the manifest of what was served without one.
            && !old.previous.as_ref().is_some_and(|previous| Arc::ptr_eq(previous, &champion))
            && !(old.champion.signature.inferred && old.champion.id.version == champion.id.version)
        {
            champion.signature.can_replace(&old.champion.signature).map_err(|reason| {
                Stage::Verify.reject(format!("{reason} (serve with --allow-signature-change to accept it)"))
            })?;
        }
        Ok(champion)
    }

    fn challenger(
        &mut self,
        name: &str,
        wanted: &Revision,
        champion: &Arc<Model>,
        old: Option<&ServingSet>,
    ) -> Result<Arc<Challenger>, Rejection> {
        let model = self.obtain(name, wanted, Duty::Shadow, old)?;
        model.signature.can_shadow(&champion.signature).map_err(|e| Stage::Verify.reject(e))?;
        // The statistics are of one champion against one challenger: they go on only while both stay.
        let kept = old.filter(|old| Arc::ptr_eq(&old.champion, champion)).and_then(|old| old.challenger.clone());
        Ok(kept.filter(|c| Arc::ptr_eq(&c.model, &model)).unwrap_or_else(|| Arc::new(Challenger::new(model))))
    }

    /// The model in memory if it is there, else fetched, probed and loaded.
    fn obtain(
        &mut self,
        name: &str,
        wanted: &Revision,
        duty: Duty,
        old: Option<&ServingSet>,
    ) -> Result<Arc<Model>, Rejection> {
        let in_memory: Vec<&Arc<Model>> = old
            .into_iter()
            .flat_map(|old| {
                let challenger = old.challenger.as_ref().map(|c| &c.model);
                [Some(&old.champion), challenger, old.previous.as_ref()].into_iter().flatten()
            })
            .filter(|model| model.can_do(duty))
            .collect();
        if let Some(sha256) = &wanted.manifest_sha256
            && let Some(model) = in_memory
                .iter()
                .find(|m| m.id.version == wanted.version && m.id.manifest_sha256.as_ref() == Some(sha256))
        {
            return Ok(Arc::clone(model));
        }
        let (context, name, wanted) = (Arc::clone(&self.context), name.to_owned(), wanted.clone());
        let memory: Vec<Arc<Model>> = in_memory.into_iter().map(Arc::clone).collect();
        let mut profiles = std::mem::take(&mut self.profiles);
        let done = self.loader.run(move || {
            let model = context.load(&name, &wanted, duty, &mut profiles, &memory);
            (model, profiles)
        });
        let (model, profiles) =
            done.unwrap_or_else(|| (Err(Stage::Load.reject("loading it panicked, see the log")), HashMap::new()));
        self.profiles = profiles;
        model
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
