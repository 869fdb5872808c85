//! The tensors of a `ModelInferRequest` to those of a model, and a model's to a `ModelInferResponse`.

use std::ops::Range;

use bytes::Bytes;

use super::proto::infer_parameter::ParameterChoice;
use super::proto::model_infer_request::InferInputTensor;
use super::proto::model_infer_response::InferOutputTensor;
use super::proto::{InferParameter, InferTensorContents, ModelInferRequest, ModelInferResponse};
use crate::codec::bind::Given;
use crate::codec::oip::reply::{Content, Reply, replies};
use crate::codec::oip::{self, Form, Infer, Parameter, Wanted, raw};
use crate::codec::{DecodeError, Request, refuse};
use crate::model::signature::Signature;
use crate::model::tensor::{Column, DType, Tensor, rows_of};
use crate::model::{Answer, Model};

/// The request as a model runs it.
///
/// # Errors
/// The first tensor or parameter that does not fit.
pub fn decode(
    signature: &Signature,
    message: ModelInferRequest,
    max_rows: usize,
) -> Result<Request<Form>, DecodeError> {
    let ModelInferRequest { id, parameters, inputs, outputs, raw_input_contents, .. } = message;
    let is_raw = !raw_input_contents.is_empty();
    if is_raw && raw_input_contents.len() != inputs.len() {
        let (contents, inputs) = (raw_input_contents.len(), inputs.len());
        let message = format!("raw_input_contents has {contents} elements and inputs has {inputs}: send one for each");
        return Err(refuse("raw_input_contents", message));
    }
    let mut infer = Infer { id, ..Infer::default() };
    for (name, value) in values(&parameters) {
        infer.parameter(name, value)?;
    }
    infer.binary_output |= is_raw;
    let mut raw_input_contents = raw_input_contents.into_iter();
    for input in inputs {
        infer.inputs.push(given(input, raw_input_contents.next())?);
    }
    for output in &outputs {
        let mut wanted = Wanted { name: output.name.clone(), ..Wanted::default() };
        for (name, value) in values(&output.parameters) {
            wanted.parameter(name, value)?;
        }
        // All outputs of an answer are raw, or none is.
        infer.outputs.push(Wanted { binary: None, ..wanted });
    }
    oip::bind(signature, infer, max_rows)
}

/// Parameters that have a value.
fn values<'a>(
    parameters: impl IntoIterator<Item = (&'a String, &'a InferParameter)>,
) -> impl Iterator<Item = (&'a str, Parameter<'a>)> {
    parameters.into_iter().filter_map(|(name, parameter)| {
        let value = match parameter.parameter_choice.as_ref()? {
            ParameterChoice::BoolParam(v) => Parameter::Bool(*v),
            ParameterChoice::Int64Param(v) => Parameter::Int(*v),
            ParameterChoice::Uint64Param(v) => Parameter::Uint(*v),
            ParameterChoice::DoubleParam(v) => Parameter::Float(*v),
            ParameterChoice::StringParam(v) => Parameter::Text(v),
        };
        Some((name.as_str(), value))
    })
}

fn given(input: InferInputTensor, bytes: Option<Bytes>) -> Result<Given, DecodeError> {
    let InferInputTensor { name, datatype, shape, parameters, contents } = input;
    for (parameter, _) in values(&parameters) {
        oip::no_shared_memory(&name, parameter)?;
    }
    let dtype = oip::dtype_of(&name, &datatype)?;
    let (shape, count) = oip::shape_of(&name, &shape)?;
    let values = match (bytes, contents) {
        (Some(_), Some(contents)) if contents != InferTensorContents::default() => {
            Err("has contents beside those in raw_input_contents: send one of them".into())
        }
        (Some(bytes), _) => raw::decode(dtype, count, &bytes),
        (None, contents) => typed(dtype, count, contents.unwrap_or_default()),
    };
    let values = values.map_err(|reason| refuse(&name, format!("{name} {reason}")))?;
    Ok(Given { name, shape, values, nulls: vec![] })
}

