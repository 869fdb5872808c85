//! `GET /openapi.json`: how each model that serves is asked, as OpenAPI 3.1; and `GET /docs`, the same for a browser.

mod schema;

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State as Shared};
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::State;
use super::error::Problem;
use crate::model::Model;
use crate::model::tensor::DType;
use crate::serving::ServingSet;

/// All models.
pub(super) async fn all(Shared(state): Shared<Arc<State>>) -> Response {
    let lanes = state.engine.lanes();
    let sets: Vec<(&str, Arc<ServingSet>)> =
        lanes.values().filter_map(|lane| Some((lane.name.as_str(), lane.serving.get()?))).collect();
    let default = state.lane(None).ok().map(|lane| lane.name.clone());
    let models = sets.iter().map(|(name, set)| (*name, &*set.champion));
    Json(document(models, default.as_deref(), state.engine.options().max_rows)).into_response()
}

/// One model.
pub(super) async fn one(Shared(state): Shared<Arc<State>>, Path(name): Path<String>) -> Result<Response, Problem> {
    let lane = state.lane(Some(&name))?;
    let set = lane.serving.get().ok_or_else(Problem::not_ready)?;
    let models = std::iter::once((lane.name.as_str(), &*set.champion));
    Ok(Json(document(models, None, state.engine.options().max_rows)).into_response())
}

/// The page, which asks for nothing from anywhere else.
pub(super) async fn page() -> Response {
    asset("text/html; charset=utf-8", include_str!("../docs/page.html"))
}

/// What the page does.
pub(super) async fn script() -> Response {
    asset("text/javascript; charset=utf-8", include_str!("../docs/page.js"))
}

/// How the page looks.
pub(super) async fn style() -> Response {
    asset("text/css; charset=utf-8", include_str!("../docs/page.css"))
}

fn asset(content_type: &'static str, text: &'static str) -> Response {
    let policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; \
                  form-action 'none'; frame-ancestors 'none'";
    let headers: [(HeaderName, HeaderValue); 3] = [
        (header::CONTENT_TYPE, HeaderValue::from_static(content_type)),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    (headers, text).into_response()
}

fn document<'a>(models: impl Iterator<Item = (&'a str, &'a Model)>, default: Option<&str>, max_rows: usize) -> Value {
    let mut paths = Map::new();
    let mut schemas = Map::new();
    let mut tags = vec![];
    schemas.insert("Problem".into(), schema::problem());
    schemas.insert("Error".into(), error(&["error"]));
    schemas.insert("MlflowError".into(), error(&["error_code", "message"]));
    for (name, model) in models {
        let signature = &model.signature;
        for dtype in signature.inputs.iter().map(|i| i.dtype).chain(signature.outputs.iter().map(|o| o.dtype)) {
            schemas.insert(dtype.to_string(), schema::tensor(dtype));
        }
        schemas.insert("int64".into(), schema::tensor(DType::I64));
        schemas.insert(format!("{name}.Row"), schema::row(signature));
        if let Some(positional) = schema::positional(signature) {
            schemas.insert(format!("{name}.Values"), positional);
        }
        schemas.insert(format!("{name}.Answer"), schema::answer(signature));
        tags.push(json!({"name": name, "description": describe(model, max_rows)}));
        let dialects = Dialects { name, model, max_rows };
        if default == Some(name) {
            paths.insert("/predict".into(), dialects.named("predict"));
            paths.insert("/invocations".into(), dialects.mlflow());
            paths.insert("/feedback".into(), dialects.feedback("feedback"));
        }
        paths.insert(format!("/models/{name}/predict"), dialects.named(&format!("predict_{name}")));
        paths.insert(format!("/models/{name}/feedback"), dialects.feedback(&format!("feedback_{name}")));
        paths.insert(format!("/v2/models/{name}/infer"), dialects.infer());
        paths.insert(format!("/v1/models/{name}:predict"), dialects.serving());
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "onnxd",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The models that this server answers for. See docs/protocols.md for every dialect.",
        },
        "tags": tags,
        "paths": paths,
        "components": {"schemas": schemas},
    })
}

fn describe(model: &Model, max_rows: usize) -> String {
    let signature = if model.signature.inferred { "no manifest" } else { "with a manifest" };
    format!("Version {}, {signature}; {} rows a run at most.", model.id.version, model.max_batch().min(max_rows))
}

fn error(keys: &[&str]) -> Value {
    let properties: Map<String, Value> =
        keys.iter().map(|key| ((*key).to_owned(), json!({"type": "string"}))).collect();
    json!({"type": "object", "properties": properties, "required": keys})
}

