//! Repositories made of the fixtures, with the hash chain that `aliases.json` starts.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::{Server, wait_for};
use onnxd::source::sha256;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A model repository with one model, `anomaly`.
pub struct Repo {
    folder: TempDir,
    epoch: AtomicU64,
    champion: AtomicU32,
}

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

impl Repo {
    pub fn new() -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        fs::create_dir(folder.path().join("anomaly")).expect("a folder");
        Self { folder, epoch: AtomicU64::new(0), champion: AtomicU32::new(0) }
    }

    /// A repository where version 1 is champion and version 2, if any, challenger.
    pub fn serving(champion: &str, challenger: Option<&str>) -> Self {
        let repo = Self::new();
        repo.install(1, champion);
        if let Some(challenger) = challenger {
            repo.install(2, challenger);
        }
        repo.point(1, challenger.map(|_| 2));
        repo
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn version(&self, version: u32) -> PathBuf {
        self.path().join("anomaly").join(version.to_string())
    }

    /// Puts a fixture in as a version; the manifest is written last.
    pub fn install(&self, version: u32, name: &str) {
        let (from, to) = (fixture(name), self.version(version));
        fs::create_dir_all(&to).expect("a folder");
        fs::copy(from.join("model.onnx"), to.join("model.onnx")).expect("the fixture's model");
        if from.join("weights.bin").exists() {
            fs::copy(from.join("weights.bin"), to.join("weights.bin")).expect("the fixture's weights");
        }
        let text = fs::read_to_string(from.join("manifest.json")).expect("the fixture's manifest");
        let mut manifest: Value = serde_json::from_str(&text).expect("JSON");
        manifest["version"] = json!(version.to_string());
        fs::write(to.join("manifest.json"), manifest.to_string()).expect("a manifest");
    }

    /// Changes a version's manifest. What pointed to the old one does not any more.
    pub fn edit(&self, version: u32, change: impl FnOnce(&mut Value)) {
        let path = self.version(version).join("manifest.json");
        let mut manifest = serde_json::from_slice(&fs::read(&path).expect("a manifest")).expect("JSON");
        change(&mut manifest);
        fs::write(path, manifest.to_string()).expect("a manifest");
    }

    /// Writes `aliases.json` in one step; the champion until then is the one before.
    pub fn point(&self, champion: u32, challenger: Option<u32>) -> u64 {
        let epoch = self.epoch.fetch_add(1, Ordering::Relaxed) + 1;
        let hash = |v: &u32| sha256(&fs::read(self.version(*v).join("manifest.json")).unwrap_or_default());
        let before = self.champion.swap(champion, Ordering::Relaxed);
        let previous = Some(before).filter(|before| *before > 0 && *before != champion);
        let hashes: serde_json::Map<String, Value> = std::iter::once(&champion)
            .chain(&challenger)
            .chain(&previous)
            .map(|v| (v.to_string(), json!(hash(v))))
            .collect();
        let aliases = json!({
            "champion": champion.to_string(),
            "challengers": challenger.iter().map(u32::to_string).collect::<Vec<_>>(),
            "previous": previous.map(|version| version.to_string()),
            "epoch": epoch,
            "manifest_sha256": hashes,
        });
        self.write_aliases(&aliases.to_string());
        epoch
    }

    pub fn write_aliases(&self, text: &str) {
        let temporary = self.path().join("anomaly/.aliases.json.tmp");
        fs::write(&temporary, text).expect("a file");
        fs::rename(temporary, self.path().join("anomaly/aliases.json")).expect("a rename");
    }

    /// The pointer as it is.
    pub fn aliases(&self) -> Value {
        let text = fs::read_to_string(self.path().join("anomaly/aliases.json")).expect("a pointer");
        serde_json::from_str(&text).expect("JSON")
    }

    /// The ledger's record of an epoch.
    pub fn record(&self, epoch: u64) -> Value {
        let path = self.path().join(format!("anomaly/ledger/{epoch}.json"));
        // It is written after the pointer.
        let text = wait_for("the record", || fs::read_to_string(&path).ok());
        serde_json::from_str(&text).expect("JSON")
    }

    /// The epochs of which there is a record.
    pub fn records(&self) -> Vec<String> {
        let Ok(folder) = fs::read_dir(self.path().join("anomaly/ledger")) else { return vec![] };
        let mut names: Vec<String> =
            folder.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        names.retain(|name| name.ends_with(".json"));
        names.sort();
        names
    }
}

/// Waits until an epoch was taken up: published or refused, all of it tried out.
#[track_caller]
pub fn settled(server: &Server, epoch: u64) -> Value {
    wait_for("the swap", || {
        let status = server.model_status("anomaly");
        let done = status["wanted"]["epoch"] == json!(epoch)
            && status["trying"] == json!([])
            && (status["epoch"] == json!(epoch) || !status["rejected"].as_array()?.is_empty());
        done.then_some(status)
    })
}

/// Waits until this version serves.
#[track_caller]
pub fn serves(server: &Server, version: u32) -> Value {
    wait_for(&format!("version {version}"), || {
        let status = server.model_status("anomaly");
        (status["champion"]["version"] == json!(version.to_string())).then_some(status)
    })
}

/// A row that `good` and `other` answer differently.
pub fn row(turn: usize) -> Value {
    json!({"cpu_zscore": turn % 60, "memory_zscore": 1, "cpu_baseline": 50, "cpu_scale": 10})
}
