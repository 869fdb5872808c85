//! What a model file holds, read without ONNX Runtime: what `onnxd inspect` judges.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::graph::{self, FLOAT, Known, ML, STANDARD};
use super::onnx::{Attribute, Graph, Node, TensorProto, TypeProto, ValueInfo};
use super::operators::{GIVES_FLOAT, RANDOM, UNSTEADY};
use super::{external, rewrite, sha256};

const DOUBLE: i32 = 11;
/// Constants under this size are not worth a remark.
const LARGE: usize = 1 << 10;

/// A model file taken apart.
#[derive(Debug, Default)]
pub struct Facts {
    /// Version of the file's format.
    pub ir_version: i64,
    /// Name and version of the program that wrote it.
    pub producer: String,
    /// Version of each domain's operators.
    pub opsets: BTreeMap<String, i64>,
    /// `metadata_props`
    pub metadata: BTreeMap<String, String>,
    /// Inputs of the graph that are no constants.
    pub inputs: Vec<Declared>,
    /// Outputs of the graph.
    pub outputs: Vec<Declared>,
    /// Outputs that are maps and served as tensors, with the names of their columns.
    pub labels: BTreeMap<String, Arc<[String]>>,
    /// Nodes, those of inner graphs included.
    pub nodes: usize,
    /// How often each operator is there; with its domain unless that is the standard one.
    pub operators: BTreeMap<String, usize>,
    /// Functions that the file defines.
    pub functions: Vec<String>,
    /// What would be refused.
    pub problems: Vec<Problem>,
    /// Files that come with the model and that no tensor refers to.
    pub unused: Vec<String>,
    /// Files of weights, and how far tensors reach into them.
    pub external: BTreeMap<String, u64>,
    /// Operators whose time or memory a request's values can decide.
    pub unsteady: BTreeSet<String>,
    /// Tree ensembles.
    pub trees: Vec<Tree>,
    /// Nodes that round float64 to float32.
    pub narrowed: Vec<String>,
    /// Constants of float64.
    pub doubles: usize,
    /// Nodes that give other values each time.
    pub random: Vec<String>,
    /// Large constants that are there more than once: their names and the bytes of one.
    pub duplicates: Vec<(Vec<String>, usize)>,
}

/// Something for which a model is refused.
#[derive(Clone, Debug)]
pub struct Problem {
    /// The file of weights that it is about, empty when it is not known which; `None` for a division of integers.
    pub location: Option<String>,
    /// One sentence.
    pub text: String,
}

/// An input or output as the file declares it.
#[derive(Clone, Debug)]
pub struct Declared {
    /// Its name.
    pub name: String,
    /// Element type, such as `float32`, or another kind of value, such as `sequence of maps`.
    pub kind: String,
    /// Whether it is a tensor of a type that is served.
    pub served: bool,
    /// Dimensions with the names of free ones; `None` when no shape is declared.
    pub shape: Option<Vec<String>>,
    /// Dimensions, free ones as `None`.
    pub dims: Option<Vec<Option<i64>>>,
}

/// A tree ensemble in one node.
#[derive(Clone, Debug)]
pub struct Tree {
    /// The node's name.
    pub name: String,
    /// Whether every missing value goes to the false branch, since the node does not say otherwise.
    pub nan_goes_false: bool,
    /// Thresholds that float32, the type of its inputs, cannot hold.
    pub rounded: usize,
}

/// Reads a model file. `files` are names and sizes of the files of weights that come with it.
///
/// # Errors
/// One sentence when it is no model.
pub fn read(onnx: &[u8], files: &[(&str, u64)]) -> Result<Facts, String> {
    let (model, graph) = graph::parse(onnx)?;
    let mut facts = graph::walk(&model, &graph, files);
    facts.ir_version = model.ir_version;
    facts.producer = format!("{} {}", model.producer_name, model.producer_version).trim().to_owned();
    for opset in &model.opset_import {
        let domain = if opset.domain.is_empty() { "ai.onnx" } else { &opset.domain };
        facts.opsets.insert(domain.to_owned(), opset.version);
    }
    facts.metadata = model.metadata_props.into_iter().map(|entry| (entry.key, entry.value)).collect();
    facts.functions = model.functions.iter().map(|f| qualified(&f.domain, &f.name)).collect();
    let constant = |input: &&ValueInfo| graph.initializer.iter().any(|tensor| tensor.name == input.name);
    facts.inputs = graph.input.iter().filter(|input| !constant(input)).map(declared).collect();
    facts.labels = rewrite::labels(onnx)?;
    facts.outputs = graph.output.iter().map(declared).collect();
    for output in &mut facts.outputs {
        output.served |= facts.labels.contains_key(&output.name);
    }
    facts.duplicates = duplicates(&graph);
    Ok(facts)
}

