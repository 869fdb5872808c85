//! What the gRPC port tells of the server, its models and its repository, and how it ends.

mod common;

use common::grpc::{Client, infer, row, typed};
use common::repo::{Repo, serves};
use common::{Server, http, wait_for};
use futures_util::StreamExt;
use onnxd::http::grpc::SERVICE;
use onnxd::http::grpc::proto::{
    DataType, ModelConfigRequest, ModelConfigResponse, ModelInferRequest, ModelInferResponse, ModelMetadataRequest,
    ModelMetadataResponse, ModelReadyRequest, ModelReadyResponse, ModelStatisticsRequest, ModelStatisticsResponse,
    ModelStreamInferResponse, RepositoryIndexRequest, RepositoryIndexResponse, RepositoryModelLoadRequest,
    RepositoryModelLoadResponse, RepositoryModelUnloadRequest, RepositoryModelUnloadResponse, ServerLiveRequest,
    ServerLiveResponse, ServerMetadataRequest, ServerMetadataResponse, ServerReadyRequest, ServerReadyResponse,
};
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

#[test]
fn the_server_and_its_models_say_what_they_are() {
    let repo = Repo::serving("good", None);
    let server = Server::start(repo.path(), &[]);
    let client = Client::connect(server.grpc);
    let about: ServerMetadataResponse = client.call("ServerMetadata", ServerMetadataRequest {}).expect("metadata");
    assert_eq!((about.name.as_str(), about.version.as_str()), ("onnxd", env!("CARGO_PKG_VERSION")));
    assert!(about.extensions.iter().any(|name| name == "statistics"), "{about:?}");
    let (name, version) = ("anomaly".to_owned(), String::new());
    let request = ModelMetadataRequest { name: name.clone(), version: version.clone() };
    let metadata: ModelMetadataResponse = client.call("ModelMetadata", request).expect("metadata");
    assert_eq!((metadata.versions.as_slice(), metadata.platform.as_str()), (&["1".to_owned()][..], "onnxruntime_onnx"));
    let input = &metadata.inputs[0];
    assert_eq!(
        (input.name.as_str(), input.datatype.as_str(), input.shape.as_slice()),
        ("features", "FP32", &[-1, 5][..])
    );
    assert_eq!(metadata.outputs.iter().map(|o| o.shape.as_slice()).collect::<Vec<_>>(), [[-1]; 3]);

    let request = ModelConfigRequest { name: name.clone(), version: version.clone() };
    let config = client.call::<ModelConfigResponse>("ModelConfig", request).expect("a configuration");
    let config = config.config.expect("a configuration");
    assert_eq!((config.name.as_str(), config.backend.as_str()), ("anomaly", "onnxruntime"));
    assert!(config.max_batch_size > 1);
    assert_eq!((config.input[0].data_type(), config.input[0].dims.as_slice()), (DataType::TypeFp32, &[5][..]));
    let together = Repo::serving("batch-mean", None);
    let together = Server::start(together.path(), &[]);
    let request = ModelConfigRequest { name: name.clone(), version: version.clone() };
    let config = Client::connect(together.grpc).call::<ModelConfigResponse>("ModelConfig", request);
    let config = config.expect("a configuration").config.expect("a configuration");
    assert_eq!((config.max_batch_size, config.input[0].dims.as_slice()), (0, &[-1, 5][..]));
    assert_eq!(config.scheduling_choice, None);

    infer(&client, typed(&[row(1.0); 7]));
    infer(&client, typed(&[row(1.0)]));
    let request = ModelStatisticsRequest { name, version };
    let statistics: ModelStatisticsResponse = client.call("ModelStatistics", request).expect("statistics");
    let [model] = &statistics.model_stats[..] else { panic!("{statistics:?}") };
    assert_eq!((model.inference_count, model.execution_count), (8, 2));
    let counted = model.inference_stats.as_ref().and_then(|stats| stats.success).expect("counted");
    assert!(counted.count == 2 && counted.ns > 0, "{counted:?}");

    for method in ["ModelMetadata", "ModelConfig", "ModelStatistics"] {
        let request = ModelMetadataRequest { name: "anomaly".into(), version: "7".into() };
        let status = client.call::<ModelMetadataResponse>(method, request).expect_err("no such version");
        assert_eq!(status.code(), Code::NotFound, "{method}");
    }
}

