//! The outputs of an answer as the protocol shows them: rows of all runs under one another, or the highest classes of each.

use std::cmp::Ordering;
use std::io::Write as _;
use std::ops::Range;

use half::{bf16, f16};

use super::{Chosen, Form, datatype, raw};
use crate::model::Answer;
use crate::model::signature::{Output, Signature};
use crate::model::tensor::{DType, Tensor, rows_of};

/// One output of an answer.
#[derive(Debug)]
pub struct Reply<'a> {
    /// The model's output.
    pub output: &'a Output,
    /// The protocol's name of its type: BYTES for classes.
    pub datatype: &'static str,
    /// All its dimensions, as the graph gives them.
    pub shape: Vec<usize>,
    /// Whether it is wanted as raw bytes.
    pub binary: bool,
    /// Its elements.
    pub content: Content<'a>,
}

/// The elements of an output.
#[derive(Debug)]
pub enum Content<'a> {
    /// The tensor at this index of each answer.
    Rows(usize, &'a [Answer]),
    /// Text.
    Classes(Vec<String>),
}

/// The outputs that a request wants. `answers` are its rows, in order.
#[must_use]
pub fn replies<'a>(signature: &'a Signature, answers: &'a [Answer], form: &Form) -> Vec<Reply<'a>> {
    let rows: usize = answers.iter().map(|answer| answer.rows.len()).sum();
    let reply = |chosen: &Chosen| {
        let output = &signature.outputs[chosen.output];
        let row = answers.first().map_or(&[][..], |answer| &answer.outputs[chosen.output].shape()[1..]);
        let binary = chosen.binary;
        if chosen.classes == 0 {
            let shape: Vec<usize> = std::iter::once(rows).chain(row.iter().copied()).collect();
            let shape = signature.wire_shape(&shape).to_vec();
            let content = Content::Rows(chosen.output, answers);
            return Reply { output, datatype: datatype(output.dtype), shape, binary, content };
        }
        let count = row.iter().product::<usize>().min(chosen.classes);
        let mut classes = Vec::with_capacity(rows * count);
        for answer in answers {
            let tensor = &answer.outputs[chosen.output];
            answer.rows.clone().for_each(|row| highest(&mut classes, output, tensor, row, count));
        }
        let shape = signature.wire_shape(&[rows, count]).to_vec();
        Reply { output, datatype: datatype(DType::Text), shape, binary, content: Content::Classes(classes) }
    };
    form.outputs.iter().map(reply).collect()
}

impl Reply<'_> {
    /// How many bytes [`Reply::write_raw`] appends.
    #[must_use]
    pub fn raw_len(&self) -> usize {
        match &self.content {
            Content::Rows(at, answers) => answers.iter().map(|a| raw::len(&a.outputs[*at], a.rows.clone())).sum(),
            Content::Classes(classes) => classes.iter().map(|class| 4 + class.len()).sum(),
        }
    }

    /// Appends the elements as raw bytes.
    pub fn write_raw(&self, into: &mut Vec<u8>) {
        match &self.content {
            Content::Rows(at, answers) => {
                answers.iter().for_each(|answer| raw::encode(into, &answer.outputs[*at], answer.rows.clone()));
            }
            Content::Classes(classes) => classes.iter().for_each(|class| raw::string(into, class)),
        }
    }

    /// Appends the elements as one flat array. A number that is not finite becomes `null`.
    pub fn write_json(&self, into: &mut Vec<u8>) {
        into.push(b'[');
        let begin = into.len();
        match &self.content {
            Content::Rows(at, answers) => {
                for answer in *answers {
                    elements(into, &answer.outputs[*at], answer.rows.clone());
                }
            }
            Content::Classes(classes) => classes.iter().for_each(|class| {
                text(into, class);
                into.push(b',');
            }),
        }
        // Each element has left a comma behind itself.
        if into.len() > begin {
            into.pop();
        }
        into.push(b']');
    }
}

