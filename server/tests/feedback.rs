//! Labels: rows say what they are of, `POST /feedback` what was true, and the evidence counts it, over restarts too.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use common::http::{self, Reply};
use common::repo::Repo;
use common::{Server, wait_for};
use onnxd::shadow::state::Passed;
use onnxd::verdict::state::{Label, Source, Target, hash};
use serde_json::{Value, json};
use tempfile::TempDir;

/// How far ahead the forecast looks, in seconds.
const HORIZON: u64 = 300;

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

/// A row on which `good` decides by itself that there is an anomaly, or that there is none.
fn row(anomalous: bool, series: &str, ts: u64) -> Value {
    let z = if anomalous { 40 } else { 0 };
    json!({"cpu_zscore": z, "memory_zscore": 1, "cpu_baseline": 50, "cpu_scale": 10, "series": series, "ts": ts})
}

/// A champion that forecasts `cpu_percent` and was trained on some values of `cpu_zscore`, and a challenger.
fn repository() -> Repo {
    let repo = Repo::new();
    repo.install(1, "good");
    repo.install(2, "other");
    repo.edit(1, |manifest| {
        let forecast = &mut manifest["outputs_semantics"]["forecast"];
        forecast["target_feature"] = json!("cpu_percent");
        forecast["horizon_seconds"] = json!(HORIZON);
        let score = json!({"edges": [0.0, 0.5, 1.0], "p": [0.9, 0.1], "p_missing": 0.0, "n": 1000});
        let cpu = json!({"edges": [-5.0, 0.0, 10.0], "p": [0.5, 0.5], "p_missing": 0.0, "n": 1000});
        manifest["reference"] = json!({"cpu_zscore": cpu, "score": score, "odd": {"edges": [1, 0], "p": [1]}});
    });
    repo.point(1, Some(2));
    repo
}

fn evidence(server: &Server) -> Value {
    server.ops("/models/anomaly/shadow").json()["challengers"][0]["evidence"].clone()
}

fn requests(server: &Server) -> u64 {
    evidence(server)["requests"].as_u64().unwrap_or(0)
}

#[track_caller]
fn accepted(reply: &Reply, count: u64) {
    assert_eq!((reply.status, &reply.json()["accepted"]), (202, &json!(count)), "{}", reply.text());
}

/// What became of labels of a source.
fn outcome(server: &Server, source: &str, outcome: &str) -> f64 {
    let series = format!("onnxd_feedback_total{{model=\"anomaly\",source=\"{source}\",outcome=\"{outcome}\"}}");
    server.metric(&series).unwrap_or_default()
}

#[track_caller]
fn becomes(server: &Server, source: &str, name: &str, count: f64) {
    wait_for(&format!("{count} {name} of {source}"), || (outcome(server, source, name) >= count).then_some(()));
    assert!((outcome(server, source, name) - count).abs() < 0.5);
}

#[test]
fn labels_find_their_rows_by_id_by_time_and_by_window() {
    let repo = repository();
    let server = Server::start(repo.path(), &[]);
    let base = now() - 1200;
    let headers = [("content-type", "application/json"), ("x-request-id", "mine")];
    let rows = json!([row(true, "a", base), row(false, "a", base + 60), row(true, "b", base)]);
    let reply = http::request(server.http, "POST", "/predict", &headers, rows.to_string().as_bytes());
    assert_eq!((reply.status, reply.header("x-request-id")), (200, "mine"));
    let unnamed = server.post("/predict", &row(true, "c", base).to_string());
    let id = unnamed.header("x-request-id").to_owned();
    wait_for("four pairs", || (requests(&server) == 4).then_some(()));

    let by_id = json!({"request_id": "mine", "row": 2, "anomaly": true, "source": "human"});
    accepted(&server.post("/feedback", &by_id.to_string()), 1);
    becomes(&server, "human", "joined", 1.0);
    accepted(&server.post("/models/anomaly/feedback", &by_id.to_string()), 1);
    becomes(&server, "human", "known", 1.0);
    let ours = json!({"request_id": id, "anomaly": true, "source": "human"});
    accepted(&server.post("/feedback", &ours.to_string()), 1);
    becomes(&server, "human", "joined", 2.0);
    let many = json!([
        {"series": "a", "ts": base + 55, "anomaly": false, "source": "incident"},
        {"series": "nobody", "ts": base, "anomaly": false, "source": "incident"},
    ]);
    accepted(&server.post("/feedback", &many.to_string()), 2);
    becomes(&server, "incident", "unknown", 1.0);
    becomes(&server, "incident", "joined", 1.0);

    // An experiment that goes on: what it hits later is labelled as well.
    let window = json!({"series": "a", "from": base - 10, "to": base + 300, "anomaly": true, "source": "chaos"});
    accepted(&server.post("/feedback", &window.to_string()), 1);
    becomes(&server, "chaos", "joined", 2.0);
    server.predict(&row(true, "a", base + 120));
    wait_for("five pairs", || (requests(&server) == 5).then_some(()));
    let labelled = |source: &str| {
        let labels = &evidence(&server)["labels"][source];
        let brier = &labels["brier"]["rows"];
        brier.as_u64().unwrap_or(0)
    };
    assert_eq!((labelled("human"), labelled("incident"), labelled("chaos")), (2, 1, 3));
}

