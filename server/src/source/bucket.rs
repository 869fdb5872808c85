//! A repository in a bucket: conditional reads of what may change, downloads in the background, the cache behind both.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::cache::Cache;
use super::download::{Download, PART, Progress};
use super::fetch::Fetcher;
use super::fetched::Fetched;
use super::s3::{Client, Fault, Got, Listed};
use super::signing::Keys;
use super::{
    Condition, Found, Hint, Listing, MANIFEST, MODEL, Object, Options, Revision, Wanted, Written, served, sha256,
};
use crate::model::check::{Rejection, Stage};
use crate::threads::lower_priority;

/// How long new names may go unnoticed: a listing costs ten times what a read costs.
const NAMES: Duration = Duration::from_secs(60);
/// How many of the highest versions are looked into for one that is complete.
const CANDIDATES: usize = 8;
/// Reads at a time.
const PARALLEL: usize = 16;
/// A fetch that ends within this is waited for, so that champion and challenger of a small set are published together.
const MOMENT: Duration = Duration::from_millis(250);
/// How long a start that has a cache waits for the server before it serves what it has.
const FIRST: Duration = Duration::from_secs(3);
/// How long a server that stops waits for its cache to be written.
const FLUSH: Duration = Duration::from_secs(2);
/// How often a long download is told in the log.
const TELL: Duration = Duration::from_secs(10);

/// A repository under a bucket's prefix.
pub(super) struct Bucket {
    /// For what must be quick whatever the server does: a rollback is needed most when all CPUs are busy.
    client: Client,
    requests: Option<Runtime>,
    /// For downloads, which let requests go first. It has connections of its own.
    fetcher: Arc<Fetcher>,
    downloads: Option<Runtime>,
    stop: watch::Sender<bool>,
    /// What was read last of each object that is read again and again.
    known: Mutex<HashMap<String, Object>>,
    names: Mutex<Option<(Vec<String>, Instant)>>,
    /// Folders that hold no version.
    empty: Mutex<HashSet<String>>,
    tasks: Mutex<HashMap<Task, Fetching>>,
    hints: OnceLock<Sender<Hint>>,
    asked: AtomicBool,
    last_read: Option<SystemTime>,
}

/// A version that is fetched.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Task {
    model: String,
    version: String,
    fingerprint: String,
}

impl Task {
    fn of(model: &str, revision: &Revision) -> Self {
        let (version, fingerprint) = (revision.version.clone(), revision.fingerprint.clone());
        Self { model: model.into(), version, fingerprint }
    }
}

