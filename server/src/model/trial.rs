//! How a model without a manifest takes rows: guessed from its graph, and proved by running it on invented values.
//!
//! What a graph declares is not trusted: a first axis that is free need not be rows, and shapes of outputs are often wrong.
//! A model that no invented values satisfy is served all the same, as carefully as can be: a run that fails is then an
//! error of that request alone.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::check::{self, RUN_LIMIT, Rejection, Stage};
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
    /// -1.5 to 1.5 in steps of a quarter, -6 to 6 where the type is whole, 0 to 12 where it has no sign.
    Signed,
    /// 0 to 3 in steps of a quarter, whole where the type is: indices into small tables.
    Small,
    /// 1 to 13; text of these numbers.
    Positive,
    /// -300 to 300, 0 to 600 where the type has no sign: beyond what a model cuts off, such as ages.
    Large,
    /// 0 and 1: indices into smaller ones.
    Bits,
    Zeros,
    Ones,
}

/// A signature, and rows that its model runs on.
pub(super) struct Found {
    pub(super) signature: Signature,
    pub(super) samples: Vec<Tensor>,
    /// Batches whose rows differ from each other: whether their answers depend on each other shows there. None where only
    /// equal rows ran, which prove nothing.
    pub(super) telling: Vec<Vec<Tensor>>,
    pub(super) trial: Trial,
    /// What the author may want to know.
    pub(super) warning: Option<String>,
}

/// What trying out a signature showed.
enum Tried {
    Runs(Runs),
    /// It ran, and this output has no rows.
    NoRows(String),
    /// The reason for the first values.
    Fails(String),
}

/// Values that a model runs on.
struct Runs {
    invented: Invented,
    /// Those whose rows differ from each other and have finite answers.
    telling: Vec<Invented>,
}

/// What a run of values showed.
enum Ran {
    Runs {
        /// Whether rows differ from each other and have finite answers.
        telling: bool,
        /// Whether every output differs from row to row: what is cut off, or no word that a model knows, does not show whether
        /// rows depend on each other.
        answers: bool,
    },
    NoRows(String),
    Fails(String),
}

/// Finds out how a model takes rows, and makes the session do so.
///
/// # Errors
/// What cannot be served at all, or a run that never ends.
pub(super) fn find(session: &mut Session, graph: &GraphIo) -> Result<Found, Rejection> {
    let guess = Rows::guess(&graph.input_shapes());
    let signature = fitted(session, graph, guess)?;
    let reason = match try_out(session, graph, &signature)? {
        Tried::Runs(runs) => return Ok(Found::new(signature, runs, None)),
        Tried::NoRows(output) => format!("output {output} has no row axis"),
        Tried::Fails(reason) if guess == Rows::Whole => return Ok(Found::nothing(signature, &reason)),
        Tried::Fails(reason) => reason,
    };
    let whole = fitted(session, graph, Rows::Whole)?;
    match try_out(session, graph, &whole)? {
        Tried::Runs(runs) => Ok(Found::new(whole, runs, Some(each_is_one_run(&reason)))),
        // Without rows that would be padded, the guess is as good as any.
        _ if matches!(guess, Rows::Any | Rows::Fixed(1)) => Ok(Found::nothing(fitted(session, graph, guess)?, &reason)),
        _ => Ok(Found::nothing(whole, &reason)),
    }
}

/// The same for a model that must be served whole, for a reason that was found later.
pub(super) fn whole(session: &mut Session, graph: &GraphIo, reason: &str) -> Result<Found, Rejection> {
    let signature = fitted(session, graph, Rows::Whole)?;
    match try_out(session, graph, &signature)? {
        Tried::Runs(runs) => Ok(Found::new(signature, runs, Some(each_is_one_run(reason)))),
        Tried::NoRows(reason) | Tried::Fails(reason) => Ok(Found::nothing(signature, &reason)),
    }
}