/// The forecast labels itself: the value of now shows how good the forecast was that was for now.
#[test]
fn a_row_that_tells_the_value_of_now_scores_the_forecast_before() {
    let repo = repository();
    let server = Server::start(repo.path(), &[]);
    let base = now() - 1000;
    let forecast = server.predict(&row(false, "pod", base))["forecast"].as_f64().expect("a number");
    wait_for("a pair", || (requests(&server) == 1).then_some(()));
    let mut later = row(false, "pod", base + HORIZON + 20);
    later["cpu_percent"] = json!(forecast);
    assert_eq!(server.predict(&later)["forecast"], json!(forecast), "no model sees it");
    becomes(&server, "metric", "joined", 1.0);
    let bucket = |server: &Server| {
        let buckets = evidence(server)["forecast"]["buckets"].clone();
        buckets.as_object().expect("by time").values().next().cloned().expect("one")
    };
    let seen = bucket(&server);
    assert_eq!((&seen["pairs"], &seen["champion"]), (&json!(1), &json!(0)), "the champion's forecast was right");
    assert!(seen["difference"].as_i64().expect("a number") <= 0, "{seen}");
    // The same by whoever measures.
    server.predict(&row(false, "other", base));
    wait_for("three pairs", || (requests(&server) == 3).then_some(()));
    let value = json!({"series": "other", "ts": base + HORIZON, "value": forecast + 3.0, "source": "metric"});
    accepted(&server.post("/feedback", &value.to_string()), 1);
    becomes(&server, "metric", "joined", 2.0);
    let seen = bucket(&server);
    let loss = seen["champion"].as_f64().expect("parts") / f64::from(1 << 24);
    assert!((loss - 3.0).abs() < 1e-4, "{seen}");
}

#[test]
fn a_header_names_the_series_where_rows_cannot() {
    let repo = repository();
    let server = Server::start(repo.path(), &[]);
    let body = json!({"inputs": [
        {"name": "cpu_zscore", "datatype": "FP32", "shape": [1], "data": [1.0]},
        {"name": "memory_zscore", "datatype": "FP32", "shape": [1], "data": [1.0]},
    ], "id": "asked"});
    let headers = [("content-type", "application/json"), ("x-series", "pod")];
    let path = "/v2/models/anomaly/infer";
    let reply = http::request(server.http, "POST", path, &headers, body.to_string().as_bytes());
    assert_eq!(reply.status, 200, "{}", reply.text());
    wait_for("a pair", || (requests(&server) == 1).then_some(()));
    assert_eq!(evidence(&server)["series"].as_array().expect("hashes").len(), 1);
    let label = json!({"request_id": "asked", "anomaly": false, "source": "human"});
    accepted(&server.post("/feedback", &label.to_string()), 1);
    becomes(&server, "human", "joined", 1.0);
    let long = "x".repeat(257);
    let headers = [("content-type", "application/json"), ("x-series", long.as_str())];
    assert_eq!(http::request(server.http, "POST", path, &headers, body.to_string().as_bytes()).status, 400);
    // Rows of a stream, each with its own.
    let lines = format!("{}\n{}\n", row(false, "x", now()), row(false, "y", now()));
    let headers = [("content-type", "application/x-ndjson"), ("x-request-id", "lines")];
    let reply = http::request(server.http, "POST", "/predict", &headers, lines.as_bytes());
    assert_eq!(reply.text().lines().count(), 2, "{}", reply.text());
    wait_for("three pairs", || (requests(&server) == 3).then_some(()));
    assert_eq!(evidence(&server)["series"].as_array().expect("hashes").len(), 3);
    let label = json!({"request_id": "lines", "row": 1, "anomaly": false, "source": "human"});
    accepted(&server.post("/feedback", &label.to_string()), 1);
    becomes(&server, "human", "joined", 2.0);
}