/// Calls a macro with the elements of some rows of a tensor, whatever their type, and a function that writes one.
macro_rules! with_rows {
    ($tensor:expr, $rows:expr, $take:expr) => {{
        macro_rules! rows {
            ($array:expr, $one:expr) => {
                $take(rows_of($array, $rows), $one)
            };
        }
        match $tensor {
            Tensor::F16(a) => rows!(a, |json: &mut Vec<u8>, v: &f16| float(json, v.to_f32())),
            Tensor::BF16(a) => rows!(a, |json: &mut Vec<u8>, v: &bf16| float(json, v.to_f32())),
            Tensor::F32(a) => rows!(a, |json: &mut Vec<u8>, v: &f32| float(json, *v)),
            Tensor::F64(a) => rows!(a, |json: &mut Vec<u8>, v: &f64| float(json, *v)),
            Tensor::I8(a) => rows!(a, |json: &mut Vec<u8>, v: &i8| whole(json, *v)),
            Tensor::I16(a) => rows!(a, |json: &mut Vec<u8>, v: &i16| whole(json, *v)),
            Tensor::I32(a) => rows!(a, |json: &mut Vec<u8>, v: &i32| whole(json, *v)),
            Tensor::I64(a) => rows!(a, |json: &mut Vec<u8>, v: &i64| whole(json, *v)),
            Tensor::U8(a) => rows!(a, |json: &mut Vec<u8>, v: &u8| whole(json, *v)),
            Tensor::U16(a) => rows!(a, |json: &mut Vec<u8>, v: &u16| whole(json, *v)),
            Tensor::U32(a) => rows!(a, |json: &mut Vec<u8>, v: &u32| whole(json, *v)),
            Tensor::U64(a) => rows!(a, |json: &mut Vec<u8>, v: &u64| whole(json, *v)),
            Tensor::Bool(a) => rows!(a, |json: &mut Vec<u8>, v: &bool| {
                json.extend_from_slice(if *v { b"true" } else { b"false" });
            }),
            Tensor::Text(a) => rows!(a, |json: &mut Vec<u8>, v: &String| text(json, v)),
        }
    }};
}

/// Each element and a comma.
fn elements(json: &mut Vec<u8>, tensor: &Tensor, rows: Range<usize>) {
    fn all<T>(json: &mut Vec<u8>, values: &[T], one: impl Fn(&mut Vec<u8>, &T)) {
        json.reserve(values.len() * 8);
        for value in values {
            one(json, value);
            json.push(b',');
        }
    }
    with_rows!(tensor, rows, |values, one| all(json, values, one));
}

/// The highest values of a row, each as `value:index` and, where classes have names, `:name`.
fn highest(into: &mut Vec<String>, output: &Output, tensor: &Tensor, row: usize, count: usize) {
    let rows = row..row + 1;
    with_rows!(tensor, rows, |values, one| top(into, output, values, count, one));
}

fn top<T: PartialOrd>(
    into: &mut Vec<String>,
    output: &Output,
    values: &[T],
    count: usize,
    one: impl Fn(&mut Vec<u8>, &T),
) {
    let mut order: Vec<usize> = (0..values.len()).collect();
    // What cannot be compared, a NaN, comes last; equal values come in their order.
    let rank = |at: &usize| values[*at].partial_cmp(&values[*at]).is_none();
    order.sort_by(|a, b| {
        rank(a).cmp(&rank(b)).then_with(|| values[*b].partial_cmp(&values[*a]).unwrap_or(Ordering::Equal))
    });
    for at in order.into_iter().take(count) {
        let mut class = vec![];
        one(&mut class, &values[at]);
        // Writing to memory does not fail.
        let _ = write!(class, ":{at}");
        if let Some(label) = output.labels.as_ref().and_then(|labels| labels.get(at)) {
            let _ = write!(class, ":{label}");
        }
        into.push(String::from_utf8(class).unwrap_or_default());
    }
}

fn float<F: zmij::Float + Into<f64> + Copy>(json: &mut Vec<u8>, value: F) {
    if value.into().is_finite() {
        json.extend_from_slice(zmij::Buffer::new().format_finite(value).as_bytes());
    } else {
        json.extend_from_slice(b"null");
    }
}

