//! What the protocol tells of the server and of a model: metadata, and the configuration as Triton's clients read it.

use serde::Serialize;
use serde_json::{Value, json};

use crate::codec::oip::datatype;
use crate::engine::Options;
use crate::model::Model;
use crate::model::signature::{Rows, Signature};
use crate::model::tensor::DType;

/// What Triton's ONNX Runtime calls itself; its clients and KServe's know the name.
const PLATFORM: &str = "onnxruntime_onnx";

/// What is served beyond the protocol, by its names for that.
pub(in crate::http) const EXTENSIONS: [&str; 7] = [
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
    "schedule_policy",
    "statistics",
];

/// `GET /v2`.
#[derive(Serialize)]
pub(super) struct Server {
    name: &'static str,
    version: &'static str,
    extensions: [&'static str; EXTENSIONS.len()],
}

impl Server {
    pub(super) const fn of() -> Self {
        Self { name: "onnxd", version: env!("CARGO_PKG_VERSION"), extensions: EXTENSIONS }
    }
}

/// `GET /v2/models/{model}`.
#[derive(Serialize)]
pub(in crate::http) struct Metadata<'a> {
    pub(in crate::http) name: &'a str,
    pub(in crate::http) versions: [&'a str; 1],
    pub(in crate::http) platform: &'static str,
    pub(in crate::http) inputs: Vec<Tensor<'a>>,
    pub(in crate::http) outputs: Vec<Tensor<'a>>,
}

#[derive(Serialize)]
pub(in crate::http) struct Tensor<'a> {
    pub(in crate::http) name: &'a str,
    pub(in crate::http) datatype: &'static str,
    pub(in crate::http) shape: Vec<i64>,
    /// Its columns, each of which may be sent by itself under its name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(in crate::http) features: Vec<&'a str>,
    /// What its columns stand for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::http) labels: Option<&'a [String]>,
}

impl<'a> Metadata<'a> {
    pub(in crate::http) fn of(name: &'a str, model: &'a Model) -> Self {
        let signature = &model.signature;
        let inputs = signature.inputs.iter().map(|input| Tensor {
            name: &input.name,
            datatype: datatype(input.dtype),
            shape: full_shape(signature, &input.row_shape),
            features: input.features.iter().map(|feature| feature.name.as_str()).collect(),
            labels: None,
        });
        let outputs = signature.outputs.iter().map(|output| Tensor {
            name: &output.name,
            datatype: datatype(output.dtype),
            shape: full_shape(signature, &output.row_shape),
            features: vec![],
            labels: output.labels.as_deref(),
        });
        let (inputs, outputs) = (inputs.collect(), outputs.collect());
        Self { name, versions: [&model.id.version], platform: PLATFORM, inputs, outputs }
    }
}

/// A shape with its rows, of which any number may be sent, even where a run takes one at a time.
pub(in crate::http) fn full_shape(signature: &Signature, row: &[Option<usize>]) -> Vec<i64> {
    let rows = (signature.rows != Rows::Whole).then_some(-1);
    rows.into_iter().chain(dims(row)).collect()
}

fn dims(row: &[Option<usize>]) -> impl Iterator<Item = i64> {
    row.iter().map(|size| size.and_then(|size| i64::try_from(size).ok()).unwrap_or(-1))
}

/// `GET /v2/models/{model}/config`: the part of Triton's `ModelConfig` that has a meaning here.
#[derive(Serialize)]
pub(in crate::http) struct Config<'a> {
    pub(in crate::http) name: &'a str,
    pub(in crate::http) platform: &'static str,
    pub(in crate::http) backend: &'static str,
    version_policy: Value,
    /// 0 when there is no row axis; then the dimensions below are all.
    pub(in crate::http) max_batch_size: usize,
    pub(in crate::http) input: Vec<Port<'a>>,
    pub(in crate::http) output: Vec<Port<'a>>,
    pub(in crate::http) instance_group: [Instances<'a>; 1],
    pub(in crate::http) default_model_filename: &'static str,
    parameters: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::http) dynamic_batching: Option<Batching>,
}

#[derive(Serialize)]
pub(in crate::http) struct Port<'a> {
    pub(in crate::http) name: &'a str,
    pub(in crate::http) data_type: String,
    pub(in crate::http) dims: Vec<i64>,
    /// Triton's `dims` are never empty; this says when there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::http) reshape: Option<Reshape>,
}

/// To no dimensions.
#[derive(Default, Serialize)]
pub(in crate::http) struct Reshape {
    shape: [i64; 0],
}

#[derive(Serialize)]
pub(in crate::http) struct Instances<'a> {
    pub(in crate::http) name: &'a str,
    kind: &'static str,
    pub(in crate::http) count: usize,
}

#[derive(Serialize)]
pub(in crate::http) struct Batching {
    preferred_batch_size: [usize; 0],
    pub(in crate::http) max_queue_delay_microseconds: u64,
}

impl<'a> Config<'a> {
    pub(in crate::http) fn of(name: &'a str, model: &'a Model, options: &Options) -> Self {
        let signature = &model.signature;
        let whole = signature.rows == Rows::Whole;
        let never_split = model.is_never_split();
        let port = |name: &'a str, dtype: DType, row: &[Option<usize>]| {
            // Triton's `max_batch_size` 0: dimensions are those of the whole tensor.
            let dims: Vec<i64> = never_split.then_some(-1).into_iter().chain(dims(row)).collect();
            let data_type = match dtype {
                DType::Text => "TYPE_STRING".into(),
                dtype => format!("TYPE_{}", datatype(dtype)),
            };
            let scalar = dims.is_empty();
            let reshape = scalar.then(Reshape::default);
            Port { name, data_type, dims: if scalar { vec![1] } else { dims }, reshape }
        };
        let delay = options.queue.batch_delay.as_micros();
        let batching = Batching {
            preferred_batch_size: [],
            max_queue_delay_microseconds: u64::try_from(delay).unwrap_or(u64::MAX),
        };
        Self {
            name,
            platform: PLATFORM,
            backend: "onnxruntime",
            version_policy: json!({"latest": {"num_versions": 1}}),
            max_batch_size: if whole || never_split { 0 } else { model.max_batch() },
            input: signature.inputs.iter().map(|i| port(&i.name, i.dtype, &i.row_shape)).collect(),
            output: signature.outputs.iter().map(|o| port(&o.name, o.dtype, &o.row_shape)).collect(),
            instance_group: [Instances { name, kind: "KIND_CPU", count: options.threads.workers }],
            default_model_filename: "model.onnx",
            parameters: json!({}),
            dynamic_batching: (!whole && model.batches() && model.max_batch() > 1).then_some(batching),
        }
    }
}
