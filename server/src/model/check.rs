//! The proofs a model must give before it serves: it loads, answers its golden samples, stays finite, and shows
//! whether its rows are independent of one another. It is also timed here.
//!
//! All of it runs in a child process first (`probe`), and the golden samples again on each serving session.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::graph::{self, Lint};
use super::independence::independent;
use super::manifest::{Manifest, Sample};
use super::runtime::Runtime;
use super::session::{self, Session};
use super::signature::{GraphIo, Rows, SAY_WHOLE, Signature};
use super::tensor::{self, Tensor};
use super::trial::{self, Found, Trial};
use super::{Artifact, Infer, RunError};
use crate::codec;
use crate::verdict::state::mix;

/// Rows a run without a limit in the manifest may have.
const DEFAULT_MAX_BATCH: usize = 1024;
/// Where the manifest sets no limit, a run has no more rows than take about this long, or a few times as long as one row, so
/// that a large request keeps others waiting for no longer. Models of which that is few rows take hardly less time a row in
/// larger runs.
const FAIR_RUN: Duration = Duration::from_millis(2);
/// How many times as long as one row a run may take, when that is longer.
const FAIR_RUN_ROWS: f64 = 4.0;
/// Rows of the batch that is timed and that warms a session. A run of so many is allowed whatever it takes.
const WARM_ROWS: usize = 64;
/// Elements of the rows that are invented or that warm a session: an image has millions, and a model needs many times as
/// much between its operators.
const WARM_ELEMENTS: usize = 4 << 20;
/// Runs by which a time is measured.
const RUNS: usize = 18;
/// A golden run that takes longer is a hang.
pub(super) const RUN_LIMIT: Duration = Duration::from_secs(10);

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
    /// All of them, in order.
    pub const ALL: [Self; 5] = [Self::Fetch, Self::Verify, Self::Probe, Self::Load, Self::Golden];

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Invariance {
    /// The same bits alone and in a batch.
    Exact,
    /// The same but for the last digits, such as 1e-5 for float32 (matrix kernels differ by batch size).
    Close,
    /// Different, or nobody knows: rows of different requests never share a run.
    No,
}

/// What the probe measured of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// Whether rows of different requests may share a run.
    pub invariance: Invariance,
    /// How the model takes rows, as runs of it showed.
    pub rows: Rows,
    /// Most rows in one run.
    pub max_batch: usize,
    /// Median time of a run with one row.
    pub one_row_us: f64,
    /// Median time of a run with `max_batch` or 64 rows, whichever is less, divided by the rows.
    pub row_in_batch_us: f64,
    /// What each row beyond the first adds to the time of a run, up to that many.
    pub further_row_us: f64,
    /// Whether the time of a run depends on nothing but the number of its rows: no loops, no free dimensions.
    pub steady: bool,
    /// What it was tried out with.
    #[serde(default)]
    pub trial: Trial,
    /// Nodes of the graph.
    pub nodes: usize,
    /// What the author may want to know.
    pub warnings: Vec<String>,
}

impl Profile {
    /// Time of a run of so many rows.
    #[must_use]
    pub fn run_us(&self, rows: usize) -> f64 {
        self.further_row_us.mul_add(count_of(rows.saturating_sub(1)), self.one_row_us)
    }

    /// How many rows fit into a run that takes about `limit`; 0 when not even one does, or when a
    /// request could make it take longer.
    #[must_use]
    pub fn inline_rows(&self, limit: Duration) -> usize {
        let spare = limit.as_secs_f64() * 1e6 - self.one_row_us;
        if spare < 0.0 || !self.steady {
            return 0;
        }
        rows_within(spare, self.further_row_us).min(self.max_batch)
    }

    /// How many rows take about as long for themselves as a run takes whatever it has; 1 when a request could make a run take
    /// longer, for nothing must wait for that one.
    #[must_use]
    pub fn rows_worth_a_run(&self) -> usize {
        if !self.steady {
            return 1;
        }
        let whatever = (self.one_row_us - self.further_row_us).max(0.0);
        rows_within(whatever, self.further_row_us).min(self.max_batch)
    }
}

/// How many rows take so long, when all but the first take `row_us`.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative, saturates")]
fn rows_within(spare_us: f64, row_us: f64) -> usize {
    1 + (spare_us / row_us.max(0.01)) as usize
}

fn count_of(rows: usize) -> f64 {
    f64::from(u32::try_from(rows).unwrap_or(u32::MAX))
}

