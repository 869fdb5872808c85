//! A repository in a folder: `<model>/aliases.json`, or a bare `<model>/<version>/` tree, or one `.onnx` file.
//!
//! Events of the file system are hints. What is there is read again and decided by its content.

use std::fs::{File, Metadata};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::time::{Duration, SystemTime};

use notify::{EventKind, RecursiveMode, Watcher};
use rustix::fs::{Mode, OFlags};

use super::aliases::ALIASES;
use super::{
    Condition, Fetched, Files, Found, Hint, Keys, MANIFEST, MANIFEST_BYTES, MODEL, Object, Revision, SIGNATURE,
    SIGNATURE_BYTES, Written,
};
use crate::model::check::{Rejection, Stage};

/// A file without a manifest that changed less than this ago may still be being written.
const SETTLE: Duration = Duration::from_millis(200);

/// A folder of models, or one model file.
pub(super) struct Folder {
    /// What the user named.
    root: PathBuf,
    /// Set when that is a file: the model's name.
    single: Option<String>,
}

impl Folder {
    /// Checks that the path is something that can be served.
    ///
    /// # Errors
    /// One sentence that says what is there instead.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
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

    /// The names of all folders that may hold a model.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub(super) fn models(&self) -> Result<Vec<String>, String> {
        if let Some(name) = &self.single {
            return Ok(vec![name.clone()]);
        }
        let entries = std::fs::read_dir(&self.root).map_err(|e| format!("{}: {e}", self.root.display()))?;
        let folders = entries.flatten().filter(|entry| entry.path().is_dir());
        Ok(folders.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
    }

    /// Reads one small file; `None` when there is none.
    ///
    /// # Errors
    /// One sentence.
    pub(super) fn read(&self, key: &str, most: u64) -> Result<Option<Object>, String> {
        let path = self.root.join(key);
        // A broken link is an error, not a missing file.
        if self.single.is_some() || std::fs::symlink_metadata(&path).is_err() {
            return Ok(None);
        }
        let name = key.rsplit('/').next().unwrap_or_default();
        let (bytes, _) = self.read_file(&path, most).map_err(|e| format!("{name}: {e}"))?;
        Ok(Some(Object { tag: super::sha256(&bytes), bytes: bytes.into() }))
    }

