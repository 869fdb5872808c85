//! Changes of what is served: one conditional write of `aliases.json`, then one record of it in the ledger.
//!
//! Everyone who changes a model's pointer (the commands, a server's admin calls, the guard after a promotion) does it
//! here. Whoever is second loses, changes nothing and is told who was first.

mod files;
mod judged;
pub mod push;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

pub use self::judged::carry_out;
use crate::model::manifest::Manifest;
use crate::source::aliases::{ALIASES, ALIASES_BYTES, Aliases, MOST_CHALLENGERS};
use crate::source::{Condition, MANIFEST, MANIFEST_BYTES, Object, Source, Written, is_model_name, is_version, sha256};

/// What stands in `aliases.json` of who changed it and why, in bytes: all of the file must be read again.
const BY_BYTES: usize = 1 << 10;
const REASON_BYTES: usize = 16 << 10;
/// A record is small, its evidence included.
const RECORD_BYTES: u64 = 1 << 20;
/// Whoever changed a pointer less than this ago may still be writing its record.
const RECORDING: Duration = Duration::seconds(60);

/// What should change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// This version, or the first challenger, becomes champion.
    Promote(Option<String>),
    /// This version, or the champion before, becomes champion again.
    RollBack(Option<String>),
    /// This version becomes the challenger, in the place of all others.
    Challenge(String),
    /// This version becomes a challenger beside the others.
    Join(String),
    /// This version is a challenger no more.
    Reject(String),
}

impl Change {
    const fn action(&self) -> &'static str {
        match self {
            Self::Promote(_) => "promote",
            Self::RollBack(_) => "rollback",
            Self::Challenge(_) | Self::Join(_) => "challenge",
            Self::Reject(_) => "reject",
        }
    }
}

/// Who changes it and why; both stand in `aliases.json` and in the ledger.
#[derive(Clone, Debug)]
pub struct Author {
    /// A person or a program.
    pub by: String,
    /// One sentence.
    pub reason: String,
    /// What the decision rests on.
    pub evidence: Value,
}

/// `ledger/<epoch>.json`: written once, never changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The model's name.
    pub model: String,
    /// The epoch of the `aliases.json` that was written.
    pub epoch: u64,
    /// promote, rollback, challenge or reject.
    pub action: String,
    /// The champion from then on.
    pub champion: String,
    /// The challengers from then on.
    pub challengers: Vec<String>,
    /// The champion until then.
    pub replaced: Option<String>,
    /// SHA-256 of the champion's manifest.
    pub manifest_sha256: Option<String>,
    /// When (RFC 3339).
    pub at: String,
    /// Who.
    pub by: String,
    /// Why.
    pub reason: String,
    /// What the decision rests on.
    #[serde(default)]
    pub evidence: Value,
    /// SHA-256 of the record before, when there is one: a chain that shows whether one was replaced.
    #[serde(default)]
    pub previous_record_sha256: Option<String>,
}

/// A change that was made, or would be.
#[derive(Clone, Debug, Serialize)]
pub struct Changed {
    /// `false` when it was as asked for already, or only tried.
    pub changed: bool,
    /// What `aliases.json` holds now, or would hold.
    pub aliases: Aliases,
    /// The ledger's record; `None` when it was as asked for already.
    pub record: Option<Record>,
    /// Why the record could not be written; the change itself was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}

/// Why nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Someone else was first.
    #[error("{0}")]
    Lost(String),
    /// It may not be changed like this.
    #[error("{0}")]
    Refused(String),
    /// The repository could not be read or written.
    #[error("{0}")]
    Failed(String),
}

/// The present `aliases.json` of a model with its tag; `None` when there is none.
///
/// # Errors
/// When it cannot be read or is damaged.
pub(crate) fn present(source: &Source, model: &str) -> Result<Option<(Aliases, String)>, ChangeError> {
    let read = source.read(&format!("{model}/{ALIASES}"), ALIASES_BYTES).map_err(ChangeError::Failed)?;
    read.map(|Object { bytes, tag }| Ok((Aliases::parse(&bytes).map_err(ChangeError::Refused)?, tag))).transpose()
}

