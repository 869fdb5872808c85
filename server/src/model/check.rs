//! The proofs a model must give before it serves: it loads, answers its golden samples, stays finite, and shows
//! whether its rows are independent of one another. It is also timed here.
//!
//! All of it runs in a child process first (`probe`), and the golden samples again on each serving session.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::graph::{self, Lint};
use super::manifest::{Manifest, Sample};
use super::runtime::Runtime;
use super::session::{self, Session};
use super::signature::Signature;
use super::tensor::Tensor;
use super::{Artifact, Infer, RunError};
use crate::codec;

/// Rows a run without a limit in the manifest may have.
const DEFAULT_MAX_BATCH: usize = 1024;
/// Rows of the batch that is timed and that warms a session.
const WARM_ROWS: usize = 64;
/// A golden run that takes longer is a hang.
const RUN_LIMIT: Duration = Duration::from_secs(10);

/// Why a model is refused, and at which stage of the swap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{stage}: {reason}")]
pub struct Rejection {
    /// Whether the same may go well a moment later: a file that is not whole yet, a process that could not be started.
    #[serde(default)]
    pub passing: bool,
    /// Where it failed.
    pub stage: Stage,
    /// One sentence.
    pub reason: String,
}

/// The stages of a swap, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Reading the bytes from the source.
    Fetch,
    /// Sizes, hashes, the manifest, the signature.
    Verify,
    /// The child process.
    Probe,
    /// Creating the serving sessions.
    Load,
    /// Golden samples.
    Golden,
}

impl Stage {
    /// The name in logs, metrics and the status.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fetch => "fetch",
            Self::Verify => "verify",
            Self::Probe => "probe",
            Self::Load => "load",
            Self::Golden => "golden",
        }
    }

    /// A rejection at this stage.
    pub fn reject(self, reason: impl Into<String>) -> Rejection {
        Rejection { passing: false, stage: self, reason: reason.into() }
    }

    /// A rejection that may pass.
    pub fn not_yet(self, reason: impl Into<String>) -> Rejection {
        Rejection { passing: true, ..self.reject(reason) }
    }
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether a row's answer depends on the rows beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Invariance {
    /// The same bits alone and in a batch.
    Exact,
    /// The same within 1e-6 absolute or 1e-5 relative (matrix kernels differ by batch size).
    Close,
    /// Different: rows of different requests never share a run.
    No,
}

/// What the probe measured of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// Whether rows of different requests may share a run.
    pub invariance: Invariance,
    /// Most rows in one run.
    pub max_batch: usize,
    /// Median time of a run with one row.
    pub one_row_us: f64,
    /// Median time of a run with `max_batch` or 64 rows, whichever is less, divided by the rows.
    pub row_in_batch_us: f64,
    /// Whether the time of a run depends on nothing but the number of its rows: no loops, no free dimensions.
    pub steady: bool,
    /// Nodes of the graph.
    pub nodes: usize,
    /// What the author may want to know.
    pub warnings: Vec<String>,
}

