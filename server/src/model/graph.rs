//! Reads an ONNX file without ONNX Runtime, to refuse what could kill the process.
//!
//! The smallest int32 or int64 divided by -1 raises SIGFPE inside ONNX Runtime, and nothing in the process can catch it. So
//! a `Div` or `Mod` must be proved harmless: by its type, since its divisor is never -1, or since its dividend is never
//! negative. What cannot be proved is refused. The file is untrusted: this runs in the probe's child process, within its
//! limits.
//!
//! Measured on x86-64 with ONNX Runtime 1.31.1 and 1.32.0, with each integer type, as tensors and as scalars: a divisor of 0
//! is a clean error everywhere. The smallest number divided by -1 kills the process in `Div` of int32 and int64, and in 1.31.1
//! in their `Mod` too; int8 and int16 give a value, and so does `Mod` with `fmod`, which computes in floats. Unsigned
//! integers cannot overflow.

use std::collections::HashMap;

use prost::Message;

use super::external::{self, Files};
use super::facts::{self, Facts, Problem};
use super::onnx::{Graph, Model, Node, SparseTensor, TensorProto};
use super::operators::{GIVES_FLOAT, KEEPS_TYPE, SCORES};

pub(super) const FLOAT: i32 = 1;
const INT32: i32 = 6;
const INT64: i32 = 7;
const BOOL: i32 = 9;
/// More nodes than a model for rows has that was exported well.
pub(crate) const MANY_NODES: usize = 500;
/// float32, float16, float64, bfloat16; uint8, int8, uint16, int16, uint32, uint64.
const NEVER_KILLS: [i32; 10] = [FLOAT, 10, 11, 16, 2, 3, 4, 5, 12, 13];
/// The domain of the standard operators has two names.
pub(super) const STANDARD: [&str; 2] = ["", "ai.onnx"];
/// The domain of classical machine learning.
pub(super) const ML: &str = "ai.onnx.ml";

/// What is known of a value while the graph is walked.
#[derive(Clone, Copy, Default)]
pub(super) struct Known {
    /// ONNX element type; 0 when it was not proved.
    pub(super) dtype: i32,
    /// Integers that are never -1.
    divides: bool,
    /// Integers that are never negative.
    counts: bool,
    /// A constant `false`.
    pub(super) no: bool,
}

impl Known {
    const fn typed(dtype: i32) -> Self {
        Self { dtype, divides: false, counts: false, no: false }
    }

