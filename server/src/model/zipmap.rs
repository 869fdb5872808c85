//! Makes tensors of the maps in which exported classifiers end.
//!
//! scikit-learn's exporter puts a `ZipMap` behind the probabilities, which makes a sequence of maps of them, one map a row.
//! No protocol of ours carries that, and the tensor before it says the same. So, in memory only, the node becomes a `Cast`
//! to float32, which most of them are already, its output a tensor, and the keys of the maps are kept as the names of its
//! columns. Every other field of the file is copied byte for byte.

use std::collections::BTreeMap;
use std::sync::Arc;

use prost::Message;
use prost::encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint};

use super::graph::{FLOAT, STANDARD};
use super::onnx::{Dim, Node, OperatorSet, Shape, TensorType, TypeProto, ValueInfo};

// Numbers of fields in `onnx.proto`.
const GRAPH: u32 = 7;
const OPSETS: u32 = 8;
const NODE: u32 = 1;
const OUTPUT: u32 = 12;
const VALUE_INFO: u32 = 13;
const OP_TYPE: u32 = 4;
const ATTRIBUTE: u32 = 5;
const DOMAIN: u32 = 7;
const TYPE: u32 = 2;
/// Has `Cast`, and goes with every format that has domains.
const OPSET: i64 = 13;
/// The attribute `to` of a `Cast` (field 1: its name, 3: its value, 20: its type, which is integer): float32.
const TO_FLOAT: &[u8] = b"\x0a\x02to\x18\x01\xa0\x01\x02";

/// Names of the columns, by output.
pub(super) type Labels = BTreeMap<String, Arc<[String]>>;

/// A model whose maps are tensors.
pub(super) struct Maps {
    pub(super) onnx: Vec<u8>,
    pub(super) labels: Labels,
}

/// Replaces the maps among a model's outputs; `None` when there are none, as in most models.
///
/// # Errors
/// When the bytes are not a model.
pub(super) fn to_tensors(onnx: &[u8]) -> Result<Option<Maps>, String> {
    let labels = labels(onnx)?;
    if labels.is_empty() {
        return Ok(None);
    }
    let mut out = Vec::with_capacity(onnx.len() + 64);
    let mut standard = false;
    for field in Fields(onnx) {
        let field = field?;
        match field.number {
            GRAPH => put(&mut out, GRAPH, &graph(field.bytes, &labels)?),
            number => {
                let set = (number == OPSETS).then(|| OperatorSet::decode(field.bytes).map_err(|e| broken(&e)));
                standard |= set.transpose()?.is_some_and(|set| STANDARD.contains(&set.domain.as_str()));
                out.extend_from_slice(field.whole);
            }
        }
    }
    if !standard {
        put(&mut out, OPSETS, &OperatorSet { version: OPSET, ..OperatorSet::default() }.encode_to_vec());
    }
    Ok(Some(Maps { onnx: out, labels }))
}

/// The outputs that are maps, and the names of the columns that they have as tensors.
///
/// # Errors
/// When the bytes are not a model.
pub(super) fn labels(onnx: &[u8]) -> Result<Labels, String> {
    let mut labels = Labels::new();
    let graphs: Vec<&[u8]> = bytes_of(onnx, GRAPH).collect::<Result<_, _>>()?;
    // A file may tell its graph in several parts, and nobody writes such files.
    let [graph] = graphs.as_slice() else { return Ok(labels) };
    let mut maps = vec![];
    for output in bytes_of(graph, OUTPUT) {
        let output = ValueInfo::decode(output?).map_err(|e| broken(&e))?;
        if output.r#type.is_none_or(|kind| kind.tensor.is_none()) {
            maps.push(output.name);
        }
    }
    if maps.is_empty() {
        return Ok(labels);
    }
    for bytes in bytes_of(graph, NODE) {
        let bytes = bytes?;
        if bytes_of(bytes, OP_TYPE).any(|op| op.is_ok_and(|op| op == b"ZipMap")) {
            let node = Node::decode(bytes).map_err(|e| broken(&e))?;
            let Some(output) = node.output.first().filter(|name| maps.contains(name)) else { continue };
            let names = columns(&node);
            if node.domain == "ai.onnx.ml" && !names.is_empty() {
                labels.insert(output.clone(), names.into());
            }
        }
    }
    Ok(labels)
}

