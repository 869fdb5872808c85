//! Which models should be served, and their bytes. What lies behind a repository, a folder or an S3 bucket, is decided here
//! and nowhere else; both follow the same rules and differ in how they read and write.

pub mod aliases;
mod bucket;
mod cache;
mod download;
mod fetch;
mod fetched;
mod file;
mod s3;
mod served;
pub mod signing;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::Sender;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use notify::Watcher;
use serde::Serialize;

use crate::model::check::{Rejection, Stage};
pub use crate::model::sha256;
use aliases::{ALIASES, ALIASES_BYTES, Aliases};
use bucket::Bucket;
pub use download::Download;
pub use fetched::Fetched;
use fetched::{Files, verify_manifest};
use file::Folder;
pub(crate) use file::{open_regular, write_whole};
use signing::Keys;

pub(crate) const MANIFEST: &str = "manifest.json";
pub(crate) const MODEL: &str = "model.onnx";
pub(crate) const SIGNATURE: &str = "manifest.json.sig";
pub(crate) const MANIFEST_BYTES: u64 = 4 << 20;
pub(crate) const SIGNATURE_BYTES: u64 = 4 << 10;
/// The longest pause between two looks at a repository that cannot be read.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The first pause while nothing serves yet.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// A command that waits for a download gives up after this.
const LONGEST_FETCH: Duration = Duration::from_secs(6 * 3600);

/// One version as a repository names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Revision {
    /// A positive integer as text.
    pub version: String,
    /// SHA-256 of its manifest, when it has one.
    pub manifest_sha256: Option<String>,
    /// Differs when the content may differ.
    #[serde(skip)]
    pub fingerprint: String,
}

impl Revision {
    fn pinned(version: &str, manifest_sha256: &str) -> Self {
        let sha256 = manifest_sha256.to_ascii_lowercase();
        Self { version: version.into(), manifest_sha256: Some(sha256.clone()), fingerprint: sha256 }
    }
}

/// What should be served under one name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Wanted {
    /// Answers.
    pub champion: Revision,
    /// Scores in the shadow; the first one is used.
    pub challengers: Vec<Revision>,
    /// Challengers that are named wrongly: version and reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub misnamed: Vec<(String, String)>,
    /// The champion before; serves when nothing else can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous: Option<Revision>,
    /// When the champion replaced it, in seconds of Unix time, where that is known.
    #[serde(skip)]
    pub promoted_at: Option<u64>,
    /// Counts the promotions; 0 without `aliases.json`.
    pub epoch: u64,
}

impl Wanted {
    /// A champion alone.
    #[must_use]
    pub const fn of(champion: Revision) -> Self {
        Self { champion, challengers: vec![], misnamed: vec![], previous: None, promoted_at: None, epoch: 0 }
    }

    /// Every version that it names.
    pub fn all(&self) -> impl Iterator<Item = &Revision> {
        [&self.champion].into_iter().chain(&self.challengers).chain(&self.previous)
    }
}

/// Every model of a repository with what is wanted of it, or why that cannot be told.
pub type Listing = BTreeMap<String, Result<Wanted, String>>;

/// Why the thread that watches the repository is woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    /// The repository may have changed.
    Changed,
    /// A download or a trial ended.
    Done,
}

/// Where a repository is and how it is read.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `s3://bucket/prefix`, a folder of models, or one `.onnx` file.
    pub repository: PathBuf,
    /// Serve only these models; all when empty.
    pub models: Vec<String>,
    /// Another S3 server than Amazon's, asked with the bucket in the path.
    pub s3_endpoint: Option<String>,
    /// Where what an S3 repository gave is kept; `None` for nowhere.
    pub cache: Option<PathBuf>,
    /// Bytes that the cache may hold.
    pub cache_bytes: u64,
    /// Bytes of one version's files together.
    pub model_bytes: u64,
    /// A file of public keys, one of which must have signed each manifest.
    pub require_signature: Option<PathBuf>,
}

/// A small object and what tells whether it changed.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub(crate) bytes: Bytes,
    pub(crate) tag: String,
}

