//! Weights in files of their own: one unit with the model.

mod common;

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::repo::{Repo, fixture};
use common::{Server, wait_for};
use onnxd::model::runtime::Runtime;
use onnxd::model::tensor::Tensor;
use onnxd::model::{Artifact, External, Infer, ModelId, session};
use serde_json::{Value, json};

/// Champion from two files, challenger from one, each tried out in a child.
#[test]
fn a_model_with_its_weights_in_another_file_answers_as_from_one() {
    let (one, two) = (Repo::serving("good", None), Repo::serving("external-good", Some("good")));
    let (one, two) = (Server::start(one.path(), &[]), Server::start(two.path(), &[]));
    let rows: Vec<Value> = (0..50).map(|i| json!({"cpu_zscore": i, "memory_zscore": 1, "cpu_scale": 3})).collect();
    assert_eq!(two.predict(&json!(rows)), one.predict(&json!(rows)));
    assert_eq!(two.model_status("anomaly")["rejected"], json!([]));
}

/// Of a file that changed, is too short, is elsewhere or is not what the graph reads: the champion goes on.
#[test]
fn weights_that_are_not_as_the_manifest_says_never_serve() {
    let repo = Repo::serving("good", None);
    let server = Server::start(repo.path(), &[]);
    let row = json!({"cpu_zscore": 3, "memory_zscore": 1});
    let before = server.predict(&row);
    let weights = fs::read(fixture("external-good/weights.bin")).expect("a fixture");
    let flipped: Vec<u8> = weights.iter().enumerate().map(|(i, byte)| if i == 0 { byte ^ 1 } else { *byte }).collect();
    let write = |v: u32, name: &str, bytes: &[u8]| fs::write(repo.version(v).join(name), bytes).expect("a file");
    let list = |v: u32, path: &str, bytes: &[u8]| {
        let file = json!({"path": path, "sha256": onnxd::model::sha256(bytes), "bytes": bytes.len()});
        repo.edit(v, |manifest| manifest["artifact"]["external_data"] = json!([file]));
    };
    type Case<'a> = (&'a str, &'a str, &'a str, Box<dyn Fn(u32) + 'a>);
    let cases: Vec<Case<'_>> = vec![
        ("external", "fetch", "weights.bin: No such file", Box::new(|_| {})),
        ("external-good", "verify", "weights.bin has SHA-256", Box::new(|v| write(v, "weights.bin", &flipped))),
        (
            "external-good",
            "verify",
            "weights.bin has 4 bytes, the manifest says 8",
            Box::new(|v| write(v, "weights.bin", &weights[..4])),
        ),
        ("external-beyond", "verify", "beyond the end of \"weights.bin\"", Box::new(|_| {})),
        (
            "external-good",
            "verify",
            "beyond the end of \"weights.bin\"",
            Box::new(|v| {
                write(v, "weights.bin", &weights[..4]);
                list(v, "weights.bin", &weights[..4]);
            }),
        ),
        (
            "external-good",
            "verify",
            "does not list",
            Box::new(|v| {
                write(v, "other.bin", &weights);
                list(v, "other.bin", &weights);
            }),
        ),
        ("external-good", "verify", "plain file name", Box::new(|v| list(v, "../1/weights.bin", &weights))),
        (
            "external-good",
            "verify",
            "named twice",
            Box::new(|v| {
                repo.edit(v, |manifest| {
                    let files = manifest["artifact"]["external_data"].as_array_mut().expect("a list");
                    files.extend_from_within(..);
                });
            }),
        ),
        (
            "external-good",
            "verify",
            "64 hexadecimal digits",
            Box::new(|v| repo.edit(v, |manifest| manifest["artifact"]["external_data"][0]["sha256"] = json!("abc"))),
        ),
        (
            "external-good",
            "verify",
            "onnxd push",
            Box::new(|v| repo.edit(v, |manifest| manifest["artifact"]["external_data"] = json!([]))),
        ),
    ];
    for (i, (from, stage, reason, change)) in cases.iter().enumerate() {
        let version = 10 + u32::try_from(i).expect("small");
        repo.install(version, from);
        change(version);
        let epoch = repo.point(version, None);
        let rejected = wait_for("the refusal", || {
            let status = server.model_status("anomaly");
            let tried = status["wanted"]["epoch"] == json!(epoch);
            status["rejected"].get(0).filter(|r| tried && r["version"] == json!(version.to_string())).cloned()
        });
        assert_eq!(rejected["stage"], json!(stage), "{reason}: {rejected}");
        assert!(rejected["reason"].as_str().expect("text").contains(reason), "{reason}: {rejected}");
        assert_eq!(server.predict(&row), before, "{reason}");
    }
}

#[test]
fn without_a_manifest_the_reason_says_what_to_do() {
    let server = Server::launch(&fixture("external-good/model.onnx"), &[]);
    let reason =
        wait_for("the refusal", || server.model_status("model")["rejected"][0]["reason"].as_str().map(str::to_owned));
    assert!(reason.contains("onnxd push") && reason.contains("artifact.external_data"), "{reason}");
}

/// A session copies the weights: what happens to our bytes afterwards does not matter to it.
#[test]
fn a_session_outlives_the_bytes_it_was_loaded_from() {
    let runtime = Runtime::load(None).expect("ONNX Runtime");
    let width = 4096;
    let weights: Vec<u8> = (0..width).flat_map(|i: u16| f32::from(i).to_le_bytes()).collect();
    let onnx = fs::read(fixture("wide.onnx")).expect("a fixture");
    let id = ModelId { name: "wide".into(), version: "1".into(), sha256: String::new(), manifest_sha256: None };
    let external = vec![External { path: "wide.bin".into(), bytes: weights.into() }];
    let mut artifact = Artifact { id, onnx: onnx.into(), external, manifest: None };
    let (mut session, _) = session::load(&runtime, &artifact, 1).expect("loaded");
    let row = Tensor::filled(onnxd::model::tensor::DType::F32, &[1, 1], |_| 2.0).expect("a row");
    let mut run = || {
        let outputs = session.run(std::slice::from_ref(&row), Instant::now() + Duration::from_secs(10)).expect("a run");
        outputs[0].numbers().expect("numbers")
    };
    let before = run();
    assert_eq!((before[1], before[width as usize - 1]), (2.0, f64::from(width - 1) * 2.0));
    // Nobody else holds them, and what we write over them does not show.
    Arc::get_mut(&mut artifact.external[0].bytes).expect("the session holds nothing of ours").fill(0);
    assert_eq!(run(), before);
    drop(artifact);
    assert_eq!(run(), before);
}
