//! One ONNX Runtime session: loading from bytes, running with a deadline. The only module that talks to `ort`.

use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use half::{bf16, f16};
use ndarray::{ArrayD, Axis, IxDyn};
use ort::ep::CPU;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::session::{RunOptions, SessionInputValue};
use ort::value::{DynValue, TensorElementType, TensorRef, ValueType};

use super::graph;
use super::rewrite::{self, Rewritten};
use super::runtime::Runtime;
use super::signature::{GraphIo, Port, Rows, Signature};
use super::tensor::{DType, Tensor};
use super::{Artifact, Infer, RunError};

/// How often running sessions are checked against their deadlines.
const WATCH_INTERVAL: Duration = Duration::from_millis(20);

/// A session that one thread uses at a time.
pub struct Session {
    inner: ort::session::Session,
    inputs: usize,
    /// All of them, in the graph's order.
    outputs: Vec<String>,
    /// Which of them are answered, in the signature's order.
    answered: Vec<usize>,
    rows: Rows,
    watched: Arc<Watched>,
}

/// Loads a graph from memory, never from a path, so that the file cannot make ONNX Runtime open others. Files of weights
/// are given by name and bytes; the session has its own copy of them when this returns.
///
/// Inputs and outputs that no protocol carries are replaced, see [`rewrite`].
///
/// `intra_threads` is the size of the session's own pool; its threads never spin. What a run needs comes from the
/// process' allocator and goes back to it: an arena for each session would keep what the largest run ever needed.
///
/// # Errors
/// ONNX Runtime's own message.
pub fn load(runtime: &Runtime, artifact: &Artifact, intra_threads: usize) -> Result<(Session, GraphIo), String> {
    let rewritten = rewrite::rewrite(&artifact.onnx)?;
    let builder = || -> ort::Result<SessionBuilder> {
        let mut builder = ort::session::Session::builder(&runtime.environment)?
            .with_optimization_level(GraphOptimizationLevel::All)?
            .with_intra_threads(intra_threads)?
            .with_inter_threads(1)?
            .with_intra_op_spinning(false)?
            .with_inter_op_spinning(false)?
            .with_execution_providers([CPU::default().with_arena_allocator(false).build()])?
            .with_log_level(ort::logging::LogLevel::Fatal)?;
        for file in &artifact.external {
            builder = builder.with_external_initializer_file_in_memory(&file.path, Arc::clone(&file.bytes))?;
        }
        Ok(builder)
    };
    let commit = |mut builder: SessionBuilder| {
        builder.commit_from_memory(rewritten.as_ref().map_or(&artifact.onnx, |rewritten| &rewritten.onnx))
    };
    let inner = runtime.providers.start(builder, commit).map_err(|e| e.to_string())?;
    let Rewritten { labels, names, .. } = rewritten.unwrap_or_default();
    let name = |outlet: &ort::value::Outlet| names.get(outlet.name()).map_or(outlet.name(), String::as_str).to_owned();
    let ports = |outlets: &[ort::value::Outlet]| {
        outlets.iter().map(|o| Port { name: name(o), tensor: port(o.dtype()) }).collect::<Vec<_>>()
    };
    let (inputs, outputs) = (ports(inner.inputs()), ports(inner.outputs()));
    let mut io = GraphIo { inputs, outputs, labels, ..GraphIo::default() };
    for outlet in inner.inputs() {
        if let ValueType::Tensor { dimension_symbols, .. } = outlet.dtype() {
            io.dims.insert(name(outlet), dimension_symbols.to_vec());
        }
    }
    if io.inputs.iter().any(|port| matches!(port.tensor, Ok((DType::Text, _)))) {
        io.words = graph::words(&artifact.onnx)?.into();
    }
    if let Ok(metadata) = inner.metadata() {
        for key in metadata.custom_keys().unwrap_or_default() {
            if let Some(value) = metadata.custom(&key) {
                io.metadata.insert(key, value);
            }
        }
    }
    let watched = Watched::new().map_err(|e| e.to_string())?;
    let outputs: Vec<String> = io.outputs.iter().map(|port| port.name.clone()).collect();
    let (inputs, answered) = (io.inputs.len(), (0..outputs.len()).collect());
    Ok((Session { inputs, outputs, answered, rows: Rows::Any, inner, watched }, io))
}

impl Session {
    /// Takes rows as the signature says, and keeps only the outputs that it lists, in its order.
    pub fn fit(&mut self, signature: &Signature) {
        let place = |name: &str| self.outputs.iter().position(|output| output == name);
        self.answered = signature.outputs.iter().filter_map(|output| place(&output.name)).collect();
        self.rows = signature.rows;
    }

