//! What becomes of a connection when its client and the server do not agree about a body.

mod common;

use std::fs;
use std::io::{Read, Write};

use common::http::{Client, raw, request};
use common::repo::Repo;
use common::{PATIENCE, Server, wait_for};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};

const ROW: &str = r#"{"cpu_zscore": 3, "memory_zscore": 1}"#;

/// Whatever is refused before its body is read, the next request on the connection is answered.
#[test]
fn a_refused_request_does_not_end_its_connection() {
    let repo = Repo::serving("good", None);
    let server = Server::start(repo.path(), &["--body-limit", "1MiB"]);
    let large = vec![b' '; 3 << 20];
    let mut client = Client::connect(server.http).expect("connected");
    for (method, path, header, status) in [
        ("POST", "/models/nobody/predict", ("content-type", "application/json"), 404),
        ("POST", "/v2/models/nobody/infer", ("content-type", "application/json"), 404),
        ("POST", "/nowhere", ("content-type", "application/json"), 404),
        ("GET", "/predict", ("x-a", "b"), 405),
        ("GET", "/v2/models/anomaly", ("x-a", "b"), 200),
        ("POST", "/predict", ("content-encoding", "br"), 415),
        ("POST", "/predict", ("content-type", "image/png"), 415),
        ("POST", "/v2/models/anomaly/infer", ("x-request-timeout-ms", "soon"), 400),
        ("POST", "/v2/models/anomaly/infer", ("inference-header-content-length", "x"), 400),
        ("POST", "/v2/repository/models/anomaly/load", ("x-a", "b"), 403),
        ("POST", "/predict", ("content-type", "application/json"), 413),
        ("POST", "/invocations", ("content-type", "application/json"), 413),
    ] {
        client.send(method, path, &[header], &large).unwrap_or_else(|e| panic!("{path} {header:?}: {e}"));
        let reply = client.receive().unwrap_or_else(|e| panic!("{path} {header:?}: {e}"));
        assert_eq!(reply.status, status, "{path} {header:?}: {}", reply.text());
        let next = client.post("/predict", ROW).unwrap_or_else(|e| panic!("after {path} {header:?}: {e}"));
        assert_eq!(next.status, 200, "after {path} {header:?}");
    }
}

/// Connections are files; so is that of whoever asks how the server is.
#[cfg(target_os = "linux")]
#[test]
fn clients_leave_room_to_ask_for_health() {
    let repo = Repo::serving("good", None);
    let server = Server::launch_after("ulimit -n 400", repo.path(), &[]);
    wait_for("readiness", || (server.ops("/readyz").status == 200).then_some(()));
    assert!(server.log().contains("this process may not open more files"), "{}", server.log());
    // 40 have a place, and keep it until they are idle for as long as a request's head may take; others wait.
    let mut kept: Vec<Client> = (0..100).map(|_| Client::connect(server.http).expect("connected")).collect();
    for client in &mut kept[..20] {
        assert_eq!(client.post("/predict", ROW).expect("answered").status, 200);
    }
    assert_eq!(server.ops("/readyz").status, 200);
    let open = fs::read_dir(format!("/proc/{}/fd", server.pid())).expect("its files").count();
    assert!(open < 200, "{open} files are open");
    let last = kept.last_mut().expect("100 clients");
    assert_eq!(last.post("/predict", ROW).expect("answered in the end").status, 200);
}

/// A client may send its next requests before it has the answers; these come in the order of the requests.
#[test]
fn requests_that_do_not_wait_for_answers_are_answered_in_order() {
    let repo = Repo::serving("good", None);
    let server = Server::start(repo.path(), &[]);
    let table = format!("[{}]", vec![ROW; 2000].join(","));
    let bodies = [ROW, "{", table.as_str(), r#"{"cpu_zscore": 1}"#];
    let mut client = Client::connect(server.http).expect("connected");
    for number in 0..40 {
        let headers = [("content-type", "application/json"), ("x-request-id", &format!("request-{number}"))];
        client.send("POST", "/predict", &headers, bodies[number % 4].as_bytes()).expect("sent");
    }
    for number in 0..40 {
        let reply = client.receive().expect("answered");
        assert_eq!(reply.header("x-request-id"), format!("request-{number}"));
        assert_eq!(reply.status, [200, 400, 200, 422][number % 4], "{number}: {}", reply.text());
        if number % 4 == 2 {
            assert_eq!(reply.json().as_array().map(Vec::len), Some(2000));
        }
    }
}

/// A client that asks first, and is refused, is not told to send its body.
#[test]
fn a_body_that_is_not_wanted_is_not_asked_for() {
    let repo = Repo::serving("good", None);
    let server = Server::start(repo.path(), &[]);
    let head = |path| {
        format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
             expect: 100-continue\r\n\r\n",
            ROW.len()
        )
    };
    let mut refused = raw(server.http, head("/models/nobody/predict").as_bytes());
    let mut told = String::new();
    refused.read_to_string(&mut told).expect("closed after its answer");
    assert!(told.starts_with("HTTP/1.1 404"), "{told}");
    let mut wanted = raw(server.http, head("/predict").as_bytes());
    let mut first = [0; 25];
    wanted.read_exact(&mut first).expect("an answer");
    assert_eq!(&first, b"HTTP/1.1 100 Continue\r\n\r\n");
    wanted.write_all(ROW.as_bytes()).expect("sent");
    wanted.read_exact(&mut first[..12]).expect("an answer");
    assert_eq!(&first[..12], b"HTTP/1.1 200");
}