/// Opens a session that takes rows as the probe found, or else as its manifest or graph says, and proves it on the golden
/// samples.
///
/// # Errors
/// At `load` what ONNX Runtime says, at `verify` what does not fit, at `golden` the sample that differs.
pub fn open(
    runtime: &Runtime,
    artifact: &Artifact,
    profile: Option<&Profile>,
) -> Result<(Session, Signature), Rejection> {
    let (mut session, io) = session::load(runtime, artifact, 1).map_err(|e| Stage::Load.reject(e))?;
    let manifest = artifact.manifest.as_deref();
    let signature = match profile {
        Some(profile) => Signature::with_rows(&io, manifest, profile.rows),
        None => Signature::new(&io, manifest),
    };
    let signature = signature.map_err(|e| Stage::Verify.reject(e))?;
    session.fit(&signature);
    match (manifest, profile.map(|profile| profile.trial)) {
        (Some(manifest), _) => {
            golden(&mut session, &signature, manifest)?;
            warm(&mut session, &signature, manifest)?;
        }
        (None, Some(Trial::Invented(invented))) => {
            let rows = invented.rows(&signature, 2);
            run(&mut session, &rows, count(&rows)).map_err(|e| Stage::Golden.reject(e))?;
        }
        (None, _) => {}
    }
    Ok((session, signature))
}

/// All proofs and timings, as the child process makes them.
///
/// # Errors
/// The first proof that fails.
pub fn examine(runtime: &Runtime, artifact: &Artifact) -> Result<Profile, Rejection> {
    prove(runtime, artifact).map(|proved| proved.profile)
}

/// A model that has proved itself.
pub(super) struct Proved {
    pub(super) session: Session,
    pub(super) signature: Signature,
    pub(super) profile: Profile,
    /// Rows that it runs on; none of a model that could not be tried out.
    pub(super) samples: Vec<Tensor>,
}

/// [`examine`], and what was proved.
pub(super) fn prove(runtime: &Runtime, artifact: &Artifact) -> Result<Proved, Rejection> {
    let Lint { mut warnings, nodes, steady } =
        graph::lint(&artifact.onnx, &artifact.files()).map_err(|e| Stage::Verify.reject(e))?;
    let (mut session, mut io) = session::load(runtime, artifact, 1).map_err(|e| Stage::Load.reject(e))?;
    io.steady = steady;
    let manifest = artifact.manifest.as_deref();
    let mut found = match manifest {
        Some(manifest) => on_golden(&mut session, &io, manifest)?,
        None => trial::find(&mut session, &io)?,
    };
    let declared = manifest.and_then(|manifest| manifest.golden.batch_invariant);
    let (invariance, why) = independent(&mut session, &found, declared);
    match (found.signature.rows, why) {
        (Rows::Fixed(rows @ 2..), Some(why)) => {
            // What stands in for missing rows would change the answers.
            let reason = format!("a run has {rows} rows, and {why}");
            if manifest.is_some() {
                return Err(Stage::Golden.reject(format!("{reason}: {SAY_WHOLE}")));
            }
            found = trial::whole(&mut session, &io, &reason)?;
        }
        // Nothing is lost by it: such rows never share a run.
        (Rows::Any, why) if invariance == Invariance::No && manifest.is_none() && io.first_dims_differ() => {
            let names = "the first dimensions of its inputs have different names";
            let reason = why.map_or_else(|| names.into(), |why| format!("{names}, and {why}"));
            found = trial::whole(&mut session, &io, &reason)?;
        }
        (_, Some(why)) => warnings.push(format!("{why}: requests are never batched together")),
        (_, None) => {}
    }
    let Found { signature, samples, trial, warning, .. } = found;
    warnings.extend(warning);
    let limit = manifest.and_then(|m| m.limits.max_batch);
    let most = limit.unwrap_or(DEFAULT_MAX_BATCH).max(1);
    let mut max_batch = match signature.rows {
        Rows::Any if trial != Trial::Nothing => most,
        Rows::Fixed(rows) => rows.min(most),
        Rows::Any | Rows::Whole => 1,
    };
    let (mut one_row_us, mut row_in_batch_us, mut further_row_us) = (0.0, 0.0, 0.0);
    if trial != Trial::Nothing {
        let many = warm_rows(&samples, max_batch);
        let batch_us;
        (one_row_us, batch_us) = time_both(&mut session, &samples, many)?;
        row_in_batch_us = batch_us / count_of(many);
        further_row_us = if many > 1 { (batch_us - one_row_us).max(0.0) / count_of(many - 1) } else { one_row_us };
        if limit.is_none() && many > 1 {
            let longest = (FAIR_RUN.as_secs_f64() * 1e6).max(FAIR_RUN_ROWS * one_row_us);
            max_batch = max_batch.min(rows_within(longest - one_row_us, further_row_us).max(WARM_ROWS));
        }
    }
    if one_row_us > 1000.0 {
        warnings.push(format!("one row takes {:.1} ms ({nodes} nodes)", one_row_us / 1000.0));
    }
    let free = signature.inputs.iter().any(|input| input.row_shape.contains(&None));
    let steady = steady && !free && trial != Trial::Nothing;
    let rows = signature.rows;
    let profile = Profile {
        invariance,
        rows,
        max_batch,
        one_row_us,
        row_in_batch_us,
        further_row_us,
        steady,
        trial,
        nodes,
        warnings,
    };
    Ok(Proved { session, signature, profile, samples })
}

