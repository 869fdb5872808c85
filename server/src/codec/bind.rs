//! Named tensors, as tables and the protocols of tensors send them, to the inputs of a model.
//!
//! A name is that of an input, and then the tensor is the whole input, or that of a feature, and then it is one column of
//! the input that the feature belongs to.

use super::{DecodeError, refuse, same_sizes, unknown};
use crate::model::manifest::Feature;
use crate::model::signature::{Input, Rows, Signature, Slot};
use crate::model::tensor::{Column, DType, Tensor};
use crate::text::listed;

/// A tensor of a request.
#[derive(Debug)]
pub struct Given {
    /// An input or a feature.
    pub name: String,
    /// All dimensions as they were sent.
    pub shape: Vec<usize>,
    /// The elements, row-major.
    pub values: Column,
    /// Which elements are missing, in order.
    pub nulls: Vec<usize>,
}

/// The type in which values under a name are best read; `None` for a name that the model does not know.
#[must_use]
pub fn dtype(signature: &Signature, name: &str) -> Option<DType> {
    if let Some(input) = signature.inputs.iter().find(|i| i.name == name) {
        return Some(input.dtype);
    }
    let slot = signature.keys()[signature.find(name, 0)?].1;
    Some(signature.inputs[slot.input()].dtype)
}

/// One tensor an input, and how many rows they have.
///
/// # Errors
/// The first name that is unknown, given twice or missing, whose shape or type does not fit, or whose values the model's
/// policy refuses.
pub fn bind(signature: &Signature, given: Vec<Given>, max_rows: usize) -> Result<(Vec<Tensor>, usize), DecodeError> {
    let mut bound = Bound {
        signature,
        rows: None,
        inputs: signature.inputs.iter().map(|_| None).collect(),
        seen: signature.inputs.iter().map(|i| vec![false; i.features.len()]).collect(),
        whole: vec![false; signature.inputs.len()],
    };
    for tensor in given {
        let whole = signature.inputs.iter().position(|i| i.name == tensor.name);
        match (whole, signature.find(&tensor.name, 0).map(|key| signature.keys()[key].1)) {
            (_, Some(Slot::Feature { input, column })) => bound.feature(input, column, tensor, max_rows)?,
            (Some(input), _) => bound.input(input, tensor, max_rows)?,
            (None, _) => {
                let (field, message) = unknown(signature, &tensor.name);
                return Err(refuse(&field, message));
            }
        }
    }
    bound.finish()
}

struct Bound<'s> {
    signature: &'s Signature,
    rows: Option<usize>,
    /// Elements of each input and their internal shape.
    inputs: Vec<Option<(Column, Vec<usize>)>>,
    /// Which features of each input were given.
    seen: Vec<Vec<bool>>,
    /// Which inputs were given whole.
    whole: Vec<bool>,
}