/// Calls that ask for no prediction wait no longer for a body than others, and not at all for one they do not take.
#[test]
fn a_body_that_does_not_arrive_is_not_waited_for() {
    let repo = Repo::serving("good", None);
    let token = repo.path().join("token");
    std::fs::write(&token, "a-secret-of-the-tests").expect("a file");
    let token = token.to_str().expect("a path");
    let server = Server::start(repo.path(), &["--request-timeout", "1s", "--admin-token-file", token]);
    let bearer = "authorization: Bearer a-secret-of-the-tests\r\n";
    for (address, method, path, header, status) in [
        (server.http, "GET", "/v2", "", "200"),
        (server.http, "GET", "/v2/models/anomaly/config", "", "200"),
        (server.http, "POST", "/v2/repository/index", "", "408"),
        (server.http, "POST", "/v2/repository/models/anomaly/load", "", "401"),
        (server.http, "POST", "/v2/repository/models/anomaly/load", bearer, "408"),
        (server.http, "POST", "/v2/repository/models/anomaly/unload", bearer, "408"),
        (server.ops, "POST", "/models/anomaly/promote", "", "401"),
        (server.ops, "POST", "/models/anomaly/promote", bearer, "408"),
        (server.ops, "POST", "/models/anomaly/rollback", bearer, "408"),
    ] {
        let head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\n{header}content-length: 1000000\r\n\r\n{{");
        let mut stream = raw(address, head.as_bytes());
        let mut told = [0; 12];
        stream.read_exact(&mut told).unwrap_or_else(|e| panic!("{path}: {e}"));
        assert_eq!(std::str::from_utf8(&told[9..]), Ok(status), "{method} {path} {header}");
    }
}

/// A call that asks for no prediction shares the limits of those that do.
#[test]
fn the_limits_hold_for_all_bodies() {
    let repo = Repo::serving("good", None);
    let server = Server::start(repo.path(), &["--body-limit", "64KiB"]);
    let large = vec![b' '; 100 << 10];
    let reply = request(server.http, "POST", "/v2/repository/index", &[], &large);
    assert_eq!(reply.status, 413, "{}", reply.text());
    assert!(reply.json()["error"].is_string());
}

/// An HTTP/2 client can keep its window shut and its connection alive for as long as it likes.
#[test]
fn an_http2_client_that_does_not_read_is_cut_off() {
    let repo = Repo::serving("good", None);
    let mut server = Server::start(repo.path(), &["--request-timeout", "1s", "--grace-period", "1h"]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(server.http).await.expect("the server accepts");
        let mut client = http2::Builder::new(TokioExecutor::new());
        client.initial_stream_window_size(0).adaptive_window(false);
        let (mut send, connection) = client.handshake::<_, String>(TokioIo::new(stream)).await.expect("HTTP/2");
        let connection = tokio::spawn(connection);
        let mut request = hyper::Request::new(ROW.to_owned());
        *request.method_mut() = hyper::Method::POST;
        *request.uri_mut() = format!("http://{}/predict", server.http).parse().expect("a URI");
        request.headers_mut().insert("content-type", hyper::header::HeaderValue::from_static("application/json"));
        let answer = send.send_request(request).await.expect("a head");
        assert_eq!(answer.status(), 200);
        let ended = tokio::time::timeout(PATIENCE, connection).await;
        assert!(ended.is_ok(), "the connection is closed while its answer is left unread");
        drop(answer);
    });
    server.signal("TERM");
    assert!(server.wait().success());
}
