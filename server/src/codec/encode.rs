//! Rows of output tensors to JSON. A number that is not finite becomes `null`: JSON has no other way to say it.

use half::{bf16, f16};
use serde_json::{Map, Value};

use super::Form;
use crate::model::Answer;
use crate::model::signature::{Input, Output, Rows, Signature, Slot};
use crate::model::tensor::{Tensor, rows_of};

/// How probabilities of labelled classes are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Classes {
    /// One array a row, in the order of the labels.
    #[default]
    Array,
    /// One object a row, by label.
    Map,
}

/// What it takes to encode an answer: its elements, and the bytes of its text.
#[must_use]
pub fn weight(answer: &Answer) -> usize {
    let tensor = |tensor: &Tensor| match tensor {
        Tensor::Text(a) => rows_of(a, answer.rows.clone()).iter().map(|text| 1 + text.len()).sum(),
        tensor => answer.rows.len() * tensor.shape().iter().skip(1).product::<usize>(),
    };
    answer.outputs.iter().map(tensor).sum()
}

/// The answer to a request, in the request's own form. `parts` are its rows, in order.
#[must_use]
pub fn answer(signature: &Signature, parts: &[Answer], form: Form, classes: Classes) -> Vec<u8> {
    let rows: usize = parts.iter().map(|p| p.rows.len()).sum();
    let mut json = Vec::with_capacity(24 + rows * signature.outputs.len() * 28);
    if form == Form::One {
        if let Some(part) = parts.first() {
            line(&mut json, &columns(signature, &part.outputs), part.rows.start, classes);
        }
        return json;
    }
    if form == Form::Instances {
        json.extend_from_slice(b"{\"predictions\":");
    }
    json.push(b'[');
    let mut first = true;
    for part in parts {
        let columns = columns(signature, &part.outputs);
        for i in part.rows.clone() {
            if !std::mem::take(&mut first) {
                json.push(b',');
            }
            line(&mut json, &columns, i, classes);
        }
    }
    json.push(b']');
    if form == Form::Instances {
        json.push(b'}');
    }
    json
}

/// One row as an object of named outputs.
pub fn row(json: &mut Vec<u8>, signature: &Signature, outputs: &[Tensor], row: usize, classes: Classes) {
    line(json, &columns(signature, outputs), row, classes);
}

/// An output as its rows are written.
struct Column<'a> {
    output: &'a Output,
    tensor: &'a Tensor,
    brackets: bool,
    bare: Bare<'a>,
}

