//! The Open Inference Protocol v2 without a transport: what its REST and its gRPC form share.
//!
//! A request's tensors are named after inputs of the graph, or after features, and then each is a column of the input that
//! the feature belongs to. Its outputs are all of the model's unless it names some.

pub mod bare;
pub mod raw;
pub mod read;
pub mod reply;
pub mod write;

use std::time::Duration;

use super::bind::{self, Given};
use super::{DecodeError, Request, Wishes, refuse};
use crate::model::signature::{Signature, Slot};
use crate::model::tensor::DType;
use crate::text;

/// A request as it was sent, before it meets a model.
#[derive(Debug, Default)]
pub struct Infer {
    /// Sent back as it is; empty for none.
    pub id: String,
    /// The tensors, in the order in which they were sent.
    pub inputs: Vec<Given>,
    /// The outputs that are wanted; none for all of them.
    pub outputs: Vec<Wanted>,
    /// Whether outputs are raw bytes unless they say otherwise.
    pub binary_output: bool,
    /// What it asks for beside its answer.
    pub wishes: Wishes,
}

/// An output that is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The output's name.
    pub name: String,
    /// Whether it is wanted as raw bytes; as the request says when `None`.
    pub binary: Option<bool>,
    /// How many of the highest values are wanted, as text, in the place of all; 0 for all.
    pub classes: usize,
}

/// What the answer's form depends on.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Form {
    /// The request's own.
    pub id: String,
    /// The outputs, in the order in which the answer lists them.
    pub outputs: Vec<Chosen>,
}

/// A wanted output that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Index into [`Signature::outputs`].
    pub output: usize,
    /// Whether it is raw bytes.
    pub binary: bool,
    /// How many classes, 0 for the tensor itself.
    pub classes: usize,
}

/// The value of a parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Parameter<'a> {
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A whole number above those of [`Parameter::Int`].
    Uint(u64),
    /// Another number.
    Float(f64),
    /// Text.
    Text(&'a str),
    /// Something else, in words.
    Other(&'a str),
}

impl Parameter<'_> {
    fn whole(self) -> Option<u64> {
        match self {
            Self::Int(v) => u64::try_from(v).ok(),
            Self::Uint(v) => Some(v),
            _ => None,
        }
    }

    const fn flag(self) -> Option<bool> {
        match self {
            Self::Bool(v) => Some(v),
            _ => None,
        }
    }
}

/// The protocol's name of a type.
#[must_use]
pub const fn datatype(dtype: DType) -> &'static str {
    match dtype {
        DType::Bool => "BOOL",
        DType::U8 => "UINT8",
        DType::U16 => "UINT16",
        DType::U32 => "UINT32",
        DType::U64 => "UINT64",
        DType::I8 => "INT8",
        DType::I16 => "INT16",
        DType::I32 => "INT32",
        DType::I64 => "INT64",
        DType::F16 => "FP16",
        DType::BF16 => "BF16",
        DType::F32 => "FP32",
        DType::F64 => "FP64",
        DType::Text => "BYTES",
    }
}

/// The type of a name; `None` when the protocol has no such name.
#[must_use]
pub fn dtype(datatype: &str) -> Option<DType> {
    Some(match datatype {
        "BOOL" => DType::Bool,
        "UINT8" => DType::U8,
        "UINT16" => DType::U16,
        "UINT32" => DType::U32,
        "UINT64" => DType::U64,
        "INT8" => DType::I8,
        "INT16" => DType::I16,
        "INT32" => DType::I32,
        "INT64" => DType::I64,
        "FP16" => DType::F16,
        "BF16" => DType::BF16,
        "FP32" => DType::F32,
        "FP64" => DType::F64,
        "BYTES" => DType::Text,
        _ => return None,
    })
}

