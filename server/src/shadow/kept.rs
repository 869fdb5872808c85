//! Evidence over restarts: a file for each pair of models and one for each champion, written now and then, and at the end.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::model::{Model, ModelId};
use crate::source::write_whole;

/// Files of a model that are kept, the latest.
const FILES: usize = 16;
/// A file is smaller: 65,536 rows that wait for their labels, and 14 days of evidence.
const BYTES: u64 = 64 << 20;

/// How long a server that ends is waited for, which answers its last requests perhaps, and how often it is looked.
const PREDECESSOR: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(100);

/// What is being written; one file at a time is.
const TEMPORARY: &str = "evidence.tmp";

/// The folder in which evidence is kept. It belongs to one process: two would count the same evidence twice.
pub struct Kept {
    folder: PathBuf,
    _lock: fs::File,
    /// Held while a file is written or removed.
    writing: Mutex<()>,
}

/// A file: of whom, and what.
#[derive(Serialize, Deserialize)]
struct File<S> {
    of: Vec<ModelId>,
    saved: S,
}

impl Kept {
    /// Evidence in this folder, which is made if it is not there.
    ///
    /// # Errors
    /// One sentence when it cannot be written to, or when another process keeps its evidence there.
    pub fn open(folder: &Path) -> Result<Self, String> {
        let failed = |e: io::Error| format!("{} cannot be written to: {e}", folder.display());
        fs::create_dir_all(folder).map_err(failed)?;
        let lock = fs::File::create(folder.join("lock")).map_err(failed)?;
        let until = Instant::now() + PREDECESSOR;
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(Self { folder: folder.into(), _lock: lock, writing: Mutex::default() }),
                Err(fs::TryLockError::WouldBlock) if Instant::now() < until => std::thread::sleep(LOOK),
                Err(fs::TryLockError::WouldBlock) => {
                    return Err(format!("another server keeps its evidence in {}", folder.display()));
                }
                Err(fs::TryLockError::Error(error)) => return Err(failed(error)),
            }
        }
    }

    /// Where.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What was kept of a champion and a challenger, or of a champion alone. What cannot be read is told and left: it begins
    /// anew.
    #[must_use]
    pub fn load<S: DeserializeOwned>(&self, of: &[&Model]) -> Option<S> {
        let path = self.path(of);
        let read = match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Ok(file) if !file.is_file() => Err("it is no file".into()),
            Ok(file) if file.len() > BYTES => Err(format!("it has {} bytes", file.len())),
            Ok(_) => fs::read(&path).map_err(|e| e.to_string()),
            Err(error) => Err(error.to_string()),
        };
        let file = read.and_then(|bytes| serde_json::from_slice::<File<S>>(&bytes).map_err(|e| e.to_string()));
        match file {
            // Other bytes may have the same beginning of their hash.
            Ok(file) => file.of.iter().eq(of.iter().map(|model| &model.id)).then_some(file.saved),
            Err(error) => {
                let path = path.display();
                tracing::warn!(%path, error, "the evidence that was kept cannot be read: it begins anew");
                None
            }
        }
    }

    /// Keeps what belongs to these models, whole or not at all, if `wanted` still says so: what was forgotten meanwhile must
    /// not come back. Gives whether it was written.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save<S: Serialize>(&self, of: &[&Model], saved: &S, wanted: impl Fn() -> bool) -> io::Result<bool> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if !wanted() {
            return Ok(false);
        }
        let path = self.path(of);
        let folder = path.parent().unwrap_or(&self.folder);
        fs::create_dir_all(folder)?;
        let file = File { of: of.iter().map(|model| model.id.clone()).collect(), saved };
        write_whole(&path, TEMPORARY, &serde_json::to_vec(&file)?)?;
        prune(folder).map(|()| true)
    }

    /// Forgets what belongs to these models: when they are compared again, it begins anew.
    pub fn forget(&self, of: &[&Model]) {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.path(of);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "evidence of before cannot be removed");
            }
            _ => {}
        }
    }

    fn path(&self, of: &[&Model]) -> PathBuf {
        let part = |model: &&Model| {
            let hash = model.id.manifest_sha256.as_ref().unwrap_or(&model.id.sha256);
            format!("{}-{}", model.id.version, hash.get(..12).unwrap_or(hash))
        };
        let name = of.first().map_or("", |model| model.id.name.as_str());
        let file: Vec<String> = of.iter().map(part).collect();
        self.folder.join(name).join(format!("{}.json", file.join("-and-")))
    }
}

/// Removes the oldest files.
fn prune(folder: &Path) -> io::Result<()> {
    let mut files = vec![];
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.path().extension().is_some_and(|extension| extension == "json") {
            files.push((entry.metadata()?.modified()?, entry.path()));
        }
    }
    files.sort_unstable();
    let many = files.len().saturating_sub(FILES);
    files.drain(..many).try_for_each(|(_, path)| fs::remove_file(path))
}