    /// The numbered folders of a model.
    ///
    /// # Errors
    /// When the model's folder cannot be read.
    pub(super) fn versions(&self, model: &str) -> Result<Vec<Found>, String> {
        if self.single.is_some() {
            let stamp = std::fs::metadata(&self.root).map(|m| stamp(&m)).map_err(|e| e.to_string())?;
            return Ok(vec![Found { version: "1".into(), manifest: false, stamp, bytes: 0 }]);
        }
        let folder = self.root.join(model);
        let entries = match std::fs::read_dir(&folder) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
            entries => entries.map_err(|e| e.to_string())?,
        };
        let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        let found = names.filter(|name| super::is_version(name)).map(|version| {
            let folder = folder.join(&version);
            let manifest = std::fs::symlink_metadata(folder.join(MANIFEST)).is_ok();
            let model = std::fs::metadata(folder.join(MODEL)).ok();
            let (stamp, bytes) = model.map_or_else(Default::default, |m| (stamp(&m), m.len()));
            Found { version, manifest, stamp, bytes }
        });
        Ok(found.collect())
    }

    /// The size of a file; `None` when there is none.
    ///
    /// # Errors
    /// One sentence.
    pub(super) fn size(&self, key: &str) -> Result<Option<u64>, String> {
        match std::fs::metadata(self.root.join(key)) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e.to_string()),
        }
    }

    /// Reads and verifies one version.
    ///
    /// # Errors
    /// At `fetch` what could not be read, at `verify` what is wrong with it.
    pub(super) fn fetch(
        &self,
        model: &str,
        revision: &Revision,
        keys: Option<&Keys>,
        most: u64,
    ) -> Result<Fetched, Rejection> {
        let unreadable = |name: &str, e: String| Stage::Fetch.not_yet(format!("{name}: {e}"));
        let folder = self.root.join(model).join(&revision.version);
        let read = |name: &str, most: u64| {
            self.read_file(&folder.join(name), most).map(|(bytes, _)| bytes).map_err(|e| unreadable(name, e))
        };
        if revision.manifest_sha256.is_some() {
            let manifest = super::verify_manifest(model, revision, &read(MANIFEST, MANIFEST_BYTES)?)?;
            if let Some(keys) = keys {
                keys.check(&manifest.1, self.read_signature(&folder)?.as_deref())?;
            }
            let mut files = Files::new(manifest, most)?;
            while let Some(file) = files.next() {
                files.take(&file, read(&file.path, most)?.into())?;
            }
            return Ok(files.fetched(model, revision));
        }
        Keys::refuse_without_manifest(keys)?;
        let path = if self.single.is_some() { self.root.clone() } else { folder.join(MODEL) };
        let (onnx, before) = self.read_file(&path, most).map_err(|e| unreadable(MODEL, e))?;
        let age = before.modified().ok().and_then(|m| SystemTime::now().duration_since(m).ok());
        let moved = std::fs::metadata(&path).map_or(true, |after| stamp(&after) != stamp(&before));
        if moved || age.is_some_and(|age| age < SETTLE) {
            return Err(unreadable(MODEL, "it is still being written".into()));
        }
        Ok(Fetched::bare(model, revision, onnx.into()))
    }

    fn read_signature(&self, folder: &Path) -> Result<Option<Vec<u8>>, Rejection> {
        let path = folder.join(SIGNATURE);
        if std::fs::symlink_metadata(&path).is_err() {
            return Ok(None);
        }
        let read = self.read_file(&path, SIGNATURE_BYTES);
        read.map(|(bytes, _)| Some(bytes)).map_err(|e| Stage::Fetch.not_yet(format!("{SIGNATURE}: {e}")))
    }

    /// Writes a file whole or not at all: beside it, to the disk, then in its place.
    ///
    /// # Errors
    /// One sentence.
    pub(super) fn write(&self, key: &str, bytes: &[u8], condition: &Condition) -> Result<Written, String> {
        let path = self.root.join(key);
        let model = self.root.join(key.split('/').next().unwrap_or_default());
        let write = || -> std::io::Result<Written> {
            let folder = path.parent().unwrap_or(&self.root);
            std::fs::create_dir_all(folder)?;
            // Held until the function ends: what is compared does not change before it is replaced.
            let lock = File::options().create(true).truncate(false).write(true).open(model.join(".lock"))?;
            lock.lock()?;
            let present = match std::fs::read(&path) {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
                present => Some(super::sha256(&present?)),
            };
            let expected = match condition {
                Condition::New => None,
                Condition::Unchanged(tag) => Some(tag.clone()),
            };
            if present != expected {
                return Ok(Written::Lost);
            }
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            write_whole(&path, &format!(".{name}.tmp"), bytes)?;
            Ok(Written::Done)
        };
        write().map_err(|e| format!("{}: {e}", path.display()))
    }

    /// Reads a regular file that lies inside the repository after every link is followed.
    fn read_file(&self, path: &Path, most: u64) -> Result<(Vec<u8>, Metadata), String> {
        let real = path.canonicalize().map_err(|e| e.to_string())?;
        let root = self.root.canonicalize().map_err(|e| e.to_string())?;
        if !real.starts_with(&root) {
            return Err("it links to a place outside the repository".into());
        }
        let (file, metadata) = open_regular(&real, OFlags::NOFOLLOW).map_err(|e| e.to_string())?;
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
    pub(super) fn watch(&self, hints: Sender<Hint>) -> Result<Box<dyn Watcher + Send>, String> {
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let matters = event.is_ok_and(|e| match e.kind {
                // Reading, which this server does itself, must not wake it again.
                EventKind::Access(kind) => kind == notify::event::AccessKind::Close(notify::event::AccessMode::Write),
                _ => true,
            });
            if matters {
                // Nobody listens when the server stops.
                let _ = hints.send(Hint::Changed);
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

/// Writes a file whole or not at all: under a temporary name beside it, to the disk, then in its place. The lock tells other
/// processes that the temporary file is not abandoned.
pub(crate) fn write_whole(path: &Path, temporary: &str, bytes: &[u8]) -> std::io::Result<()> {
    let temporary = path.with_file_name(temporary);
    let mut file = File::create(&temporary)?;
    // Where locks do not work, it may be taken for abandoned, and the rename then fails: nothing worse.
    let _ = file.try_lock();
    let written = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| std::fs::rename(&temporary, path));
    if written.is_err() {
        // A disk that is full should not stay full because of this.
        let _ = std::fs::remove_file(&temporary);
    }
    written?;
    File::open(path.parent().unwrap_or(path))?.sync_all()
}

/// Opens a regular file and nothing else: a device or a pipe is never read.
///
/// # Errors
/// That it is something else, or what the system says.
pub(crate) fn open_regular(path: &Path, more: OFlags) -> std::io::Result<(File, Metadata)> {
    // Without NONBLOCK, opening a FIFO would wait for a writer.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | more;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let metadata = file.metadata()?;
    if metadata.is_file() { Ok((file, metadata)) } else { Err(std::io::Error::other("it is not a regular file")) }
}

/// Differs whenever the file was replaced or written to. Only a reason to read it: the decision is by content.
fn stamp(m: &Metadata) -> String {
    format!("{}:{}:{}.{}:{}.{}", m.ino(), m.len(), m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec())
}
