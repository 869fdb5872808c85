//! A version's bytes, each file checked against the manifest, the manifest against what named it.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::{Revision, sha256};
use crate::model::check::{Rejection, Stage};
use crate::model::manifest::Manifest;
use crate::model::{Artifact, External, ModelId};

/// A version's bytes, verified.
#[derive(Clone)]
pub struct Fetched {
    /// The model.
    pub artifact: Artifact,
    /// The manifest's bytes.
    pub manifest: Option<Vec<u8>>,
}

impl Fetched {
    /// A model without a manifest, which is taken as it is.
    pub(super) fn bare(model: &str, revision: &Revision, onnx: Bytes) -> Self {
        let id = ModelId {
            name: model.into(),
            version: revision.version.clone(),
            sha256: sha256(&onnx),
            manifest_sha256: None,
        };
        Self { artifact: Artifact { id, onnx, external: vec![], manifest: None }, manifest: None }
    }
}

/// A file that a manifest names.
pub(super) struct Named {
    pub(super) path: String,
    pub(super) sha256: String,
    pub(super) bytes: u64,
}

/// The files of a version, taken one after the other.
pub(super) struct Files {
    manifest: Manifest,
    text: Vec<u8>,
    wanted: VecDeque<Named>,
    taken: Vec<External>,
    onnx: Option<Bytes>,
}

impl Files {
    /// Of a verified manifest, when its files together have at most `most` bytes.
    pub(super) fn new((manifest, text): (Manifest, Vec<u8>), most: u64) -> Result<Self, Rejection> {
        let artifact = &manifest.artifact;
        let external = artifact.external_data.iter().map(|e| (&e.path, &e.sha256, e.bytes));
        let wanted: VecDeque<Named> = std::iter::once((&artifact.path, &artifact.sha256, artifact.bytes))
            .chain(external)
            .map(|(path, sha256, bytes)| Named { path: path.clone(), sha256: sha256.to_ascii_lowercase(), bytes })
            .collect();
        let total = wanted.iter().fold(0_u64, |sum, file| sum.saturating_add(file.bytes));
        if total > most {
            return Err(Stage::Verify.reject(format!(
                "the model has {total} bytes, at most {most} are loaded (raise --model-limit to accept it)"
            )));
        }
        Ok(Self { manifest, text, wanted, taken: vec![], onnx: None })
    }

    /// Bytes of all files together.
    pub(super) fn bytes(&self) -> u64 {
        self.wanted.iter().map(|file| file.bytes).sum()
    }

    /// The next file that is needed, the model itself first.
    pub(super) fn next(&mut self) -> Option<Named> {
        self.wanted.pop_front()
    }

    /// Takes a file when it is what the manifest says.
    pub(super) fn take(&mut self, file: &Named, bytes: Bytes) -> Result<(), Rejection> {
        if bytes.len() as u64 != file.bytes {
            let message = format!("{} has {} bytes, the manifest says {}", file.path, bytes.len(), file.bytes);
            return Err(Stage::Verify.not_yet(message));
        }
        let actual = sha256(&bytes);
        if actual != file.sha256 {
            let message = format!("{} has SHA-256 {actual}, the manifest says {}", file.path, file.sha256);
            return Err(Stage::Verify.not_yet(message));
        }
        match self.onnx {
            None => self.onnx = Some(bytes),
            Some(_) => self.taken.push(External { path: file.path.clone(), bytes: Arc::from(&bytes[..]) }),
        }
        Ok(())
    }

    /// All of it, once [`Files::next`] has nothing more.
    pub(super) fn fetched(self, model: &str, revision: &Revision) -> Fetched {
        let id = ModelId {
            name: model.into(),
            version: revision.version.clone(),
            sha256: self.manifest.artifact.sha256.to_ascii_lowercase(),
            manifest_sha256: Some(sha256(&self.text)),
        };
        let artifact = Artifact {
            id,
            onnx: self.onnx.unwrap_or_default(),
            external: self.taken,
            manifest: Some(Arc::new(self.manifest)),
        };
        Fetched { artifact, manifest: Some(self.text) }
    }
}

/// Checks a manifest against the revision that named it and against the place where it lies.
pub(super) fn verify_manifest(
    model: &str,
    revision: &Revision,
    bytes: &[u8],
) -> Result<(Manifest, Vec<u8>), Rejection> {
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
    Ok((manifest, bytes.to_vec()))
}
