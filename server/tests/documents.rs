//! What people read: help, documents and metric names are golden files. `EXPECTORATE=overwrite` writes them anew.

mod common;

use std::process::Command;

use common::repo::Repo;
use common::{Server, root, wait_for};
use onnxd::metrics::{self, Kind};
use serde_json::json;

fn onnxd(args: &[&str]) -> (String, String, Option<i32>) {
    let output = Command::new(env!("CARGO_BIN_EXE_onnxd"))
        .args(args)
        .env("COLUMNS", "120")
        .env_remove("ONNXD_WORKERS")
        .output()
        .expect("the program runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (text(output.stdout), text(output.stderr), output.status.code())
}

#[test]
fn help_is_as_written() {
    expectorate::assert_contents("tests/golden/help.txt", &onnxd(&["--help"]).0);
    expectorate::assert_contents("tests/golden/serve-help.txt", &onnxd(&["serve", "--help"]).0);
}

#[test]
fn configuration_md_is_current() {
    expectorate::assert_contents("../docs/configuration.md", &onnxd::config::settings::markdown());
}

#[test]
fn metrics_md_is_current() {
    expectorate::assert_contents("../docs/metrics.md", &metrics::markdown());
}

/// Every metric that the documents name is there after some traffic, with help and type, and no other is.
#[test]
fn the_metrics_page_holds_what_is_documented() {
    let repo = Repo::serving("good", Some("other"));
    let server = Server::start(repo.path(), &["--queue-rows", "1", "--workers", "1"]);
    for cpu in 0..10 {
        server.predict(&json!({"cpu_zscore": cpu, "memory_zscore": 1}));
    }
    wait_for("pairs", || (server.shadow()["pairs"].as_u64()? == 10).then_some(()));
    let page = server.ops("/metrics").text();
    for metric in metrics::ALL {
        // Only a refusal makes this series, see overload.rs.
        if metric.name == "onnxd_rejected_total" {
            continue;
        }
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram(_) => "histogram",
        };
        assert!(
            page.contains(&format!("# TYPE {} {kind}\n", metric.name)),
            "{} is no {kind} on the page:\n{page}",
            metric.name
        );
        assert!(page.contains(&format!("# HELP {} {}\n", metric.name, metric.help)), "{}", metric.name);
    }
    let known = |name: &str| {
        metrics::ALL.iter().any(|m| {
            name == m.name || ["_bucket", "_sum", "_count"].iter().any(|s| name.strip_suffix(s) == Some(m.name))
        })
    };
    for line in page.lines().filter(|l| !l.starts_with('#') && !l.is_empty()) {
        let name = line.split(['{', ' ']).next().expect("a name");
        assert!(known(name), "{line} is not documented");
    }
    // Names that clients make up do not become series.
    for i in 0..50 {
        server.post(&format!("/models/made-up-{i}/predict"), "{}");
        server.post(&format!("/made-up-{i}"), "{}");
    }
    assert!(!server.ops("/metrics").text().contains("made-up"));
}

#[test]
fn mistakes_are_one_sentence_each() {
    let mistake = |args: &[&str]| {
        let (_, stderr, code) = onnxd(args);
        (stderr.trim_end().to_owned(), code)
    };
    let (text, code) = mistake(&["serve", "--workers", "none", "--body-limit", "big"]);
    assert_eq!(code, Some(2));
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(text.contains("workers is \"none\" (flag): it must be a whole number above 0"), "{text}");
    let (text, code) = mistake(&["serve", "/nowhere"]);
    assert_eq!(code, Some(1));
    assert!(text.lines().last().expect("a line").contains("name a model repository or an .onnx file"), "{text}");
    let models = root().join("models/anomaly");
    let (text, _) = mistake(&["serve", models.to_str().expect("UTF-8")]);
    assert!(text.contains("is the folder of one model: serve the repository around it"), "{text}");
    let (text, _) = mistake(&[
        "serve",
        root().join("models").to_str().expect("UTF-8"),
        "--onnxruntime",
        "/nowhere.so",
        "--http",
        "127.0.0.1:0",
        "--grpc",
        "off",
        "--ops",
        "off",
    ]);
    assert!(text.contains("--onnxruntime /nowhere.so: there is no such file"), "{text}");
    let (text, code) = mistake(&["probe"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("this command is started by `onnxd serve`"), "{text}");
}

#[test]
fn the_configuration_is_printed_with_its_origins() {
    let (stdout, _, code) = onnxd(&["serve", "--workers", "3", "--print-config"]);
    assert_eq!(code, Some(0));
    let line = |name: &str| stdout.lines().find(|l| l.starts_with(name)).expect("a line").to_owned();
    assert!(line("workers").contains("\"3\"") && line("workers").ends_with("# flag"), "{}", line("workers"));
    assert!(line("http ").ends_with("# default"));
}
