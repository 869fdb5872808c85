//! Whether a model's rows may share runs is found out by running it; what a run needed is given back.

mod common;

use std::fs;
use std::process::Command;

use common::repo::{Repo, fixture};
use common::{Server, wait_for};
use serde_json::{Value, json};

fn serve(name: &str) -> Server {
    Server::start(&fixture(&format!("exports/{name}.onnx")), &[])
}

fn profile(name: &str) -> Value {
    serve(name).model_status(name)["champion"]["profile"].clone()
}

#[test]
fn rows_that_depend_on_each_other_are_found_out() {
    for (name, invariance) in [
        ("thirteen-together", "no"),
        ("small-together", "no"),
        ("wide-together", "no"),
        ("words-together", "no"),
        ("grown-together", "no"),
        ("beside-large", "no"),
        ("zeros-only", "no"),
        ("logarithms", "exact"),
        ("number-text", "exact"),
        ("token-pair", "exact"),
        ("tokens", "exact"),
    ] {
        let profile = profile(name);
        assert_eq!(profile["invariance"], json!(invariance), "{name}: {profile}");
        let (no, warned) = (invariance == "no", profile["warnings"].to_string().contains("never batched together"));
        assert_eq!(no, warned, "{name}: {profile}");
    }
    assert!(profile("zeros-only")["warnings"].to_string().contains("golden samples that differ"));
    let many = profile("many-rows");
    assert_eq!((&many["rows"], &many["invariance"]), (&json!({"fixed": 4096}), &json!("exact")));
}

/// Golden samples show what they show, and no more: other shapes and other inputs are looked at besides.
#[test]
fn golden_samples_do_not_hide_that_rows_depend_on_each_other() {
    for (name, samples) in [
        ("wide-together", vec![json!({"x": [1]}), json!({"x": [3]}), json!({"x": [1, 2, 3]}), json!({"x": [4, 2, 1]})]),
        ("identity-beside", vec![json!({"x": [1, 2], "id": 1}), json!({"x": [1, 2], "id": 2})]),
        ("words-together", vec![json!({"x": "red"})]),
    ] {
        let repo = Repo::new();
        let pushed = Command::new(env!("CARGO_BIN_EXE_onnxd"))
            .arg("push")
            .arg(fixture(&format!("exports/{name}.onnx")))
            .args(["--model", "anomaly", "--repository"])
            .arg(repo.path())
            .output()
            .expect("it runs");
        assert!(pushed.status.success(), "{}", String::from_utf8_lossy(&pushed.stderr));
        repo.edit(1, |manifest| {
            let golden: Vec<Value> = samples
                .iter()
                .map(|input| json!({"input": input, "expected": {}, "atol": 1e-4, "rtol": 1e-4}))
                .collect();
            manifest["golden"] = json!({"samples": golden});
        });
        repo.point(1, None);
        let server = Server::start(repo.path(), &[]);
        let profile = server.model_status("anomaly")["champion"]["profile"].clone();
        assert_eq!(profile["invariance"], json!("no"), "{name}: {profile}");
    }
}

/// Axes of different names are no rows of the same things: they are taken as they come.
#[test]
fn first_axes_of_different_names_may_differ() {
    let server = serve("unlike-rows");
    let (q, k) = ([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], [[1.0, 2.0, 3.0]]);
    let reply = server.predict(&json!({"q": q, "k": k}));
    assert_eq!(reply["y"], json!([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]));
}

/// What is said of rows in a manifest, with as many golden samples, and what comes of it.
#[test]
fn a_manifest_says_what_runs_do_not_show() {
    for (fixture, declared, samples, invariance, told) in [
        ("good", json!(null), 1, "exact", ""),
        ("good", json!(false), 5, "no", "its manifest says"),
        ("batch-mean", json!(null), 1, "no", "depends on the rows beside it"),
        ("batch-mean", json!(true), 5, "no", "although its manifest says"),
    ] {
        let repo = Repo::new();
        repo.install(1, fixture);
        repo.edit(1, |manifest| {
            manifest["golden"]["batch_invariant"] = declared.clone();
            manifest["golden"]["samples"].as_array_mut().expect("samples").truncate(samples);
        });
        repo.point(1, None);
        let server = Server::start(repo.path(), &[]);
        let profile = server.model_status("anomaly")["champion"]["profile"].clone();
        assert_eq!(profile["invariance"], json!(invariance), "{fixture} {declared}: {profile}");
        assert!(profile["warnings"].to_string().contains(told), "{fixture} {declared}: {profile}");
    }
}