fn qualified(domain: &str, op: &str) -> String {
    if STANDARD.contains(&domain) { op.to_owned() } else { format!("{domain}.{op}") }
}

impl Facts {
    /// Takes a node into account.
    pub(super) fn node(&mut self, node: &Node, inputs: &[Known]) {
        self.nodes += 1;
        let op = node.op_type.as_str();
        let bare = node.name.is_empty() || node.name == op;
        let name = || if bare { op.to_owned() } else { format!("{} ({op})", node.name) };
        *self.operators.entry(qualified(&node.domain, op)).or_default() += 1;
        // Of operators that are not ONNX's own, nothing is known.
        let foreign = node.domain != ML && !STANDARD.contains(&node.domain.as_str());
        if foreign || UNSTEADY.contains(&op) {
            self.unsteady.insert(qualified(&node.domain, op));
        }
        let given = inputs.first().copied().unwrap_or_default().dtype;
        let attribute = |name: &str| node.attribute.iter().find(|a| a.name == name);
        if node.domain == ML {
            if op.starts_with("TreeEnsemble") {
                self.trees.push(tree(name(), given, attribute));
            }
            if given == DOUBLE && (GIVES_FLOAT.contains(&op) || op.ends_with("Classifier") || op == "TreeEnsemble") {
                self.narrowed.push(name());
            }
        }
        if !STANDARD.contains(&node.domain.as_str()) {
            return;
        }
        let to_float = || attribute("to").is_some_and(|to| to.i == i64::from(FLOAT));
        if op == "Cast" && given == DOUBLE && to_float() {
            self.narrowed.push(name());
        }
        let training = op == "Dropout" && inputs.get(2).is_some_and(|mode| !mode.no) && !node.input[2].is_empty();
        if training || RANDOM.contains(&op) {
            self.random.push(name());
        }
    }

    /// Takes a constant into account.
    pub(super) fn tensor(&mut self, tensor: &TensorProto) {
        if tensor.data_type == DOUBLE {
            self.doubles += 1;
        }
        if external::is_external(tensor)
            && let Ok(place) = external::place(tensor)
        {
            let reach = self.external.entry(place.location.unwrap_or_default().to_owned()).or_default();
            let end = place.offset().unwrap_or(0).saturating_add(external::size(tensor).unwrap_or(0));
            *reach = end.max(*reach);
        }
    }
}

fn tree<'a>(name: String, given: i32, attribute: impl Fn(&str) -> Option<&'a Attribute>) -> Tree {
    let tracks = attribute("nodes_missing_value_tracks_true");
    let nan_goes_false = tracks.is_none_or(|a| a.ints.iter().all(|track| *track == 0));
    let thresholds = attribute("nodes_values_as_tensor").or_else(|| attribute("nodes_splits"));
    let doubles = thresholds.and_then(|a| a.t.as_ref()).filter(|t| t.data_type == DOUBLE && given != DOUBLE);
    let raw = doubles.iter().flat_map(|t| t.raw_data.chunks_exact(8)).filter_map(|c| c.try_into().ok());
    let all = raw.map(f64::from_le_bytes).chain(doubles.iter().flat_map(|t| t.double_data.iter().copied()));
    #[expect(clippy::cast_possible_truncation, reason = "what it loses is the question")]
    let rounded = all.filter(|v| v.is_finite() && f64::from(*v as f32) != *v).count();
    Tree { name, nan_goes_false, rounded }
}

