//! KServe's protocol v1 and TensorFlow Serving's REST API, which share their paths: predictions and what is told of models.
//!
//! The only version that answers is the champion's; `champion` and `stable` are labels for it.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State as Shared};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::body::Incoming;
use super::dialect::{self, Dialect, Encoded};
use super::error::{Problem, Shape};
use super::oip::metadata::full_shape;
use super::{State, wishes};
use crate::batch::Lane;
use crate::codec::encode::{self, Classes};
use crate::codec::envelope::{self, Envelope, Layout};
use crate::codec::{DecodeError, Request, columns};
use crate::model::signature::Signature;
use crate::model::tensor::DType;
use crate::model::{Answer, Model};
use crate::serving::ServingSet;
use crate::text::shown;

/// Labels of the champion.
const LABELS: [&str; 2] = ["champion", "stable"];

/// What a path asks of a model: `/v1/models/{model}[/versions/{version}|/labels/{label}]:{verb}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target<'a> {
    model: &'a str,
    version: Option<&'a str>,
    label: Option<&'a str>,
    verb: &'a str,
}

impl<'a> Target<'a> {
    /// `None` when the path has no verb.
    pub(super) fn of(path: &'a str) -> Option<Self> {
        let (path, verb) = path.strip_prefix("/v1/models/")?.rsplit_once(':')?;
        let mut parts = path.split('/');
        let model = parts.next().filter(|model| !model.is_empty())?;
        let (mut version, mut label) = (None, None);
        match (parts.next(), parts.next()) {
            (None, _) => {}
            (Some("versions"), Some(number)) => version = Some(number),
            (Some("labels"), Some(name)) => label = Some(name),
            _ => return None,
        }
        parts.next().is_none().then_some(Self { model, version, label, verb })
    }
}

/// The bodies of this protocol and of Vertex AI, which are alike.
#[derive(Clone, Copy)]
struct Instances(Envelope, Classes);

impl Dialect for Instances {
    type Form = Layout;

    fn protocol(&self) -> &'static str {
        if self.0 == Envelope::Vertex { "vertex" } else { "v1" }
    }

    fn decode(&self, model: &Model, body: &[u8], max_rows: usize) -> Result<Request<Layout>, DecodeError> {
        envelope::body(self.0, &model.signature, body, max_rows)
    }

    fn encode(&self, model: &Model, answers: &[Answer], form: Layout) -> Encoded {
        let signature = &model.signature;
        Encoded::json(match form {
            Layout::Named(form) => encode::answer(signature, answers, form, self.1),
            Layout::Rows { .. } | Layout::Table => columns::predictions(signature, answers, self.1),
            Layout::Columns { .. } => columns::encode(signature, answers, "outputs", true),
        })
    }
}

/// Answers a request for predictions.
pub(super) async fn predict(
    state: Arc<State>,
    target: Target<'_>,
    headers: &HeaderMap,
    body: Incoming,
) -> Result<Response, Problem> {
    let (lane, set) = champion(&state, target.model, target.version, target.label)?;
    let status = match target.verb {
        "predict" => StatusCode::OK,
        "explain" | "classify" | "regress" => StatusCode::NOT_IMPLEMENTED,
        _ => StatusCode::NOT_FOUND,
    };
    if status != StatusCode::OK {
        let detail = format!(":{} is not offered: send the features to :predict", shown(target.verb));
        return Err(Problem::new(status, detail));
    }
    let dialect = Instances(Envelope::Serving, wishes::classes(headers)?);
    Ok(dialect::answer_with(dialect, Shape::Plain, &state, &lane, &set, headers, body).await)
}

/// Answers a request for predictions of the default model, at the path that Vertex AI chose.
pub(super) async fn predict_for_vertex(
    state: Arc<State>,
    headers: &HeaderMap,
    body: Incoming,
) -> Result<Response, Problem> {
    let lane = state.lane(None)?;
    let dialect = Instances(Envelope::Vertex, wishes::classes(headers)?);
    dialect::answer(dialect, Shape::Plain, &state, &lane, headers, body).await
}

/// What KServe's client asks to know whether the server lives. People who ask are shown the models.
pub(super) async fn root(headers: HeaderMap) -> Response {
    let accepts = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if accepts.contains("text/html") {
        return Redirect::temporary("/docs").into_response();
    }
    Json(json!({"status": "alive"})).into_response()
}

/// The set of a model whose champion has this version and this label.
fn champion(
    state: &State,
    model: &str,
    version: Option<&str>,
    label: Option<&str>,
) -> Result<(Arc<Lane>, Arc<ServingSet>), Problem> {
    if let Some(label) = label.filter(|label| !LABELS.contains(label)) {
        let labels = LABELS.join(", ");
        let detail = format!("there is no label {:?}: {labels} are those of the version that serves", shown(label));
        return Err(Problem::new(StatusCode::NOT_FOUND, detail));
    }
    state.find(model, version)
}

