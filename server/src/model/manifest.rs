//! The manifest beside each `model.onnx`: parsing and the checks that need no model. See `models/manifest.schema.json`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::tensor::{Column, DType};
use crate::verdict::drift::Reference;

/// Writes a model's weights into one file beside it, which is how they are served.
pub(crate) const BESIDE: &str =
    "onnx.save_model(model, \"model.onnx\", save_as_external_data=True, location=\"weights.bin\")";

/// A model's manifest, `<version>/manifest.json`. Unknown top-level keys are errors, as in the schema.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Always `1.0`.
    pub schema_version: String,
    /// The model's logical name, equal to its folder.
    pub name: String,
    /// A positive integer as text, equal to its folder.
    pub version: String,
    /// When it was written (RFC 3339).
    pub created_at: String,
    /// The ONNX file and its hash.
    pub artifact: Artifact,
    /// Inputs, features and outputs.
    pub signature: ManifestSignature,
    /// What each output means, by output name.
    pub outputs_semantics: BTreeMap<String, Semantics>,
    /// Rows with the answers that the training framework gave.
    pub golden: Golden,
    /// Training-time distributions per feature and score.
    #[serde(default)]
    pub reference: BTreeMap<String, Value>,
    /// Where the model came from.
    pub training: Value,
    /// What it reached in evaluation.
    pub metrics: Value,
    /// What it may be asked to do.
    pub limits: Limits,
    /// The model it was derived from.
    #[serde(default)]
    pub parent: Option<Value>,
    /// Signatures of the manifest.
    #[serde(default)]
    pub signing: Option<Value>,
    /// Free labels.
    #[serde(default)]
    pub tags: Option<Value>,
}

/// The ONNX file of a version.
#[derive(Clone, Debug, Deserialize)]
pub struct Artifact {
    /// A plain file name inside the version's folder.
    pub path: String,
    /// Lower-case hexadecimal SHA-256 of the file.
    pub sha256: String,
    /// Its size.
    pub bytes: u64,
    /// Always `onnx`.
    pub format: String,
    /// Further files with weights.
    #[serde(default)]
    pub external_data: Vec<ExternalData>,
}

/// A file of weights beside the ONNX file.
#[derive(Clone, Debug, Deserialize)]
pub struct ExternalData {
    /// A plain file name inside the version's folder, by which the graph refers to it.
    pub path: String,
    /// Lower-case hexadecimal SHA-256 of the file.
    pub sha256: String,
    /// Its size.
    pub bytes: u64,
}

/// Whether the features share one tensor or have one each, if there are rows of features at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// One input of shape `[rows, features]`.
    Packed,
    /// One input a feature.
    Named,
    /// There is no row axis: a request holds each input in its full shape.
    Whole,
}

/// Inputs and outputs as the manifest declares them.
#[derive(Clone, Debug, Deserialize)]
pub struct ManifestSignature {
    /// How features map to inputs.
    pub layout: Layout,
    /// In the graph's order.
    pub inputs: Vec<ManifestInput>,
    /// In the order in which answers list them.
    pub outputs: Vec<ManifestOutput>,
}

/// One graph input.
#[derive(Clone, Debug, Deserialize)]
pub struct ManifestInput {
    /// The graph's name for it.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Rows first, where there are rows; -1 is any size.
    pub shape: Vec<i64>,
    /// Names of the columns of a packed input.
    #[serde(default)]
    pub features: Vec<Feature>,
}

/// One graph output.
#[derive(Clone, Debug, Deserialize)]
pub struct ManifestOutput {
    /// The graph's name for it.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Rows first, where there are rows; -1 is any size.
    pub shape: Vec<i64>,
}

/// What happens when a request leaves a feature out (or sends `null`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Missing {
    /// The model sees NaN and handles it.
    Nan,
    /// The model sees the feature's default.
    Default,
    /// The request is refused.
    #[default]
    Reject,
}

/// A named column of a packed input.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Feature {
    /// The key in requests.
    pub name: String,
    /// A required feature is refused when missing, whatever `missing` says.
    pub required: bool,
    /// The policy for an optional one.
    #[serde(default)]
    pub missing: Missing,
    /// The value for `missing: default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<f64>,
    /// Smallest value seen in training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// Largest value seen in training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
    /// Unit, such as `sigma` or `percent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// One sentence for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

impl Feature {
    /// What stands in the place of a missing value; `None` when a missing one is refused.
    #[must_use]
    pub fn stand_in(&self) -> Option<f64> {
        match self.missing {
            _ if self.required => None,
            Missing::Nan => Some(f64::NAN),
            Missing::Default => Some(self.default.unwrap_or(f64::NAN)),
            Missing::Reject => None,
        }
    }

