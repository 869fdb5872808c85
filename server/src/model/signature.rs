//! What a model takes and gives: inputs, named features and outputs, from the manifest or, without one, from the graph.
//!
//! A signature decides how JSON maps to tensors (`codec`) and whether a new version may replace an old one (`swap`).

mod compatible;

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::manifest::{Feature, Layout, Manifest, Missing, Role, Semantics};
use super::plain::Plain;
use super::tensor::{DType, Tensor};

/// What the graph itself says of its inputs and outputs.
#[derive(Clone, Debug, Default)]
pub struct GraphIo {
    /// In graph order.
    pub inputs: Vec<Port>,
    /// In graph order.
    pub outputs: Vec<Port>,
    /// `metadata_props` of the file.
    pub metadata: BTreeMap<String, String>,
    /// Names of the inputs' dimensions, empty where there is none.
    pub dims: BTreeMap<String, Vec<String>>,
    /// Names of the columns of outputs that are probabilities by class.
    pub labels: BTreeMap<String, Arc<[String]>>,
    /// Words that the graph knows, where it takes text.
    pub words: Arc<[String]>,
    /// Whether no operator takes sizes, time or memory from values.
    pub steady: bool,
}

impl GraphIo {
    /// Whether the first dimensions of the inputs have different names, so that they need not be rows of the same things.
    pub(super) fn first_dims_differ(&self) -> bool {
        let mut names = self.dims.values().filter_map(|dims| dims.first()).filter(|name| !name.is_empty());
        names.next().is_some_and(|first| names.any(|name| name != first))
    }

    /// Shapes of the inputs that are tensors, as the graph declares them.
    pub(super) fn input_shapes(&self) -> Vec<&[i64]> {
        self.inputs.iter().filter_map(|port| port.tensor.as_ref().ok()).map(|(_, shape)| shape.as_slice()).collect()
    }
}

/// How a model takes rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rows {
    /// The first axis of every input and output is rows, any number of them.
    Any,
    /// The same, but a run has exactly this many: fewer are padded, more take several runs.
    Fixed(usize),
    /// There is no row axis: a request is one run, its tensors in their full shapes. Inside of the server each tensor has
    /// a first axis of 1 before them, so that all tensors have rows; [`super::session`] alone takes it off and puts it on.
    Whole,
}

/// What to do when a manifest speaks of rows and its graph has none.
pub(super) const SAY_WHOLE: &str =
    "with signature.layout \"whole\" its manifest says that each request is one run, with tensors in their full shapes";

impl Rows {
    /// What declared shapes of inputs suggest; -1 is a free dimension.
    #[must_use]
    pub fn guess(inputs: &[&[i64]]) -> Self {
        let rows = |shape: &&[i64]| match shape.first() {
            None | Some(0) => Self::Whole,
            Some(rows) => usize::try_from(*rows).map_or(Self::Any, Self::Fixed),
        };
        match inputs.split_first() {
            Some((first, rest)) if rest.iter().all(|shape| rows(shape) == rows(first)) => rows(first),
            _ => Self::Whole,
        }
    }

    /// What a manifest says. Where it says that there are rows, a number in one input holds for those that have none.
    ///
    /// # Errors
    /// When the graph has no rows.
    pub(super) fn declared(inputs: &[&[i64]], layout: Layout) -> Result<Self, String> {
        if layout == Layout::Whole {
            return Ok(Self::Whole);
        }
        let numbers: Vec<&[i64]> =
            inputs.iter().copied().filter(|shape| shape.first().is_none_or(|rows| *rows >= 0)).collect();
        match if numbers.is_empty() { Self::guess(inputs) } else { Self::guess(&numbers) } {
            Self::Whole => Err(format!("the first dimensions of its inputs are not rows: {SAY_WHOLE}")),
            rows => Ok(rows),
        }
    }
}

/// One input or output of the graph.
#[derive(Clone, Debug)]
pub struct Port {
    /// The graph's name for it.
    pub name: String,
    /// `Err` describes a kind that no protocol of ours can carry, such as a sequence of maps.
    pub tensor: Result<(DType, Vec<i64>), String>,
}

