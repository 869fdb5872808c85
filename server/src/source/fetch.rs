//! Fetching one version from a bucket: the cache first, then the manifest, its signature, and each file it names.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::cache::Cache;
use super::download::{Progress, Target, download};
use super::fetched::{Fetched, Files, verify_manifest};
use super::s3::{Client, Fault, Got, Kind};
use super::signing::Keys;
use super::{MANIFEST, MANIFEST_BYTES, MODEL, Revision, SIGNATURE, SIGNATURE_BYTES, sha256};
use crate::model::check::{Rejection, Stage};

/// What fetches of one repository share.
pub(super) struct Fetcher {
    pub(super) client: Client,
    pub(super) cache: Cache,
    pub(super) keys: Option<Keys>,
    pub(super) model_bytes: u64,
    /// The repository's folder in the cache.
    pub(super) id: String,
    /// The names in the cache of all that a version took, by its fingerprint.
    pub(super) took: Mutex<HashMap<String, Vec<String>>>,
    /// Objects that were not what a manifest says, by key and wanted hash.
    pub(super) wrong: Mutex<HashMap<(String, String), Wrong>>,
}

/// An object that was fetched whole and was not what it should be. It may have come damaged, so that it is fetched again, but ever more
/// seldom, before its tag is another one.
#[derive(Clone)]
pub(super) struct Wrong {
    tag: String,
    rejection: Rejection,
    at: Instant,
    times: u32,
}

/// Versions that are remembered in [`Fetcher::took`].
const REMEMBERED: usize = 4096;
/// The pause before an object of the same tag is fetched for the third time, doubled each time, and the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

impl Fetcher {
    /// Reads and verifies a version.
    pub(super) async fn fetch(
        &self,
        model: &str,
        revision: &Revision,
        progress: &Progress,
    ) -> Result<Fetched, Rejection> {
        let folder = format!("{model}/{}", revision.version);
        let Some(pinned) = &revision.manifest_sha256 else {
            return self.bare(model, revision, &folder, progress).await;
        };
        let text = match self.cached(pinned) {
            Some(text) => text,
            None => {
                let got = self.client.get(&format!("{folder}/{MANIFEST}"), None, MANIFEST_BYTES).await;
                match got.map_err(not_yet)? {
                    Got::Object { bytes, .. } => bytes,
                    Got::Same | Got::Missing => {
                        return Err(Stage::Fetch.not_yet(format!("{MANIFEST}: there is no such object")));
                    }
                }
            }
        };
        let manifest = verify_manifest(model, revision, &text)?;
        self.cache.put(pinned, &text);
        if let Some(keys) = &self.keys {
            self.check_signature(keys, &folder, pinned, &text).await?;
        }
        let mut files = Files::new(manifest, self.model_bytes)?;
        let mut names = vec![pinned.clone()];
        progress.of.store(files.bytes(), Ordering::Relaxed);
        while let Some(file) = files.next() {
            let mut tag = None;
            let key = format!("{folder}/{}", file.path);
            let bytes = match self.cached(&file.sha256) {
                Some(bytes) => bytes,
                None => {
                    let wanted = Target { key: &key, name: &file.sha256, bytes: file.bytes, tag: None };
                    if let Some(rejection) = self.still_wrong(&wanted).await? {
                        return Err(rejection);
                    }
                    let (bytes, of) = self.download(&wanted, progress).await?;
                    tag = of;
                    bytes
                }
            };
            // Parts of an object that was replaced would spoil the next try too.
            let taken = files.take(&file, bytes.clone());
            if taken.is_ok() {
                self.cache.put(&file.sha256, &bytes);
            }
            self.cache.drop_parts(&file.sha256);
            if let (Err(rejection), Some(tag)) = (&taken, tag) {
                self.note_wrong(&key, &file.sha256, tag, rejection.clone());
            }
            taken?;
            names.push(file.sha256);
        }
        self.remember(revision, names);
        Ok(files.fetched(model, revision))
    }

