//! A manifest for a model that has none, from what its graph holds and what a session says and answers.
//!
//! With it the model takes the same keys and gives the same answers as without one. What nobody can know from the file
//! alone (what an output means, where the model came from, how good it is) is left empty.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::check::{self, Invariance, Profile, Proved, Rejection, Stage};
use super::graph;
use super::independence::{ALONE, largest, near};
use super::manifest::Layout;
use super::onnx::{Graph, ValueInfo};
use super::runtime::Runtime;
use super::session::Session;
use super::signature::{Input, Rows, Signature};
use super::tensor::Tensor;
use super::trial::Trial;
use super::{Artifact, sha256};
use crate::codec;

/// How many of the rows that were tried become golden samples.
const SAMPLES: usize = 4;
const TOLERANCE: f64 = 1e-4;

/// What only loading and running the model tells; made in the child process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Derived {
    /// `artifact.ir_version`
    pub ir_version: i64,
    /// `artifact.opsets`
    pub opsets: BTreeMap<String, i64>,
    /// `signature`; the shapes of outputs are those that a run gave, not those that the graph declares.
    pub signature: Value,
    /// `golden.runtime`
    pub runtime: String,
    /// `golden.samples`; none of a model that no invented values satisfied.
    pub samples: Vec<Value>,
    /// Outputs whose values differ when the same row is run twice; they are in no sample.
    pub random: Vec<String>,
}

/// Proves a model and derives what its manifest says. A manifest that it has decides the signature.
///
/// # Errors
/// As [`check::examine`].
pub fn derive(runtime: &Runtime, artifact: &Artifact) -> Result<(Profile, Derived), Rejection> {
    let (model, graph) = graph::parse(&artifact.onnx).map_err(|e| Stage::Verify.reject(e))?;
    let Proved { mut session, signature, profile, samples: tried } = check::prove(runtime, artifact)?;
    let mut opsets = BTreeMap::new();
    for opset in &model.opset_import {
        let domain = if opset.domain.is_empty() { "ai.onnx" } else { &opset.domain };
        opsets.insert(domain.to_owned(), opset.version);
    }
    // A run of a fixed number of rows may have thousands.
    let count = if profile.trial == Trial::Nothing { 0 } else { check::count(&tried).min(ALONE) };
    let rows: Vec<Vec<Tensor>> = (0..count).map(|i| check::single(&tried, i)).collect();
    let failed = |e: String| Stage::Golden.reject(e);
    let mut answers = vec![];
    for row in &rows {
        answers.push(check::run(&mut session, row, 1).map_err(failed)?);
    }
    let random = random(&mut session, &signature, &rows, &answers).map_err(failed)?;
    let shapes = answers.first().map(|outputs| outputs.iter().map(|t| t.shape()[1..].to_vec()).collect());
    let samples = samples(&signature, &rows, &answers, &random);
    let derived = Derived {
        ir_version: model.ir_version,
        opsets,
        signature: describe(&signature, &graph, shapes.unwrap_or_default()),
        runtime: format!("onnxruntime {}", runtime.version()),
        samples,
        random,
    };
    Ok((profile, derived))
}

impl Derived {
    /// The manifest, in the order of its schema. `created_at` is a time in RFC 3339.
    #[must_use]
    pub fn manifest(&self, artifact: &Artifact, profile: &Profile, created_at: &str) -> Value {
        let mut golden = json!({"runtime": self.runtime, "samples": self.samples});
        if profile.invariance == Invariance::No {
            // That rows are independent was seen, which is no promise of the author.
            golden["batch_invariant"] = false.into();
        }
        let external: Vec<Value> = artifact
            .external
            .iter()
            .map(|file| json!({"path": file.path, "sha256": sha256(&file.bytes), "bytes": file.bytes.len()}))
            .collect();
        // What was found by time holds for the machine that took it alone.
        let limits = match profile.rows {
            Rows::Any => json!({}),
            Rows::Fixed(_) | Rows::Whole => json!({"max_batch": profile.max_batch}),
        };
        json!({
            "schema_version": "1.0",
            "name": artifact.id.name,
            "version": artifact.id.version,
            "created_at": created_at,
            "artifact": {
                "path": "model.onnx",
                "sha256": sha256(&artifact.onnx),
                "bytes": artifact.onnx.len(),
                "format": "onnx",
                "ir_version": self.ir_version,
                "opsets": self.opsets,
                "external_data": external,
            },
            "signature": self.signature,
            // With a meaning, an answer that is not finite would be refused, which it is not without a manifest.
            "outputs_semantics": {},
            "golden": golden,
            "training": {"mlflow_run_id": null, "git_commit": null, "data": []},
            "metrics": {},
            "limits": limits,
            "parent": null,
            "tags": {"derived": true},
        })
    }
}

