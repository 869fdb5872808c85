//! Models that must never serve: whatever is wrong with them, what serves goes on and the reason is told.

mod common;

use std::fs;

use common::repo::{Repo, fixture, row, serves, settled};
use common::s3repo::S3Repo;
use common::{Server, wait_for};
use serde_json::json;

/// What a hostile or broken candidate looks like, and what the server says of it.
#[test]
fn a_bad_model_never_serves_and_the_reason_is_told() {
    let repo = Repo::serving("good", None);
    let server = Server::start(repo.path(), &["--probe-timeout", "5s", "--probe-memory", "2GiB"]);
    let before = server.predict(&row(3));
    let write =
        |version: u32, bytes: &[u8]| fs::write(repo.version(version).join("model.onnx"), bytes).expect("a file");
    // A model file whose manifest is right about it, so that only the model itself can be at fault.
    let replaced = |version: u32, bytes: &[u8]| {
        repo.install(version, "good");
        write(version, bytes);
        repo.edit(version, |manifest| {
            manifest["artifact"]["sha256"] = json!(onnxd::source::sha256(bytes));
            manifest["artifact"]["bytes"] = json!(bytes.len().max(1));
        });
    };
    let good = fs::read(fixture("good/model.onnx")).expect("a fixture");
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    type Case<'a> = (&'a str, &'a str, &'a str, Box<dyn Fn(u32) + 'a>);
    let cases: Vec<Case<'_>> = vec![
        (
            "flipped bit",
            "verify",
            "SHA-256",
            Box::new(|v| {
                repo.install(v, "good");
                write(v, &flipped);
            }),
        ),
        (
            "truncated",
            "verify",
            "bytes, the manifest says",
            Box::new(|v| {
                repo.install(v, "good");
                write(v, &good[..good.len() / 2]);
            }),
        ),
        ("truncated, with a manifest that agrees", "", "", Box::new(|v| replaced(v, &good[..good.len() / 2]))),
        ("a web page", "verify", "is a web page", Box::new(|v| replaced(v, b"<!DOCTYPE html><html></html>"))),
        (
            "a Git LFS pointer",
            "verify",
            "Git LFS pointer",
            Box::new(|v| {
                replaced(v, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n");
            }),
        ),
        ("gzip", "verify", "gzip", Box::new(|v| replaced(v, &[0x1f, 0x8b, 8, 0, 0]))),
        (
            "no model file",
            "fetch",
            "No such file",
            Box::new(|v| {
                repo.install(v, "good");
                fs::remove_file(repo.version(v).join("model.onnx")).expect("a file");
            }),
        ),
        (
            "a manifest of another version",
            "verify",
            "is of anomaly version 99",
            Box::new(|v| {
                repo.install(v, "good");
                repo.edit(v, |manifest| manifest["version"] = json!("99"));
            }),
        ),
        (
            "a manifest with an unknown key",
            "verify",
            "unknown field",
            Box::new(|v| {
                repo.install(v, "good");
                repo.edit(v, |manifest| manifest["x"] = json!(1));
            }),
        ),
        (
            "a path out of the folder",
            "verify",
            "plain file name",
            Box::new(|v| {
                repo.install(v, "good");
                repo.edit(v, |manifest| manifest["artifact"]["path"] = json!("../1/model.onnx"));
            }),
        ),
        (
            "a link out of the repository",
            "fetch",
            "outside the repository",
            Box::new(|v| {
                repo.install(v, "good");
                fs::remove_file(repo.version(v).join("model.onnx")).expect("a file");
                std::os::unix::fs::symlink(fixture("good/model.onnx"), repo.version(v).join("model.onnx"))
                    .expect("a link");
            }),
        ),
        (
            "a FIFO",
            "fetch",
            "not a regular file",
            Box::new(|v| {
                repo.install(v, "good");
                let path = repo.version(v).join("model.onnx");
                fs::remove_file(&path).expect("a file");
                assert!(std::process::Command::new("mkfifo").arg(path).status().expect("mkfifo").success());
            }),
        ),
        ("weights that are not there", "fetch", "weights.bin: No such file", Box::new(|v| repo.install(v, "external"))),
        ("renamed input", "verify", "input", Box::new(|v| repo.install(v, "renamed"))),
        ("retyped input", "verify", "float64", Box::new(|v| repo.install(v, "retyped"))),
        ("a missing output", "verify", "no output \"forecast\"", Box::new(|v| repo.install(v, "fewer-outputs"))),
        ("a new required feature", "verify", "requires \"gpu_zscore\"", Box::new(|v| repo.install(v, "needs-more"))),
        ("wrong golden answers", "golden", "the manifest expects", Box::new(|v| repo.install(v, "wrong-golden"))),
        ("NaN", "golden", "not finite", Box::new(|v| repo.install(v, "nan"))),
        ("always fails", "golden", "golden sample 0", Box::new(|v| repo.install(v, "fails"))),
        ("kills the process", "verify", "could kill the process", Box::new(|v| repo.install(v, "crash"))),
        (
            "a request could kill the process",
            "verify",
            "could kill the process",
            Box::new(|v| repo.install(v, "crash-on-request")),
        ),
        ("never ends", "", "", Box::new(|v| repo.install(v, "hang"))),
        ("eats all memory", "", "", Box::new(|v| repo.install(v, "hungry"))),
    ];
    let mut rejections = 0;
    for (i, (name, stage, reason, make)) in cases.iter().enumerate() {
        let version = 10 + u32::try_from(i).expect("small");
        make(version);
        for as_champion in [true, false] {
            let epoch = if as_champion { repo.point(version, None) } else { repo.point(1, Some(version)) };
            let status = settled(&server, epoch);
            let rejected = &status["rejected"][0];
            let told = rejected["reason"].as_str().unwrap_or_default();
            // A champion is compared with the one before; a challenger with the one it would shadow: other words.
            if as_champion || *stage != "verify" {
                assert!(rejected["stage"] == json!(stage) || stage.is_empty(), "{name}: {rejected}");
                assert!(told.contains(reason), "{name}: {rejected}");
            }
            assert!(!told.is_empty(), "{name}");
            assert_eq!(rejected["role"], json!(if as_champion { "champion" } else { "challenger" }), "{name}");
            assert_eq!(status["champion"]["version"], json!("1"), "{name}");
            assert_eq!(status["challengers"], json!([]), "{name}");
            assert_eq!(server.predict(&row(3)), before, "{name}");
            rejections += 1;
        }
    }
    let page = server.ops("/metrics").text();
    let counted: f64 = page
        .lines()
        .filter(|l| l.starts_with("onnxd_model_swaps_total{") && l.contains("outcome=\"rejected\""))
        .filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok())
        .sum();
    assert!(counted >= f64::from(rejections), "{counted} of {rejections}");
    let log = server.log();
    let lines = log.lines().filter(|l| l.contains("a model was refused")).count();
    assert!(lines >= cases.len() * 2, "{lines} lines for {} refusals", cases.len() * 2);
    // And the way is still open for a good one.
    repo.install(99, "other");
    let status = settled(&server, repo.point(99, Some(1)));
    assert_eq!((&status["champion"]["version"], &status["challengers"][0]["version"]), (&json!("99"), &json!("1")));
    assert_eq!(status["previous"]["version"], json!("1"));
}

