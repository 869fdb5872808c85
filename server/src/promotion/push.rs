//! A model file becomes a version of a repository, after the checks that a server makes.

use std::path::{Path, PathBuf};

use base64ct::{Base64, Encoding};
use bytes::Bytes;
use serde::Serialize;
use serde_json::{Value, json};

use super::{Author, Change, ChangeError, Changed, change, files, now, present, roles};
use crate::model::check::{self, Profile, Rejection};
use crate::model::manifest::Manifest;
use crate::model::runtime::Runtime;
use crate::model::signature::Signature;
use crate::model::{Artifact, External, ModelId};
use crate::probe::Probe;
use crate::source::aliases::Aliases;
use crate::source::{
    Condition, MANIFEST, MANIFEST_BYTES, MODEL, Object, SIGNATURE, SIGNATURE_BYTES, Source, Written, is_model_name,
    sha256, signing,
};

/// How often another number is tried when someone else takes the one that was free.
const TRIES: usize = 5;

/// What a new version becomes at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// Only a version; the first one of a model becomes its champion.
    Added,
    /// The champion.
    Champion,
    /// The challenger, in the place of all others.
    Challenger,
    /// A challenger beside the others.
    #[serde(rename = "another-challenger")]
    AnotherChallenger,
}

/// What is pushed, and how.
#[derive(Clone, Debug)]
pub struct Request {
    /// The model's name.
    pub model: String,
    /// The ONNX file; its external data lies beside it.
    pub file: PathBuf,
    /// Its manifest; derived when there is none.
    pub manifest: Option<PathBuf>,
    /// The version's number; the next free one when there is none.
    pub number: Option<u64>,
    /// What the version becomes.
    pub place: Place,
    /// A private key that signs the manifest.
    pub key: Option<PathBuf>,
    /// Most bytes of the model and its weights together.
    pub model_bytes: u64,
    /// For the ledger.
    pub author: Author,
    /// Whether it may take or give other things than the champion.
    pub allow_signature_change: bool,
    /// Check everything and write nothing.
    pub dry_run: bool,
}

/// What became of a push.
#[derive(Clone, Debug, Serialize)]
pub struct Pushed {
    /// The version that holds the model now.
    pub version: String,
    /// Whether it was written; `false` when the highest version is the same already.
    pub uploaded: bool,
    /// Whether its signature was written.
    pub signed: bool,
    /// What it becomes by this push.
    pub becomes: Place,
    /// What it was in `aliases.json` before: champion, challenger, previous.
    pub roles: Vec<&'static str>,
    /// Bytes of all its files.
    pub bytes: u64,
    /// `given` or `derived`.
    pub manifest: &'static str,
    /// SHA-256 of its manifest.
    pub manifest_sha256: String,
    /// What was measured of it here.
    pub profile: Profile,
    /// What the author may want to know.
    pub warnings: Vec<String>,
    /// The change of `aliases.json`, when there is one.
    pub change: Option<Changed>,
}

/// Told what happens now.
pub type Told<'a> = &'a dyn Fn(&str);
/// Told how many bytes were sent, and of how many.
pub type Sent<'a> = &'a (dyn Fn(u64, u64) + Sync);

/// A checked model, before it has a number.
struct Candidate {
    onnx: Bytes,
    external: Vec<External>,
    /// Without name, version and time.
    manifest: Value,
    derived: bool,
    profile: Profile,
    signature: Signature,
}

/// A version that holds the candidate.
struct Added {
    version: String,
    manifest: Vec<u8>,
    uploaded: bool,
    signed: bool,
    warning: Option<String>,
}

