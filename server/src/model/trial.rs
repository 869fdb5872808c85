//! How a model without a manifest takes rows: guessed from its graph, and proved by running it on invented values.
//!
//! What a graph declares is not trusted: a first axis that is free need not be rows, and shapes of outputs are often wrong.
//! A model that no invented values satisfy is served all the same, as carefully as can be: a run that fails is then an
//! error of that request alone.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::check::{RUN_LIMIT, Rejection, Stage};
use super::session::Session;
use super::signature::{GraphIo, Output, Rows, Signature};
use super::tensor::{DType, Tensor};
use super::{Infer, RunError};

/// Rows that are tried together where a run has any number of them.
const TRIED: usize = 8;
/// Sizes of free dimensions that are tried: 1, what small kernels need, and what images and sounds do.
const SIZES: [usize; 7] = [1, 2, 3, 4, 16, 64, 256];
/// Elements of an input above which a size is not tried.
const MOST_ELEMENTS: usize = 1 << 22;
/// How long values are looked for that a graph runs on.
const LOOKING: Duration = Duration::from_secs(5);

/// What a model was tried out with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Trial {
    /// The golden samples of its manifest.
    #[default]
    Golden,
    /// Values that were made up.
    Invented(Invented),
    /// No values that were made up satisfied it.
    Nothing,
}

/// How values are made up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invented {
    values: Values,
    /// Size of free dimensions.
    free: usize,
}

/// Which values are made up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Values {
    /// 0 to 3 in steps of a quarter, whole where the type is.
    Small,
    Zeros,
    Ones,
}

/// A signature, and rows that its model runs on.
pub(super) struct Found {
    pub(super) signature: Signature,
    pub(super) samples: Vec<Tensor>,
    pub(super) trial: Trial,
    /// What the author may want to know.
    pub(super) warning: Option<String>,
}

/// What trying out a signature showed.
enum Tried {
    Runs(Invented),
    /// It ran, and this output has no rows.
    NoRows(String),
    /// The reason for the first values.
    Fails(String),
}

/// Finds out how a model takes rows, and makes the session do so.
///
/// # Errors
/// What cannot be served at all, or a run that never ends.
pub(super) fn find(session: &mut Session, graph: &GraphIo) -> Result<Found, Rejection> {
    let guess = Rows::guess(&graph.input_shapes());
    let signature = fitted(session, graph, guess)?;
    let reason = match try_out(session, &signature)? {
        Tried::Runs(invented) => return Ok(Found::new(signature, invented, None)),
        Tried::NoRows(output) => format!("output {output} has no row axis"),
        Tried::Fails(reason) if guess == Rows::Whole => return Ok(Found::nothing(signature, &reason)),
        Tried::Fails(reason) => reason,
    };
    let whole = fitted(session, graph, Rows::Whole)?;
    match try_out(session, &whole)? {
        Tried::Runs(invented) => Ok(Found::new(whole, invented, Some(each_is_one_run(&reason)))),
        // Without rows that would be padded, the guess is as good as any.
        _ if matches!(guess, Rows::Any | Rows::Fixed(1)) => Ok(Found::nothing(fitted(session, graph, guess)?, &reason)),
        _ => Ok(Found::nothing(whole, &reason)),
    }
}

/// The same for a model that must be served whole, for a reason that was found later.
pub(super) fn whole(session: &mut Session, graph: &GraphIo, reason: &str) -> Result<Found, Rejection> {
    let signature = fitted(session, graph, Rows::Whole)?;
    match try_out(session, &signature)? {
        Tried::Runs(invented) => Ok(Found::new(signature, invented, Some(each_is_one_run(reason)))),
        Tried::NoRows(reason) | Tried::Fails(reason) => Ok(Found::nothing(signature, &reason)),
    }
}

fn each_is_one_run(reason: &str) -> String {
    format!("{reason}: each request is one run, its tensors in their full shapes")
}

fn fitted(session: &mut Session, graph: &GraphIo, rows: Rows) -> Result<Signature, Rejection> {
    let signature = Signature::with_rows(graph, None, rows).map_err(|e| Stage::Verify.reject(e))?;
    session.fit(&signature);
    Ok(signature)
}

impl Found {
    fn new(signature: Signature, invented: Invented, warning: Option<String>) -> Self {
        let samples = invented.rows(&signature, TRIED);
        Self { signature, samples, trial: Trial::Invented(invented), warning }
    }

    fn nothing(signature: Signature, reason: &str) -> Self {
        let warning = format!(
            "it could not be tried out with invented values ({reason}): a manifest with golden samples proves it"
        );
        Self { signature, samples: vec![], trial: Trial::Nothing, warning: Some(warning) }
    }
}

