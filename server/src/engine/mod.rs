//! Models, queues, shadow and swaps without any protocol: what the HTTP server is built on and what a program embeds.

mod evidence;
mod judging;
mod options;
mod passing;
mod rollback;
mod unload;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use crate::batch::{self, Call, Lane, PredictError, Priority};
use crate::codec::encode::Classes;
use crate::codec::{self, DecodeError};
use crate::memory::Memory;
use crate::metrics::{Metrics, ModelMetrics};
use crate::model::runtime::Runtime;
use crate::promotion;
use crate::serving::ServingSet;
use crate::shadow::Sampler;
use crate::shadow::kept::Kept;
use crate::shadow::origin::Origin;
use crate::shadow::stats::Statistics;
use crate::source::{Hint, Listing, Source};
use crate::swap::{Context, Lanes, Reading, Report, Reports, Swapper};

pub use options::Options;

/// How long further hints of a change are waited for after the first.
const HINTS: Duration = Duration::from_millis(5);
/// How often jobs that waited too long are answered; metrics are kept up every tenth time.
const UPKEEP: Duration = Duration::from_millis(100);

/// Why an embedded prediction failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such model.
    #[error("there is no model {0:?}")]
    UnknownModel(String),
    /// The request does not fit the model.
    #[error(transparent)]
    Request(#[from] DecodeError),
    /// The model did not answer.
    #[error(transparent)]
    Predict(#[from] PredictError),
}

/// Serves the models of a repository in this process. Dropping it answers what was accepted, then stops.
pub struct Engine {
    shared: Arc<Shared>,
    hints: Sender<Hint>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    /// Tells this engine apart from all others.
    id: String,
    options: Options,
    runtime: Runtime,
    metrics: Arc<Metrics>,
    lanes: ArcSwap<BTreeMap<String, Arc<Lane>>>,
    /// Names that are not served until they are asked for again.
    held: Mutex<BTreeSet<String>>,
    /// Lanes of these, until the last request has left them.
    leaving: Mutex<Vec<Arc<Lane>>>,
    workers: Mutex<Vec<JoinHandle<()>>>,
    reports: Mutex<Reports>,
    source: Arc<Source>,
    reading: Mutex<Reading>,
    kept: Option<Arc<Kept>>,
    /// How many looks were asked for by someone who waits, and how many of these were answered.
    asked: AtomicU64,
    answered: Mutex<Answered>,
    looked_again: Condvar,
    looked: Mutex<bool>,
    first_look: Condvar,
    stop: AtomicBool,
    watching: bool,
    judging: judging::Judging,
    /// Labels on their way to the other servers.
    passing: passing::Passing,
}

/// What is known of the looks that were asked for.
#[derive(Default)]
struct Answered {
    looks: u64,
    /// The models of which a version is being tried out.
    trying: BTreeSet<String>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Engine {
    /// Loads ONNX Runtime and starts to load the repository's models; [`Engine::wait`] waits for them.
    ///
    /// # Errors
    /// One sentence: ONNX Runtime or the repository cannot be used, or the system refuses a thread.
    pub fn open(options: Options) -> Result<Self, String> {
        let source = Arc::new(Source::open(&options.source)?);
        if source.kind() == "s3" && options.source.cache.is_none() {
            tracing::warn!("there is no cache (see --cache): a start without the repository has nothing to serve");
        }
        let runtime = Runtime::load(options.onnxruntime.as_deref())?.with_providers(&options.providers);
        let metrics = Arc::new(Metrics::default());
        let (hints, hinted) = channel();
        let watcher = source.watch(hints.clone());
        match &watcher {
            Ok(None) => {}
            Ok(Some(_)) => {
                tracing::debug!("changes are seen at once, and looked for every {:?}", options.poll_interval)
            }
            Err(reason) => tracing::warn!(reason, "changes are looked for every {:?} only", options.poll_interval),
        }
        let kept = options.state.as_deref().map(Kept::open).transpose().unwrap_or_else(|reason| {
            tracing::warn!(reason, "evidence for challengers is not kept over a restart: name a folder with --state");
            None
        });
        let kept = kept.map(Arc::new);
        let passing = passing::Passing::start(&options.verdict.peers)?;
        let context = Context {
            runtime: runtime.clone(),
            source: Arc::clone(&source),
            probe: options.probe.clone(),
            threads: options.threads,
            allow_signature_change: options.allow_signature_change,
            poll_interval: options.poll_interval,
            guard_period: options.guard_period,
            compare_previous: options.compare_previous,
            shadow: options.shadow,
            kept: kept.clone(),
            record: options.record.clone(),
            memory: Memory::new(options.memory_limit),
            metrics: Arc::clone(&metrics),
        };
        let shared = Arc::new(Shared {
            id: format!("{}-{:08x}", promotion::host(), fastrand::u32(..)),
            watching: matches!(watcher, Ok(Some(_))),
            source,
            options,
            runtime,
            metrics,
            lanes: ArcSwap::default(),
            held: Mutex::default(),
            leaving: Mutex::default(),
            workers: Mutex::default(),
            reports: Mutex::default(),
            reading: Mutex::default(),
            kept,
            asked: AtomicU64::new(0),
            answered: Mutex::default(),
            looked_again: Condvar::new(),
            looked: Mutex::new(false),
            first_look: Condvar::new(),
            stop: AtomicBool::new(false),
            judging: judging::Judging::default(),
            passing,
        });
        let start = |name: &str, body: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.into()).spawn(body).map_err(|e| format!("cannot start a thread: {e}"))
        };
        let swapper = Swapper::new(context, hints.clone()).map_err(|e| format!("cannot start a thread: {e}"))?;
        let swapping = Arc::clone(&shared);
        let swap = start(
            "swap",
            Box::new(move || {
                let _watcher = watcher;
                swapping.swap(swapper, &hinted);
            }),
        )?;
        let (keeping, told) = (Arc::clone(&shared), hints.clone());
        let upkeep = start(
            "upkeep",
            Box::new(move || {
                for turn in 1_u64.. {
                    std::thread::park_timeout(UPKEEP);
                    if keeping.stop.load(Ordering::Relaxed) {
                        return;
                    }
                    keeping.lanes.load().values().for_each(|lane| lane.expire());
                    keeping.end_lanes();
                    keeping.judge(&told);
                    if turn % 10 == 0 {
                        keeping.passing.send(&keeping.id);
                        keeping.guard(&told);
                    }
                }
            }),
        )?;
        let mut threads = vec![swap, upkeep];
        if shared.kept.is_some() {
            let keeping = Arc::clone(&shared);
            threads.push(start("evidence", Box::new(move || keeping.keep_evidence()))?);
        }
        Ok(Self { shared, hints, threads })
    }

    /// Waits until every champion of the repository was tried once; challengers may still be on their way.
    ///
    /// # Errors
    /// What was refused, when no model serves or when it takes longer than `limit`.
    pub fn wait(&self, limit: Duration) -> Result<(), String> {
        let until = Instant::now() + limit;
        let mut looked = lock(&self.shared.looked);
        while !*looked {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!("the models were not loaded within {} s", limit.as_secs()));
            }
            looked = self.shared.first_look.wait_timeout(looked, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(looked);
        if self.is_ready() {
            return Ok(());
        }
        let reports = self.reports();
        let reasons: Vec<String> = reports
            .iter()
            .flat_map(|(name, report)| {
                let rejected = report
                    .rejected
                    .iter()
                    .map(move |r| format!("{name} version {}: {}: {}", r.version, r.stage, r.reason));
                rejected.chain(report.error.iter().map(move |e| format!("{name}: {e}")))
            })
            .collect();
        let repository = self.shared.options.source.repository.display();
        if let Some(error) = self.reading().error {
            return Err(error);
        }
        if reasons.is_empty() { Err(format!("{repository} holds no model")) } else { Err(reasons.join("; ")) }
    }

    /// Whether the repository was read once and at least one champion serves.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.has_looked() && !self.lanes().is_empty()
    }

    /// All model names.
    #[must_use]
    pub fn lanes(&self) -> Arc<BTreeMap<String, Arc<Lane>>> {
        self.shared.lanes.load_full()
    }

    /// One model name.
    #[must_use]
    pub fn lane(&self, name: &str) -> Option<Arc<Lane>> {
        self.shared.lanes.load().get(name).cloned()
    }

    /// Answers a JSON request as `POST /models/{model}/predict` does: an object of features, an array of objects, or
    /// `{"instances": [..]}`.
    ///
    /// # Errors
    /// See [`Error`]; a request error names the field.
    pub async fn predict(&self, model: &str, json: &[u8]) -> Result<Vec<u8>, Error> {
        let lane = self.lane(model).ok_or_else(|| Error::UnknownModel(model.into()))?;
        let set = lane.serving.get().ok_or(PredictError::NotReady)?;
        let request = codec::decode::body(&set.champion.signature, json, self.shared.options.max_rows)?;
        let call = self.call("embedded");
        let origin = set.is_shadowed().then(|| Origin::new(&[], None, request.marks));
        let answers = lane.predict(&set, request.inputs, request.rows, call, origin).await?;
        Ok(codec::encode::answer(&set.champion.signature, &answers, request.form, Classes::Array))
    }

    /// What a request that arrives now may ask for.
    #[must_use]
    pub fn call(&self, protocol: &'static str) -> Call {
        let start = Instant::now();
        let deadline = start + self.shared.options.request_timeout;
        Call { start, deadline, protocol, accepted: false, priority: Priority::Normal }
    }

    /// What was counted of a model's first challenger; `None` when it has none.
    #[must_use]
    pub fn shadow(&self, model: &str) -> Option<Statistics> {
        let set: Arc<ServingSet> = self.lane(model)?.serving.get()?;
        set.challengers.first().map(|challenger| challenger.statistics())
    }

    /// What became of each model name's wishes.
    #[must_use]
    pub fn reports(&self) -> Reports {
        lock(&self.shared.reports).clone()
    }

    /// How reading the repository goes.
    #[must_use]
    pub fn reading(&self) -> Reading {
        lock(&self.shared.reading).clone()
    }

    /// Tells this engine apart from all others, so that what it saw is counted once.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.shared.id
    }

    /// Where models come from.
    #[must_use]
    pub fn source(&self) -> &Arc<Source> {
        &self.shared.source
    }

    /// Whether every model of the repository was tried once.
    #[must_use]
    pub fn has_looked(&self) -> bool {
        *lock(&self.shared.looked)
    }

    /// The options it was opened with.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.shared.options
    }

    /// The ONNX Runtime in use.
    #[must_use]
    pub fn runtime(&self) -> &Runtime {
        &self.shared.runtime
    }

    /// The registry of this engine's metrics.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.shared.metrics
    }

    /// Whether the system tells of changes; else they are found by polling only.
    #[must_use]
    pub fn is_watching(&self) -> bool {
        self.shared.watching
    }

    /// Reads the repository now.
    pub fn look(&self) {
        // The thread listens as long as the engine lives.
        let _ = self.hints.send(Hint::Changed);
    }

    /// Reads the repository now and waits until that was done and the versions of a model that it found are tried out, for `limit`
    /// at most; `false` when it took longer.
    #[must_use]
    pub fn look_and_wait(&self, name: &str, limit: Duration) -> bool {
        let ticket = self.shared.asked.fetch_add(1, Ordering::SeqCst) + 1;
        self.look();
        let until = Instant::now() + limit;
        let mut answered = lock(&self.shared.answered);
        while answered.looks < ticket || answered.trying.contains(name) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            answered = self.shared.looked_again.wait_timeout(answered, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Refuses new requests from now on and returns when the accepted ones are answered.
    pub fn close(&self) {
        self.shared.source.close();
        for lane in self.lanes().values().chain(lock(&self.shared.leaving).iter()) {
            lane.close();
        }
        for worker in std::mem::take(&mut *lock(&self.shared.workers)) {
            // A worker that panicked was reported by the panic itself.
            let _ = worker.join();
        }
        self.shared.save_evidence();
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.look();
        self.close();
        for thread in self.threads.drain(..) {
            thread.thread().unpark();
            // As above.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn swap(&self, mut swapper: Swapper, hints: &Receiver<Hint>) {
        let mut hint = None;
        loop {
            // Who asks counts first and hints then: whoever is counted here is answered by this look.
            let asked = self.asked.load(Ordering::SeqCst);
            if asked > lock(&self.answered).looks {
                hint = Some(Hint::Changed);
            }
            // One look answers all hints that came before it.
            while let Ok(more) = hints.try_recv() {
                hint = stronger(hint, more);
            }
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            swapper.step(self, hint.take());
            *lock(&self.reading) = swapper.reading();
            // A model that takes long to come does not keep those that serve from being used.
            if swapper.has_tried(self.is_serving()) {
                *lock(&self.looked) = true;
                self.first_look.notify_all();
            }
            *lock(&self.answered) = Answered { looks: asked, trying: swapper.trying() };
            self.looked_again.notify_all();
            swapper.release();
            match hints.recv_timeout(swapper.next_step()) {
                // A file that is being written hints many times a millisecond.
                Ok(Hint::Changed) => {
                    hint = Some(Hint::Changed);
                    std::thread::sleep(HINTS);
                }
                Ok(Hint::Done) => hint = Some(Hint::Done),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// A lane with its threads, for the first set of a name.
    fn open_lane(&self, name: &str) -> std::io::Result<Arc<Lane>> {
        let metrics = Arc::new(ModelMetrics::new(&self.metrics, name));
        let sampler = Sampler::new(self.options.shadow.sample);
        let lane = Arc::new(Lane::new(name, self.options.queue, metrics, sampler));
        let workers = batch::worker::start(&lane, self.options.threads.workers).inspect_err(|_| lane.close())?;
        lock(&self.workers).extend(workers);
        Ok(lane)
    }
}

/// A change says more than the end of a download.
fn stronger(hint: Option<Hint>, more: Hint) -> Option<Hint> {
    if hint == Some(Hint::Changed) { hint } else { Some(more) }
}

impl Lanes for Shared {
    fn is_serving(&self) -> bool {
        !self.lanes.load().is_empty()
    }

    fn serving(&self, name: &str) -> Option<Arc<ServingSet>> {
        self.lanes.load().get(name)?.serving.get()
    }

    fn publish(&self, name: &str, set: ServingSet) -> Result<Option<Arc<ServingSet>>, String> {
        if let Some(lane) = self.lanes.load().get(name) {
            return Ok(lane.serving.publish(set));
        }
        let lane = self.open_lane(name).map_err(|e| format!("cannot start threads: {e}"))?;
        lane.serving.publish(set);
        let mut lanes = BTreeMap::clone(&self.lanes.load());
        lanes.insert(name.into(), lane);
        self.lanes.store(Arc::new(lanes));
        Ok(None)
    }

    fn held(&self) -> BTreeSet<String> {
        lock(&self.held).clone()
    }

    fn withdraw(&self, name: &str) {
        self.take_out(name);
    }

    fn report(&self, name: &str, report: Report) {
        lock(&self.reports).insert(name.into(), report);
    }

    fn forget(&self, listing: &Listing) {
        lock(&self.reports).retain(|name, _| listing.contains_key(name));
    }
}
