use std::net::{SocketAddr, TcpListener};

use axum::Router;
use axum::routing::{any, post};

use super::*;

/// A server in a thread of this process, for the process's life.
pub(super) fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    listener.set_nonblocking(true).expect("it can be");
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).expect("it is a socket");
            axum::serve(listener, router).await
        })
    });
    address
}

fn plan(path: &str) -> Plan {
    let router = Router::new().route("/predict", post(|body: Bytes| async { body }));
    let target = Target { address: serve(router), path: path.to_owned() };
    Plan::new(target, Requests::json((0..9).map(|n| format!("{{\"n\":{n}}}"))), 4, Duration::from_millis(300))
}

#[test]
fn a_closed_loop_sends_as_fast_as_it_is_answered() {
    let outcome = run(&plan("/predict")).expect("it runs");
    assert!(outcome.answered() > 100, "{}", outcome.answered());
    assert_eq!((outcome.errors(), outcome.statuses.len()), (0, 1));
    assert!(outcome.latency.quantile_us(0.5) > Some(0.0));
}

#[test]
fn an_open_loop_keeps_its_rate() {
    let outcome = run(&plan("/predict").at(500.0)).expect("it runs");
    assert_eq!((outcome.answered(), outcome.errors()), (150, 0));
    assert_eq!(outcome.lateness.count(), 150);
}

#[test]
fn refusals_are_errors() {
    let outcome = run(&plan("/nothing-here").at(500.0)).expect("it runs");
    assert_eq!((outcome.statuses.get(&404), outcome.errors()), (Some(&150), 150));
}

#[test]
fn answers_that_are_not_what_was_asked_for_are_errors() {
    let plan = plan("/predict").at(500.0);
    let asked: fn(&[u8]) -> bool = |body| body.starts_with(b"{\"score\"");
    let outcome = run(&Plan { is_good: asked, ..plan.clone() }).expect("it runs");
    assert_eq!((outcome.wrong_bodies, outcome.answered()), (3, 150), "one in 64 is looked at");
    assert!(!is_json(b"score") && !is_json(b"{\"n\":") && is_json(b"{\"n\":1}"));
    assert_eq!(run(&plan).expect("it runs").errors(), 0);
}

#[test]
fn a_latency_counts_from_when_the_request_was_due() {
    // A server that accepts and stays silent: with two connections, two are sent and all are unanswered.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let target = Target { address: silent.local_addr().expect("it is bound"), path: "/".to_owned() };
    let requests = Requests::json(["{}".to_owned()]);
    let outcome = run(&Plan::new(target, requests, 2, Duration::from_millis(100)).at(100.0)).expect("it runs");
    assert_eq!((outcome.answered(), outcome.unanswered, outcome.lateness.count()), (0, 10, 2));
}

#[test]
fn what_is_sent_says_what_it_is() {
    let said = any(|headers: axum::http::HeaderMap, body: Bytes| async move {
        let json = headers["inference-header-content-length"].to_str().expect("it is text").parse::<usize>();
        let is_right = headers["content-type"] == "application/octet-stream" && json == Ok(2) && body.len() == 4;
        if is_right { Ok("{\"outputs\":[{}]}") } else { Err(axum::http::StatusCode::BAD_REQUEST) }
    });
    let target = Target { address: serve(Router::new().route("/infer", said)), path: "/infer".to_owned() };
    let body = Binary { json: 2, body: Bytes::from_static(b"{}\x01\x02") };
    let outcome = run(&Plan::new(target, Requests::Binary(vec![body]), 1, Duration::from_millis(50))).expect("it runs");
    assert_eq!((outcome.errors(), outcome.answered() > 0), (0, true), "{:?}", outcome.statuses);
}

#[test]
fn grpc_calls_share_connections_and_end_with_their_status() {
    let path = "/inference.GRPCInferenceService/ModelInfer";
    let echo = post(|headers: axum::http::HeaderMap, body: Bytes| async move {
        // Every third message is refused, as tonic refuses: by headers alone.
        let code = if body[5].is_multiple_of(3) { "14" } else { "0" };
        let length = if headers["te"] == "trailers" { body.len() } else { 0 };
        ([("content-type", "application/grpc"), ("grpc-status", code)], body.slice(..length))
    });
    let target = Target { address: serve(Router::new().route(path, echo)), path: String::new() };
    let messages = (0..3_u8).map(|n| Bytes::from(vec![n; 3])).collect();
    let mut plan = Plan::new(target, Requests::Grpc { messages, connections: 2 }, 8, Duration::from_millis(300));
    plan.is_good = |message| message.len() == 3;
    let outcome = run(&plan.at(300.0)).expect("it runs");
    let counts: Vec<_> = outcome.statuses.iter().map(|(status, count)| (*status, *count)).collect();
    assert_eq!(counts, [(14, 30), (200, 60)]);
    assert_eq!((outcome.wrong_bodies, outcome.broken, outcome.unanswered), (0, 0, 0));
}
