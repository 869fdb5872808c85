//! Messages as they lie on the wire: their limits, their room, their time, their compression.

mod common;

use common::Server;
use common::grpc::{Client, infer, raw, row, scores, typed};
use common::repo::Repo;
use onnxd::http::grpc::proto::ModelInferResponse;
use prost::Message;
use tonic::Code;

#[test]
fn messages_keep_to_the_limits() {
    let repo = Repo::serving("good", None);
    let args = ["--body-limit", "1MiB", "--bodies-limit", "2MiB", "--max-rows", "100000"];
    let server = Server::start(repo.path(), &args);
    let client = Client::connect(server.grpc);
    let too_large = |metadata: &[(&str, &str)], body| {
        let (head, ..) = client.raw("ModelInfer", metadata, body);
        assert_eq!(head["grpc-status"], "8", "{head:?}");
        assert!(head["grpc-message"].to_str().expect("text").contains("1048576"), "{head:?}");
    };
    // What is announced is refused before it arrives.
    too_large(&[], [&[0][..], &(2_u32 << 20).to_be_bytes()].concat());
    // So is what grows when it is decompressed.
    let mut encoder = flate2::write::GzEncoder::new(vec![], flate2::Compression::best());
    std::io::Write::write_all(&mut encoder, &vec![0; 64 << 20]).expect("memory");
    let bomb = encoder.finish().expect("memory");
    assert!(bomb.len() < 1 << 20);
    let size = u32::try_from(bomb.len()).expect("it is small").to_be_bytes();
    too_large(&[("grpc-encoding", "gzip")], [&[1][..], &size, &bomb].concat());
    let rows = vec![row(1.0); 50_000];
    assert_eq!(scores(&infer(&client, raw(&rows))).len(), 50_000);
    assert_eq!(scores(&infer(&client, typed(&rows))).len(), 50_000);
}

#[test]
fn large_messages_share_their_room() {
    let repo = Repo::serving("good", None);
    let server = Server::start(repo.path(), &["--bodies-limit", "64KiB"]);
    let client = Client::connect(server.grpc);
    let status = client.call::<ModelInferResponse>("ModelInfer", raw(&vec![row(1.0); 5000])).expect_err("no room");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    // The room is free again.
    for _ in 0..20 {
        infer(&client, raw(&vec![row(1.0); 2500]));
    }
}

/// What has begun must arrive in time, on a stream as well, which may be idle for as long as it likes.
#[test]
fn messages_that_do_not_arrive_are_not_waited_for() {
    let repo = Repo::serving("good", None);
    let server = Server::start(repo.path(), &["--request-timeout", "300ms"]);
    let client = Client::connect(server.grpc);
    let half = vec![0, 0, 0, 0, 9, 1];
    let (head, ..) = client.raw_and_more("ModelInfer", half.clone());
    assert_eq!(head["grpc-status"], "4", "{head:?}");
    let (_, body, trailers) = client.raw_and_more("ModelStreamInfer", half);
    assert_eq!((body.len(), &trailers["grpc-status"]), (0, &"4".parse().expect("a value")));
    // A call that is no stream takes one message.
    let message = typed(&[row(1.0)]).encode_to_vec();
    let size = u32::try_from(message.len()).expect("it is small").to_be_bytes();
    let message = [&[0][..], &size, &message].concat();
    let (head, ..) = client.raw("ModelInfer", &[], message.repeat(2));
    assert_eq!(head["grpc-status"], "3", "{head:?}");
    let (_, body, trailers) = client.raw("ModelStreamInfer", &[], message.repeat(2));
    assert_eq!((&trailers["grpc-status"], body.is_empty()), (&"0".parse().expect("a value"), false));
}

/// Answers are compressed for clients that compress their requests, where that makes them smaller.
#[test]
fn gzip_is_taken_and_given() {
    let repo = Repo::serving("good", None);
    let server = Server::start(repo.path(), &[]);
    let client = Client::connect(server.grpc);
    let request = raw(&vec![row(1.0); 4000]);
    let plain = infer(&client, request.clone());
    let message = request.encode_to_vec();
    let mut encoder = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, &message).expect("memory");
    let packed = encoder.finish().expect("memory");
    let size = u32::try_from(packed.len()).expect("it is small").to_be_bytes();
    let body = [&[1][..], &size, &packed].concat();

    let (head, body, trailers) =
        client.raw("ModelInfer", &[("grpc-encoding", "gzip"), ("grpc-accept-encoding", "identity, gzip")], body);
    assert_eq!(
        (&head["grpc-encoding"], &trailers["grpc-status"]),
        (&"gzip".parse().expect("a value"), &"0".parse().expect("a value"))
    );
    assert_eq!(body[0], 1);
    let mut answer = vec![];
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&body[5..]), &mut answer).expect("a gzip");
    assert_eq!(ModelInferResponse::decode(&answer[..]).expect("a message"), plain);
    assert!(body.len() < answer.len() / 4);
    assert_eq!(head["x-model-version"], "1");

    let size = u32::try_from(message.len()).expect("it is small").to_be_bytes();
    let (head, body, _) =
        client.raw("ModelInfer", &[("grpc-accept-encoding", "gzip")], [&[0][..], &size, &message].concat());
    assert!(!head.contains_key("grpc-encoding"));
    assert_eq!(body[0], 0);
}
