//! A repository in S3 when all is well: one key promotes, an unchanged one costs nothing, and two cannot promote at once.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime};

use common::http::{self, Load, Reply};
use common::proxy::{Fault, Proxy};
use common::repo::{fixture, row, serves, settled};
use common::s3::{Bucket, ENVIRONMENT};
use common::s3repo::S3Repo;
use common::{PATIENCE, Server, resident, root, wait_for};
use serde_json::{Value, json};
use tempfile::TempDir;

const POINTER: &str = "/anomaly/aliases.json";

fn source(server: &Server) -> Value {
    server.ops("/status").json()["source"].clone()
}

/// `aliases.json` as it is in the bucket.
fn pointer(bucket: &Bucket) -> Value {
    serde_json::from_slice(&bucket.get("anomaly/aliases.json").expect("a pointer")).expect("JSON")
}

/// Two replicas, and a promotion written by hand: one conditional PUT. Each replica sees it at its next poll, and no request
/// fails or is answered by something else.
#[test]
fn one_key_promotes_on_every_replica_within_a_poll_interval() {
    let repo = S3Repo::serving("good", None);
    repo.install(2, "other");
    let more = ["--models", "anomaly", "--poll-interval", "1s"];
    let first = repo.serve(&more);
    let (proxy, cache) = (Proxy::start(repo.bucket.s3.address()), TempDir::new().expect("a folder"));
    let cache = cache.path().to_str().expect("text");
    let elsewhere = repo.args(&proxy.endpoint(), &[&["--cache", cache], more.as_slice()].concat()).join("\n");
    let second = Server::start(repo.bucket.url().as_ref(), &elsewhere.lines().collect::<Vec<_>>());
    let load = |server: &Server| {
        Load::start(
            server.http,
            2,
            |turn| row(turn).to_string(),
            |_, reply| match reply.status {
                200 if ["1", "2"].contains(&reply.header("x-model-version")) => Ok(()),
                other => Err(format!("{other}: {}", reply.text())),
            },
        )
    };
    let loads = [load(&first), load(&second)];
    for version in [2, 1, 2] {
        for proxy in [&repo.proxy, &proxy] {
            proxy.clear();
        }
        let old = repo.bucket.etag("anomaly/aliases.json").expect("a pointer");
        repo.local().point(version, None);
        let written = Instant::now();
        let new = repo.bucket.put_if_match("anomaly/aliases.json", repo.aliases(), &old).expect("nobody else wrote");
        assert_ne!(old, new);
        for (server, proxy) in [(&first, &repo.proxy), (&second, &proxy)] {
            wait_for("the new version", || {
                let reply = server.post("/predict", &row(1).to_string());
                (reply.header("x-model-version") == version.to_string()).then_some(())
            });
            // The first poll after the write sees it, whatever the interval is.
            let polls = proxy.requests_for(POINTER);
            let first = polls.iter().find(|s| s.at >= written).expect("a poll");
            assert_eq!(first.status, 200, "{polls:?}");
        }
        assert_eq!(repo.bucket.put_if_match("anomaly/aliases.json", "late", &old), Err(412));
    }
    for load in loads {
        let (answered, problems) = load.finish();
        assert!(problems.is_empty() && answered > 100, "{answered}: {problems:?}");
    }
    // Version 1 was in memory: going back fetched no model.
    assert_eq!(repo.proxy.requests_for("1/model.onnx").len() + proxy.requests_for("1/model.onnx").len(), 0);
}