/// Values that come are counted beside those of the training, one of each series and ten minutes, with a challenger or without.
#[test]
fn drift_is_counted_by_feature() {
    let repo = repository();
    repo.point(1, None);
    let server = Server::start(repo.path(), &["--verdict-interval", "100ms"]);
    let at = now() / 600 * 600;
    let rows: Vec<Value> =
        (0..20).flat_map(|i| [row(false, &format!("pod-{i}"), at), row(true, "again", at)]).collect();
    server.predict(&json!(rows));
    let drift = || server.ops("/models/anomaly/shadow").json()["drift"].clone();
    // Of the one day on which they came, or of two if that is over meanwhile.
    let counts = |name: &str| {
        let days = drift()[name]["days"].as_object().expect("days").clone();
        let sum = |place: usize| days.values().filter_map(|day| day["counts"][place].as_u64()).sum::<u64>();
        json!([sum(0), sum(1)])
    };
    wait_for("21 values", || {
        (counts("score").as_array()?.iter().filter_map(Value::as_u64).sum::<u64>() == 21).then_some(())
    });
    assert_eq!(counts("cpu_zscore"), json!([0, 21]), "z is 0 or 40, on the edge or above it");
    assert_eq!(counts("score"), json!([20, 1]));
    assert_eq!(drift()["odd"], json!(null));
    let gauge = |name: &str| server.metric(&format!("{name}{{model=\"anomaly\",feature=\"cpu_zscore\"}}"));
    wait_for("the drift", || gauge("onnxd_drift_psi").filter(|psi| *psi > 0.1));
    assert!(gauge("onnxd_drift_log_e").is_some_and(|e| e > 1.0), "{:?}", gauge("onnxd_drift_log_e"));
    assert!(server.log().contains("reference.odd of the manifest is not used"), "{}", server.log());
}

/// Rows of many minutes in one request judge each other's forecasts, as they do when they come one by one.
#[test]
fn rows_of_one_request_label_each_other() {
    let repo = repository();
    let row = |minute: u64| {
        let mut row = row(false, "pod", 1_764_000_000 + 60 * minute);
        row["cpu_percent"] = json!(50);
        row
    };
    let rows: Vec<Value> = (0..100).map(row).collect();
    for together in [true, false] {
        // The shadow runs where a CPU is idle: on a busy machine a run may be given up.
        let whole = (0..5).find_map(|_| {
            let server = Server::start(repo.path(), &["--event-time"]);
            if together {
                server.predict(&json!(rows));
            } else {
                rows.iter().for_each(|row| drop(server.predict(row)));
            }
            let lost = wait_for("all rows", || {
                let seen = server.shadow();
                let lost = seen["lost"].as_object()?.values().filter_map(Value::as_u64).sum::<u64>();
                (seen["pairs"].as_u64()? + lost == 100).then_some(lost)
            });
            (lost == 0).then_some(server)
        });
        let server = whole.expect("a run without any loss, of five");
        becomes(&server, "metric", "joined", 95.0);
        becomes(&server, "metric", "unknown", 5.0);
    }
}

