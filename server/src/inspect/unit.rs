//! The files that belong together: the model, the manifest beside it, and its files of weights.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::{ExternalFile, Finding, Level};
use crate::model::facts::Facts;
use crate::model::manifest::Manifest;
use crate::model::{Artifact, External, ModelId, sha256};

/// What was found on the disk.
pub(super) struct Unit {
    pub(super) file: PathBuf,
    pub(super) onnx: Bytes,
    pub(super) manifest: Option<Arc<Manifest>>,
    manifest_bytes: Option<Vec<u8>>,
    /// Bytes of each file of weights; `None` for one that is not there.
    external: BTreeMap<String, Option<Arc<[u8]>>>,
    /// What is wrong with the files.
    pub(super) findings: Vec<Finding>,
}

impl Unit {
    /// Reads a model file and the manifest beside it, or those of a version's folder.
    ///
    /// # Errors
    /// When the model file cannot be read.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let file = if path.is_dir() { path.join("model.onnx") } else { path.to_path_buf() };
        let onnx = std::fs::read(&file).map_err(|e| format!("{}: {e}: name an .onnx file", file.display()))?;
        let mut unit = Self {
            file,
            onnx: onnx.into(),
            manifest: None,
            manifest_bytes: None,
            external: BTreeMap::new(),
            findings: vec![],
        };
        if let Ok(bytes) = std::fs::read(unit.beside("manifest.json")) {
            unit.read_manifest(bytes);
        }
        Ok(unit)
    }

    fn beside(&self, name: &str) -> PathBuf {
        self.file.with_file_name(name)
    }

    fn read_manifest(&mut self, bytes: Vec<u8>) {
        let manifest = match Manifest::parse(&bytes) {
            Ok(manifest) => manifest,
            Err(reason) => {
                let fix = "mend the key, or leave the manifest out: `onnxd push` writes one from the graph";
                return self.wrong(reason, fix);
            }
        };
        // It belongs to another file of the folder.
        if self.file.file_name().is_none_or(|name| name != manifest.artifact.path.as_str()) {
            return;
        }
        let fix = "put the file there that the manifest was written for, or write the manifest anew";
        if let Err(reason) = agrees(&self.onnx, manifest.artifact.bytes, &manifest.artifact.sha256) {
            self.wrong(format!("{} {reason}", manifest.artifact.path), fix);
        }
        for listed in &manifest.artifact.external_data {
            let bytes = self.load(&listed.path);
            if let Some(Err(reason)) = bytes.as_deref().map(|bytes| agrees(bytes, listed.bytes, &listed.sha256)) {
                self.wrong(format!("{} {reason}", listed.path), fix);
            }
            self.external.insert(listed.path.clone(), bytes);
        }
        self.manifest = Some(Arc::new(manifest));
        self.manifest_bytes = Some(bytes);
    }

    fn wrong(&mut self, what: String, fix: &str) {
        self.findings.push(Finding { level: Level::Error, kind: "manifest", what, fix: fix.into() });
    }

    /// A file in the model's folder, if there is one by this name.
    fn load(&self, name: &str) -> Option<Arc<[u8]>> {
        // A link may not lead out of the folder; a device or a pipe is never read.
        let real = self.beside(name).canonicalize().ok().filter(|real| is_plain_name(name) && real.is_file())?;
        let folder = self.file.canonicalize().ok()?.parent()?.to_path_buf();
        std::fs::read(&real).ok().filter(|_| real.starts_with(folder)).map(Into::into)
    }

    /// Looks for the files that the graph names, when no manifest lists them.
    pub(super) fn find<'a>(&mut self, names: impl Iterator<Item = &'a String>) {
        if self.manifest.is_none() {
            self.external = names.map(|name| (name.clone(), self.load(name))).collect();
        }
    }

    /// Names and sizes of the files of weights that are there.
    pub(super) fn sizes(&self) -> Vec<(&str, u64)> {
        self.external.iter().filter_map(|(name, bytes)| Some((name.as_str(), bytes.as_ref()?.len() as u64))).collect()
    }

    /// Names of files of weights that are not there.
    pub(super) fn missing(&self) -> impl Iterator<Item = &str> {
        self.external.iter().filter(|(_, bytes)| bytes.is_none()).map(|(name, _)| name.as_str())
    }

    /// Whether it cannot be run as it is.
    pub(super) fn is_broken(&self, facts: &Facts) -> bool {
        !self.findings.is_empty() || self.missing().next().is_some() || facts.inputs.is_empty()
    }

    pub(super) fn external_files(&self, facts: &Facts) -> Vec<ExternalFile> {
        let names = self.external.keys().chain(facts.external.keys().filter(|name| !self.external.contains_key(*name)));
        let file = |name: &String| ExternalFile {
            path: name.clone(),
            used_bytes: facts.external.get(name).copied().unwrap_or(0),
            bytes: self.external.get(name).and_then(Option::as_ref).map(|bytes| bytes.len() as u64),
            listed: self.manifest.is_some() && self.external.contains_key(name),
        };
        names.map(file).collect()
    }

    pub(super) fn manifest_bytes(&self) -> Option<&[u8]> {
        self.manifest_bytes.as_deref()
    }

    pub(super) fn artifact(&self) -> Artifact {
        let (name, version) = self
            .manifest
            .as_ref()
            .map_or_else(|| ("model".into(), "1".into()), |m| (m.name.clone(), m.version.clone()));
        let manifest_sha256 = self.manifest_bytes().map(sha256);
        let there = |(path, bytes): (&String, &Option<Arc<[u8]>>)| {
            Some(External { path: path.clone(), bytes: Arc::clone(bytes.as_ref()?) })
        };
        Artifact {
            id: ModelId { name, version, sha256: sha256(&self.onnx), manifest_sha256 },
            onnx: self.onnx.clone(),
            external: self.external.iter().filter_map(there).collect(),
            manifest: self.manifest.clone(),
        }
    }
}

/// Whether it can only be the name of a file in a model's folder.
pub(crate) fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(['/', '\\', '\0']) && !name.starts_with('.')
}

fn agrees(bytes: &[u8], size: u64, sha: &str) -> Result<(), String> {
    if bytes.len() as u64 != size {
        return Err(format!("has {} bytes, the manifest says {size}", bytes.len()));
    }
    let actual = sha256(bytes);
    if actual == sha.to_ascii_lowercase() {
        Ok(())
    } else {
        Err(format!("has SHA-256 {actual}, the manifest says {sha}"))
    }
}