/// The elements of an output that has one a row, if its type is one of those that nearly all outputs have: to find a row's
/// place in a tensor of any shape takes longer than to write it.
enum Bare<'a> {
    F32(&'a [f32]),
    F64(&'a [f64]),
    I64(&'a [i64]),
    Bool(&'a [bool]),
    No,
}

impl<'a> Bare<'a> {
    fn of(tensor: &'a Tensor) -> Self {
        if tensor.shape().len() > 2 || tensor.shape().get(1).is_some_and(|size| *size != 1) {
            return Self::No;
        }
        let bare = match tensor {
            Tensor::F32(a) => a.as_slice().map(Self::F32),
            Tensor::F64(a) => a.as_slice().map(Self::F64),
            Tensor::I64(a) => a.as_slice().map(Self::I64),
            Tensor::Bool(a) => a.as_slice().map(Self::Bool),
            _ => None,
        };
        bare.unwrap_or(Self::No)
    }

    /// Writes a row, if there is one.
    fn write(&self, json: &mut Vec<u8>, row: usize) -> Option<()> {
        match self {
            Self::F32(values) => float(json, *values.get(row)?),
            Self::F64(values) => float(json, *values.get(row)?),
            Self::I64(values) => json.extend_from_slice(itoa::Buffer::new().format(*values.get(row)?).as_bytes()),
            Self::Bool(values) => json.extend_from_slice(boolean(*values.get(row)?)),
            Self::No => return None,
        }
        Some(())
    }
}

fn columns<'a>(signature: &'a Signature, outputs: &'a [Tensor]) -> Vec<Column<'a>> {
    let brackets = signature.rows == Rows::Whole;
    let column = |(output, tensor)| {
        let bare = if brackets { Bare::No } else { Bare::of(tensor) };
        Column { output, tensor, brackets, bare }
    };
    signature.outputs.iter().zip(outputs).map(column).collect()
}

fn line(json: &mut Vec<u8>, columns: &[Column<'_>], row: usize, classes: Classes) {
    json.push(b'{');
    for (i, column) in columns.iter().enumerate() {
        if i > 0 {
            json.push(b',');
        }
        json.extend_from_slice(column.output.key.as_bytes());
        let as_map = column.output.labels.is_some() && classes == Classes::Map;
        if as_map || column.bare.write(json, row).is_none() {
            one(json, column.output, column.tensor, row, column.brackets, classes);
        }
    }
    json.push(b'}');
}

fn float<F: zmij::Float + Into<f64> + Copy>(json: &mut Vec<u8>, value: F) {
    if value.into().is_finite() {
        json.extend_from_slice(zmij::Buffer::new().format_finite(value).as_bytes());
    } else {
        json.extend_from_slice(b"null");
    }
}

const fn boolean(value: bool) -> &'static [u8] {
    if value { b"true" } else { b"false" }
}

/// One output of one row. With `brackets`, a row of one element is an array unless the shape is that of a scalar.
pub(super) fn one(json: &mut Vec<u8>, output: &Output, tensor: &Tensor, row: usize, brackets: bool, classes: Classes) {
    match &output.labels {
        Some(labels) if classes == Classes::Map => {
            let values = bracketed(tensor, row, true);
            let values = values.as_array().map_or(&[][..], Vec::as_slice);
            let map: Map<String, Value> = labels.iter().cloned().zip(values.iter().cloned()).collect();
            serde_json::to_writer(json, &map).expect("a map can always be written to memory");
        }
        _ => write(json, tensor, row, brackets),
    }
}

/// One output of one row, as answers show it.
#[must_use]
pub fn output(signature: &Signature, tensor: &Tensor, row: usize) -> Value {
    bracketed(tensor, row, signature.rows == Rows::Whole)
}

/// A row of a tensor: a bare value when it has one element.
#[must_use]
pub fn value(tensor: &Tensor, row: usize) -> Value {
    bracketed(tensor, row, false)
}

/// A row of a tensor, with all of its brackets if that is asked for.
#[must_use]
pub fn bracketed(tensor: &Tensor, row: usize, all: bool) -> Value {
    let mut json = vec![];
    write(&mut json, tensor, row, all);
    serde_json::from_slice(&json).unwrap_or_default()
}

/// A row of inputs as a request would send it.
#[must_use]
pub fn request(signature: &Signature, row: &[Tensor]) -> Map<String, Value> {
    let value = |(input, tensor): (&Input, &Tensor)| {
        // Where a row may have any size, it is an array at the size of 1 too.
        let free = signature.rows == Rows::Whole || input.row_shape.contains(&None);
        bracketed(tensor, 0, free)
    };
    let values: Vec<Value> = signature.inputs.iter().zip(row).map(value).collect();
    let columns: Vec<Vec<&Value>> = values.iter().map(flat).collect();
    let value = |slot: &Slot| match *slot {
        Slot::Row { input } => values.get(input).cloned(),
        Slot::Feature { input, column } => columns.get(input).and_then(|c| c.get(column)).map(|v| (*v).clone()),
    };
    signature.keys().iter().map(|(key, slot)| (key.to_string(), value(slot).unwrap_or_default())).collect()
}

fn flat(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(values) => values.iter().flat_map(flat).collect(),
        other => vec![other],
    }
}

/// Writes a row of a tensor: a bare value when the row has one element, else nested arrays. With `brackets` they are there
/// for one element too: a tensor in its full shape has all of them, however many elements it has this time.
fn write(json: &mut Vec<u8>, tensor: &Tensor, row: usize, brackets: bool) {
    macro_rules! rows {
        ($array:expr, $one:expr) => {{
            let dims = &$array.shape()[1..];
            match rows_of($array, row..row + 1) {
                [one] if dims.len() <= 1 && !brackets => $one(json, one),
                values => nested(json, dims, values, &$one),
            }
        }};
    }
    macro_rules! float {
        () => {
            float!(|v: &_| *v)
        };
        ($wider:expr) => {
            |json: &mut Vec<u8>, v: &_| float(json, $wider(v))
        };
    }
    macro_rules! int {
        () => {
            |json: &mut Vec<u8>, v: &_| json.extend_from_slice(itoa::Buffer::new().format(*v).as_bytes())
        };
    }
    match tensor {
        Tensor::F16(a) => rows!(a, float!(|v: &f16| v.to_f32())),
        Tensor::BF16(a) => rows!(a, float!(|v: &bf16| v.to_f32())),
        Tensor::F32(a) => rows!(a, float!()),
        Tensor::F64(a) => rows!(a, float!()),
        Tensor::I8(a) => rows!(a, int!()),
        Tensor::I16(a) => rows!(a, int!()),
        Tensor::I32(a) => rows!(a, int!()),
        Tensor::I64(a) => rows!(a, int!()),
        Tensor::U8(a) => rows!(a, int!()),
        Tensor::U16(a) => rows!(a, int!()),
        Tensor::U32(a) => rows!(a, int!()),
        Tensor::U64(a) => rows!(a, int!()),
        Tensor::Bool(a) => {
            rows!(a, |json: &mut Vec<u8>, v: &bool| json.extend_from_slice(boolean(*v)));
        }
        Tensor::Text(a) => rows!(a, |json: &mut Vec<u8>, v: &String| {
            serde_json::to_writer(json, v).expect("a string can always be written to memory");
        }),
    }
}

fn nested<T>(json: &mut Vec<u8>, dims: &[usize], values: &[T], one: &impl Fn(&mut Vec<u8>, &T)) {
    let Some((size, inner)) = dims.split_first() else {
        if let Some(value) = values.first() {
            one(json, value);
        }
        return;
    };
    json.push(b'[');
    let step = if *size == 0 { 0 } else { values.len() / size };
    for i in 0..*size {
        if i > 0 {
            json.push(b',');
        }
        nested(json, inner, &values[i * step..(i + 1) * step], one);
    }
    json.push(b']');
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ndarray::ArrayD;

    use super::*;

    #[test]
    fn an_answer_weighs_its_elements_and_the_bytes_of_its_text() {
        let numbers = Tensor::from(ArrayD::from_elem(vec![4, 3, 100], 0.5_f32));
        let text = Tensor::from(ArrayD::from_elem(vec![4], "a".repeat(999)));
        let outputs: Arc<[Tensor]> = Arc::new([numbers, text]);
        assert_eq!(weight(&Answer { outputs: Arc::clone(&outputs), rows: 1..3 }), 2 * (300 + 1000));
        assert_eq!(weight(&Answer { outputs, rows: 0..0 }), 0);
    }
}
