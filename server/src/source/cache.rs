//! What an S3 repository gave, kept on disk under the SHA-256 of its content, so that a server starts and serves while the
//! repository cannot be reached.
//!
//! ```text
//! <cache>/blobs/<sha256>               manifests and model files; `.tmp` while one is written
//! <cache>/blobs/<sha256>.sig           signatures, by their manifest's hash
//! <cache>/parts/<name>/<offset>        parts of downloads that are not whole yet
//! <cache>/served/<repository>/<model>  what served last, see `served.rs`
//! ```
//! Everything in it may be deleted at any time. Files are loaded from memory and written by a thread of their own: a disk
//! that is full, slow or gone costs the cache, never a model, and holds up no promotion.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::{file, served, sha256};

const TEMPORARY: &str = "tmp";
/// What was not seen in its repository for this long makes room for other things.
const FORGOTTEN: Duration = Duration::from_secs(7 * 24 * 3600);
/// Writes that may wait for the disk; further ones are left out.
const WAITING: usize = 256;

/// The cache folder, or nothing.
pub(super) struct Cache {
    folder: Option<PathBuf>,
    limit: u64,
    writes: Option<SyncSender<Write>>,
}

/// What the writing thread does, in order: a note comes after what it names.
enum Write {
    /// Content under its hash, when it is not there yet.
    Blob(String, Bytes),
    /// A small file beside the blobs, anew.
    Named(String, Vec<u8>),
    /// The parts of a download that ended or that were wrong.
    DropParts(String),
    /// What serves under a model's name of a repository.
    Note(String, String, Vec<u8>),
    /// The notes of these models of a repository are true until now.
    Touch(String, Vec<String>),
    /// Told once everything before is written.
    Flush(SyncSender<()>),
}

impl Cache {
    /// Opens or makes the folder and removes what a process that was killed left behind. A folder that cannot be used
    /// is told in the log and done without.
    pub(super) fn open(folder: Option<&Path>, limit: u64) -> Self {
        let usable = folder.filter(|folder| {
            ["blobs", "parts", "served"]
                .iter()
                .try_for_each(|name| fs::create_dir_all(folder.join(name)))
                .inspect_err(|e| {
                    let folder = folder.display();
                    tracing::warn!("the cache {folder} cannot be used: {e}; without it, a server that starts while the repository cannot be reached has nothing to serve");
                })
                .is_ok()
        });
        let folder = usable.map(PathBuf::from);
        let (writes, waiting) = sync_channel(WAITING);
        let disk = Disk { folder: folder.clone().unwrap_or_default(), limit, complained: false };
        let thread = std::thread::Builder::new().name("cache".into());
        let started = folder.is_some() && thread.spawn(move || disk.work(&waiting)).is_ok();
        let cache = Self { folder, limit, writes: started.then_some(writes) };
        for (path, ..) in
            ["blobs", "parts", "served"].into_iter().flat_map(|place| files(cache.folder.as_deref(), place))
        {
            if path.extension().is_some_and(|e| e == TEMPORARY) {
                discard_abandoned(&path);
            }
        }
        cache
    }

    /// A file's path; none for a name that could lead elsewhere.
    fn path(&self, place: &str, name: &str) -> Option<PathBuf> {
        let is_plain = !name.is_empty()
            && !name.starts_with('.')
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        Some(self.folder.as_ref().filter(|_| is_plain)?.join(place).join(name))
    }

    /// Content by its hash; what is not whole any more is removed.
    pub(super) fn get(&self, sha: &str) -> Option<Bytes> {
        let path = self.path("blobs", sha)?;
        let bytes = fs::read(&path).ok()?;
        if sha256(&bytes) != sha {
            tracing::warn!(file = %path.display(), "a cached file is damaged and is fetched again");
            let _ = fs::remove_file(&path);
            return None;
        }
        // Its age decides what goes first when room is needed. Read-only caches still serve.
        let _ = File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        Some(bytes.into())
    }

    /// Keeps content under its hash.
    pub(super) fn put(&self, sha: &str, bytes: &Bytes) {
        if bytes.len() as u64 <= self.limit {
            self.write(Write::Blob(sha.into(), bytes.clone()));
        }
    }

    /// Hands a write to the thread; when the disk is that far behind, it is left out.
    fn write(&self, write: Write) {
        if let Some(writes) = &self.writes {
            let _ = writes.try_send(write);
        }
    }

