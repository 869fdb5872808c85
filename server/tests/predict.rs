//! Predictions: the runbook's request, every form of a body, and equality with ONNX Runtime itself.

mod common;

use std::process::Command;

use common::repo::{Repo, fixture};
use common::{Server, http, root};
use serde_json::{Value, json};

#[test]
fn the_runbooks_request_is_answered_by_the_trained_champion() {
    let server = Server::start(&root().join("models"), &[]);
    let body = r#"{"cpu_zscore": 2.1, "memory_zscore": 1.5}"#;
    let reply = server.post("/predict", body);
    assert_eq!(reply.status, 200);
    let answer = reply.json();
    assert_eq!(answer.as_object().expect("an object").keys().collect::<Vec<_>>(), ["anomaly", "score", "forecast"]);
    assert_eq!(answer["anomaly"], json!(false));
    assert!((0.0..=1.0).contains(&answer["score"].as_f64().expect("a number")));
    assert!((0.0..=100.0).contains(&answer["forecast"].as_f64().expect("a number")));
    assert_eq!(reply.header("x-model-version"), "1");
    assert_eq!(reply.header("x-request-id").len(), 16);
    assert_eq!(server.post("/models/anomaly/predict", body).json(), answer);
    let with_id = http::request(
        server.http,
        "POST",
        "/predict",
        &[("content-type", "application/json"), ("x-request-id", "mine")],
        body.as_bytes(),
    );
    assert_eq!(with_id.header("x-request-id"), "mine");
    // The challenger does not see what the client does not see either: disk_io_zscore may be null or left out.
    assert_eq!(server.predict(&json!({"cpu_zscore": 2.1, "memory_zscore": 1.5, "disk_io_zscore": null})), answer);
    let alarm = server.predict(&json!({"cpu_zscore": 30, "memory_zscore": 5}));
    assert_eq!(alarm["anomaly"], json!(true), "{alarm}");
}

#[test]
fn every_form_of_a_body_gets_the_same_rows() {
    let repo = Repo::serving("good", None);
    let server = Server::start(repo.path(), &[]);
    let rows =
        [json!({"cpu_zscore": 1, "memory_zscore": 2.5}), json!({"memory_zscore": 0, "cpu_zscore": 9, "cpu_scale": 2})];
    let one: Vec<Value> = rows.iter().map(|row| server.predict(row)).collect();
    assert_ne!(one[0], one[1]);
    assert_eq!(server.predict(&json!(rows)), json!(one));
    assert_eq!(server.predict(&json!({"instances": rows})), json!({"predictions": one}));
    let lines = format!("{}\n\n{}", rows[0], rows[1]);
    let reply =
        http::request(server.http, "POST", "/predict", &[("content-type", "application/x-ndjson")], lines.as_bytes());
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), "application/x-ndjson");
    let answers: Vec<Value> = reply.text().lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    assert_eq!(answers, one);
}

#[test]
fn a_bad_line_is_answered_in_its_place() {
    let repo = Repo::serving("fails-sometimes", None);
    let server = Server::start(repo.path(), &[]);
    let lines = "{\"cpu_zscore\":1,\"memory_zscore\":1}\n{\"cpu_zscore\":\"x\",\"memory_zscore\":1}\nnot json\n\
                 {\"cpu_zscore\":60,\"memory_zscore\":1}\n{\"cpu_zscore\":2,\"memory_zscore\":1}\n";
    let reply =
        http::request(server.http, "POST", "/predict", &[("content-type", "application/x-ndjson")], lines.as_bytes());
    let answers: Vec<Value> = reply.text().lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    let statuses: Vec<_> = answers.iter().map(|a| a["status"].as_u64()).collect();
    assert_eq!(statuses, [None, Some(422), Some(400), Some(500), None], "{answers:?}");
    assert_eq!(answers[1]["field"], json!("cpu_zscore"));
}

#[test]
fn a_large_stream_is_answered_row_by_row() {
    let repo = Repo::serving("good", None);
    let server = Server::start(repo.path(), &["--body-limit", "64KiB"]);
    // Far more than the limit of a body: only a line is limited.
    let lines: String = (0..20_000).map(|i| format!("{{\"cpu_zscore\":{},\"memory_zscore\":0}}\n", i % 40)).collect();
    let address = server.http;
    let reply =
        http::request(address, "POST", "/predict", &[("content-type", "application/x-ndjson")], lines.as_bytes());
    let expected: Vec<Value> = (0..40).map(|i| server.predict(&json!({"cpu_zscore": i, "memory_zscore": 0}))).collect();
    let text = reply.text();
    assert_eq!(text.lines().count(), 20_000);
    for (i, line) in text.lines().enumerate() {
        assert_eq!(serde_json::from_str::<Value>(line).expect("JSON"), expected[i % 40], "row {i}");
    }
}