fn declared(info: &ValueInfo) -> Declared {
    // ONNX Runtime finds out what is not declared.
    let (kind, served) = info.r#type.as_ref().map_or_else(|| ("not declared".into(), true), kind);
    let shape = info.r#type.as_ref().and_then(|t| t.tensor.as_ref()).and_then(|t| t.shape.as_ref());
    let shown = shape.map(|shape| {
        let text = |dim: &super::onnx::Dim| match (dim.value, &dim.name) {
            (Some(value), _) if value >= 0 => value.to_string(),
            (_, Some(name)) if !name.is_empty() => name.clone(),
            _ => "?".into(),
        };
        shape.dim.iter().map(text).collect()
    });
    Declared { name: info.name.clone(), kind, served, shape: shown, dims: info.dims() }
}

/// Refuses inputs and outputs of which ONNX Runtime's interface does not tell what they are.
///
/// # Errors
/// One sentence that names it.
pub(super) fn kinds(graph: &Graph) -> Result<(), String> {
    let constant = |info: &ValueInfo| graph.initializer.iter().any(|tensor| tensor.name == info.name);
    for input in graph.input.iter().filter(|info| !constant(info)) {
        let tensor = input.r#type.as_ref().and_then(|kind| kind.tensor.as_ref());
        if tensor.is_some_and(|tensor| tensor.shape.is_none()) {
            return Err(format!(
                "input {} declares no shape, so that nobody knows how many dimensions it has: export it with one",
                input.name
            ));
        }
    }
    for info in graph.input.iter().chain(&graph.output) {
        let Some(declared) = &info.r#type else { continue };
        let (name, served) = kind(declared);
        if !served && matches!(name.as_str(), "sparse tensor" | "sequence" | "value of unknown type") {
            return Err(format!("{} is a {name}, which is not served: make it a tensor in the graph", info.name));
        }
    }
    Ok(())
}

/// What a value is, and whether it is served.
fn kind(kind: &TypeProto) -> (String, bool) {
    if let Some(tensor) = &kind.tensor {
        let (name, served) = match tensor.elem_type {
            1 => ("float32", true),
            2 => ("uint8", true),
            3 => ("int8", true),
            4 => ("uint16", true),
            5 => ("int16", true),
            6 => ("int32", true),
            7 => ("int64", true),
            8 => ("string", true),
            9 => ("bool", true),
            10 => ("float16", true),
            11 => ("float64", true),
            12 => ("uint32", true),
            13 => ("uint64", true),
            14 => ("complex64", false),
            15 => ("complex128", false),
            16 => ("bfloat16", true),
            17..=20 => ("float8", true),
            24 => ("float8e8m0", false),
            21 => ("uint4", false),
            22 => ("int4", false),
            23 => ("float4", false),
            _ => ("tensor of unknown type", false),
        };
        return (name.into(), served);
    }
    if let Some(sequence) = &kind.sequence {
        return match &sequence.elem {
            Some(elem) if elem.map.is_some() => ("sequence of maps".into(), false),
            Some(elem) if elem.tensor.is_some() => ("sequence of tensors".into(), false),
            _ => ("sequence".into(), false),
        };
    }
    let other = [(&kind.map, "map"), (&kind.sparse, "sparse tensor"), (&kind.optional, "optional value")];
    let name = other.iter().find(|(there, _)| there.is_some()).map_or("value of unknown type", |(_, name)| name);
    (name.into(), false)
}

fn duplicates(graph: &Graph) -> Vec<(Vec<String>, usize)> {
    let mut seen: HashMap<(i32, &[i64], String), Vec<String>> = HashMap::new();
    for tensor in graph.initializer.iter().filter(|t| t.raw_data.len() >= LARGE) {
        let key = (tensor.data_type, tensor.dims.as_slice(), sha256(&tensor.raw_data));
        seen.entry(key).or_default().push(tensor.name.clone());
    }
    let bytes = |name: &str| graph.initializer.iter().find(|t| t.name == name).map_or(0, |t| t.raw_data.len());
    let mut found: Vec<_> =
        seen.into_values().filter(|names| names.len() > 1).map(|names| (bytes(&names[0]), names)).collect();
    found.sort_by(|a, b| b.cmp(a));
    found.into_iter().map(|(bytes, names)| (names, bytes)).collect()
}