    /// Waits until everything is written, for `limit` at most.
    pub(super) fn flush(&self, limit: Duration) {
        let (done, told) = sync_channel(1);
        self.write(Write::Flush(done));
        // A disk that is slower than this is not waited for.
        let _ = told.recv_timeout(limit);
    }

    /// A small file beside the blobs, under a name of its own.
    pub(super) fn read_named(&self, name: &str) -> Option<Vec<u8>> {
        fs::read(self.path("blobs", name)?).ok()
    }

    /// Writes a file of [`Cache::read_named`] anew.
    pub(super) fn write_named(&self, name: &str, bytes: &[u8]) {
        self.write(Write::Named(name.into(), bytes.into()));
    }

    /// A part of a download that was kept whole.
    pub(super) fn part(&self, download: &str, offset: u64, length: u64) -> Option<Vec<u8>> {
        let bytes = fs::read(self.path("parts", download)?.join(offset.to_string())).ok()?;
        (bytes.len() as u64 == length).then_some(bytes)
    }

    /// Keeps a part of a download, by the thread that downloads: it is the only one that waits.
    pub(super) fn put_part(&self, download: &str, offset: u64, bytes: &[u8]) {
        let Some(folder) = self.path("parts", download) else { return };
        // A part that is not kept is asked for again.
        let _ = fs::create_dir_all(&folder).and_then(|()| {
            let temporary = folder.join(format!("{offset}.{TEMPORARY}"));
            fs::write(&temporary, bytes).and_then(|()| fs::rename(temporary, folder.join(offset.to_string())))
        });
    }

    /// Removes the parts of a download that ended or that were wrong.
    pub(super) fn drop_parts(&self, download: &str) {
        self.write(Write::DropParts(download.into()));
    }

    /// Notes of one repository, by model.
    pub(super) fn notes(&self, repository: &str) -> Vec<(String, Vec<u8>, SystemTime)> {
        let Some(folder) = self.path("served", repository) else { return vec![] };
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries
            .filter(|entry| entry.path().extension().is_none_or(|e| e != TEMPORARY))
            .filter_map(|entry| {
                let modified = entry.metadata().ok()?.modified().ok()?;
                Some((entry.file_name().into_string().ok()?, fs::read(entry.path()).ok()?, modified))
            })
            .collect()
    }

    /// Writes the note of a model.
    pub(super) fn write_note(&self, repository: &str, model: &str, bytes: Vec<u8>) {
        self.write(Write::Note(repository.into(), model.into(), bytes));
    }

    /// Marks the notes as true until now.
    pub(super) fn touch_notes(&self, repository: &str, models: Vec<String>) {
        self.write(Write::Touch(repository.into(), models));
    }
}

/// The writing thread's side.
struct Disk {
    folder: PathBuf,
    limit: u64,
    complained: bool,
}

impl Disk {
    fn work(mut self, writes: &Receiver<Write>) {
        for write in writes {
            let result = self.write(write);
            // One line for a disk that fails, however often.
            if let Err(error) = &result
                && !self.complained
            {
                tracing::warn!(%error, "the cache cannot be written; models are loaded from memory");
            }
            self.complained = result.is_err();
        }
    }

    fn write(&self, write: Write) -> io::Result<()> {
        match write {
            Write::Blob(sha, bytes) => {
                let path = self.folder.join("blobs").join(sha);
                if path.exists() {
                    return Ok(());
                }
                self.make_room(bytes.len() as u64);
                write_whole(&path, &bytes)
            }
            Write::Named(name, bytes) => write_whole(&self.folder.join("blobs").join(name), &bytes),
            Write::DropParts(download) => {
                // There are none when the file was small.
                let _ = fs::remove_dir_all(self.folder.join("parts").join(download));
                Ok(())
            }
            Write::Note(repository, model, bytes) => {
                // A note that names what did not fit would take the place of one that can be served.
                let is_whole = |name: &String| self.folder.join("blobs").join(name).exists();
                if !served::files(&bytes).iter().all(is_whole) {
                    tracing::warn!(
                        model,
                        "what serves now is not in the cache: a start without the repository would serve what did before"
                    );
                    return Ok(());
                }
                let folder = self.folder.join("served").join(repository);
                fs::create_dir_all(&folder)?;
                write_whole(&folder.join(model), &bytes)
            }
            Write::Touch(repository, models) => {
                for model in models {
                    let note = self.folder.join("served").join(&repository).join(model);
                    // Only its age hangs on it, and not every model has one.
                    let _ = File::open(note).and_then(|file| file.set_modified(SystemTime::now()));
                }
                Ok(())
            }
            Write::Flush(done) => {
                // Whoever waited may have left.
                let _ = done.send(());
                Ok(())
            }
        }
    }