    /// More rows than a run has, if it has exactly this many.
    fn padding(&self, inputs: &[Tensor]) -> Result<Option<usize>, RunError> {
        let most = match self.rows {
            Rows::Any => return Ok(None),
            Rows::Fixed(rows) => rows,
            Rows::Whole => 1,
        };
        match inputs.first().and_then(Tensor::rows) {
            Some(rows) if rows > most => Err(RunError::Failed(format!("{rows} rows given, a run has {most}"))),
            Some(rows) if rows < most => Ok(Some(most)),
            _ => Ok(None),
        }
    }
}

impl Infer for Session {
    fn run(&mut self, inputs: &[Tensor], deadline: Instant) -> Result<Vec<Tensor>, RunError> {
        let rows = inputs.first().and_then(Tensor::rows).unwrap_or(1);
        let full = self.padding(inputs)?;
        let padded: Option<Vec<Tensor>> = full.map(|full| inputs.iter().map(|tensor| tensor.padded(full)).collect());
        let whole = self.rows == Rows::Whole;
        let given = padded.as_deref().unwrap_or(inputs).iter();
        let values: Vec<SessionInputValue<'_>> = given.map(|tensor| to_ort(tensor, whole)).collect::<Result<_, _>>()?;
        if values.len() != self.inputs {
            return Err(RunError::Failed(format!("{} inputs given, the graph has {}", values.len(), self.inputs)));
        }
        let watch = self.watched.arm(deadline);
        let result = self.inner.run_with_options(values.as_slice(), &self.watched.options);
        let late = watch.disarm();
        let read = |outputs: &ort::session::SessionOutputs<'_>, place: usize| {
            let tensor = from_ort(&outputs[place])
                .map_err(|e| RunError::Failed(format!("output {}: {e}", self.outputs[place])))?;
            Ok(match full {
                _ if whole => tensor.with_row_axis(),
                Some(full) if tensor.rows() == Some(full) => tensor.slice_rows(0..rows),
                _ => tensor,
            })
        };
        match result {
            _ if late => Err(RunError::Deadline),
            Ok(outputs) => self.answered.iter().map(|place| read(&outputs, *place)).collect(),
            Err(e) => Err(failed(e)),
        }
    }
}

fn failed(e: impl std::fmt::Display) -> RunError {
    RunError::Failed(e.to_string())
}

/// A view of a tensor; of its first row when it has no rows outside of the server.
fn to_ort(tensor: &Tensor, whole: bool) -> Result<SessionInputValue<'_>, RunError> {
    macro_rules! view {
        ($array:expr) => {
            view!($array, TensorRef::from_array_view)
        };
        ($array:expr, $make:path) => {{
            let view = if whole { $array.index_axis(Axis(0), 0) } else { $array.view() };
            $make(view).map(Into::into).map_err(failed)
        }};
    }
    match tensor {
        Tensor::F16(a) => view!(a),
        Tensor::BF16(a) => view!(a),
        Tensor::F32(a) => view!(a),
        Tensor::F64(a) => view!(a),
        Tensor::I8(a) => view!(a),
        Tensor::I16(a) => view!(a),
        Tensor::I32(a) => view!(a),
        Tensor::I64(a) => view!(a),
        Tensor::U8(a) => view!(a),
        Tensor::U16(a) => view!(a),
        Tensor::U32(a) => view!(a),
        Tensor::U64(a) => view!(a),
        Tensor::Bool(a) => view!(a),
        Tensor::Text(a) => view!(a, ort::value::Tensor::from_string_array),
    }
}

fn from_ort(value: &DynValue) -> Result<Tensor, String> {
    let ValueType::Tensor { ty, .. } = value.dtype() else {
        return Err(format!("is {}", describe(value.dtype())));
    };
    macro_rules! extract {
        ($element:ty) => {{
            let (shape, values) = value.try_extract_tensor::<$element>().map_err(|e| e.to_string())?;
            let shape: Vec<usize> = shape.iter().map(|d| usize::try_from(*d).unwrap_or(0)).collect();
            ArrayD::from_shape_vec(IxDyn(&shape), values.to_vec()).map(Tensor::from).map_err(|e| e.to_string())
        }};
    }
    match dtype(*ty) {
        Some(DType::F16) => extract!(f16),
        Some(DType::BF16) => extract!(bf16),
        Some(DType::F32) => extract!(f32),
        Some(DType::F64) => extract!(f64),
        Some(DType::I8) => extract!(i8),
        Some(DType::I16) => extract!(i16),
        Some(DType::I32) => extract!(i32),
        Some(DType::I64) => extract!(i64),
        Some(DType::U8) => extract!(u8),
        Some(DType::U16) => extract!(u16),
        Some(DType::U32) => extract!(u32),
        Some(DType::U64) => extract!(u64),
        Some(DType::Bool) => extract!(bool),
        Some(DType::Text) => value.try_extract_string_array().map(Tensor::from).map_err(|e| e.to_string()),
        None => Err(format!("is {}", describe(value.dtype()))),
    }
}