impl Bound<'_> {
    fn count(&mut self, name: &str, rows: usize, max_rows: usize) -> Result<(), DecodeError> {
        match self.rows.replace(rows) {
            Some(others) if others != rows => {
                return Err(refuse(name, format!("{name} has {rows} rows, the tensors before it have {others}")));
            }
            _ if rows == 0 => return Err(refuse(name, format!("{name} has no rows: send at least one"))),
            _ if rows > max_rows => {
                let message = format!("there are more than {max_rows} rows: send them in several requests");
                return Err(refuse(name, message));
            }
            _ => {}
        }
        Ok(())
    }

    fn input(&mut self, at: usize, tensor: Given, max_rows: usize) -> Result<(), DecodeError> {
        let input = &self.signature.inputs[at];
        let Given { name, shape, mut values, nulls } = tensor;
        if self.inputs[at].is_some() {
            let twice = if self.whole[at] { "is given twice" } else { "is given whole and by its features" };
            return Err(refuse(&name, format!("{name} {twice}")));
        }
        if values.dtype() != input.dtype {
            return Err(refuse(&name, format!("{name} is {}, the model takes {}", values.dtype(), input.dtype)));
        }
        let whole = self.signature.rows == Rows::Whole;
        let shape = inner_shape(input, whole, &shape)
            .map_err(|takes| refuse(&name, format!("{name} has shape {shape:?}, the model takes {takes}")))?;
        if shape.iter().product::<usize>() != values.len() {
            let message = format!("{name} has {} elements, its shape {shape:?} takes others", values.len());
            return Err(refuse(&name, message));
        }
        self.count(&name, shape[0], max_rows)?;
        fill(input, &mut values, &nulls)?;
        self.seen[at].fill(true);
        self.whole[at] = true;
        self.inputs[at] = Some((values, shape));
        Ok(())
    }

    fn feature(&mut self, at: usize, column: usize, tensor: Given, max_rows: usize) -> Result<(), DecodeError> {
        let input = &self.signature.inputs[at];
        let (width, feature) = (input.features.len(), &input.features[column]);
        let Given { name, shape, values, nulls } = tensor;
        if self.seen[at][column] {
            let twice = if self.whole[at] { format!(", once in {}", input.name) } else { String::new() };
            return Err(refuse(&name, format!("{name} is given twice{twice}")));
        }
        let rows = shape.first().copied().unwrap_or(1);
        if shape.iter().skip(1).any(|d| *d != 1) || values.len() != rows {
            return Err(refuse(&name, format!("{name} has shape {shape:?}, a feature takes [rows] or [rows, 1]")));
        }
        self.count(&name, rows, max_rows)?;
        let (all, _) = self.inputs[at].get_or_insert_with(|| {
            let mut all = Column::new(input.dtype);
            all.grow(rows * width);
            (all, std::iter::once(rows).chain(input.row_shape.iter().flatten().copied()).collect())
        });
        for row in 0..rows {
            let at = row * width + column;
            // A NaN stands for a missing value.
            match values.get(row).filter(|value| !value.is_nan() && nulls.binary_search(&row).is_err()) {
                None => missing(feature, all, at, row)?,
                Some(value) => {
                    let put = all.set(at, value);
                    put.map_err(|reason| refuse(&name, format!("{name} {reason} (row {row})")))?;
                }
            }
        }
        self.seen[at][column] = true;
        Ok(())
    }

    fn finish(mut self) -> Result<(Vec<Tensor>, usize), DecodeError> {
        let rows = self.rows.unwrap_or(1);
        for (at, input) in self.signature.inputs.iter().enumerate() {
            let absent: Vec<&str> = if input.features.is_empty() {
                if self.inputs[at].is_none() { vec![input.name.as_str()] } else { vec![] }
            } else {
                self.absent(at, rows)
            };
            if let Some(first) = absent.first() {
                let (verb, them) = if absent.len() == 1 { ("is", "it") } else { ("are", "them") };
                return Err(refuse(
                    first,
                    format!("{} {verb} missing: the model requires {them}", listed(absent.iter().copied())),
                ));
            }
        }
        let tensors = self.inputs.into_iter().zip(&self.signature.inputs).map(|(given, input)| {
            given
                .and_then(|(values, shape)| values.into_tensor(&shape))
                .ok_or_else(|| refuse(&input.name, format!("{} is missing: the model requires it", input.name)))
        });
        let tensors: Vec<Tensor> = tensors.collect::<Result<_, _>>()?;
        same_sizes(self.signature, &tensors)?;
        Ok((tensors, rows))
    }

    /// Puts what stands for missing features in their place, and names those for which nothing does.
    fn absent(&mut self, at: usize, rows: usize) -> Vec<&str> {
        let input = &self.signature.inputs[at];
        let width = input.features.len();
        let mut absent = vec![];
        for (column, feature) in input.features.iter().enumerate().filter(|(column, _)| !self.seen[at][*column]) {
            let Some((all, _)) = &mut self.inputs[at] else {
                absent.push(feature.name.as_str());
                continue;
            };
            if (0..rows).any(|row| missing(feature, all, row * width + column, row).is_err()) {
                absent.push(feature.name.as_str());
            }
        }
        absent
    }
}