/// Changes what is served under a name, if its epoch is still the `expected` one. With `dry_run`, everything is checked and
/// nothing written.
///
/// # Errors
/// See [`ChangeError`]; nothing was changed then.
pub fn change(
    source: &Source,
    model: &str,
    change: &Change,
    author: &Author,
    expected: Option<u64>,
    dry_run: bool,
) -> Result<Changed, ChangeError> {
    if !is_model_name(model) {
        return Err(ChangeError::Refused(format!("{model:?} is not a model's name")));
    }
    for (what, text, most) in [("by", &author.by, BY_BYTES), ("reason", &author.reason, REASON_BYTES)] {
        if text.len() > most {
            return Err(ChangeError::Refused(format!("{what} has {} bytes, {most} are the most", text.len())));
        }
    }
    let present = present(source, model)?;
    let (before, tag) = present.map_or((None, None), |(aliases, tag)| (Some(aliases), Some(tag)));
    if expected.is_some_and(|epoch| before.as_ref().map_or(0, |aliases| aliases.epoch) != epoch) {
        return Err(ChangeError::Lost(lost(model, before.as_ref())));
    }
    if before.as_ref().is_some_and(|aliases| aliases.epoch == u64::MAX) {
        let message = format!(
            "{model}/{ALIASES} has the highest epoch there is ({}), so no change can follow it: write it anew by hand with a \
             small one, such as 1",
            u64::MAX
        );
        return Err(ChangeError::Refused(message));
    }
    let version = target(source, model, change, before.as_ref())?;
    // One that is damaged can always be taken out.
    let takes_out = matches!(change, Change::Reject(_));
    let manifest = if takes_out { String::new() } else { checked(source, model, &version)? };
    let is_so_already = before.as_ref().is_some_and(|aliases| {
        let is_there = match change {
            Change::Promote(_) | Change::RollBack(_) => aliases.champion == version,
            Change::Challenge(_) => aliases.challengers == [version.clone()],
            Change::Join(_) => aliases.challengers.contains(&version),
            Change::Reject(_) => false,
        };
        is_there && aliases.manifest_sha256.get(&version) == Some(&manifest)
    });
    let base = before.clone().unwrap_or_default();
    if is_so_already {
        return Ok(Changed { changed: false, aliases: base, record: None, warning: None });
    }
    let mut next = match change {
        Change::Promote(_) => base.with_champion(&version, &manifest, false),
        Change::RollBack(_) => base.with_champion(&version, &manifest, true),
        Change::Challenge(_) => base.with_challenger(&version, &manifest),
        Change::Join(_) => base.with_another(&version, &manifest),
        Change::Reject(_) => base.without_challenger(&version),
    };
    next.updated_at = now();
    if matches!(change, Change::Promote(_) | Change::RollBack(_)) {
        next.promoted_at.clone_from(&next.updated_at);
    }
    (next.by, next.reason) = (author.by.clone(), author.reason.clone());
    // JSON writes some characters with six.
    let bytes = next.to_bytes().len() as u64;
    if bytes > ALIASES_BYTES {
        let message = format!(
            "{model}/{ALIASES} would have {bytes} bytes, of which {ALIASES_BYTES} are read: give a shorter reason"
        );
        return Err(ChangeError::Refused(message));
    }
    let mut record = Record {
        model: model.into(),
        epoch: next.epoch,
        action: change.action().into(),
        champion: next.champion.clone(),
        challengers: next.challengers.clone(),
        replaced: before.as_ref().map(|aliases| aliases.champion.clone()),
        manifest_sha256: next.manifest_sha256.get(&next.champion).cloned(),
        at: next.updated_at.clone(),
        by: next.by.clone(),
        reason: next.reason.clone(),
        evidence: author.evidence.clone(),
        previous_record_sha256: None,
    };
    if dry_run {
        return Ok(Changed { changed: false, aliases: next, record: Some(record), warning: None });
    }
    record.previous_record_sha256 = before.as_ref().and_then(|aliases| complete(source, model, aliases));
    write(source, model, &next, tag)?;
    let key = format!("{model}/ledger/{}.json", next.epoch);
    let warning = match source.write(&key, &to_json(&record), &Condition::New) {
        Ok(Written::Done) => None,
        Ok(Written::Lost) => Some(format!("{key} was there already and is kept: the history has a foreign record")),
        Err(error) => Some(format!("the change was made, but its record could not be written: {error}")),
    };
    Ok(Changed { changed: true, aliases: next, record: Some(record), warning })
}