/// The type of a tensor's datatype.
///
/// # Errors
/// The names that there are.
pub fn dtype_of(tensor: &str, datatype: &str) -> Result<DType, DecodeError> {
    dtype(datatype).ok_or_else(|| {
        let shown = text::shown(datatype);
        let message = format!(
            "{tensor} has datatype {shown:?}: send one of BOOL, UINT8, UINT16, UINT32, UINT64, INT8, INT16, INT32, INT64, FP16, \
             BF16, FP32, FP64 and BYTES"
        );
        refuse(tensor, message)
    })
}

/// The sizes of a tensor's shape, and how many elements it has.
///
/// # Errors
/// A size below 0, or more elements than can be counted.
pub fn shape_of(tensor: &str, shape: &[i64]) -> Result<(Vec<usize>, usize), DecodeError> {
    let sizes = shape.iter().map(|size| usize::try_from(*size).ok()).collect::<Option<Vec<_>>>();
    let sizes =
        sizes.ok_or_else(|| refuse(tensor, format!("{tensor} has shape {}: a size is 0 or more", shown(shape))))?;
    // A zero must not hide that the others overflow: whoever counts the rest of the dimensions would.
    let bounded = sizes.iter().filter(|size| **size > 0).try_fold(1_usize, |all, size| all.checked_mul(*size));
    // Memory ends long before an isize does.
    let bounded = bounded.filter(|count| isize::try_from(*count).is_ok());
    let Some(bounded) = bounded else {
        return Err(refuse(tensor, format!("{tensor} has shape {}: these are too many elements", shown(shape))));
    };
    let count = if sizes.contains(&0) { 0 } else { bounded };
    Ok((sizes, count))
}

fn shown(shape: &[i64]) -> String {
    if shape.len() <= 16 { format!("{shape:?}") } else { format!("of {} dimensions", shape.len()) }
}

impl Infer {
    /// Takes a parameter of the request. Those that the protocol does not reserve are ignored.
    ///
    /// # Errors
    /// One that has another type than it should, or asks for what is not offered.
    pub fn parameter(&mut self, name: &str, value: Parameter<'_>) -> Result<(), DecodeError> {
        let field = || format!("parameters.{name}");
        let whole = || {
            let message = format!("{} is {}: send a whole number, 0 or more", field(), told(value));
            value.whole().ok_or_else(|| refuse(&field(), message))
        };
        match name {
            "priority" => self.wishes.priority = whole()?,
            // Triton takes 0 for no timeout of the request's own.
            "timeout" => self.wishes.timeout = Some(whole()?).filter(|us| *us > 0).map(Duration::from_micros),
            "binary_data_output" => self.binary_output = flag(&field(), value)?,
            "sequence_id" if !matches!(value, Parameter::Int(0) | Parameter::Uint(0) | Parameter::Text("")) => {
                let message = format!("{}: sequences are not offered, models here keep no state", field());
                return Err(refuse(&field(), message));
            }
            _ => {}
        }
        Ok(())
    }
}

impl Wanted {
    /// Takes a parameter of the output. Those that the protocol does not reserve are ignored.
    ///
    /// # Errors
    /// As [`Infer::parameter`].
    pub fn parameter(&mut self, name: &str, value: Parameter<'_>) -> Result<(), DecodeError> {
        let field = if self.name.is_empty() { "an output" } else { self.name.as_str() };
        match name {
            "binary_data" => self.binary = Some(flag(&format!("{field}: binary_data"), value)?),
            "classification" => {
                let classes = value.whole().and_then(|classes| usize::try_from(classes).ok());
                self.classes = classes.ok_or_else(|| {
                    let message = format!("{field}: classification is {}: send how many classes", told(value));
                    refuse(field, message)
                })?;
            }
            _ => no_shared_memory(field, name)?,
        }
        Ok(())
    }
}

/// Refuses the parameters by which tensors lie in shared memory.
///
/// # Errors
/// When it is one of them.
pub fn no_shared_memory(tensor: &str, parameter: &str) -> Result<(), DecodeError> {
    if parameter.starts_with("shared_memory_") {
        let message = format!("{tensor} is in shared memory, which is not offered: send its data");
        return Err(refuse(tensor, message));
    }
    Ok(())
}