#[test]
fn an_unchanged_pointer_costs_one_empty_answer_a_poll() {
    let repo = S3Repo::serving("good", Some("other"));
    let named = repo.serve(&["--models", "anomaly"]);
    let unchanged = "onnxd_source_polls_total{source=\"s3\",outcome=\"unchanged\"}";
    let quiet = wait_for("a quiet poll", || named.metric(unchanged).filter(|n| *n > 0.0));
    repo.proxy.clear();
    let begin = Instant::now();
    wait_for("20 polls", || (repo.proxy.requests_for(POINTER).len() >= 20).then_some(()));
    // The interval is shortened by up to a fifth, never lengthened.
    assert!(begin.elapsed() > Duration::from_millis(1400), "{:?}", begin.elapsed());
    let requests = repo.proxy.requests();
    for seen in requests.iter().filter(|seen| seen.status != 0) {
        assert_eq!((seen.method.as_str(), seen.status, seen.sent), ("GET", 304, 0), "{seen:?}");
        assert!(seen.path.ends_with(POINTER) && seen.if_none_match.is_some(), "{seen:?}");
    }
    let status = source(&named);
    assert_eq!((&status["kind"], &status["error"], &status["from_cache"]), (&json!("s3"), &json!(null), &json!(false)));
    let age = onnxd::swap::unix(SystemTime::now()) - status["read_at"].as_f64().expect("a time");
    assert!((-1.0..5.0).contains(&age), "{age} seconds");
    assert!(named.metric(unchanged).is_some_and(|n| n > quiet));
    drop(named);
    // Without names the list is asked for at the start, and then once a minute.
    repo.proxy.clear();
    let listing = repo.serve(&[]);
    wait_for("20 polls", || (repo.proxy.requests_for(POINTER).len() >= 20).then_some(()));
    assert_eq!(repo.proxy.requests().iter().filter(|seen| seen.is_list()).count(), 1);
    listing.predict(&row(1));
}

/// Version folders without `aliases.json`, and what lies around in buckets.
#[test]
fn a_bare_tree_serves_the_highest_complete_number() {
    let repo = S3Repo::new();
    let put = |key: &str, name: &str| {
        repo.bucket.put(key, fs::read(fixture(name).join("model.onnx")).expect("a fixture"));
    };
    put("anomaly/1/model.onnx", "good");
    put("anomaly/2/model.onnx", "other");
    // Folders made by consoles, versions without a model, names that are none.
    for key in [
        "",
        "anomaly/",
        "anomaly/3/",
        "anomaly/4/readme.txt",
        "anomaly/x/model.onnx",
        "note.txt",
        ".hidden/1/model.onnx",
    ] {
        repo.bucket.put(key, "");
    }
    put("second/1/model.onnx", "good");
    let token = token();
    let server = repo.serve(&["--default-model", "anomaly", "--admin-token-file", text(&token)]);
    let reply = wait_for("both models", || {
        let ask = |path: &str| server.post(path, r#"{"features": [3, 1, 0, 50, 10]}"#);
        let (one, two) = (ask("/models/anomaly/predict"), ask("/models/second/predict"));
        (one.status == 200 && two.status == 200).then_some((one, two))
    });
    assert_eq!((reply.0.header("x-model-version"), reply.1.header("x-model-version")), ("2", "1"));
    assert_ne!(reply.0.json()["score"], reply.1.json()["score"]);
    put("anomaly/10/model.onnx", "good");
    assert_eq!(admin(&server, "reload", Some(SECRET)).status, 200);
    serves(&server, 10);
    assert_eq!(server.ops("/status").json()["models"].as_array().map(Vec::len), Some(2));
}

const SECRET: &str = "a-secret-of-the-test";

/// A file with the token, as an editor writes it.
fn token() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), format!("{SECRET}\n")).expect("written");
    file
}

fn text(file: &tempfile::NamedTempFile) -> &str {
    file.path().to_str().expect("text")
}

fn admin(server: &Server, what: &str, token: Option<&str>) -> Reply {
    let value = token.map(|token| format!("Bearer {token}"));
    let headers: Vec<_> = value.iter().map(|value| ("authorization", value.as_str())).collect();
    http::request(server.ops, "POST", &format!("/models/anomaly/{what}"), &headers, b"")
}