/// 10,000 rows, with missing features, extremes and every batch size on the way: the same bits as ONNX Runtime in Python
/// on one batch. Floats are compared as the shortest decimals that name them, so equal text is equal bits.
#[test]
fn ten_thousand_rows_equal_onnx_runtime_in_python() {
    let python = root().join(".venv/bin/python");
    let output = Command::new(&python)
        .arg(root().join("server/tests/reference.py"))
        .arg(root().join("models/anomaly/1/model.onnx"))
        .output()
        .unwrap_or_else(|e| panic!("{}: {e}: run `make test`, which installs it", python.display()));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let reference: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let (rows, expected) =
        (reference["rows"].as_array().expect("rows"), reference["answers"].as_array().expect("answers"));
    assert_eq!(rows.len(), 10_000);
    let server = Server::start(&root().join("models"), &[]);
    let mut begin = 0;
    let mut size = 1;
    while begin < rows.len() {
        let end = (begin + size).min(rows.len());
        let answers = server.predict(&json!(rows[begin..end]));
        for (i, answer) in answers.as_array().expect("an array").iter().enumerate() {
            let want = &expected[begin + i];
            for output in ["anomaly", "score", "forecast"] {
                let same = match (answer[output].as_f64(), want[output].as_f64()) {
                    (Some(a), Some(b)) => (a as f32).to_bits() == (b as f32).to_bits(),
                    _ => answer[output] == want[output],
                };
                assert!(
                    same,
                    "row {}: {output} is {}, expected {}: {}",
                    begin + i,
                    answer[output],
                    want[output],
                    rows[begin + i]
                );
            }
        }
        begin = end;
        size = size * 3 % 2047 + 1;
    }
}

#[test]
fn a_single_file_is_served_by_its_own_names() {
    let server = Server::start(&fixture("vector.onnx"), &[]);
    let answer = server.predict(&json!({server_input(&server): [1, 2, 3, 4]}));
    assert!(answer["label"].is_i64());
    assert_eq!(answer["probabilities"].as_array().map(Vec::len), Some(3));
    let server = Server::start(&fixture("metadata.onnx"), &[]);
    let named = server.predict(&json!({"d": 4, "c": 3, "b": 2, "a": 1}));
    assert_eq!(named, answer);
    let server = Server::start(&fixture("named.onnx"), &[]);
    let answer = server
        .predict(&json!([{"cpu": 1, "memory": 2, "region": "eu"}, {"cpu": [1], "memory": [2], "region": ["us"]}]));
    assert_eq!(answer.as_array().map(Vec::len), Some(2));
    assert_eq!(server.model_status("named")["champion"]["signature"], json!("inferred"));
}

/// The name of the only input, as the error for a wrong one tells it.
fn server_input(server: &Server) -> String {
    let error = server.post("/predict", "{\"?\": 1}").json();
    error["error"].as_str().expect("a string").rsplit(' ').next().expect("a word").to_owned()
}

#[test]
fn integers_booleans_and_declared_wrong_shapes_are_served() {
    let server = Server::start(&fixture("types.onnx"), &[]);
    let error = server.post("/predict", "{}").json();
    assert_eq!(error["status"], json!(422));
    let server = Server::start(&fixture("declared-wrong.onnx"), &[]);
    let input = server_input(&server);
    let rows: Vec<Value> = (0..3).map(|i| json!({input.as_str(): [i, 1, 2, 3]})).collect();
    assert_eq!(server.predict(&json!(rows)).as_array().map(Vec::len), Some(3));
    let server = Server::start(&fixture("fixed-batch.onnx"), &[]);
    let input = server_input(&server);
    let rows: Vec<Value> = (0..5).map(|i| json!({input.as_str(): [i, 1, 2, 3]})).collect();
    let alone: Vec<Value> = rows.iter().map(|row| server.predict(row)).collect();
    assert_eq!(server.predict(&json!(rows)), json!(alone));
}

#[test]
fn a_tree_without_aliases_serves_its_highest_version() {
    let repo = Repo::new();
    repo.install(2, "good");
    repo.install(10, "other");
    let server = Server::start(repo.path(), &[]);
    let reply = server.post("/predict", r#"{"cpu_zscore":1,"memory_zscore":1}"#);
    assert_eq!(reply.header("x-model-version"), "10");
}
