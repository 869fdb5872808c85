//! Weights that the sessions of a model share.
//!
//! Each session would have a copy of them, and another one in the order that its kernels like: a model of 100 MB on 16 cores
//! would take gigabytes.

use std::sync::Arc;

use ort::session::builder::{PrepackedWeights, SessionBuilder};
use ort::value::{DynValue, Tensor};

use super::external::{self, is_external};
use super::onnx::{TensorProto, ValueInfo};
use super::tensor::{Column, DType};
use super::wire::{bytes_of, decode};
use super::{Artifact, External};
use crate::codec::oip::raw;

/// `ModelProto.graph`
const GRAPH: u32 = 7;
/// `GraphProto.initializer`
const INITIALIZER: u32 = 5;
/// `GraphProto.input`
const INPUT: u32 = 11;
/// Those that take fewer bytes are not worth it.
const LEAST: usize = 64 << 10;

/// A model's large weights, and those that ONNX Runtime has put in order.
pub struct Weights {
    given: Vec<(String, Arc<DynValue>)>,
    ordered: PrepackedWeights,
}

impl Weights {
    /// Those of a model that may be shared; the others remain each session's own.
    ///
    /// # Errors
    /// One sentence about a file that is no model.
    pub fn of(artifact: &Artifact) -> Result<Self, String> {
        let mut given = vec![];
        for graph in bytes_of(&artifact.onnx, GRAPH) {
            let graph = graph?;
            // What a request may set is no constant.
            let inputs: Vec<String> = bytes_of(graph, INPUT)
                .map(|input| input.and_then(decode::<ValueInfo>).map(|input| input.name))
                .collect::<Result<_, _>>()?;
            for tensor in bytes_of(graph, INITIALIZER) {
                let tensor: TensorProto = decode(tensor?)?;
                let is_large = external::size(&tensor).is_some_and(|size| size >= LEAST as u64);
                if is_large
                    && !inputs.contains(&tensor.name)
                    && let Some(value) = value(&tensor, &artifact.external)
                {
                    given.push((tensor.name, Arc::new(value)));
                }
            }
        }
        Ok(Self { given, ordered: PrepackedWeights::new() })
    }

    /// Gives them to a session to be.
    pub(super) fn share(&self, mut builder: SessionBuilder) -> ort::Result<SessionBuilder> {
        if self.given.is_empty() {
            return Ok(builder);
        }
        for (name, value) in &self.given {
            builder = builder.with_initializer(name, Arc::clone(value))?;
        }
        Ok(builder.with_prepacked_weights(&self.ordered)?)
    }
}

/// A tensor whose values are bytes, in the model or beside it; `None` for any other.
fn value(tensor: &TensorProto, files: &[External]) -> Option<DynValue> {
    let size = usize::try_from(external::size(tensor)?).ok()?;
    let bytes = if is_external(tensor) {
        let place = external::place(tensor).ok()?;
        let file = files.iter().find(|file| Some(file.path.as_str()) == place.location)?;
        let begin = usize::try_from(place.offset().unwrap_or(0)).ok()?;
        file.bytes.get(begin..begin.checked_add(size)?)?
    } else {
        tensor.raw_data.as_slice()
    };
    let dims = tensor.dims.clone();
    let count: i64 = dims.iter().product();
    macro_rules! values {
        ($values:expr) => {
            Tensor::from_array((dims, $values)).ok().map(Tensor::into_dyn)
        };
    }
    match raw::decode(dtype(tensor.data_type)?, usize::try_from(count).ok()?, bytes).ok()? {
        Column::F16(values) => values!(values),
        Column::BF16(values) => values!(values),
        Column::F32(values) => values!(values),
        Column::F64(values) => values!(values),
        Column::I8(values) => values!(values),
        Column::I32(values) => values!(values),
        Column::I64(values) => values!(values),
        Column::U8(values) => values!(values),
        _ => None,
    }
}

/// `TensorProto.DataType` of weights.
const fn dtype(number: i32) -> Option<DType> {
    Some(match number {
        1 => DType::F32,
        2 => DType::U8,
        3 => DType::I8,
        6 => DType::I32,
        7 => DType::I64,
        10 => DType::F16,
        11 => DType::F64,
        16 => DType::BF16,
        _ => return None,
    })
}