#[test]
fn the_operations_port_changes_things_only_with_the_token() {
    let repo = S3Repo::serving("good", Some("other"));
    let before = repo.bucket.get("anomaly/aliases.json");
    let closed = repo.serve(&["--models", "anomaly"]);
    let token = token();
    let open = repo.serve(&["--models", "anomaly", "--poll-interval", "1h", "--admin-token-file", text(&token)]);
    for what in ["reload", "promote", "rollback"] {
        assert_eq!(admin(&closed, what, None).status, 403, "{what}");
        assert_eq!(admin(&closed, what, Some(SECRET)).status, 403, "{what}");
        for wrong in [None, Some(""), Some("a-secret-of-the-tes"), Some("a-secret-of-the-test2")] {
            let reply = admin(&open, what, wrong);
            assert_eq!(reply.status, 401, "{what} {wrong:?}");
            assert!(reply.json()["error"].is_string(), "{}", reply.text());
        }
        let data = http::request(open.http, "POST", &format!("/models/anomaly/{what}"), &[], b"");
        assert!(matches!(data.status, 404 | 405), "{what}: {}", data.status);
    }
    assert_eq!(repo.bucket.get("anomaly/aliases.json"), before);
    // Written by hand, seen at once though nothing polls.
    repo.point(2, Some(1));
    let reply = admin(&open, "reload", Some(SECRET));
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.json()["name"], json!("anomaly"), "{}", reply.text());
    serves(&open, 2);
    // Promote: the challenger becomes champion, in the bucket and so everywhere.
    let reply = admin(&open, "promote", Some(SECRET));
    assert_eq!(reply.status, 200, "{}", reply.text());
    serves(&open, 1);
    serves(&closed, 1);
    assert_eq!(pointer(&repo.bucket)["champion"], json!("1"));
    assert_eq!(admin(&open, "rollback", Some(SECRET)).status, 200);
    serves(&open, 2);
    serves(&closed, 2);
    assert!(!open.log().contains(SECRET));
}

fn order(server: &Server, what: &str, body: &Value) -> Reply {
    let (path, token) = (format!("/models/anomaly/{what}"), format!("Bearer {SECRET}"));
    http::request(server.ops, "POST", &path, &[("authorization", &token)], body.to_string().as_bytes())
}

#[test]
fn admin_calls_count_what_they_change() {
    let repo = S3Repo::serving("good", None);
    repo.install(2, "other");
    let token = token();
    let server = repo.serve(&["--models", "anomaly", "--admin-token-file", text(&token)]);
    let promoted = || server.metric("onnxd_promotions_total{model=\"anomaly\",outcome=\"promoted\"}");
    // People write numbers.
    for (version, changed) in [(json!(2), true), (json!("2"), false), (json!(2), false)] {
        let reply = order(&server, "promote", &json!({"version": version}));
        assert_eq!((reply.status, &reply.json()["changed"]), (200, &json!(changed)), "{}", reply.text());
        assert_eq!(reply.json()["record"].is_object(), changed, "{}", reply.text());
        assert_eq!(promoted(), Some(1.0));
    }
    let lines = server.log().lines().filter(|line| line.contains("aliases.json was changed by an admin call")).count();
    assert_eq!(lines, 1);
    for wrong in [json!(-1), json!(1.5), json!(["2"]), json!(true)] {
        let reply = order(&server, "promote", &json!({"version": wrong}));
        assert!(reply.status == 400 && reply.text().contains("positive whole number"), "{}", reply.text());
    }
    assert_eq!(order(&server, "promote", &json!({"version": 0})).status, 422);
    serves(&server, 2);
}

/// An S3 server that hangs keeps a few calls waiting; the others are refused, and health and metrics answer.
#[test]
fn admin_calls_that_hang_leave_room() {
    let repo = S3Repo::serving("good", None);
    repo.install(2, "other");
    let token = token();
    let server = repo.serve(&["--models", "anomaly", "--admin-token-file", text(&token)]);
    repo.proxy.set_for("/anomaly/2/manifest.json", Fault::Hang);
    let (sender, replies) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..7 {
            let (sender, server) = (sender.clone(), &server);
            scope.spawn(move || sender.send(order(server, "promote", &json!({"version": 2}))));
        }
        for _ in 0..3 {
            let reply = replies.recv_timeout(PATIENCE).expect("a refusal");
            assert_eq!(reply.status, 503, "{}", reply.text());
        }
        assert_eq!((server.ops("/readyz").status, server.ops("/metrics").status), (200, 200));
        assert!(replies.try_recv().is_err(), "four wait");
        repo.proxy.set(Fault::None);
        for _ in 0..4 {
            let reply = replies.recv_timeout(PATIENCE).expect("an answer");
            assert_ne!(reply.status, 503, "{}", reply.text());
        }
    });
    // And there is room again.
    assert_eq!(order(&server, "promote", &json!({"version": 2})).status, 200);
    serves(&server, 2);
}

