//! Reads an ONNX file without ONNX Runtime, to refuse what could kill the process.
//!
//! `INT_MIN / -1` (and, in older runtimes, `x / 0`) raises SIGFPE inside ONNX Runtime and nothing in the process can catch
//! it. So a `Div` or `Mod` must be proved harmless: its numbers are floats, or its divisor is a constant without 0 and -1.
//! What cannot be proved is refused. The file is untrusted: this runs in the probe's child process, within its limits.

use std::collections::HashMap;

use prost::Message;

use super::onnx::{Graph, Model, Node, TensorProto};

const FLOAT: i32 = 1;
const INT32: i32 = 6;
const INT64: i32 = 7;
const BOOL: i32 = 9;
/// float32, float16, float64, bfloat16.
const FLOATS: [i32; 4] = [FLOAT, 10, 11, 16];
/// The domain of the standard operators has two names.
const STANDARD: [&str; 2] = ["", "ai.onnx"];

/// Standard operators whose first output has the type of their first input.
const KEEPS_TYPE: &[&str] = &[
    "Abs",
    "Acos",
    "Acosh",
    "Add",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "AveragePool",
    "BatchNormalization",
    "Ceil",
    "Celu",
    "Clip",
    "Compress",
    "Concat",
    "Conv",
    "ConvTranspose",
    "Cos",
    "Cosh",
    "CumSum",
    "DepthToSpace",
    "Div",
    "Dropout",
    "Elu",
    "Erf",
    "Exp",
    "Expand",
    "Flatten",
    "Floor",
    "Gather",
    "GatherElements",
    "GatherND",
    "Gelu",
    "Gemm",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "GroupNormalization",
    "HardSigmoid",
    "HardSwish",
    "Hardmax",
    "Identity",
    "InstanceNormalization",
    "LRN",
    "LayerNormalization",
    "LeakyRelu",
    "Log",
    "LogSoftmax",
    "LpNormalization",
    "MatMul",
    "Max",
    "MaxPool",
    "Mean",
    "Min",
    "Mish",
    "Mod",
    "Mul",
    "Neg",
    "PRelu",
    "Pad",
    "Pow",
    "Reciprocal",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
    "Relu",
    "Reshape",
    "Resize",
    "Round",
    "ScatterElements",
    "ScatterND",
    "Selu",
    "Sigmoid",
    "Sign",
    "Sin",
    "Sinh",
    "Slice",
    "Softmax",
    "Softplus",
    "Softsign",
    "SpaceToDepth",
    "Split",
    "Sqrt",
    "Squeeze",
    "Sub",
    "Sum",
    "Tan",
    "Tanh",
    "ThresholdedRelu",
    "Tile",
    "TopK",
    "Transpose",
    "Trilu",
    "Unsqueeze",
];
/// Operators of `ai.onnx.ml` that give float32.
const GIVES_FLOAT: &[&str] = &[
    "Binarizer",
    "FeatureVectorizer",
    "LinearRegressor",
    "Normalizer",
    "OneHotEncoder",
    "SVMRegressor",
    "Scaler",
    "TreeEnsembleRegressor",
];
/// Operators whose time or memory the values of a request can decide.
const UNSTEADY: &[&str] = &[
    "Compress",
    "ConstantOfShape",
    "Expand",
    "If",
    "Loop",
    "NonZero",
    "Pad",
    "Range",
    "Resize",
    "Scan",
    "SequenceMap",
    "Tile",
    "Unique",
    "Upsample",
];

/// What is known of a value while the graph is walked.
#[derive(Clone, Copy, Default)]
struct Known {
    /// ONNX element type; 0 when it was not proved.
    dtype: i32,
    /// A constant that anything may be divided by.
    divides: bool,
}

/// The values that are in sight: those of the innermost graph last.
struct Scopes<'a>(Vec<HashMap<&'a str, Known>>);

