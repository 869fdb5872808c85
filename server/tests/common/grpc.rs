//! gRPC over one connection, with the messages that the server is built on.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::StreamExt;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use onnxd::http::grpc::SERVICE;
use onnxd::http::grpc::proto::infer_parameter::ParameterChoice;
use onnxd::http::grpc::proto::model_infer_request::InferInputTensor;
use onnxd::http::grpc::proto::{InferParameter, InferTensorContents, ModelInferRequest, ModelInferResponse};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::{self, Runtime};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;
use tonic::body::Body;
use tonic::codec::CompressionEncoding;
use tonic::codegen::http::{self, HeaderMap, Uri};
use tonic::metadata::MetadataKey;
use tonic::{Request, Response, Status, Streaming};

/// A connection.
pub struct Client {
    runtime: Runtime,
    pub channel: Channel,
}

impl Client {
    #[track_caller]
    pub fn connect(address: SocketAddr) -> Self {
        Self::over(address, runtime::Builder::new_multi_thread().worker_threads(1))
    }

    /// One that does not answer while nobody waits for it, like a client that is suspended.
    #[track_caller]
    pub fn connect_drowsily(address: SocketAddr) -> Self {
        Self::over(address, &mut runtime::Builder::new_current_thread())
    }

    fn over(address: SocketAddr, runtime: &mut runtime::Builder) -> Self {
        let runtime = runtime.enable_all().build().expect("a runtime");
        let send = runtime.block_on(async { begin(connect(address).await).await });
        Self { runtime, channel: Channel { send, address } }
    }

    /// The same, encrypted.
    #[track_caller]
    pub fn connect_by_tls(address: SocketAddr, config: Arc<ClientConfig>) -> Self {
        let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let send = runtime.block_on(async {
            let name = ServerName::IpAddress(address.ip().into());
            begin(TlsConnector::from(config).connect(name, connect(address).await).await.expect("TLS")).await
        });
        Self { runtime, channel: Channel { send, address } }
    }

    /// Drives the connection until this is done.
    pub fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Calls a method of the service.
    pub fn call<A: Message + Default + 'static>(
        &self,
        method: &str,
        message: impl Message + Default + 'static,
    ) -> Result<A, Status> {
        self.call_with(method, message, &[]).map(Response::into_inner)
    }

    /// The same, with metadata.
    pub fn call_with<A: Message + Default + 'static>(
        &self,
        method: &str,
        message: impl Message + Default + 'static,
        metadata: &[(&str, &str)],
    ) -> Result<Response<A>, Status> {
        self.wait(self.channel.call(&format!("/{SERVICE}/{method}"), message, metadata))
    }

    /// Sends exactly these bytes as a request's body, and gives what comes back: head, body, trailers.
    pub fn raw(&self, method: &str, metadata: &[(&str, &str)], body: Vec<u8>) -> (HeaderMap, Vec<u8>, HeaderMap) {
        self.send(method, metadata, Body::new(Full::new(body.into())))
    }

    /// The same for a request that does not end with these bytes.
    pub fn raw_and_more(&self, method: &str, body: Vec<u8>) -> (HeaderMap, Vec<u8>, HeaderMap) {
        let frames = futures_util::stream::iter([Ok::<_, Status>(Frame::data(body.into()))]);
        let body = StreamBody::new(frames.chain(futures_util::stream::pending()));
        self.send(method, &[], Body::new(body))
    }

    fn send(&self, method: &str, metadata: &[(&str, &str)], body: Body) -> (HeaderMap, Vec<u8>, HeaderMap) {
        let path = format!("/{SERVICE}/{method}");
        let mut request = http::Request::new(body);
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = self.channel.uri(&path);
        request.headers_mut().insert("content-type", "application/grpc".parse().expect("a header"));
        for (name, value) in metadata {
            let name: http::HeaderName = name.parse().expect("a header");
            request.headers_mut().insert(name, value.parse().expect("a header"));
        }
        let mut send = self.channel.send.clone();
        self.wait(async {
            let (head, body) = send.send_request(request).await.expect("an answer").into_parts();
            let body = body.collect().await.expect("a body");
            let trailers = body.trailers().cloned().unwrap_or_default();
            (head.headers, body.to_bytes().to_vec(), trailers)
        })
    }
}

async fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).await.expect("the server accepts");
    stream.set_nodelay(true).expect("a socket");
    stream
}

async fn begin(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> http2::SendRequest<Body> {
    let (send, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
    tokio::spawn(connection);
    send
}

/// What a client's calls go through; its clones share the connection.
#[derive(Clone)]
pub struct Channel {
    send: http2::SendRequest<Body>,
    address: SocketAddr,
}

impl Channel {
    fn uri(&self, path: &str) -> Uri {
        format!("http://{}{path}", self.address).parse().expect("a URI")
    }

    fn grpc(&self) -> tonic::client::Grpc<Self> {
        tonic::client::Grpc::with_origin(self.clone(), self.uri(""))
            .accept_compressed(CompressionEncoding::Gzip)
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX)
    }

    /// Calls a method by its full path.
    pub async fn call<A: Message + Default + 'static>(
        &self,
        path: &str,
        message: impl Message + Default + 'static,
        metadata: &[(&str, &str)],
    ) -> Result<Response<A>, Status> {
        let mut grpc = self.grpc();
        let codec = tonic_prost::ProstCodec::default();
        let path = path.parse().expect("a path");
        grpc.ready().await.expect("hyper queues requests");
        grpc.unary(with(Request::new(message), metadata), path, codec).await
    }

    /// Calls a method that takes messages, or one, and gives messages.
    pub async fn stream<Q: Message + Default + 'static, A: Message + Default + 'static>(
        &self,
        path: &str,
        messages: impl futures_util::Stream<Item = Q> + Send + 'static,
        metadata: &[(&str, &str)],
    ) -> Result<Response<Streaming<A>>, Status> {
        let mut grpc = self.grpc();
        let codec = tonic_prost::ProstCodec::default();
        let path = path.parse().expect("a path");
        grpc.ready().await.expect("hyper queues requests");
        grpc.streaming(with(Request::new(messages), metadata), path, codec).await
    }
}

fn with<T>(mut request: Request<T>, metadata: &[(&str, &str)]) -> Request<T> {
    for (name, value) in metadata {
        let name: MetadataKey<_> = name.parse().expect("a name");
        request.metadata_mut().insert(name, value.parse().expect("a value"));
    }
    request
}

impl tower::Service<http::Request<Body>> for Channel {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.send.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.send.send_request(request))
    }
}

pub type Row = [f32; 5];

/// Rows for the anomaly models, typed.
pub fn typed(rows: &[Row]) -> ModelInferRequest {
    let contents = InferTensorContents { fp32_contents: rows.concat(), ..InferTensorContents::default() };
    let shape = vec![rows.len() as i64, 5];
    let input = InferInputTensor {
        name: "features".into(),
        datatype: "FP32".into(),
        shape,
        contents: Some(contents),
        ..Default::default()
    };
    ModelInferRequest { model_name: "anomaly".into(), inputs: vec![input], ..Default::default() }
}

/// The same, raw.
pub fn raw(rows: &[Row]) -> ModelInferRequest {
    let mut request = typed(rows);
    request.inputs[0].contents = None;
    request.raw_input_contents = vec![rows.concat().iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>().into()];
    request
}

pub fn row(cpu: f32) -> Row {
    [cpu, 1.0, 0.0, 50.0, 10.0]
}

pub fn infer(client: &Client, request: ModelInferRequest) -> ModelInferResponse {
    client.call("ModelInfer", request).expect("an answer")
}

pub fn parameter(choice: ParameterChoice) -> InferParameter {
    InferParameter { parameter_choice: Some(choice) }
}

/// The values of an output of `good`.
pub fn scores(response: &ModelInferResponse) -> Vec<f32> {
    let at = response.outputs.iter().position(|o| o.name == "score").expect("a score");
    match response.raw_output_contents.get(at) {
        Some(raw) => raw.chunks(4).map(|v| f32::from_le_bytes(v.try_into().expect("four bytes"))).collect(),
        None => response.outputs[at].contents.as_ref().expect("contents").fp32_contents.clone(),
    }
}
