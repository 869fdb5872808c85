//! Weights are in memory once, however many sessions run them.

#![cfg(target_os = "linux")]

mod common;

use std::fs;

use common::{Server, resident};
use serde_json::json;

/// Rows and columns of the matrix.
const WIDTH: usize = 2048;
/// Bytes that it takes.
const SIZE: u64 = (WIDTH * WIDTH * 4) as u64;

fn varint(mut value: usize, out: &mut Vec<u8>) {
    while value > 0x7f {
        out.push(0x80 | (value & 0x7f) as u8);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A field of a protobuf message that holds bytes.
fn field(number: usize, bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let mut out = vec![];
    varint(number << 3 | 2, &mut out);
    varint(bytes.as_ref().len(), &mut out);
    out.extend_from_slice(bytes.as_ref());
    out
}

/// One that holds a number.
fn number(number: usize, value: usize) -> Vec<u8> {
    let mut out = vec![];
    varint(number << 3, &mut out);
    varint(value, &mut out);
    out
}

/// `y = x w`, where the element of w at row i and column j is i + j.
fn onnx() -> Vec<u8> {
    let values = (0..WIDTH).flat_map(|i| (0..WIDTH).flat_map(move |j| ((i + j) as f32).to_le_bytes()));
    let width = number(1, WIDTH);
    let weights =
        [number(1, WIDTH), number(1, WIDTH), number(2, 1), field(8, "w"), field(9, values.collect::<Vec<u8>>())];
    let shape = [field(1, field(2, "N")), field(1, width)].concat();
    let kind = field(2, field(1, [number(1, 1), field(2, shape)].concat()));
    let port = |name: &str| [field(1, name), kind.clone()].concat();
    let node = [field(1, "x"), field(1, "w"), field(2, "y"), field(4, "MatMul")].concat();
    let graph = [field(1, node), field(2, "g"), field(5, weights.concat()), field(11, port("x")), field(12, port("y"))];
    [number(1, 8), field(7, graph.concat()), field(8, number(2, 17))].concat()
}

#[test]
fn more_sessions_take_no_more_memory() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("matrix.onnx");
    fs::write(&file, onnx()).expect("it is written");
    let memory = |workers: &str| {
        let server = Server::start(&file, &["--workers", workers]);
        let mut row = vec![0.0; WIDTH];
        row[1] = 2.0;
        let answer = server.predict(&json!({ "x": row }));
        assert_eq!(answer["y"][WIDTH - 1], json!(2.0 * WIDTH as f64), "with {workers} workers");
        resident(server.pid())
    };
    let (few, many) = (memory("2"), memory("8"));
    assert!(many < few + 2 * SIZE, "{few} bytes with 2 workers, {many} with 8; the weights have {SIZE}");
}
