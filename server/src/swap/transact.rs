//! The transaction: fetch, verify, probe, load, publish.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::trial::Found;
use super::{Context, KNOWN_PROFILES, Lanes, Outcome, Role, Swapper};
use crate::guard::Guard;
use crate::metrics::ModelMetrics;
use crate::model::check::{Profile, Rejection, Stage};
use crate::model::{Model, ModelId};
use crate::probe::Line;
use crate::record::{self, Recording};
use crate::serving::ServingSet;
use crate::shadow::{self, Challenger, Observer, PREVIOUS};
use crate::source::aliases::MOST_CHALLENGERS;
use crate::source::{Fetched, Revision, Wanted};
use crate::verdict::drift::Drift;
use crate::verdict::state::Recorder;

/// Whoever names challengers and whoever scores them agree on how many there may be.
const _: () = assert!(shadow::MOST == MOST_CHALLENGERS);

impl Context {
    /// Tries out a version that was fetched.
    pub(super) fn examine(&self, fetched: &Fetched, line: &Line) -> Result<Profile, Rejection> {
        let ModelId { name, version, .. } = &fetched.artifact.id;
        tracing::info!(model = name, version, bytes = fetched.artifact.onnx.len(), "trying out a model");
        let start = Instant::now();
        let profile = self.probe.examine_until(&self.runtime, &fetched.artifact, fetched.manifest.as_deref(), line)?;
        self.metrics.stage("probe", start.elapsed());
        Ok(profile)
    }
}

impl Swapper {
    /// Publishes the wanted set or leaves the present one.
    pub(super) fn transact(&mut self, name: &str, wanted: &Wanted, lanes: &impl Lanes) -> Outcome {
        let old = lanes.serving(name);
        let champion = match self.champion(name, &wanted.champion, old.as_deref()) {
            Ok(Some(champion)) => champion,
            Ok(None) => return Outcome { champion_comes: true, ..Outcome::default() },
            Err(rejection) => return rejection.of("champion", &wanted.champion.version).into(),
        };
        let mut outcome = Outcome::default();
        for (version, reason) in &wanted.misnamed {
            outcome.rejected.push(Stage::Fetch.reject(reason).of("challenger", version));
        }
        let mut challengers: Vec<Arc<Challenger>> = vec![];
        let mut shadowed = vec![];
        for revision in wanted.challengers.iter().take(shadow::MOST) {
            match self.challenger(name, revision, challengers.len(), &champion, old.as_deref()) {
                Ok(Some(challenger)) => {
                    challengers.push(challenger);
                    shadowed.push(revision.clone());
                }
                Ok(None) => outcome.challenger_comes = true,
                Err(rejection) => outcome.rejected.push(rejection.of("challenger", &revision.version)),
            }
        }
        for revision in wanted.challengers.iter().skip(shadow::MOST) {
            let reason =
                format!("aliases.json names more than {} challengers: the first ones are scored", shadow::MOST);
            outcome.rejected.push(Stage::Fetch.reject(reason).of("challenger", &revision.version));
        }
        let same = |a: &Arc<Model>, b: &Arc<Model>| Arc::ptr_eq(a, b);
        let unchanged = old.as_ref().is_some_and(|old| {
            same(&old.champion, &champion)
                && old.epoch == wanted.epoch
                && old.challengers.len() == challengers.len()
                && old.challengers.iter().zip(&challengers).all(|(a, b)| Arc::ptr_eq(a, b))
        });
        if unchanged {
            self.recall(name, wanted, lanes, &mut outcome);
            return outcome;
        }
        let previous = old.as_ref().and_then(|old| {
            if same(&old.champion, &champion) { old.previous.clone() } else { Some(Arc::clone(&old.champion)) }
        });
        let previous = previous.filter(|previous| {
            let has_room = self.context.memory.has_room();
            if !has_room {
                let version = &previous.id.version;
                tracing::warn!(
                    model = name,
                    version,
                    "memory is short: the champion before is not kept, so a rollback loads it and no guard compares with it"
                );
            }
            has_room
        });
        let now = Arc::clone(&champion);
        let (tally, guard) = match &old {
            Some(old) if same(&old.champion, &now) => (Arc::clone(&old.tally), old.guard.clone()),
            Some(old) => (Arc::default(), previous.as_ref().and_then(|_| self.guard(name, &now, old, wanted))),
            None => (Arc::default(), None),
        };
        let observer = match &old {
            Some(old) if same(&old.champion, &now) => old.observer.clone(),
            _ => self.observer(name, &now),
        };
        let set = ServingSet { champion, challengers, previous, tally, guard, observer, epoch: wanted.epoch };
        set.assign_roles();
        let compared: Vec<Arc<Challenger>> = set.compared().map(Arc::clone).collect();
        match lanes.publish(name, set) {
            Ok(old) => {
                old.iter().for_each(|old| self.forget(old, &compared, wanted));
                self.retired.extend(old);
            }
            Err(reason) => return Stage::Load.not_yet(reason).of("champion", &now.id.version).into(),
        }
        outcome.more = lanes.serving(name).is_some_and(|set| self.forgotten(&set, wanted).is_some());
        let versions: Vec<&str> = shadowed.iter().map(|revision| revision.version.as_str()).collect();
        let (champion, sha256, versions) = (&now.id.version, &now.id.sha256, versions.join(","));
        let challengers = (!versions.is_empty()).then_some(versions);
        tracing::info!(model = name, champion, challengers, epoch = wanted.epoch, sha256, "serving");
        self.context.source.note_served(name, &Wanted { challengers: shadowed, ..wanted.clone() });
        for warning in &now.profile.warnings {
            tracing::warn!(model = name, version = champion, "{warning}");
        }
        if !old.as_ref().is_some_and(|old| same(&old.champion, &now)) {
            self.context.metrics.swap(name, "champion", "published", "publish");
        }
        if challengers.is_some() {
            self.context.metrics.swap(name, "challenger", "published", "publish");
        }
        outcome
    }

