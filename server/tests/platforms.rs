//! The platforms that start the server in their own way: SageMaker and Vertex AI.

mod common;

use std::fs;
use std::process::Command;

use common::http::{self, Reply};
use common::repo::{Repo, fixture};
use common::{Server, root};
use serde_json::json;
use tempfile::TempDir;

fn get(server: &Server, path: &str) -> Reply {
    http::request(server.http, "GET", path, &[], b"")
}

/// Two models as SageMaker unpacks them, and the header that chooses one.
#[test]
fn sagemaker_starts_it_and_chooses_the_model() {
    let base = TempDir::new().expect("a folder");
    for (model, file) in [("vector", "vector.onnx"), ("fixed", "fixed-batch.onnx")] {
        let version = base.path().join("model").join(model).join("1");
        fs::create_dir_all(&version).expect("a folder");
        fs::copy(fixture(file), version.join("model.onnx")).expect("a file");
    }
    let folder = base.path().to_str().expect("UTF-8");
    let environment = [("SAGEMAKER_BASE_DIR", folder), ("SAGEMAKER_BIND_TO_PORT", "0"), ("ONNXD_HTTP", "")];
    let server = Server::launch_by(&environment);
    common::wait_for("readiness", || (get(&server, "/ping").status == 200).then_some(()));
    assert!(server.http.ip().is_unspecified(), "{}", server.http);
    let body = br#"{"instances": [[1, 2, 3, 4]]}"#;
    let ask = |target: &str| {
        let headers =
            [("content-type", "application/json"), ("x-amzn-sagemaker-target-model", target), ("x-amzn-trace-id", "1")];
        http::request(server.http, "POST", "/invocations", &headers, body)
    };
    common::wait_for("the second model", || (ask("/vector").status == 200).then_some(()));
    assert_eq!(ask("fixed.tar.gz").json(), json!({ "predictions": { "y": [10.0] } }));
    assert!(ask("/vector").json()["predictions"]["label"].is_array());
    assert_eq!(ask("other.tar.gz").status, 404);
    assert_eq!(ask("other").json()["error_code"], json!("RESOURCE_DOES_NOT_EXIST"));
    let without = server.post("/invocations", "{}");
    assert_eq!((without.status, without.json()["error_code"].clone()), (404, json!("RESOURCE_DOES_NOT_EXIST")));
    // One file is one model.
    fs::remove_dir_all(base.path().join("model")).expect("removed");
    fs::create_dir(base.path().join("model")).expect("a folder");
    fs::copy(fixture("vector.onnx"), base.path().join("model/my-model.onnx")).expect("a file");
    let server = Server::launch_by(&environment);
    common::wait_for("readiness", || (get(&server, "/ping").status == 200).then_some(()));
    assert_eq!(get(&server, "/v1/models").json(), json!({ "models": ["my-model"] }));
}

#[test]
fn vertex_names_its_routes_and_its_port() {
    let repo = Repo::serving("good", None);
    let predict = "/v1/endpoints/12/deployedModels/34:predict";
    let health = "/v1/endpoints/12/deployedModels/34";
    let environment = [
        ("AIP_HTTP_PORT", "0"),
        ("AIP_PREDICT_ROUTE", predict),
        ("AIP_HEALTH_ROUTE", health),
        ("AIP_STORAGE_URI", "gs://bucket/model"),
        ("ONNXD_HTTP", ""),
    ];
    let server = Server::launch_with(repo.path(), &[], &environment);
    common::wait_for("readiness", || (get(&server, health).status == 200).then_some(()));
    assert!(server.http.ip().is_unspecified(), "{}", server.http);
    let body = json!({ "instances": [[1, 1, 0, 48, 8]] }).to_string();
    assert_eq!(server.post(predict, &body).json()["predictions"][0]["anomaly"], false);
    let requests = "onnxd_http_requests_total{route=\"vertex\",method=\"POST\",code=\"200\"}";
    common::wait_for("the route's count", || server.metric(requests).filter(|count| *count >= 1.0));
    let inferences =
        "onnxd_inference_requests_total{model=\"anomaly\",role=\"champion\",protocol=\"vertex\",outcome=\"ok\"}";
    common::wait_for("the protocol's count", || server.metric(inferences).filter(|count| *count >= 1.0));
}