/// Checks a model and adds it.
///
/// # Errors
/// See [`ChangeError`]. A version that could not be written whole has no manifest, so that no server takes it.
pub fn push(
    source: &Source,
    runtime: &Runtime,
    probe: &Probe,
    request: &Request,
    told: Told<'_>,
    sent: Sent<'_>,
) -> Result<Pushed, ChangeError> {
    if !is_model_name(&request.model) {
        let message = format!("{:?} is not a model's name: letters, digits, '-', '_' and '.'", request.model);
        return Err(ChangeError::Refused(message));
    }
    if let Some(key) = &request.key {
        // Nothing is written yet, and a key that cannot sign this cannot sign the manifest.
        signing::sign(b"", key).map_err(ChangeError::Refused)?;
    }
    told("trying it out");
    let candidate = examine(runtime, probe, request)?;
    let aliases = present(source, &request.model)?.map(|(aliases, _)| aliases);
    let mut warnings = vec![];
    let place = match (request.place, &aliases) {
        (Place::Added, None) => Place::Champion,
        (Place::Challenger | Place::AnotherChallenger, None) => {
            let message = format!("{} has no champion yet: push its champion first", request.model);
            return Err(ChangeError::Refused(message));
        }
        (place, _) => place,
    };
    told("comparing it with the champion");
    if let Some(aliases) = &aliases {
        warnings.extend(fits(source, runtime, request, &candidate, (place, aliases))?);
    }
    let Added { version, manifest, uploaded, signed, warning } = add(source, request, &candidate, told, sent)?;
    warnings.extend(warning);
    let change_to = match place {
        Place::Added => None,
        Place::Champion => Some(Change::Promote(Some(version.clone()))),
        Place::Challenger => Some(Change::Challenge(version.clone())),
        Place::AnotherChallenger => Some(Change::Join(version.clone())),
    };
    // A version that was not written cannot be promoted, not even on trial.
    let change_to = change_to.filter(|_| !request.dry_run || !uploaded);
    let change = change_to
        .map(|wanted| change(source, &request.model, &wanted, &request.author, None, request.dry_run))
        .transpose()?;
    Ok(Pushed {
        roles: aliases.map(|aliases| roles(&aliases, &version)).unwrap_or_default(),
        version,
        uploaded,
        signed,
        becomes: place,
        bytes: candidate.bytes(),
        manifest: if candidate.derived { "derived" } else { "given" },
        manifest_sha256: sha256(&manifest),
        profile: candidate.profile,
        warnings,
        change,
    })
}

impl Candidate {
    fn bytes(&self) -> u64 {
        self.external.iter().map(|file| file.bytes.len()).chain([self.onnx.len()]).sum::<usize>() as u64
    }

    /// The manifest's bytes as a version of a model.
    fn manifest(&self, model: &str, version: &str) -> Vec<u8> {
        let mut manifest = self.manifest.clone();
        manifest["name"] = json!(model);
        manifest["version"] = json!(version);
        let mut bytes = serde_json::to_vec_pretty(&manifest).expect("what was read can be written");
        bytes.push(b'\n');
        bytes
    }
}

/// Reads the files and lets the model prove itself, as a server would.
fn examine(runtime: &Runtime, probe: &Probe, request: &Request) -> Result<Candidate, ChangeError> {
    let refused = |path: &Path, e: &dyn std::fmt::Display| ChangeError::Refused(format!("{}: {e}", path.display()));
    let (onnx, external) = files::model(&request.file, request.model_bytes).map_err(ChangeError::Refused)?;
    let given = request.manifest.as_deref().map(|path| given(path, request)).transpose()?;
    let id = ModelId { name: request.model.clone(), version: "1".into(), sha256: sha256(&onnx), manifest_sha256: None };
    let mut artifact = Artifact { id, onnx, external, manifest: None };
    let failed = |rejection: Rejection| refused(&request.file, &rejection);
    let (profile, manifest, derived) = match given {
        Some(manifest) => {
            let text = serde_json::to_vec(&manifest).map_err(|e| ChangeError::Refused(e.to_string()))?;
            let parsed = Manifest::parse(&text).map_err(ChangeError::Refused)?;
            agrees(&parsed, &artifact).map_err(|e| refused(&request.file, &e))?;
            artifact.manifest = Some(parsed.into());
            (probe.examine(runtime, &artifact, Some(&text)).map_err(failed)?, manifest, false)
        }
        None => {
            let (profile, derived) = probe.derive(runtime, &artifact, None).map_err(failed)?;
            if derived.samples.is_empty() {
                let reason = profile.warnings.join("; ");
                return Err(ChangeError::Refused(format!("{}: {reason}", request.file.display())));
            }
            let manifest = derived.manifest(&artifact, &profile, &now());
            let text = serde_json::to_vec(&manifest).map_err(|e| ChangeError::Refused(e.to_string()))?;
            artifact.manifest = Some(Manifest::parse(&text).map_err(ChangeError::Refused)?.into());
            (profile, manifest, true)
        }
    };
    // It has proved itself in a child process; now its signature is needed here.
    let (_, signature) = check::open(runtime, &artifact, Some(&profile)).map_err(failed)?;
    let Artifact { onnx, external, .. } = artifact;
    Ok(Candidate { onnx, external, manifest, derived, profile, signature })
}

