//! The least server that answers with a model: axum, serde and ONNX Runtime where the request is. Nothing is batched, checked,
//! counted, swapped or shadowed.
//!
//! What onnxd costs beside it is onnxd's own; what both cost beside the echo is the model's and HTTP's.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use onnxd::{
    codec::{
        Form,
        encode::{self, Classes},
        oip::{self, read::HEADER},
    },
    model::{
        Answer, Infer as _, ModelId,
        manifest::Manifest,
        session::Session,
        signature::Signature,
        tensor::{Column, DType},
    },
};

use crate::{
    bare::{self, LIMIT},
    echo::{self, BODY},
    parse,
    server::Ports,
};

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
    id: ModelId,
    sessions: Vec<Mutex<Session>>,
    signature: Signature,
    features: Vec<String>,
    /// All outputs as bytes.
    bytes: oip::Form,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let model = Arc::new(Model::load(arguments)?);
    echo::runtime(arguments.threads)?.block_on(async {
        let listener = echo::bind(arguments.addr).await?;
        let ports = Ports { http: listener.local_addr()?, grpc: None, ops: None };
        ports.tell(arguments.ports_file.as_deref())?;
        let router = Router::new()
            .route("/predict", post(predict))
            .route("/models/{model}/predict", post(predict))
            .route("/v2/models/{model}/infer", post(infer))
            .route("/readyz", get(|| async {}))
            .layer(DefaultBodyLimit::max(BODY))
            .with_state(model);
        Ok(axum::serve(echo::prompt(listener), router).await?)
    })
}

impl Model {
    fn load(arguments: &Arguments) -> Result<Self> {
        let (onnx, manifest) = (arguments.version.join("model.onnx"), arguments.version.join("manifest.json"));
        let text = fs::read(&manifest).with_context(|| format!("no {}", manifest.display()))?;
        let manifest = Manifest::parse(&text).map_err(|error| anyhow!(error))?;
        let (mut sessions, io) = bare::sessions(&onnx, arguments.threads)?;
        let signature = Signature::new(&io, Some(&manifest)).map_err(|error| anyhow!(error))?;
        let features = match signature.inputs.as_slice() {
            [input] if input.dtype == DType::F32 => input.features.iter().map(|feature| feature.name.clone()).collect(),
            _ => bail!("a model with one input of float32 is needed"),
        };
        sessions.iter_mut().for_each(|session| session.fit(&signature));
        let Manifest { name, version, .. } = manifest;
        // Answers tell no hashes.
        let id = ModelId { name, version, sha256: String::new(), manifest_sha256: None };
        let chosen = |output| oip::Chosen { output, binary: true, classes: 0 };
        let bytes = oip::Form { id: String::new(), outputs: (0..signature.outputs.len()).map(chosen).collect() };
        Ok(Self { id, sessions: sessions.into_iter().map(Mutex::new).collect(), signature, features, bytes })
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
        let json = headers.get(HEADER).context("no tensors as bytes")?.to_str()?.parse()?;
        let (values, rest) = body.get(json..).context("no tensor")?.as_chunks();
        ensure!(rest.is_empty(), "no whole numbers");
        let answer = self.answer(values.iter().map(|value| f32::from_le_bytes(*value)).collect())?;
        let (bytes, json) = oip::write::answer(&self.id, &self.signature, &[answer], &self.bytes);
        Ok((json.context("no bytes in the answer")?, bytes))
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
        Ok((json, bytes)) => ([(HEADER, json.to_string())], bytes).into_response(),
        Err(error) => refused(&error),
    }
}

fn refused(error: &anyhow::Error) -> Response {
    (StatusCode::UNPROCESSABLE_ENTITY, error.to_string()).into_response()
}
