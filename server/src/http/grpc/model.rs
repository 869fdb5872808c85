//! What the server, its models and its repository are: all calls but those that predict.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::proto::grpc_inference_service_server::GrpcInferenceService;
use super::proto::model_config::SchedulingChoice;
use super::proto::model_instance_group::Kind;
use super::proto::model_metadata_response::TensorMetadata;
use super::proto::model_version_policy::{Latest, PolicyChoice};
use super::proto::{
    DataType, ModelConfig, ModelConfigRequest, ModelConfigResponse, ModelDynamicBatching, ModelInput,
    ModelInstanceGroup, ModelMetadataRequest, ModelMetadataResponse, ModelOutput, ModelReadyRequest,
    ModelReadyResponse, ModelStatisticsRequest, ModelStatisticsResponse, ModelTensorReshape, ModelVersionPolicy,
    RepositoryIndexRequest, RepositoryIndexResponse, RepositoryModelLoadRequest, RepositoryModelLoadResponse,
    RepositoryModelUnloadRequest, RepositoryModelUnloadResponse, ServerLiveRequest, ServerLiveResponse,
    ServerMetadataRequest, ServerMetadataResponse, ServerReadyRequest, ServerReadyResponse,
};
use super::{repository, version};
use crate::codec::oip::datatype;
use crate::http::State;
use crate::http::oip::metadata::{EXTENSIONS, PLATFORM, dims, full_shape};
use crate::model::Model;
use crate::model::signature::Rows;
use crate::model::tensor::DType;
use crate::serving::ServingSet;

/// The state, asked at each call.
#[derive(Clone)]
pub(super) struct Service(pub(super) Arc<State>);

impl Service {
    fn serving(&self, model: &str, asked: &str) -> Result<Arc<ServingSet>, Status> {
        Ok(self.0.find(model, version(asked))?.1)
    }
}

#[tonic::async_trait]
impl GrpcInferenceService for Service {
    async fn server_live(&self, _: Request<ServerLiveRequest>) -> Result<Response<ServerLiveResponse>, Status> {
        Ok(Response::new(ServerLiveResponse { live: true }))
    }

    async fn server_ready(&self, _: Request<ServerReadyRequest>) -> Result<Response<ServerReadyResponse>, Status> {
        Ok(Response::new(ServerReadyResponse { ready: self.0.readiness().is_ok() }))
    }

    /// A model that is not there is not ready, which is an answer.
    async fn model_ready(&self, request: Request<ModelReadyRequest>) -> Result<Response<ModelReadyResponse>, Status> {
        let ModelReadyRequest { name, version } = request.into_inner();
        let ready = self.serving(&name, &version).is_ok() && !self.0.is_draining();
        Ok(Response::new(ModelReadyResponse { ready }))
    }

    async fn server_metadata(
        &self,
        _: Request<ServerMetadataRequest>,
    ) -> Result<Response<ServerMetadataResponse>, Status> {
        Ok(Response::new(ServerMetadataResponse {
            name: env!("CARGO_PKG_NAME").into(),
            version: env!("CARGO_PKG_VERSION").into(),
            extensions: EXTENSIONS.map(Into::into).into(),
        }))
    }

    async fn model_metadata(
        &self,
        request: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        let ModelMetadataRequest { name, version } = request.into_inner();
        let set = self.serving(&name, &version)?;
        Ok(Response::new(metadata(&set.champion)))
    }

    async fn model_config(
        &self,
        request: Request<ModelConfigRequest>,
    ) -> Result<Response<ModelConfigResponse>, Status> {
        let ModelConfigRequest { name, version } = request.into_inner();
        let set = self.serving(&name, &version)?;
        let options = self.0.engine.options();
        let delay = u64::try_from(options.queue.batch_delay.as_micros()).unwrap_or(u64::MAX);
        let instances = i32::try_from(options.threads.workers).unwrap_or(i32::MAX);
        Ok(Response::new(ModelConfigResponse { config: Some(config(&set.champion, delay, instances)) }))
    }

    async fn model_statistics(
        &self,
        request: Request<ModelStatisticsRequest>,
    ) -> Result<Response<ModelStatisticsResponse>, Status> {
        let ModelStatisticsRequest { name, version } = request.into_inner();
        Ok(Response::new(repository::statistics(&self.0, &name, &version)?))
    }

