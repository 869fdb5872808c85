//! JSON and CSV to tensors and back, as a model's signature says. Knows nothing of HTTP, queues or sessions.
//!
//! Named JSON is one object of features, an array of them, or `{"instances": [..]}`; the answer has the same form. The
//! bodies of other servers are in `envelope`.

/// Refuses every kind of scalar where none is taken: `$fail` makes the error of `self` and the kind's name.
macro_rules! no_scalars {
    ($value:ty, $fail:expr) => {
        fn visit_bool<E: Error>(self, _: bool) -> Result<$value, E> {
            Err($fail(self, "a boolean"))
        }
        fn visit_i64<E: Error>(self, _: i64) -> Result<$value, E> {
            Err($fail(self, "a number"))
        }
        fn visit_u64<E: Error>(self, _: u64) -> Result<$value, E> {
            Err($fail(self, "a number"))
        }
        fn visit_f64<E: Error>(self, _: f64) -> Result<$value, E> {
            Err($fail(self, "a number"))
        }
        fn visit_str<E: Error>(self, _: &str) -> Result<$value, E> {
            Err($fail(self, "a string"))
        }
        fn visit_unit<E: Error>(self) -> Result<$value, E> {
            Err($fail(self, "null"))
        }
    };
}

pub mod bind;
pub mod columns;
pub mod csv;
pub mod decode;
pub mod encode;
pub mod envelope;
pub mod marks;
pub mod nested;
pub mod oip;
mod table;

use std::time::Duration;

use crate::model::signature::Signature;
use crate::model::tensor::Tensor;
use crate::text::{listed, shown};

/// How a request's rows were wrapped, so that the answer is wrapped the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `{..}`: one row.
    One,
    /// `[{..}, ..]`
    Many,
    /// `{"instances": [{..}, ..]}`, answered by `{"predictions": [..]}`.
    Instances,
}

/// A decoded request.
#[derive(Debug)]
pub struct Request<F = Form> {
    /// One tensor an input, in the signature's order, each with `rows` rows.
    pub inputs: Vec<Tensor>,
    /// How many rows there are; at least one.
    pub rows: usize,
    /// What the answer's form depends on, such as how the rows were wrapped.
    pub form: F,
    /// What it asks for beside its answer.
    pub wishes: Wishes,
    /// What each row says of itself; empty when none says anything.
    pub marks: Vec<marks::Mark>,
}

/// What a request's body or head may ask for beside its answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// How long the answer is of use, from the request's arrival.
    pub timeout: Option<Duration>,
    /// 0 as they come, 1 before all others, more after them: the Open Inference Protocol's numbers.
    pub priority: u64,
}

/// Why a body could not be decoded.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It is not JSON.
    #[error("the body is not JSON: {0}")]
    Syntax(String),
    /// It is JSON, but not what the model takes.
    #[error("{message}")]
    Features {
        /// Where: `cpu_zscore`, `[3].cpu_zscore`, `instances[3].cpu_zscore`; empty for the body itself.
        field: String,
        /// One sentence that names the field.
        message: String,
    },
}

/// An error that names a feature, a tensor or another part of the request.
pub(crate) fn refuse(field: &str, message: String) -> DecodeError {
    DecodeError::Features { field: field.into(), message }
}

/// Checks that dimensions of one name have one size, which the graph relies on: a run would fail, or worse.
fn same_sizes(signature: &Signature, tensors: &[Tensor]) -> Result<(), DecodeError> {
    let mut seen: Vec<(&str, &str, usize)> = vec![];
    for (input, tensor) in signature.inputs.iter().zip(tensors) {
        for (dim, size) in input.dims.iter().zip(&tensor.shape()[1..]).filter(|(dim, _)| !dim.is_empty()) {
            match seen.iter().find(|(name, ..)| name == dim) {
                Some((_, first, other)) if other != size => {
                    let name = &input.name;
                    let message =
                        format!("{name} has size {size} in dimension {dim:?}, {first} has {other}: make them equal");
                    return Err(refuse(name, message));
                }
                Some(_) => {}
                None => seen.push((dim, &input.name, *size)),
            }
        }
    }
    Ok(())
}

/// A name that the model does not take, cut short, and a sentence that says so and what it was most likely meant to be.
fn unknown(signature: &Signature, name: &str) -> (String, String) {
    let shown = shown(name);
    let names = signature.keys().iter().map(|(key, _)| &**key);
    let alike = |name: &str| strsim::jaro_winkler(name, &shown);
    let nearest = names.clone().max_by(|a, b| alike(a).total_cmp(&alike(b)));
    let hint = match nearest {
        Some(name) if alike(name) > 0.75 => format!(": did you mean {name}?"),
        _ => format!(": the model takes {}", listed(names)),
    };
    let message = format!("{shown:?} is not a feature of this model{hint}");
    (shown, message)
}