/// The elements of a tensor that has `count` of them.
fn typed(dtype: DType, count: usize, contents: InferTensorContents) -> Result<Column, String> {
    fn narrow<W: Copy + std::fmt::Display, N: TryFrom<W>>(values: &[W], dtype: DType) -> Result<Vec<N>, String> {
        let fits = |(at, value): (usize, &W)| {
            let datatype = oip::datatype(dtype);
            N::try_from(*value).map_err(|_| format!("holds {value} at element {at}, which does not fit {datatype}"))
        };
        values.iter().enumerate().map(fits).collect()
    }
    let texts = |values: &[Bytes]| {
        let texts = values.iter().enumerate().map(|(at, bytes)| raw::text_of(at, bytes).map(str::to_owned));
        texts.collect::<Result<_, _>>()
    };
    let (list, values) = match dtype {
        DType::F16 | DType::BF16 => {
            let datatype = oip::datatype(dtype);
            return Err(format!("has datatype {datatype}, for which there are no contents: send raw_input_contents"));
        }
        DType::Bool => ("bool_contents", Column::Bool(contents.bool_contents)),
        DType::I8 => ("int_contents", Column::I8(narrow(&contents.int_contents, dtype)?)),
        DType::I16 => ("int_contents", Column::I16(narrow(&contents.int_contents, dtype)?)),
        DType::I32 => ("int_contents", Column::I32(contents.int_contents)),
        DType::I64 => ("int64_contents", Column::I64(contents.int64_contents)),
        DType::U8 => ("uint_contents", Column::U8(narrow(&contents.uint_contents, dtype)?)),
        DType::U16 => ("uint_contents", Column::U16(narrow(&contents.uint_contents, dtype)?)),
        DType::U32 => ("uint_contents", Column::U32(contents.uint_contents)),
        DType::U64 => ("uint64_contents", Column::U64(contents.uint64_contents)),
        DType::F32 => ("fp32_contents", Column::F32(contents.fp32_contents)),
        DType::F64 => ("fp64_contents", Column::F64(contents.fp64_contents)),
        DType::Text => ("bytes_contents", Column::Text(texts(&contents.bytes_contents)?)),
    };
    if values.len() == count {
        Ok(values)
    } else {
        Err(format!("has {} elements in {list}, its shape takes {count}", values.len()))
    }
}

/// The answer to a request, raw if the request was; else typed, unless an output has a type that is only sent raw.
pub(super) fn encode(model: &Model, answers: &[Answer], form: &Form) -> ModelInferResponse {
    let replies = replies(&model.signature, answers, form);
    let is_raw = replies.iter().any(|reply| reply.binary || matches!(reply.datatype, "FP16" | "BF16"));
    let output = |reply: &Reply<'_>| InferOutputTensor {
        name: reply.output.name.clone(),
        datatype: reply.datatype.into(),
        shape: reply.shape.iter().map(|size| i64::try_from(*size).unwrap_or(i64::MAX)).collect(),
        contents: (!is_raw).then(|| contents(reply)),
        ..InferOutputTensor::default()
    };
    let bytes = |reply: &Reply<'_>| {
        let mut bytes = Vec::with_capacity(reply.raw_len());
        reply.write_raw(&mut bytes);
        bytes.into()
    };
    ModelInferResponse {
        model_name: model.id.name.clone(),
        model_version: model.id.version.clone(),
        id: form.id.clone(),
        outputs: replies.iter().map(output).collect(),
        raw_output_contents: if is_raw { replies.iter().map(bytes).collect() } else { vec![] },
        ..ModelInferResponse::default()
    }
}

fn contents(reply: &Reply<'_>) -> InferTensorContents {
    let mut contents = InferTensorContents::default();
    match &reply.content {
        Content::Rows(at, answers) => {
            answers.iter().for_each(|answer| append(&mut contents, &answer.outputs[*at], answer.rows.clone()));
        }
        Content::Classes(classes) => {
            contents.bytes_contents = classes.iter().map(|class| Bytes::copy_from_slice(class.as_bytes())).collect();
        }
    }
    contents
}

fn append(contents: &mut InferTensorContents, tensor: &Tensor, rows: Range<usize>) {
    match tensor {
        // There is no list for them: an answer that holds them is raw.
        Tensor::F16(_) | Tensor::BF16(_) => {}
        Tensor::Bool(a) => contents.bool_contents.extend_from_slice(rows_of(a, rows)),
        Tensor::I8(a) => contents.int_contents.extend(rows_of(a, rows).iter().map(|v| i32::from(*v))),
        Tensor::I16(a) => contents.int_contents.extend(rows_of(a, rows).iter().map(|v| i32::from(*v))),
        Tensor::I32(a) => contents.int_contents.extend_from_slice(rows_of(a, rows)),
        Tensor::I64(a) => contents.int64_contents.extend_from_slice(rows_of(a, rows)),
        Tensor::U8(a) => contents.uint_contents.extend(rows_of(a, rows).iter().map(|v| u32::from(*v))),
        Tensor::U16(a) => contents.uint_contents.extend(rows_of(a, rows).iter().map(|v| u32::from(*v))),
        Tensor::U32(a) => contents.uint_contents.extend_from_slice(rows_of(a, rows)),
        Tensor::U64(a) => contents.uint64_contents.extend_from_slice(rows_of(a, rows)),
        Tensor::F32(a) => contents.fp32_contents.extend_from_slice(rows_of(a, rows)),
        Tensor::F64(a) => contents.fp64_contents.extend_from_slice(rows_of(a, rows)),
        Tensor::Text(a) => {
            contents.bytes_contents.extend(rows_of(a, rows).iter().map(|v| Bytes::copy_from_slice(v.as_bytes())));
        }
    }
}