/// Others would wait for the whole of a large request.
#[test]
fn a_run_has_as_many_rows_as_it_may_take_time() {
    assert_eq!(profile("many-steps")["max_batch"], json!(64));
    let repo = Repo::new();
    repo.install(1, "good");
    for (limits, most) in [(json!({}), 1024), (json!({ "max_batch": 2000 }), 2000)] {
        repo.edit(1, |manifest| manifest["limits"] = limits);
        repo.point(1, None);
        let server = Server::start(repo.path(), &[]);
        let profile = server.model_status("anomaly")["champion"]["profile"].clone();
        assert_eq!(profile["max_batch"], json!(most), "{profile}");
    }
}

/// An arena would keep it for a next run of that size.
#[cfg(target_os = "linux")]
#[test]
fn the_memory_of_a_large_run_is_given_back() {
    let server = serve("grows");
    let small = json!({"x": vec![0.5; 256]});
    for _ in 0..30 {
        server.predict(&small);
    }
    let large =
        json!({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1024 * 256], "data": vec![0.5; 1024 * 256]}]});
    let reply = server.post("/v2/models/grows/infer", &large.to_string());
    assert_eq!(reply.status, 200, "{}", reply.text());
    let most = common::memory(server.pid(), "VmHWM:");
    assert!(most > 256 << 20, "{most}");
    wait_for("less memory", || {
        server.predict(&small);
        (common::resident(server.pid()) < most / 2).then_some(())
    });
}

#[test]
fn an_output_that_has_no_row_for_each_row_is_named_with_the_way_out() {
    let server = serve("some-rows");
    assert_eq!(server.predict(&json!([{"x": 1}, {"x": 2}])), json!([{"y": 1.0}, {"y": 2.0}]));
    let reply = server.post("/predict", r#"[{"x": 1}, {"x": 3}]"#);
    assert_eq!(reply.status, 500);
    let told = wait_for("the reason in the log", || {
        server.log().lines().find(|line| line.contains("output y has shape [1] for 2 rows")).map(str::to_owned)
    });
    assert!(told.contains("signature.layout"), "{told}");
}

/// Split, its rows would be answered otherwise.
#[test]
fn a_large_request_to_a_model_whose_rows_depend_on_each_other_is_one_run() {
    let repo = Repo::serving("batch-mean", None);
    let server = Server::start(repo.path(), &[]);
    let count = 3000;
    let rows: Vec<Value> =
        (0..count).map(|i| json!({"cpu_zscore": if i < 1500 { 10 } else { 0 }, "memory_zscore": 0})).collect();
    let answers = server.predict(&json!(rows));
    let score = |logit: f64| 1.0 / (1.0 + (-logit).exp());
    for (i, expected) in [(0, score(4.0 - 4.0)), (count - 1, score(-4.0 - 4.0))] {
        let got = answers[i]["score"].as_f64().expect("a number");
        assert!((got - expected).abs() < 1e-5, "{got} {expected}");
    }
    let runs = server.metric("onnxd_inference_runs_total{model=\"anomaly\",role=\"champion\"} ");
    assert_eq!(runs, Some(1.0));
}

/// They need not be as many as a run has rows.
#[test]
fn golden_samples_prove_a_fixed_number_of_rows() {
    let onnx = fs::read(fixture("exports/four-rows.onnx")).expect("a fixture");
    for count in [1, 5] {
        let repo = Repo::new();
        repo.install(1, "good");
        fs::write(repo.version(1).join("model.onnx"), &onnx).expect("a file");
        let sample = |k: i32| json!({"input": {"x": [2 * k, 0, 0]}, "expected": {"y": [k, 2 * k], "best": 1}});
        repo.edit(1, |manifest| {
            manifest["artifact"]["sha256"] = json!(onnxd::source::sha256(&onnx));
            manifest["artifact"]["bytes"] = json!(onnx.len());
            let x = json!({"name": "x", "dtype": "float32", "shape": [4, 3]});
            let y = json!({"name": "y", "dtype": "float32", "shape": [4, 2]});
            let best = json!({"name": "best", "dtype": "int64", "shape": [4]});
            manifest["signature"] = json!({"layout": "packed", "inputs": [x], "outputs": [y, best]});
            manifest["outputs_semantics"] = json!({});
            manifest["golden"] = json!({"samples": (1..=count).map(sample).collect::<Vec<_>>()});
        });
        repo.point(1, None);
        let server = Server::start(repo.path(), &[]);
        let status = server.model_status("anomaly");
        assert_eq!(status["champion"]["profile"]["rows"], json!({"fixed": 4}), "{status}");
        assert_eq!(server.predict(&json!({"x": [6, 0, 0]})), json!({"y": [3.0, 6.0], "best": 1}));
    }
}