    const fn count() -> Self {
        Self { dtype: INT64, divides: true, counts: true, no: false }
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

/// Refuses a graph that could kill the process, or whose weights lie outside of `files`: names and sizes of those that
/// come with it.
///
/// # Errors
/// One sentence that names the node or the weights.
pub fn lint(onnx: &[u8], files: &[(&str, u64)]) -> Result<Lint, String> {
    let (model, graph) = parse(onnx)?;
    facts::kinds(&graph)?;
    let facts = walk(&model, &graph, files);
    if let Some(problem) = facts.problems.into_iter().next() {
        return Err(problem.text);
    }
    let mut warnings: Vec<String> = facts.unused.iter().map(|name| unused(name)).collect();
    let nodes = facts.nodes;
    if nodes > MANY_NODES {
        warnings.push(format!("{nodes} nodes: a tree ensemble exported as one node loads and runs far faster"));
    }
    Ok(Lint { warnings, nodes, steady: facts.unsteady.is_empty() && model.functions.is_empty() })
}

/// What is said of a file of weights that is there for nothing.
pub(crate) fn unused(name: &str) -> String {
    format!("no weights lie in {name}: take it out of the manifest's artifact.external_data, and out of the folder")
}

/// Looks at every node and every constant.
pub(super) fn walk(model: &Model, graph: &Graph, files: &[(&str, u64)]) -> Facts {
    let mut walk = Walk { scopes: vec![], files: Files::new(files), facts: Facts::default() };
    walk.graph(graph);
    for function in &model.functions {
        // Types are not written in functions, so that only constant divisors pass.
        walk.scopes = vec![HashMap::new()];
        walk.nodes(&function.node);
    }
    walk.facts.unused = walk.files.unused().map(str::to_owned).collect();
    walk.facts
}

/// Takes a model file apart.
pub(super) fn parse(onnx: &[u8]) -> Result<(Model, Graph), String> {
    let mut model = Model::decode(onnx).map_err(|_| not_onnx(onnx))?;
    let graph = model.graph.take().ok_or_else(|| not_onnx(onnx))?;
    if graph.node.is_empty() {
        return Err("the model has no nodes".into());
    }
    for function in &mut model.functions {
        forget_references(&mut function.node);
    }
    Ok((model, graph))
}

/// Words that the graph's nodes know: keys and categories, those that are told first.
///
/// # Errors
/// When the bytes are not a model.
pub(super) fn words(onnx: &[u8]) -> Result<Vec<String>, String> {
    /// As many as rows that are invented.
    const MOST: usize = 13;
    let (_, graph) = parse(onnx)?;
    let attributes = graph.node.iter().flat_map(|node| &node.attribute);
    let known = attributes.filter(|attribute| matches!(attribute.name.as_str(), "keys_strings" | "cats_strings"));
    let words = known.flat_map(|attribute| &attribute.strings).take(MOST);
    Ok(words.map(|word| String::from_utf8_lossy(word).into_owned()).collect())
}

/// What a function takes from its call is not known here, and nothing may be proved by what stands in its place.
fn forget_references(nodes: &mut [Node]) {
    for node in nodes {
        node.attribute.retain(|attribute| attribute.ref_attr_name.is_empty());
        for attribute in &mut node.attribute {
            let inner = attribute.g.iter_mut().chain(&mut attribute.graphs);
            inner.for_each(|graph| forget_references(&mut graph.node));
        }
    }
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

/// A walk through the graph, in the order in which it runs.
struct Walk<'a> {
    /// The values that are in sight: those of the innermost graph last.
    scopes: Vec<HashMap<&'a str, Known>>,
    files: Files<'a>,
    facts: Facts,
}

impl<'a> Walk<'a> {
    fn get(&self, name: &str) -> Known {
        self.scopes.iter().rev().find_map(|scope| scope.get(name)).copied().unwrap_or_default()
    }

    fn set(&mut self, name: &'a str, known: Known) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(name, known);
        }
    }

    fn graph(&mut self, graph: &'a Graph) {
        self.scopes.push(HashMap::new());
        for input in &graph.input {
            let dtype = input.r#type.as_ref().and_then(|t| t.tensor.as_ref()).map_or(0, |t| t.elem_type);
            self.set(&input.name, Known::typed(dtype));
        }
        for sparse in &graph.sparse_initializer {
            self.sparse(sparse);
            if let Some(values) = &sparse.values {
                self.set(&values.name, constant(values));
            }
        }
        for tensor in &graph.initializer {
            self.tensor(tensor);
            self.set(&tensor.name, constant(tensor));
        }
        self.nodes(&graph.node);
        self.scopes.pop();
    }

    fn nodes(&mut self, list: &'a [Node]) {
        for node in list {
            let op = node.op_type.as_str();
            let standard = STANDARD.contains(&node.domain.as_str());
            let inputs: Vec<Known> = node.input.iter().map(|name| self.get(name)).collect();
            let is = |i: usize| inputs.get(i).copied().unwrap_or_default();
            if standard && matches!(op, "Div" | "Mod") {
                // Both inputs have one type, so it is enough to know that of one.
                let by_type = [is(0), is(1)].iter().any(|known| NEVER_KILLS.contains(&known.dtype));
                let in_floats = op == "Mod" && node.attribute.iter().any(|a| a.name == "fmod" && a.i == 1);
                if !by_type && !in_floats && !is(1).divides && !is(0).counts {
                    let text = format!(
                        "node {:?} ({op}) may divide the smallest integer by -1, which could kill the process: cast to \
                         float before dividing, or divide by a constant",
                        node.name
                    );
                    self.facts.problems.push(Problem { location: None, text });
                }
            }
            self.facts.node(node, &inputs);
            for attribute in &node.attribute {
                for tensor in attribute.t.iter().chain(&attribute.tensors) {
                    self.tensor(tensor);
                }
                for sparse in attribute.sparse_tensor.iter().chain(&attribute.sparse_tensors) {
                    self.sparse(sparse);
                }
                for body in attribute.g.iter().chain(&attribute.graphs) {
                    self.graph(body);
                }
            }
            for (i, output) in node.output.iter().enumerate() {
                let known = match i {
                    0 => first_output(node, standard, &inputs),
                    _ if standard && op == "Split" => Known::typed(is(0).dtype),
                    1 if node.domain == ML && SCORES.contains(&op) => Known::typed(FLOAT),
                    _ => Known::default(),
                };
                self.set(output, known);
            }
        }
    }

    fn tensor(&mut self, tensor: &TensorProto) {
        if let Err(text) = self.files.check(tensor) {
            let location = external::place(tensor).ok().and_then(|place| place.location).unwrap_or_default().to_owned();
            self.facts.problems.push(Problem { location: Some(location), text });
        }
        self.facts.tensor(tensor);
    }

    /// ONNX Runtime puts files in the place of dense tensors only.
    fn sparse(&mut self, sparse: &SparseTensor) {
        for t in sparse.values.iter().chain(&sparse.indices).filter(|tensor| external::is_external(tensor)) {
            let text = format!("sparse weights {:?} lie in another file: save the model as one file", t.name);
            self.facts.problems.push(Problem { location: Some(String::new()), text });
        }
    }
}

/// What is known of a constant tensor. One that lies in another file is not read: it is not known to be harmless.
fn constant(tensor: &TensorProto) -> Known {
    let raw = &tensor.raw_data;
    let listed = || tensor.int64_data.iter().copied().chain(tensor.int32_data.iter().map(|v| i64::from(*v)));
    let all = |is: &dyn Fn(i64) -> bool| {
        let raw = match tensor.data_type {
            _ if external::is_external(tensor) => false,
            INT64 => raw.chunks_exact(8).all(|c| c.try_into().is_ok_and(|c| is(i64::from_le_bytes(c)))),
            INT32 => raw.chunks_exact(4).all(|c| c.try_into().is_ok_and(|c| is(i32::from_le_bytes(c).into()))),
            _ => false,
        };
        raw && listed().all(is)
    };
    let no = tensor.data_type == BOOL && (raw == &[0] || tensor.int32_data == [0]);
    Known { dtype: tensor.data_type, divides: all(&|v| v != -1), counts: all(&|v| v >= 0), no }
}

/// Type of a node's first output where it is sure, and whether it is a constant that may divide.
fn first_output(node: &Node, standard: bool, inputs: &[Known]) -> Known {
    let is = |i: usize| inputs.get(i).copied().unwrap_or_default();
    let attribute = |name: &str| node.attribute.iter().find(|a| a.name == name);
    let typed = Known::typed;
    let op = node.op_type.as_str();
    match op {
        _ if node.domain == ML => match op {
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
                Some(v) => Known { divides: v != -1, counts: v >= 0, ..typed(INT64) },
                None if attribute("value_float").or_else(|| attribute("value_floats")).is_some() => typed(FLOAT),
                None => Known::default(),
            }
        }
        // The same numbers in another shape, or some of them.
        "Identity" | "Reshape" | "Squeeze" | "Unsqueeze" | "Flatten" | "Transpose" | "Expand" | "Tile" | "Gather"
        | "GatherElements" | "GatherND" | "Slice" => is(0),
        "Concat" if !inputs.is_empty() && inputs.iter().all(|known| known.counts) => is(0),
        "Cast" => match attribute("to").map_or(0, |a| i32::try_from(a.i).unwrap_or(0)) {
            INT64 if is(0).counts => Known::count(),
            to => typed(to),
        },
        "CastLike" => typed(is(1).dtype),
        // Both have one type.
        "Where" => typed(is(1).dtype.max(is(2).dtype)),
        "ConstantOfShape" => attribute("value").and_then(|a| a.t.as_ref()).map_or(typed(FLOAT), constant),
        "Shape" | "Size" | "ArgMax" | "ArgMin" | "NonZero" => Known::count(),
        "Equal" | "Greater" | "GreaterOrEqual" | "Less" | "LessOrEqual" | "IsNaN" | "IsInf" | "Not" | "And" | "Or"
        | "Xor" => typed(BOOL),
        _ if KEEPS_TYPE.contains(&op) => typed(is(0).dtype),
        _ => Known::default(),
    }
}

#[cfg(test)]
mod tests;