/// The operations of one model.
struct Dialects<'a> {
    name: &'a str,
    model: &'a Model,
    max_rows: usize,
}

impl Dialects<'_> {
    fn named(&self, id: &str) -> Value {
        let row = self.reference("Row");
        let answer = self.reference("Answer");
        let rows = self.rows();
        let instances = json!({
            "type": "object",
            "properties": {"instances": rows},
            "required": ["instances"],
            "additionalProperties": false,
        });
        let predictions = json!({
            "type": "object",
            "properties": {"predictions": {"type": "array", "items": answer}},
            "required": ["predictions"],
        });
        json!({"post": {
            "tags": [self.name],
            "operationId": id,
            "summary": "Named features in, named outputs out",
            "description": "One object, an array of them, or {\"instances\": [..]}; the answer has the same form.",
            "requestBody": {"required": true, "content": {
                "application/json": {"schema": {"anyOf": [row, rows, instances]}, "examples": self.examples()},
            }},
            "parameters": [{
                "name": "x-classes",
                "in": "header",
                "description": "How probabilities of labelled classes are written: one array a row, or one object by label.",
                "schema": {"enum": ["array", "map"], "default": "array"},
            }],
            "responses": responses(json!({"anyOf": [answer, {"type": "array", "items": answer}, predictions]}), "Problem"),
        }})
    }

    /// The Open Inference Protocol.
    fn infer(&self) -> Value {
        let signature = &self.model.signature;
        let outputs: Vec<&str> = signature.outputs.iter().map(|output| output.name.as_str()).collect();
        let wanted = json!({
            "type": "object",
            "properties": {"name": {"enum": outputs}, "parameters": {"type": "object"}},
            "required": ["name"],
        });
        let request = json!({
            "type": "object",
            "properties": {
                "id": {"type": "string"},
                "parameters": {"type": "object"},
                "inputs": {"type": "array", "items": schema::tensors(signature)},
                "outputs": {"type": "array", "items": wanted},
            },
            "required": ["inputs"],
        });
        let tensor = json!({
            "type": "object",
            "properties": {
                "name": {"enum": outputs},
                "datatype": {"type": "string"},
                "shape": {"type": "array", "items": {"type": "integer"}},
                "data": {"type": "array"},
            },
            "required": ["name", "datatype", "shape"],
        });
        let answer = json!({
            "type": "object",
            "properties": {
                "model_name": {"const": self.name},
                "model_version": {"type": "string"},
                "id": {"type": "string"},
                "outputs": {"type": "array", "items": tensor},
            },
            "required": ["model_name", "outputs"],
        });
        let example = self.example().and_then(|row| schema::example_tensors(signature, row));
        let example = example.map(|inputs| json!({ "inputs": inputs }));
        self.operation("infer", "Open Inference Protocol v2: tensors", request, answer, "Error", example)
    }

    /// KServe's protocol v1 and TensorFlow Serving's.
    fn serving(&self) -> Value {
        let name = json!({"enum": ["", "serving_default"]});
        let rows = json!({
            "type": "object",
            "properties": {"instances": self.rows(), "signature_name": name},
            "required": ["instances"],
            "additionalProperties": false,
        });
        let columns = json!({
            "type": "object",
            "properties": {"inputs": {"description": "A tensor an input, or one of values a feature."}, "signature_name": name},
            "required": ["inputs"],
            "additionalProperties": false,
        });
        let predictions =
            json!({"type": "object", "properties": {"predictions": {"type": "array"}}, "required": ["predictions"]});
        let outputs = json!({"type": "object", "properties": {"outputs": {}}, "required": ["outputs"]});
        let example = self.example().map(|row| json!({ "instances": [row] }));
        let (request, answer) = (json!({"anyOf": [rows, columns]}), json!({"anyOf": [predictions, outputs]}));
        self.operation("serving", "KServe v1 and TensorFlow Serving: instances", request, answer, "Error", example)
    }

    /// MLflow's scoring server and SageMaker.
    fn mlflow(&self) -> Value {
        let split = json!({
            "type": "object",
            "properties": {"columns": {"type": "array"}, "index": {"type": "array"}, "data": {"type": "array"}},
            "required": ["data"],
        });
        let keys = [
            ("dataframe_split", split),
            ("dataframe_records", self.rows()),
            ("instances", self.rows()),
            ("inputs", json!({})),
        ];
        let forms = keys.map(|(key, schema)| {
            json!({"type": "object", "properties": {key: schema, "params": {}}, "required": [key], "additionalProperties": false})
        });
        let named = [self.reference("Row"), self.rows()];
        let request = json!({"anyOf": forms.into_iter().chain(named).collect::<Vec<_>>()});
        let predictions = json!({"type": "object", "properties": {"predictions": {}}, "required": ["predictions"]});
        let answers = json!({"type": "array", "items": self.reference("Answer")});
        let answer = json!({"anyOf": [predictions, self.reference("Answer"), answers]});
        let example = self.example().map(|row| json!({ "dataframe_records": [row] }));
        self.operation("mlflow", "MLflow and SageMaker: data frames, tensors", request, answer, "MlflowError", example)
    }

    /// What was true of rows that were answered.
    fn feedback(&self, id: &str) -> Value {
        let label = schema::label();
        let request = json!({"anyOf": [label, {"type": "array", "items": label, "maxItems": self.max_rows}]});
        let accepted = json!({
            "type": "object",
            "properties": {"accepted": {"type": "integer"}, "detail": {"type": "string"}},
            "required": ["accepted"],
        });
        let mut answers = responses(accepted, "Problem");
        if let Some(answer) = answers.as_object_mut().and_then(|answers| answers.remove("200")) {
            answers["202"] = answer;
        }
        let example = json!({"series": "shop/cart-7d4", "ts": 1_764_200_000, "anomaly": true, "source": "human"});
        json!({"post": {
            "tags": [self.name],
            "operationId": id,
            "summary": "What was true, for the evidence on challengers",
            "description": "One label or an array of them. Each is counted once for each row and source, however often it is sent.",
            "requestBody": {"required": true, "content": {
                "application/json": {"schema": request, "examples": {"a person's": {"value": example}}},
            }},
            "responses": answers,
        }})
    }

    fn operation(
        &self,
        id: &str,
        summary: &str,
        request: Value,
        answer: Value,
        error: &str,
        example: Option<Value>,
    ) -> Value {
        let examples = example.map_or_else(|| json!({}), |value| json!({"one row": {"value": value}}));
        json!({"post": {
            "tags": [self.name],
            "operationId": format!("{id}_{}", self.name),
            "summary": summary,
            "requestBody": {"required": true, "content": {"application/json": {"schema": request, "examples": examples}}},
            "responses": responses(answer, error),
        }})
    }

    /// A row that the model takes.
    fn example(&self) -> Option<&Map<String, Value>> {
        let row = &self.model.example.input;
        (!row.is_empty() || self.model.signature.inputs.is_empty()).then_some(row)
    }

    fn reference(&self, what: &str) -> Value {
        json!({"$ref": format!("#/components/schemas/{}.{what}", self.name)})
    }

    /// An array of rows.
    fn rows(&self) -> Value {
        let row = self.reference("Row");
        let items = match self.model.signature.inputs.len() {
            1 => json!({"anyOf": [row, self.reference("Values")]}),
            _ => row,
        };
        json!({"type": "array", "items": items, "minItems": 1, "maxItems": self.max_rows})
    }

    fn examples(&self) -> Value {
        let Some(row) = self.example() else { return json!({}) };
        let output = &self.model.example.output;
        let summary = if output.is_empty() {
            "Small numbers".to_owned()
        } else {
            format!("A golden sample; the answer is {}", Value::Object(output.clone()))
        };
        json!({"one row": {"summary": summary, "value": row}})
    }
}

