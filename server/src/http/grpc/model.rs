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
use crate::http::State;
use crate::http::oip::metadata::{Config, EXTENSIONS, Metadata, Port, Tensor};
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
        Ok(Response::new(Metadata::of(&name, &set.champion).into()))
    }

    async fn model_config(
        &self,
        request: Request<ModelConfigRequest>,
    ) -> Result<Response<ModelConfigResponse>, Status> {
        let ModelConfigRequest { name, version } = request.into_inner();
        let set = self.serving(&name, &version)?;
        let config = Config::of(&name, &set.champion, self.0.engine.options());
        Ok(Response::new(ModelConfigResponse { config: Some(config.into()) }))
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

impl From<Metadata<'_>> for ModelMetadataResponse {
    fn from(metadata: Metadata<'_>) -> Self {
        let tensor = |tensor: Tensor<'_>| TensorMetadata {
            name: tensor.name.into(),
            datatype: tensor.datatype.into(),
            shape: tensor.shape,
        };
        Self {
            name: metadata.name.into(),
            versions: metadata.versions.map(Into::into).into(),
            platform: metadata.platform.into(),
            inputs: metadata.inputs.into_iter().map(tensor).collect(),
            outputs: metadata.outputs.into_iter().map(tensor).collect(),
        }
    }
}

impl From<Config<'_>> for ModelConfig {
    fn from(config: Config<'_>) -> Self {
        let number = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
        let data_type = |port: &Port<'_>| DataType::from_str_name(&port.data_type).unwrap_or_default().into();
        let reshape = |port: &Port<'_>| port.reshape.as_ref().map(|_| ModelTensorReshape::default());
        let input = config.input.into_iter().map(|port| ModelInput {
            name: port.name.into(),
            data_type: data_type(&port),
            reshape: reshape(&port),
            dims: port.dims,
        });
        let output = config.output.into_iter().map(|port| ModelOutput {
            name: port.name.into(),
            data_type: data_type(&port),
            reshape: reshape(&port),
            dims: port.dims,
        });
        let instances = config.instance_group.map(|group| ModelInstanceGroup {
            name: group.name.into(),
            count: number(group.count),
            kind: Kind::Cpu.into(),
        });
        let batching = config.dynamic_batching.map(|batching| ModelDynamicBatching {
            max_queue_delay_microseconds: batching.max_queue_delay_microseconds,
            ..ModelDynamicBatching::default()
        });
        let version = PolicyChoice::Latest(Latest { num_versions: 1 });
        Self {
            name: config.name.into(),
            platform: config.platform.into(),
            backend: config.backend.into(),
            version_policy: Some(ModelVersionPolicy { policy_choice: Some(version) }),
            max_batch_size: number(config.max_batch_size),
            input: input.collect(),
            output: output.collect(),
            instance_group: instances.into(),
            default_model_filename: config.default_model_filename.into(),
            scheduling_choice: batching.map(SchedulingChoice::DynamicBatching),
            ..Self::default()
        }
    }
}
