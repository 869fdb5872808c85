//! Reads an ONNX file without ONNX Runtime, to refuse what could kill the process.
//!
//! `INT_MIN / -1` (and, in older runtimes, `x / 0`) raises SIGFPE inside ONNX Runtime and nothing in the process can
//! catch it. So an integer `Div` or `Mod` whose divisor comes from the request, or is a constant 0 or -1, is refused.

use std::collections::HashMap;

use prost::Message;

const INT_TYPES: [i32; 8] = [2, 3, 4, 5, 6, 7, 12, 13];
const INT64: i32 = 7;
const BOOL: i32 = 9;
const FLOAT: i32 = 1;

#[derive(Message)]
struct Model {
    #[prost(message, optional, tag = "7")]
    graph: Option<Graph>,
}

#[derive(Message)]
struct Graph {
    #[prost(message, repeated, tag = "1")]
    node: Vec<Node>,
    #[prost(message, repeated, tag = "5")]
    initializer: Vec<TensorProto>,
    #[prost(message, repeated, tag = "11")]
    input: Vec<ValueInfo>,
    #[prost(message, repeated, tag = "15")]
    sparse_initializer: Vec<SparseTensor>,
}

#[derive(Message)]
struct SparseTensor {
    #[prost(message, optional, tag = "1")]
    values: Option<TensorProto>,
}

#[derive(Message)]
struct Node {
    #[prost(string, repeated, tag = "1")]
    input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    output: Vec<String>,
    #[prost(string, tag = "3")]
    name: String,
    #[prost(string, tag = "4")]
    op_type: String,
    #[prost(message, repeated, tag = "5")]
    attribute: Vec<Attribute>,
    #[prost(string, tag = "7")]
    domain: String,
}

#[derive(Message)]
struct Attribute {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(int64, tag = "3")]
    i: i64,
    #[prost(message, optional, tag = "5")]
    t: Option<TensorProto>,
    #[prost(message, optional, tag = "6")]
    g: Option<Graph>,
    #[prost(message, repeated, tag = "11")]
    graphs: Vec<Graph>,
}

#[derive(Message)]
struct TensorProto {
    #[prost(int32, tag = "2")]
    data_type: i32,
    #[prost(int32, repeated, tag = "5")]
    int32_data: Vec<i32>,
    #[prost(int64, repeated, tag = "7")]
    int64_data: Vec<i64>,
    #[prost(string, tag = "8")]
    name: String,
    #[prost(bytes = "vec", tag = "9")]
    raw_data: Vec<u8>,
    #[prost(int32, tag = "14")]
    data_location: i32,
}

#[derive(Message)]
struct ValueInfo {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    r#type: Option<TypeProto>,
}

#[derive(Message)]
struct TypeProto {
    #[prost(message, optional, tag = "1")]
    tensor: Option<TensorType>,
}

#[derive(Message)]
struct TensorType {
    #[prost(int32, tag = "1")]
    elem_type: i32,
}

/// What is known of a value while the graph is walked.
#[derive(Clone, Copy)]
struct Known {
    /// ONNX element type; 0 when unknown, which counts as an integer only after `Cast` or an integer input.
    dtype: i32,
    /// Whether its elements depend on the values (not only the shapes) of a request.
    from_request: bool,
    /// Whether it is a constant with a 0 or -1 in it.
    dangerous_constant: bool,
}

/// What a graph that may be loaded is like.
#[derive(Debug, Default)]
pub struct Lint {
    /// What the author may want to know.
    pub warnings: Vec<String>,
    /// Nodes, those of inner graphs included.
    pub nodes: usize,
    /// Whether it loops: how long a run takes may then depend on the values in a request.
    pub loops: bool,
}

/// Refuses a graph that could kill the process.
///
/// # Errors
/// One sentence that names the node.
pub fn lint(onnx: &[u8]) -> Result<Lint, String> {
    let model = Model::decode(onnx).map_err(|_| not_onnx(onnx))?;
    let graph = model.graph.ok_or_else(|| not_onnx(onnx))?;
    let mut lint = Lint::default();
    walk(&graph, &HashMap::new(), true, &mut lint)?;
    if lint.nodes > 500 {
        let nodes = lint.nodes;
        lint.warnings.push(format!("{nodes} nodes: a tree ensemble exported as one node loads and runs far faster"));
    }
    Ok(lint)
}

/// Says what a file that is no model most likely is.
fn not_onnx(bytes: &[u8]) -> String {
    let start = bytes.get(..64.min(bytes.len())).unwrap_or_default();
    let text = String::from_utf8_lossy(start);
    let what = if bytes.is_empty() {
        "is empty"
    } else if text.starts_with("version https://git-lfs") {
        "is a Git LFS pointer: fetch the file itself (git lfs pull)"
    } else if text.trim_start().to_ascii_lowercase().starts_with("<!doctype html") || text.starts_with("<html") {
        "is a web page"
    } else if text.starts_with("<?xml") || text.starts_with("<Error>") {
        "is XML, perhaps an error of an object store"
    } else if start.starts_with(&[0x1f, 0x8b]) {
        "is compressed with gzip"
    } else if start.starts_with(b"PK") {
        "is a zip archive"
    } else {
        "is not an ONNX model, or is cut off"
    };
    format!("the model file {what}")
}