/// Which version a change is about.
fn target(source: &Source, model: &str, change: &Change, before: Option<&Aliases>) -> Result<String, ChangeError> {
    let versions = || {
        let mut numbers: Vec<u64> =
            source.versions(model).unwrap_or_default().iter().filter_map(|found| found.version.parse().ok()).collect();
        numbers.sort_unstable();
        if numbers.is_empty() {
            return "it has no versions: onnxd push adds one".to_owned();
        }
        format!("its versions: {}", numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(", "))
    };
    let named = match change {
        Change::Promote(Some(version)) | Change::RollBack(Some(version)) => Ok(version.clone()),
        Change::Challenge(version) | Change::Join(version) | Change::Reject(version) => Ok(version.clone()),
        Change::Promote(None) => before.and_then(|aliases| aliases.challengers.first().cloned()).ok_or_else(|| {
            ChangeError::Refused(format!("{model} has no challenger to promote: name a version ({})", versions()))
        }),
        Change::RollBack(None) => before.and_then(|aliases| aliases.previous.clone()).ok_or_else(|| {
            ChangeError::Refused(format!("{model} has no champion to go back to: name one with --to ({})", versions()))
        }),
    }?;
    if !is_version(&named) {
        return Err(ChangeError::Refused(format!("version {named:?} is not a positive whole number")));
    }
    if matches!(change, Change::Reject(_)) {
        let challengers = before.map(|aliases| aliases.challengers.as_slice()).unwrap_or_default();
        if !challengers.contains(&named) {
            let has = if challengers.is_empty() { "it has none".into() } else { challengers.join(", ") };
            return Err(ChangeError::Refused(format!(
                "version {named} of {model} is no challenger to take out: {has}"
            )));
        }
    }
    let challenges = matches!(change, Change::Challenge(_) | Change::Join(_));
    if challenges && before.is_none_or(|aliases| aliases.champion.is_empty()) {
        return Err(ChangeError::Refused(format!("{model} has no champion yet, so there is nothing to challenge")));
    }
    if let (Change::Join(_), Some(aliases)) = (change, before)
        && aliases.challengers.len() >= MOST_CHALLENGERS
        && !aliases.challengers.contains(&named)
    {
        let (now, most) = (aliases.challengers.join(", "), MOST_CHALLENGERS);
        let message =
            format!("{model} has {most} challengers already ({now}), which are the most that are scored at a time");
        return Err(ChangeError::Refused(message));
    }
    if challenges && before.is_some_and(|aliases| aliases.champion == named) {
        return Err(ChangeError::Refused(format!(
            "version {named} of {model} is the champion, it cannot challenge itself"
        )));
    }
    Ok(named)
}

/// The hash of a version's manifest, when the version is whole: every file is there, with its size.
fn checked(source: &Source, model: &str, version: &str) -> Result<String, ChangeError> {
    let folder = format!("{model}/{version}");
    let read = source.read(&format!("{folder}/{MANIFEST}"), MANIFEST_BYTES).map_err(ChangeError::Failed)?;
    let Some(Object { bytes, .. }) = read else {
        let message = format!("{model} has no version {version} with a {MANIFEST}: onnxd push adds one");
        return Err(ChangeError::Refused(message));
    };
    let manifest = Manifest::parse(&bytes).map_err(|e| ChangeError::Refused(format!("{folder}: {e}")))?;
    if manifest.name != model || manifest.version != version {
        let message = format!("{folder}/{MANIFEST} is of {} version {}", manifest.name, manifest.version);
        return Err(ChangeError::Refused(message));
    }
    source.check_signature(&folder, &bytes).map_err(|e| ChangeError::Refused(format!("{folder}: {e}")))?;
    let external = manifest.artifact.external_data.iter().map(|file| (&file.path, file.bytes));
    for (path, bytes) in external.chain([(&manifest.artifact.path, manifest.artifact.bytes)]) {
        let size = source.size(&format!("{folder}/{path}")).map_err(ChangeError::Failed)?;
        if size != Some(bytes) {
            let has = size.map_or_else(|| "is missing".into(), |size| format!("has {size} bytes, not {bytes}"));
            return Err(ChangeError::Refused(format!("{folder} is not whole: {path} {has}")));
        }
    }
    Ok(sha256(&bytes))
}

