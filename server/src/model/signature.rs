//! What a model takes and gives: inputs, named features and outputs, from the manifest or, without one, from the graph.
//!
//! A signature decides how JSON maps to tensors (`codec`) and whether a new version may replace an old one (`swap`).

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use super::manifest::{Feature, Manifest, Missing, Role, Semantics};
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
    /// Dimensions of one row; `None` is any size.
    pub row_shape: Vec<Option<usize>>,
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
    /// Its meaning, when the manifest declares one.
    pub semantics: Option<Semantics>,
    /// The name as a JSON key with its colon, ready to be written.
    pub key: Box<str>,
}

impl Output {
    fn new(name: &str, dtype: DType, semantics: Option<Semantics>) -> Self {
        let key = format!("{}:", serde_json::Value::from(name)).into();
        Self { name: name.into(), dtype, semantics, key }
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
    /// `Some(1)` when the graph takes one row a run only.
    pub fixed_rows: Option<usize>,
    keys: Vec<(Box<str>, Slot)>,
    lookup: HashMap<Box<str>, usize>,
}

impl Signature {
    /// Builds the signature and checks the manifest against the graph.
    ///
    /// # Errors
    /// One sentence that names the input or output and what differs or cannot be served.
    pub fn new(graph: &GraphIo, manifest: Option<&Manifest>) -> Result<Self, String> {
        let fixed_rows = rows_of(graph)?;
        let inputs = graph.inputs.iter().map(|port| input(port, graph, manifest)).collect::<Result<Vec<_>, _>>()?;
        if inputs.is_empty() {
            return Err("the graph has no inputs".into());
        }
        if let Some(manifest) = manifest
            && let Some(extra) = manifest.signature.inputs.iter().find(|i| !inputs.iter().any(|g| g.name == i.name))
        {
            return Err(format!("the manifest declares input {:?}, the graph has not", extra.name));
        }
        let outputs = outputs(graph, manifest)?;
        let mut signature =
            Self { inputs, outputs, inferred: manifest.is_none(), fixed_rows, keys: vec![], lookup: HashMap::new() };
        signature.index()?;
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

    fn with_role(&self, role: Role) -> Option<usize> {
        self.outputs.iter().position(|o| o.semantics.as_ref().is_some_and(|s| s.role == role))
    }

    /// Whether a model with this signature can score, unchanged, the tensors decoded for `champion`.
    ///
    /// # Errors
    /// The first difference.
    pub fn can_shadow(&self, champion: &Self) -> Result<(), String> {
        if self.inputs.len() != champion.inputs.len() {
            return Err(format!("it has {} inputs, the champion {}", self.inputs.len(), champion.inputs.len()));
        }
        for (mine, theirs) in self.inputs.iter().zip(&champion.inputs) {
            same_input(mine, theirs)?;
            let names = |i: &Input| i.features.iter().map(|f| f.name.clone()).collect::<Vec<_>>();
            if names(mine) != names(theirs) {
                return Err(format!(
                    "input {}: its features are {:?}, the champion's {:?}",
                    mine.name,
                    names(mine),
                    names(theirs)
                ));
            }
        }
        self.gives_all_of(champion)
    }

    /// Whether every request and every reader of `old` would still be served.
    ///
    /// # Errors
    /// The first difference.
    pub fn can_replace(&self, old: &Self) -> Result<(), String> {
        // Clients that send tensors know inputs by name, type and rank.
        for theirs in &old.inputs {
            let Some(mine) = self.inputs.iter().find(|i| i.name == theirs.name) else {
                return Err(format!("it has no input {:?}, which the champion has", theirs.name));
            };
            if mine.dtype != theirs.dtype || mine.row_shape.len() != theirs.row_shape.len() {
                same_input(mine, theirs)?;
            }
        }
        for (key, slot) in &old.keys {
            let Some(now) = self.lookup.get(key).map(|i| self.keys[*i].1) else {
                return Err(format!("it does not take {key:?}, which the champion takes"));
            };
            let (mine, theirs) = (&self.inputs[now.input()], &old.inputs[slot.input()]);
            if let (Slot::Row { .. }, Slot::Row { .. }) = (now, slot) {
                same_input(mine, theirs)?;
            } else if std::mem::discriminant(&now) != std::mem::discriminant(slot) || mine.dtype != theirs.dtype {
                return Err(format!("{key:?} is {}, the champion takes {}", mine.dtype, theirs.dtype));
            }
        }
        let required = |f: &Feature| f.required || f.missing == Missing::Reject;
        for (key, slot) in &self.keys {
            let now_required = self.feature(*slot).is_none_or(required);
            let was_required = old.lookup.get(key).is_some_and(|i| old.feature(old.keys[*i].1).is_none_or(required));
            if now_required && !was_required {
                return Err(format!("it requires {key:?}, which the champion does not"));
            }
        }
        self.gives_all_of(old)
    }

    fn gives_all_of(&self, other: &Self) -> Result<(), String> {
        for output in &other.outputs {
            match self.outputs.iter().find(|o| o.name == output.name) {
                None => return Err(format!("it has no output {:?}, which the champion has", output.name)),
                Some(o) if o.dtype != output.dtype => {
                    return Err(format!("output {} is {}, the champion's {}", o.name, o.dtype, output.dtype));
                }
                Some(_) => {}
            }
        }
        Ok(())
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

fn same_input(mine: &Input, theirs: &Input) -> Result<(), String> {
    if mine.name != theirs.name {
        return Err(format!("its input is named {:?}, the champion's {:?}", mine.name, theirs.name));
    }
    if mine.dtype != theirs.dtype {
        return Err(format!("input {} is {}, the champion's {}", mine.name, mine.dtype, theirs.dtype));
    }
    if mine.row_shape != theirs.row_shape {
        return Err(format!(
            "input {}: a row has shape {}, the champion's {}",
            mine.name,
            show(&mine.row_shape),
            show(&theirs.row_shape)
        ));
    }
    Ok(())
}

fn show(shape: &[Option<usize>]) -> String {
    let dims: Vec<_> = shape.iter().map(|d| d.map_or("?".into(), |d| d.to_string())).collect();
    format!("[{}]", dims.join(", "))
}

/// The row dimension that all inputs share: `None` when it is free.
fn rows_of(graph: &GraphIo) -> Result<Option<usize>, String> {
    let mut fixed = None;
    for port in &graph.inputs {
        let (_, shape) = port.tensor.as_ref().map_err(|kind| format!("input {} is {kind}", port.name))?;
        match shape.first() {
            None => return Err(format!("input {} is a scalar: it has no row dimension to serve rows by", port.name)),
            Some(1) => fixed = Some(1),
            Some(n) if *n > 1 => {
                return Err(format!(
                    "input {} is fixed to {n} rows a run: export it with a free first dimension (dynamic_axes)",
                    port.name
                ));
            }
            Some(_) => {}
        }
    }
    Ok(fixed)
}

fn input(port: &Port, graph: &GraphIo, manifest: Option<&Manifest>) -> Result<Input, String> {
    let (dtype, shape) = port.tensor.clone().map_err(|kind| format!("input {} is {kind}", port.name))?;
    let row_shape: Vec<_> = shape[1..].iter().map(|d| usize::try_from(*d).ok()).collect();
    let mut features = vec![];
    if let Some(manifest) = manifest {
        let Some(declared) = manifest.signature.inputs.iter().find(|i| i.name == port.name) else {
            return Err(format!("the graph has input {:?}, the manifest does not declare it", port.name));
        };
        let agrees = declared.shape.len() == shape.len()
            && declared.shape.iter().zip(&shape).skip(1).all(|(a, b)| a == b || *a < 0 || *b < 0);
        if declared.dtype != dtype || !agrees {
            return Err(format!(
                "input {}: the manifest says {} {:?}, the graph {dtype} {shape:?}",
                port.name, declared.dtype, declared.shape
            ));
        }
        features.clone_from(&declared.features);
    } else if let (Some(names), 1) = (graph.metadata.get("onnxd.features"), graph.inputs.len()) {
        features = names.split(',').map(|n| named(n.trim())).collect();
    }
    if !features.is_empty() && row_shape.iter().copied().product::<Option<usize>>() != Some(features.len()) {
        return Err(format!(
            "input {}: {} feature names for a row of shape {}",
            port.name,
            features.len(),
            show(&row_shape)
        ));
    }
    Ok(Input { name: port.name.clone(), dtype, row_shape, features })
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

fn outputs(graph: &GraphIo, manifest: Option<&Manifest>) -> Result<Vec<Output>, String> {
    let graph_output = |name: &str| graph.outputs.iter().find(|o| o.name == name);
    let from_graph = |port: &Port| {
        port.tensor.clone().map(|(dtype, _)| dtype).map_err(|kind| {
            format!("output {} is {kind}: export with options={{'zipmap': False}} to get a tensor", port.name)
        })
    };
    match manifest {
        None => graph.outputs.iter().map(|port| Ok(Output::new(&port.name, from_graph(port)?, None))).collect(),
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
                Ok(Output::new(&declared.name, dtype, semantics))
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
            let semantics = Semantics { role, threshold: None, range: None, unit: None, horizon_seconds: None };
            output.semantics = Some(semantics);
        }
        let tensor = |values: [f32; 3]| Tensor::from(array![values[0], values[1], values[2]].into_dyn());
        let nan = f32::NAN;
        let outputs = [tensor([nan, 0.0, 0.0]), tensor([0.0, 0.0, f32::INFINITY]), tensor([nan, nan, nan])];
        let bad = |rows| signature.not_finite(&outputs, rows).map(|output| output.name.as_str());
        assert_eq!((bad(0..3), bad(0..1), bad(1..2), bad(2..3)), (Some("a"), Some("a"), None, Some("b")));
    }
}