/// What stands behind a model's name in a path.
#[derive(Deserialize)]
pub(super) struct Asked {
    model: String,
    version: Option<String>,
    label: Option<String>,
}

impl Asked {
    fn set(&self, state: &State) -> Result<Arc<ServingSet>, Problem> {
        let found = champion(state, &self.model, self.version.as_deref(), self.label.as_deref());
        found.map(|(_, set)| set).map_err(|problem| problem.told(Shape::Plain))
    }
}

/// `GET /v1/models`.
pub(super) async fn list(Shared(state): Shared<Arc<State>>) -> Json<Value> {
    Json(json!({ "models": state.engine.lanes().keys().collect::<Vec<_>>() }))
}

/// `GET /v1/models/{model}` for both: KServe reads `name` and `ready`, TensorFlow Serving's clients the rest.
pub(super) async fn status(
    Shared(state): Shared<Arc<State>>,
    Path(asked): Path<Asked>,
) -> Result<Json<Value>, Problem> {
    let set = asked.set(&state)?;
    let version = &set.champion.id.version;
    let ok = json!({ "error_code": "OK", "error_message": "" });
    let versions = [json!({ "version": version, "state": "AVAILABLE", "status": ok })];
    Ok(Json(json!({ "name": asked.model, "ready": true, "model_version_status": versions })))
}

/// `GET /v1/models/{model}/metadata`.
pub(super) async fn metadata(
    Shared(state): Shared<Arc<State>>,
    Path(asked): Path<Asked>,
) -> Result<Json<Value>, Problem> {
    let set = asked.set(&state)?;
    let signature = &set.champion.signature;
    let inputs = signature.inputs.iter().map(|i| (&i.name, i.dtype, &i.row_shape));
    let outputs = signature.outputs.iter().map(|o| (&o.name, o.dtype, &o.row_shape));
    let default = json!({
        "inputs": inputs.map(|tensor| info(signature, tensor)).collect::<Map<_, _>>(),
        "outputs": outputs.map(|tensor| info(signature, tensor)).collect::<Map<_, _>>(),
        "method_name": "tensorflow/serving/predict",
    });
    Ok(Json(json!({
        "model_spec": { "name": asked.model, "signature_name": "", "version": set.champion.id.version },
        "metadata": { "signature_def": { "signature_def": { "serving_default": default } } },
    })))
}

/// TensorFlow's description of a tensor, by its name.
fn info(signature: &Signature, (name, dtype, row): (&String, DType, &Vec<Option<usize>>)) -> (String, Value) {
    let dims = full_shape(signature, row).into_iter().map(|size| json!({ "size": size.to_string(), "name": "" }));
    let shape = json!({ "dim": dims.collect::<Vec<_>>(), "unknown_rank": false });
    (name.clone(), json!({ "dtype": tensorflow(dtype), "tensor_shape": shape, "name": name }))
}

const fn tensorflow(dtype: DType) -> &'static str {
    match dtype {
        DType::F16 => "DT_HALF",
        DType::BF16 => "DT_BFLOAT16",
        DType::F32 => "DT_FLOAT",
        DType::F64 => "DT_DOUBLE",
        DType::I8 => "DT_INT8",
        DType::I16 => "DT_INT16",
        DType::I32 => "DT_INT32",
        DType::I64 => "DT_INT64",
        DType::U8 => "DT_UINT8",
        DType::U16 => "DT_UINT16",
        DType::U32 => "DT_UINT32",
        DType::U64 => "DT_UINT64",
        DType::Bool => "DT_BOOL",
        DType::Text => "DT_STRING",
    }
}

#[cfg(test)]
mod tests {
    use super::Target;

    #[test]
    fn verbs_are_found_and_nothing_else() {
        let of = |path| Target::of(path).map(|t| (t.model, t.version, t.label, t.verb));
        assert_eq!(of("/v1/models/m:predict"), Some(("m", None, None, "predict")));
        assert_eq!(of("/v1/models/a:b:predict"), Some(("a:b", None, None, "predict")));
        assert_eq!(of("/v1/models/m/versions/3:predict"), Some(("m", Some("3"), None, "predict")));
        assert_eq!(of("/v1/models/m/labels/stable:regress"), Some(("m", None, Some("stable"), "regress")));
        for path in [
            "/v1/models/m",
            "/v1/models/:predict",
            "/v1/models/m/versions:predict",
            "/v1/models/m/runs/1:predict",
            "/v1/models/m/versions/1/2:predict",
            "/v2/models/m:predict",
        ] {
            assert_eq!(of(path), None, "{path}");
        }
    }
}