    /// Removes what was not used for longest until `size` more bytes fit, but nothing that a note names.
    fn make_room(&self, size: u64) {
        let place = |name| files(Some(&self.folder), name);
        let mut old: Vec<_> = ["blobs", "parts"].into_iter().flat_map(place).collect();
        let mut total: u64 = old.iter().map(|(_, bytes, _)| bytes).sum();
        if total + size <= self.limit {
            return;
        }
        // Notes of models that are gone, and of repositories that nobody serves any more, keep nothing after a while.
        let is_fresh = |at: &SystemTime| at.elapsed().is_ok_and(|age| age < FORGOTTEN) || at.elapsed().is_err();
        let notes = place("served").into_iter().filter(|(_, _, at)| is_fresh(at));
        let notes = notes.filter_map(|(path, ..)| fs::read(path).ok());
        let kept: Vec<String> = notes.flat_map(|note| served::files(&note)).collect();
        old.sort_by_key(|(_, _, used)| *used);
        for (path, bytes, _) in old {
            let parts = [path.file_name(), path.file_stem(), path.parent().and_then(Path::file_name)];
            let is_kept = |name: &String| parts.iter().flatten().any(|part| *part == name.as_str());
            if !kept.iter().any(is_kept) && fs::remove_file(&path).is_ok() {
                total -= bytes;
            }
            if total + size <= self.limit {
                return;
            }
        }
    }
}

/// Every file of a place, and of the folders right in it, with its size and age.
fn files(cache: Option<&Path>, place: &str) -> Vec<(PathBuf, u64, SystemTime)> {
    let Some(cache) = cache else { return vec![] };
    let (mut folders, mut files) = (vec![cache.join(place)], vec![]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match (entry.metadata(), entry.path()) {
                (Ok(metadata), path) if metadata.is_dir() => folders.push(path),
                (Ok(metadata), path) => {
                    files.extend(metadata.modified().ok().map(|modified| (path, metadata.len(), modified)));
                }
                // It went meanwhile.
                (Err(_), _) => {}
            }
        }
    }
    files
}

/// A temporary name of this process's own, beside the file.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let (name, process) = (path.file_name().unwrap_or_default().to_string_lossy(), std::process::id());
    file::write_whole(path, &format!("{name}.{process}.{TEMPORARY}"), bytes)
}

/// A temporary file that nobody holds open was left by a process that died.
fn discard_abandoned(path: &Path) {
    if File::open(path).is_ok_and(|file| file.try_lock().is_ok()) {
        let _ = fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn what_was_not_used_for_longest_makes_room_but_never_what_serves() {
        let folder = tempfile::TempDir::new().expect("a temporary folder");
        let cache = Cache::open(Some(folder.path()), 250);
        let blobs: Vec<Bytes> = (0..4).map(|i| vec![i; 100].into()).collect();
        let names: Vec<String> = blobs.iter().map(|b| sha256(b)).collect();
        let note = served::tests::note(&names[..1]);
        cache.put(&names[0], &blobs[0]);
        cache.write_note("repository", "model", note);
        for (blob, name) in blobs.iter().zip(&names) {
            cache.put(name, blob);
        }
        cache.flush(PATIENCE);
        let there: Vec<bool> = names.iter().map(|name| cache.get(name).is_some()).collect();
        assert_eq!(there, [true, false, false, true]);
        fs::write(folder.path().join("blobs").join(&names[0]), "damaged").expect("a file");
        assert!(cache.get(&names[0]).is_none(), "content decides");
        fs::write(folder.path().join("blobs/x.tmp"), "half").expect("a file");
        let _again = Cache::open(Some(folder.path()), 250);
        assert!(!folder.path().join("blobs/x.tmp").exists());
    }

    #[test]
    fn a_cache_that_cannot_be_written_is_done_without() {
        let folder = tempfile::TempDir::new().expect("a temporary folder");
        let file = folder.path().join("file");
        fs::write(&file, "").expect("a file");
        let cache = Cache::open(Some(&file.join("cache")), 250);
        cache.put("x", &Bytes::from_static(b"y"));
        cache.flush(PATIENCE);
        assert!(cache.get("x").is_none());
    }
}