fn walk(graph: &Graph, outer: &HashMap<&str, Known>, top: bool, lint: &mut Lint) -> Result<(), String> {
    let mut known: HashMap<&str, Known> = outer.clone();
    for input in &graph.input {
        let dtype = input.r#type.as_ref().and_then(|t| t.tensor.as_ref()).map_or(0, |t| t.elem_type);
        // The inputs of a loop's or a branch's body carry what the outer graph hands in: taken as from the request.
        known.insert(&input.name, Known { dtype, from_request: true, dangerous_constant: false });
    }
    let sparse = graph.sparse_initializer.iter().filter_map(|s| s.values.as_ref());
    for tensor in graph.initializer.iter().chain(sparse) {
        known.insert(&tensor.name, constant(tensor)?);
    }
    for node in &graph.node {
        lint.nodes += 1;
        lint.loops |= matches!(node.op_type.as_str(), "Loop" | "Scan");
        let inputs: Vec<Known> = node.input.iter().filter_map(|name| known.get(name.as_str()).copied()).collect();
        if matches!(node.op_type.as_str(), "Div" | "Mod") && node.domain.is_empty() {
            divisor(node, &inputs, &known)?;
        }
        for attribute in &node.attribute {
            for body in attribute.g.iter().chain(&attribute.graphs) {
                walk(body, &known, false, lint)?;
            }
        }
        let result = result(node, &inputs)?;
        for output in &node.output {
            known.insert(output, result);
        }
    }
    if top && graph.node.is_empty() {
        return Err("the model has no nodes".into());
    }
    Ok(())
}

fn divisor(node: &Node, inputs: &[Known], known: &HashMap<&str, Known>) -> Result<(), String> {
    let dtype = inputs.iter().map(|k| k.dtype).find(|t| *t != 0).unwrap_or(0);
    let Some(divisor) = node.input.get(1).and_then(|name| known.get(name.as_str())) else { return Ok(()) };
    let dividend_from_request = node.input.first().and_then(|n| known.get(n.as_str())).is_none_or(|k| k.from_request);
    if INT_TYPES.contains(&dtype) && (divisor.from_request || (divisor.dangerous_constant && dividend_from_request)) {
        return Err(format!(
            "node {:?} ({}) divides integers by a value that a request decides: a request could kill the process; \
             cast to float before dividing",
            node.name, node.op_type
        ));
    }
    Ok(())
}

fn constant(tensor: &TensorProto) -> Result<Known, String> {
    if tensor.data_location == 1 {
        return Err(format!(
            "weights {:?} lie in another file (external data), which is not served: save the model as one file",
            tensor.name
        ));
    }
    let bad = |v: i64| v == 0 || v == -1;
    let raw = match tensor.data_type {
        INT64 => tensor.raw_data.chunks_exact(8).any(|c| c.try_into().is_ok_and(|c| bad(i64::from_le_bytes(c)))),
        6 => tensor.raw_data.chunks_exact(4).any(|c| c.try_into().is_ok_and(|c| bad(i32::from_le_bytes(c).into()))),
        _ => false,
    };
    let listed = tensor.int64_data.iter().any(|v| bad(*v)) || tensor.int32_data.iter().any(|v| bad(i64::from(*v)));
    Ok(Known { dtype: tensor.data_type, from_request: false, dangerous_constant: raw || listed })
}

/// Type and origin of a node's outputs: exact for the operators that change them, the first input's otherwise.
fn result(node: &Node, inputs: &[Known]) -> Result<Known, String> {
    let from_request = inputs.iter().any(|k| k.from_request);
    let first = inputs.first().map_or(0, |k| k.dtype);
    let attribute = |name: &str| node.attribute.iter().find(|a| a.name == name);
    let (dtype, from_request) = match node.op_type.as_str() {
        "Constant" | "ConstantOfShape" => {
            if let Some(tensor) = attribute("value").and_then(|a| a.t.as_ref()) {
                return constant(tensor);
            }
            let integer = attribute("value_int").is_some() || attribute("value_ints").is_some();
            (if integer { INT64 } else { FLOAT }, false)
        }
        "Shape" | "Size" => (INT64, false),
        "Cast" => (attribute("to").map_or(0, |a| i32::try_from(a.i).unwrap_or(0)), from_request),
        "CastLike" => (inputs.get(1).map_or(0, |k| k.dtype), from_request),
        "ArgMax" | "ArgMin" | "NonZero" | "TopK" => (INT64, from_request),
        "Equal" | "Greater" | "GreaterOrEqual" | "Less" | "LessOrEqual" | "IsNaN" | "IsInf" | "Not" | "And" | "Or"
        | "Xor" => (BOOL, from_request),
        "Where" => (inputs.get(1).map_or(0, |k| k.dtype), from_request),
        _ => (first, from_request),
    };
    Ok(Known { dtype, from_request, dangerous_constant: false })
}
