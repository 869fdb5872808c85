//! What comes over the network or out of a repository, read from bytes that libFuzzer makes up: nothing panics, hangs or takes memory
//! that the bytes do not stand for, and what is taken has the form that it says. `FUZZ_TARGET` chooses the decoder.

#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::{Corpus, fuzz_target};
use onnxd::codec::{Request, csv, decode, envelope, oip};
use onnxd::http::grpc::{proto::ModelInferRequest, tensors};
use onnxd::model::graph;
use onnxd::model::manifest::Manifest;
use onnxd::model::signature::{GraphIo, Port, Signature};
use onnxd::model::tensor::DType;
use onnxd::source::aliases::Aliases;
use prost::Message;

const ENVELOPES: [envelope::Envelope; 3] =
    [envelope::Envelope::Serving, envelope::Envelope::Vertex, envelope::Envelope::Mlflow];
/// Rows of a request.
const MOST_ROWS: usize = 64;

struct Asked {
    target: String,
    /// Features with ranges and defaults, as the anomaly model's; then inputs of every kind without a manifest.
    signatures: [Signature; 2],
}

fn asked() -> &'static Asked {
    static ASKED: OnceLock<Asked> = OnceLock::new();
    ASKED.get_or_init(|| {
        let port = |name: &str, dtype, shape: &[i64]| Port { name: name.into(), tensor: Ok((dtype, shape.to_vec())) };
        let manifest = Manifest::parse(include_bytes!("../../models/anomaly/1/manifest.json"))
            .expect("the anomaly model's manifest");
        let anomaly = GraphIo {
            inputs: vec![port("features", DType::F32, &[-1, 5])],
            outputs: vec![
                port("anomaly", DType::Bool, &[-1]),
                port("score", DType::F32, &[-1]),
                port("forecast", DType::F32, &[-1]),
            ],
            ..GraphIo::default()
        };
        let many = GraphIo {
            inputs: vec![
                port("f", DType::F64, &[-1, 2, 2]),
                port("i", DType::I64, &[-1]),
                port("u", DType::U8, &[-1, 3]),
                port("b", DType::Bool, &[-1, 1]),
                port("t", DType::Text, &[-1, 1]),
                port("h", DType::F16, &[-1, -1]),
            ],
            outputs: vec![port("y", DType::F32, &[-1])],
            ..GraphIo::default()
        };
        let signatures = [Signature::new(&anomaly, Some(&manifest)), Signature::new(&many, None)];
        Asked {
            #[expect(clippy::disallowed_methods, reason = "libFuzzer has the command line")]
            target: std::env::var("FUZZ_TARGET").expect("FUZZ_TARGET names a decoder, as server/fuzz/run.sh does"),
            signatures: signatures.map(|signature| signature.expect("a signature")),
        }
    })
}

/// What is taken is what a model can run.
fn holds<F>(signature: &Signature, request: &Request<F>) {
    assert!((1..=MOST_ROWS).contains(&request.rows), "{} rows", request.rows);
    assert_eq!(request.inputs.len(), signature.inputs.len());
    for (input, tensor) in signature.inputs.iter().zip(&request.inputs) {
        assert_eq!((tensor.dtype(), tensor.rows()), (input.dtype, Some(request.rows)), "{}", input.name);
    }
    assert!(request.marks.is_empty() || request.marks.len() == request.rows);
}

/// Whether the bytes were taken; `None` for a target that is none.
fn ask(target: &str, signature: &Signature, data: &[u8]) -> Option<bool> {
    let told = |request: Result<(), ()>| Some(request.is_ok());
    let oip =
        |infer| told(oip::bind(signature, infer, MOST_ROWS).map(|request| holds(signature, &request)).map_err(drop));
    match target {
        "json" => {
            told(decode::body(signature, data, MOST_ROWS).map(|request| holds(signature, &request)).map_err(drop))
        }
        "envelope" => {
            let each = ENVELOPES.map(|kind| envelope::body(kind, signature, data, MOST_ROWS));
            Some(each.into_iter().flatten().map(|request| holds(signature, &request)).count() > 0)
        }
        "csv" => told(csv::body(signature, data, MOST_ROWS).map(|request| holds(signature, &request)).map_err(drop)),
        "oip" => oip::read::request(data, None).map_or(Some(false), oip),
        "binary" => {
            // The head says how long the JSON is.
            let (length, body) = data.split_first_chunk::<2>()?;
            oip::read::request(body, Some(usize::from(u16::from_le_bytes(*length)))).map_or(Some(false), oip)
        }
        "bare" => oip::bare::request(signature, data).map_or(Some(false), oip),
        "grpc" => {
            let Ok(message) = ModelInferRequest::decode(data) else { return Some(false) };
            told(tensors::decode(signature, message, MOST_ROWS).map(|request| holds(signature, &request)).map_err(drop))
        }
        "manifest" => {
            let Ok(manifest) = Manifest::parse(data) else { return Some(false) };
            let _ = manifest.references();
            Some(true)
        }
        "aliases" => {
            let Ok(aliases) = Aliases::parse(data) else { return Some(false) };
            assert_eq!(Aliases::parse(&aliases.to_bytes()).map(|again| again.to_bytes()), Ok(aliases.to_bytes()));
            Some(aliases.wanted().is_ok())
        }
        "onnx" => Some(graph::lint(data, &[("weights.bin", 4096)]).is_ok()),
        _ => None,
    }
}

fuzz_target!(|data: &[u8]| -> Corpus {
    let asked = asked();
    for signature in &asked.signatures {
        ask(&asked.target, signature, data);
    }
    Corpus::Keep
});
