//! Evidence over restarts: one file for each pair of models, written now and then, and at the end.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::model::{Model, ModelId};
use crate::verdict::state::Saved;

/// Files of a model that are kept, the latest.
const FILES: usize = 16;
/// A file is smaller: 65,536 rows that wait for their labels, and 14 days of evidence.
const BYTES: u64 = 64 << 20;

/// The folder in which evidence is kept. It belongs to one process: two would count the same evidence twice.
pub struct Kept {
    folder: PathBuf,
    _lock: fs::File,
}

/// A file.
#[derive(Serialize, Deserialize)]
struct Pair<S> {
    champion: ModelId,
    challenger: ModelId,
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
        match lock.try_lock() {
            Ok(()) => Ok(Self { folder: folder.into(), _lock: lock }),
            Err(fs::TryLockError::WouldBlock) => {
                Err(format!("another server keeps its evidence in {}", folder.display()))
            }
            Err(fs::TryLockError::Error(error)) => Err(failed(error)),
        }
    }

    /// Where.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What was kept of a pair. What cannot be read is told and left: the evidence begins anew.
    #[must_use]
    pub fn load(&self, champion: &Model, challenger: &Model) -> Option<Saved> {
        let path = self.path(&champion.id, &challenger.id);
        let read = match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Ok(file) if file.len() > BYTES => Err(format!("it has {} bytes", file.len())),
            Ok(_) => fs::read(&path).map_err(|e| e.to_string()),
            Err(error) => Err(error.to_string()),
        };
        let pair = read.and_then(|bytes| serde_json::from_slice::<Pair<Saved>>(&bytes).map_err(|e| e.to_string()));
        match pair {
            Ok(pair) if pair.champion == champion.id && pair.challenger == challenger.id => Some(pair.saved),
            // Other bytes had the same beginning of their hash.
            Ok(_) => None,
            Err(error) => {
                let path = path.display();
                tracing::warn!(%path, error, "the evidence that was kept cannot be read: it begins anew");
                None
            }
        }
    }

    /// Keeps the evidence of a pair, whole or not at all.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, champion: &Model, challenger: &Model, saved: &Saved) -> io::Result<()> {
        let (champion, challenger) = (champion.id.clone(), challenger.id.clone());
        let path = self.path(&champion, &challenger);
        let folder = self.folder.join(&champion.name);
        fs::create_dir_all(&folder)?;
        let temporary = path.with_extension("tmp");
        let mut file = fs::File::create(&temporary)?;
        file.write_all(&serde_json::to_vec(&Pair { champion, challenger, saved })?)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        prune(&folder)
    }

    fn path(&self, champion: &ModelId, challenger: &ModelId) -> PathBuf {
        let part = |id: &ModelId| {
            let hash = id.manifest_sha256.as_ref().unwrap_or(&id.sha256);
            format!("{}-{}", id.version, hash.get(..12).unwrap_or(hash))
        };
        self.folder.join(&champion.name).join(format!("{}-and-{}.json", part(champion), part(challenger)))
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