impl<'a> Scopes<'a> {
    fn get(&self, name: &str) -> Known {
        self.0.iter().rev().find_map(|scope| scope.get(name)).copied().unwrap_or_default()
    }

    fn set(&mut self, name: &'a str, known: Known) {
        if let Some(scope) = self.0.last_mut() {
            scope.insert(name, known);
        }
    }
}

/// What a graph that may be loaded is like.
#[derive(Debug, Default)]
pub struct Lint {
    /// What the author may want to know.
    pub warnings: Vec<String>,
    /// Nodes, those of inner graphs included.
    pub nodes: usize,
    /// Whether a run's time and memory depend on the number of its rows only, as far as the operators tell.
    pub steady: bool,
}

/// Refuses a graph that could kill the process.
///
/// # Errors
/// One sentence that names the node.
pub fn lint(onnx: &[u8]) -> Result<Lint, String> {
    let model = Model::decode(onnx).map_err(|_| not_onnx(onnx))?;
    let graph = model.graph.ok_or_else(|| not_onnx(onnx))?;
    if graph.node.is_empty() {
        return Err("the model has no nodes".into());
    }
    let mut lint = Lint { steady: model.functions.is_empty(), ..Lint::default() };
    walk(&graph, &mut Scopes(vec![]), &mut lint)?;
    for function in &model.functions {
        // Types are not written in functions, so that only constant divisors pass.
        nodes(&function.node, &mut Scopes(vec![HashMap::new()]), &mut lint)?;
    }
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

fn walk<'a>(graph: &'a Graph, scopes: &mut Scopes<'a>, lint: &mut Lint) -> Result<(), String> {
    scopes.0.push(HashMap::new());
    for input in &graph.input {
        let dtype = input.r#type.as_ref().and_then(|t| t.tensor.as_ref()).map_or(0, |t| t.elem_type);
        scopes.set(&input.name, Known { dtype, divides: false });
    }
    let sparse = graph.sparse_initializer.iter().filter_map(|s| s.values.as_ref());
    for tensor in graph.initializer.iter().chain(sparse) {
        scopes.set(&tensor.name, constant(tensor)?);
    }
    nodes(&graph.node, scopes, lint)?;
    scopes.0.pop();
    Ok(())
}

fn nodes<'a>(list: &'a [Node], scopes: &mut Scopes<'a>, lint: &mut Lint) -> Result<(), String> {
    for node in list {
        lint.nodes += 1;
        let op = node.op_type.as_str();
        let standard = STANDARD.contains(&node.domain.as_str());
        lint.steady &= !UNSTEADY.contains(&op);
        let inputs: Vec<Known> = node.input.iter().map(|name| scopes.get(name)).collect();
        let is = |i: usize| inputs.get(i).copied().unwrap_or_default();
        if standard && matches!(op, "Div" | "Mod") {
            // Both inputs have one type, so it is enough to know that of one.
            let float = [is(0), is(1)].iter().any(|known| FLOATS.contains(&known.dtype));
            if !float && !is(1).divides {
                return Err(format!(
                    "node {:?} ({op}) may divide integers by 0 or -1, which could kill the process: cast to float before \
                     dividing, or divide by a constant",
                    node.name
                ));
            }
        }
        for attribute in &node.attribute {
            if let Some(tensor) = &attribute.t {
                constant(tensor)?;
            }
            for body in attribute.g.iter().chain(&attribute.graphs) {
                walk(body, scopes, lint)?;
            }
        }
        for (i, output) in node.output.iter().enumerate() {
            let known = match i {
                0 => first_output(node, standard, &inputs)?,
                _ if standard && op == "Split" => Known { dtype: is(0).dtype, divides: false },
                _ => Known::default(),
            };
            scopes.set(output, known);
        }
    }
    Ok(())
}