/// A manifest that the author wrote; the place where it goes decides its name and version.
fn given(path: &Path, request: &Request) -> Result<Value, ChangeError> {
    let failed = |e: &dyn std::fmt::Display| ChangeError::Refused(format!("{}: {e}", path.display()));
    let text = files::manifest(path).map_err(ChangeError::Refused)?;
    let mut manifest: Value = serde_json::from_slice(&text).map_err(|e| failed(&e))?;
    let derive = "mend it, or leave it out to have it derived from the model";
    if !manifest.is_object() {
        return Err(failed(&format!("it is not a JSON object: {derive}")));
    }
    if !manifest["artifact"].is_object() {
        return Err(failed(&format!("its artifact is not a JSON object: {derive}")));
    }
    manifest["name"] = json!(request.model);
    manifest["version"] = json!("1");
    manifest["artifact"]["path"] = json!(MODEL);
    Ok(manifest)
}

/// Whether a manifest is of these files.
fn agrees(manifest: &Manifest, artifact: &Artifact) -> Result<(), String> {
    const LEAVE_OUT: &str = "leave the manifest out to have it derived";
    let named = &manifest.artifact;
    if named.bytes != artifact.onnx.len() as u64 {
        let (has, says) = (artifact.onnx.len(), named.bytes);
        return Err(format!("it has {has} bytes, the manifest is of a file with {says}: {LEAVE_OUT}"));
    }
    if named.sha256.to_ascii_lowercase() != artifact.id.sha256 {
        return Err(format!(
            "its SHA-256 is {}, the manifest is of a file with {}: {LEAVE_OUT}",
            artifact.id.sha256, named.sha256
        ));
    }
    for file in &named.external_data {
        let path = &file.path;
        let Some(has) = artifact.external.iter().find(|external| external.path == *path) else {
            return Err(format!("the manifest names external data {path}, to which no weights refer: {LEAVE_OUT}"));
        };
        if has.bytes.len() as u64 != file.bytes {
            let (has, says) = (has.bytes.len(), file.bytes);
            return Err(format!("external data {path} has {has} bytes, the manifest says {says}: {LEAVE_OUT}"));
        }
        if sha256(&has.bytes) != file.sha256.to_ascii_lowercase() {
            return Err(format!("the manifest names external data {path} with another SHA-256: {LEAVE_OUT}"));
        }
    }
    if let Some(unnamed) = artifact.external.iter().find(|e| named.external_data.iter().all(|n| n.path != e.path)) {
        return Err(format!("the manifest does not name its external data {}: {LEAVE_OUT}", unnamed.path));
    }
    Ok(())
}

