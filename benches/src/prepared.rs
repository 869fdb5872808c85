//! What fixed work needs before it begins: an engine that serves one version, and requests of tensors.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use onnxd::{
    Engine, Options,
    batch::Lane,
    codec::oip,
    model::{signature::Signature, tensor::Tensor},
    serving::ServingSet,
};
use serde_json::json;

use crate::repository::Repository;

/// The name that it serves as.
pub const MODEL: &str = "anomaly";
/// Counting is slow.
pub const PATIENCE: Duration = Duration::from_secs(600);

/// An engine that serves a copy of a version alone.
pub fn open(version: &Path) -> Result<(Repository, Engine)> {
    let mut repository = Repository::new(MODEL, &[version])?;
    repository.point("1", &[], None)?;
    let mut options = Options::new(repository.path());
    options.request_timeout = PATIENCE;
    options.poll_interval = Duration::from_secs(3600);
    let engine = Engine::open(options).map_err(anyhow::Error::msg)?;
    engine.wait(PATIENCE).map_err(anyhow::Error::msg)?;
    Ok((repository, engine))
}

/// What serves in a lane, without an observer, which would count the rows at a time of its own.
pub fn unobserved(lane: &Lane) -> Result<Arc<ServingSet>> {
    let set = lane.serving.get().context("the model does not serve")?;
    Ok(Arc::new(ServingSet::of(Arc::clone(&set.champion), set.epoch)))
}

/// A request of the Open Inference Protocol with its tensors as bytes, and how many bytes of it are JSON.
pub fn as_bytes(signature: &Signature, inputs: &[Tensor], rows: usize) -> (Vec<u8>, usize) {
    let mut bytes = vec![];
    let mut named = vec![];
    for (input, tensor) in signature.inputs.iter().zip(inputs) {
        let before = bytes.len();
        oip::raw::encode(&mut bytes, tensor, 0..rows);
        named.push(json!({
            "name": input.name,
            "shape": tensor.shape(),
            "datatype": "FP32",
            "parameters": {"binary_data_size": bytes.len() - before},
        }));
    }
    let mut request = json!({"inputs": named}).to_string().into_bytes();
    let length = request.len();
    request.append(&mut bytes);
    (request, length)
}