/// One input tensor.
#[derive(Clone, Debug)]
pub struct Input {
    /// The graph's name for it.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Dimensions of one row, which are all that the graph declares when the model is [`Rows::Whole`]; `None` is any size.
    pub row_shape: Vec<Option<usize>>,
    /// Names of these dimensions, empty where there is none: those of one name have one size.
    pub dims: Vec<String>,
    /// Names of its columns; empty when the whole row is one value under the input's own name.
    pub features: Vec<Feature>,
}

/// One output tensor.
#[derive(Clone, Debug)]
pub struct Output {
    /// The graph's name for it.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Dimensions of one row as the graph declares them, which may be wrong; all of them when the model is [`Rows::Whole`].
    pub row_shape: Vec<Option<usize>>,
    /// Its meaning, when the manifest declares one.
    pub semantics: Option<Semantics>,
    /// The class of each column, for probabilities that the file declares as a map from class to probability.
    pub labels: Option<Arc<[String]>>,
    /// The name as a JSON key with its colon, ready to be written.
    pub key: Box<str>,
}

impl Output {
    fn new(port: &Port, dtype: DType, semantics: Option<Semantics>, graph: &GraphIo, rows: Rows) -> Self {
        let name = port.name.as_str();
        let key = format!("{}:", serde_json::Value::from(name)).into();
        let dims = port.tensor.as_ref().map_or(&[][..], |(_, dims)| dims);
        let dims = dims.get(usize::from(rows != Rows::Whole)..).unwrap_or_default();
        let row_shape = dims.iter().map(|d| usize::try_from(*d).ok()).collect();
        Self { name: name.into(), dtype, row_shape, semantics, labels: graph.labels.get(name).cloned(), key }
    }

    /// Whether a NaN or an infinity makes the answer useless.
    #[must_use]
    pub fn must_be_finite(&self) -> bool {
        self.semantics.as_ref().is_some_and(|s| matches!(s.role, Role::Decision | Role::Score | Role::Forecast))
    }
}

/// Where the value under a key of a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// One column of an input.
    Feature {
        /// Index into [`Signature::inputs`].
        input: usize,
        /// Column of the row.
        column: usize,
    },
    /// A whole row of an input.
    Row {
        /// Index into [`Signature::inputs`].
        input: usize,
    },
}

/// Inputs and outputs of a model, ready to decode requests and to encode answers.
#[derive(Clone, Debug)]
pub struct Signature {
    /// In graph order.
    pub inputs: Vec<Input>,
    /// In the order in which answers list them.
    pub outputs: Vec<Output>,
    /// Whether it was derived from the graph because there is no manifest.
    pub inferred: bool,
    /// How the model takes rows.
    pub rows: Rows,
    /// Words that the graph knows, where it takes text.
    pub words: Arc<[String]>,
    /// How its rows are read when they are plain numbers.
    pub plain: Option<Plain>,
    keys: Vec<(Box<str>, Slot)>,
    lookup: HashMap<Box<str>, usize>,
}

impl Signature {
    /// Builds the signature and checks the manifest against the graph; how the model takes rows is what these two say.
    ///
    /// # Errors
    /// One sentence that names the input or output and what differs or cannot be served.
    pub fn new(graph: &GraphIo, manifest: Option<&Manifest>) -> Result<Self, String> {
        let shapes = graph.input_shapes();
        let rows = manifest.map(|manifest| Rows::declared(&shapes, manifest.signature.layout)).transpose();
        Self::with_rows(graph, manifest, rows?.unwrap_or_else(|| Rows::guess(&shapes)))
    }

