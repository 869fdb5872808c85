//! Bodies that travel compressed, in both directions, and their limits.

mod common;

use async_compression::tokio::bufread as codec;
use common::repo::Repo;
use common::{Server, http, resident};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt};

const ENCODINGS: [&str; 3] = ["gzip", "deflate", "zstd"];

/// Reads all that an encoder or decoder gives.
fn all(mut reader: impl AsyncRead + Unpin) -> std::io::Result<Vec<u8>> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let mut bytes = vec![];
    runtime.block_on(reader.read_to_end(&mut bytes)).map(|_| bytes)
}

fn compress(encoding: &str, bytes: &[u8]) -> Vec<u8> {
    match encoding {
        "gzip" => all(codec::GzipEncoder::new(bytes)),
        "deflate" => all(codec::ZlibEncoder::new(bytes)),
        _ => all(codec::ZstdEncoder::new(bytes)),
    }
    .expect("it compresses")
}

fn decompress(encoding: &str, bytes: &[u8]) -> Vec<u8> {
    match encoding {
        "gzip" => all(codec::GzipDecoder::new(bytes)),
        "deflate" => all(codec::ZlibDecoder::new(bytes)),
        _ => all(codec::ZstdDecoder::new(bytes)),
    }
    .expect("it was compressed")
}

fn rows(count: usize) -> Vec<Value> {
    (0..count).map(|i| json!({"cpu_zscore": i % 40, "memory_zscore": 0.25})).collect()
}

#[test]
fn requests_and_answers_travel_in_each_encoding() {
    let repo = Repo::serving("good", None);
    let server = Server::start(repo.path(), &[]);
    let json = json!(rows(2000)).to_string();
    let plain = server.post("/predict", &json).body;
    let lines: String = rows(2000).iter().map(|row| format!("{row}\n")).collect();
    let ndjson = [("content-type", "application/x-ndjson")];
    let plain_lines = http::request(server.http, "POST", "/predict", &ndjson, lines.as_bytes()).body;
    for encoding in ENCODINGS {
        for (content_type, body, expected) in
            [("application/json", &json, &plain), ("application/x-ndjson", &lines, &plain_lines)]
        {
            let headers =
                [("content-type", content_type), ("content-encoding", encoding), ("accept-encoding", encoding)];
            let reply = http::request(server.http, "POST", "/predict", &headers, &compress(encoding, body.as_bytes()));
            assert_eq!((reply.status, reply.header("content-encoding")), (200, encoding), "{content_type}");
            assert!(reply.body.len() * 3 < expected.len(), "{} of {} bytes", reply.body.len(), expected.len());
            assert_eq!(decompress(encoding, &reply.body), *expected, "{content_type} {encoding}");
        }
    }
    // Two members, as log shippers append them.
    let (head, tail) = json.split_at(1000);
    let members = [compress("gzip", head.as_bytes()), compress("gzip", tail.as_bytes())].concat();
    let headers = [("content-type", "application/json"), ("content-encoding", "gzip")];
    assert_eq!(http::request(server.http, "POST", "/predict", &headers, &members).body, plain);
    // An answer that fits a few packets is not worth the work.
    let headers = [("content-type", "application/json"), ("accept-encoding", "gzip, zstd")];
    let small = http::request(server.http, "POST", "/predict", &headers, json!(rows(3)).to_string().as_bytes());
    assert_eq!((small.status, small.header("content-encoding"), small.header("vary")), (200, "", ""));
    // A cache learns that a large one could be another, whoever asks.
    for accepted in ["gzip", "identity"] {
        let headers = [("content-type", "application/json"), ("accept-encoding", accepted)];
        let large = http::request(server.http, "POST", "/predict", &headers, json.as_bytes());
        assert_eq!(large.header("vary"), "accept-encoding", "{accepted}");
    }
}

/// What is limited is what a body holds: 64 MiB of spaces in 64 kB are refused before they fill the memory.
#[test]
fn a_bomb_is_refused_at_the_limit() {
    let repo = Repo::serving("good", None);
    let server = Server::start(repo.path(), &["--body-limit", "1MiB"]);
    server.predict(&rows(1)[0]);
    let before = resident(server.pid());
    for encoding in ENCODINGS {
        let bomb = compress(encoding, &vec![b' '; 64 << 20]);
        assert!(bomb.len() < 512 << 10);
        for content_type in ["application/json", "application/x-ndjson"] {
            let headers = [("content-type", content_type), ("content-encoding", encoding)];
            let reply = http::request(server.http, "POST", "/predict", &headers, &bomb);
            assert_eq!(reply.status, 413, "{encoding} {content_type}: {}", reply.text());
        }
    }
    let grown = resident(server.pid()).saturating_sub(before);
    assert!(grown < 48 << 20, "{grown} bytes more than before");
}

#[test]
fn what_is_not_compressed_as_it_says_is_refused() {
    let repo = Repo::serving("good", None);
    let server = Server::start(repo.path(), &[]);
    let body = json!(rows(100)).to_string();
    let send = |encoding: &str, body: &[u8]| {
        let headers = [("content-type", "application/json"), ("content-encoding", encoding)];
        http::request(server.http, "POST", "/predict", &headers, body)
    };
    for encoding in ENCODINGS {
        let whole = compress(encoding, body.as_bytes());
        for bad in [body.as_bytes(), &whole[..whole.len() / 2]] {
            let reply = send(encoding, bad);
            assert_eq!(reply.status, 400, "{encoding}: {}", reply.text());
            assert!(reply.text().contains("could not be read"), "{}", reply.text());
        }
    }
    let reply = send("br", body.as_bytes());
    assert_eq!(reply.status, 415);
    assert!(reply.text().contains("gzip, deflate, zstd"), "{}", reply.text());
    assert_eq!(send("identity", body.as_bytes()).status, 200);
}