/// The keys of a `ZipMap`'s maps.
fn columns(node: &Node) -> Vec<String> {
    let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
    let keys = |attribute: &super::onnx::Attribute| match attribute.name.as_str() {
        "classlabels_strings" => attribute.strings.iter().map(text).collect(),
        "classlabels_int64s" => attribute.ints.iter().map(i64::to_string).collect(),
        _ => vec![],
    };
    node.attribute.iter().flat_map(keys).collect()
}

fn graph(bytes: &[u8], labels: &Labels) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(bytes.len());
    for field in Fields(bytes) {
        let field = field?;
        match field.number {
            NODE if maps(field.bytes, labels)? => put(&mut out, NODE, &cast(field.bytes)?),
            OUTPUT | VALUE_INFO => {
                let value = ValueInfo::decode(field.bytes).map_err(|e| broken(&e))?;
                match labels.get(&value.name) {
                    Some(names) if field.number == OUTPUT => put(&mut out, OUTPUT, &tensor(field.bytes, names.len())?),
                    Some(_) => {}
                    None => out.extend_from_slice(field.whole),
                }
            }
            _ => out.extend_from_slice(field.whole),
        }
    }
    Ok(out)
}

/// Whether a node makes one of the maps.
fn maps(node: &[u8], labels: &Labels) -> Result<bool, String> {
    if !bytes_of(node, OP_TYPE).any(|op| op.is_ok_and(|op| op == b"ZipMap")) {
        return Ok(false);
    }
    let node = Node::decode(node).map_err(|e| broken(&e))?;
    Ok(node.output.first().is_some_and(|name| labels.contains_key(name)))
}

/// A node that gives its input as float32, under the names of another node.
fn cast(node: &[u8]) -> Result<Vec<u8>, String> {
    let mut out = vec![];
    for field in Fields(node) {
        let field = field?;
        match field.number {
            OP_TYPE => put(&mut out, OP_TYPE, b"Cast"),
            ATTRIBUTE | DOMAIN => {}
            _ => out.extend_from_slice(field.whole),
        }
    }
    put(&mut out, ATTRIBUTE, TO_FLOAT);
    Ok(out)
}

/// An output that is float32 of the shape `[rows, columns]`, else as it was.
fn tensor(output: &[u8], columns: usize) -> Result<Vec<u8>, String> {
    let columns = Dim { value: i64::try_from(columns).ok(), ..Dim::default() };
    let shape = Some(Shape { dim: vec![Dim::default(), columns] });
    let kind = TypeProto { tensor: Some(TensorType { elem_type: FLOAT, shape }), ..TypeProto::default() };
    let mut out = vec![];
    for field in Fields(output) {
        let field = field?;
        if field.number != TYPE {
            out.extend_from_slice(field.whole);
        }
    }
    put(&mut out, TYPE, &kind.encode_to_vec());
    Ok(out)
}

fn put(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn broken(error: &dyn std::fmt::Display) -> String {
    format!("the model file is not an ONNX model, or is cut off: {error}")
}

/// The contents of all fields of this number that have any.
fn bytes_of(message: &[u8], number: u32) -> impl Iterator<Item = Result<&[u8], String>> {
    let this = move |field: &Result<Field<'_>, String>| field.as_ref().map_or(true, |field| field.number == number);
    Fields(message).filter(this).map(|field| field.map(|field| field.bytes))
}

/// A field of a message.
struct Field<'a> {
    number: u32,
    /// With its number and length.
    whole: &'a [u8],
    /// What it holds, unless it is a number.
    bytes: &'a [u8],
}

/// The fields of a message, in order; ends after the first error.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let message = std::mem::take(&mut self.0);
        Some(field(message).inspect(|field| self.0 = &message[field.whole.len()..]))
    }
}