impl Profile {
    /// How many rows fit into a run that takes about `limit`; 0 when not even one does, or when a
    /// request could make it take longer.
    #[must_use]
    pub fn inline_rows(&self, limit: Duration) -> usize {
        let spare = limit.as_secs_f64() * 1e6 - self.one_row_us;
        if spare < 0.0 || !self.steady {
            return 0;
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative, saturates")]
        let rows = 1 + (spare / self.row_in_batch_us.max(0.01)) as usize;
        rows.min(self.max_batch)
    }
}

/// Opens a session, derives the signature and proves both on the golden samples.
///
/// # Errors
/// At `load` what ONNX Runtime says, at `verify` what does not fit, at `golden` the sample that differs.
pub fn open(runtime: &Runtime, artifact: &Artifact) -> Result<(Session, Signature), Rejection> {
    let (mut session, io) = session::load(runtime, artifact, 1).map_err(|e| Stage::Load.reject(e))?;
    let signature = Signature::new(&io, artifact.manifest.as_deref()).map_err(|e| Stage::Verify.reject(e))?;
    session.select_outputs(&signature);
    match &artifact.manifest {
        Some(manifest) => {
            golden(&mut session, &signature, manifest)?;
            warm(&mut session, &signature, manifest)?;
        }
        None => {
            let rows = invented_rows(&signature, 2);
            let count = rows.first().and_then(Tensor::rows).unwrap_or(0);
            run(&mut session, &rows, count).map_err(|e| Stage::Golden.reject(e))?;
        }
    }
    Ok((session, signature))
}

/// All proofs and timings, as the child process makes them.
///
/// # Errors
/// The first proof that fails.
pub fn examine(runtime: &Runtime, artifact: &Artifact) -> Result<Profile, Rejection> {
    prove(runtime, artifact).map(|(_, _, profile)| profile)
}

/// [`examine`], and what was proved.
pub(super) fn prove(runtime: &Runtime, artifact: &Artifact) -> Result<(Session, Signature, Profile), Rejection> {
    let Lint { mut warnings, nodes, steady } =
        graph::lint(&artifact.onnx, &artifact.files()).map_err(|e| Stage::Verify.reject(e))?;
    let (mut session, signature) = open(runtime, artifact)?;
    let limit = artifact.manifest.as_ref().and_then(|m| m.limits.max_batch).unwrap_or(DEFAULT_MAX_BATCH);
    let fixed = signature.fixed_rows.is_some();
    let rows = sample_rows(&signature, artifact.manifest.as_deref())?;
    let invariance = if fixed { Invariance::No } else { invariance(&mut session, &rows)? };
    if invariance == Invariance::No && !fixed {
        warnings.push("a row's answer depends on the rows beside it: requests are never batched together".into());
    }
    let max_batch = if fixed { 1 } else { limit.max(1) };
    let one = single(&rows, 0);
    let one_row_us = time(&mut session, &one)?;
    let many = max_batch.min(WARM_ROWS);
    let batch = repeat(&rows, many);
    let row_in_batch_us = time(&mut session, &batch)? / f64::from(u32::try_from(many).unwrap_or(u32::MAX));
    if one_row_us > 1000.0 {
        warnings.push(format!("one row takes {:.1} ms ({nodes} nodes)", one_row_us / 1000.0));
    }
    let steady = steady && signature.inputs.iter().all(|input| input.row_shape.iter().all(Option::is_some));
    let profile = Profile { invariance, max_batch, one_row_us, row_in_batch_us, steady, nodes, warnings };
    Ok((session, signature, profile))
}

pub(super) fn run(session: &mut dyn Infer, inputs: &[Tensor], rows: usize) -> Result<Vec<Tensor>, String> {
    let outputs = session.run(inputs, Instant::now() + RUN_LIMIT).map_err(|e| match e {
        RunError::Deadline => format!("a run of {rows} rows did not end in {} s", RUN_LIMIT.as_secs()),
        RunError::Failed(reason) => reason,
    })?;
    for (i, output) in outputs.iter().enumerate() {
        if output.rows() != Some(rows) {
            return Err(format!(
                "output {i} has shape {:?} for {rows} rows: its first axis must be rows",
                output.shape()
            ));
        }
    }
    Ok(outputs)
}

/// Runs the golden samples, all in one request, and compares.
fn golden(session: &mut Session, signature: &Signature, manifest: &Manifest) -> Result<(), Rejection> {
    for (i, sample) in manifest.golden.samples.iter().enumerate() {
        let rows = decode(signature, std::iter::once(sample))
            .map_err(|e| Stage::Golden.reject(format!("golden sample {i}: {e}")))?;
        let outputs = run(session, &rows, 1).map_err(|e| Stage::Golden.reject(format!("golden sample {i}: {e}")))?;
        if let Some(output) = signature.not_finite(&outputs, 0..1) {
            return Err(Stage::Golden.reject(format!("golden sample {i}: output {} is not finite", output.name)));
        }
        for (output, tensor) in signature.outputs.iter().zip(&outputs) {
            let got = codec::encode::value(tensor, 0);
            if let Some(expected) = sample.expected.get(&output.name)
                && !close(expected, &got, sample)
            {
                return Err(Stage::Golden.reject(format!(
                    "golden sample {i}: output {} is {got}, the manifest expects {expected} (atol {}, rtol {})",
                    output.name, sample.atol, sample.rtol
                )));
            }
        }
    }
    Ok(())
}

/// Runs a batch once, so that the first real one finds its memory allocated.
fn warm(session: &mut Session, signature: &Signature, manifest: &Manifest) -> Result<(), Rejection> {
    let most = manifest.limits.max_batch.unwrap_or(DEFAULT_MAX_BATCH).min(WARM_ROWS);
    if signature.fixed_rows.is_some() || most < 2 {
        return Ok(());
    }
    let batch = repeat(&sample_rows(signature, Some(manifest))?, most);
    run(session, &batch, most).map(drop).map_err(|e| Stage::Golden.reject(format!("{most} rows in one run: {e}")))
}

fn close(expected: &Value, got: &Value, sample: &Sample) -> bool {
    match (expected, got) {
        (Value::Number(e), Value::Number(g)) => {
            let (e, g) = (e.as_f64().unwrap_or(f64::NAN), g.as_f64().unwrap_or(f64::NAN));
            (e - g).abs() <= sample.rtol.mul_add(e.abs(), sample.atol)
        }
        (Value::Array(e), Value::Array(g)) => e.len() == g.len() && e.iter().zip(g).all(|(e, g)| close(e, g, sample)),
        _ => expected == got,
    }
}

fn decode<'a>(signature: &Signature, samples: impl Iterator<Item = &'a Sample>) -> Result<Vec<Tensor>, String> {
    let rows: Vec<_> = samples.map(|s| Value::Object(s.input.clone())).collect();
    let json = serde_json::to_vec(&rows).map_err(|e| e.to_string())?;
    codec::decode::body(signature, &json, rows.len()).map(|request| request.inputs).map_err(|e| e.to_string())
}