/// What is wrong is named, and nothing of it is counted.
#[test]
fn mistakes_name_their_field() {
    let repo = repository();
    let server = Server::start(repo.path(), &[]);
    let predicted = |change: fn(&mut Value)| {
        let mut row = row(false, "a", now());
        change(&mut row);
        let reply = server.post("/predict", &row.to_string());
        (reply.status, reply.json()["field"].as_str().unwrap_or_default().to_owned())
    };
    let wrong = |field: &str| (422, field.to_owned());
    assert_eq!(predicted(|row| row["series"] = json!(7)), wrong("series"));
    assert_eq!(predicted(|row| row["series"] = json!("")), wrong("series"));
    assert_eq!(predicted(|row| row["series"] = json!("x".repeat(257))), wrong("series"));
    assert_eq!(predicted(|row| row["ts"] = json!("now")), wrong("ts"));
    assert_eq!(predicted(|row| row["ts"] = json!(-1)), wrong("ts"));
    assert_eq!(predicted(|row| row["ts"] = json!(1_700_000_000_000_u64)), wrong("ts"));
    assert_eq!(predicted(|row| row["ts"] = json!(1_600_000_000)), wrong("ts"), "years ago");
    assert_eq!(predicted(|row| row["cpu_percent"] = json!("high")), wrong("cpu_percent"));
    assert_eq!(predicted(|row| row["serie"] = json!("a")), wrong("serie"));
    assert_eq!(predicted(|row| row["series"] = json!(null)).0, 200);
    let rows = json!([row(false, "a", now()), row(false, "a", 1_600_000_000)]);
    assert_eq!(server.post("/predict", &rows.to_string()).json()["field"], json!("[1].ts"));
    for (label, field) in [
        (json!({"anomaly": true, "source": "human"}), ""),
        (json!({"request_id": "a", "series": "b", "ts": 1, "anomaly": true, "source": "human"}), ""),
        (json!({"series": "b", "ts": 1, "source": "human"}), "anomaly"),
        (json!({"series": "b", "from": 2, "to": 1, "anomaly": true, "source": "human"}), "to"),
        (json!({"series": "b", "from": 1, "to": 2, "value": 1.0, "source": "metric"}), "value"),
        (json!({"series": "b", "ts": 1, "anomaly": true, "source": "metric"}), "anomaly"),
        (json!({"series": "b", "ts": -1, "anomaly": true, "source": "human"}), "ts"),
        (json!({"series": "", "ts": 1, "anomaly": true, "source": "human"}), "series"),
        (json!({"request_id": "a", "anomaly": true, "source": "nobody"}), "source"),
        (json!({"request_id": "a", "anomaly": true, "source": "human", "wight": 1}), "wight"),
        (json!({"request_id": "a", "anomaly": true}), "source"),
        (json!({"series": "a", "ts": "now", "anomaly": true, "source": "human"}), "ts"),
        (json!({"series": "a", "ts": 1, "anomaly": "yes", "source": "human"}), "anomaly"),
        (json!({"series": "a", "from": 1, "anomaly": true, "source": "human"}), "to"),
        (json!({"request_id": "a", "row": -1, "anomaly": true, "source": "human"}), "row"),
        (json!({"series": "a", "from": 0, "to": 90_000, "anomaly": true, "source": "chaos"}), "to"),
        (json!({"series": "a", "from": now(), "to": now() + 100_000, "anomaly": true, "source": "chaos"}), "to"),
        (json!({"series": "a", "ts": 1, "row": 3, "anomaly": true, "source": "human"}), "row"),
        (json!("a label"), ""),
    ] {
        let reply = server.post("/feedback", &label.to_string());
        let told = reply.json();
        assert_eq!((reply.status, told["field"].as_str().unwrap_or_default()), (422, field), "{label}: {told}");
        let reply = server.post("/feedback", &json!([label]).to_string());
        let told = reply.json();
        let inside = if field.is_empty() { "[0]".to_owned() } else { format!("[0].{field}") };
        assert_eq!((reply.status, told["field"].as_str().unwrap_or_default()), (422, inside.as_str()), "{told}");
    }
    let twice = r#"{"series": "a", "ts": 1, "anomaly": true, "anomaly": false, "source": "human"}"#;
    let told = server.post("/feedback", twice).json();
    assert!(told["detail"].as_str().is_some_and(|detail| detail.contains("anomaly is given twice")), "{told}");
    assert_eq!(server.post("/feedback", "no JSON").status, 400);
    assert_eq!(server.post("/models/nobody/feedback", "{}").status, 404);
    assert_eq!(http::request(server.http, "GET", "/feedback", &[], b"").status, 405);
}

