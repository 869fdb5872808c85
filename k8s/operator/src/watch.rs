//! What the API server says there is, kept up to date by watches: pods, nodes and policies.
//!
//! `kube`'s watcher lists, watches, and lists again when a watch has expired or the server was away; meanwhile what was known stays. Objects
//! are taken apart as they come ([`crate::facts`]), so that thousands of pods take little memory.

use std::collections::HashMap;
use std::fmt::Debug;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use kube::runtime::watcher::{Config, Event};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;

/// Between two complaints about the same watch.
const COMPLAINTS: Duration = Duration::from_secs(60);

type Key = (String, String);

/// The objects of one kind.
pub struct Store<T> {
    objects: Mutex<HashMap<Key, Arc<T>>>,
    complete: AtomicBool,
}

impl<T> Default for Store<T> {
    fn default() -> Self {
        Self { objects: Mutex::default(), complete: AtomicBool::new(false) }
    }
}

impl<T> Store<T> {
    /// All of them, once they were listed.
    pub fn all(&self) -> Vec<Arc<T>> {
        self.lock().values().cloned().collect()
    }

    /// Whether they were listed.
    pub fn complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Arc<T>>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a store up to date, for ever. `read` takes an object apart, and gets what was known of the object of that name before.
pub async fn keep<K, T>(
    api: Api<K>,
    store: Arc<Store<T>>,
    changed: Arc<Notify>,
    read: impl Fn(K, Option<&T>) -> Option<T>,
) where
    K: kube::Resource<DynamicType: Default> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let kind = K::kind(&K::DynamicType::default()).into_owned();
    let mut events = pin!(watcher(api, Config::default()).default_backoff());
    let mut listed: HashMap<Key, Arc<T>> = HashMap::new();
    let mut complained: Option<Instant> = None;
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(object)) => {
                let (key, known) = known(&store, &object);
                if let Some(object) = read(object, known.as_deref()) {
                    listed.insert(key, Arc::new(object));
                }
            }
            Ok(Event::InitDone) => {
                *store.lock() = std::mem::take(&mut listed);
                if !store.complete.swap(true, Ordering::Release) {
                    tracing::info!(kind, objects = store.lock().len(), "listed");
                }
                changed.notify_one();
            }
            Ok(Event::Apply(object)) => {
                let (key, known) = known(&store, &object);
                if let Some(object) = read(object, known.as_deref()) {
                    store.lock().insert(key, Arc::new(object));
                }
                changed.notify_one();
            }
            Ok(Event::Delete(object)) => {
                store.lock().remove(&key(&object));
                changed.notify_one();
            }
            Err(error) => {
                if complained.is_none_or(|at| at.elapsed() >= COMPLAINTS) {
                    complained = Some(Instant::now());
                    tracing::warn!(kind, %error, "the API server does not tell what there is; it is asked again");
                }
            }
        }
    }
}

fn key<K: kube::Resource>(object: &K) -> Key {
    (object.namespace().unwrap_or_default(), object.name_any())
}

fn known<K: kube::Resource, T>(store: &Store<T>, object: &K) -> (Key, Option<Arc<T>>) {
    let key = key(object);
    let known = store.lock().get(&key).cloned();
    (key, known)
}