/// Batches of rows that differ from each other, beside the golden samples of a model. What becomes of values that its
/// author has not promised is no reason to refuse it.
pub(super) fn telling(session: &mut Session, graph: &GraphIo, signature: &Signature) -> Vec<Vec<Tensor>> {
    match try_out(session, graph, signature) {
        Ok(Tried::Runs(runs)) => runs.telling(signature),
        _ => vec![],
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
    fn new(signature: Signature, runs: Runs, warning: Option<String>) -> Self {
        let samples = runs.invented.rows(&signature, TRIED);
        let telling = runs.telling(&signature);
        Self { signature, samples, telling, trial: Trial::Invented(runs.invented), warning }
    }

    fn nothing(signature: Signature, reason: &str) -> Self {
        let warning = format!(
            "it could not be tried out with invented values ({reason}): a manifest with golden samples proves it"
        );
        Self { signature, samples: vec![], telling: vec![], trial: Trial::Nothing, warning: Some(warning) }
    }
}

impl Runs {
    fn telling(&self, signature: &Signature) -> Vec<Vec<Tensor>> {
        self.telling.iter().map(|invented| invented.rows(signature, TRIED)).collect()
    }
}

/// Runs a model on invented values until some satisfy it, and further ones until its answers differ from row to row.
fn try_out(session: &mut Session, graph: &GraphIo, signature: &Signature) -> Result<Tried, Rejection> {
    let free = signature.inputs.iter().any(|input| input.row_shape.contains(&None));
    let tried = try_sizes(session, graph, signature, if free { &SIZES } else { &SIZES[..1] })?;
    match tried {
        // Nothing depends on others over an axis of one.
        Tried::Runs(mut runs)
            if free && runs.telling.iter().any(|telling| telling.free == 1) && signature.rows != Rows::Whole =>
        {
            match try_sizes(session, graph, signature, &SIZES[1..]) {
                Ok(Tried::Runs(larger)) => runs.telling.extend(larger.telling),
                Ok(Tried::NoRows(output)) => return Ok(Tried::NoRows(output)),
                // A size that is too much for it is none that it must have.
                Ok(Tried::Fails(_)) | Err(_) => {}
            }
            Ok(Tried::Runs(runs))
        }
        other => Ok(other),
    }
}

/// The first size that the model runs on, with all the values that tell something of it.
fn try_sizes(
    session: &mut Session,
    graph: &GraphIo,
    signature: &Signature,
    sizes: &[usize],
) -> Result<Tried, Rejection> {
    let begin = Instant::now();
    let (mut failure, mut runs): (_, Option<Runs>) = (None, None);
    for size in sizes {
        for values in Values::ALL {
            let invented = Invented { values, free: *size };
            let enough = (failure.is_some() || runs.is_some()) && begin.elapsed() > LOOKING;
            if enough || !invented.fits(signature) || (values.is_large() && !graph.steady) {
                continue;
            }
            match run_both(session, signature, invented)? {
                Ran::Fails(reason) => drop(failure.get_or_insert(reason)),
                Ran::NoRows(output) => return Ok(Tried::NoRows(output)),
                Ran::Runs { telling, answers } => {
                    let runs = runs.get_or_insert(Runs { invented, telling: vec![] });
                    if telling {
                        if runs.telling.is_empty() {
                            runs.invented = invented;
                        }
                        runs.telling.push(invented);
                    }
                    if telling && answers {
                        break;
                    }
                }
            }
        }
        if runs.as_ref().is_some_and(|runs| !runs.telling.is_empty()) {
            break;
        }
    }
    Ok(match runs {
        Some(runs) => Tried::Runs(runs),
        None => Tried::Fails(failure.unwrap_or_else(|| "its inputs are too large".into())),
    })
}

/// Runs several rows, and one alone: an output that has by chance as many elements as there are rows shows.
fn run_both(session: &mut Session, signature: &Signature, invented: Invented) -> Result<Ran, Rejection> {
    let many = invented.rows(signature, TRIED);
    let rows = many.first().and_then(Tensor::rows).unwrap_or(1);
    let mut shapes: Vec<Vec<usize>> = vec![];
    let mut telling = rows < 2 || many.iter().all(|tensor| tensor.shape().contains(&0) || varies(tensor));
    let mut answers = true;
    for count in if rows > 1 { vec![rows, 1] } else { vec![1] } {
        let inputs: Vec<Tensor> = many.iter().map(|tensor| tensor.slice_rows(0..count)).collect();
        let outputs = match session.run(&inputs, Instant::now() + RUN_LIMIT) {
            Ok(outputs) => outputs,
            Err(RunError::Failed(reason)) => return Ok(Ran::Fails(reason)),
            Err(RunError::Deadline) => {
                return Err(Stage::Golden.reject(format!("a run did not end in {} s", RUN_LIMIT.as_secs())));
            }
        };
        for (i, (output, tensor)) in signature.outputs.iter().zip(&outputs).enumerate() {
            let row = tensor.shape().get(1..).unwrap_or_default();
            // A row that grows with their number is none, and one of classes has columns.
            let columns = output.labels.is_none() || !row.is_empty();
            if tensor.rows() != Some(count) || !columns || shapes.get(i).is_some_and(|before| before != row) {
                return Ok(Ran::NoRows(output.name.clone()));
            }
            labels_fit(output, tensor).map_err(|e| Stage::Verify.reject(e))?;
        }
        telling &= count == 1 && rows > 1 || finite(&outputs, count);
        answers &= count < 2 || outputs.iter().all(|tensor| tensor.shape().contains(&0) || varies(tensor));
        shapes = outputs.iter().map(|tensor| tensor.shape()[1..].to_vec()).collect();
    }
    Ok(Ran::Runs { telling, answers })
}

/// Whether not all rows are the same.
pub(super) fn varies(tensor: &Tensor) -> bool {
    let bits = |row: usize| {
        let row = tensor.slice_rows(row..row + 1);
        // Two NaN are one value here.
        row.numbers().map(|numbers| numbers.into_iter().map(f64::to_bits).collect::<Vec<_>>()).ok_or(row)
    };
    let rows = tensor.rows().unwrap_or(0);
    rows > 1 && (1..rows).any(|row| bits(row) != bits(0))
}

/// Whether two rows at least (the only one, if there is one) are finite: all others are alike.
fn finite(outputs: &[Tensor], rows: usize) -> bool {
    let whole = |row: &usize| outputs.iter().all(|t| t.slice_rows(*row..row + 1).first_non_finite_row().is_none());
    (0..rows).filter(whole).take(2).count() == rows.min(2)
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

impl Values {
    const ALL: [Self; 7] =
        [Self::Signed, Self::Small, Self::Positive, Self::Large, Self::Bits, Self::Zeros, Self::Ones];

    /// Whether a model that takes them for sizes could need too much memory for them.
    const fn is_large(self) -> bool {
        matches!(self, Self::Positive | Self::Large)
    }

    /// One of 13 values, another in each of 13 rows at each place. The square keeps rows from being turns of one another,
    /// which have the same sum.
    fn at(self, dtype: DType, input: usize, row: usize, column: usize) -> f64 {
        let index = f64::from(Self::index(input, row, column));
        match (self, dtype) {
            (Self::Zeros, _) => 0.0,
            (Self::Ones, _) => 1.0,
            (Self::Bits, _) | (_, DType::Bool) => index % 2.0,
            (Self::Small, dtype) if dtype.is_float() => index / 4.0,
            (Self::Small, _) => (index / 4.0).floor(),
            (Self::Signed, dtype) if dtype.is_float() => (index - 6.0) / 4.0,
            (Self::Signed, DType::I8 | DType::I16 | DType::I32 | DType::I64) => index - 6.0,
            (Self::Signed, _) => index,
            (Self::Positive, _) => index + 1.0,
            (Self::Large, DType::U8 | DType::U16 | DType::U32 | DType::U64) => index * 50.0,
            (Self::Large, DType::I8) => (index - 6.0) * 20.0,
            (Self::Large, _) => (index - 6.0) * 50.0,
        }
    }

    /// The word of the model's own that stands there, a number as text, or a letter.
    fn word(self, words: &[String], input: usize, row: usize, column: usize) -> String {
        let index = Self::index(input, row, column);
        match self {
            Self::Positive => (index + 1).to_string(),
            Self::Zeros => "a".into(),
            Self::Ones => "b".into(),
            Self::Bits => char::from(b'a' + index % 2).into(),
            _ if words.is_empty() => char::from(b'a' + index).into(),
            _ => words[usize::from(index) % words.len()].clone(),
        }
    }

    fn index(input: usize, row: usize, column: usize) -> u8 {
        let column = column % 13;
        u8::try_from((3 * input + 5 * row + column * column) % 13).unwrap_or(0)
    }
}

impl Invented {
    /// Rows of these values: as many as a run has exactly, or `rows`.
    pub(super) fn rows(self, signature: &Signature, rows: usize) -> Vec<Tensor> {
        let rows = match signature.rows {
            Rows::Any => check::as_many_as_fit(signature.inputs.iter().map(|input| self.elements(input)).sum(), rows),
            Rows::Fixed(rows) => rows,
            Rows::Whole => 1,
        };
        let filled = |(i, input): (usize, &super::signature::Input)| {
            let row: Vec<usize> = input.row_shape.iter().map(|dim| dim.unwrap_or(self.free)).collect();
            let width = row.iter().product::<usize>().max(1);
            let shape: Vec<usize> = std::iter::once(rows).chain(row).collect();
            if input.dtype == DType::Text {
                let word = |at: usize| self.values.word(&signature.words, i, at / width, at % width);
                return Tensor::texts(&shape, word);
            }
            Tensor::filled(input.dtype, &shape, |at| self.values.at(input.dtype, i, at / width, at % width))
        };
        signature.inputs.iter().enumerate().filter_map(filled).collect()
    }

    /// Elements of a row of an input.
    fn elements(self, input: &super::signature::Input) -> usize {
        input.row_shape.iter().map(|dim| dim.unwrap_or(self.free)).fold(1, usize::saturating_mul)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_differ_whatever_their_width_and_type() {
        use DType::{Bool, F32, I8, I64, U8};
        for values in [Values::Signed, Values::Small, Values::Positive, Values::Large, Values::Bits] {
            for words in [vec![], vec!["red".to_owned(), "green".to_owned()]] {
                let word = |i: usize| values.word(&words, 0, i / 13, i % 13);
                assert!(varies(&Tensor::texts(&[TRIED, 13], word).expect("a tensor")), "{values:?} {words:?}");
            }
            for (dtype, width) in [(F32, 1), (F32, 13), (F32, 26), (I64, 1), (I64, 13), (U8, 13), (I8, 13), (Bool, 1)] {
                let at = |i| values.at(dtype, 0, i / width, i % width);
                let tensor = Tensor::filled(dtype, &[TRIED, width], at).expect("a tensor");
                assert!(varies(&tensor), "{values:?} {dtype} {width}");
                let sums: Vec<f64> = (0..TRIED).map(|row| (row * width..(row + 1) * width).map(at).sum()).collect();
                assert!(sums.iter().any(|sum| *sum != sums[0]), "{values:?} {dtype} {width}: {sums:?}");
            }
        }
        let signed = |row| Values::Signed.at(F32, 0, row, 0);
        assert!((0..TRIED).any(|row| signed(row) < 0.0) && (0..TRIED).any(|row| signed(row) > 0.0));
        let equal = Tensor::filled(F32, &[3, 2], |i| if i % 2 == 0 { f64::NAN } else { 1.0 }).expect("a tensor");
        assert!(!varies(&equal));
    }
}