fn serve(args: &[&str], environment: &[(&str, &str)]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_onnxd"))
        .arg("serve")
        .args(args)
        .envs(environment.iter().copied())
        .current_dir(root())
        .output()
        .expect("the program runs");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).expect("UTF-8"))
}

#[test]
fn what_the_platforms_set_is_below_what_anyone_sets() {
    let platforms = [("SAGEMAKER_BIND_TO_PORT", "9000"), ("AIP_HEALTH_ROUTE", "/h")];
    let (_, text) = serve(&["--print-config"], &platforms);
    let line = |text: &str, name: &str| text.lines().find(|l| l.starts_with(name)).unwrap_or_default().to_owned();
    assert!(
        line(&text, "http ").contains("0.0.0.0:9000") && line(&text, "http ").ends_with("# SAGEMAKER_BIND_TO_PORT")
    );
    assert!(line(&text, "health-route").ends_with("# AIP_HEALTH_ROUTE"), "{text}");
    let (_, text) = serve(&["--print-config"], &[platforms[0], ("ONNXD_HTTP", "127.0.0.1:1")]);
    assert!(line(&text, "http ").contains("127.0.0.1:1") && line(&text, "http ").ends_with("# environment"));
    // Nothing of it without a platform.
    let (_, text) = serve(&["--print-config"], &[]);
    assert!(line(&text, "http ").ends_with("# default"));

    let (ok, text) = serve(&[], &[("AIP_STORAGE_URI", "gs://bucket/model")]);
    assert!(!ok && text.contains("AIP_STORAGE_URI") && text.contains("copy them to a folder"), "{text}");
    let (ok, text) = serve(&["--predict-route", "predict", "--print-config"], &[]);
    assert!(!ok && text.contains("predict-route is \"predict\""), "{text}");
}

/// `onnxd ready`, with the environment that a server was started with: exit code, and all that it says.
fn ready(environment: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_onnxd"));
    let output = command.arg("ready").envs(environment.iter().copied()).current_dir(root()).output().expect("it runs");
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).expect("text"))
}

#[test]
fn a_container_asks_whether_it_is_ready() {
    let empty = TempDir::new().expect("a folder");
    let server = Server::launch(empty.path(), &["--ops", "0.0.0.0:0"]);
    let (http, ops) = (server.http.to_string(), server.ops.to_string());
    let (code, said) = ready(&[("ONNXD_HTTP", &http), ("ONNXD_OPS", &ops)]);
    assert!(code == Some(1) && said.contains("503") && said.contains("not ready: "), "{code:?} {said}");
    let repo = Repo::serving("good", None);
    let server = Server::start(repo.path(), &["--ops", "0.0.0.0:0"]);
    let (http, ops) = (server.http.to_string(), server.ops.to_string());
    assert_eq!(ready(&[("ONNXD_HTTP", "127.0.0.1:1"), ("ONNXD_OPS", &ops)]), (Some(0), "ready\n".into()));
    assert_eq!(ready(&[("ONNXD_HTTP", &http), ("ONNXD_OPS", "off")]), (Some(0), "ready\n".into()));
    let port = server.http.port().to_string();
    assert_eq!(ready(&[("SAGEMAKER_BIND_TO_PORT", &port), ("ONNXD_OPS", "off")]), (Some(0), "ready\n".into()));
    let (code, said) = ready(&[("ONNXD_OPS", "127.0.0.1:1")]);
    assert!(code == Some(1) && said.contains("127.0.0.1:1 cannot be reached"), "{code:?} {said}");
    for (ops, wants) in [("127.0.0.1:0", "name its port with --ops"), ("here", "an address such as")] {
        let (code, said) = ready(&[("ONNXD_OPS", ops)]);
        assert!(code == Some(2) && said.contains(wants), "{code:?} {said}");
    }
}