    /// The same for a model of which it is known how it takes rows.
    ///
    /// # Errors
    /// As [`Signature::new`].
    pub fn with_rows(graph: &GraphIo, manifest: Option<&Manifest>, rows: Rows) -> Result<Self, String> {
        let inputs =
            graph.inputs.iter().map(|port| input(port, graph, manifest, rows)).collect::<Result<Vec<_>, _>>()?;
        if let Some(manifest) = manifest
            && let Some(extra) = manifest.signature.inputs.iter().find(|i| !inputs.iter().any(|g| g.name == i.name))
        {
            return Err(format!("the manifest declares input {:?}, the graph has not", extra.name));
        }
        let outputs = outputs(graph, manifest, rows)?;
        let (inferred, words) = (manifest.is_none(), Arc::clone(&graph.words));
        let (plain, keys, lookup) = (None, vec![], HashMap::new());
        let mut signature = Self { inputs, outputs, inferred, rows, words, plain, keys, lookup };
        signature.index()?;
        signature.plain = Plain::of(&signature.inputs, &signature.keys);
        Ok(signature)
    }

    fn index(&mut self) -> Result<(), String> {
        for (i, input) in self.inputs.iter().enumerate() {
            if input.features.is_empty() {
                self.keys.push((input.name.as_str().into(), Slot::Row { input: i }));
            }
            for (column, feature) in input.features.iter().enumerate() {
                self.keys.push((feature.name.as_str().into(), Slot::Feature { input: i, column }));
            }
        }
        for (i, (key, _)) in self.keys.iter().enumerate() {
            if self.lookup.insert(key.clone(), i).is_some() {
                return Err(format!("two features are named {key:?}"));
            }
        }
        Ok(())
    }

    /// A tensor's shape as the protocols show it: without the first axis that [`Rows::Whole`] models have only inside.
    #[must_use]
    pub fn wire_shape<'a>(&self, shape: &'a [usize]) -> &'a [usize] {
        if self.rows == Rows::Whole { shape.get(1..).unwrap_or_default() } else { shape }
    }

    /// Every key of a request, in declared order.
    #[must_use]
    pub fn keys(&self) -> &[(Box<str>, Slot)] {
        &self.keys
    }

    /// Finds a key. `hint` is where it most likely is: clients tend to send keys in declared order.
    #[must_use]
    pub fn find(&self, key: &str, hint: usize) -> Option<usize> {
        match self.keys.get(hint) {
            Some((name, _)) if &**name == key => Some(hint),
            _ => self.lookup.get(key).copied(),
        }
    }

    /// The first output that must be finite and is not in some of these rows.
    #[must_use]
    pub fn not_finite(&self, outputs: &[Tensor], rows: Range<usize>) -> Option<&Output> {
        let all = outputs.first().and_then(Tensor::rows).is_some_and(|count| rows == (0..count));
        let found = |tensor: &Tensor| match tensor.first_non_finite_row() {
            None => false,
            Some(_) if all => true,
            Some(_) => tensor.slice_rows(rows.clone()).first_non_finite_row().is_some(),
        };
        self.outputs.iter().zip(outputs).find(|(o, tensor)| o.must_be_finite() && found(tensor)).map(|(o, _)| o)
    }

    /// The output that decides: declared as decision or class, else the first that is not a float.
    #[must_use]
    pub fn decision(&self) -> Option<usize> {
        self.with_role(Role::Decision)
            .or_else(|| self.with_role(Role::Class))
            .or_else(|| self.outputs.iter().position(|o| !o.dtype.is_float()))
    }

    /// The output that scores: declared as score, else the first float.
    #[must_use]
    pub fn score(&self) -> Option<usize> {
        self.with_role(Role::Score)
            .or_else(|| self.outputs.iter().position(|o| o.dtype.is_float() && o.semantics.is_none()))
    }

    /// The output that forecasts, when the manifest declares one.
    #[must_use]
    pub fn forecast(&self) -> Option<usize> {
        self.with_role(Role::Forecast)
    }

    /// The key under which rows may tell the present value of what the forecast is of.
    #[must_use]
    pub fn target(&self) -> Option<&str> {
        self.outputs.get(self.forecast()?)?.semantics.as_ref()?.target_feature.as_deref()
    }

    /// What errors of the forecast are told in: a hundredth of its range, if the manifest declares one.
    #[must_use]
    pub fn loss_unit(&self) -> f64 {
        let range = || self.outputs.get(self.forecast()?)?.semantics.as_ref()?.range;
        range().map_or(1.0, |(least, most)| (most - least) / 100.0)
    }

    /// How far ahead the forecast looks, in seconds.
    #[must_use]
    pub fn horizon(&self) -> Option<u64> {
        self.outputs.get(self.forecast()?)?.semantics.as_ref()?.horizon_seconds
    }

    fn with_role(&self, role: Role) -> Option<usize> {
        self.outputs.iter().position(|o| o.semantics.as_ref().is_some_and(|s| s.role == role))
    }

    /// Whether the only input is a row of values without names, so that a table may name them as it likes.
    #[must_use]
    pub fn has_nameless_columns(&self) -> bool {
        let row = |input: &Input| input.row_shape.len() == 1 && input.features.is_empty();
        self.rows != Rows::Whole && matches!(self.inputs.as_slice(), [input] if row(input))
    }

    /// The same model with the columns of its only input, which has no features, named as those of a table. `None` when
    /// the input is no such row of values; `Err` when two columns have one name.
    ///
    /// # Errors
    /// How many columns the input takes, or the name that is there twice.
    pub fn with_columns(&self, names: &[String]) -> Option<Result<Self, String>> {
        let ([input], true) = (self.inputs.as_slice(), self.has_nameless_columns()) else { return None };
        let [width] = input.row_shape.as_slice() else { return None };
        if matches!(names, [name] if *name == input.name) {
            return None;
        }
        let count = names.len();
        if count == 0 || width.is_some_and(|width| width != count) {
            let takes = width.map_or("one at least".to_owned(), |width| width.to_string());
            return Some(Err(format!("there are {count} columns, {} takes {takes}", input.name)));
        }
        let features = names.iter().map(|name| named(name)).collect();
        let inputs = vec![Input { features, row_shape: vec![Some(names.len())], ..input.clone() }];
        let mut signature = Self { inputs, keys: vec![], lookup: HashMap::new(), ..self.clone() };
        Some(signature.index().map(|()| signature))
    }

    /// The declared feature behind a slot.
    #[must_use]
    pub fn feature(&self, slot: Slot) -> Option<&Feature> {
        match slot {
            Slot::Feature { input, column } => self.inputs[input].features.get(column),
            Slot::Row { .. } => None,
        }
    }
}

