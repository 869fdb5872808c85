//! A repository in a folder: `<model>/aliases.json`, or a bare `<model>/<version>/` tree, or one `.onnx` file.
//!
//! Events of the file system are hints. What is there is read again and decided by its content.

use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::time::{Duration, SystemTime};

use notify::{EventKind, RecursiveMode, Watcher};
use rustix::fs::{Mode, OFlags};

use super::{Fetched, Listing, Revision, Wanted};
use crate::model::check::{Rejection, Stage};

const ALIASES: &str = "aliases.json";
const MANIFEST: &str = "manifest.json";
const MODEL: &str = "model.onnx";
const ALIASES_BYTES: u64 = 64 << 10;
const MANIFEST_BYTES: u64 = 4 << 20;
/// A model is held in memory while it is tried out and loaded.
const MODEL_BYTES: u64 = 1 << 30;
/// A file without a manifest that changed less than this ago may still be being written.
const SETTLE: Duration = Duration::from_millis(200);

/// A folder of models, or one model file.
pub struct Repository {
    /// What the user named.
    root: PathBuf,
    /// Set when that is a file: the model's name.
    single: Option<String>,
}

impl Repository {
    /// Checks that the path is something that can be served.
    ///
    /// # Errors
    /// One sentence that says what is there instead.
    pub fn open(path: &Path) -> Result<Self, String> {
        let shown = path.display();
        let kind =
            std::fs::metadata(path).map_err(|e| format!("{shown}: {e}: name a model repository or an .onnx file"))?;
        if kind.is_file() {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            let name: String = stem.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
            return Ok(Self { root: path.into(), single: Some(name) });
        }
        if !kind.is_dir() {
            return Err(format!("{shown} is neither a folder nor a file"));
        }
        if path.join(ALIASES).is_file() || path.join("1").join(MODEL).is_file() {
            let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            return Err(format!(
                "{shown} is the folder of one model: serve the repository around it, {}",
                parent.display()
            ));
        }
        Ok(Self { root: path.into(), single: None })
    }