/// What another server passes on may be large: it is read where it keeps nobody waiting who asks how the server is.
#[test]
fn many_labels_are_passed_on_at_once() {
    let repo = repository();
    let server = Server::start(repo.path(), &[]);
    let base = now() - 60;
    server.predict(&json!([row(false, "a", base), row(false, "b", base)]));
    wait_for("two pairs", || (requests(&server) == 2).then_some(()));
    let label = |series: u64| Label {
        target: Target::At { series, at: base },
        anomaly: Some(true),
        value: None,
        source: Source::Human,
    };
    let headers = [("content-type", "application/json")];
    let pass = |body: &[u8]| http::request(server.ops, "POST", "/models/anomaly/labels", &headers, body).status;
    let body = |labels: Vec<Label>| serde_json::to_vec(&Passed { server: "peer".into(), labels }).expect("JSON");
    let [a, b] = ["a", "b"].map(|series| hash(series.as_bytes()));
    let many = body((0..4000).chain([a]).map(label).collect());
    assert!(many.len() > 256 << 10, "{}", many.len());
    assert_eq!(pass(&many), 202);
    becomes(&server, "human", "joined", 1.0);
    assert_eq!(pass(&many[..many.len() - 1]), 400, "a part of it");
    let window =
        |number| Label { target: Target::Window { series: number, from: now(), to: now() + 60 }, ..label(number) };
    assert_eq!(pass(&body((0..257).map(window).collect())), 422, "too many windows");
    // Windows that no server would take are left out, and the others are taken.
    let endless = Label { target: Target::Window { series: a, from: 0, to: now() }, ..label(1) };
    assert_eq!(pass(&body(vec![endless, label(b)])), 202);
    becomes(&server, "human", "joined", 2.0);
}

#[test]
fn without_a_challenger_labels_are_of_no_use_and_that_is_said() {
    let repo = Repo::serving("good", None);
    let server = Server::start(repo.path(), &[]);
    let label = json!({"series": "a", "ts": now(), "anomaly": true, "source": "human"});
    let reply = server.post("/feedback", &label.to_string());
    accepted(&reply, 0);
    assert!(reply.json()["detail"].as_str().expect("a text").contains("no challenger"));
}

/// Evidence and what waits for its labels outlive the process; another champion begins anew.
#[test]
fn evidence_outlives_a_restart() {
    let repo = repository();
    let state = TempDir::new().expect("a folder");
    let folder = state.path().to_str().expect("a path").to_owned();
    let arguments = ["--state", folder.as_str()];
    let base = now() - 600;
    let server = Server::start(repo.path(), &arguments);
    server.predict(&json!([row(true, "a", base), row(false, "b", base), row(false, "c", base + 1)]));
    wait_for("three pairs", || (requests(&server) == 3).then_some(()));
    let before = evidence(&server);
    let second = Server::start(repo.path(), &arguments);
    assert!(second.log().contains("another server keeps its evidence"), "{}", second.log());
    drop(second);
    server.stop();

    let server = Server::start(repo.path(), &arguments);
    wait_for("the challenger", || evidence(&server).is_object().then_some(()));
    assert_eq!(evidence(&server), before);
    let label = json!({"series": "a", "ts": base, "anomaly": true, "source": "human"});
    accepted(&server.post("/feedback", &label.to_string()), 1);
    becomes(&server, "human", "joined", 1.0);
    // Another champion: what was seen beside the former one says nothing of it.
    repo.install(3, "good");
    repo.edit(3, |manifest| manifest["created_at"] = json!("2026-01-01T00:00:00Z"));
    let epoch = repo.point(3, Some(2));
    wait_for("the swap", || (server.model_status("anomaly")["epoch"] == json!(epoch)).then_some(()));
    assert_eq!(requests(&server), 0);
    server.stop();

    // What was damaged is told, and begins anew.
    let kept = fs::read_dir(state.path().join("anomaly")).expect("files");
    for file in kept {
        fs::write(file.expect("a file").path(), "{").expect("written");
    }
    repo.point(1, Some(2));
    let server = Server::start(repo.path(), &arguments);
    wait_for("the challenger", || evidence(&server).is_object().then_some(()));
    assert_eq!(requests(&server), 0);
    assert!(server.log().contains("cannot be read: it begins anew"), "{}", server.log());
}

