//! Bad input: each kind gets its own answer that names the field, as `golden/errors.txt` shows, and hurts nobody else.

mod common;

use common::repo::Repo;
use common::{Server, http};
use serde_json::json;

const GOOD: &str = r#"{"cpu_zscore":1,"memory_zscore":1}"#;

#[test]
fn every_kind_of_bad_input_has_its_own_answer() {
    let repo = Repo::serving("good", None);
    let server = Server::start(repo.path(), &["--body-limit", "200KiB", "--max-rows", "100"]);
    let deep = "[".repeat(100_000);
    let deep_objects = r#"{"cpu_zscore":"#.repeat(14_000);
    let wide = format!("{{\"cpu_zscore\":[{}]}}", "0,".repeat(50_000));
    let many = format!("[{}]", vec![GOOD; 101].join(","));
    let huge = format!("{{\"cpu_zscore\":1,{}\"memory_zscore\":1}}", " ".repeat(300 << 10));
    let digits = format!("{{\"cpu_zscore\":{},\"memory_zscore\":1}}", "9".repeat(100_000));
    let cases: &[(&str, &str)] = &[
        ("not JSON", "cpu=1"),
        ("cut off", r#"{"cpu_zscore": 1, "memory_zs"#),
        ("something after the JSON", r#"{"cpu_zscore":1,"memory_zscore":1} x"#),
        ("nothing", ""),
        ("a missing feature", r#"{"cpu_zscore": 1}"#),
        ("no feature at all", "{}"),
        ("null for a required feature", r#"{"cpu_zscore": null, "memory_zscore": 1}"#),
        ("an unknown feature, nearly known", r#"{"cpu_zscore":1,"memory_zscore":1,"disk_zscore":1}"#),
        ("an unknown feature", r#"{"cpu_zscore":1,"memory_zscore":1,"x":1}"#),
        ("a string", r#"{"cpu_zscore":"2.1","memory_zscore":1}"#),
        ("a boolean", r#"{"cpu_zscore":true,"memory_zscore":1}"#),
        ("an array for a number", r#"{"cpu_zscore":[1],"memory_zscore":1}"#),
        ("an object for a number", r#"{"cpu_zscore":{"a":1},"memory_zscore":1}"#),
        ("NaN", r#"{"cpu_zscore":NaN,"memory_zscore":1}"#),
        ("Infinity", r#"{"cpu_zscore":1,"memory_zscore":-Infinity}"#),
        ("beyond float32", r#"{"cpu_zscore":1e39,"memory_zscore":1}"#),
        ("beyond float64", r#"{"cpu_zscore":1,"memory_zscore":1e999}"#),
        ("100,000 digits", &digits),
        ("given twice", r#"{"cpu_zscore":1,"cpu_zscore":2,"memory_zscore":1}"#),
        ("an empty array", "[]"),
        ("empty instances", r#"{"instances":[]}"#),
        ("instances that are no array", r#"{"instances":3}"#),
        ("something beside instances", r#"{"instances":[{"cpu_zscore":1,"memory_zscore":1}],"x":1}"#),
        ("a bad row among good ones", r#"[{"cpu_zscore":1,"memory_zscore":1},{"cpu_zscore":1}]"#),
        ("a bad row of instances", r#"{"instances":[{"cpu_zscore":1,"memory_zscore":1},{"cpu_zscore":"x"}]}"#),
        ("a row that is an array", "[[1, 2]]"),
        ("a row that is a number", "[1]"),
        ("a number", "1"),
        ("a string", "\"x\""),
        ("null", "null"),
        ("100,000 nested arrays", &deep),
        ("14,000 nested objects", &deep_objects),
        ("50,000 elements for a number", &wide),
        ("too many rows", &many),
        ("a body over the limit", &huge),
    ];
    let mut golden = String::new();
    for (name, body) in cases {
        let reply = server.post("/predict", body);
        assert!((400..500).contains(&reply.status), "{name}: {} {}", reply.status, reply.text());
        assert_eq!(reply.header("content-type"), "application/problem+json", "{name}");
        let problem = reply.json();
        assert_eq!(problem["error"], problem["detail"]);
        let field = problem["field"].as_str().map_or(String::new(), |f| format!(" [{f}]"));
        let shown: String = body.chars().take(80).collect();
        golden +=
            &format!("{name}\n    {shown}\n    {}{field} {}\n", reply.status, problem["error"].as_str().expect("text"));
        assert_eq!(server.post("/predict", GOOD).status, 200, "after {name}");
    }
    let json = [("content-type", "application/json")];
    type Request<'a> = (&'a str, &'a str, &'a str, &'a [(&'a str, &'a str)]);
    let requests: &[Request<'_>] = &[
        ("curl's default content type", "POST", "/predict", &[("content-type", "application/x-www-form-urlencoded")]),
        ("no content type", "POST", "/predict", &[]),
        (
            "a compressed body",
            "POST",
            "/predict",
            &[("content-type", "application/json"), ("content-encoding", "gzip")],
        ),
        ("another method", "GET", "/predict", &json),
        ("an unknown path", "POST", "/prediction", &json),
        ("an unknown model", "POST", "/models/anomalie/predict", &json),
    ];
    for (name, method, path, headers) in requests {
        let reply = http::request(server.http, method, path, headers, GOOD.as_bytes());
        golden += &format!(
            "{name}\n    {method} {path}\n    {} {}\n",
            reply.status,
            reply.json()["error"].as_str().expect("text")
        );
    }
    assert_eq!(server.post("/predict", GOOD).status, 200);
    expectorate::assert_contents("tests/golden/errors.txt", &golden);
}

/// Rows that make the model fail or answer NaN, in the same batches as good ones of other clients.
#[test]
fn a_failing_row_does_not_touch_its_neighbours() {
    // Only where jobs wait for others do they share runs on every machine. A run that fails is not counted, but each of its
    // rows by itself: about half of them are without a row that makes them fail.
    for (fixture, message, threads, delay) in [
        ("fails-sometimes", "failed", "1", "0s"),
        ("fails-sometimes", "failed", "1", "5ms"),
        ("nan-sometimes", "not finite", "3", "0s"),
    ] {
        let repo = Repo::serving(fixture, None);
        let args = ["--http-threads", threads, "--workers", threads, "--batch-delay", delay];
        let server = Server::start(repo.path(), &args);
        let load = http::Load::start(
            server.http,
            32,
            |turn| json!({"cpu_zscore": if turn % 61 == 0 { 60 } else { turn % 40 }, "memory_zscore": 1}).to_string(),
            move |turn, reply| {
                let expected = if turn % 61 == 0 { 500 } else { 200 };
                if reply.status != expected {
                    return Err(format!("turn {turn}: {} {}", reply.status, reply.text()));
                }
                let cpu = f64::from(u32::try_from(turn % 40).expect("small"));
                let score = 1.0 / (1.0 + (-(0.8 * cpu + 0.4 - 4.0)).exp());
                match reply.json()["score"].as_f64() {
                    Some(got) if (got - score).abs() < 1e-5 => Ok(()),
                    None if expected == 500 && reply.text().contains(message) => Ok(()),
                    _ => Err(format!("turn {turn}: {}", reply.text())),
                }
            },
        );
        common::wait_for("answers", || (load.answered() > 5_000 || !load.problems().is_empty()).then_some(()));
        let (_, problems) = load.finish();
        assert!(problems.is_empty(), "{fixture}: {problems:?}");
        let runs = server.metric("onnxd_inference_runs_total{model=\"anomaly\",role=\"champion\"}").expect("a series");
        let rows = server.metric("onnxd_inference_rows_total{model=\"anomaly\",role=\"champion\"}").expect("a series");
        assert!(rows > runs || delay == "0s", "rows shared runs: {rows} rows in {runs} runs");
    }
}

/// A model whose rows depend on one another is found out, and its clients never share a run.
#[test]
fn rows_of_a_batch_dependent_model_are_never_mixed() {
    let repo = Repo::serving("batch-mean", None);
    let server = Server::start(repo.path(), &[]);
    assert_eq!(server.model_status("anomaly")["champion"]["profile"]["invariance"], json!("no"));
    let expected: Vec<_> = (0..8).map(|i| server.predict(&json!({"cpu_zscore": i, "memory_zscore": 1}))).collect();
    let load = http::Load::start(
        server.http,
        16,
        |turn| json!({"cpu_zscore": turn % 8, "memory_zscore": 1}).to_string(),
        move |turn, reply| {
            if reply.json() == expected[turn % 8] { Ok(()) } else { Err(reply.text()) }
        },
    );
    common::wait_for("answers", || (load.answered() > 2_000 || !load.problems().is_empty()).then_some(()));
    let (_, problems) = load.finish();
    assert!(problems.is_empty(), "{problems:?}");
}

/// A client that sends half a head or half a body is cut off, and others are served meanwhile.
#[test]
fn a_slow_client_holds_nobody_up() {
    use std::io::Read;
    let repo = Repo::serving("good", None);
    let server = Server::start(repo.path(), &["--request-timeout", "1s"]);
    let open = |text: &str| http::raw(server.http, text.as_bytes());
    let mut head = open("POST /predict HTTP/1.1\r\nhost: x\r\n");
    let mut body =
        open("POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n{");
    assert_eq!(server.post("/predict", GOOD).status, 200);
    let mut answer = String::new();
    // The rest of the body never comes, so the connection ends after the answer.
    let _ = body.read_to_string(&mut answer);
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    answer.clear();
    let _ = head.read_to_string(&mut answer);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert_eq!(server.post("/predict", GOOD).status, 200);
}

/// A connection that never asks anything does not keep its place.
#[test]
fn a_silent_connection_is_closed() {
    use std::io::Read;
    let repo = Repo::serving("good", None);
    let server = Server::start(repo.path(), &["--max-connections", "3"]);
    let open = |text: &str| http::raw(server.http, text.as_bytes());
    // Nothing, the beginning of either protocol, and the whole greeting of HTTP/2 without a request.
    let silent = [open(""), open("P"), open("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")];
    // All three places are taken: this waits until one is given back.
    assert_eq!(server.post("/predict", GOOD).status, 200);
    for mut stream in silent {
        let mut rest = vec![];
        // Closed or reset: both end the reading.
        let _ = stream.read_to_end(&mut rest);
    }
}
