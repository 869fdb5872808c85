//! Makes tensors that the protocols carry of inputs and outputs that they do not.
//!
//! It is done in memory only, in the bytes that ONNX Runtime gets. Every field that has nothing to do with it is copied byte
//! for byte, and a model that needs nothing is not copied at all.
//!
//! - A *map*. scikit-learn's exporter puts a `ZipMap` behind the probabilities, which makes a sequence of maps of them, one
//!   map a row. The tensor before it says the same: the node becomes a `Cast` to float32, which most of them are already,
//!   and the keys of the maps are kept as the names of its columns.
//! - *float8*, in four kinds. float16 holds every value of them, so a `Cast` stands before such an input and behind such an
//!   output. The graph keeps its own names, also in its inner graphs: it is the ports that get others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use prost::Message;

use super::graph::{FLOAT, STANDARD};
use super::onnx::{Attribute, Dim, Node, OperatorSet, Shape, TensorType, TypeProto, ValueInfo};
use super::wire::{Fields, bytes_of, decode, put};

// Numbers of fields in `onnx.proto`.
const GRAPH: u32 = 7;
const OPSETS: u32 = 8;
const NODE: u32 = 1;
const INITIALIZER: u32 = 5;
const INPUT: u32 = 11;
const OUTPUT: u32 = 12;
const VALUE_INFO: u32 = 13;
const OP_TYPE: u32 = 4;
const ATTRIBUTE: u32 = 5;
const DOMAIN: u32 = 7;
const NAME: u32 = 1;
const TYPE: u32 = 2;
const TENSOR_NAME: u32 = 8;
const FLOAT16: i32 = 10;
/// E4M3FN, E4M3FNUZ, E5M2, E5M2FNUZ.
pub(super) const FLOAT8: std::ops::RangeInclusive<i32> = 17..=20;
/// An attribute's type.
const INTEGER: i32 = 2;
/// Has `Cast`, and goes with every format that has domains.
const OPSET: i64 = 13;
/// Has `Cast` of float8, and goes with every format that has float8.
const OPSET_FLOAT8: i64 = 19;

/// Names of the columns, by output.
pub(super) type Labels = BTreeMap<String, Arc<[String]>>;

/// A model that the protocols can carry.
#[derive(Default)]
pub(super) struct Rewritten {
    pub(super) onnx: Vec<u8>,
    pub(super) labels: Labels,
    /// The names of inputs and outputs by those that they have in the bytes, where these are others.
    pub(super) names: BTreeMap<String, String>,
}

/// Replaces what no protocol carries; `None` when there is nothing, as in most models.
///
/// # Errors
/// When the bytes are not a model.
pub(super) fn rewrite(onnx: &[u8]) -> Result<Option<Rewritten>, String> {
    let Some(graph) = graph(onnx)? else { return Ok(None) };
    let labels = maps(graph)?;
    let ports = [ports(graph, INPUT)?, ports(graph, OUTPUT)?];
    let narrow = ports.iter().any(|ports| !ports.is_empty());
    if labels.is_empty() && !narrow {
        return Ok(None);
    }
    let mut out = Vec::with_capacity(onnx.len() + 256);
    let mut standard = false;
    for field in Fields(onnx) {
        let field = field?;
        match field.number {
            GRAPH => put(&mut out, GRAPH, &rewritten(field.bytes, &labels, &ports)?),
            number => {
                let set = (number == OPSETS).then(|| decode::<OperatorSet>(field.bytes)).transpose()?;
                standard |= set.is_some_and(|set| STANDARD.contains(&set.domain.as_str()));
                out.extend_from_slice(field.whole);
            }
        }
    }
    if !standard {
        let version = if narrow { OPSET_FLOAT8 } else { OPSET };
        put(&mut out, OPSETS, &OperatorSet { version, ..OperatorSet::default() }.encode_to_vec());
    }
    let names = ports.into_iter().flatten().map(|(name, port)| (port.inner, name)).collect();
    Ok(Some(Rewritten { onnx: out, labels, names }))
}