    /// A version without a manifest is what its object's tag says it is.
    async fn bare(
        &self,
        model: &str,
        revision: &Revision,
        folder: &str,
        progress: &Progress,
    ) -> Result<Fetched, Rejection> {
        Keys::refuse_without_manifest(self.keys.as_ref())?;
        let key = format!("{folder}/{MODEL}");
        let (bytes, tag) = revision.fingerprint.split_once(' ').unwrap_or_default();
        let bytes: u64 = bytes.parse().unwrap_or(0);
        if bytes > self.model_bytes {
            return Err(Stage::Verify.reject(format!(
                "{MODEL} has {bytes} bytes, at most {} are loaded (raise --model-limit to accept it)",
                self.model_bytes
            )));
        }
        progress.of.store(bytes, Ordering::Relaxed);
        let name = sha256(format!("{} {tag}", self.client.url(&key)).as_bytes());
        let note = format!("{name}.tag");
        let known = self.cache.read_named(&note).and_then(|sha| self.cached(std::str::from_utf8(&sha).ok()?));
        let onnx = match known {
            Some(onnx) => onnx,
            None => {
                let (onnx, _) =
                    self.download(&Target { key: &key, name: &name, bytes, tag: Some(tag) }, progress).await?;
                let sha = sha256(&onnx);
                self.cache.put(&sha, &onnx);
                self.cache.write_named(&note, sha.as_bytes());
                self.cache.drop_parts(&name);
                onnx
            }
        };
        let fetched = Fetched::bare(model, revision, onnx);
        self.remember(revision, vec![fetched.artifact.id.sha256.clone(), note]);
        Ok(fetched)
    }

    async fn check_signature(&self, keys: &Keys, folder: &str, pinned: &str, text: &[u8]) -> Result<(), Rejection> {
        let name = format!("{pinned}.sig");
        let cached = self.cache.read_named(&name).filter(|signature| keys.check(text, Some(signature)).is_ok());
        if cached.is_some() {
            return Ok(());
        }
        let got = self.client.get(&format!("{folder}/{SIGNATURE}"), None, SIGNATURE_BYTES).await;
        match got.map_err(not_yet)? {
            Got::Object { bytes, .. } => {
                keys.check(text, Some(&bytes))?;
                self.cache.write_named(&name, &bytes);
                Ok(())
            }
            Got::Same | Got::Missing => keys.check(text, None),
        }
    }

    /// The names in the cache of all that versions took.
    pub(super) fn files<'a>(&self, revisions: impl Iterator<Item = &'a Revision>) -> Vec<String> {
        let took = self.took.lock().unwrap_or_else(PoisonError::into_inner);
        revisions.filter_map(|revision| took.get(&revision.fingerprint)).flatten().cloned().collect()
    }

    fn remember(&self, revision: &Revision, names: Vec<String>) {
        let mut took = self.took.lock().unwrap_or_else(PoisonError::into_inner);
        if took.len() >= REMEMBERED {
            took.clear();
        }
        took.insert(revision.fingerprint.clone(), names);
    }

    async fn download(&self, wanted: &Target<'_>, progress: &Progress) -> Result<(Bytes, Option<String>), Rejection> {
        download(&self.client, &self.cache, wanted, progress).await.map_err(|fault| {
            if fault.kind == Kind::Changed {
                self.cache.drop_parts(wanted.name);
            }
            not_yet(fault)
        })
    }

    /// What was wrong with an object when it had the tag that it still has.
    async fn still_wrong(&self, wanted: &Target<'_>) -> Result<Option<Rejection>, Rejection> {
        let of = (wanted.key.to_owned(), wanted.name.to_owned());
        let Some(wrong) = self.wrong().get(&of).cloned() else { return Ok(None) };
        let pause = wrong.times.checked_sub(1).map_or(Duration::ZERO, |times| FIRST_PAUSE * (1 << times.min(10)));
        if wrong.at.elapsed() >= pause.min(LONGEST_PAUSE) {
            return Ok(None);
        }
        let now = self.client.head(wanted.key).await.map_err(not_yet)?;
        Ok(now.filter(|(_, tag)| *tag == wrong.tag).map(|_| wrong.rejection))
    }

    fn note_wrong(&self, key: &str, sha256: &str, tag: String, rejection: Rejection) {
        let mut wrong = self.wrong();
        if wrong.len() >= REMEMBERED {
            wrong.clear();
        }
        let of = (key.to_owned(), sha256.to_owned());
        let times =
            wrong.get(&of).filter(|before| before.tag == tag).map_or(0, |before| before.times.saturating_add(1));
        wrong.insert(of, Wrong { tag, rejection, at: Instant::now(), times });
    }

    fn wrong(&self) -> MutexGuard<'_, HashMap<(String, String), Wrong>> {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cached(&self, sha: &str) -> Option<Bytes> {
        tokio::task::block_in_place(|| self.cache.get(sha))
    }
}

fn not_yet(fault: Fault) -> Rejection {
    Stage::Fetch.not_yet(fault.message)
}