impl Slot {
    /// Index into [`Signature::inputs`].
    #[must_use]
    pub const fn input(self) -> usize {
        match self {
            Self::Feature { input, .. } | Self::Row { input } => input,
        }
    }
}

fn show(shape: &[Option<usize>]) -> String {
    let dims: Vec<_> = shape.iter().map(|d| d.map_or("?".into(), |d| d.to_string())).collect();
    format!("[{}]", dims.join(", "))
}

const CAST: &str = "cast it inside of the graph";

fn input(port: &Port, graph: &GraphIo, manifest: Option<&Manifest>, rows: Rows) -> Result<Input, String> {
    let (dtype, shape) = port.tensor.clone().map_err(|kind| {
        let fix = if kind.starts_with("a tensor") { CAST } else { "export it without the step that takes it apart" };
        format!("input {} is {kind}: {fix}", port.name)
    })?;
    let rowless = usize::from(rows != Rows::Whole);
    let row_shape: Vec<_> = shape.iter().skip(rowless).map(|d| usize::try_from(*d).ok()).collect();
    let width = row_shape.iter().copied().product::<Option<usize>>();
    let mut features = vec![];
    if let Some(manifest) = manifest {
        let Some(declared) = manifest.signature.inputs.iter().find(|i| i.name == port.name) else {
            return Err(format!("the graph has input {:?}, the manifest does not declare it", port.name));
        };
        let agrees = declared.shape.len() == shape.len()
            && declared.shape.iter().zip(&shape).skip(rowless).all(|(a, b)| a == b || *a < 0 || *b < 0);
        if declared.dtype != dtype || !agrees {
            return Err(format!(
                "input {}: the manifest says {} {:?}, the graph {dtype} {shape:?}",
                port.name, declared.dtype, declared.shape
            ));
        }
        features.clone_from(&declared.features);
    } else if let (Some(names), 1) = (graph.metadata.get("onnxd.features"), graph.inputs.len()) {
        features = names.split(',').map(|n| named(n.trim())).collect();
        if rows == Rows::Whole && width != Some(features.len()) {
            // They name the columns of rows, and there are none.
            features.clear();
        }
    }
    if !features.is_empty() && width != Some(features.len()) {
        return Err(format!(
            "input {}: {} feature names for a row of shape {}",
            port.name,
            features.len(),
            show(&row_shape)
        ));
    }
    let dims = graph.dims.get(&port.name).map(|dims| dims[rowless.min(dims.len())..].to_vec()).unwrap_or_default();
    Ok(Input { name: port.name.clone(), dtype, row_shape, dims, features })
}