/// What must hold for a write to happen.
#[derive(Clone, Debug)]
pub(crate) enum Condition {
    /// Nothing is there yet.
    New,
    /// It is still what was read, by its tag.
    Unchanged(String),
}

/// Whether a conditional write happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    Done,
    /// Someone else was first.
    Lost,
}

/// A version that a model's folder holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) version: String,
    pub(crate) manifest: bool,
    /// Differs when `model.onnx` may differ; empty when there is none.
    pub(crate) stamp: String,
    pub(crate) bytes: u64,
}

/// Where models come from.
pub struct Source {
    store: Store,
    models: Vec<String>,
    keys: Option<Keys>,
    model_bytes: u64,
}

enum Store {
    Folder(Folder),
    Bucket(Box<Bucket>),
}

impl Source {
    /// Opens the repository that a user named. Nothing is asked of an S3 server yet.
    ///
    /// # Errors
    /// One sentence that says what is there instead, or what is wrong with the address or the keys.
    pub fn open(options: &Options) -> Result<Self, String> {
        if let Some(name) = options.models.iter().find(|name| !is_model_name(name)) {
            return Err(format!("models: {name:?} is not a model's name"));
        }
        let keys = options.require_signature.as_deref().map(Keys::read).transpose()?;
        let store = match options.repository.to_str().filter(|path| path.contains("://")) {
            Some(url) => Store::Bucket(Box::new(Bucket::open(url, options, keys.clone())?)),
            None => Store::Folder(Folder::open(&options.repository)?),
        };
        Ok(Self { store, models: options.models.clone(), keys, model_bytes: options.model_bytes })
    }