/// Takes rows as the manifest says, and proves that on its golden samples.
fn on_golden(session: &mut Session, io: &GraphIo, manifest: &Manifest) -> Result<Found, Rejection> {
    let signature = Signature::new(io, Some(manifest)).map_err(|e| Stage::Verify.reject(e))?;
    session.fit(&signature);
    golden(session, &signature, manifest)?;
    let groups = sample_rows(&signature, manifest)?;
    for samples in &groups {
        run(session, samples, count(samples)).map_err(|e| Stage::Golden.reject(e))?;
    }
    let samples = groups.first().cloned().unwrap_or_default();
    let mut telling = vec![];
    if matches!(signature.rows, Rows::Any | Rows::Fixed(2..)) {
        // Few samples seldom show all: invented values are tried besides.
        telling = groups.into_iter().filter(|samples| samples.iter().any(trial::varies)).collect();
        telling.extend(trial::telling(session, io, &signature));
    }
    Ok(Found { signature, samples, telling, trial: Trial::Golden, warning: None })
}

pub(super) fn run(session: &mut dyn Infer, inputs: &[Tensor], rows: usize) -> Result<Vec<Tensor>, String> {
    let outputs = session.run(inputs, Instant::now() + RUN_LIMIT).map_err(|e| match e {
        RunError::Deadline => format!("a run of {rows} rows did not end in {} s", RUN_LIMIT.as_secs()),
        RunError::Failed(reason) => reason,
    })?;
    for (i, output) in outputs.iter().enumerate() {
        if output.rows() != Some(rows) {
            return Err(wrong_rows(&i.to_string(), output, rows));
        }
    }
    Ok(outputs)
}

/// What is said of an output that does not have a row for each row.
pub(crate) fn wrong_rows(output: &str, tensor: &Tensor, rows: usize) -> String {
    let shape = tensor.shape();
    format!("output {output} has shape {shape:?} for {rows} rows, so its first axis is not rows: {SAY_WHOLE}")
}

/// Runs the golden samples one by one and compares.
fn golden(session: &mut Session, signature: &Signature, manifest: &Manifest) -> Result<(), Rejection> {
    for (i, sample) in manifest.golden.samples.iter().enumerate() {
        let fail = |e: String| Stage::Golden.reject(format!("golden sample {i}: {e}"));
        let rows = decode(signature, sample).map_err(fail)?;
        let outputs = run(session, &rows, 1).map_err(fail)?;
        if let Some(output) = signature.not_finite(&outputs, 0..1) {
            return Err(fail(format!("output {} is not finite", output.name)));
        }
        for (output, tensor) in signature.outputs.iter().zip(&outputs) {
            trial::labels_fit(output, tensor).map_err(fail)?;
            let got = codec::encode::output(signature, tensor, 0);
            if let Some(expected) = sample.expected.get(&output.name)
                && !close(expected, &got, sample)
            {
                return Err(fail(format!(
                    "output {} is {got}, the manifest expects {expected} (atol {}, rtol {})",
                    output.name, sample.atol, sample.rtol
                )));
            }
        }
    }
    Ok(())
}