/// Whether the model can take its place beside or instead of the champion; what does not matter yet is a warning.
fn fits(
    source: &Source,
    runtime: &Runtime,
    request: &Request,
    candidate: &Candidate,
    (place, aliases): (Place, &Aliases),
) -> Result<Option<String>, ChangeError> {
    let wanted = aliases.wanted().map_err(ChangeError::Refused)?;
    let champion = source
        .fetch_whole(&request.model, &wanted.champion)
        .and_then(|fetched| check::open(runtime, &fetched.artifact, None))
        .map(|(_, signature)| signature);
    let champion = match champion {
        Ok(champion) => champion,
        Err(rejection) => {
            return Ok(Some(format!(
                "the champion cannot be loaded here, so nothing was compared with it: {rejection}"
            )));
        }
    };
    let result = match place {
        Place::Challenger | Place::AnotherChallenger => candidate.signature.can_shadow(&champion),
        Place::Champion | Place::Added => candidate.signature.can_replace(&champion),
    };
    match result {
        Ok(()) => Ok(None),
        Err(reason) if place == Place::Champion && !request.allow_signature_change => {
            Err(ChangeError::Refused(format!(
                "{reason}: servers would refuse it (push with --allow-signature-change, and serve with it, to accept it)"
            )))
        }
        Err(reason) if matches!(place, Place::Challenger | Place::AnotherChallenger) => {
            Err(ChangeError::Refused(format!("it cannot be compared with the champion: {reason}")))
        }
        Err(reason) => Ok(Some(format!("it cannot replace the champion: {reason}"))),
    }
}

/// Writes the files, the manifest last, under the number that was asked for or the first free one.
fn add(
    source: &Source,
    request: &Request,
    candidate: &Candidate,
    told: Told<'_>,
    sent: Sent<'_>,
) -> Result<Added, ChangeError> {
    let model = &request.model;
    for _ in 0..TRIES {
        let found = source.versions(model).map_err(ChangeError::Failed)?;
        let number = |version: &str| version.parse::<u64>().unwrap_or(0);
        let complete = found.iter().filter(|found| found.manifest);
        let alike = match request.number {
            Some(wanted) => complete.into_iter().find(|found| number(&found.version) == wanted),
            None => complete.max_by_key(|found| number(&found.version)),
        };
        if let Some(alike) = alike {
            let version = alike.version.clone();
            if let Some(manifest) = same(source, model, &version, candidate)? {
                let (signed, warning) = sign_present(source, request, &version, &manifest)?;
                return Ok(Added { version, manifest, uploaded: false, signed, warning });
            }
            if request.number.is_some() {
                let message = format!(
                    "{model} version {version} is another model, and versions are never changed: take another number"
                );
                return Err(ChangeError::Refused(message));
            }
        }
        let highest = found.iter().map(|found| number(&found.version)).max().unwrap_or(0);
        let version = request.number.unwrap_or(highest + 1).to_string();
        let manifest = candidate.manifest(model, &version);
        if !request.dry_run {
            told(&format!("sending {model} version {version}"));
            if send(source, request, candidate, &version, &manifest, sent)? == Written::Lost {
                continue;
            }
        }
        return Ok(Added { version, manifest, uploaded: true, signed: request.key.is_some(), warning: None });
    }
    Err(ChangeError::Lost(format!("others add versions to {model} faster than this one: try again")))
}

/// The manifest of a version that is the same but for its number and time.
fn same(source: &Source, model: &str, version: &str, candidate: &Candidate) -> Result<Option<Vec<u8>>, ChangeError> {
    let read = source.read(&format!("{model}/{version}/{MANIFEST}"), MANIFEST_BYTES).map_err(ChangeError::Failed)?;
    let Some(Object { bytes, .. }) = read else { return Ok(None) };
    // What cannot be read is another one.
    let theirs = serde_json::from_slice::<Value>(&bytes).ok().filter(Value::is_object);
    let Some(mut theirs) = theirs else { return Ok(None) };
    let mut mine = candidate.manifest.clone();
    for manifest in [&mut theirs, &mut mine] {
        for key in ["name", "version", "created_at"] {
            manifest[key] = Value::Null;
        }
    }
    Ok((theirs == mine).then(|| bytes.to_vec()))
}