/// Golden rows when there are any, else invented ones; at least 3, so that batching shows.
fn sample_rows(signature: &Signature, manifest: Option<&Manifest>) -> Result<Vec<Tensor>, Rejection> {
    let Some(manifest) = manifest else { return Ok(invented_rows(signature, 8)) };
    let samples = manifest.golden.samples.iter().cycle().take(manifest.golden.samples.len().max(3));
    decode(signature, samples).map_err(|e| Stage::Golden.reject(e))
}

/// Small deterministic values of each input's type and shape; free dimensions are 1.
pub(super) fn invented_rows(signature: &Signature, rows: usize) -> Vec<Tensor> {
    let rows = signature.fixed_rows.unwrap_or(rows);
    let small = |i: usize| f64::from(u8::try_from(i * 7919 % 13).unwrap_or(0)) / 4.0;
    signature
        .inputs
        .iter()
        .filter_map(|input| {
            let mut shape = vec![rows];
            shape.extend(input.row_shape.iter().map(|d| d.unwrap_or(1)));
            Tensor::filled(input.dtype, &shape, small)
        })
        .collect()
}

pub(super) fn single(rows: &[Tensor], i: usize) -> Vec<Tensor> {
    rows.iter().map(|t| t.slice_rows(i..i + 1)).collect()
}

fn repeat(rows: &[Tensor], times: usize) -> Vec<Tensor> {
    rows.iter()
        .map(|tensor| {
            let count = tensor.rows().unwrap_or(1);
            let parts: Vec<_> = (0..times).map(|i| tensor.slice_rows(i % count..i % count + 1)).collect();
            Tensor::concat(parts.iter()).unwrap_or_else(|| tensor.clone())
        })
        .collect()
}

/// Compares each row alone with the same row in a batch, and in the reversed batch.
fn invariance(session: &mut Session, rows: &[Tensor]) -> Result<Invariance, Rejection> {
    let count = rows.first().and_then(Tensor::rows).unwrap_or(0);
    let fail = |e: String| Stage::Golden.reject(e);
    let together = run(session, rows, count).map_err(fail)?;
    let reversed_rows: Vec<Tensor> = rows
        .iter()
        .filter_map(|t| {
            let parts: Vec<_> = (0..count).rev().map(|i| t.slice_rows(i..i + 1)).collect();
            Tensor::concat(parts.iter())
        })
        .collect();
    let reversed = run(session, &reversed_rows, count).map_err(fail)?;
    let mut result = Invariance::Exact;
    for i in 0..count {
        let alone = run(session, &single(rows, i), 1).map_err(fail)?;
        for (o, alone) in alone.iter().enumerate() {
            let back = count - 1 - i;
            for other in [together[o].slice_rows(i..i + 1), reversed[o].slice_rows(back..back + 1)] {
                if *alone == other {
                    continue;
                }
                match (alone.numbers(), other.numbers()) {
                    (Some(a), Some(b)) if near(&a, &b) && alone.dtype().is_float() => result = Invariance::Close,
                    _ => return Ok(Invariance::No),
                }
            }
        }
    }
    Ok(result)
}

pub(super) fn near(a: &[f64], b: &[f64]) -> bool {
    a.len() == b.len()
        && a.iter().zip(b).all(|(a, b)| (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-6 + 1e-5 * a.abs())
}

/// Median of 15 runs in microseconds, after 3 to warm up; fewer when runs are slow.
fn time(session: &mut Session, inputs: &[Tensor]) -> Result<f64, Rejection> {
    let mut times = vec![];
    let begin = Instant::now();
    for i in 0..18 {
        let start = Instant::now();
        session.run(inputs, start + RUN_LIMIT).map_err(|e| Stage::Golden.reject(e.to_string()))?;
        if i >= 3 || begin.elapsed() > Duration::from_millis(200) {
            times.push(start.elapsed().as_secs_f64() * 1e6);
        }
        if begin.elapsed() > Duration::from_millis(500) {
            break;
        }
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}
