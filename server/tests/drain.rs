//! The end: what was accepted is answered, whatever the moment of the signal.

mod common;

use std::io::Write;
use std::time::Instant;

use common::http::{Client, Load};
use common::repo::Repo;
use common::{Server, wait_for};
use serde_json::json;

fn body() -> String {
    json!({"cpu_zscore": 3, "memory_zscore": 1}).to_string()
}

/// SIGTERM under load, with a fast and with a slow model: every request is answered, and each client is told to connect
/// anew before its connection is closed.
#[test]
fn sigterm_under_load_loses_no_accepted_request() {
    for fixture in ["good", "slow"] {
        let repo = Repo::serving(fixture, Some("other"));
        let mut server = Server::start(repo.path(), &["--drain-delay", "500ms"]);
        let load = Load::start(
            server.http,
            32,
            |_| body(),
            |_, reply| if reply.status == 200 { Ok(()) } else { Err(reply.text()) },
        );
        wait_for("answers", || (load.answered() > 500 || !load.problems().is_empty()).then_some(()));
        server.signal("TERM");
        wait_for("not ready", || (server.ops("/readyz").status == 503).then_some(()));
        let late = server.post("/predict", &body());
        assert_eq!((late.status, late.header("connection")), (200, "close"), "answered while load balancers notice");
        let status = server.wait();
        assert!(status.success(), "{status}: {}", server.log());
        let (_, problems) = load.finish();
        assert!(problems.is_empty(), "{fixture}: {problems:?}");
        assert!(server.log().contains("every accepted request was answered"));
    }
}

/// Requests that wait in the queue when the signal comes are all answered: none of them is on an idle connection.
#[test]
fn queued_requests_are_answered_after_sigterm() {
    let repo = Repo::serving("slow", None);
    let mut server = Server::start(repo.path(), &["--workers", "1", "--queue-rows", "100000"]);
    let rows = json!(vec![json!({"cpu_zscore": 3, "memory_zscore": 1}); 1024]).to_string();
    let mut clients: Vec<Client> = (0..40).map(|_| Client::connect(server.http).expect("accepted")).collect();
    for client in &mut clients {
        client.send("POST", "/predict", &[("content-type", "application/json")], rows.as_bytes()).expect("sent");
    }
    // One request is being run and counted nowhere; a 40th may not have been read yet.
    wait_for("the requests to be accepted", || {
        let waiting = server.metric("onnxd_queue_rows{model=\"anomaly\"}")?;
        let done = server.metric("onnxd_inference_rows_total{model=\"anomaly\",role=\"champion\"}").unwrap_or(0.0);
        (waiting + done >= 39.0 * 1024.0).then_some(())
    });
    server.signal("TERM");
    let mut answered = 0;
    for client in &mut clients {
        if client.receive().is_ok_and(|reply| reply.status == 200) {
            answered += 1;
        }
    }
    assert!(server.wait().success());
    assert!(answered >= 39, "{answered} of 40");
}

/// A request that takes longer than the grace period does not keep the process alive.
#[test]
fn the_grace_period_bounds_the_end() {
    let repo = Repo::serving("good", None);
    let mut server = Server::start(repo.path(), &["--grace-period", "1s", "--request-timeout", "60s"]);
    let mut open = std::net::TcpStream::connect(server.http).expect("accepted");
    // Announces more than it sends, so that its request stays open.
    open.write_all(
        b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{",
    )
    .expect("sent");
    server.post("/predict", &body());
    let begin = Instant::now();
    server.signal("TERM");
    let status = server.wait();
    assert_eq!(status.code(), Some(1), "{}", server.log());
    assert!(begin.elapsed().as_secs() < 30);
}

#[test]
fn an_interrupt_does_not_wait_for_load_balancers() {
    let repo = Repo::serving("good", None);
    let mut server = Server::start(repo.path(), &["--drain-delay", "1h", "--grace-period", "2h"]);
    server.signal("INT");
    assert!(server.wait().success());
}

/// Without any delay: clients that have just connected, or whose request is on its way, are answered as well.
#[test]
fn requests_on_their_way_are_answered_after_sigterm_without_a_delay() {
    let repo = Repo::serving("good", None);
    let mut server = Server::start(repo.path(), &["--drain-delay", "0s"]);
    let mut clients: Vec<Client> = (0..32).map(|_| Client::connect(server.http).expect("connected")).collect();
    server.signal("TERM");
    for client in &mut clients {
        client.send("POST", "/predict", &[("content-type", "application/json")], body().as_bytes()).expect("sent");
    }
    for client in &mut clients {
        // The first may be answered before the server has seen its signal, and is then not told to connect anew.
        assert_eq!(client.receive().expect("answered").status, 200);
    }
    assert!(server.wait().success());
}