    /// `file` or `s3`, the `source` label of metrics.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self.store {
            Store::Folder(_) => "file",
            Store::Bucket(_) => "s3",
        }
    }

    /// Reads what should be served now. `hinted` looks for new names too, which is done rarely where it costs.
    ///
    /// # Errors
    /// When the repository as a whole cannot be read.
    pub fn look(&self, hinted: bool) -> Result<Listing, String> {
        let names = match &self.store {
            _ if !self.models.is_empty() => self.models.clone(),
            Store::Folder(folder) => folder.models()?,
            Store::Bucket(bucket) => bucket.models(hinted)?,
        };
        let names: Vec<String> = names.into_iter().filter(|name| is_model_name(name)).collect();
        let keys: Vec<String> = names.iter().map(|name| format!("{name}/{ALIASES}")).collect();
        let read = self.read_again(&keys, ALIASES_BYTES);
        let is_unreachable = matches!(self.store, Store::Bucket(_)) && read.iter().all(Result::is_err);
        let mut listing = Listing::new();
        for (name, read) in names.into_iter().zip(read) {
            let wanted = match read {
                Ok(Some(object)) => Some(Aliases::parse(&object.bytes).and_then(|aliases| aliases.wanted())),
                Ok(None) => self.highest(&name).transpose(),
                Err(error) => Some(Err(error)),
            };
            if let Some(wanted) = wanted {
                listing.insert(name, wanted);
            }
        }
        // One object that cannot be read is that model's trouble; none that can is the repository's.
        if is_unreachable && let Some(Err(error)) = listing.values().next() {
            return Err(error.clone());
        }
        Ok(listing)
    }

    /// Without `aliases.json`, the highest complete version is the champion; `None` when there is no version.
    fn highest(&self, model: &str) -> Result<Option<Wanted>, String> {
        let found = match &self.store {
            Store::Folder(folder) => folder.versions(model)?,
            Store::Bucket(bucket) => bucket.candidates(model)?,
        };
        let number = |found: &&Found| found.version.parse::<u64>().unwrap_or(0);
        // Where versions have manifests, one without is not complete yet: the manifest is written last.
        let whole = found.iter().filter(|found| !found.stamp.is_empty());
        let complete = whole.clone().filter(|found| found.manifest).max_by_key(number);
        let Some(newest) = complete.or_else(|| whole.max_by_key(number)) else { return Ok(None) };
        let version = &newest.version;
        if !newest.manifest {
            let (version, fingerprint) = (version.clone(), newest.stamp.clone());
            return Ok(Some(Wanted::of(Revision { version, manifest_sha256: None, fingerprint })));
        }
        let key = format!("{model}/{version}/{MANIFEST}");
        let read = self.read_again(std::slice::from_ref(&key), MANIFEST_BYTES).pop();
        let manifest = read.unwrap_or(Ok(None))?.ok_or_else(|| format!("{key} is gone"))?;
        Ok(Some(Wanted::of(Revision::pinned(version, &sha256(&manifest.bytes)))))
    }

    /// Reads and verifies one version; `None` while it is being downloaded, which ends with [`Hint::Done`].
    ///
    /// # Errors
    /// At `fetch` when it cannot be read (worth another try), at `verify` when it is not what it should be.
    pub fn fetch(&self, model: &str, revision: &Revision) -> Result<Option<Fetched>, Rejection> {
        match &self.store {
            Store::Folder(folder) => folder.fetch(model, revision, self.keys.as_ref(), self.model_bytes).map(Some),
            Store::Bucket(bucket) => bucket.fetch(model, revision, None),
        }
    }

    /// Reads and verifies one version, however long it takes.
    ///
    /// # Errors
    /// As [`Source::fetch`].
    pub fn fetch_whole(&self, model: &str, revision: &Revision) -> Result<Fetched, Rejection> {
        let fetched = match &self.store {
            Store::Folder(_) => self.fetch(model, revision)?,
            Store::Bucket(bucket) => bucket.fetch(model, revision, Some(LONGEST_FETCH))?,
        };
        fetched.ok_or_else(|| Stage::Fetch.not_yet("it takes too long"))
    }

    /// When the repository was last read by a process before this one with the same cache.
    #[must_use]
    pub fn last_read(&self) -> Option<SystemTime> {
        match &self.store {
            Store::Folder(_) => None,
            Store::Bucket(bucket) => bucket.last_read(),
        }
    }

    /// Reads what points to a model anew at the next look: it may have come damaged.
    pub fn forget(&self, model: &str) {
        if let Store::Bucket(bucket) = &self.store {
            bucket.forget(model);
        }
    }

    /// Ends the downloads that neither `listing` nor `served`, which may serve instead, asks for.
    pub fn keep_only(&self, listing: &Listing, served: &BTreeMap<String, Wanted>) {
        if let Store::Bucket(bucket) = &self.store {
            bucket.keep_only(listing, served);
        }
    }

    /// What is being downloaded.
    #[must_use]
    pub fn downloads(&self) -> Vec<Download> {
        match &self.store {
            Store::Folder(_) => vec![],
            Store::Bucket(bucket) => bucket.downloads(),
        }
    }

    /// Remembers for the next start what serves under a name.
    pub fn note_served(&self, model: &str, wanted: &Wanted) {
        if let Store::Bucket(bucket) = &self.store {
            bucket.note_served(model, wanted);
        }
    }

    /// What served when a server last ran with this cache: all of it is in the cache.
    #[must_use]
    pub fn last_served(&self) -> BTreeMap<String, Wanted> {
        let mut served = match &self.store {
            Store::Folder(_) => BTreeMap::new(),
            Store::Bucket(bucket) => bucket.last_served(),
        };
        served.retain(|name, _| self.models.is_empty() || self.models.contains(name));
        served
    }

    /// Sends a hint whenever something may have changed, for as long as the watcher lives; `None` where only looking
    /// tells. Downloads hint through the same channel.
    ///
    /// # Errors
    /// When the system cannot watch (network file systems, exhausted limits): polling finds the changes then.
    pub fn watch(&self, hints: Sender<Hint>) -> Result<Option<Box<dyn Watcher + Send>>, String> {
        match &self.store {
            Store::Folder(folder) => folder.watch(hints).map(Some),
            Store::Bucket(bucket) => {
                bucket.hint(hints);
                Ok(None)
            }
        }
    }

    /// Ends every wait for an S3 server, now and later.
    pub fn close(&self) {
        if let Store::Bucket(bucket) = &self.store {
            bucket.close();
        }
    }

    /// How long to wait until the next look, after `failures` of them in a row. A little less than the interval, so that
    /// many servers do not ask at the same moment and each still asks once in it.
    #[must_use]
    pub fn pause(&self, interval: Duration, failures: u32, serving: bool) -> Duration {
        let jitter = 0.8 + 0.2 * fastrand::f64();
        if failures == 0 || matches!(self.store, Store::Folder(_)) {
            return interval.mul_f64(jitter);
        }
        let doubled =
            |first: Duration, most: Duration| first.saturating_mul(1 << failures.min(16).saturating_sub(1)).min(most);
        let (first, most) = if serving { (interval, self.longest_pause(interval)) } else { (FIRST_PAUSE, interval) };
        doubled(first, most).mul_f64(jitter)
    }

    /// The longest pause between two tries of a version that may come.
    #[must_use]
    pub fn longest_pause(&self, interval: Duration) -> Duration {
        match self.store {
            Store::Folder(_) => interval,
            Store::Bucket(_) => interval.max(LONGEST_PAUSE),
        }
    }

    /// The models of the repository, those included that [`Options::models`] leaves out.
    pub(crate) fn names(&self) -> Result<Vec<String>, String> {
        let names = match &self.store {
            Store::Folder(folder) => folder.models(),
            Store::Bucket(bucket) => bucket.models(true),
        };
        names.map(|names| names.into_iter().filter(|name| is_model_name(name)).collect())
    }

    /// The numbered folders of a model and what is in them.
    pub(crate) fn versions(&self, model: &str) -> Result<Vec<Found>, String> {
        match &self.store {
            Store::Folder(folder) => folder.versions(model),
            Store::Bucket(bucket) => bucket.versions(model, usize::MAX),
        }
    }

    /// Reads one small object; `None` when there is none.
    pub(crate) fn read(&self, key: &str, most: u64) -> Result<Option<Object>, String> {
        match &self.store {
            Store::Folder(folder) => folder.read(key, most),
            Store::Bucket(bucket) => bucket.read(key, most),
        }
    }

    /// Reads small objects that are read again and again: of a bucket, what did not change is not sent.
    fn read_again(&self, keys: &[String], most: u64) -> Vec<Result<Option<Object>, String>> {
        match &self.store {
            Store::Folder(folder) => keys.iter().map(|key| folder.read(key, most)).collect(),
            Store::Bucket(bucket) => bucket.read_again(keys, most),
        }
    }

    /// Checks the signature of a version's manifest, when signatures are required.
    pub(crate) fn check_signature(&self, folder: &str, manifest: &[u8]) -> Result<(), String> {
        let Some(keys) = &self.keys else { return Ok(()) };
        let signature = self.read(&format!("{folder}/{SIGNATURE}"), SIGNATURE_BYTES)?;
        let signature = signature.as_ref().map(|object| &object.bytes[..]);
        keys.check(manifest, signature).map_err(|rejection| rejection.reason)
    }

    pub(crate) fn size(&self, key: &str) -> Result<Option<u64>, String> {
        match &self.store {
            Store::Folder(folder) => folder.size(key),
            Store::Bucket(bucket) => bucket.size(key),
        }
    }

    pub(crate) fn write(&self, key: &str, bytes: &[u8], condition: &Condition) -> Result<Written, String> {
        match &self.store {
            Store::Folder(folder) => folder.write(key, bytes, condition),
            Store::Bucket(bucket) => bucket.write(key, bytes, condition),
        }
    }

    /// Writes a large object that is not there yet; `progress` is told the bytes as they go.
    pub(crate) fn upload(&self, key: &str, bytes: Bytes, progress: &(dyn Fn(u64) + Sync)) -> Result<Written, String> {
        match &self.store {
            Store::Folder(folder) => {
                let written = folder.write(key, &bytes, &Condition::New)?;
                progress(bytes.len() as u64);
                Ok(written)
            }
            Store::Bucket(bucket) => bucket.upload(key, bytes, progress),
        }
    }
}

pub(crate) fn is_version(text: &str) -> bool {
    text.len() <= 18 && !text.starts_with('0') && !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

pub(crate) fn is_model_name(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}