fn flag(field: &str, value: Parameter<'_>) -> Result<bool, DecodeError> {
    value.flag().ok_or_else(|| refuse(field, format!("{field} is {}: send true or false", told(value))))
}

fn told(value: Parameter<'_>) -> String {
    match value {
        Parameter::Bool(_) => "a boolean".into(),
        Parameter::Int(v) => v.to_string(),
        Parameter::Uint(v) => v.to_string(),
        Parameter::Float(v) => v.to_string(),
        Parameter::Text(_) => "a string".into(),
        Parameter::Other(what) => what.into(),
    }
}

/// The request as a model runs it.
///
/// # Errors
/// The first tensor or output that does not fit the model.
pub fn bind(signature: &Signature, infer: Infer, max_rows: usize) -> Result<Request<Form>, DecodeError> {
    let Infer { id, inputs, outputs, binary_output, wishes } = infer;
    for given in &inputs {
        is_known(signature, given)?;
    }
    let outputs = choose(signature, &outputs, binary_output)?;
    let (inputs, rows) = bind::bind(signature, inputs, max_rows)?;
    Ok(Request { inputs, rows, form: Form { id, outputs }, wishes, marks: vec![] })
}

/// A feature may come as any kind of number, an input only as what it is.
fn is_known(signature: &Signature, given: &Given) -> Result<(), DecodeError> {
    let name = given.name.as_str();
    let slot = signature.find(name, 0).map(|key| signature.keys()[key].1);
    if let Some(Slot::Feature { .. }) = slot {
        return Ok(());
    }
    let Some(input) = signature.inputs.iter().find(|input| input.name == name) else {
        let shown = text::shown(name);
        return Err(refuse(&shown, format!("{shown:?} is not an input of this model: {}", takes(signature))));
    };
    if given.values.dtype() == input.dtype {
        return Ok(());
    }
    let (sent, takes) = (datatype(given.values.dtype()), datatype(input.dtype));
    Err(refuse(name, format!("{name} has datatype {sent}, the model takes {takes}")))
}

/// What a model takes, in words.
fn takes(signature: &Signature) -> String {
    let inputs = text::listed(signature.inputs.iter().map(|input| input.name.as_str()));
    let features = signature.keys().iter().filter(|(_, slot)| signature.feature(*slot).is_some());
    let features = text::listed(features.map(|(name, _)| &**name));
    if features.is_empty() {
        format!("it takes {inputs}")
    } else {
        format!("it takes {inputs}, or the features {features}")
    }
}

