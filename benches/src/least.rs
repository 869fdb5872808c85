//! The least server that answers with a model: axum, serde and ONNX Runtime where the request is. Nothing is batched, checked,
//! counted, swapped or shadowed.
//!
//! What onnxd costs beside it is onnxd's own; what both cost beside the echo is the model's and HTTP's.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
    serve::ListenerExt as _,
};
use onnxd::{
    codec::{
        Form,
        encode::{self, Classes},
        oip::raw,
    },
    model::{
        Answer, Artifact, Infer as _, ModelId,
        manifest::Manifest,
        runtime::Runtime,
        session::{self, Session},
        sha256,
        signature::Signature,
        tensor::{Column, DType},
    },
};
use serde_json::json;
use tokio::net::TcpListener;

use crate::{echo::BODY, parse, server::Ports};

/// No run of these takes so long.
const LIMIT: Duration = Duration::from_secs(60);
/// The bytes of a body that are JSON, before the tensors.
const JSON_BYTES: &str = "inference-header-content-length";

/// The least server with a model: no batches, no checks, no metrics.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The folder of a version whose model has one input of float32.
    version: PathBuf,
    #[arg(long, default_value = "127.0.0.1:0")]
    addr: SocketAddr,
    /// Async threads, each with its own session.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// The bound address is written to it as JSON.
    #[arg(long)]
    ports_file: Option<PathBuf>,
}

struct Model {
    sessions: Vec<Mutex<Session>>,
    signature: Signature,
    features: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let model = Arc::new(Model::load(arguments)?);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(arguments.threads)
        .enable_all()
        .build()
        .context("no runtime")?;
    runtime.block_on(async {
        let address = arguments.addr;
        let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
        let ports = Ports { http: listener.local_addr()?, grpc: None, ops: None };
        crate::progress(&format!("http://{}/predict", ports.http));
        if let Some(file) = &arguments.ports_file {
            fs::write(file, serde_json::to_vec(&ports)?)?;
        }
        let router = Router::new()
            .route("/predict", post(predict))
            .route("/models/{model}/predict", post(predict))
            .route("/v2/models/{model}/infer", post(infer))
            .route("/readyz", get(|| async {}))
            .layer(DefaultBodyLimit::max(BODY))
            .with_state(model);
        // As servers do that answer more than one request a connection.
        let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
        Ok(axum::serve(listener, router).await?)
    })
}

impl Model {
    fn load(arguments: &Arguments) -> Result<Self> {
        let read = |name: &str| {
            let file = arguments.version.join(name);
            fs::read(&file).with_context(|| format!("no {}", file.display()))
        };
        let onnx = read("model.onnx")?;
        let manifest = Manifest::parse(&read("manifest.json")?).map_err(|error| anyhow!(error))?;
        let (name, version) = (manifest.name.clone(), manifest.version.clone());
        let id = ModelId { name, version, sha256: sha256(&onnx), manifest_sha256: None };
        let artifact = Artifact { id, onnx: onnx.into(), external: Vec::new(), manifest: Some(manifest.into()) };
        let runtime = Runtime::load(None).map_err(|error| anyhow!(error))?;
        let load = || session::load(&runtime, &artifact, 1).map_err(|error| anyhow!(error));
        let (first, io) = load()?;
        let signature = Signature::new(&io, artifact.manifest.as_deref()).map_err(|error| anyhow!(error))?;
        let features = match signature.inputs.as_slice() {
            [input] if input.dtype == DType::F32 => input.features.iter().map(|feature| feature.name.clone()).collect(),
            _ => bail!("a model with one input of float32 is needed"),
        };
        let mut sessions = vec![first];
        for _ in 1..arguments.threads {
            sessions.push(load()?.0);
        }
        sessions.iter_mut().for_each(|session| session.fit(&signature));
        Ok(Self { sessions: sessions.into_iter().map(Mutex::new).collect(), signature, features })
    }

    fn answer(&self, values: Vec<f32>) -> Result<Answer> {
        let rows = values.len() / self.features.len();
        let tensor = Column::F32(values).into_tensor(&[rows, self.features.len()]).context("no whole rows")?;
        let free = self.sessions.iter().find_map(|session| session.try_lock().ok());
        let mut session = free.unwrap_or_else(|| self.sessions[0].lock().unwrap_or_else(PoisonError::into_inner));
        let outputs = session.run(&[tensor], Instant::now() + LIMIT)?;
        Ok(Answer { outputs: outputs.into(), rows: 0..rows })
    }

    fn named(&self, body: &[u8]) -> Result<Vec<u8>> {
        let mut values = Vec::with_capacity(self.features.len());
        let rows = parse::rows(body, &self.features, &mut values)?;
        let form = if rows == 1 { Form::One } else { Form::Instances };
        Ok(encode::answer(&self.signature, &[self.answer(values)?], form, Classes::Array))
    }

    /// Tensors as bytes: what the JSON before them says is taken for granted. Also gives how many bytes of the answer are
    /// JSON.
    fn tensors(&self, headers: &HeaderMap, body: &[u8]) -> Result<(usize, Vec<u8>)> {
        let json = headers.get(JSON_BYTES).context("no tensors as bytes")?.to_str()?.parse()?;
        let (values, rest) = body.get(json..).context("no tensor")?.as_chunks();
        ensure!(rest.is_empty(), "no whole numbers");
        let answer = self.answer(values.iter().map(|value| f32::from_le_bytes(*value)).collect())?;
        let outputs = self.signature.outputs.iter().zip(&*answer.outputs).map(|(output, tensor)| {
            let datatype = if tensor.dtype() == DType::Bool { "BOOL" } else { "FP32" };
            let parameters = json!({ "binary_data_size": raw::len(tensor, answer.rows.clone()) });
            json!({ "name": output.name, "datatype": datatype, "shape": tensor.shape(), "parameters": parameters })
        });
        let mut bytes = serde_json::to_vec(&json!({ "outputs": outputs.collect::<Vec<_>>() }))?;
        let json = bytes.len();
        answer.outputs.iter().for_each(|tensor| raw::encode(&mut bytes, tensor, answer.rows.clone()));
        Ok((json, bytes))
    }
}

async fn predict(State(model): State<Arc<Model>>, body: Bytes) -> Response {
    match model.named(&body) {
        Ok(json) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
        Err(error) => refused(&error),
    }
}

async fn infer(State(model): State<Arc<Model>>, headers: HeaderMap, body: Bytes) -> Response {
    match model.tensors(&headers, &body) {
        Ok((json, bytes)) => ([(JSON_BYTES, json.to_string())], bytes).into_response(),
        Err(error) => refused(&error),
    }
}

fn refused(error: &anyhow::Error) -> Response {
    (StatusCode::UNPROCESSABLE_ENTITY, error.to_string()).into_response()
}