fn field(message: &[u8]) -> Result<Field<'_>, String> {
    let mut rest = message;
    let (number, kind) = decode_key(&mut rest).map_err(|e| broken(&e))?;
    let length = match kind {
        WireType::Varint => decode_varint(&mut rest).map(|_| 0).map_err(|e| broken(&e))?,
        WireType::ThirtyTwoBit => 4,
        WireType::SixtyFourBit => 8,
        WireType::LengthDelimited => decode_varint(&mut rest).map_err(|e| broken(&e))?,
        WireType::StartGroup | WireType::EndGroup => return Err(broken(&"it has groups")),
    };
    let length = usize::try_from(length).ok().filter(|length| *length <= rest.len());
    let (bytes, rest) = rest.split_at(length.ok_or_else(|| broken(&"a field reaches beyond its end"))?);
    let bytes = if kind == WireType::LengthDelimited { bytes } else { &[] };
    Ok(Field { number, whole: &message[..message.len() - rest.len()], bytes })
}

#[cfg(test)]
mod tests {
    use super::super::onnx::{Attribute, Graph, Model};
    use super::*;

    fn fixture(name: &str) -> Vec<u8> {
        let path = format!("{}/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read(path).expect("a fixture")
    }

    #[test]
    fn only_the_map_is_changed() {
        let before = fixture("zipmap.onnx");
        let maps = to_tensors(&before).expect("a model").expect("a map");
        assert_eq!(maps.labels["output_probability"].as_ref(), ["0", "1", "2"]);
        let graph = |onnx: &[u8]| -> (Model, Graph) {
            let mut model = Model::decode(onnx).expect("a model");
            let graph = model.graph.take().expect("a graph");
            (model, graph)
        };
        let ((old_model, mut old), (new_model, new)) = (graph(&before), graph(&maps.onnx));
        assert_eq!(old_model.encode_to_vec(), new_model.encode_to_vec());
        let node = old.node.iter_mut().find(|node| node.op_type == "ZipMap").expect("a map");
        node.op_type = "Cast".into();
        node.domain.clear();
        node.attribute = vec![Attribute { name: "to".into(), i: FLOAT.into(), ..Attribute::default() }];
        let output = old.output.iter_mut().find(|output| output.name == "output_probability").expect("an output");
        let shape = Shape { dim: vec![Dim::default(), Dim { value: Some(3), name: None }] };
        let tensor = Some(TensorType { elem_type: FLOAT, shape: Some(shape) });
        output.r#type = Some(TypeProto { tensor, ..TypeProto::default() });
        assert_eq!(old.encode_to_vec(), new.encode_to_vec());
        // What this program does not know is copied.
        let mut unknown = before;
        put(&mut unknown, 99, b"of another time");
        let maps = to_tensors(&unknown).expect("a model").expect("a map");
        assert!(maps.onnx.windows(15).any(|part| part == b"of another time"));
    }

    #[test]
    fn a_model_without_maps_is_not_copied() {
        for name in ["vector.onnx", "faults/sequence.onnx", "named.onnx"] {
            assert!(to_tensors(&fixture(name)).expect("a model").is_none(), "{name}");
        }
    }

    /// A model of the classical operators alone has no standard ones, of which the replacement is one.
    #[test]
    fn the_standard_operators_are_imported_when_they_are_not() {
        let mut model = Model::decode(&*fixture("zipmap.onnx")).expect("a model");
        model.opset_import.retain(|set| !set.domain.is_empty());
        let maps = to_tensors(&model.encode_to_vec()).expect("a model").expect("a map");
        let opsets = Model::decode(&*maps.onnx).expect("a model").opset_import;
        assert_eq!(
            opsets.iter().map(|set| (set.domain.as_str(), set.version)).collect::<Vec<_>>(),
            [("ai.onnx.ml", 3), ("", OPSET)]
        );
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let good = fixture("zipmap.onnx");
        for end in 0..good.len() {
            // A cut between two fields leaves a smaller model.
            drop(to_tensors(&good[..end]));
        }
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..20_000 {
            let mut bytes = good.clone();
            for _ in 0..random.usize(1..4) {
                let at = random.usize(..bytes.len());
                bytes[at] = random.u8(..);
            }
            drop(to_tensors(&bytes));
        }
    }
}