const fn dtype(ty: TensorElementType) -> Option<DType> {
    Some(match ty {
        TensorElementType::Float16 => DType::F16,
        TensorElementType::Bfloat16 => DType::BF16,
        TensorElementType::Float32 => DType::F32,
        TensorElementType::Float64 => DType::F64,
        TensorElementType::Int8 => DType::I8,
        TensorElementType::Int16 => DType::I16,
        TensorElementType::Int32 => DType::I32,
        TensorElementType::Int64 => DType::I64,
        TensorElementType::Uint8 => DType::U8,
        TensorElementType::Uint16 => DType::U16,
        TensorElementType::Uint32 => DType::U32,
        TensorElementType::Uint64 => DType::U64,
        TensorElementType::Bool => DType::Bool,
        TensorElementType::String => DType::Text,
        _ => return None,
    })
}

fn port(kind: &ValueType) -> Result<(DType, Vec<i64>), String> {
    match kind {
        ValueType::Tensor { ty, shape, .. } => match dtype(*ty) {
            Some(dtype) => Ok((dtype, shape.iter().copied().collect())),
            None => Err(describe(kind)),
        },
        other => Err(describe(other)),
    }
}

fn describe(kind: &ValueType) -> String {
    match kind {
        ValueType::Tensor { ty, .. } => format!("a tensor of {ty}, which is not served"),
        ValueType::Sequence(inner) => match &**inner {
            ValueType::Map { .. } => "a sequence of maps (ZipMap)".into(),
            _ => "a sequence of tensors".into(),
        },
        ValueType::Map { .. } => "a map".into(),
        ValueType::Optional(_) => "an optional value".into(),
    }
}

/// A session's run options and the deadline of its present run.
struct Watched {
    options: RunOptions,
    deadline: Mutex<Option<Instant>>,
}

/// A run in progress. Dropping it without [`Watch::disarm`] (a panic) disarms it too.
struct Watch<'a>(&'a Watched);

impl Watched {
    fn new() -> ort::Result<Arc<Self>> {
        let watched = Arc::new(Self { options: RunOptions::new()?, deadline: Mutex::new(None) });
        watchdog().lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&watched));
        Ok(watched)
    }

    fn arm(&self, deadline: Instant) -> Watch<'_> {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner) = Some(deadline);
        Watch(self)
    }

    fn check(&self, now: Instant) {
        let mut deadline = self.deadline.lock().unwrap_or_else(PoisonError::into_inner);
        if deadline.is_some_and(|d| now >= d) && self.options.terminate().is_ok() {
            // The run sees the flag between two nodes. `None` tells `disarm` that it was set.
            *deadline = None;
        }
    }
}

impl Watch<'_> {
    /// Ends the watch; `true` when the run was terminated.
    fn disarm(&self) -> bool {
        let mut deadline = self.0.deadline.lock().unwrap_or_else(PoisonError::into_inner);
        // Under the lock, so the watchdog cannot set the flag after it is cleared here.
        deadline.take().is_none() && self.0.options.unterminate().is_ok()
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        *self.0.deadline.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Starts the thread that stops runs at their deadline, at the priority of the caller.
pub(super) fn start_watchdog() {
    let _ = watchdog();
}

/// Every session's watch; one thread terminates the runs that outlast their deadline.
fn watchdog() -> &'static Mutex<Vec<Weak<Watched>>> {
    static SESSIONS: OnceLock<Mutex<Vec<Weak<Watched>>>> = OnceLock::new();
    SESSIONS.get_or_init(|| {
        std::thread::Builder::new()
            .name("deadline".into())
            .spawn(|| {
                loop {
                    std::thread::sleep(WATCH_INTERVAL);
                    let now = Instant::now();
                    let mut sessions = watchdog().lock().unwrap_or_else(PoisonError::into_inner);
                    sessions.retain(|session| session.upgrade().map(|s| s.check(now)).is_some());
                }
            })
            .expect("a thread can be started at start-up");
        Mutex::new(vec![])
    })
}
