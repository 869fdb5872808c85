//! Repositories for a measurement: versions copied under a pointer of our own, which can be moved.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use onnxd::model::sha256;
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// One model in a folder that is gone when this is dropped.
pub struct Repository {
    folder: TempDir,
    model: PathBuf,
    hashes: Map<String, Value>,
    epoch: u64,
    champion: String,
}

impl Repository {
    /// Copies the folders, manifest last, as versions 1, 2, ..
    pub fn new(model: &str, versions: &[&Path]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let model = folder.path().join(model);
        let mut hashes = Map::new();
        for (from, version) in versions.iter().zip(1..) {
            let version = version.to_string();
            let hash = install(from, &model.join(&version), &version).with_context(|| from.display().to_string())?;
            hashes.insert(version, hash.into());
        }
        Ok(Self { folder, model, hashes, epoch: 0, champion: String::new() })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Moves the pointer.
    pub fn point(&mut self, champion: &str, challengers: &[&str], previous: Option<&str>) -> Result<()> {
        self.epoch += 1;
        champion.clone_into(&mut self.champion);
        let aliases = json!({
            "champion": champion,
            "challengers": challengers,
            "previous": previous,
            "epoch": self.epoch,
            "manifest_sha256": self.hashes,
            "updated_at": OffsetDateTime::now_utc().format(&Rfc3339)?,
            "by": "benches",
            "reason": "measurement",
        });
        let (written, path) = (self.model.join(".aliases.json.new"), self.model.join("aliases.json"));
        fs::write(&written, aliases.to_string())?;
        Ok(fs::rename(written, path)?)
    }

    /// Makes the other one of versions 1 and 2 the champion, and the present one the champion before it.
    pub fn swap(&mut self) -> Result<()> {
        let (from, to) = if self.champion == "1" { ("1", "2") } else { ("2", "1") };
        self.point(to, &[], Some(from))
    }
}

/// Copies a folder as a version, manifest last; gives the manifest's hash.
fn install(from: &Path, target: &Path, version: &str) -> Result<String> {
    fs::create_dir_all(target)?;
    fs::copy(from.join("model.onnx"), target.join("model.onnx"))?;
    let mut manifest: Value = serde_json::from_slice(&fs::read(from.join("manifest.json"))?)?;
    manifest["version"] = version.into();
    let text = serde_json::to_string_pretty(&manifest)?;
    fs::write(target.join("manifest.json"), &text)?;
    Ok(sha256(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_names_its_manifests_by_hash() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../server/tests/fixtures");
        let versions = [fixtures.join("good"), fixtures.join("slow")];
        let mut repository = Repository::new("anomaly", &versions.each_ref().map(|path| path.as_path()))
            .expect("the fixtures are there");
        repository.point("1", &["2"], None).expect("it is written");
        let model = repository.path().join("anomaly");
        let read = |name: &str| fs::read(model.join(name)).expect("it is written");
        let aliases: Value = serde_json::from_slice(&read("aliases.json")).expect("it is JSON");
        let manifest = read("2/manifest.json");
        assert_eq!(aliases["manifest_sha256"]["2"], sha256(&manifest).as_str());
        assert_eq!((&aliases["challengers"], &aliases["epoch"]), (&json!(["2"]), &json!(1)));
        let manifest: Value = serde_json::from_slice(&manifest).expect("it is JSON");
        assert_eq!(manifest["version"], "2");
        repository.swap().expect("it is written");
        let aliases: Value = serde_json::from_slice(&read("aliases.json")).expect("it is JSON");
        assert_eq!((&aliases["champion"], &aliases["previous"]), (&json!("2"), &json!("1")));
    }
}