/// Everybody may look; who has the token may load and unload.
#[test]
fn the_repository_is_told_and_changed() {
    let repo = Repo::serving("good", None);
    let folder = tempfile::TempDir::new().expect("a folder");
    let token = folder.path().join("token");
    std::fs::write(&token, "a-secret-of-the-tests\n").expect("a file");
    let server = Server::start(repo.path(), &["--admin-token-file", token.to_str().expect("UTF-8")]);
    let client = Client::connect(server.grpc);
    let index = |ready| {
        let request = RepositoryIndexRequest { repository_name: String::new(), ready };
        let index: RepositoryIndexResponse = client.call("RepositoryIndex", request).expect("an index");
        index.models.into_iter().map(|m| (m.name, m.version, m.state)).collect::<Vec<_>>()
    };
    let ready = [("anomaly".to_owned(), "1".to_owned(), "READY".to_owned())];
    assert_eq!((index(false).as_slice(), index(true).as_slice()), (&ready[..], &ready[..]));
    let allowed = [("authorization", "Bearer a-secret-of-the-tests")];
    let unload = |metadata: &[(&str, &str)], name: &str| {
        let request = RepositoryModelUnloadRequest { model_name: name.into(), ..Default::default() };
        client.call_with::<RepositoryModelUnloadResponse>("RepositoryModelUnload", request, metadata)
    };
    let load = |metadata: &[(&str, &str)], request: RepositoryModelLoadRequest| {
        client.call_with::<RepositoryModelLoadResponse>("RepositoryModelLoad", request, metadata)
    };
    let by_name = |name: &str| RepositoryModelLoadRequest { model_name: name.into(), ..Default::default() };
    for metadata in [&[][..], &[("authorization", "Bearer wrong")]] {
        assert_eq!(unload(metadata, "anomaly").expect_err("refused").code(), Code::Unauthenticated);
        assert_eq!(load(metadata, by_name("anomaly")).expect_err("refused").code(), Code::Unauthenticated);
    }
    infer(&client, typed(&[row(1.0)]));
    assert!(unload(&allowed, "anomaly").expect("unloaded").into_inner().is_unloaded);
    assert_eq!(
        client.call::<ModelInferResponse>("ModelInfer", typed(&[row(1.0)])).expect_err("gone").code(),
        Code::NotFound
    );
    assert!(index(true).is_empty() && index(false)[0].2 == "UNAVAILABLE", "{:?}", index(false));
    // KServe's clients send the name where Triton's have the repository's.
    let kserve = RepositoryModelLoadRequest { repository_name: "anomaly".into(), ..Default::default() };
    assert!(load(&allowed, kserve).expect("loaded").into_inner().is_loaded);
    infer(&client, typed(&[row(1.0)]));
    assert_eq!(load(&allowed, by_name("other")).expect_err("no such model").code(), Code::NotFound);
    let mut own = by_name("anomaly");
    own.parameters.insert("config".into(), Default::default());
    assert_eq!(load(&allowed, own).expect_err("not taken").code(), Code::InvalidArgument);
    // What the repository holds and cannot be served is told with its reason.
    repo.install(2, "wrong-golden");
    repo.point(2, None);
    let status = load(&allowed, by_name("anomaly")).expect_err("it is refused");
    assert!(status.message().contains("version 2"), "{status}");

    let closed = Server::start(repo.path(), &[]);
    let client = Client::connect(closed.grpc);
    let status = client.call::<RepositoryModelLoadResponse>("RepositoryModelLoad", by_name("anomaly"));
    assert_eq!(status.expect_err("no token is set").code(), Code::PermissionDenied);
}

#[test]
fn health_follows_readiness() {
    let repo = Repo::new();
    let mut server = Server::launch(repo.path(), &["--drain-delay", "1s"]);
    let client = Client::connect(server.grpc);
    let check = |service: &str| {
        let request = HealthCheckRequest { service: service.into() };
        let reply =
            client.wait(client.channel.call::<HealthCheckResponse>("/grpc.health.v1.Health/Check", request, &[]));
        reply.map(|reply| reply.into_inner().status())
    };
    let ready = || client.call::<ServerReadyResponse>("ServerReady", ServerReadyRequest {}).expect("an answer").ready;
    assert_eq!(check("").expect("known"), ServingStatus::NotServing);
    assert_eq!(check("anomaly").expect_err("it was never seen").code(), Code::NotFound);
    assert!(client.call::<ServerLiveResponse>("ServerLive", ServerLiveRequest {}).expect("an answer").live);
    assert!(!ready());
    let mut watched = client.wait(async {
        let request = HealthCheckRequest { service: "anomaly".into() };
        let requests = futures_util::stream::iter([request]);
        let stream = client.channel.stream("/grpc.health.v1.Health/Watch", requests, &[]).await;
        stream.expect("a stream").into_inner()
    });
    let mut next = |client: &Client| {
        let next = client.wait(watched.message()).expect("no error");
        next.map(|response: HealthCheckResponse| response.status())
    };
    assert_eq!(next(&client), Some(ServingStatus::ServiceUnknown));
    repo.install(1, "good");
    repo.point(1, None);
    // It may be known before it serves.
    let told: Vec<_> =
        std::iter::from_fn(|| next(&client)).take(2).take_while(|s| *s != ServingStatus::Serving).collect();
    assert!(told.is_empty() || told == [ServingStatus::NotServing], "{told:?}");
    serves(&server, 1);
    for service in ["", SERVICE, "anomaly"] {
        assert_eq!(check(service).expect("known"), ServingStatus::Serving, "{service}");
    }
    assert!(ready());
    let model = |version: &str| {
        let request = ModelReadyRequest { name: "anomaly".into(), version: version.into() };
        client.call::<ModelReadyResponse>("ModelReady", request).expect("an answer").ready
    };
    assert!(model("") && model("1") && !model("2"));
    let nothing = ModelReadyRequest { name: "nothing".into(), version: String::new() };
    assert!(!client.call::<ModelReadyResponse>("ModelReady", nothing).expect("an answer").ready);

    server.signal("TERM");
    assert_eq!(next(&client), Some(ServingStatus::NotServing));
    assert_eq!(check("").expect("known"), ServingStatus::NotServing);
    // Requests are taken for as long as load balancers need to notice.
    infer(&client, typed(&[row(1.0)]));
    // Then the watch ends, and does not keep the server.
    assert_eq!(next(&client), None);
    assert!(server.wait().success());
}