    /// The watch over a champion that was promoted: by a pointer that names the one that served here until now as the one
    /// before. Going back names none, so that nothing goes to and fro, and neither does a pointer that skipped versions.
    fn guard(&self, name: &str, champion: &Model, old: &ServingSet, wanted: &Wanted) -> Option<Arc<Guard>> {
        let id = &old.champion.id;
        let follows = wanted
            .previous
            .as_ref()
            .is_some_and(|previous| previous.version == id.version && previous.manifest_sha256 == id.manifest_sha256);
        let (period, compared) = (self.context.guard_period, self.context.compare_previous);
        if !follows || (period.is_zero() && compared.is_zero()) {
            return None;
        }
        // Evidence of another time on which the two met has been acted on.
        self.context.kept.iter().for_each(|kept| kept.forget(&[champion, &old.champion]));
        let previous = self.start(name, Arc::clone(&old.champion), PREVIOUS, champion);
        let previous =
            previous.inspect_err(|error| tracing::error!(model = name, %error, "no guard watches the champion"));
        let period = (!period.is_zero()).then_some(period);
        Some(Arc::new(Guard::new(Arc::new(previous.ok()?), &old.tally, period, compared)))
    }

    fn champion(
        &mut self,
        name: &str,
        wanted: &Revision,
        old: Option<&ServingSet>,
    ) -> Result<Option<Arc<Model>>, Rejection> {
        let Some(champion) = self.obtain(name, wanted, Role::Champion, old)? else { return Ok(None) };
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
        Ok(Some(champion))
    }

    /// Forgets the evidence on versions that are not compared with this champion any more: when they are again, it begins
    /// anew. One that is still named comes back by itself.
    fn forget(&self, old: &ServingSet, compared: &[Arc<Challenger>], wanted: &Wanted) {
        let Some(kept) = &self.context.kept else { return };
        let named = |model: &Model| {
            let same = |revision: &Revision| {
                revision.version == model.id.version && revision.manifest_sha256 == model.id.manifest_sha256
            };
            same(&wanted.champion) || wanted.challengers.iter().any(same)
        };
        let stays = wanted.champion.version == old.champion.id.version;
        let gone = old.compared().filter(|one| !compared.iter().any(|now| Arc::ptr_eq(now, one)));
        gone.filter(|one| !(stays && named(one.model()))).for_each(|one| kept.forget(&[&old.champion, one.model()]));
    }

    /// Whoever sees what a champion is asked, if there is anything to see.
    fn observer(&mut self, name: &str, champion: &Arc<Model>) -> Option<Arc<Observer>> {
        let recording = self.recording(name);
        if champion.references.is_empty() && recording.is_none() {
            return None;
        }
        let saved: Option<Drift> = self.context.kept.as_ref().and_then(|kept| kept.load(&[champion]));
        let observer = Observer::start(Arc::clone(champion), self.context.shadow, saved.as_ref(), recording);
        let observer = observer.inspect_err(|error| tracing::error!(model = name, %error, "nobody looks for drift"));
        observer.ok().map(Arc::new)
    }

    /// The file in which requests of a model are recorded, if they are.
    fn recording(&mut self, name: &str) -> Option<Arc<Mutex<Recording>>> {
        let options = self.context.record.as_ref()?;
        if let Some(recording) = self.recordings.get(name) {
            return Some(Arc::clone(recording));
        }
        let opened = Recording::open(&options.file_of(name), options.sample, record::MOST_BYTES);
        let recording = opened.inspect_err(|reason| tracing::error!(model = name, reason, "requests are not recorded"));
        let recording = Arc::new(Mutex::new(recording.ok()?));
        self.recordings.insert(name.into(), Arc::clone(&recording));
        Some(recording)
    }

