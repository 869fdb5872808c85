//! `--providers`: what the library lacks is told once, in the log and in `/status`, and the CPU serves in its place.

mod common;

use common::repo::{Repo, row};
use common::{Server, onnxd};
use serde_json::{Value, json};

/// The library of the tests has the CPU alone.
#[test]
fn what_the_library_lacks_is_told_and_the_cpu_serves() {
    let repo = Repo::serving("good", Some("other"));
    let usual = Server::start(repo.path(), &[]);
    let server = Server::start(repo.path(), &["--providers", "tensorrt,cuda,cpu"]);

    assert_eq!(usual.ops("/status").json()["providers"], json!({"asked": ["cpu"], "used": ["cpu"], "unused": {}}));
    let told = server.ops("/status").json()["providers"].clone();
    assert_eq!((&told["asked"], &told["used"]), (&json!(["tensorrt", "cuda", "cpu"]), &json!(["cpu"])), "{told}");
    let reason = told["unused"]["cuda"].as_str().expect("a reason");
    let library = server.library();
    assert!(reason.starts_with(&format!("{} was built without cuda, it has cpu: ", library.display())), "{reason}");
    assert!(reason.ends_with("--onnxruntime (pip install 'onnxruntime-gpu>=1.31')"), "{reason}");
    assert!(told["unused"]["tensorrt"].is_string(), "{told}");

    // Once for each of them, whatever the number of sessions; the usual server has nothing to say.
    for (server, providers, warned) in [(&server, "tensorrt,cuda,cpu", 2), (&usual, "cpu", 0)] {
        let log = server.log();
        let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let warnings: Vec<&Value> = lines.iter().filter(|line| line["level"] == "WARN").collect();
        assert_eq!(warnings.len(), warned, "{log}");
        let are_whole =
            warnings.iter().all(|line| line["reason"] == told["unused"][line["provider"].as_str().unwrap_or("")]);
        assert!(are_whole, "{log}");
        assert!(lines.iter().any(|line| line["providers"] == providers), "{log}");
    }

    let bits =
        |server: &Server| (0..8).map(|i| server.post("/predict", &row(i).to_string()).text()).collect::<Vec<_>>();
    assert_eq!(bits(&server), bits(&usual));
}

#[test]
fn a_measurement_says_what_it_ran_on() {
    let repo = Repo::serving("good", None);
    let path = repo.path().to_str().expect("UTF-8");
    let args = ["bench", path, "--providers", "cuda", "--seconds", "1", "--only", "alone", "--json"];
    let (code, out, errors) = onnxd(&args);
    assert_eq!((code, errors.as_str()), (0, ""), "{out}");
    let report: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(report["machine"]["providers"], json!(["cpu"]));
    let warning = report["warnings"][0].as_str().expect("a warning");
    assert!(
        warning.starts_with("without the execution provider cuda: ") && warning.contains("onnxruntime-gpu"),
        "{warning}"
    );
}

#[test]
fn an_unknown_name_is_refused_with_those_that_are_known() {
    for wrong in ["gpu,cpu", "cuda,cuda", "cpu,cuda"] {
        let (code, _, errors) = onnxd(&["serve", "models", "--providers", wrong]);
        assert_eq!(code, 2);
        let told = format!(
            "onnxd: providers is {wrong:?} (flag): it must be names of cpu, cuda, tensorrt, openvino, migraphx, coreml with \
             commas between, the preferred first, each once, cpu last\n"
        );
        assert_eq!(errors, told);
    }
}