/// What server and candidate use together is bounded: where a container has more, all of its processes end.
#[cfg(target_os = "linux")]
#[test]
fn a_candidate_may_use_what_memory_is_left() {
    let repo = Repo::serving("good", None);
    repo.install(2, "hungry-little");
    let server = Server::start(repo.path(), &["--memory-limit", "600MiB"]);
    let status = settled(&server, repo.point(2, None));
    assert_eq!(status["champion"]["version"], json!("1"));
    assert_eq!(status["rejected"][0]["version"], json!("2"), "{status}");
    server.predict(&row(3));
    // With more it serves.
    let server = Server::start(repo.path(), &["--memory-limit", "3GiB"]);
    assert_eq!(server.model_status("anomaly")["champion"]["version"], json!("2"));
    // And with too little for any model that is the reason.
    let server = Server::launch(repo.path(), &["--memory-limit", "200MiB"]);
    wait_for("the reason", || server.log().contains("of memory are left").then_some(()));
}

/// A model whose child process dies, of whatever, is refused with the signal's name.
#[cfg(target_os = "linux")]
#[test]
fn a_probe_that_is_killed_costs_the_candidate_only() {
    let repo = Repo::serving("good", None);
    let server = Server::start(repo.path(), &["--probe-timeout", "60s"]);
    repo.install(2, "hang");
    let epoch = repo.point(2, None);
    let child = wait_for("the probe", || {
        fs::read_dir("/proc").ok()?.flatten().find_map(|process| {
            let stat = fs::read_to_string(process.path().join("stat")).ok()?;
            let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse::<u32>().ok()?;
            // Until it runs its own program it looks like the server.
            let words = fs::read_to_string(process.path().join("cmdline")).ok()?;
            let is_probe = parent == server.pid() && words.split('\0').nth(1) == Some("probe");
            is_probe.then(|| process.file_name().to_string_lossy().into_owned())
        })
    });
    // What runs in it gets none of the server's secrets.
    let environment = |process: &str| {
        let text = fs::read_to_string(format!("/proc/{process}/environ")).expect("its environment");
        text.split('\0').filter_map(|pair| Some(pair.split_once('=')?.0.to_owned())).collect::<Vec<_>>()
    };
    assert!(environment(&server.pid().to_string()).iter().any(|name| name == "AWS_SECRET_ACCESS_KEY"));
    let names = environment(&child);
    assert!(names.iter().any(|name| name == "ORT_DISABLE_TELEMETRY"), "{names:?}");
    assert!(!names.iter().any(|name| name.starts_with("AWS_") || name.starts_with("ONNXD_")), "{names:?}");
    let killed = std::process::Command::new("kill").args(["-s", "ABRT", &child]).status().expect("kill runs");
    assert!(killed.success());
    let status = settled(&server, epoch);
    let rejected = &status["rejected"][0];
    assert_eq!(rejected["stage"], json!("probe"));
    assert!(rejected["reason"].as_str().expect("text").contains("by signal 6 (SIGABRT)"), "{rejected}");
    server.predict(&row(3));
}

/// A model that passed its trial, which has one session, may be too large for as many as there are workers.
#[test]
fn sessions_that_do_not_fit_are_not_made() {
    let repo = S3Repo::serving("good", None);
    repo.install_large(2, "good", 60 << 20);
    let arguments = ["--models", "anomaly", "--workers", "8", "--probe-memory", "2GiB", "--memory-limit"];
    let small = repo.serve(&[&arguments[..], &["500MiB"]].concat());
    let status = settled(&small, repo.point(2, None));
    let rejected = &status["rejected"][0];
    assert_eq!((&rejected["stage"], &status["champion"]["version"]), (&json!("load"), &json!("1")), "{status}");
    assert!(rejected["reason"].as_str().is_some_and(|why| why.contains("its sessions need ")), "{rejected}");
    small.predict(&row(1));
    let large = repo.serve(&[&arguments[..], &["8GiB"]].concat());
    serves(&large, 2);
}