    /// The thread of one that is compared with a champion.
    pub(super) fn start(
        &self,
        name: &str,
        model: Arc<Model>,
        role: usize,
        champion: &Model,
    ) -> std::io::Result<Challenger> {
        let metrics = Arc::new(ModelMetrics::new(&self.context.metrics, name));
        let horizon = champion.signature.horizon();
        let saved = self.context.kept.as_ref().and_then(|kept| kept.load(&[champion, &model]));
        let recorder = match saved {
            Some(saved) => Recorder::restore(horizon, saved),
            None => Recorder::new(horizon),
        };
        let recorder = recorder.scaled(champion.signature.loss_unit());
        Challenger::start(model, role, self.context.shadow, metrics, recorder)
    }

    fn challenger(
        &mut self,
        name: &str,
        wanted: &Revision,
        role: usize,
        champion: &Arc<Model>,
        old: Option<&ServingSet>,
    ) -> Result<Option<Arc<Challenger>>, Rejection> {
        let Some(model) = self.obtain(name, wanted, Role::Challenger, old)? else { return Ok(None) };
        model.signature.can_shadow(&champion.signature).map_err(|e| Stage::Verify.reject(e))?;
        // The statistics are of one champion against one challenger: they go on only while both stay.
        let kept = old.filter(|old| Arc::ptr_eq(&old.champion, champion)).into_iter();
        let mut kept = kept.flat_map(|old| &old.challengers).filter(|kept| Arc::ptr_eq(kept.model(), &model));
        if let Some(kept) = kept.next() {
            return Ok(Some(Arc::clone(kept)));
        }
        let started = self.start(name, model, role, champion);
        started
            .map(|challenger| Some(Arc::new(challenger)))
            .map_err(|e| Stage::Load.not_yet(format!("cannot start a thread: {e}")))
    }

    /// The model in memory if it is there, else fetched, tried out and loaded; `None` while it is being downloaded or tried out.
    pub(super) fn obtain(
        &mut self,
        name: &str,
        wanted: &Revision,
        role: Role,
        old: Option<&ServingSet>,
    ) -> Result<Option<Arc<Model>>, Rejection> {
        let in_memory: Vec<&Arc<Model>> = old
            .into_iter()
            .flat_map(|old| {
                let challengers = old.challengers.iter().map(|challenger| challenger.model());
                [&old.champion].into_iter().chain(challengers).chain(&old.previous)
            })
            .filter(|model| model.can_do(role.duty()))
            .collect();
        if let Some(sha256) = &wanted.manifest_sha256
            && let Some(model) = in_memory
                .iter()
                .find(|m| m.id.version == wanted.version && m.id.manifest_sha256.as_ref() == Some(sha256))
        {
            return Ok(Some(Arc::clone(model)));
        }
        let is_champion = role == Role::Champion;
        let (fetched, profile) = match self.trials.find(name, wanted, is_champion) {
            Some(Found::Comes) => return Ok(None),
            Some(Found::Refused(rejection)) => return Err(rejection),
            Some(Found::Passed(fetched, profile)) => {
                if self.profiles.len() >= KNOWN_PROFILES {
                    self.profiles.clear();
                }
                self.profiles.insert(fetched.artifact.id.clone(), Profile::clone(&profile));
                (*fetched, *profile)
            }
            None => {
                let Some(fetched) = self.fetch(name, wanted)? else { return Ok(None) };
                if let Some(model) = in_memory.iter().find(|model| model.id == fetched.artifact.id) {
                    return Ok(Some(Arc::clone(model)));
                }
                let Some(profile) = self.profiles.get(&fetched.artifact.id).cloned() else {
                    self.trials.add(name, wanted, is_champion, fetched);
                    return Ok(None);
                };
                (fetched, profile)
            }
        };
        let needs = Model::least_memory(&fetched.artifact, &profile, role.duty(), self.context.threads);
        if let Some(limit) = self.context.memory.limit().filter(|limit| needs > *limit) {
            let reason = format!(
                "its sessions need {} MiB at least, and this server may use {} MiB: fewer --workers, or a higher limit of the \
                 container or --memory-limit",
                needs >> 20,
                limit >> 20
            );
            return Err(Stage::Load.reject(reason));
        }
        let (context, start) = (Arc::clone(&self.context), Instant::now());
        let load = move || Model::load(&context.runtime, &fetched.artifact, profile, role.duty(), context.threads);
        let loaded =
            self.loader.run(load).unwrap_or_else(|| Err(Stage::Load.reject("loading it panicked, see the log")));
        let model = loaded?;
        self.context.metrics.stage("load", start.elapsed());
        Ok(Some(Arc::new(model)))
    }

    fn fetch(&self, name: &str, wanted: &Revision) -> Result<Option<Fetched>, Rejection> {
        let (source, start) = (Arc::clone(&self.context.source), Instant::now());
        let (name, wanted) = (name.to_owned(), wanted.clone());
        let fetched = self.loader.run(move || source.fetch(&name, &wanted));
        let fetched = fetched.unwrap_or_else(|| Err(Stage::Fetch.reject("reading it panicked, see the log")))?;
        if fetched.is_some() {
            self.context.metrics.stage("fetch", start.elapsed());
        }
        Ok(fetched)
    }
}
