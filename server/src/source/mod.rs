//! Which models should be served, and their bytes. What lies behind a repository is decided here and nowhere else.

pub mod file;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::model::check::{Rejection, Stage};
use crate::model::manifest::Manifest;
use crate::model::{Artifact, ModelId};

/// One version as a repository names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Revision {
    /// A positive integer as text.
    pub version: String,
    /// SHA-256 of its manifest, when it has one.
    pub manifest_sha256: Option<String>,
    /// Differs when the content may differ.
    #[serde(skip)]
    pub fingerprint: String,
}

/// What should be served under one name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Wanted {
    /// Answers.
    pub champion: Revision,
    /// Scores in the shadow; the first one is used.
    pub challengers: Vec<Revision>,
    /// Challengers that are named wrongly: version and reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub misnamed: Vec<(String, String)>,
    /// Counts the promotions; 0 without `aliases.json`.
    pub epoch: u64,
}

impl Wanted {
    /// A champion alone.
    #[must_use]
    pub const fn of(champion: Revision) -> Self {
        Self { champion, challengers: vec![], misnamed: vec![], epoch: 0 }
    }
}

/// Every model of a repository with what is wanted of it, or why that cannot be told.
pub type Listing = BTreeMap<String, Result<Wanted, String>>;

/// A version's bytes, verified against its manifest.
pub struct Fetched {
    /// The model.
    pub artifact: Artifact,
    /// The manifest's bytes.
    pub manifest: Option<Vec<u8>>,
}

/// Where models come from.
pub enum Source {
    /// A folder or a file.
    File(file::Repository),
}

impl Source {
    /// Opens the repository that a user named.
    ///
    /// # Errors
    /// One sentence that says what is there instead.
    pub fn open(repository: &Path) -> Result<Self, String> {
        if let Some(url) = repository.to_str().filter(|p| p.starts_with("s3://")) {
            return Err(format!("{url}: only folders and .onnx files are served"));
        }
        file::Repository::open(repository).map(Self::File)
    }

    /// `file`, the `source` label of metrics.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::File(_) => "file",
        }
    }

    /// Reads what should be served now.
    ///
    /// # Errors
    /// When the repository as a whole cannot be read.
    pub fn look(&self) -> Result<Listing, String> {
        match self {
            Self::File(repository) => repository.look(),
        }
    }

    /// Reads and verifies one version.
    ///
    /// # Errors
    /// At `fetch` when it cannot be read (worth another try), at `verify` when it is not what it should be.
    pub fn fetch(&self, model: &str, revision: &Revision) -> Result<Fetched, Rejection> {
        match self {
            Self::File(repository) => repository.fetch(model, revision),
        }
    }
}

/// `aliases.json`.
#[derive(Debug, Deserialize)]
struct Aliases {
    champion: String,
    #[serde(default)]
    challengers: Vec<String>,
    #[serde(default)]
    epoch: u64,
    #[serde(default)]
    manifest_sha256: BTreeMap<String, String>,
}

/// Parses `aliases.json`.
///
/// # Errors
/// One sentence that names the key.
fn parse_aliases(bytes: &[u8]) -> Result<Wanted, String> {
    let aliases: Aliases = serde_json::from_slice(bytes).map_err(|e| format!("aliases.json: {e}"))?;
    let revision = |version: &String| {
        if !is_version(version) {
            return Err(format!("aliases.json: version {version:?} is not a positive whole number in quotes"));
        }
        let sha256 = aliases.manifest_sha256.get(version).ok_or_else(|| {
            format!("aliases.json: manifest_sha256 has no entry for version {version}: add the SHA-256 of {version}/manifest.json")
        })?;
        Ok(Revision {
            version: version.clone(),
            manifest_sha256: Some(sha256.to_ascii_lowercase()),
            fingerprint: sha256.to_ascii_lowercase(),
        })
    };
    let mut wanted = Wanted { epoch: aliases.epoch, ..Wanted::of(revision(&aliases.champion)?) };
    for version in &aliases.challengers {
        // A challenger never holds the champion back.
        match revision(version) {
            Ok(revision) => wanted.challengers.push(revision),
            Err(reason) => wanted.misnamed.push((version.clone(), reason)),
        }
    }
    Ok(wanted)
}

fn is_version(text: &str) -> bool {
    text.len() <= 18 && !text.starts_with('0') && !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

fn is_model_name(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// Lower-case hexadecimal SHA-256.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// Checks a manifest against the revision that named it and against the place where it lies.
fn verify_manifest(model: &str, revision: &Revision, bytes: &[u8]) -> Result<Manifest, Rejection> {
    let actual = sha256(bytes);
    if let Some(expected) = &revision.manifest_sha256
        && *expected != actual
    {
        return Err(Stage::Verify.not_yet(format!("manifest.json has SHA-256 {actual}, aliases.json says {expected}")));
    }
    let manifest = Manifest::parse(bytes).map_err(|e| Stage::Verify.reject(e))?;
    if manifest.name != model || manifest.version != revision.version {
        return Err(Stage::Verify.reject(format!(
            "manifest.json is of {} version {}, its folder is {model}/{}",
            manifest.name, manifest.version, revision.version
        )));
    }
    Ok(manifest)
}

/// Checks a model file against its manifest.
fn verify_onnx(manifest: &Manifest, onnx: &[u8]) -> Result<String, Rejection> {
    let artifact = &manifest.artifact;
    if onnx.len() as u64 != artifact.bytes {
        let message = format!("{} has {} bytes, the manifest says {}", artifact.path, onnx.len(), artifact.bytes);
        return Err(Stage::Verify.not_yet(message));
    }
    let actual = sha256(onnx);
    if actual != artifact.sha256.to_ascii_lowercase() {
        return Err(Stage::Verify
            .not_yet(format!("{} has SHA-256 {actual}, the manifest says {}", artifact.path, artifact.sha256)));
    }
    Ok(actual)
}

/// Puts a verified version together.
fn fetched(model: &str, version: &str, onnx: Vec<u8>, sha: String, manifest: Option<(Manifest, Vec<u8>)>) -> Fetched {
    let (parsed, bytes) = manifest.unzip();
    let id = ModelId {
        name: model.into(),
        version: version.into(),
        sha256: sha,
        manifest_sha256: bytes.as_deref().map(sha256),
    };
    Fetched {
        artifact: Artifact { id, onnx: onnx.into(), external: vec![], manifest: parsed.map(Arc::new) },
        manifest: bytes,
    }
}
