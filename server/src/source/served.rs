//! The note of what serves under a name, for a start while the repository cannot be reached. What it names is in the cache.

use serde::{Deserialize, Serialize};

use super::{Revision, Wanted};

#[derive(Serialize, Deserialize)]
struct Note {
    epoch: u64,
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
pub(super) fn write(wanted: &Wanted) -> Vec<u8> {
    let note = Note {
        epoch: wanted.epoch,
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
