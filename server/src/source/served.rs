//! The note of what serves under a name, for a start while the repository cannot be reached. What it names is in the cache.

use serde::{Deserialize, Serialize};

use super::{Revision, Wanted};

#[derive(Serialize, Deserialize)]
struct Note {
    epoch: u64,
    /// The hashes of all that it takes: the cache keeps them.
    #[serde(default)]
    files: Vec<String>,
    champion: Version,
    challengers: Vec<Version>,
}

#[derive(Serialize, Deserialize)]
struct Version {
    version: String,
    manifest_sha256: Option<String>,
    fingerprint: String,
}

impl From<&Revision> for Version {
    fn from(revision: &Revision) -> Self {
        let Revision { version, manifest_sha256, fingerprint } = revision.clone();
        Self { version, manifest_sha256, fingerprint }
    }
}

impl From<Version> for Revision {
    fn from(version: Version) -> Self {
        let Version { version, manifest_sha256, fingerprint } = version;
        Self { version, manifest_sha256, fingerprint }
    }
}

/// The note's text.
pub(super) fn write(wanted: &Wanted, files: Vec<String>) -> Vec<u8> {
    let note = Note {
        epoch: wanted.epoch,
        files,
        champion: (&wanted.champion).into(),
        challengers: wanted.challengers.iter().map(Into::into).collect(),
    };
    serde_json::to_vec(&note).expect("strings and numbers can always be written")
}

/// What a note says; `None` when it is damaged.
pub(super) fn read(bytes: &[u8]) -> Option<Wanted> {
    let note: Note = serde_json::from_slice(bytes).ok()?;
    Some(Wanted {
        epoch: note.epoch,
        challengers: note.challengers.into_iter().map(Into::into).collect(),
        ..Wanted::of(note.champion.into())
    })
}

/// The hashes that a note keeps in the cache.
pub(super) fn files(bytes: &[u8]) -> Vec<String> {
    serde_json::from_slice::<Note>(bytes).map(|note| note.files).unwrap_or_default()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A note that keeps these.
    pub(in crate::source) fn note(files: &[String]) -> Vec<u8> {
        write(&Wanted::of(Revision::pinned("1", "aa")), files.to_vec())
    }

    #[test]
    fn a_note_is_read_as_it_was_written() {
        let wanted = Wanted { epoch: 3, ..Wanted::of(Revision::pinned("1", "aa")) };
        let bytes = write(&wanted, vec!["bb".into()]);
        assert_eq!((read(&bytes), files(&bytes)), (Some(wanted), vec!["bb".into()]));
        assert_eq!((read(b"damaged"), files(b"damaged")), (None, vec![]));
    }
}