/// Runs a batch once, so that the first real one finds its memory allocated.
fn warm(session: &mut Session, signature: &Signature, manifest: &Manifest) -> Result<(), Rejection> {
    if signature.rows != Rows::Any {
        return Ok(());
    }
    let samples = sample_rows(signature, manifest)?.into_iter().next().unwrap_or_default();
    let most = warm_rows(&samples, manifest.limits.max_batch.unwrap_or(DEFAULT_MAX_BATCH));
    if most < 2 {
        return Ok(());
    }
    let batch = repeat(&samples, most);
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

fn decode(signature: &Signature, sample: &Sample) -> Result<Vec<Tensor>, String> {
    let json = serde_json::to_vec(&sample.input).map_err(|e| e.to_string())?;
    codec::decode::body(signature, &json, 1).map(|request| request.inputs).map_err(|e| e.to_string())
}

/// The golden rows, those of one shape together: at least 3, so that batching shows, or as many as a run has.
fn sample_rows(signature: &Signature, manifest: &Manifest) -> Result<Vec<Vec<Tensor>>, Rejection> {
    let shapes = |row: &[Tensor]| row.iter().map(|tensor| tensor.shape().to_vec()).collect::<Vec<_>>();
    let mut groups: Vec<Vec<Vec<Tensor>>> = vec![];
    for sample in &manifest.golden.samples {
        let row = decode(signature, sample).map_err(|e| Stage::Golden.reject(e))?;
        match groups.iter_mut().find(|group| shapes(&group[0]) == shapes(&row)) {
            Some(group) => group.push(row),
            None => groups.push(vec![row]),
        }
    }
    let stacked = |group: &Vec<Vec<Tensor>>| {
        let count = match signature.rows {
            Rows::Any => group.len().max(3),
            Rows::Fixed(rows) => rows,
            Rows::Whole => 1,
        };
        let rows: Vec<&[Tensor]> = group.iter().map(Vec::as_slice).cycle().take(count).collect();
        tensor::stack(rows.iter().copied()).ok_or_else(|| Stage::Golden.reject("golden samples differ in shape"))
    };
    groups.iter().map(stacked).collect()
}

/// How many rows of so many elements are invented, or run to warm a session: at most `most`.
pub(super) fn as_many_as_fit(elements: usize, most: usize) -> usize {
    (WARM_ELEMENTS / elements.max(1)).max(2).min(most)
}

fn warm_rows(samples: &[Tensor], most: usize) -> usize {
    let elements = samples.iter().map(|tensor| tensor.shape().iter().skip(1).product::<usize>()).sum();
    as_many_as_fit(elements, most.min(WARM_ROWS))
}

/// Rows of a run; without inputs there is one.
pub(super) fn count(rows: &[Tensor]) -> usize {
    rows.first().and_then(Tensor::rows).unwrap_or(1)
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

/// Other rows than those given, of their values: each is of one of them, at its place. As many as there are columns and rows
/// for; text and rows of one value are repeated.
fn mixed(rows: &[Tensor], times: usize) -> Vec<Tensor> {
    let mixture = |(tensor, repeated): (&Tensor, Tensor)| {
        let count = tensor.rows().unwrap_or(1).max(1);
        let Some(values) = tensor.numbers() else { return repeated };
        let width = (values.len() / count).max(1);
        let source = |at: usize| usize::try_from(mix(at as u64) % count as u64).unwrap_or(0);
        let value = |at: usize| values[source(at) * width + at % width];
        let other = Tensor::filled(tensor.dtype(), repeated.shape(), value);
        other.unwrap_or(repeated)
    };
    rows.iter().zip(repeat(rows, times)).map(mixture).collect()
}

/// Microseconds that a run of one row takes, and one of `many`. No row is the same as the one before, as far as the samples
/// allow: processors learn the way of a row through trees, and then take a third of the time for it.
fn time_both(session: &mut Session, samples: &[Tensor], many: usize) -> Result<(f64, f64), Rejection> {
    let mut time_rows = |rows: Vec<Tensor>| {
        let singles: Vec<Vec<Tensor>> = (0..many.min(RUNS)).map(|row| single(&rows, row)).collect();
        Ok((time(session, &singles)?, time(session, &[rows])?))
    };
    // A mixture need not be one that the model takes.
    time_rows(mixed(samples, many)).or_else(|_: Rejection| time_rows(repeat(samples, many)))
}

/// Median of 15 runs in microseconds, after 3 to warm up; fewer when runs are slow. The runs take turns with the inputs.
fn time(session: &mut Session, inputs: &[Vec<Tensor>]) -> Result<f64, Rejection> {
    let mut times = vec![];
    let begin = Instant::now();
    for (i, inputs) in inputs.iter().cycle().take(RUNS).enumerate() {
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