/// The outputs that answer a row differently the second time.
fn random(
    session: &mut Session,
    signature: &Signature,
    rows: &[Vec<Tensor>],
    answers: &[Vec<Tensor>],
) -> Result<Vec<String>, String> {
    let mut random = vec![];
    for (row, before) in rows.iter().zip(answers) {
        let again = check::run(session, row, 1)?;
        for (output, (a, b)) in signature.outputs.iter().zip(before.iter().zip(&again)) {
            let same = match (a.numbers(), b.numbers()) {
                (Some(x), Some(y)) => near(a.dtype(), &largest(a), &x, &y),
                _ => a == b,
            };
            if !same && !random.contains(&output.name) {
                random.push(output.name.clone());
            }
        }
    }
    Ok(random)
}

/// Rows with their answers. Rows whose answers are all finite come first: where others must serve, what is not finite
/// is left out, since `null` could stand for any of NaN and the infinities.
fn samples(signature: &Signature, rows: &[Vec<Tensor>], answers: &[Vec<Tensor>], random: &[String]) -> Vec<Value> {
    let finite = |tensor: &Tensor| tensor.first_non_finite_row().is_none();
    let whole = |outputs: &[Tensor]| outputs.iter().all(finite);
    let any = answers.iter().any(|outputs| whole(outputs));
    let chosen = rows.iter().zip(answers).filter(|(_, outputs)| !any || whole(outputs)).take(SAMPLES);
    chosen
        .map(|(row, outputs)| {
            let expected: Map<String, Value> = signature
                .outputs
                .iter()
                .zip(outputs)
                .filter(|(output, tensor)| finite(tensor) && !random.contains(&output.name))
                .map(|(output, tensor)| (output.name.clone(), codec::encode::output(signature, tensor, 0)))
                .collect();
            json!({"input": codec::encode::request(signature, row), "expected": expected, "atol": TOLERANCE, "rtol": TOLERANCE})
        })
        .collect()
}

fn describe(signature: &Signature, graph: &Graph, shapes: Vec<Vec<usize>>) -> Value {
    // The dimensions before those of a row.
    let rows: Vec<i64> = match signature.rows {
        Rows::Any => vec![-1],
        Rows::Fixed(rows) => vec![i64::try_from(rows).unwrap_or(-1)],
        Rows::Whole => vec![],
    };
    let inputs: Vec<Value> = signature.inputs.iter().map(|input| describe_input(input, &rows)).collect();
    let free = signature.inputs.iter().any(|input| input.row_shape.contains(&None));
    let outputs: Vec<Value> = signature
        .outputs
        .iter()
        .zip(shapes)
        .map(|(output, measured)| {
            let declared = graph.output.iter().find(|o| o.name == output.name).and_then(ValueInfo::dims);
            let mut shape = rows.clone();
            for (i, dim) in measured.iter().enumerate() {
                let is_free = match &declared {
                    Some(dims) if dims.len() == measured.len() + rows.len() => dims[i + rows.len()].is_none(),
                    _ => free,
                };
                shape.push(if is_free { -1 } else { i64::try_from(*dim).unwrap_or(-1) });
            }
            json!({"name": output.name, "dtype": output.dtype, "shape": shape})
        })
        .collect();
    let layout = match (signature.rows, signature.inputs.len()) {
        (Rows::Whole, _) => Layout::Whole,
        (_, 1) => Layout::Packed,
        _ => Layout::Named,
    };
    json!({"layout": layout, "inputs": inputs, "outputs": outputs})
}

fn describe_input(input: &Input, rows: &[i64]) -> Value {
    let row = input.row_shape.iter().map(|dim| dim.and_then(|d| i64::try_from(d).ok()).unwrap_or(-1));
    let shape: Vec<i64> = rows.iter().copied().chain(row).collect();
    let mut described = json!({"name": input.name, "dtype": input.dtype, "shape": shape});
    if !input.features.is_empty() {
        described["features"] = json!(input.features);
    }
    described
}
