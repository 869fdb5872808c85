//! The floors that serve: axum reading the same JSON, tonic the same message, and both writing an answer of the same size,
//! with no model between.
//!
//! No server on this stack can be faster than they; how near one comes is the figure that outlives a machine's mood.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    task::{Context, Poll},
};

use anyhow::{Context as _, Result};
use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
    serve::{Listener, ListenerExt as _},
};
use onnxd::http::grpc::proto::{ModelInferRequest, ModelInferResponse, model_infer_response::InferOutputTensor};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
};
use tonic::{
    body::Body,
    codegen::{BoxFuture, Service, http},
    server::{Grpc, NamedService, UnaryService},
    service::Routes,
};
use tonic_prost::ProstCodec;

use crate::{parse, server::Ports};

/// The most that a body may have; axum's own limit is less than many rows of JSON take.
pub(crate) const BODY: usize = 64 << 20;

/// The floor: serves JSON and gRPC with a fixed answer and no model.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[arg(long, default_value = "127.0.0.1:0")]
    addr: SocketAddr,
    #[arg(long, default_value = "127.0.0.1:0")]
    grpc: SocketAddr,
    /// Async threads.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// What a row has; the anomaly model's features if none are given.
    #[arg(long, value_delimiter = ',', default_value = FEATURES)]
    features: Vec<String>,
    /// The answer to one row, as JSON.
    #[arg(long, default_value = ANSWER)]
    answer: String,
    /// The bound addresses are written to it as JSON.
    #[arg(long)]
    ports_file: Option<PathBuf>,
}

const FEATURES: &str = "cpu_zscore,memory_zscore,disk_io_zscore,cpu_baseline,cpu_scale";
/// What the anomaly model answers in docs/protocols.md.
const ANSWER: &str = r#"{"anomaly":false,"score":0.0156897,"forecast":6.7014923}"#;

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    serve(arguments, |ports| ports.tell(arguments.ports_file.as_deref()))
}

/// Serves until the process ends. `ready` is told the bound addresses.
fn serve(arguments: &Arguments, ready: impl FnOnce(Ports) -> Result<()>) -> Result<()> {
    runtime(arguments.threads)?.block_on(async {
        let (plain, calls) = (bind(arguments.addr).await?, bind(arguments.grpc).await?);
        ready(Ports { http: plain.local_addr()?, grpc: Some(calls.local_addr()?), ops: None })?;
        let shared =
            Shared { features: arguments.features.as_slice().into(), answer: arguments.answer.as_str().into() };
        let router = Router::new()
            .route("/predict", post(predict))
            .route("/models/{model}/predict", post(predict_named))
            .route("/readyz", get(|| async {}))
            .layer(DefaultBodyLimit::max(BODY))
            .with_state(shared);
        let calls = axum::serve(prompt(calls), Routes::new(Inference).into_axum_router());
        tokio::try_join!(axum::serve(prompt(plain), router).into_future(), calls.into_future())?;
        Ok(())
    })
}

/// What a floor runs on.
pub(crate) fn runtime(threads: usize) -> Result<Runtime> {
    Builder::new_multi_thread().worker_threads(threads).enable_all().build().context("no runtime")
}

pub(crate) async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}

/// Sends what there is at once, as servers do that answer more than one request a connection.
pub(crate) fn prompt(listener: TcpListener) -> impl Listener<Io = TcpStream, Addr = SocketAddr> {
    listener.tap_io(|stream| drop(stream.set_nodelay(true)))
}

/// An echo in a thread of this process, which lives as long.
pub(crate) fn in_thread() -> Ports {
    use clap::Parser as _;
    #[derive(clap::Parser)]
    struct Defaults {
        #[command(flatten)]
        arguments: Arguments,
    }
    let (tell, told) = std::sync::mpsc::channel();
    let arguments = Defaults::parse_from(["echo"]).arguments;
    std::thread::spawn(move || serve(&arguments, |ports| Ok(tell.send(ports)?)));
    told.recv().expect("the echo listens")
}

#[derive(Clone)]
struct Shared {
    features: Arc<[String]>,
    answer: Arc<str>,
}

async fn predict_named(Path(_): Path<String>, shared: State<Shared>, body: Bytes) -> Response {
    predict(shared, body).await
}

async fn predict(State(shared): State<Shared>, body: Bytes) -> Response {
    let mut values = Vec::with_capacity(shared.features.len());
    match parse::rows(&body, &shared.features, &mut values) {
        Ok(rows) => ([(header::CONTENT_TYPE, "application/json")], answer(&shared.answer, rows)).into_response(),
        Err(error) => (StatusCode::UNPROCESSABLE_ENTITY, error.to_string()).into_response(),
    }
}