/// What is known of a constant tensor; refused when it lies in another file.
fn constant(tensor: &TensorProto) -> Result<Known, String> {
    if tensor.data_location == 1 {
        return Err(format!(
            "weights {:?} lie in another file (external data), which is not served: save the model as one file",
            tensor.name
        ));
    }
    let harmless = |v: i64| v != 0 && v != -1;
    let raw = &tensor.raw_data;
    let listed = tensor.int64_data.iter().copied().chain(tensor.int32_data.iter().map(|v| i64::from(*v)));
    let divides = match tensor.data_type {
        INT64 => raw.chunks_exact(8).all(|c| c.try_into().is_ok_and(|c| harmless(i64::from_le_bytes(c)))),
        INT32 => raw.chunks_exact(4).all(|c| c.try_into().is_ok_and(|c| harmless(i32::from_le_bytes(c).into()))),
        // Other integers are as rare as they are hard to prove.
        _ => false,
    };
    Ok(Known { dtype: tensor.data_type, divides: divides && listed.into_iter().all(harmless) })
}

/// Type of a node's first output where it is sure, and whether it is a constant that may divide.
fn first_output(node: &Node, standard: bool, inputs: &[Known]) -> Result<Known, String> {
    let is = |i: usize| inputs.get(i).copied().unwrap_or_default();
    let attribute = |name: &str| node.attribute.iter().find(|a| a.name == name);
    let typed = |dtype: i32| Known { dtype, divides: false };
    let op = node.op_type.as_str();
    Ok(match op {
        _ if node.domain == "ai.onnx.ml" => match op {
            "Imputer" | "ArrayFeatureExtractor" => typed(is(0).dtype),
            _ if GIVES_FLOAT.contains(&op) => typed(FLOAT),
            _ => Known::default(),
        },
        _ if !standard => Known::default(),
        "Constant" => {
            if let Some(tensor) = attribute("value").and_then(|a| a.t.as_ref()) {
                return constant(tensor);
            }
            let one = attribute("value_int").map(|a| a.i);
            match one {
                Some(v) => Known { dtype: INT64, divides: v != 0 && v != -1 },
                None if attribute("value_float").or_else(|| attribute("value_floats")).is_some() => typed(FLOAT),
                None => Known::default(),
            }
        }
        // The same numbers in another shape.
        "Identity" | "Reshape" | "Squeeze" | "Unsqueeze" => is(0),
        "Cast" => typed(attribute("to").map_or(0, |a| i32::try_from(a.i).unwrap_or(0))),
        "CastLike" => typed(is(1).dtype),
        "Where" => typed(is(1).dtype),
        "Shape" | "Size" | "ArgMax" | "ArgMin" | "NonZero" => typed(INT64),
        "Equal" | "Greater" | "GreaterOrEqual" | "Less" | "LessOrEqual" | "IsNaN" | "IsInf" | "Not" | "And" | "Or"
        | "Xor" => typed(BOOL),
        _ if KEEPS_TYPE.contains(&op) => typed(is(0).dtype),
        _ => Known::default(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::onnx::{Attribute, Function, TensorType, TypeProto, ValueInfo};
    use super::*;

    fn node(op: &str, inputs: &[&str], output: &str, attribute: Vec<Attribute>) -> Node {
        let input = inputs.iter().map(|i| (*i).to_owned()).collect();
        Node {
            op_type: op.into(),
            name: output.into(),
            input,
            output: vec![output.into()],
            attribute,
            ..Node::default()
        }
    }

    fn attribute(name: &str, change: impl FnOnce(&mut Attribute)) -> Vec<Attribute> {
        let mut attribute = Attribute { name: name.into(), ..Attribute::default() };
        change(&mut attribute);
        vec![attribute]
    }

    fn input(name: &str, dtype: i32) -> ValueInfo {
        let tensor = Some(TensorType { elem_type: dtype });
        ValueInfo { name: name.into(), r#type: Some(TypeProto { tensor }) }
    }

    fn integers(name: &str, values: &[i64]) -> TensorProto {
        TensorProto { name: name.into(), data_type: INT64, int64_data: values.to_vec(), ..TensorProto::default() }
    }

    /// A graph with the inputs `i` (int64), `j` (int32) and `f` (float32), and these nodes.
    fn graph(node: Vec<Node>) -> Graph {
        let initializer = vec![integers("three", &[3, 5]), integers("minus", &[7, -1]), integers("none", &[0])];
        let input = vec![input("i", INT64), input("j", INT32), input("f", FLOAT)];
        Graph { node, initializer, input, sparse_initializer: vec![] }
    }

    fn check(graph: Graph, functions: Vec<Function>) -> Result<Lint, String> {
        lint(&Model { graph: Some(graph), functions }.encode_to_vec())
    }

    fn div(a: &str, b: &str) -> Node {
        node("Div", &[a, b], "y", vec![])
    }

    #[test]
    fn divisions_that_are_proved_harmless_pass() {
        let to_float = || attribute("to", |a| a.i = FLOAT.into());
        let one = || attribute("value_int", |a| a.i = 2);
        for (name, nodes) in [
            ("floats", vec![div("f", "f")]),
            ("an integer by a constant", vec![div("i", "three")]),
            ("a constant in another shape", vec![node("Unsqueeze", &["three"], "t", vec![]), div("i", "t")]),
            ("a Constant node", vec![node("Constant", &[], "c", one()), div("i", "c")]),
            ("cast before", vec![node("Cast", &["i"], "g", to_float()), div("g", "f")]),
            ("floats through other operators", vec![node("Relu", &["f"], "r", vec![]), div("f", "r")]),
        ] {
            assert!(check(graph(nodes), vec![]).is_ok(), "{name}");
        }
    }

    #[test]
    fn divisions_that_could_kill_the_process_are_refused() {
        let value = |t: TensorProto| attribute("value", |a| a.t = Some(t));
        let branch =
            || attribute("then_branch", |a| a.g = Some(Graph { node: vec![div("i", "j")], ..Graph::default() }));
        for (name, nodes) in [
            ("by a request's value", vec![div("i", "i")]),
            ("by a constant -1", vec![div("i", "minus")]),
            ("by a constant 0", vec![div("i", "none")]),
            ("under the domain's other name", vec![Node { domain: "ai.onnx".into(), ..div("i", "minus") }]),
            ("the rest as well", vec![Node { op_type: "Mod".into(), ..div("j", "j") }]),
            ("by a negated constant", vec![node("Neg", &["three"], "n", vec![]), div("i", "n")]),
            ("by a Constant node", vec![node("Constant", &[], "c", value(integers("", &[-1]))), div("i", "c")]),
            ("by a list", vec![node("Constant", &[], "c", attribute("value_ints", |a| a.i = 1)), div("i", "c")]),
            ("by a shape", vec![node("Shape", &["f"], "s", vec![]), div("i", "s")]),
            ("of unknown types", vec![node("Unknown", &["f"], "u", vec![]), div("u", "u")]),
            ("of what a branch gives", vec![node("If", &["f"], "u", vec![]), div("u", "u")]),
            ("in a branch", vec![node("If", &["f"], "u", branch())]),
            (
                "a second output",
                vec![Node { output: vec!["v".into(), "k".into()], ..node("TopK", &["f"], "", vec![]) }, div("k", "k")],
            ),
        ] {
            let reason = check(graph(nodes), vec![]).expect_err(name);
            assert!(reason.contains("could kill the process"), "{name}: {reason}");
        }
        let function = Function { node: vec![div("a", "b")] };
        let reason = check(graph(vec![div("f", "f")]), vec![function]).expect_err("in a function");
        assert!(reason.contains("could kill the process"), "{reason}");
    }

    #[test]
    fn what_a_request_can_make_slow_is_not_steady() {
        let steady = |op: &str| check(graph(vec![node(op, &["f"], "y", vec![])]), vec![]).expect("accepted").steady;
        assert!(steady("Relu"));
        assert!(!steady("Loop"));
        assert!(!steady("Range"));
    }
}
