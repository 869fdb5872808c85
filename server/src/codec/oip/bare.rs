//! A REST request without any JSON: its body is the only input of a model.

use super::read::HEADER;
use super::{Infer, raw};
use crate::codec::DecodeError;
use crate::codec::bind::Given;
use crate::codec::refuse;
use crate::model::signature::{Rows, Signature};
use crate::model::tensor::Column;

/// Reads a request that is nothing but the bytes of the model's only input.
///
/// # Errors
/// Why this model does not take such a request, or what is wrong with the bytes.
pub fn request(signature: &Signature, body: &[u8]) -> Result<Infer, DecodeError> {
    let [input] = signature.inputs.as_slice() else {
        let count = signature.inputs.len();
        let message = format!("{HEADER} is 0: that takes a model of one input, this one has {count}");
        return Err(refuse(HEADER, message));
    };
    let name = input.name.as_str();
    let whole = signature.rows == Rows::Whole;
    let fixed = input.row_shape.iter().flatten().try_fold(1_usize, |all, size| all.checked_mul(*size));
    let free = input.row_shape.iter().filter(|size| size.is_none()).count();
    let row = |free: usize| input.row_shape.iter().map(move |size| size.unwrap_or(free));
    let cannot = |why: &str| Err(refuse(name, format!("{HEADER} is 0: the shape of {name} cannot be told, {why}")));
    let given = |rows: usize, free: usize, values: Column| Given {
        name: name.into(),
        shape: (!whole).then_some(rows).into_iter().chain(row(free)).collect(),
        values,
        nulls: vec![],
    };
    let Some(width) = raw::width(input.dtype) else {
        if free > 0 || fixed != Some(1) {
            return cannot("a row of it has more than one string");
        }
        let text = raw::text_of(0, body).map_err(|reason| refuse(name, format!("{name} {reason}")))?;
        return Ok(alone(given(1, 1, Column::Text(vec![text.to_owned()]))));
    };
    let Some(fixed) = fixed.filter(|fixed| *fixed > 0) else { return cannot("a row of it has no elements") };
    let elements = body.len() / width;
    let (rows, size) = match (free, whole) {
        (0, true) => (1, 1),
        (0, false) => (elements / fixed, 1),
        (1, _) => (1, elements / fixed),
        _ => return cannot("it has several free dimensions"),
    };
    let count = rows * size * fixed;
    let values = raw::decode(input.dtype, count, body).map_err(|reason| refuse(name, format!("{name} {reason}")))?;
    Ok(alone(given(rows, size, values)))
}

fn alone(given: Given) -> Infer {
    Infer { inputs: vec![given], binary_output: true, ..Infer::default() }
}
