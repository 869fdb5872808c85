//! Whether a row's answer depends on the rows beside it: only if it does not may requests share runs.

use std::time::{Duration, Instant};

use super::Infer;
use super::check::{Invariance, count, run, single};
use super::session::Session;
use super::signature::Rows;
use super::tensor::{DType, Tensor};
use super::trial::{Found, Trial};

/// Rows that are run alone.
pub(super) const ALONE: usize = 8;
/// How long it is looked whether rows depend on each other, once something is known of it.
const MEASURING: Duration = Duration::from_secs(5);

/// Whether rows are independent of one another, and if they are not, why that is thought; the author's word counts where
/// no run shows the opposite.
pub(super) fn independent(
    session: &mut Session,
    found: &Found,
    declared: Option<bool>,
) -> (Invariance, Option<String>) {
    if !matches!(found.signature.rows, Rows::Any | Rows::Fixed(2..)) || found.trial == Trial::Nothing {
        return (Invariance::No, None);
    }
    let depends = "a row's answer depends on the rows beside it";
    if declared == Some(false) {
        return (Invariance::No, Some(format!("its manifest says (golden.batch_invariant) that {depends}")));
    }
    // They all ran together: a row that fails alone, or in another order, depends on the others.
    let begin = Instant::now();
    let mut result = None;
    for rows in &found.telling {
        result = result.max(Some(measured(session, rows).unwrap_or(Invariance::No)));
        if result == Some(Invariance::No) || begin.elapsed() > MEASURING {
            break;
        }
    }
    match result {
        Some(Invariance::No) if declared == Some(true) => {
            (Invariance::No, Some(format!("{depends}, although its manifest says golden.batch_invariant")))
        }
        Some(Invariance::No) => (Invariance::No, Some(depends.into())),
        Some(invariance) => (invariance, None),
        None if declared == Some(true) => (Invariance::Close, None),
        None => {
            let why = "it was run on equal rows only, so that nobody knows whether a row's answer depends on the rows beside \
                       it (golden samples that differ show it, or golden.batch_invariant in its manifest says it)";
            (Invariance::No, Some(why.into()))
        }
    }
}

/// Compares rows in a batch with the same rows in the reversed batch, and some of them with the same row alone.
fn measured(session: &mut dyn Infer, rows: &[Tensor]) -> Result<Invariance, String> {
    let count = count(rows);
    let together = run(session, rows, count)?;
    let back = reversed(&run(session, &reversed(rows), count)?);
    let sizes: Vec<Vec<f64>> = together.iter().map(largest).collect();
    let compare = |o: usize, a: &Tensor, b: &Tensor| match (a.numbers(), b.numbers()) {
        _ if a == b => Invariance::Exact,
        (Some(x), Some(y)) if near(a.dtype(), &sizes[o], &x, &y) => Invariance::Close,
        _ => Invariance::No,
    };
    let mut result = Invariance::Exact;
    for (o, (a, b)) in together.iter().zip(&back).enumerate() {
        result = result.max(compare(o, a, b));
    }
    let some = count.min(ALONE);
    for row in (0..some).map(|i| i * count / some) {
        if result == Invariance::No {
            break;
        }
        for (o, alone) in run(session, &single(rows, row), 1)?.iter().enumerate() {
            result = result.max(compare(o, alone, &together[o].slice_rows(row..row + 1)));
        }
    }
    Ok(result)
}

/// The last row first.
fn reversed(tensors: &[Tensor]) -> Vec<Tensor> {
    let turned = |tensor: &Tensor| {
        let parts: Vec<_> = (0..tensor.rows().unwrap_or(0)).rev().map(|i| tensor.slice_rows(i..i + 1)).collect();
        Tensor::concat(parts.iter())
    };
    tensors.iter().filter_map(turned).collect()
}

/// The largest finite magnitude of each column: a score stands beside an amount of millions.
pub(super) fn largest(tensor: &Tensor) -> Vec<f64> {
    let columns = tensor.shape().get(1..).and_then(<[_]>::last).copied().unwrap_or(1).max(1);
    let mut most = vec![0.0; columns];
    for (i, number) in tensor.numbers().unwrap_or_default().into_iter().enumerate().filter(|(_, v)| v.is_finite()) {
        most[i % columns] = f64::max(most[i % columns], number.abs());
    }
    most
}

/// Whether numbers differ by what the order of additions makes of them, which is a share of the number and of the `largest`
/// of its column; whole numbers do not differ.
pub(super) fn near(dtype: DType, largest: &[f64], a: &[f64], b: &[f64]) -> bool {
    let (absolute, relative) = match dtype {
        DType::F16 => (2e-3, 2e-3),
        DType::BF16 => (1.6e-2, 1.6e-2),
        DType::F32 | DType::F64 => (1e-6, 1e-5),
        _ => return a == b,
    };
    let close = |((a, b), largest): ((&f64, &f64), &f64)| {
        (a.is_nan() && b.is_nan()) || a == b || (a - b).abs() <= absolute * largest + relative * a.abs()
    };
    a.len() == b.len() && a.iter().zip(b).zip(largest.iter().cycle()).all(close)
}

#[cfg(test)]
mod tests {
    use super::super::RunError;
    use super::*;

    #[test]
    fn small_numbers_are_compared_by_their_size() {
        let near = |a: &[f64], b: &[f64]| {
            let tensor = Tensor::filled(DType::F64, &[a.len()], |i| a[i]).expect("a tensor");
            near(DType::F32, &largest(&tensor), a, b)
        };
        assert!(!near(&[1e-8, 2e-8], &[3e-8, 2e-8]));
        assert!(near(&[1e-8, 2e-8], &[1.000_001e-8, 2e-8]));
        // What is left when large numbers cancel out.
        assert!(near(&[100.0, 1e-5], &[100.0, 2e-5]));
        assert!(near(&[f64::NAN, f64::INFINITY, 1.0], &[f64::NAN, f64::INFINITY, 1.0]));
        assert!(!near(&[0.0], &[1e-9]));
        let columns = Tensor::filled(DType::F64, &[2, 2], |i| [1e9, 0.1, 2e9, 0.2][i]).expect("a tensor");
        assert_eq!(largest(&columns), [2e9, 0.2]);
    }

    /// Gives back what it is given, and counts the runs.
    struct Echo(usize);

    impl Infer for Echo {
        fn run(&mut self, inputs: &[Tensor], _: Instant) -> Result<Vec<Tensor>, RunError> {
            self.0 += 1;
            Ok(inputs.to_vec())
        }
    }

    #[test]
    fn few_of_many_rows_are_run_alone() {
        let rows =
            vec![Tensor::filled(DType::F32, &[4096, 2], |i| f64::from(u16::try_from(i).unwrap_or(0))).expect("rows")];
        let mut echo = Echo(0);
        assert_eq!(measured(&mut echo, &rows), Ok(Invariance::Exact));
        assert_eq!(echo.0, 2 + ALONE);
    }
}