    async fn repository_index(
        &self,
        request: Request<RepositoryIndexRequest>,
    ) -> Result<Response<RepositoryIndexResponse>, Status> {
        Ok(Response::new(repository::index(&self.0, request.into_inner().ready)))
    }

    async fn repository_model_load(
        &self,
        request: Request<RepositoryModelLoadRequest>,
    ) -> Result<Response<RepositoryModelLoadResponse>, Status> {
        repository::load(&self.0, request).await
    }

    async fn repository_model_unload(
        &self,
        request: Request<RepositoryModelUnloadRequest>,
    ) -> Result<Response<RepositoryModelUnloadResponse>, Status> {
        repository::unload(&self.0, request).await
    }
}

fn metadata(model: &Model) -> ModelMetadataResponse {
    let signature = &model.signature;
    let tensor = |name: &str, dtype, row_shape: &[Option<usize>]| TensorMetadata {
        name: name.into(),
        datatype: datatype(dtype).into(),
        shape: full_shape(signature, row_shape),
    };
    ModelMetadataResponse {
        name: model.id.name.clone(),
        versions: vec![model.id.version.clone()],
        platform: PLATFORM.into(),
        inputs: signature.inputs.iter().map(|input| tensor(&input.name, input.dtype, &input.row_shape)).collect(),
        outputs: signature.outputs.iter().map(|o| tensor(&o.name, o.dtype, &o.row_shape)).collect(),
    }
}

fn config(model: &Model, delay: u64, instances: i32) -> ModelConfig {
    let signature = &model.signature;
    let whole = signature.rows == Rows::Whole;
    let never_split = model.is_never_split();
    let max_batch_size = if whole || never_split { 0 } else { i32::try_from(model.max_batch()).unwrap_or(i32::MAX) };
    let batching = ModelDynamicBatching { max_queue_delay_microseconds: delay, ..ModelDynamicBatching::default() };
    let input = signature.inputs.iter().map(|input| ModelInput {
        name: input.name.clone(),
        data_type: data_type(input.dtype).into(),
        dims: sizes(&input.row_shape, never_split).0,
        reshape: sizes(&input.row_shape, never_split).1,
    });
    let output = signature.outputs.iter().map(|output| ModelOutput {
        name: output.name.clone(),
        data_type: data_type(output.dtype).into(),
        dims: sizes(&output.row_shape, never_split).0,
        reshape: sizes(&output.row_shape, never_split).1,
    });
    let version = PolicyChoice::Latest(Latest { num_versions: 1 });
    ModelConfig {
        name: model.id.name.clone(),
        platform: PLATFORM.into(),
        backend: "onnxruntime".into(),
        version_policy: Some(ModelVersionPolicy { policy_choice: Some(version) }),
        max_batch_size,
        input: input.collect(),
        output: output.collect(),
        instance_group: vec![ModelInstanceGroup {
            name: model.id.name.clone(),
            count: instances,
            kind: Kind::Cpu.into(),
        }],
        default_model_filename: "model.onnx".into(),
        scheduling_choice: (!whole && model.batches()).then_some(SchedulingChoice::DynamicBatching(batching)),
        ..ModelConfig::default()
    }
}

/// The dimensions of a row, or of any number of rows where `max_batch_size` is 0. Triton's are never empty: its `reshape` says
/// when there are none.
fn sizes(row: &[Option<usize>], with_rows: bool) -> (Vec<i64>, Option<ModelTensorReshape>) {
    let sizes: Vec<i64> = with_rows.then_some(-1).into_iter().chain(dims(row)).collect();
    if sizes.is_empty() { (vec![1], Some(ModelTensorReshape::default())) } else { (sizes, None) }
}

const fn data_type(dtype: DType) -> DataType {
    match dtype {
        DType::Bool => DataType::TypeBool,
        DType::U8 => DataType::TypeUint8,
        DType::U16 => DataType::TypeUint16,
        DType::U32 => DataType::TypeUint32,
        DType::U64 => DataType::TypeUint64,
        DType::I8 => DataType::TypeInt8,
        DType::I16 => DataType::TypeInt16,
        DType::I32 => DataType::TypeInt32,
        DType::I64 => DataType::TypeInt64,
        DType::F16 => DataType::TypeFp16,
        DType::BF16 => DataType::TypeBf16,
        DType::F32 => DataType::TypeFp32,
        DType::F64 => DataType::TypeFp64,
        DType::Text => DataType::TypeString,
    }
}
