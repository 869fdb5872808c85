//! More than the server can do: immediate refusals, bounded waiting, and recovery.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::http::Load;
use common::repo::Repo;
use common::{Server, http, wait_for};
use serde_json::{Value, json};

fn row() -> Value {
    json!({"cpu_zscore": 3, "memory_zscore": 1})
}

/// A slow model and a short queue: every answer is 200 or 503 with `Retry-After`, health answers throughout, and
/// afterwards all is as before.
#[test]
fn a_full_queue_is_a_503_at_once() {
    let repo = Repo::serving("slow", None);
    let server = Server::start(repo.path(), &["--queue-rows", "4", "--workers", "1"]);
    let before = server.predict(&row());
    let refused = Arc::new(AtomicU64::new(0));
    let (count, expected) = (Arc::clone(&refused), before.clone());
    // Eight rows a request: a queue of four rows holds one such request, and only while it is otherwise empty.
    let body = json!(vec![row(); 8]).to_string();
    let load = Load::start(
        server.http,
        64,
        move |_| body.clone(),
        move |_, reply| match reply.status {
            200 if reply.json()[7] == expected => Ok(()),
            503 if reply.header("retry-after") == "1" && reply.text().contains("the queue is full") => {
                count.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            _ => Err(format!("{} {}", reply.status, reply.text())),
        },
    );
    wait_for("refusals and answers", || {
        assert_eq!(server.ops("/livez").status, 200);
        assert_eq!(server.ops("/readyz").status, 200);
        let refused = refused.load(Ordering::Relaxed);
        let done = refused > 200 && load.answered() - refused > 100;
        (done || !load.problems().is_empty()).then_some(())
    });
    let (_, problems) = load.finish();
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!(server.predict(&row()), before);
    assert!(server.metric("onnxd_rejected_total{model=\"anomaly\",reason=\"overloaded\"}").unwrap_or(0.0) > 200.0);
    assert_eq!(server.metric("onnxd_queue_rows{model=\"anomaly\"}"), Some(0.0));
}

/// What waits for longer than a request may take is answered with 504 and never run.
#[test]
fn an_expired_job_is_not_run() {
    let repo = Repo::serving("slow", None);
    let server = Server::start(repo.path(), &["--request-timeout", "40ms", "--workers", "1", "--queue-rows", "100000"]);
    let expired = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&expired);
    // Each request is a batch of its own, of some milliseconds: 64 of them wait for longer than 40 ms.
    let body = json!(vec![row(); 1024]).to_string();
    let load = Load::start(
        server.http,
        64,
        move |_| body.clone(),
        move |_, reply| match reply.status {
            200 => Ok(()),
            504 => {
                count.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            // Receiving a body of 40 kB from 64 clients may take that long as well.
            408 => Ok(()),
            _ => Err(format!("{} {}", reply.status, reply.text())),
        },
    );
    wait_for("expired requests", || {
        (expired.load(Ordering::Relaxed) > 50 || !load.problems().is_empty()).then_some(())
    });
    let (answered, problems) = load.finish();
    assert!(problems.is_empty(), "{problems:?}");
    let runs = server.metric("onnxd_inference_runs_total{model=\"anomaly\",role=\"champion\"}").expect("a series");
    assert!(runs < answered as f64, "{runs} runs for {answered} requests");
}

/// A run that never ends is stopped at its deadline, its client told, and the worker goes on.
#[test]
fn an_endless_run_is_stopped_at_its_deadline() {
    let repo = Repo::serving("hang-sometimes", None);
    let server = Server::start(repo.path(), &["--request-timeout", "300ms", "--workers", "1"]);
    assert_eq!(server.model_status("anomaly")["champion"]["profile"]["steady"], json!(false));
    let endless = json!({"cpu_zscore": 60, "memory_zscore": 1}).to_string();
    for _ in 0..3 {
        let reply = server.post("/predict", &endless);
        assert_eq!(reply.status, 504, "{}", reply.text());
        server.predict(&row());
    }
}

/// Clients that leave before their answer: nothing is left in the queue and others are answered.
#[test]
fn a_client_that_leaves_leaves_nothing_behind() {
    let repo = Repo::serving("slow", None);
    let server = Server::start(repo.path(), &["--workers", "1"]);
    for _ in 0..50 {
        let mut client = http::Client::connect(server.http).expect("accepted");
        client
            .send("POST", "/predict", &[("content-type", "application/json")], row().to_string().as_bytes())
            .expect("sent");
    }
    server.predict(&row());
    wait_for("an empty queue", || (server.metric("onnxd_queue_rows{model=\"anomaly\"}") == Some(0.0)).then_some(()));
}

/// More connections than are allowed wait; none is lost.
#[test]
fn connections_beyond_the_limit_wait_for_their_turn() {
    let repo = Repo::serving("good", None);
    let server = Server::start(repo.path(), &["--max-connections", "4"]);
    let clients: Vec<_> = (0..16)
        .map(|_| {
            let address = server.http;
            std::thread::spawn(move || {
                http::request(
                    address,
                    "POST",
                    "/predict",
                    &[("content-type", "application/json")],
                    row().to_string().as_bytes(),
                )
                .status
            })
        })
        .collect();
    for client in clients {
        assert_eq!(client.join().expect("no panic"), 200);
    }
}

/// Large bodies have room together for so much only: what does not fit is refused at once, small ones are not concerned,
/// and the room is given back.
#[test]
fn large_bodies_share_their_room() {
    use std::io::Write;
    let repo = Repo::serving("good", None);
    let server = Server::start(repo.path(), &["--bodies-limit", "1MiB", "--request-timeout", "5m"]);
    let large = json!(vec![row(); 20_000]).to_string();
    assert_eq!(server.post("/predict", &large).status, 200);
    let head = format!(
        "POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        large.len()
    );
    // Whichever of the two is received first is served, so it may take several tries until that is the half.
    let (half, refused) = wait_for("a refusal", || {
        let mut half = std::net::TcpStream::connect(server.http).expect("accepted");
        half.write_all(head.as_bytes()).expect("sent");
        half.write_all(&large.as_bytes()[..600_000]).ok()?;
        Some((half, server.post("/predict", &large))).filter(|(_, reply)| reply.status != 200)
    });
    assert_eq!((refused.status, refused.header("retry-after")), (503, "1"), "{}", refused.text());
    server.predict(&row());
    // The half never becomes whole: its client leaves.
    drop(half);
    wait_for("room", || (server.post("/predict", &large).status == 200).then_some(()));
}

/// What streams hold that is not answered yet takes of the same room.
#[test]
fn streams_share_the_room_of_bodies() {
    use std::io::Write;
    let repo = Repo::serving("good", None);
    let server = Server::start(repo.path(), &["--bodies-limit", "1MiB", "--request-timeout", "5m"]);
    let head =
        "POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-ndjson\r\ncontent-length: 9000000\r\n\r\n";
    let large = json!(vec![row(); 10_000]).to_string();
    // Whichever of the two is received first is served, so it may take several streams until that is the stream.
    let held = || {
        let mut stream = std::net::TcpStream::connect(server.http).expect("accepted");
        stream.write_all(head.as_bytes()).expect("sent");
        stream.write_all(&[b' '; 900_000]).ok()?;
        Some((stream, server.post("/predict", &large))).filter(|(_, reply)| reply.status != 200)
    };
    let (mut stream, refused) = wait_for("a refusal", held);
    assert_eq!(refused.status, 503, "{}", refused.text());
    let headers = [("content-type", "application/x-ndjson")];
    let refused = http::request(server.http, "POST", "/predict", &headers, &[b' '; 900_000]);
    assert_eq!(refused.status, 503, "{}", refused.text());
    // A line that ends gives its room back.
    stream.write_all(b"\n").expect("sent");
    wait_for("room", || (server.post("/predict", &large).status == 200).then_some(()));
    drop(stream);
    // A stream whose client leaves does so too.
    let (stream, _) = wait_for("a refusal", held);
    drop(stream);
    wait_for("room", || (server.post("/predict", &large).status == 200).then_some(()));
    // Neither do many rows that are answered keep any.
    let lines = format!("{}\n", row()).repeat(20_000);
    for _ in 0..3 {
        let reply = http::request(server.http, "POST", "/predict", &headers, lines.as_bytes());
        assert!(reply.status == 200 && reply.text().lines().count() == 20_000, "{}", reply.status);
    }
    wait_for("room", || (server.post("/predict", &large).status == 200).then_some(()));
}

/// A client that sends a stream of rows and reads no answers is not read from for ever: its connection ends.
#[test]
fn a_client_that_reads_nothing_is_cut_off() {
    use std::io::Write;
    let repo = Repo::serving("good", None);
    let server = Server::start(repo.path(), &["--request-timeout", "1s"]);
    let mut stream = std::net::TcpStream::connect(server.http).expect("accepted");
    stream.set_write_timeout(Some(common::PATIENCE)).expect("a socket");
    stream
        .write_all(
            b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n",
        )
        .expect("sent");
    let lines = format!("{}\n", row()).repeat(1000);
    let chunk = format!("{:x}\r\n{lines}\r\n", lines.len());
    // The buffers on the way hold a few megabytes; then the server waits for its answers to be read, and gives up.
    let ended = (0..10_000).find_map(|_| stream.write_all(chunk.as_bytes()).err()).expect("cut off");
    assert!(!matches!(ended.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut), "{ended}");
    server.predict(&row());
}

/// A row that comes byte by byte is waited for as long as a body is, however busy its client looks.
#[test]
fn a_line_has_to_come_whole_in_time() {
    use std::io::{Read, Write};
    let repo = Repo::serving("good", None);
    let server = Server::start(repo.path(), &["--request-timeout", "1s"]);
    let mut stream = http::socket(server.http).expect("accepted");
    let head =
        "POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).expect("sent");
    let line = format!("{}\n", row());
    stream.write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes()).expect("sent");
    // A byte each 5 ms, until nobody takes it any more.
    wait_for("the end", || stream.write_all(b"1\r\n \r\n").err());
    let mut told = vec![];
    // The bytes that came after the end make a reset of it.
    let _ = stream.read_to_end(&mut told);
    let told = String::from_utf8_lossy(&told);
    assert!(told.contains("\"anomaly\"") && (told.contains("no further row") || !told.contains("\r\n0\r\n")), "{told}");
    server.predict(&row());
}