/// As onnxd answers: an object for one row, `predictions` for more.
fn answer(row: &str, rows: usize) -> String {
    if rows == 1 {
        return row.to_owned();
    }
    let mut text = String::with_capacity(20 + rows * (row.len() + 1));
    text.push_str("{\"predictions\":[");
    for number in 0..rows {
        text.push_str(if number == 0 { "" } else { "," });
        text.push_str(row);
    }
    text + "]}"
}

/// `ModelInfer` as tonic generates it: the message is decoded, and an answer of three outputs encoded.
#[derive(Clone)]
struct Inference;

impl NamedService for Inference {
    const NAME: &'static str = onnxd::http::grpc::SERVICE;
}

impl Service<http::Request<Body>> for Inference {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            let mut grpc = Grpc::new(ProstCodec::default()).max_decoding_message_size(BODY);
            Ok(grpc.unary(Infer, request).await)
        })
    }
}

struct Infer;

impl UnaryService<ModelInferRequest> for Infer {
    type Response = ModelInferResponse;
    type Future = Ready<Result<tonic::Response<ModelInferResponse>, tonic::Status>>;

    fn call(&mut self, request: tonic::Request<ModelInferRequest>) -> Self::Future {
        let request = request.into_inner();
        let rows = request.inputs.first().and_then(|input| input.shape.first().copied()).unwrap_or(1);
        let mut response = ModelInferResponse {
            model_name: request.model_name,
            model_version: "1".to_owned(),
            id: request.id,
            ..ModelInferResponse::default()
        };
        for (name, datatype, bytes) in [("anomaly", "BOOL", 1), ("score", "FP32", 4), ("forecast", "FP32", 4)] {
            let (name, datatype, shape) = (name.to_owned(), datatype.to_owned(), vec![rows]);
            response.outputs.push(InferOutputTensor { name, datatype, shape, ..InferOutputTensor::default() });
            let size = usize::try_from(rows).unwrap_or_default() * bytes;
            response.raw_output_contents.push(vec![0; size].into());
        }
        ready(Ok(tonic::Response::new(response)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bodies;
    use onnxd::load::{
        self, Plan,
        http::Target,
        model::{Model, Protocol},
    };
    use serde_json::{Value, json};
    use std::time::Duration;

    /// What a server tells of the anomaly model.
    fn model() -> Model {
        let features: Vec<_> = FEATURES.split(',').collect();
        let input = json!({ "name": "features", "datatype": "FP32", "shape": [-1, 5], "features": features });
        serde_json::from_value(json!({ "name": "anomaly", "inputs": [input] })).expect("it is a model")
    }

    #[test]
    fn many_rows_are_answered_as_many() {
        let value: Value = serde_json::from_str(&answer(ANSWER, 3)).expect("it is JSON");
        assert_eq!(value["predictions"].as_array().map(Vec::len), Some(3));
        assert_eq!(answer(ANSWER, 1), ANSWER);
    }

    #[test]
    fn the_generator_and_the_echo_agree_on_json() {
        let address = in_thread().http;
        let duration = Duration::from_millis(200);
        let target = Target { address, path: "/predict".to_owned() };
        let mut plan = Plan::new(target, bodies::ordinary(), 4, duration);
        plan.is_good = bodies::has_score;
        let outcome = load::run(&plan).expect("it runs");
        assert_eq!((outcome.errors(), outcome.answered() > 100), (0, true), "{:?}", outcome.statuses);
        let tables = model().tables(2, 100, 1).expect("rows");
        let requests = model().requests(Protocol::Json, &tables, 1).expect("they are written");
        let mut plan = Plan::new(model().target(address, Protocol::Json), requests, 2, duration);
        plan.is_good =
            |body| serde_json::from_slice::<Value>(body).is_ok_and(|value| value["predictions"][99].is_object());
        let outcome = load::run(&plan).expect("it runs");
        assert_eq!((outcome.errors(), outcome.answered() > 10), (0, true), "{:?}", outcome.statuses);
    }

    #[test]
    fn the_generator_and_the_echo_agree_on_grpc() {
        let address = in_thread().grpc.expect("it listens");
        let tables = model().tables(4, 3, 1).expect("rows");
        let requests = model().requests(Protocol::Grpc, &tables, 2).expect("they are written");
        let plan = Plan::new(model().target(address, Protocol::Grpc), requests, 16, Duration::from_millis(200));
        let outcome = load::run(&plan).expect("it runs");
        assert_eq!((outcome.errors(), outcome.answered() > 100), (0, true), "{:?}", outcome.statuses);
    }

    #[test]
    fn rows_that_it_does_not_know_are_refused() {
        let address = in_thread().http;
        let body = b"{\"no_feature\":1}";
        let request = Target { address, path: "/predict".to_owned() }.post(body);
        let (response, _) = load::http::exchange(address, &request).expect("it answers");
        assert_eq!(response.status, 422);
    }
}
