//! A model to serve: its file, and rows made from what its manifest says of its features.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::protocol::Row;
use crate::repository::Repository;

/// Rows that differ, so that no figure stands for one row kept warm.
const ROWS: usize = 256;
/// The rows are the same in every run.
const SEED: u64 = 20_261_127;

/// One version of a model, and rows for it.
pub(super) struct Model {
    pub(super) name: String,
    /// The folder with `model.onnx` and `manifest.json`.
    version: PathBuf,
    pub(super) rows: Vec<Row>,
}

impl Model {
    /// The champion of a model in a repository.
    pub(super) fn champion(folder: &Path) -> Result<Self> {
        let name = folder.file_name().context("a model's folder has a name")?.to_string_lossy().into_owned();
        let aliases = read(&folder.join("aliases.json"))?;
        let champion =
            aliases["champion"].as_str().with_context(|| format!("{name}: aliases.json names no champion"))?;
        let version =
            fs::canonicalize(folder.join(champion)).with_context(|| format!("{name}: no version {champion}"))?;
        let rows = rows(&read(&version.join("manifest.json"))?).with_context(|| format!("{name}: its manifest"))?;
        Ok(Self { name, version, rows })
    }

    pub(super) fn file(&self) -> PathBuf {
        self.version.join("model.onnx")
    }

    /// A repository of this version alone: no challenger, no other model, since the other servers have none.
    pub(super) fn repository(&self) -> Result<Repository> {
        let mut repository = Repository::new(&self.name, &[&self.version])?;
        repository.point("1", &[], None)?;
        Ok(repository)
    }
}

fn read(file: &Path) -> Result<Value> {
    let text = fs::read(file).with_context(|| format!("no {}", file.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is not JSON", file.display()))
}

/// Rows over the middle of what training saw: between the second and the last but one edge of a feature's reference
/// where there is one (a tenth of the values lies beyond each), else between its least and its greatest value.
fn rows(manifest: &Value) -> Result<Vec<Row>> {
    let features = manifest["signature"]["inputs"][0]["features"].as_array().context("no features")?;
    ensure!(!features.is_empty(), "no features");
    let mut ranges = Vec::new();
    for feature in features {
        let name = feature["name"].as_str().context("a feature has no name")?.to_owned();
        let edges: Vec<f64> =
            manifest["reference"][&name]["edges"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
        let (low, high) = match edges[..] {
            [_, low, .., high, _] => (low, high),
            _ => (feature["min"].as_f64().unwrap_or(-1.0), feature["max"].as_f64().unwrap_or(1.0)),
        };
        ranges.push((name, low, high));
    }
    let mut random = fastrand::Rng::with_seed(SEED);
    let mut value = |low: f64, high: f64| ((low + random.f64() * (high - low)) * 1000.0).round() / 1000.0;
    Ok((0..ROWS).map(|_| ranges.iter().map(|(name, low, high)| (name.clone(), value(*low, *high))).collect()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rows_differ_and_stay_where_training_was() {
        let manifest = json!({
            "signature": { "inputs": [{ "features": [{ "name": "a", "min": 0.0, "max": 2.0 }, { "name": "b" }] }] },
            "reference": { "b": { "edges": [-100.0, -1.0, 0.0, 1.0, 100.0] } },
        });
        let rows = rows(&manifest).expect("it has features");
        assert_eq!(rows.len(), ROWS);
        assert!(rows.iter().all(|row| (0.0..=2.0).contains(&row[0].1) && (-1.0..=1.0).contains(&row[1].1)));
        assert_ne!(rows[0], rows[1]);
        assert!(super::rows(&json!({})).is_err());
    }

    #[test]
    fn the_repository_has_the_champion_alone() {
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
        let model = Model::champion(&models.join("anomaly")).expect("it is there");
        let repository = model.repository().expect("it is written");
        let aliases = read(&repository.path().join("anomaly/aliases.json")).expect("JSON");
        assert_eq!((&aliases["champion"], &aliases["challengers"]), (&json!("1"), &json!([])));
        assert_eq!(fs::read_dir(repository.path().join("anomaly")).expect("a folder").count(), 2);
    }
}
