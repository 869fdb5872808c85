//! Named JSON to tensors and back, as a model's signature says. Knows nothing of HTTP, queues or sessions.
//!
//! A request is one object of features, an array of them, or `{"instances": [..]}`; the answer has the same form.

pub mod decode;
pub mod encode;

use crate::model::tensor::Tensor;

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
pub struct Request {
    /// One tensor an input, in the signature's order, each with `rows` rows.
    pub inputs: Vec<Tensor>,
    /// How many rows there are; at least one.
    pub rows: usize,
    /// How they were wrapped.
    pub form: Form,
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