/// Signs a version that is there without a signature; whether it did, and what else is to be told.
fn sign_present(
    source: &Source,
    request: &Request,
    version: &str,
    manifest: &[u8],
) -> Result<(bool, Option<String>), ChangeError> {
    let Some(key) = &request.key else { return Ok((false, None)) };
    let folder = format!("{}/{version}", request.model);
    // Name and version were not compared, and a signature vouches for the model wherever they say that it belongs.
    let parsed = Manifest::parse(manifest).map_err(|e| ChangeError::Refused(format!("{folder}: {e}")))?;
    if parsed.name != request.model || parsed.version != version {
        let message = format!(
            "{folder}/{MANIFEST} is of {} version {}, so it is not signed: remove the version, and push again",
            parsed.name, parsed.version
        );
        return Err(ChangeError::Refused(message));
    }
    let signature = signing::sign(manifest, key).map_err(ChangeError::Refused)?;
    let path = format!("{folder}/{SIGNATURE}");
    let mut there = source.read(&path, SIGNATURE_BYTES).map_err(ChangeError::Failed)?;
    if there.is_none() {
        let done = request.dry_run
            || source.write(&path, &signature, &Condition::New).map_err(ChangeError::Failed)? == Written::Done;
        if done {
            return Ok((true, None));
        }
        there = source.read(&path, SIGNATURE_BYTES).map_err(ChangeError::Failed)?;
    }
    let raw = Base64::decode_vec(std::str::from_utf8(&signature).unwrap_or_default().trim()).ok();
    let is_same = there.is_some_and(|there| {
        there.bytes.trim_ascii() == signature.trim_ascii() || raw.is_some_and(|raw| there.bytes == raw)
    });
    let warning = format!("{path} was made by another key and is kept: remove it and push again to sign with this one");
    Ok((false, (!is_same).then_some(warning)))
}

/// What an earlier push of the same number left is gone on with if it is the same.
fn is_kept(source: &Source, request: &Request, key: &str, bytes: &[u8]) -> Result<(), ChangeError> {
    let there = source.read(key, request.model_bytes).map_err(ChangeError::Failed)?;
    if there.is_some_and(|there| *there.bytes == *bytes) {
        return Ok(());
    }
    Err(ChangeError::Refused(format!(
        "{key} is there, of another model that was never finished: remove it, or take another number"
    )))
}

fn send(
    source: &Source,
    request: &Request,
    candidate: &Candidate,
    version: &str,
    manifest: &[u8],
    sent: Sent<'_>,
) -> Result<Written, ChangeError> {
    let folder = format!("{}/{version}", request.model);
    let total = candidate.bytes();
    let progress = |bytes: u64| sent(bytes, total);
    let external = candidate.external.iter().map(|file| (file.path.as_str(), Bytes::from_owner(file.bytes.clone())));
    for (path, bytes) in external.chain([(MODEL, candidate.onnx.clone())]) {
        let key = format!("{folder}/{path}");
        let written = source.upload(&key, bytes.clone(), &progress).map_err(ChangeError::Failed)?;
        if written == Written::Lost {
            if request.number.is_none() {
                return Ok(Written::Lost);
            }
            is_kept(source, request, &key, &bytes)?;
        }
    }
    if let Some(key) = &request.key {
        let signature = signing::sign(manifest, key).map_err(ChangeError::Refused)?;
        let key = format!("{folder}/{SIGNATURE}");
        if source.write(&key, &signature, &Condition::New).map_err(ChangeError::Failed)? == Written::Lost {
            if request.number.is_none() {
                return Ok(Written::Lost);
            }
            is_kept(source, request, &key, &signature)?;
        }
    }
    source.write(&format!("{folder}/{MANIFEST}"), manifest, &Condition::New).map_err(ChangeError::Failed)
}