/// Says of an answer on a stream that it is the only one to its request, as Triton does.
pub(super) fn set_last(response: &mut ModelInferResponse) {
    let last = InferParameter { parameter_choice: Some(ParameterChoice::BoolParam(true)) };
    response.parameters.insert("triton_final_response".into(), last);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The contents of a request as the answer of a model that gives back what it takes.
    fn round(dtype: DType, count: usize, contents: &InferTensorContents) -> Result<InferTensorContents, String> {
        let column = typed(dtype, count, contents.clone())?;
        assert_eq!(column.dtype(), dtype);
        let tensor = column.into_tensor(&[count]).expect("its shape");
        let mut out = InferTensorContents::default();
        append(&mut out, &tensor, 0..1);
        append(&mut out, &tensor, 1..count);
        Ok(out)
    }

    #[test]
    fn typed_contents_come_back_in_their_lists() {
        let none = InferTensorContents::default;
        let int = |int_contents| InferTensorContents { int_contents, ..none() };
        let uint = |uint_contents| InferTensorContents { uint_contents, ..none() };
        let cases = [
            (DType::Bool, InferTensorContents { bool_contents: vec![true, false, true], ..none() }),
            (DType::I8, int(vec![-128, 0, 127])),
            (DType::I16, int(vec![-32768, 0, 32767])),
            (DType::I32, int(vec![i32::MIN, 0, i32::MAX])),
            (DType::I64, InferTensorContents { int64_contents: vec![i64::MIN, 0, i64::MAX], ..none() }),
            (DType::U8, uint(vec![0, 1, 255])),
            (DType::U16, uint(vec![0, 1, 65535])),
            (DType::U32, uint(vec![0, 1, u32::MAX])),
            (DType::U64, InferTensorContents { uint64_contents: vec![0, 1, u64::MAX], ..none() }),
            (DType::F32, InferTensorContents { fp32_contents: vec![f32::MIN, -0.0, f32::MAX], ..none() }),
            (DType::F64, InferTensorContents { fp64_contents: vec![f64::MIN, -0.0, f64::MAX], ..none() }),
            (DType::Text, InferTensorContents { bytes_contents: vec!["".into(), "é".into(), "b".into()], ..none() }),
        ];
        for (dtype, contents) in cases {
            assert_eq!(round(dtype, 3, &contents).as_ref(), Ok(&contents), "{dtype}");
            let refused = round(dtype, 2, &contents).expect_err("too many");
            assert!(refused.contains("3 elements in") && refused.contains("takes 2"), "{refused}");
            assert!(round(dtype, 3, &none()).expect_err("nothing").contains("has 0 elements in"), "{dtype}");
        }
    }

    #[test]
    fn what_a_list_cannot_hold_is_refused() {
        let int = |v| InferTensorContents { int_contents: vec![0, v], ..InferTensorContents::default() };
        let uint = |v| InferTensorContents { uint_contents: vec![0, v], ..InferTensorContents::default() };
        for (dtype, contents, words) in [
            (DType::I8, int(128), "holds 128 at element 1, which does not fit INT8"),
            (DType::I16, int(-32769), "holds -32769 at element 1, which does not fit INT16"),
            (DType::U8, uint(256), "holds 256 at element 1, which does not fit UINT8"),
            (DType::U16, uint(65536), "holds 65536 at element 1, which does not fit UINT16"),
            (DType::F16, uint(1), "raw_input_contents"),
            (DType::BF16, uint(1), "raw_input_contents"),
        ] {
            assert!(round(dtype, 2, &contents).expect_err("refused").contains(words), "{dtype}");
        }
        let bytes = InferTensorContents { bytes_contents: vec![vec![0xff].into()], ..InferTensorContents::default() };
        assert!(typed(DType::Text, 1, bytes).expect_err("not text").contains("UTF-8"));
    }
}
