//! Rows of output tensors to JSON. A number that is not finite becomes `null`: JSON has no other way to say it.

use serde_json::Value;

use super::Form;
use crate::model::Answer;
use crate::model::signature::Signature;
use crate::model::tensor::Tensor;

/// The answer to a request, in the request's own form. `parts` are its rows, in order.
#[must_use]
pub fn answer(signature: &Signature, parts: &[Answer], form: Form) -> Vec<u8> {
    let rows: usize = parts.iter().map(|p| p.rows.len()).sum();
    let mut json = Vec::with_capacity(24 + rows * signature.outputs.len() * 28);
    if form == Form::One {
        if let Some(part) = parts.first() {
            row(&mut json, signature, &part.outputs, part.rows.start);
        }
        return json;
    }
    if form == Form::Instances {
        json.extend_from_slice(b"{\"predictions\":");
    }
    json.push(b'[');
    let mut first = true;
    for part in parts {
        for i in part.rows.clone() {
            if !std::mem::take(&mut first) {
                json.push(b',');
            }
            row(&mut json, signature, &part.outputs, i);
        }
    }
    json.push(b']');
    if form == Form::Instances {
        json.push(b'}');
    }
    json
}

/// One row as an object of named outputs.
pub fn row(json: &mut Vec<u8>, signature: &Signature, outputs: &[Tensor], row: usize) {
    json.push(b'{');
    for (i, (output, tensor)) in signature.outputs.iter().zip(outputs).enumerate() {
        if i > 0 {
            json.push(b',');
        }
        json.extend_from_slice(output.key.as_bytes());
        write(json, tensor, row);
    }
    json.push(b'}');
}

/// One output of one row, as answers show it.
#[must_use]
pub fn value(tensor: &Tensor, row: usize) -> Value {
    let mut json = vec![];
    write(&mut json, tensor, row);
    serde_json::from_slice(&json).unwrap_or_default()
}

/// Writes a row of a tensor: a bare value when the row has one element, else nested arrays.
fn write(json: &mut Vec<u8>, tensor: &Tensor, row: usize) {
    macro_rules! rows {
        ($array:expr, $one:expr) => {{
            let dims = &$array.shape()[1..];
            let size: usize = dims.iter().product();
            let values = $array.as_slice().unwrap_or_default();
            let values = values.get(row * size..(row + 1) * size).unwrap_or_default();
            match values {
                [one] if dims.len() <= 1 => $one(json, one),
                _ => nested(json, dims, values, &$one),
            }
        }};
    }
    macro_rules! float {
        () => {
            |json: &mut Vec<u8>, v: &_| {
                if f64::from(*v).is_finite() {
                    json.extend_from_slice(zmij::Buffer::new().format_finite(*v).as_bytes());
                } else {
                    json.extend_from_slice(b"null");
                }
            }
        };
    }
    macro_rules! int {
        () => {
            |json: &mut Vec<u8>, v: &_| json.extend_from_slice(itoa::Buffer::new().format(*v).as_bytes())
        };
    }
    match tensor {
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
            rows!(a, |json: &mut Vec<u8>, v: &bool| json.extend_from_slice(if *v { b"true" } else { b"false" }));
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