fn named(name: &str) -> Feature {
    Feature {
        name: name.into(),
        required: true,
        missing: Missing::Reject,
        default: None,
        min: None,
        max: None,
        unit: None,
        description: None,
    }
}

fn outputs(graph: &GraphIo, manifest: Option<&Manifest>, rows: Rows) -> Result<Vec<Output>, String> {
    let graph_output = |name: &str| graph.outputs.iter().find(|o| o.name == name);
    let from_graph = |port: &Port| {
        port.tensor.clone().map(|(dtype, _)| dtype).map_err(|kind| {
            let fix = match kind.as_str() {
                tensor if tensor.starts_with("a tensor") => CAST,
                maps if maps.contains("maps") => "export with options={id(model): {\"zipmap\": False}} to get a tensor",
                _ => "make it a tensor in the graph (ConcatFromSequence, OptionalGetElement), or leave it out of the outputs",
            };
            format!("output {} is {kind}: {fix}", port.name)
        })
    };
    match manifest {
        None => graph.outputs.iter().map(|port| Ok(Output::new(port, from_graph(port)?, None, graph, rows))).collect(),
        Some(manifest) => manifest
            .signature
            .outputs
            .iter()
            .map(|declared| {
                let port = graph_output(&declared.name)
                    .ok_or_else(|| format!("the manifest declares output {:?}, the graph has not", declared.name))?;
                let dtype = from_graph(port)?;
                if dtype != declared.dtype {
                    return Err(format!(
                        "output {}: the manifest says {}, the graph {dtype}",
                        declared.name, declared.dtype
                    ));
                }
                let semantics = manifest.outputs_semantics.get(&declared.name).cloned();
                Ok(Output::new(port, dtype, semantics, graph, rows))
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    /// Rows of one run belong to different requests: each is judged by its own rows, in every output.
    #[test]
    fn each_rows_outputs_are_judged_by_themselves() {
        let port = |name: &str| Port { name: name.into(), tensor: Ok((DType::F32, vec![-1])) };
        let x = Port { name: "x".into(), tensor: Ok((DType::F32, vec![-1, 1])) };
        let graph = GraphIo { inputs: vec![x], outputs: vec![port("a"), port("b"), port("c")], ..GraphIo::default() };
        let mut signature = Signature::new(&graph, None).expect("a signature");
        for (output, role) in signature.outputs.iter_mut().zip([Role::Score, Role::Forecast]) {
            let semantics = Semantics {
                role,
                threshold: None,
                range: None,
                unit: None,
                horizon_seconds: None,
                target_feature: None,
            };
            output.semantics = Some(semantics);
        }
        let tensor = |values: [f32; 3]| Tensor::from(array![values[0], values[1], values[2]].into_dyn());
        let nan = f32::NAN;
        let outputs = [tensor([nan, 0.0, 0.0]), tensor([0.0, 0.0, f32::INFINITY]), tensor([nan, nan, nan])];
        let bad = |rows| signature.not_finite(&outputs, rows).map(|output| output.name.as_str());
        assert_eq!((bad(0..3), bad(0..1), bad(1..2), bad(2..3)), (Some("a"), Some("a"), None, Some("b")));
    }
}
