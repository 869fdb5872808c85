//! Requests whose end two programs could see in two places, and floods of HTTP/2: what is hidden in a body is never a request, and the
//! next client is answered.

mod common;

use std::io::{Read, Write};
use std::net::Shutdown;

use common::http::socket;
use common::repo::{Repo, row};
use common::{Server, resident};

/// It stands in a body. If it is ever answered, the answer is the only 404.
const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nhost: a\r\n\r\n";
const LAST: &str = "GET /livez HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

/// The statuses of all answers on one connection.
fn statuses(server: &Server, sent: &[u8]) -> Vec<u16> {
    let mut socket = socket(server.http).expect("connected");
    // It may be refused and closed before all is sent.
    let _ = socket.write_all(sent).and_then(|()| socket.write_all(LAST.as_bytes()));
    let mut answers = vec![];
    // What was sent after the refusal makes a reset of the end.
    let _ = socket.read_to_end(&mut answers);
    let text = String::from_utf8_lossy(&answers);
    text.split("HTTP/1.").skip(1).filter_map(|answer| answer.get(2..5)?.parse().ok()).collect()
}

#[test]
fn what_is_hidden_in_a_body_is_no_request() {
    let repo = Repo::serving("good", None);
    let server = Server::start(repo.path(), &["--request-timeout", "2s"]);
    let body = row(1).to_string();
    let size = body.len();
    let chunked = format!("{size:x}\r\n{body}\r\n0\r\n\r\n");
    let head = "POST /predict HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n";
    let hidden = HIDDEN.len();
    let cases: Vec<(&str, String, &[u16])> = vec![
        ("a length", format!("{head}content-length: {size}\r\n\r\n{body}"), &[200, 200]),
        ("chunks", format!("{head}transfer-encoding: chunked\r\n\r\n{chunked}"), &[200, 200]),
        ("chunks in capitals", format!("{head}Transfer-Encoding: Chunked\r\n\r\n{chunked}"), &[200, 200]),
        (
            "an extension of a chunk",
            format!("{head}transfer-encoding: chunked\r\n\r\n{size:x};a=b\r\n{body}\r\n0\r\n\r\n"),
            &[200, 200],
        ),
        (
            "a length beyond chunks",
            format!("{head}content-length: {hidden}\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{HIDDEN}"),
            REFUSED,
        ),
        (
            "chunks beyond a length",
            format!("{head}transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n{chunked}{HIDDEN}"),
            &[200],
        ),
        (
            "two lengths",
            format!("{head}content-length: {size}\r\ncontent-length: {}\r\n\r\n{body}{HIDDEN}", size + hidden),
            REFUSED,
        ),
        (
            "a list of lengths",
            format!("{head}content-length: {size}, {}\r\n\r\n{body}{HIDDEN}", size + hidden),
            REFUSED,
        ),
        ("a length with a sign", format!("{head}content-length: +{size}\r\n\r\n{body}"), REFUSED),
        ("a length below zero", format!("{head}content-length: -1\r\n\r\n{body}"), REFUSED),
        ("a length beyond 64 bits", format!("{head}content-length: 18446744073709551616\r\n\r\n{body}"), REFUSED),
        ("a length that is hexadecimal", format!("{head}content-length: 0x10\r\n\r\n{body}"), REFUSED),
        (
            "an encoding that nobody knows",
            format!("{head}transfer-encoding: xchunked\r\n\r\n{chunked}{HIDDEN}"),
            REFUSED,
        ),
        (
            "chunks that are not last",
            format!("{head}transfer-encoding: chunked, identity\r\n\r\n{chunked}{HIDDEN}"),
            REFUSED,
        ),
        (
            "chunks twice",
            format!("{head}transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n{chunked}{HIDDEN}"),
            REFUSED,
        ),
        (
            "chunks of HTTP/1.0",
            format!("{}transfer-encoding: chunked\r\n\r\n{chunked}{HIDDEN}", head.replace("1.1", "1.0")),
            REFUSED,
        ),
        ("a space before the colon", format!("{head}content-length : {size}\r\n\r\n{body}{HIDDEN}"), REFUSED),
        ("a line that is folded", format!("{head}x-a: b\r\n c\r\ncontent-length: {size}\r\n\r\n{body}"), REFUSED),
        ("a name with a blank", format!("{head}content length: {size}\r\n\r\n{body}"), REFUSED),
        ("a return without a newline", format!("{head}x-a: b\rcontent-length: {size}\r\n\r\n{HIDDEN}"), REFUSED),
        ("a zero byte", format!("{head}x-a: b\0c\r\ncontent-length: {size}\r\n\r\n{body}"), REFUSED),
        (
            "a chunk that is larger than 64 bits",
            format!("{head}transfer-encoding: chunked\r\n\r\n1{:016x}\r\n{body}\r\n0\r\n\r\n", 0),
            REFUSED,
        ),
        (
            "a chunk with a sign",
            format!("{head}transfer-encoding: chunked\r\n\r\n+{size:x}\r\n{body}\r\n0\r\n\r\n"),
            REFUSED,
        ),
        (
            "a chunk without its end",
            format!("{head}transfer-encoding: chunked\r\n\r\n{size:x}\r\n{body}xx0\r\n\r\n{HIDDEN}"),
            REFUSED,
        ),
        (
            "a length in a trailer",
            format!("{head}transfer-encoding: chunked\r\n\r\n{size:x}\r\n{body}\r\n0\r\ncontent-length: 9\r\n\r\n"),
            &[200, 200],
        ),
        ("no host", "GET /livez HTTP/1.1\r\n\r\n".into(), &[400, 200]),
        ("two hosts", "GET /livez HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n".into(), &[400, 200]),
        (
            "a host for HTTP/1.0 is not needed",
            "GET /livez HTTP/1.0\r\nconnection: keep-alive\r\n\r\n".into(),
            &[200, 200],
        ),
        ("a method that is none", format!("P\tST /predict HTTP/1.1\r\nhost: a\r\n\r\n{HIDDEN}"), REFUSED),
        ("a version that is none", format!("GET /livez HTTP/9.9\r\nhost: a\r\n\r\n{HIDDEN}"), REFUSED),
        (
            "more headers than a head has",
            format!("GET /livez HTTP/1.1\r\nhost: a\r\n{}\r\n", "x: y\r\n".repeat(2000)),
            &[431],
        ),
        (
            "a head without an end",
            format!("GET /livez HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(1 << 20)),
            &[431],
        ),
    ];
    let mut wrong: Vec<String> = vec![];
    for (name, sent, expected) in cases {
        let found = statuses(&server, sent.as_bytes());
        assert!(!found.contains(&404), "{name}: the hidden request was answered: {found:?}");
        if found != expected {
            wrong.push(format!("{name}: {found:?} instead of {expected:?}"));
        }
    }
    assert_eq!(wrong, [""; 0]);
    server.predict(&row(2));
}

const REFUSED: &[u16] = &[400];

/// A frame of HTTP/2: its kind, flags, stream and payload.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// GET /livez of host a, by the static table.
const LIVEZ: &[u8] = b"\x82\x86\x44\x06/livez\x41\x01a";
/// POST /predict of host a.
const PREDICT: &[u8] = b"\x83\x86\x44\x08/predict\x41\x01a";

/// The number of a client's next stream.
const fn stream(turn: u32) -> u32 {
    2 * turn + 1
}

/// Its end, which nobody needs.
fn reset(turn: u32) -> Vec<u8> {
    frame(RESET, 0, stream(turn), &8_u32.to_be_bytes())
}

type Frames = Box<dyn Fn(u32) -> Vec<u8>>;

/// Sends frames for as long as the server takes them, without reading; gives whether it took all.
fn flood(server: &Server, count: u32, frames: impl Fn(u32) -> Vec<u8>) -> bool {
    let mut socket = socket(server.http).expect("connected");
    socket.set_write_timeout(Some(std::time::Duration::from_secs(5))).expect("set");
    let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    sent.extend(frame(SETTINGS, 0, 0, &[]));
    for turn in 0..count {
        sent.extend(frames(turn));
        if sent.len() > 64 << 10 || turn + 1 == count {
            if socket.write_all(&sent).is_err() {
                return false;
            }
            sent.clear();
        }
    }
    // It may say goodbye afterwards.
    let _ = socket.shutdown(Shutdown::Write);
    let mut answers = vec![];
    let _ = socket.take(16 << 20).read_to_end(&mut answers);
    true
}

/// What these clients send costs nobody else anything, and no memory stays.
#[test]
fn floods_of_http2_are_cut_off() {
    let repo = Repo::serving("good", None);
    let server = Server::start(repo.path(), &["--request-timeout", "3s"]);
    server.predict(&row(1));
    let before = resident(server.pid());
    let floods: Vec<(&str, u32, bool, Frames)> = vec![
        (
            "streams that are reset",
            200_000,
            false,
            Box::new(move |turn| [frame(HEADERS, END_STREAM | END_HEADERS, stream(turn), LIVEZ), reset(turn)].concat()),
        ),
        (
            "requests without bodies that are reset",
            200_000,
            false,
            Box::new(move |turn| [frame(HEADERS, END_HEADERS, stream(turn), PREDICT), reset(turn)].concat()),
        ),
        (
            "a head that goes on",
            20_000,
            false,
            Box::new(|turn| match turn {
                0 => frame(HEADERS, END_STREAM, 1, LIVEZ),
                _ => frame(CONTINUATION, 0, 1, &b"\x40\x01a\x01b".repeat(100)),
            }),
        ),
        (
            "a head of nothing",
            200_000,
            false,
            Box::new(|turn| match turn {
                0 => frame(HEADERS, END_STREAM, 1, LIVEZ),
                _ => frame(CONTINUATION, 0, 1, &[]),
            }),
        ),
        ("settings", 3_000_000, false, Box::new(|_| frame(SETTINGS, 0, 0, &[]))),
        ("pings", 3_000_000, false, Box::new(|_| frame(PING, 0, 0, &[0; 8]))),
        ("windows beyond all bounds", 10, true, Box::new(|_| frame(WINDOW, 0, 0, &0x7fff_ffff_u32.to_be_bytes()))),
        ("windows of nothing", 1000, true, Box::new(|_| frame(WINDOW, 0, 0, &[0; 4]))),
        (
            "more streams than are allowed",
            20_000,
            true,
            Box::new(move |turn| frame(HEADERS, END_HEADERS, stream(turn), PREDICT)),
        ),
    ];
    for (name, count, may_take, frames) in floods {
        let took = flood(&server, count, frames);
        assert!(may_take || !took, "{name}: all of it was taken");
        server.predict(&row(1));
    }
    let more = resident(server.pid()).saturating_sub(before);
    assert!(more < 64 << 20, "{more} bytes more than before");
}