/// The outputs that are maps, and the names of the columns that they have as tensors.
///
/// # Errors
/// When the bytes are not a model.
pub(super) fn labels(onnx: &[u8]) -> Result<Labels, String> {
    graph(onnx)?.map_or_else(|| Ok(Labels::new()), maps)
}

/// A model's graph. A file may tell it in several parts, and nobody writes such files.
fn graph(onnx: &[u8]) -> Result<Option<&[u8]>, String> {
    let graphs: Vec<&[u8]> = bytes_of(onnx, GRAPH).collect::<Result<_, _>>()?;
    Ok(if let [graph] = graphs.as_slice() { Some(graph) } else { None })
}

fn maps(graph: &[u8]) -> Result<Labels, String> {
    let mut labels = Labels::new();
    let mut maps = vec![];
    for output in bytes_of(graph, OUTPUT) {
        let output: ValueInfo = decode(output?)?;
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
            let node: Node = decode(bytes)?;
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
    let keys = |attribute: &Attribute| match attribute.name.as_str() {
        "classlabels_strings" => attribute.strings.iter().map(text).collect(),
        "classlabels_int64s" => attribute.ints.iter().map(i64::to_string).collect(),
        _ => vec![],
    };
    node.attribute.iter().flat_map(keys).collect()
}

/// An input or output of float8.
struct Port {
    /// The name that it gets; its own is that of the value inside.
    inner: String,
    /// Which float8.
    kind: i32,
}

type Ports = BTreeMap<String, Port>;

/// The inputs or the outputs that are float8. Those that are constants nobody can give.
fn ports(graph: &[u8], number: u32) -> Result<Ports, String> {
    let mut ports = Ports::new();
    for info in bytes_of(graph, number) {
        let ValueInfo { name, r#type: Some(TypeProto { tensor: Some(tensor), .. }) } = decode(info?)? else { continue };
        if FLOAT8.contains(&tensor.elem_type) {
            let inner = format!("{name}_{}_float16", if number == INPUT { "from" } else { "to" });
            ports.insert(name, Port { inner, kind: tensor.elem_type });
        }
    }
    if ports.is_empty() {
        return Ok(ports);
    }
    let mut constants = BTreeSet::new();
    for tensor in bytes_of(graph, INITIALIZER) {
        constants.extend(bytes_of(tensor?, TENSOR_NAME).collect::<Result<Vec<_>, _>>()?);
    }
    if number == INPUT {
        ports.retain(|name, _| !constants.contains(name.as_bytes()));
    }
    for port in ports.values_mut() {
        while constants.contains(port.inner.as_bytes()) || mentions(graph, &port.inner)? {
            port.inner.push('_');
        }
    }
    Ok(ports)
}

/// Whether a text stands anywhere in a graph but in its constants.
fn mentions(graph: &[u8], text: &str) -> Result<bool, String> {
    for field in Fields(graph) {
        let field = field?;
        let found = || field.bytes.windows(text.len()).any(|part| part == text.as_bytes());
        if field.number != INITIALIZER && found() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn rewritten(bytes: &[u8], labels: &Labels, [inputs, outputs]: &[Ports; 2]) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(bytes.len() + 256);
    for (name, Port { inner, kind }) in inputs {
        put(&mut out, NODE, &cast(inner, name, *kind).encode_to_vec());
    }
    for field in Fields(bytes) {
        let field = field?;
        match field.number {
            NODE if makes_map(field.bytes, labels)? => put(&mut out, NODE, &cast_for_map(field.bytes)?),
            number @ (INPUT | OUTPUT | VALUE_INFO) => {
                let ValueInfo { name, r#type } = decode(field.bytes)?;
                let half = |port: &Port| {
                    let shape = r#type.and_then(|kind| kind.tensor).and_then(|tensor| tensor.shape);
                    (port.inner.clone(), TensorType { elem_type: FLOAT16, shape })
                };
                let changed = match (number, labels.get(&name)) {
                    (INPUT, _) => inputs.get(&name).map(half),
                    (OUTPUT, Some(columns)) => Some((name, probabilities(columns.len()))),
                    (OUTPUT, None) => outputs.get(&name).map(half),
                    (_, Some(_)) => continue,
                    (_, None) => None,
                };
                match changed {
                    Some((name, tensor)) => put(&mut out, number, &declared(field.bytes, &name, tensor)?),
                    None => out.extend_from_slice(field.whole),
                }
            }
            _ => out.extend_from_slice(field.whole),
        }
    }
    for (name, Port { inner, .. }) in outputs {
        put(&mut out, NODE, &cast(name, inner, FLOAT16).encode_to_vec());
    }
    Ok(out)
}

/// Whether a node makes one of the maps.
fn makes_map(node: &[u8], labels: &Labels) -> Result<bool, String> {
    if !bytes_of(node, OP_TYPE).any(|op| op.is_ok_and(|op| op == b"ZipMap")) {
        return Ok(false);
    }
    let node: Node = decode(node)?;
    Ok(node.output.first().is_some_and(|name| labels.contains_key(name)))
}

/// A node that gives its input as float32, under the names of another node.
fn cast_for_map(node: &[u8]) -> Result<Vec<u8>, String> {
    let mut out = vec![];
    for field in Fields(node) {
        let field = field?;
        match field.number {
            OP_TYPE => put(&mut out, OP_TYPE, b"Cast"),
            ATTRIBUTE | DOMAIN => {}
            _ => out.extend_from_slice(field.whole),
        }
    }
    put(&mut out, ATTRIBUTE, &integer("to", FLOAT).encode_to_vec());
    Ok(out)
}

fn cast(from: &str, to: &str, kind: i32) -> Node {
    let mut attribute = vec![integer("to", kind)];
    if FLOAT8.contains(&kind) {
        // Else an infinity, which E5M2 has, would become its largest number.
        attribute.push(integer("saturate", 0));
    }
    let (input, output) = (vec![from.into()], vec![to.into()]);
    Node { input, output, op_type: "Cast".into(), attribute, ..Node::default() }
}

fn integer(name: &str, value: i32) -> Attribute {
    Attribute { name: name.into(), i: value.into(), r#type: INTEGER, ..Attribute::default() }
}

/// float32 of the shape `[rows, columns]`.
fn probabilities(columns: usize) -> TensorType {
    let columns = Dim { value: i64::try_from(columns).ok(), ..Dim::default() };
    TensorType { elem_type: FLOAT, shape: Some(Shape { dim: vec![Dim::default(), columns] }) }
}

/// An input or output of another name and type, else as it was.
fn declared(info: &[u8], name: &str, tensor: TensorType) -> Result<Vec<u8>, String> {
    let kind = TypeProto { tensor: Some(tensor), ..TypeProto::default() };
    let mut out = vec![];
    put(&mut out, NAME, name.as_bytes());
    for field in Fields(info) {
        let field = field?;
        if ![NAME, TYPE].contains(&field.number) {
            out.extend_from_slice(field.whole);
        }
    }
    put(&mut out, TYPE, &kind.encode_to_vec());
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::super::onnx::{Graph, Model};
    use super::*;

    fn fixture(name: &str) -> Vec<u8> {
        let path = format!("{}/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read(path).expect("a fixture")
    }

    #[test]
    fn only_the_map_is_changed() {
        let before = fixture("zipmap.onnx");
        let maps = rewrite(&before).expect("a model").expect("a map");
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
        node.attribute = vec![integer("to", FLOAT)];
        let output = old.output.iter_mut().find(|output| output.name == "output_probability").expect("an output");
        let shape = Shape { dim: vec![Dim::default(), Dim { value: Some(3), name: None }] };
        let tensor = Some(TensorType { elem_type: FLOAT, shape: Some(shape) });
        output.r#type = Some(TypeProto { tensor, ..TypeProto::default() });
        assert_eq!(old.encode_to_vec(), new.encode_to_vec());
        // What this program does not know is copied.
        let mut unknown = before;
        put(&mut unknown, 99, b"of another time");
        let maps = rewrite(&unknown).expect("a model").expect("a map");
        assert!(maps.onnx.windows(15).any(|part| part == b"of another time"));
    }

    /// The nodes between the casts refer to what they referred to; only ports change.
    #[test]
    fn float8_is_cast_at_the_ports() {
        let before = fixture("exports/float8-names.onnx");
        let changed = rewrite(&before).expect("a model").expect("float8");
        let names: Vec<_> = changed.names.iter().map(|(inner, name)| (inner.as_str(), name.as_str())).collect();
        assert_eq!(
            names,
            [("w_to_float16", "w"), ("x_from_float16_", "x"), ("x_to_float16", "x"), ("y_to_float16", "y")],
            "the graph has a value x_from_float16, and nobody gives the constant w"
        );
        let graph = |onnx: &[u8]| Model::decode(onnx).expect("a model").graph.expect("a graph");
        let (old, new) = (graph(&before), graph(&changed.onnx));
        let [first, between @ .., _, _, _] = new.node.as_slice() else { panic!("{} nodes", new.node.len()) };
        assert_eq!(first.encode_to_vec(), cast("x_from_float16_", "x", 19).encode_to_vec());
        let bytes = |nodes: &[Node]| nodes.iter().map(Message::encode_to_vec).collect::<Vec<_>>();
        assert_eq!(bytes(between), bytes(&old.node));
        let kinds = |infos: &[ValueInfo]| -> Vec<(String, i32)> {
            let kind =
                |info: &ValueInfo| info.r#type.as_ref().and_then(|t| t.tensor.as_ref()).map_or(0, |t| t.elem_type);
            infos.iter().map(|info| (info.name.clone(), kind(info))).collect()
        };
        let named = |kinds: &[(&str, i32)]| kinds.iter().map(|(n, k)| ((*n).to_owned(), *k)).collect::<Vec<_>>();
        assert_eq!(kinds(&new.input), named(&[("x_from_float16_", FLOAT16), ("yes", 9), ("w", 19)]));
        let outputs = [
            ("x_to_float16", FLOAT16),
            ("y_to_float16", FLOAT16),
            ("w_to_float16", FLOAT16),
            ("x_from_float16", FLOAT16),
        ];
        assert_eq!(kinds(&new.output), named(&outputs));
        assert_eq!(new.output[0].dims(), old.output[0].dims());
    }

    #[test]
    fn a_model_that_needs_nothing_is_not_copied() {
        for name in ["vector.onnx", "faults/sequence.onnx", "named.onnx", "exports/half.onnx"] {
            assert!(rewrite(&fixture(name)).expect("a model").is_none(), "{name}");
        }
    }

    /// A model of the classical operators alone has no standard ones, of which the replacement is one.
    #[test]
    fn the_standard_operators_are_imported_when_they_are_not() {
        let mut model = Model::decode(&*fixture("zipmap.onnx")).expect("a model");
        model.opset_import.retain(|set| !set.domain.is_empty());
        let maps = rewrite(&model.encode_to_vec()).expect("a model").expect("a map");
        let opsets = Model::decode(&*maps.onnx).expect("a model").opset_import;
        assert_eq!(
            opsets.iter().map(|set| (set.domain.as_str(), set.version)).collect::<Vec<_>>(),
            [("ai.onnx.ml", 3), ("", OPSET)]
        );
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let mut random = fastrand::Rng::with_seed(7);
        for name in ["zipmap.onnx", "exports/float8-names.onnx"] {
            let good = fixture(name);
            for end in 0..good.len() {
                // A cut between two fields leaves a smaller model.
                drop(rewrite(&good[..end]));
            }
            for _ in 0..20_000 {
                let mut bytes = good.clone();
                for _ in 0..random.usize(1..4) {
                    let at = random.usize(..bytes.len());
                    bytes[at] = random.u8(..);
                }
                drop(rewrite(&bytes));
            }
        }
    }
}