/// Whatever became of the files, the server starts, says which one it leaves, and writes it anew.
#[test]
fn evidence_that_is_damaged_begins_anew() {
    let repo = repository();
    let state = TempDir::new().expect("a folder");
    let arguments = ["--state", state.path().to_str().expect("a path")];
    // Two threads count: of the pair, and of the champion's inputs.
    let counted = |server: &Server| {
        server.predict(&row(true, "a", now()));
        wait_for("the only pair", || (requests(server) == 1).then_some(()));
        wait_for("its values", || {
            let drift = server.ops("/models/anomaly/shadow").json()["drift"]["cpu_zscore"]["days"].clone();
            drift.as_object().is_some_and(|days| days.len() == 1).then_some(())
        });
    };
    let server = Server::start(repo.path(), &arguments);
    counted(&server);
    server.stop();
    let halve = |path: &Path| {
        let bytes = fs::read(path).expect("a file");
        fs::write(path, &bytes[..bytes.len() / 2]).expect("written");
    };
    let endless = |path: &Path| {
        fs::remove_file(path).expect("a file");
        std::os::unix::fs::symlink("/dev/zero", path).expect("a link");
    };
    let damages: [&dyn Fn(&Path); 2] = [&halve, &endless];
    for damage in damages {
        let files = fs::read_dir(state.path().join("anomaly")).expect("files");
        let files: Vec<PathBuf> = files.map(|file| file.expect("a file").path()).collect();
        assert_eq!(files.len(), 2, "of the pair, and of the champion: {files:?}");
        files.iter().for_each(|path| damage(path));
        let server = Server::start(repo.path(), &arguments);
        counted(&server);
        let log = server.log();
        for path in files {
            let told = log.lines().find(|line| line.contains(path.to_str().expect("a path")));
            assert!(told.is_some_and(|line| line.contains("cannot be read: it begins anew")), "{path:?}: {log}");
        }
        server.stop();
    }
}

/// A version that is taken out and challenges again is judged by what comes from then on, also after a restart.
#[test]
fn a_version_that_challenges_again_begins_anew() {
    let repo = repository();
    let state = TempDir::new().expect("a folder");
    let arguments = ["--state", state.path().to_str().expect("a path")];
    let server = Server::start(repo.path(), &arguments);
    server.predict(&json!([row(true, "a", now()), row(false, "b", now())]));
    wait_for("two pairs", || (requests(&server) == 2).then_some(()));
    server.stop();
    let files = || fs::read_dir(state.path().join("anomaly")).expect("files").count();
    assert_eq!(files(), 2, "of the pair, and of the champion");
    let server = Server::start(repo.path(), &arguments);
    wait_for("what was kept", || (requests(&server) == 2).then_some(()));
    let epoch = repo.point(1, None);
    wait_for("the swap", || (server.model_status("anomaly")["epoch"] == json!(epoch)).then_some(()));
    wait_for("the file to go", || (files() == 1).then_some(()));
    repo.point(1, Some(2));
    wait_for("the challenger", || evidence(&server).is_object().then_some(()));
    assert_eq!(requests(&server), 0);
}

/// A row that the challenger fails on is its fault; those that shared a run with it are not.
#[test]
fn one_bad_row_fails_alone() {
    let repo = Repo::serving("good", Some("fails-sometimes"));
    let server = Server::start(repo.path(), &[]);
    let row = |z: f64| json!({"cpu_zscore": z, "memory_zscore": 1, "cpu_baseline": 50, "cpu_scale": 10});
    let failing = [50.0, 60.0, 70.0, 90.0].into_iter().find(|z| {
        let alone = Repo::serving("fails-sometimes", None);
        let alone = Server::start(alone.path(), &[]);
        alone.post("/predict", &row(*z).to_string()).status == 500
    });
    let bad = row(failing.expect("a row that it fails on"));
    let rows: Vec<Value> = (0..31).map(|_| row(1.0)).chain([bad]).collect();
    server.predict(&json!(rows));
    wait_for("all rows", || (requests(&server) == 31).then_some(()));
    assert_eq!(server.shadow()["lost"]["failed"], json!(1));
    // Of each ten minutes: when, the rows, and those that failed; rows and failure may be on both sides of a turn.
    let active = evidence(&server)["active"].clone();
    let sum = |place: usize| active.as_array().into_iter().flatten().filter_map(|ten| ten[place].as_u64()).sum::<u64>();
    assert_eq!((sum(1), sum(2)), (32, 1), "{active}");
}