struct Fetching {
    done: Receiver<Result<Fetched, Rejection>>,
    handle: AbortHandle,
    progress: Arc<Progress>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Bucket {
    /// Takes the address apart; asks nothing of the server yet.
    pub(super) fn open(url: &str, options: &Options, keys: Option<Keys>) -> Result<Self, String> {
        let client = Client::new(url, options.s3_endpoint.clone())?;
        // Two servers with the same bucket's name are told apart, however their address was given.
        let elsewhere = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"].iter().find_map(std::env::var_os);
        let elsewhere = elsewhere.unwrap_or_default().to_string_lossy().into_owned();
        let endpoint = options.s3_endpoint.as_deref().unwrap_or(&elsewhere);
        let id = sha256(format!("{endpoint} {}", client.url("")).as_bytes());
        let cache = Cache::open(options.cache.as_deref(), options.cache_bytes);
        let last_read = cache.notes(&id).into_iter().map(|(_, _, at)| at).max();
        let failed = |e| format!("cannot start threads: {e}");
        let runtime = |name: &str, threads: usize| {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder.worker_threads(threads).thread_name(name).enable_all();
            builder
        };
        let downloads = runtime("download", 2).on_thread_start(lower_priority).build().map_err(failed)?;
        let apart = Client::new(url, options.s3_endpoint.clone())?;
        Ok(Self {
            client,
            requests: Some(runtime("s3", 1).build().map_err(failed)?),
            fetcher: Arc::new(Fetcher {
                client: apart,
                cache,
                keys,
                model_bytes: options.model_bytes,
                id,
                took: Mutex::default(),
                wrong: Mutex::default(),
            }),
            downloads: Some(downloads),
            stop: watch::channel(false).0,
            known: Mutex::default(),
            names: Mutex::default(),
            empty: Mutex::default(),
            tasks: Mutex::default(),
            hints: OnceLock::new(),
            asked: AtomicBool::new(false),
            last_read,
        })
    }

    /// Waits for a request, but not for longer than the source is open; for the first of a process that has something to
    /// serve in its cache, not for long.
    fn wait<T>(&self, request: impl Future<Output = Result<T, Fault>>) -> Result<T, String> {
        let mut stop = self.stop.subscribe();
        let is_first = !self.asked.swap(true, Ordering::Relaxed) && self.last_read().is_some();
        let patience = if is_first { FIRST } else { Duration::MAX };
        self.requests.as_ref().expect("it is taken when this is dropped").block_on(async {
            tokio::select! {
                done = request => done.map_err(|fault| fault.message),
                _ = stop.wait_for(|stop| *stop) => Err("the server is shutting down".into()),
                () = tokio::time::sleep(patience) => Err(format!("{}: no answer in {FIRST:?}", self.client.url(""))),
            }
        })
    }

    pub(super) fn close(&self) {
        self.stop.send_replace(true);
        self.fetcher.cache.flush(FLUSH);
    }

    pub(super) fn hint(&self, hints: Sender<Hint>) {
        // It is called once.
        let _ = self.hints.set(hints);
    }

    /// When the repository was last read by a process before this one with the same cache.
    pub(super) const fn last_read(&self) -> Option<SystemTime> {
        self.last_read
    }

    /// The folders of the repository. They are listed rarely, and what is known goes on when that fails.
    pub(super) fn models(&self, now: bool) -> Result<Vec<String>, String> {
        let known = lock(&self.names).clone();
        if let Some((names, at)) = &known
            && !now
            && !names.is_empty()
            && at.elapsed() < NAMES
        {
            return Ok(names.clone());
        }
        match self.wait(self.client.list("", true)) {
            Ok(listed) => {
                let names: Vec<String> = listed.into_iter().map(|l| l.key.trim_end_matches('/').to_owned()).collect();
                *lock(&self.names) = Some((names.clone(), Instant::now()));
                lock(&self.empty).clear();
                Ok(names)
            }
            Err(error) => match known {
                Some((names, _)) => {
                    *lock(&self.names) = Some((names.clone(), Instant::now()));
                    Ok(names)
                }
                None => {
                    Err(format!("{error}: the models cannot be listed (servers do without when --models names them)"))
                }
            },
        }
    }

    /// Reads one small object.
    pub(super) fn read(&self, key: &str, most: u64) -> Result<Option<Object>, String> {
        Ok(match self.wait(self.client.get(key, None, most))? {
            Got::Object { bytes, tag } => Some(Object { bytes, tag }),
            Got::Same | Got::Missing => None,
        })
    }

    /// Reads small objects; those that did not change cost an empty answer.
    pub(super) fn read_again(&self, keys: &[String], most: u64) -> Vec<Result<Option<Object>, String>> {
        let read = |key: String| async move {
            let known = lock(&self.known).get(&key).cloned();
            let got = self.client.get(&key, known.as_ref().map(|object| object.tag.as_str()), most).await;
            Ok(match got {
                Ok(Got::Same) => Ok(known),
                Ok(Got::Missing) => {
                    lock(&self.known).remove(&key);
                    Ok(None)
                }
                Ok(Got::Object { bytes, tag }) => {
                    let object = Object { bytes, tag };
                    lock(&self.known).insert(key, object.clone());
                    Ok(Some(object))
                }
                Err(fault) => Err(fault.message),
            })
        };
        let all = stream::iter(keys.iter().cloned().map(read)).buffered(PARALLEL).collect::<Vec<_>>();
        let results = self.wait(async { all.await.into_iter().collect::<Result<Vec<_>, Fault>>() });
        results.unwrap_or_else(|error| keys.iter().map(|_| Err(error.clone())).collect())
    }

    pub(super) fn forget(&self, model: &str) {
        let folder = format!("{model}/");
        lock(&self.known).retain(|key, _| !key.starts_with(&folder));
    }

    /// The versions that may be served of a model without a pointer. A folder that has none, which may hold millions of other
    /// things, is not listed again before new names are looked for.
    pub(super) fn candidates(&self, model: &str) -> Result<Vec<Found>, String> {
        if lock(&self.empty).contains(model) {
            return Ok(vec![]);
        }
        let found = self.versions(model, CANDIDATES)?;
        if found.iter().all(|found| found.stamp.is_empty()) {
            lock(&self.empty).insert(model.into());
        }
        Ok(found)
    }

    /// The numbered folders of a model, the highest `most` of them with what is in them.
    pub(super) fn versions(&self, model: &str, most: usize) -> Result<Vec<Found>, String> {
        let folders = self.wait(self.client.list(&format!("{model}/"), true))?;
        let name = |listed: Listed| listed.key.trim_end_matches('/').rsplit('/').next().map(str::to_owned);
        let mut numbers: Vec<String> = folders.into_iter().filter_map(name).filter(|n| super::is_version(n)).collect();
        numbers.sort_by_key(|number| std::cmp::Reverse(number.parse::<u64>().unwrap_or(0)));
        let look = |(at, version): (usize, String)| async move {
            if at >= most {
                return Ok(Found { version, ..Found::default() });
            }
            let folder = format!("{model}/{version}/");
            let mut found = Found { version, ..Found::default() };
            for listed in self.client.list(&folder, false).await? {
                match listed.key.strip_prefix(&folder) {
                    Some(MODEL) => {
                        (found.stamp, found.bytes) = (format!("{} {}", listed.bytes, listed.tag), listed.bytes);
                    }
                    Some(MANIFEST) => found.manifest = true,
                    _ => {}
                }
            }
            Ok(found)
        };
        let all = stream::iter(numbers.into_iter().enumerate().map(look)).buffered(PARALLEL).collect::<Vec<_>>();
        self.wait(async { all.await.into_iter().collect::<Result<Vec<_>, Fault>>() })
    }

    pub(super) fn size(&self, key: &str) -> Result<Option<u64>, String> {
        self.wait(self.client.size(key))
    }

    pub(super) fn write(&self, key: &str, bytes: &[u8], condition: &Condition) -> Result<Written, String> {
        self.wait(self.client.put(key, Bytes::copy_from_slice(bytes), condition))
    }

    pub(super) fn upload(&self, key: &str, bytes: Bytes, progress: &(dyn Fn(u64) + Sync)) -> Result<Written, String> {
        let client = &self.client;
        self.wait(async {
            if bytes.len() > PART {
                // Parts cost two requests more and the condition holds at the end only: look before sending all of it.
                if client.size(key).await?.is_some() {
                    return Ok(Written::Lost);
                }
                return client.put_parts(key, bytes, PART, progress).await;
            }
            let size = bytes.len() as u64;
            let written = client.put(key, bytes, &Condition::New).await?;
            progress(size);
            Ok(written)
        })
    }

    /// Starts a fetch or takes its result; `None` while it goes on. `patience` is how long it is waited for.
    pub(super) fn fetch(
        &self,
        model: &str,
        revision: &Revision,
        patience: Option<Duration>,
    ) -> Result<Option<Fetched>, Rejection> {
        let task = Task::of(model, revision);
        // Taken out, so that nobody waits for the lock meanwhile.
        let present = lock(&self.tasks).remove(&task);
        let patience = patience.unwrap_or(if present.is_none() { MOMENT } else { Duration::ZERO });
        let fetching = present.unwrap_or_else(|| self.start(model, revision));
        match fetching.done.recv_timeout(patience) {
            Err(RecvTimeoutError::Timeout) => {
                lock(&self.tasks).insert(task, fetching);
                Ok(None)
            }
            Err(RecvTimeoutError::Disconnected) => Err(Stage::Fetch.not_yet("the fetch was ended, see the log")),
            Ok(result) => result.map(Some),
        }
    }

    fn start(&self, model: &str, revision: &Revision) -> Fetching {
        let (sender, done) = channel();
        let progress = Arc::new(Progress::default());
        let (fetcher, hints) = (Arc::clone(&self.fetcher), self.hints.get().cloned());
        let (model, revision, told) = (model.to_owned(), revision.clone(), Arc::clone(&progress));
        let handle = self.downloads.as_ref().expect("it is taken when this is dropped").spawn(async move {
            let fetch = fetcher.fetch(&model, &revision, &told);
            let result = tokio::select! {
                result = fetch => result,
                never = tell(&model, &revision.version, &told) => match never {},
            };
            // Nobody waits for it any more when the server stops.
            let _ = sender.send(result);
            if let Some(hints) = hints {
                let _ = hints.send(Hint::Done);
            }
        });
        Fetching { done, handle: handle.abort_handle(), progress }
    }

    /// Ends the fetches that neither the listing nor `served`, which is what may serve instead, asks for.
    pub(super) fn keep_only(&self, listing: &Listing, served: &BTreeMap<String, Wanted>) {
        let names =
            |wanted: &Wanted, task: &Task| wanted.all().any(|revision| Task::of(&task.model, revision) == *task);
        self.fetcher.cache.touch_notes(&self.fetcher.id, listing.keys().cloned().collect());
        lock(&self.tasks).retain(|task, fetching| {
            let wanted = match listing.get(&task.model) {
                Some(Ok(wanted)) => {
                    names(wanted, task) || served.get(&task.model).is_some_and(|served| names(served, task))
                }
                Some(Err(_)) => true,
                None => false,
            };
            if !wanted {
                fetching.handle.abort();
            }
            wanted
        });
    }

    pub(super) fn downloads(&self) -> Vec<Download> {
        let tasks = lock(&self.tasks);
        let mut downloads: Vec<Download> = tasks
            .iter()
            .map(|(task, fetching)| Download {
                model: task.model.clone(),
                version: task.version.clone(),
                bytes: fetching.progress.bytes.load(Ordering::Relaxed),
                of: fetching.progress.of.load(Ordering::Relaxed),
            })
            .collect();
        downloads.sort_by(|a, b| (&a.model, &a.version).cmp(&(&b.model, &b.version)));
        downloads
    }

    pub(super) fn note_served(&self, model: &str, wanted: &Wanted) {
        let files = self.fetcher.files(wanted.challengers.iter().chain([&wanted.champion]));
        self.fetcher.cache.write_note(&self.fetcher.id, model, served::write(wanted, files));
    }

    pub(super) fn last_served(&self) -> BTreeMap<String, Wanted> {
        let notes = self.fetcher.cache.notes(&self.fetcher.id);
        notes.into_iter().filter_map(|(model, bytes, _)| Some((model, served::read(&bytes)?))).collect()
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        for runtime in [self.requests.take(), self.downloads.take()].into_iter().flatten() {
            runtime.shutdown_background();
        }
    }
}

/// Tells from time to time how far a download is.
async fn tell(model: &str, version: &str, progress: &Progress) -> std::convert::Infallible {
    loop {
        tokio::time::sleep(TELL).await;
        let (bytes, of) = (progress.bytes.load(Ordering::Relaxed), progress.of.load(Ordering::Relaxed));
        tracing::info!(model, version, bytes, of, "downloading");
    }
}