/// `onnxd` on the repository in the bucket.
fn onnxd(repo: &S3Repo, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_onnxd"));
    command.args(args).args(["--repository", &repo.bucket.url(), "--s3-endpoint", &repo.proxy.endpoint()]);
    command.envs(ENVIRONMENT).current_dir(root()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn ran(repo: &S3Repo, args: &[&str]) -> Output {
    onnxd(repo, args).output().expect("it runs")
}

#[track_caller]
fn done(repo: &S3Repo, args: &[&str]) -> Value {
    let output = ran(repo, args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

/// From nothing to a champion, a challenger, a promotion and back, by the commands alone.
#[test]
fn the_commands_fill_and_move_a_repository() {
    let repo = S3Repo::new();
    let (good, other) = (fixture("good/model.onnx"), fixture("other/model.onnx"));
    let (good, other) = (good.to_str().expect("text"), other.to_str().expect("text"));
    let push = ["push", good, "--model", "anomaly", "--as", "champion", "--by", "ann", "--reason", "the first one"];
    let planned = done(&repo, &[push.as_slice(), &["--dry-run", "--json"]].concat());
    assert!(planned.is_object(), "{planned}");
    assert_eq!(repo.bucket.list(""), Vec::<String>::new(), "a dry run writes nothing");
    done(&repo, &push);
    let first = pointer(&repo.bucket);
    assert_eq!(
        (&first["champion"], &first["by"], &first["reason"]),
        (&json!("1"), &json!("ann"), &json!("the first one"))
    );
    let epoch = first["epoch"].as_u64().expect("a number");
    let server = repo.serve(&["--models", "anomaly"]);
    let answer = || server.predict(&row(3));
    let champion = answer();

    done(&repo, &["push", other, "--model", "anomaly", "--as", "challenger"]);
    let second = pointer(&repo.bucket);
    assert_eq!((&second["champion"], &second["challengers"]), (&json!("1"), &json!(["2"])));
    settled(&server, second["epoch"].as_u64().expect("a number"));
    assert_eq!(answer(), champion);

    done(&repo, &["promote", "--model", "anomaly"]);
    let third = pointer(&repo.bucket);
    assert_eq!((&third["champion"], &third["previous"]), (&json!("2"), &json!("1")));
    serves(&server, 2);
    assert_ne!(answer(), champion);

    done(&repo, &["rollback", "--model", "anomaly"]);
    serves(&server, 1);
    assert_eq!(answer(), champion);
    done(&repo, &["promote", "--model", "anomaly", "2"]);
    done(&repo, &["rollback", "--model", "anomaly", "--to", "1"]);
    let last = pointer(&repo.bucket);
    assert_eq!((last["champion"].as_str(), last["epoch"].as_u64()), (Some("1"), Some(epoch + 5)));
    let ledger = repo.bucket.list("anomaly/ledger/");
    assert_eq!(ledger.len(), 6, "one record for each change: {ledger:?}");
    let status = done(&repo, &["status", "--json"]);
    assert!(status.to_string().contains("\"anomaly\""), "{status}");
    // A version that is not there is refused, and so is a file that is no model.
    for args in [
        &["promote", "--model", "anomaly", "7"][..],
        &["rollback", "--model", "anomaly", "--to", "7"],
        &["promote", "--model", "nobody"],
        &["push", "server/Cargo.toml", "--model", "anomaly"],
        &["push", good, "--model", "../anomaly"],
    ] {
        let output = ran(&repo, args);
        assert!(!output.status.success() && output.status.code() != Some(3), "{args:?}");
        assert!(!output.stderr.is_empty(), "{args:?}");
    }
    assert_eq!(pointer(&repo.bucket), last);
}

fn repo_champion(bucket: &Bucket) -> String {
    pointer(bucket)["champion"].as_str().expect("a version").into()
}

/// Ten times two promotions at once: each that says it won did, each that lost says who won, and nothing is overwritten.
#[test]
fn of_two_promoters_at_once_exactly_one_wins() {
    let repo = S3Repo::serving("good", None);
    repo.install(2, "other");
    repo.install(3, "good");
    repo.point(1, Some(2));
    // Both have read the pointer before one of them can write.
    repo.proxy.set_for(POINTER, Fault::Slow(repo.aliases().len() * 3));
    let mut contended = 0;
    for round in 0..10 {
        let before = pointer(&repo.bucket)["epoch"].as_u64().expect("a number");
        // The two that are not champion now.
        let present = repo_champion(&repo.bucket);
        let mut others = ["1", "2", "3"].into_iter().filter(|version| *version != present);
        let promoters = ["ann", "ben"].map(|by| {
            let version = others.next().expect("two are left");
            let mut command = onnxd(&repo, &["promote", "--model", "anomaly", version, "--by", by, "--json"]);
            (by, version, command.spawn().expect("it runs"))
        });
        let outcomes = promoters.map(|(by, version, child)| (by, version, child.wait_with_output().expect("it ends")));
        let after = pointer(&repo.bucket);
        // Whoever comes after the other, and asks for what is so already, changes nothing.
        let has_changed = |output: &Output| {
            serde_json::from_slice::<Value>(&output.stdout).is_ok_and(|said| said["changed"] == json!(true))
        };
        let won = outcomes.iter().filter(|(_, _, output)| has_changed(output)).count() as u64;
        assert_eq!(after["epoch"].as_u64(), Some(before + won), "round {round}: {outcomes:?}");
        assert!(won >= 1, "round {round}: {outcomes:?}");
        let winner = after["by"].as_str().expect("a name");
        for (by, version, output) in &outcomes {
            let said = String::from_utf8_lossy(&output.stderr);
            if !output.status.success() {
                contended += 1;
                assert_eq!(output.status.code(), Some(3), "round {round}: {said}");
                assert!(said.contains(winner), "round {round}: {winner} is not named: {said}");
            } else if has_changed(output) {
                assert!(won == 2 || (after["champion"] == **version && winner == *by), "round {round}: {after}");
            }
        }
    }
    assert!(contended >= 5, "only {contended} of 10 rounds met");
}

/// A replica that was frozen through several promotions takes the last one and skips those between.
#[test]
fn a_replica_that_was_away_takes_the_last_promotion() {
    let repo = S3Repo::serving("good", None);
    for version in 2..=5 {
        repo.install(version, if version % 2 == 0 { "other" } else { "good" });
    }
    let server = repo.serve(&["--models", "anomaly"]);
    let cache = TempDir::new().expect("a folder");
    let stays = repo.serve(&["--models", "anomaly", "--cache", cache.path().to_str().expect("text")]);
    server.signal("STOP");
    for version in 2..=5 {
        let epoch = repo.point(version, None);
        settled(&stays, epoch);
    }
    drop(stays);
    repo.proxy.clear();
    server.signal("CONT");
    let status = serves(&server, 5);
    assert_eq!((&status["epoch"], &status["previous"]["version"]), (&json!(5), &json!("1")));
    for version in 2..=4 {
        assert_eq!(repo.proxy.requests_for(&format!("{version}/manifest.json")).len(), 0, "version {version}");
    }
}

/// Polls with errors and promotions between them, as reloads, which are polls at once. Nothing grows.
fn polls_leak_nothing(polls: usize) {
    let repo = S3Repo::serving("good", None);
    repo.install(2, "other");
    let token = token();
    let server = repo.serve(&["--models", "anomaly", "--admin-token-file", text(&token)]);
    let open = || fs::read_dir(Path::new("/proc").join(server.pid().to_string()).join("fd")).map_or(0, Iterator::count);
    // Kilobytes, open files and threads.
    let mut measured = vec![];
    for poll in 1..=polls {
        match poll % 100 {
            10 => drop(repo.point(2, None)),
            30 => drop(repo.point(1, Some(2))),
            50 => repo.proxy.set(Fault::Refuse),
            53 => repo.proxy.set(Fault::Status(503, "SlowDown")),
            56 => repo.proxy.set(Fault::None),
            _ => {}
        }
        let reply = admin(&server, "reload", Some(SECRET));
        assert!(matches!(reply.status, 200 | 502 | 503), "{}: {}", reply.status, reply.text());
        if poll % (polls / 10) == 0 {
            let threads = server.metric("process_threads").expect("a series");
            measured.push((resident(server.pid()) >> 10, open(), threads as usize));
        }
    }
    let (early, late) = (measured[measured.len() / 3], measured[measured.len() - 1]);
    assert!(late.0 < early.0 + (10 << 10), "{measured:?}");
    assert!(late.1 < early.1 + 10 && late.2 < early.2 + 5, "{measured:?}");
    server.predict(&row(1));
}

#[test]
fn two_thousand_polls_leak_nothing() {
    polls_leak_nothing(2_000);
}

#[test]
#[ignore = "takes a minute: cargo test --test s3 -- --ignored"]
fn ten_thousand_polls_leak_nothing() {
    polls_leak_nothing(10_000);
}