/// Writes the pointer, if it is still what was read.
fn write(source: &Source, model: &str, next: &Aliases, tag: Option<String>) -> Result<(), ChangeError> {
    let (key, bytes) = (format!("{model}/{ALIASES}"), next.to_bytes());
    let condition = tag.map_or(Condition::New, Condition::Unchanged);
    let failed = match source.write(&key, &bytes, &condition) {
        Ok(Written::Done) => return Ok(()),
        Ok(Written::Lost) => None,
        Err(error) => Some(error),
    };
    // An answer that never came does not tell whether it was written: what is there now does.
    match (source.read(&key, ALIASES_BYTES), failed) {
        (Ok(Some(now)), _) if now.bytes == bytes => Ok(()),
        (_, Some(error)) => Err(ChangeError::Failed(error)),
        (now, None) => {
            let winner = now.ok().flatten().and_then(|now| Aliases::parse(&now.bytes).ok());
            Err(ChangeError::Lost(lost(model, winner.as_ref())))
        }
    }
}

fn lost(model: &str, winner: Option<&Aliases>) -> String {
    let winner = winner.map_or_else(String::new, |aliases| {
        let Aliases { champion, challengers, epoch, by, reason, updated_at, .. } = aliases;
        let by = if by.is_empty() { "someone" } else { by };
        let reason = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
        let challengers = if challengers.is_empty() { "none".into() } else { challengers.join(", ") };
        format!(": {by} made epoch {epoch} at {updated_at}{reason}: champion {champion}, challengers {challengers}")
    });
    format!("someone else changed {model} meanwhile, nothing was changed here{winner}")
}

/// The hash of the record of the present epoch. One that is missing, because whoever promoted was killed in between or wrote
/// the pointer by hand, is made up from what the pointer itself says.
fn complete(source: &Source, model: &str, aliases: &Aliases) -> Option<String> {
    if aliases.epoch == 0 {
        return None;
    }
    let key = format!("{model}/ledger/{}.json", aliases.epoch);
    // A history with a gap is no reason to refuse a change; and one that cannot be read is not one that is missing.
    if let Some(record) = source.read(&key, RECORD_BYTES).ok()? {
        return Some(sha256(&record.bytes));
    }
    let written = OffsetDateTime::parse(&aliases.updated_at, &Rfc3339);
    if written.is_ok_and(|at| OffsetDateTime::now_utc() - at <= RECORDING) {
        return None;
    }
    let record = Record {
        model: model.into(),
        epoch: aliases.epoch,
        action: "unrecorded".into(),
        champion: aliases.champion.clone(),
        challengers: aliases.challengers.clone(),
        replaced: aliases.previous.clone(),
        manifest_sha256: aliases.manifest_sha256.get(&aliases.champion).cloned(),
        at: aliases.updated_at.clone(),
        by: aliases.by.clone(),
        reason: aliases.reason.clone(),
        evidence: Value::Null,
        previous_record_sha256: None,
    };
    let bytes = to_json(&record);
    let written = source.write(&key, &bytes, &Condition::New);
    matches!(written, Ok(Written::Done)).then(|| sha256(&bytes))
}

/// What a pointer makes of a version.
pub(crate) fn roles(aliases: &Aliases, version: &str) -> Vec<&'static str> {
    let is = |named: bool, role: &'static str| named.then_some(role);
    let challenges = aliases.challengers.iter().any(|challenger| challenger == version);
    let roles = [
        is(aliases.champion == version, "champion"),
        is(challenges, "challenger"),
        is(aliases.previous.as_deref() == Some(version), "previous"),
    ];
    roles.into_iter().flatten().collect()
}

/// The records of a model, the newest first, `most` of them.
///
/// # Errors
/// When the ledger cannot be read.
pub fn history(source: &Source, model: &str, aliases: &Aliases, most: usize) -> Result<Vec<Record>, String> {
    let mut records = vec![];
    for epoch in (1..=aliases.epoch).rev().take(most) {
        // Pointers that were written by hand have no record.
        let Some(object) = source.read(&format!("{model}/ledger/{epoch}.json"), RECORD_BYTES)? else { continue };
        match serde_json::from_slice::<Record>(&object.bytes) {
            Ok(record) => records.push(record),
            Err(error) => tracing::warn!(model, epoch, %error, "a record of the ledger cannot be read and is left out"),
        }
    }
    Ok(records)
}

fn to_json(record: &Record) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(record).expect("strings and numbers can always be written");
    bytes.push(b'\n');
    bytes
}

/// The time as RFC 3339, in whole seconds.
pub(crate) fn now() -> String {
    let now = OffsetDateTime::now_utc();
    now.replace_nanosecond(0).unwrap_or(now).format(&Rfc3339).unwrap_or_default()
}

/// The name of this machine, for the ledger.
pub(crate) fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