    /// Whether what stands for a missing value fits the element type.
    fn check(&self, dtype: DType) -> Result<(), String> {
        match (self.missing, self.default) {
            _ if self.required => Ok(()),
            (Missing::Reject, _) => Ok(()),
            (Missing::Nan, _) if dtype.is_float() => Ok(()),
            (Missing::Nan, _) => Err(format!("missing is \"nan\", which {dtype} does not have")),
            (Missing::Default, None) => Err("missing is \"default\" but there is no default".into()),
            (Missing::Default, Some(default)) => {
                let mut column = Column::new(dtype);
                let at = column.grow(1);
                column.set_default(at, default).map_err(|e| format!("its default {e}"))
            }
        }
    }
}

/// What an output is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Yes or no, or a class that is acted on.
    Decision,
    /// A number behind the decision.
    Score,
    /// A predicted value.
    Forecast,
    /// A class label.
    Class,
    /// A vector.
    Embedding,
}

/// Meaning of one output.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Semantics {
    /// What it is for.
    pub role: Role,
    /// The decision's limit on a score.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    /// Smallest and largest value allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<(f64, f64)>,
    /// Unit, such as `percent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// How far ahead a forecast looks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub horizon_seconds: Option<u64>,
    /// What a forecast is of: the key under which rows may tell its present value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_feature: Option<String>,
}

/// Golden samples.
#[derive(Clone, Debug, Deserialize)]
pub struct Golden {
    /// At least one.
    pub samples: Vec<Sample>,
    /// Whether the author found rows independent of their batch; measured again at load.
    #[serde(default)]
    pub batch_invariant: Option<bool>,
}

/// A row and its expected answer.
#[derive(Clone, Debug, Deserialize)]
pub struct Sample {
    /// As a request would send it.
    pub input: Map<String, Value>,
    /// As the answer must be, within the tolerances.
    pub expected: Map<String, Value>,
    /// Absolute tolerance.
    #[serde(default = "tolerance")]
    pub atol: f64,
    /// Relative tolerance.
    #[serde(default = "tolerance")]
    pub rtol: f64,
}

const fn tolerance() -> f64 {
    1e-4
}

/// Limits the author sets.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Limits {
    /// Most rows in one run.
    #[serde(default)]
    pub max_batch: Option<usize>,
}

impl Manifest {
    /// Parses and checks what can be checked without the model.
    ///
    /// # Errors
    /// One sentence: the key and what is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let manifest: Self = serde_json::from_slice(bytes).map_err(|e| format!("manifest.json: {e}"))?;
        manifest.check().map_err(|e| format!("manifest.json: {e}"))?;
        Ok(manifest)
    }

    /// How features and score were distributed in training, as far as that can be used, and a sentence for each that cannot.
    #[must_use]
    pub fn references(&self) -> (BTreeMap<String, Reference>, Vec<String>) {
        let (mut usable, mut unusable) = (BTreeMap::new(), vec![]);
        for (name, entry) in &self.reference {
            match Reference::parse(entry) {
                Ok(reference) => drop(usable.insert(name.clone(), reference)),
                Err(reason) => unusable.push(format!("reference.{name} of the manifest is not used: {reason}")),
            }
        }
        (usable, unusable)
    }

    fn check(&self) -> Result<(), String> {
        if self.schema_version != "1.0" {
            return Err(format!("schema_version is {:?}, this server reads \"1.0\"", self.schema_version));
        }
        if self.artifact.format != "onnx" {
            return Err(format!("artifact.format is {:?}, not \"onnx\"", self.artifact.format));
        }
        let artifact = &self.artifact;
        check_file("artifact", &artifact.path, &artifact.sha256)?;
        let mut names = vec!["manifest.json", artifact.path.as_str()];
        for file in &artifact.external_data {
            check_file("artifact.external_data", &file.path, &file.sha256)?;
            if names.contains(&file.path.as_str()) {
                return Err(format!("artifact.external_data: {:?} is named twice", file.path));
            }
            names.push(&file.path);
        }
        if self.golden.samples.is_empty() {
            return Err("golden.samples is empty: at least one row with its answer is needed".into());
        }
        for input in &self.signature.inputs {
            if input.shape.is_empty() && self.signature.layout != Layout::Whole {
                return Err(format!(
                    "signature.inputs: {} has no row dimension, which layout \"whole\" allows",
                    input.name
                ));
            }
            for feature in &input.features {
                feature.check(input.dtype).map_err(|e| format!("feature {}: {e}", feature.name))?;
            }
        }
        for name in self.outputs_semantics.keys() {
            if !self.signature.outputs.iter().any(|o| o.name == *name) {
                return Err(format!("outputs_semantics names {name:?}, which signature.outputs has not"));
            }
        }
        Ok(())
    }
}

fn check_file(key: &str, path: &str, sha256: &str) -> Result<(), String> {
    if path.is_empty() || path.contains(['/', '\\', '\0']) || path.starts_with('.') {
        let fix =
            if key == "artifact" { "name the file as it lies there".into() } else { format!("save it with {BESIDE}") };
        return Err(format!("{key}.path {path:?} must be a plain file name in the version's folder: {fix}"));
    }
    if sha256.len() != 64 || !sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(format!("{key}.sha256 of {path:?} must be 64 hexadecimal digits"));
    }
    Ok(())
}