/// Runs a model on invented values until some satisfy it.
fn try_out(session: &mut Session, signature: &Signature) -> Result<Tried, Rejection> {
    let begin = Instant::now();
    let free = signature.inputs.iter().any(|input| input.row_shape.contains(&None));
    let mut failure = None;
    for size in SIZES.into_iter().take(if free { SIZES.len() } else { 1 }) {
        for values in [Values::Small, Values::Zeros, Values::Ones] {
            let invented = Invented { values, free: size };
            if !invented.fits(signature) || (failure.is_some() && begin.elapsed() > LOOKING) {
                continue;
            }
            match run_both(session, signature, invented)? {
                Tried::Fails(reason) => drop(failure.get_or_insert(reason)),
                other => return Ok(other),
            }
        }
    }
    Ok(Tried::Fails(failure.unwrap_or_else(|| "its inputs are too large".into())))
}

/// Runs several rows, and one alone: an output that has by chance as many elements as there are rows shows.
fn run_both(session: &mut Session, signature: &Signature, invented: Invented) -> Result<Tried, Rejection> {
    let many = invented.rows(signature, TRIED);
    let rows = many.first().and_then(Tensor::rows).unwrap_or(1);
    let mut shapes: Vec<Vec<usize>> = vec![];
    for count in if rows > 1 { vec![rows, 1] } else { vec![1] } {
        let inputs: Vec<Tensor> = many.iter().map(|tensor| tensor.slice_rows(0..count)).collect();
        let outputs = match session.run(&inputs, Instant::now() + RUN_LIMIT) {
            Ok(outputs) => outputs,
            Err(RunError::Failed(reason)) => return Ok(Tried::Fails(reason)),
            Err(RunError::Deadline) => {
                return Err(Stage::Golden.reject(format!("a run did not end in {} s", RUN_LIMIT.as_secs())));
            }
        };
        for (i, (output, tensor)) in signature.outputs.iter().zip(&outputs).enumerate() {
            let row = tensor.shape().get(1..).unwrap_or_default();
            // A row that grows with their number is none.
            if tensor.rows() != Some(count) || shapes.get(i).is_some_and(|before| before != row) {
                return Ok(Tried::NoRows(output.name.clone()));
            }
            labels_fit(output, tensor).map_err(|e| Stage::Verify.reject(e))?;
        }
        shapes = outputs.iter().map(|tensor| tensor.shape()[1..].to_vec()).collect();
    }
    Ok(Tried::Runs(invented))
}

/// ONNX Runtime checks it where a map is made; served as a tensor, there is no map.
pub(super) fn labels_fit(output: &Output, tensor: &Tensor) -> Result<(), String> {
    let columns = tensor.shape().last().copied().unwrap_or(0);
    match &output.labels {
        Some(labels) if labels.len() != columns => {
            Err(format!("output {} has {} class labels for {columns} columns", output.name, labels.len()))
        }
        _ => Ok(()),
    }
}

impl Invented {
    /// Rows of these values: as many as a run has exactly, or `rows`.
    pub(super) fn rows(self, signature: &Signature, rows: usize) -> Vec<Tensor> {
        let rows = match signature.rows {
            Rows::Any => rows,
            Rows::Fixed(rows) => rows,
            Rows::Whole => 1,
        };
        let value = |dtype: DType, i: usize| match self.values {
            Values::Zeros => 0.0,
            Values::Ones => 1.0,
            Values::Small => {
                let small = f64::from(u8::try_from(i * 7919 % 13).unwrap_or(0)) / 4.0;
                if dtype.is_float() { small } else { small.floor() }
            }
        };
        let filled = |input: &super::signature::Input| {
            let mut shape = vec![rows];
            shape.extend(input.row_shape.iter().map(|dim| dim.unwrap_or(self.free)));
            Tensor::filled(input.dtype, &shape, |i| value(input.dtype, i))
        };
        signature.inputs.iter().filter_map(filled).collect()
    }

    fn fits(self, signature: &Signature) -> bool {
        let rows = if let Rows::Fixed(rows) = signature.rows { rows } else { TRIED };
        signature.inputs.iter().all(|input| {
            let dims = input.row_shape.iter().map(|dim| dim.unwrap_or(self.free));
            let free = input.row_shape.contains(&None) && self.free > 1;
            !free || dims.chain([rows]).try_fold(1, usize::checked_mul).is_some_and(|count| count <= MOST_ELEMENTS)
        })
    }
}
