//! What a request's head says of its deadline and its priority.

mod common;

use common::repo::Repo;
use common::{Server, http, wait_for};
use serde_json::json;

const ROW: &[u8] = br#"{"cpu_zscore": 3, "memory_zscore": 1}"#;
const RUNS: &str = "onnxd_inference_runs_total{model=\"anomaly\",role=\"champion\"}";

fn post(server: &Server, header: (&str, &str), body: &[u8]) -> http::Reply {
    http::request(server.http, "POST", "/predict", &[("content-type", "application/json"), header], body)
}

/// Who does not wait any more is told so, and the model is not asked.
#[test]
fn a_request_whose_deadline_has_passed_is_not_run() {
    let repo = Repo::serving("good", None);
    let server = Server::start(repo.path(), &[]);
    server.post("/predict", std::str::from_utf8(ROW).expect("text"));
    let runs = server.metric(RUNS);
    assert_eq!(runs, Some(1.0));
    for header in [("x-request-timeout-ms", "0"), ("x-envoy-expected-rq-timeout-ms", "0"), ("grpc-timeout", "1n")] {
        let reply = post(&server, header, ROW);
        assert_eq!(reply.status, 504, "{header:?}: {}", reply.text());
        assert!(reply.text().contains("deadline"), "{}", reply.text());
    }
    assert_eq!(server.metric(RUNS), runs);
    for header in [("x-request-timeout-ms", "60000"), ("grpc-timeout", "1H"), ("x-request-priority", "low")] {
        assert_eq!(post(&server, header, ROW).status, 200, "{header:?}");
    }
}

/// A run that never ends is stopped at the request's own deadline, long before the server's.
#[test]
fn a_run_is_stopped_at_the_requests_deadline() {
    let repo = Repo::serving("hang-sometimes", None);
    let server = Server::start(repo.path(), &["--request-timeout", "1h", "--workers", "1"]);
    let hangs = json!({"cpu_zscore": 60, "memory_zscore": 1}).to_string();
    for header in [("x-request-timeout-ms", "200"), ("grpc-timeout", "200m"), ("grpc-timeout", "200000u")] {
        assert_eq!(post(&server, header, hangs.as_bytes()).status, 504, "{header:?}");
    }
    assert_eq!(post(&server, ("x-request-timeout-ms", "60000"), ROW).status, 200);
    wait_for("an empty queue", || (server.metric("onnxd_queue_rows{model=\"anomaly\"}") == Some(0.0)).then_some(()));
}

/// So is one of the challenger, of which clients see nothing. It has only time that nobody else wants, which the tests of
/// overload leave none of.
#[test]
fn a_challengers_run_is_stopped_as_well() {
    let repo = Repo::serving("good", Some("hang-sometimes"));
    let server = Server::start(repo.path(), &["--shadow-cpu", "1"]);
    server.predict(&json!({"cpu_zscore": 60, "memory_zscore": 1}));
    wait_for("the challenger to be stopped", || server.shadow()["lost"]["deadline"].as_u64());
    server.predict(&json!({"cpu_zscore": 3, "memory_zscore": 1}));
    wait_for("a pair", || (server.shadow()["pairs"].as_u64()? > 0).then_some(()));
}

#[test]
fn a_header_that_cannot_be_read_is_named() {
    let repo = Repo::serving("good", None);
    let server = Server::start(repo.path(), &[]);
    for header in [
        ("x-request-timeout-ms", "soon"),
        ("x-request-timeout-ms", "-1"),
        ("x-request-timeout-ms", "1.5"),
        ("x-envoy-expected-rq-timeout-ms", "99999999999"),
        ("grpc-timeout", "5"),
        ("grpc-timeout", "123456789S"),
        ("grpc-timeout", "é"),
        ("x-request-priority", "urgent"),
    ] {
        let reply = post(&server, header, ROW);
        assert_eq!(reply.status, 400, "{header:?}: {}", reply.text());
        assert!(reply.text().contains(header.0), "{}", reply.text());
    }
}