fn whole(json: &mut Vec<u8>, value: impl itoa::Integer) {
    json.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

fn text(json: &mut Vec<u8>, value: &str) {
    serde_json::to_writer(json, value).expect("a string can always be written to memory");
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ndarray::{arr1, arr2};

    use super::*;
    use crate::model::signature::{GraphIo, Port};

    fn signature(labels: Option<&[&str]>) -> Signature {
        let port = |name: &str, dtype, shape: &[i64]| Port { name: name.into(), tensor: Ok((dtype, shape.to_vec())) };
        let graph = GraphIo {
            inputs: vec![port("x", DType::F32, &[-1, 1])],
            outputs: vec![port("p", DType::F32, &[-1, 3]), port("n", DType::I64, &[-1])],
            labels: labels
                .map(|labels| ("p".into(), labels.iter().map(|l| (*l).to_owned()).collect()))
                .into_iter()
                .collect(),
            ..GraphIo::default()
        };
        Signature::new(&graph, None).expect("a signature")
    }

    fn answers() -> Vec<Answer> {
        let outputs = |p: [[f32; 3]; 2], n: [i64; 2]| -> Arc<[Tensor]> {
            Arc::new([Tensor::from(arr2(&p).into_dyn()), Tensor::from(arr1(&n).into_dyn())])
        };
        let first = outputs([[9.0; 3], [0.5, 0.25, 0.5]], [i64::MIN, i64::MAX]);
        let second = outputs([[f32::NAN, 1.0, -0.0], [9.0; 3]], [3, 4]);
        vec![Answer { outputs: first, rows: 1..2 }, Answer { outputs: second, rows: 0..1 }]
    }

    fn form(classes: usize) -> Form {
        let chosen = |output, classes| Chosen { output, binary: false, classes };
        Form { id: String::new(), outputs: vec![chosen(1, 0), chosen(0, classes)] }
    }

    fn json(reply: &Reply<'_>) -> String {
        let mut json = vec![];
        reply.write_json(&mut json);
        String::from_utf8(json).expect("UTF-8")
    }

    #[test]
    fn rows_of_several_runs_are_joined_in_order() {
        let (signature, answers) = (signature(None), answers());
        let replies = replies(&signature, &answers, &form(0));
        let shown: Vec<_> = replies.iter().map(|r| (&*r.output.name, r.datatype, r.shape.clone(), json(r))).collect();
        let expected = [
            ("n", "INT64", vec![2], "[9223372036854775807,3]".to_owned()),
            ("p", "FP32", vec![2, 3], "[0.5,0.25,0.5,null,1.0,-0.0]".to_owned()),
        ];
        assert_eq!(shown, expected);
        let mut bytes = vec![];
        replies[1].write_raw(&mut bytes);
        assert_eq!(bytes, [0.5, 0.25, 0.5, f32::NAN, 1.0, -0.0].map(f32::to_le_bytes).concat());
        assert_eq!(replies[1].raw_len(), bytes.len());
    }

    #[test]
    fn classes_are_the_highest_values_with_their_names() {
        let (named, answers) = (signature(Some(&["a", "b", "c"])), answers());
        let replies = replies(&named, &answers, &form(2));
        assert_eq!((replies[1].datatype, &*replies[1].shape), ("BYTES", &[2, 2][..]));
        assert_eq!(json(&replies[1]), r#"["0.5:0:a","0.5:2:c","1.0:1:b","-0.0:2:c"]"#);
        let mut bytes = vec![];
        replies[1].write_raw(&mut bytes);
        assert_eq!((&bytes[..4], &bytes[4..11]), (&[7, 0, 0, 0][..], &b"0.5:0:a"[..]));
        assert_eq!(replies[1].raw_len(), bytes.len());
        let bare = signature(None);
        let all = super::replies(&bare, &answers, &form(99));
        assert_eq!(json(&all[1]), r#"["0.5:0","0.5:2","0.25:1","1.0:1","-0.0:2","null:0"]"#);
    }
}