/// The answers that every operation has.
fn responses(answer: Value, error: &str) -> Value {
    let problem = |description: &str| {
        let content_type = if error == "Problem" { "application/problem+json" } else { "application/json" };
        let schema = json!({"$ref": format!("#/components/schemas/{error}")});
        json!({"description": description, "content": {content_type: {"schema": schema}}})
    };
    let mut responses = Map::new();
    let headers = json!({
        "x-model-version": {"description": "The version that answered.", "schema": {"type": "string"}},
        "x-request-id": {"description": "Taken from the request, or made.", "schema": {"type": "string"}},
    });
    let ok =
        json!({"description": "The answer.", "headers": headers, "content": {"application/json": {"schema": answer}}});
    responses.insert("200".into(), ok);
    for (status, description) in [
        ("400", "The body is not what it says to be."),
        ("404", "There is no such model or version."),
        ("408", "The body did not arrive in time."),
        ("413", "The body is too large, decompressed."),
        ("415", "The content type or encoding is not taken."),
        ("422", "The features are not those of the model; `field` says which."),
        ("500", "The model failed on these rows."),
        ("503", "Not ready, overloaded or shutting down; try again after Retry-After seconds."),
        ("504", "The deadline passed."),
    ] {
        if status != "422" || error == "Problem" {
            responses.insert(status.into(), problem(description));
        }
    }
    Value::Object(responses)
}