fn choose(signature: &Signature, wanted: &[Wanted], binary: bool) -> Result<Vec<Chosen>, DecodeError> {
    if wanted.is_empty() {
        return Ok((0..signature.outputs.len()).map(|output| Chosen { output, binary, classes: 0 }).collect());
    }
    let mut chosen: Vec<Chosen> = Vec::with_capacity(wanted.len().min(signature.outputs.len()));
    for wanted in wanted {
        let name = text::shown(&wanted.name);
        let Some(output) = signature.outputs.iter().position(|output| output.name == wanted.name) else {
            let outputs = text::listed(signature.outputs.iter().map(|output| output.name.as_str()));
            let message = format!("{name:?} is not an output of this model: it gives {outputs}");
            return Err(refuse(&name, message));
        };
        if chosen.iter().any(|other| other.output == output) {
            return Err(refuse(&name, format!("output {name} is asked for twice")));
        }
        if wanted.classes > 0 && signature.outputs[output].dtype == DType::Text {
            return Err(refuse(&name, format!("output {name} holds strings: a classification takes numbers")));
        }
        chosen.push(Chosen { output, binary: wanted.binary.unwrap_or(binary), classes: wanted.classes });
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Answer;
    use crate::model::signature::{GraphIo, Port, Rows};
    use crate::model::tensor::Column;

    #[test]
    fn every_type_has_a_name_of_its_own() {
        let names = [
            "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "BF16", "FP32",
            "FP64", "BYTES",
        ];
        for name in names {
            assert_eq!(dtype(name).map(datatype), Some(name));
        }
        assert_eq!(dtype("fp32"), None);
        assert!(dtype_of("x", "STRING").expect_err("no name").to_string().contains("x has datatype \"STRING\""));
    }

    #[test]
    fn shapes_are_counted_without_overflow() {
        assert_eq!(shape_of("x", &[2, 3]).ok(), Some((vec![2, 3], 6)));
        assert_eq!(shape_of("x", &[]).ok(), Some((vec![], 1)));
        assert_eq!(shape_of("x", &[0, 5]).ok(), Some((vec![0, 5], 0)));
        for bad in [&[-1, 5][..], &[4_294_967_295, 4_294_967_295], &[i64::MAX, 2], &[0, i64::MAX, 2]] {
            assert!(shape_of("x", bad).expect_err("refused").to_string().contains("x has shape"), "{bad:?}");
        }
    }

    /// A model without a row axis has its tensors in their full shapes on the wire.
    #[test]
    fn a_model_without_rows_takes_and_gives_full_shapes() {
        let port = |name: &str| Port { name: name.into(), tensor: Ok((DType::F32, vec![-1, 2, -1])) };
        let graph = GraphIo { inputs: vec![port("x")], outputs: vec![port("y")], ..GraphIo::default() };
        let mut signature = Signature::new(&graph, None).expect("a signature");
        signature.rows = Rows::Whole;
        let given = |shape: &[usize], values: Vec<f32>| Infer {
            inputs: vec![Given { name: "x".into(), shape: shape.to_vec(), values: Column::F32(values), nulls: vec![] }],
            ..Infer::default()
        };
        let request = bind(&signature, given(&[2, 3], vec![1.0; 6]), 1).expect("fits");
        assert_eq!((request.rows, request.inputs[0].shape()), (1, &[1, 2, 3][..]));
        let error = bind(&signature, given(&[1, 2, 3], vec![1.0; 6]), 1).expect_err("refused").to_string();
        assert!(error.contains("x has shape [1, 2, 3]"), "{error}");
        let bytes: Vec<u8> = [1.0_f32; 8].iter().flat_map(|v| v.to_le_bytes()).collect();
        let bare = bind(&signature, bare::request(&signature, &bytes).expect("fits"), 1).expect("fits");
        assert_eq!(bare.inputs[0].shape(), [1, 2, 4]);
        let answers = [Answer { outputs: request.inputs.into(), rows: 0..1 }];
        let replies = reply::replies(&signature, &answers, &request.form);
        assert_eq!((&*replies[0].shape, replies[0].raw_len()), (&[2, 3][..], 24));
    }

    #[test]
    fn reserved_parameters_are_read_and_others_ignored() {
        let mut infer = Infer::default();
        let mut take = |name, value| infer.parameter(name, value).map_err(|e| e.to_string());
        assert_eq!(take("priority", Parameter::Int(2)), Ok(()));
        assert_eq!(take("timeout", Parameter::Uint(1500)), Ok(()));
        assert_eq!(take("binary_data_output", Parameter::Bool(true)), Ok(()));
        assert_eq!(take("sequence_id", Parameter::Int(0)), Ok(()));
        assert_eq!(take("sequence_id", Parameter::Text("")), Ok(()));
        assert_eq!(take("sequence_start", Parameter::Bool(true)), Ok(()));
        assert_eq!(take("anything", Parameter::Float(0.5)), Ok(()));
        for (name, value) in [
            ("priority", Parameter::Int(-1)),
            ("timeout", Parameter::Text("1")),
            ("binary_data_output", Parameter::Int(1)),
            ("sequence_id", Parameter::Int(7)),
            ("sequence_id", Parameter::Text("a")),
        ] {
            let refused = take(name, value).expect_err(name);
            assert!(refused.contains(name), "{refused}");
        }
        assert_eq!(infer.wishes, Wishes { timeout: Some(Duration::from_micros(1500)), priority: 2 });
        assert!(infer.binary_output);
    }
}