/// The shape by which an input's elements are kept, rows first, of the shape in which they were sent. The error is the shape
/// that the model takes, such as `[rows, 5]`.
fn inner_shape(input: &Input, whole: bool, sent: &[usize]) -> Result<Vec<usize>, String> {
    let row_shape = input.row_shape.as_slice();
    let fits = |row: &[usize]| {
        row.len() == row_shape.len() && row.iter().zip(row_shape).all(|(size, dim)| dim.is_none_or(|dim| dim == *size))
    };
    match sent.split_first() {
        _ if whole && fits(sent) => Ok(std::iter::once(1).chain(sent.iter().copied()).collect()),
        Some((_, row)) if !whole && fits(row) => Ok(sent.to_vec()),
        // A column of a table, for an input of shape [rows, 1].
        Some((rows, [])) if !whole && row_shape.iter().all(|dim| *dim == Some(1)) => {
            Ok(std::iter::once(*rows).chain(row_shape.iter().map(|_| 1)).collect())
        }
        _ => {
            let rows = (!whole).then(|| "rows".to_owned());
            let dims = row_shape.iter().map(|dim| dim.map_or("any".to_owned(), |dim| dim.to_string()));
            Err(format!("[{}]", rows.into_iter().chain(dims).collect::<Vec<_>>().join(", ")))
        }
    }
}

/// Applies the features' policies to what is missing or not finite in a whole input. An input without features takes
/// whatever its type holds, but no `null`.
fn fill(input: &Input, values: &mut Column, nulls: &[usize]) -> Result<(), DecodeError> {
    let width = input.features.len();
    if width == 0 {
        return match nulls.first() {
            Some(at) => Err(refuse(&input.name, format!("{} holds null, at element {at}", input.name))),
            None => Ok(()),
        };
    }
    for at in nulls {
        missing(&input.features[at % width], values, *at, at / width)?;
    }
    // Where a NaN stands for itself, it stays.
    let kept: Vec<bool> = input.features.iter().map(|f| f.stand_in().is_some_and(f64::is_nan)).collect();
    let mut row = 0;
    while let Some(at) = values.next_unfit(row, &kept) {
        let feature = &input.features[at % width];
        if !values.get(at).is_some_and(|value| value.is_nan()) {
            let message = format!("{} is infinite in row {}: send a finite number", feature.name, at / width);
            return Err(refuse(&feature.name, message));
        }
        // What stands there then fits.
        missing(feature, values, at, at / width)?;
        row = at / width;
    }
    Ok(())
}

/// Puts what stands for a missing value of a feature in its place.
fn missing(feature: &Feature, values: &mut Column, at: usize, row: usize) -> Result<(), DecodeError> {
    let name = &feature.name;
    let Some(value) = feature.stand_in() else {
        return Err(refuse(name, format!("{name} is missing in row {row}: the model requires it")));
    };
    values.set_default(at, value).map_err(|reason| refuse(name, format!("{name} is missing, and its default {reason}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::signature::{GraphIo, Port};

    #[test]
    fn what_is_given_twice_is_told_apart() {
        let x = Port { name: "x".into(), tensor: Ok((DType::F32, vec![-1, 2])) };
        let mut graph = GraphIo { inputs: vec![x.clone()], outputs: vec![x], ..GraphIo::default() };
        graph.metadata.insert("onnxd.features".into(), "a,b".into());
        let signature = Signature::new(&graph, None).expect("a signature");
        let given = |name: &str| {
            let shape = if name == "x" { vec![1, 2] } else { vec![1] };
            let values = Column::F32(vec![1.0; shape.iter().product()]);
            Given { name: name.into(), shape, values, nulls: vec![] }
        };
        let refused = |names: [&str; 2]| bind(&signature, names.map(given).into(), 9).expect_err("refused").to_string();
        assert_eq!(refused(["x", "x"]), "x is given twice");
        assert_eq!(refused(["a", "x"]), "x is given whole and by its features");
        assert_eq!(refused(["x", "a"]), "a is given twice, once in x");
        assert_eq!(refused(["a", "a"]), "a is given twice");
    }
}