    /// Every model with what is wanted of it.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn look(&self) -> Result<Listing, String> {
        let mut listing = Listing::new();
        if let Some(name) = &self.single {
            let fingerprint = std::fs::metadata(&self.root).map(|m| stamp(&m)).map_err(|e| e.to_string());
            let wanted = fingerprint.map(|fingerprint| {
                let champion = Revision { version: "1".into(), manifest_sha256: None, fingerprint };
                Wanted::of(champion)
            });
            listing.insert(name.clone(), wanted);
            return Ok(listing);
        }
        let entries = std::fs::read_dir(&self.root).map_err(|e| format!("{}: {e}", self.root.display()))?;
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !super::is_model_name(&name) || !entry.path().is_dir() {
                continue;
            }
            if let Some(wanted) = self.wanted(&name) {
                listing.insert(name, wanted);
            }
        }
        Ok(listing)
    }

    /// What is wanted of one model; `None` when its folder holds no model.
    fn wanted(&self, model: &str) -> Option<Result<Wanted, String>> {
        let folder = self.root.join(model);
        if std::fs::symlink_metadata(folder.join(ALIASES)).is_ok() {
            let read = self.read(&folder.join(ALIASES), ALIASES_BYTES).map_err(|e| format!("{ALIASES}: {e}"));
            return Some(read.and_then(|(bytes, _)| super::parse_aliases(&bytes)));
        }
        let versions: Vec<String> = std::fs::read_dir(&folder)
            .ok()?
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| super::is_version(name) && folder.join(name).join(MODEL).exists())
            .collect();
        // Where versions have manifests, one without is not complete yet: the manifest is written last.
        let has_manifest = |version: &&String| folder.join(version).join(MANIFEST).exists();
        let complete = versions.iter().filter(has_manifest).max_by_key(|v| v.parse::<u64>().unwrap_or(0));
        let newest = complete.or_else(|| versions.iter().max_by_key(|v| v.parse::<u64>().unwrap_or(0)))?;
        Some(self.revision(&folder.join(newest), newest.clone()).map(Wanted::of))
    }

    fn revision(&self, folder: &Path, version: String) -> Result<Revision, String> {
        if std::fs::symlink_metadata(folder.join(MANIFEST)).is_ok() {
            let (bytes, _) =
                self.read(&folder.join(MANIFEST), MANIFEST_BYTES).map_err(|e| format!("{MANIFEST}: {e}"))?;
            let sha256 = super::sha256(&bytes);
            return Ok(Revision { version, manifest_sha256: Some(sha256.clone()), fingerprint: sha256 });
        }
        let fingerprint = std::fs::metadata(folder.join(MODEL)).map(|m| stamp(&m)).map_err(|e| e.to_string())?;
        Ok(Revision { version, manifest_sha256: None, fingerprint })
    }

    /// Reads and verifies one version.
    ///
    /// # Errors
    /// At `fetch` what could not be read, at `verify` what is wrong with it.
    pub fn fetch(&self, model: &str, revision: &Revision) -> Result<Fetched, Rejection> {
        let unreadable = |name: &str, e: String| Stage::Fetch.not_yet(format!("{name}: {e}"));
        let version = &revision.version;
        let folder = self.root.join(model).join(version);
        if revision.manifest_sha256.is_some() {
            let (bytes, _) = self.read(&folder.join(MANIFEST), MANIFEST_BYTES).map_err(|e| unreadable(MANIFEST, e))?;
            let manifest = super::verify_manifest(model, revision, &bytes)?;
            let path = &manifest.artifact.path;
            let (onnx, _) = self.read(&folder.join(path), MODEL_BYTES).map_err(|e| unreadable(path, e))?;
            let sha = super::verify_onnx(&manifest, &onnx)?;
            return Ok(super::fetched(model, version, onnx, sha, Some((manifest, bytes))));
        }
        let path = if self.single.is_some() { self.root.clone() } else { folder.join(MODEL) };
        let (onnx, before) = self.read(&path, MODEL_BYTES).map_err(|e| unreadable(MODEL, e))?;
        let age = before.modified().ok().and_then(|m| SystemTime::now().duration_since(m).ok());
        let moved = std::fs::metadata(&path).map_or(true, |after| stamp(&after) != stamp(&before));
        if moved || age.is_some_and(|age| age < SETTLE) {
            return Err(unreadable(MODEL, "it is still being written".into()));
        }
        let sha = super::sha256(&onnx);
        Ok(super::fetched(model, version, onnx, sha, None))
    }

    /// Reads a regular file that lies inside the repository after every link is followed.
    fn read(&self, path: &Path, most: u64) -> Result<(Vec<u8>, Metadata), String> {
        let real = path.canonicalize().map_err(|e| e.to_string())?;
        let root = self.root.canonicalize().map_err(|e| e.to_string())?;
        if !real.starts_with(&root) {
            return Err("it links to a place outside the repository".into());
        }
        // Without NONBLOCK, opening a FIFO would wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = File::from(rustix::fs::open(&real, flags, Mode::empty()).map_err(|e| e.to_string())?);
        let metadata = file.metadata().map_err(|e| e.to_string())?;
        if !metadata.is_file() {
            return Err("it is not a regular file".into());
        }
        if metadata.len() > most {
            return Err(format!("it has {} bytes, at most {most} are read", metadata.len()));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
        file.take(most + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
        if bytes.len() as u64 != metadata.len() {
            return Err("it changed while it was read".into());
        }
        Ok((bytes, metadata))
    }

    /// Sends a hint whenever something may have changed, for as long as the watcher lives.
    ///
    /// # Errors
    /// When the system cannot watch (network file systems, exhausted limits): polling finds the changes then.
    pub fn watch(&self, hints: Sender<()>) -> Result<Box<dyn Watcher + Send>, String> {
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let matters = event.is_ok_and(|e| match e.kind {
                // Reading, which this server does itself, must not wake it again.
                EventKind::Access(kind) => kind == notify::event::AccessKind::Close(notify::event::AccessMode::Write),
                _ => true,
            });
            if matters {
                // Nobody listens when the server stops.
                let _ = hints.send(());
            }
        })
        .map_err(|e| e.to_string())?;
        let (place, mode) = match self.single {
            // The folder, since editors and rename replace the file itself.
            Some(_) => {
                let folder = self.root.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
                (folder, RecursiveMode::NonRecursive)
            }
            None => (self.root.as_path(), RecursiveMode::Recursive),
        };
        watcher.watch(place, mode).map_err(|e| e.to_string())?;
        Ok(Box::new(watcher))
    }
}

/// Differs whenever the file was replaced or written to. Only a reason to read it: the decision is by content.
fn stamp(m: &Metadata) -> String {
    format!("{}:{}:{}.{}:{}.{}", m.ino(), m.len(), m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec())
}