/// A stream that stays open does not hold up the end; the request in progress on it is answered.
#[test]
fn open_streams_end_with_the_server() {
    let repo = Repo::serving("slow", None);
    let mut server = Server::start(repo.path(), &["--workers", "1", "--grace-period", "50s"]);
    let client = Client::connect(server.grpc);
    let path = format!("/{SERVICE}/ModelStreamInfer");
    let open = || futures_util::stream::iter([typed(&[row(1.0); 8192])]).chain(futures_util::stream::pending());
    let mut streams: Vec<_> = (0..4)
        .map(|_| client.wait(client.channel.stream(&path, open(), &[])).expect("a stream").into_inner())
        .collect();
    let mut idle = client.wait(client.channel.stream(&path, futures_util::stream::pending::<ModelInferRequest>(), &[]));
    let idle = idle.as_mut().expect("a stream").get_mut();
    wait_for("the requests", || (server.metric("onnxd_queue_rows{model=\"anomaly\"}")? > 0.0).then_some(()));
    server.signal("TERM");
    for stream in &mut streams {
        let answer: ModelStreamInferResponse = client.wait(stream.message()).expect("no error").expect("an answer");
        assert_eq!(answer.infer_response.expect("a response").outputs[0].shape, [8192]);
        assert_eq!(client.wait(stream.message()).expect_err("the server stops").code(), Code::Unavailable);
    }
    let end: Result<Option<ModelStreamInferResponse>, _> = client.wait(idle.message());
    assert_eq!(end.expect_err("the server stops").code(), Code::Unavailable);
    assert!(server.wait().success(), "{}", server.log());
}

/// A client that is suspended with an open connection does not keep the server for its grace period.
#[test]
fn a_suspended_client_is_not_waited_for() {
    let repo = Repo::serving("good", None);
    let mut server = Server::start(repo.path(), &["--grace-period", "50s"]);
    let client = Client::connect_drowsily(server.grpc);
    infer(&client, typed(&[row(1.0)]));
    server.signal("TERM");
    assert!(server.wait().success(), "{}", server.log());
}

#[test]
fn reflection_lists_the_services() {
    let repo = Repo::serving("good", None);
    let mut server = Server::start(repo.path(), &[]);
    let client = Client::connect(server.grpc);
    let ours = [SERVICE, "grpc.health.v1.Health"];
    macro_rules! check {
        ($version:ident) => {{
            use tonic_reflection::pb::$version::server_reflection_request::MessageRequest;
            use tonic_reflection::pb::$version::server_reflection_response::MessageResponse;
            use tonic_reflection::pb::$version::{ServerReflectionRequest, ServerReflectionResponse};
            let path = concat!("/grpc.reflection.", stringify!($version), ".ServerReflection/ServerReflectionInfo");
            let ask = |request| ServerReflectionRequest { host: String::new(), message_request: Some(request) };
            let requests = [
                MessageRequest::ListServices(String::new()),
                MessageRequest::FileContainingSymbol(format!("{SERVICE}.ModelStreamInfer")),
            ];
            let requests = futures_util::stream::iter(requests.map(ask)).chain(futures_util::stream::pending());
            let stream = client.wait(client.channel.stream(path, requests, &[]));
            let mut stream = stream.expect("a stream").into_inner();
            let mut next =
                || -> ServerReflectionResponse { client.wait(stream.message()).expect("no error").expect("an answer") };
            let Some(MessageResponse::ListServicesResponse(list)) = next().message_response else { panic!("no list") };
            let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
            assert!(ours.iter().all(|name| names.contains(name)), "{names:?}");
            let Some(MessageResponse::FileDescriptorResponse(files)) = next().message_response else {
                panic!("no file")
            };
            let text = String::from_utf8_lossy(&files.file_descriptor_proto[0]).into_owned();
            assert!(text.contains("ModelInferRequest") && text.contains("raw_input_contents"));
            stream
        }};
    }
    let (_first, _second) = (check!(v1), check!(v1alpha));
    // Clients that keep it open do not keep the server.
    server.signal("TERM");
    assert!(server.wait().success(), "{}", server.log());
}

#[test]
fn what_speaks_something_else_is_told_where_to_go() {
    let repo = Repo::serving("good", None);
    let server = Server::start(repo.path(), &[]);
    let reply = http::request(server.grpc, "POST", "/predict", &[("content-type", "application/json")], b"{}");
    assert_eq!(reply.status, 415);
    assert!(reply.text().contains("--http"), "{}", reply.text());
}
