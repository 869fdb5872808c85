//! What the Open Inference Protocol tells of the server and its models, and what its calls do to them.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::path::PathBuf;

use common::http::{Load, Reply, raw, request};
use common::repo::{Repo, fixture, row, serves};
use common::{Server, wait_for};
use serde_json::json;
use tempfile::TempDir;

fn get(server: &Server, path: &str) -> Reply {
    request(server.http, "GET", path, &[], b"")
}

fn post(server: &Server, path: &str, body: &str, token: Option<&str>) -> Reply {
    let authorization = token.map(|token| format!("Bearer {token}"));
    let headers: Vec<_> = authorization.iter().map(|value| ("authorization", value.as_str())).collect();
    request(server.http, "POST", path, &headers, body.as_bytes())
}

/// A server that takes calls with a token.
fn with_token(repo: &Repo, folder: &TempDir, args: &[&str]) -> Server {
    let file: PathBuf = folder.path().join("token");
    fs::write(&file, "a-secret-of-the-tests\n").expect("a file");
    let args: Vec<&str> = args.iter().copied().chain(["--admin-token-file", file.to_str().expect("UTF-8")]).collect();
    Server::start(repo.path(), &args)
}

#[test]
fn the_server_and_its_models_are_described() {
    let repo = Repo::serving("good", Some("other"));
    let server = Server::start(repo.path(), &[]);
    let about = get(&server, "/v2").json();
    assert_eq!(about["name"], "onnxd");
    let extensions = about["extensions"].as_array().expect("a list");
    assert!(extensions.contains(&json!("binary_tensor_data")) && !extensions.contains(&json!("sequence")), "{about}");
    assert_eq!(get(&server, "/v2/health/live").json(), json!({"live": true}));
    assert_eq!(get(&server, "/v2/health/ready").json(), json!({"ready": true}));
    assert_eq!(get(&server, "/v2/models").json(), json!({"models": ["anomaly"]}));
    let expected = json!({
        "name": "anomaly", "versions": ["1"], "platform": "onnxruntime_onnx",
        "inputs": [{"name": "features", "datatype": "FP32", "shape": [-1, 5], "features":
            ["cpu_zscore", "memory_zscore", "disk_io_zscore", "cpu_baseline", "cpu_scale"]}],
        "outputs": [{"name": "anomaly", "datatype": "BOOL", "shape": [-1]}, {"name": "score", "datatype": "FP32", "shape": [-1]},
            {"name": "forecast", "datatype": "FP32", "shape": [-1]}],
    });
    assert_eq!(get(&server, "/v2/models/anomaly").json(), expected);
    let reply = get(&server, "/v2/models/anomaly/versions/1");
    assert_eq!((reply.json(), reply.header("x-model-version")), (expected, "1"));
    assert_eq!(get(&server, "/v2/models/anomaly/versions/1/ready").json(), json!({"name": "anomaly", "ready": true}));
    let config = get(&server, "/v2/models/anomaly/config").json();
    assert_eq!((&config["max_batch_size"], &config["backend"]), (&json!(1024), &json!("onnxruntime")));
    assert_eq!(config["input"], json!([{"name": "features", "data_type": "TYPE_FP32", "dims": [5]}]));
    let output = json!({"name": "anomaly", "data_type": "TYPE_BOOL", "dims": [1], "reshape": {"shape": []}});
    assert_eq!(config["output"][0], output);
    assert!(config["dynamic_batching"].is_object(), "{config}");
    let together = Repo::serving("batch-mean", None);
    let together = Server::start(together.path(), &[]);
    let config = get(&together, "/v2/models/anomaly/config").json();
    // By Triton's convention the dimensions are then those of the whole tensor.
    assert_eq!((&config["max_batch_size"], &config["input"][0]["dims"]), (&json!(0), &json!([-1, 5])));
    assert_eq!((&config["output"][0]["dims"], &config["dynamic_batching"]), (&json!([-1]), &json!(null)));
    let described = get(&together, "/openapi.json").text();
    assert!(described.contains("; 65536 rows a run at most"), "{described}");
    for path in [
        "/v2/models/x",
        "/v2/models/x/ready",
        "/v2/models/x/config",
        "/v2/models/x/stats",
        "/v2/models/anomaly/versions/2",
        "/v2/models/anomaly/versions/2/ready",
        "/v2/models/anomaly/versions/7/stats",
        "/v2/",
        "/v2/models/",
        "/v2/repository",
    ] {
        let reply = get(&server, path);
        assert_eq!(reply.status, 404, "{path}: {}", reply.text());
        assert!(reply.json()["error"].is_string(), "{path}");
    }
    let head = request(server.http, "POST", "/v2/health/ready", &[], b"");
    assert_eq!((head.status, head.header("allow")), (405, "GET, HEAD"));
    assert_eq!(get(&server, "/v2/repository/index").status, 405);
}

#[test]
fn types_shapes_and_free_dimensions_are_those_of_the_graph() {
    let server = Server::start(&fixture("identity.onnx"), &[]);
    let metadata = get(&server, "/v2/models/identity").json();
    let config = get(&server, "/v2/models/identity/config").json();
    for (input, port) in
        metadata["inputs"].as_array().expect("a list").iter().zip(config["input"].as_array().expect("a list"))
    {
        assert_eq!(input["name"], input["datatype"]);
        assert_eq!((&input["shape"], &port["dims"]), (&json!([-1, 2]), &json!([2])));
        let name = input["name"].as_str().expect("a name").replace("BYTES", "STRING");
        assert_eq!(port["data_type"], json!(format!("TYPE_{name}")));
    }
    let fixed = Server::start(&fixture("declared-wrong.onnx"), &[]);
    assert_eq!(get(&fixed, "/v2/models/declared-wrong").json()["outputs"][0]["shape"], json!([-1]));
}

#[test]
fn a_server_without_models_is_alive_and_not_ready() {
    let repo = Repo::new();
    let server = Server::launch(repo.path(), &[]);
    wait_for("the first look", || (server.ops("/startupz").status == 200).then_some(()));
    assert_eq!(get(&server, "/v2/health/live").status, 200);
    let ready = get(&server, "/v2/health/ready");
    assert_eq!((ready.status, ready.json()), (503, json!({"ready": false})));
    assert_eq!(get(&server, "/v2/models").json(), json!({"models": []}));
    assert_eq!(get(&server, "/v2/models/stats").json(), json!({"model_stats": []}));
}

#[test]
fn statistics_move_as_requests_are_run() {
    let repo = Repo::serving("fails-sometimes", None);
    let server = Server::start(repo.path(), &[]);
    let stats = || {
        let all = get(&server, "/v2/models/stats").json();
        assert_eq!(get(&server, "/v2/models/anomaly/versions/1/stats").json()["model_stats"][0]["name"], "anomaly");
        all["model_stats"][0].clone()
    };
    let before = stats();
    assert_eq!((&before["last_inference"], &before["execution_count"]), (&json!(0), &json!(0)));
    let infer = |rows: usize, cpu: f64| {
        let data: Vec<f64> = (0..rows).flat_map(|_| [cpu, 1.0, 0.0, 50.0, 10.0]).collect();
        let body = json!({"inputs": [{"name": "features", "datatype": "FP32", "shape": [rows, 5], "data": data}]});
        server.post("/v2/models/anomaly/infer", &body.to_string()).status
    };
    for _ in 0..3 {
        assert_eq!(infer(1, 1.0), 200);
    }
    assert_eq!(infer(64, 1.0), 200);
    server.predict(&row(1));
    assert_eq!(infer(1, 60.0), 500);
    assert_eq!(server.post("/v2/models/anomaly/infer", "{}").status, 400);
    let after = stats();
    assert_eq!((&after["inference_count"], &after["execution_count"]), (&json!(68), &json!(5)));
    let inference = &after["inference_stats"];
    for (key, count) in
        [("success", 5), ("fail", 1), ("queue", 5), ("compute_infer", 5), ("compute_output", 5), ("cache_hit", 0)]
    {
        assert_eq!(inference[key]["count"], count, "{key}: {inference}");
    }
    let ns = |key: &str| inference[key]["ns"].as_u64().expect("a number");
    assert!(ns("success") >= ns("compute_infer") && ns("compute_infer") > 0, "{inference}");
    let batches = after["batch_stats"].as_array().expect("a list");
    let sizes: Vec<_> =
        batches.iter().map(|b| (b["batch_size"].as_u64(), b["compute_infer"]["count"].as_u64())).collect();
    assert_eq!(sizes, [(Some(1), Some(4)), (Some(64), Some(1))]);
    let last = after["last_inference"].as_u64().expect("a number");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_millis();
    assert!(u128::from(last) <= now + 1000 && now - u128::from(last) < 3_600_000, "{last}");
    assert!(get(&server, "/v2/models/anomaly/versions/4/stats").status == 404);
}

#[test]
fn the_index_lists_every_version_with_its_part() {
    let repo = Repo::serving("good", None);
    repo.install(2, "other");
    repo.install(3, "wrong-golden");
    let server = Server::start(repo.path(), &[]);
    repo.point(2, None);
    serves(&server, 2);
    repo.point(2, Some(3));
    let entries = wait_for("the refusal", || {
        let entries = post(&server, "/v2/repository/index", "", None).json();
        (entries.as_array()?.len() == 3).then_some(entries)
    });
    let state = |version: &str| {
        let all = entries.as_array().expect("a list");
        let entry = all.iter().find(|entry| entry["version"] == version).cloned().unwrap_or_default();
        (
            entry["state"].as_str().unwrap_or_default().to_owned(),
            entry["reason"].as_str().unwrap_or_default().to_owned(),
        )
    };
    assert_eq!(state("2"), ("READY".to_owned(), String::new()));
    assert!(state("1").0 == "UNAVAILABLE" && state("1").1.contains("champion before"), "{entries}");
    assert!(state("3").0 == "UNAVAILABLE" && state("3").1.contains("golden"), "{entries}");
    let ready = post(&server, "/v2/repository/index", r#"{"ready": true}"#, None).json();
    assert_eq!(ready, json!([{"name": "anomaly", "version": "2", "state": "READY", "reason": ""}]));
    let refused = post(&server, "/v2/repository/index", r#"{"ready": "yes"}"#, None);
    assert_eq!((refused.status, refused.json()["error"].is_string()), (400, true));
}

#[test]
fn only_the_token_loads_and_unloads() {
    let (repo, folder) = (Repo::serving("good", None), TempDir::new().expect("a folder"));
    let server = with_token(&repo, &folder, &[]);
    for path in ["/v2/repository/models/anomaly/unload", "/v2/repository/models/anomaly/load"] {
        for token in [None, Some("wrong")] {
            let reply = post(&server, path, "", token);
            assert_eq!((reply.status, reply.json()["error"].is_string()), (401, true), "{path}: {}", reply.text());
        }
    }
    let closed = Server::start(repo.path(), &[]);
    assert_eq!(post(&closed, "/v2/repository/models/anomaly/unload", "", Some("a-secret-of-the-tests")).status, 403);
    assert_eq!(get(&server, "/v2/models/anomaly/ready").status, 200);
    let load = |body: &str| post(&server, "/v2/repository/models/anomaly/load", body, Some("a-secret-of-the-tests"));
    for (body, words) in [
        (r#"{"parameters": {"config": "{}"}}"#, "parameters.config"),
        (r#"{"parameters": {"file:1/model.onnx": "AA=="}}"#, "parameters.file:1/model.onnx"),
        ("[1]", "cannot be read"),
        (r#"{"parameters": 1}"#, "cannot be read"),
    ] {
        let reply = load(body);
        assert_eq!(reply.status, 400, "{body}");
        assert!(reply.json()["error"].as_str().expect("text").contains(words), "{}", reply.text());
    }
    assert_eq!(load("").json(), json!({"name": "anomaly", "load": true}));
    for path in ["/v2/repository/models/other/load", "/v2/repository/models/other/unload"] {
        let reply = post(&server, path, "", Some("a-secret-of-the-tests"));
        assert_eq!(reply.status, 404, "{}", reply.text());
    }
}

/// Neither what the system tells of changes nor a poll brings back what was unloaded; a load does, to what is asked for then.
#[test]
fn an_unloaded_model_stays_away_until_it_is_loaded() {
    let (repo, folder) = (Repo::serving("good", None), TempDir::new().expect("a folder"));
    repo.install(2, "other");
    let server = with_token(&repo, &folder, &["--poll-interval", "100ms"]);
    server.predict(&row(1));
    let unload = || {
        post(
            &server,
            "/v2/repository/models/anomaly/unload",
            r#"{"parameters":{"unload_dependents":true}}"#,
            Some("a-secret-of-the-tests"),
        )
    };
    assert_eq!(unload().json(), json!({"name": "anomaly", "unload": true}));
    assert_eq!(unload().status, 200, "it may be said twice");
    let polls = |outcome: &str| {
        server.metric(&format!(r#"onnxd_source_polls_total{{source="file",outcome="{outcome}"}}"#)).unwrap_or(0.0)
    };
    let away = || {
        for path in ["/v2/models/anomaly", "/v2/models/anomaly/ready"] {
            let reply = get(&server, path);
            assert_eq!(reply.status, 404);
            assert!(reply.json()["error"].as_str().expect("text").contains("is unloaded"), "{}", reply.text());
        }
        assert_eq!(server.post("/models/anomaly/predict", &row(1).to_string()).status, 404);
        assert_eq!(get(&server, "/v2/health/ready").status, 503);
        assert_eq!(server.ops("/readyz").status, 503);
        let index = post(&server, "/v2/repository/index", "", None).json();
        assert_eq!((&index[0]["state"], &index[0]["version"]), (&json!("UNAVAILABLE"), &json!("1")), "{index}");
        assert!(index[0]["reason"].as_str().expect("text").contains("unloaded"), "{index}");
    };
    away();
    // Polls.
    let seen = polls("unchanged");
    wait_for("some polls", || (polls("unchanged") >= seen + 5.0).then_some(()));
    away();
    // A promotion, which the watch tells of.
    let seen = polls("changed");
    repo.point(2, None);
    wait_for("the change", || (polls("changed") > seen).then_some(()));
    let seen = polls("unchanged");
    wait_for("a look after it", || (polls("unchanged") > seen).then_some(()));
    away();
    assert!(server.log().contains("unloaded by a call"));
    let loaded = post(&server, "/v2/repository/models/anomaly/load", "", Some("a-secret-of-the-tests"));
    assert_eq!((loaded.status, loaded.json()), (200, json!({"name": "anomaly", "load": true})));
    assert_eq!(get(&server, "/v2/models/anomaly").json()["versions"], json!(["2"]));
    assert_eq!(get(&server, "/v2/health/ready").status, 200);
    server.predict(&row(1));
    // What cannot be loaded is said with its reason.
    assert_eq!(unload().status, 200);
    repo.install(3, "wrong-golden");
    repo.point(3, None);
    let refused = post(&server, "/v2/repository/models/anomaly/load", "", Some("a-secret-of-the-tests"));
    assert_eq!(refused.status, 400, "{}", refused.text());
    assert!(refused.json()["error"].as_str().expect("text").contains("golden"), "{}", refused.text());
}

/// The server asks for the body when it has found the model; then the model is unloaded, and the body comes.
#[test]
fn a_request_that_found_its_model_is_answered_after_an_unload() {
    let (repo, folder) = (Repo::serving("good", None), TempDir::new().expect("a folder"));
    let server = with_token(&repo, &folder, &["--poll-interval", "100ms"]);
    let body = json!({"inputs": [{"name": "features", "datatype": "FP32", "shape": [1, 5], "data": [1, 2, 0, 50, 8]}]});
    let body = body.to_string();
    let head = format!(
        "POST /v2/models/anomaly/infer HTTP/1.1\r\nhost: test\r\nexpect: 100-continue\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    let mut client = raw(server.http, head.as_bytes());
    let mut asked = [0; 25];
    client.read_exact(&mut asked).expect("the server asks for the body");
    assert_eq!(&asked, b"HTTP/1.1 100 Continue\r\n\r\n");
    let unload = post(&server, "/v2/repository/models/anomaly/unload", "", Some("a-secret-of-the-tests"));
    assert_eq!(unload.status, 200, "{}", unload.text());
    // Long enough for its queue to be closed, if it were.
    let polls = || server.metric(r#"onnxd_source_polls_total{source="file",outcome="unchanged"}"#).unwrap_or(0.0);
    let seen = polls();
    wait_for("some polls", || (polls() >= seen + 5.0).then_some(()));
    client.write_all(body.as_bytes()).expect("sent");
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("forecast"), "{answer}");
    assert_eq!(get(&server, "/v2/models/anomaly/ready").status, 404);
}

/// Whoever found the model before it was unloaded is answered, and its threads end.
#[test]
fn requests_in_flight_are_answered_when_a_model_is_unloaded() {
    let (repo, folder) = (Repo::serving("slow", None), TempDir::new().expect("a folder"));
    let server = with_token(&repo, &folder, &["--default-model", "anomaly"]);
    let threads = || server.metric("process_threads").expect("a number");
    let load = Load::start(
        server.http,
        8,
        |turn| row(turn).to_string(),
        |_, reply| match reply.status {
            200 => Ok(()),
            404 if reply.text().contains("no model") => Ok(()),
            status => Err(format!("{status}: {}", reply.text())),
        },
    );
    let call =
        |what: &str| post(&server, &format!("/v2/repository/models/anomaly/{what}"), "", Some("a-secret-of-the-tests"));
    let mut most: f64 = 0.0;
    for _ in 0..5 {
        let answered = load.answered();
        wait_for("answers", || (load.answered() > answered + 20).then_some(()));
        most = most.max(threads());
        assert_eq!(call("unload").status, 200);
        assert_eq!(call("load").status, 200);
    }
    let (answered, problems) = load.finish();
    assert_eq!(problems, Vec::<String>::new(), "of {answered}");
    wait_for("the threads to end", || (threads() <= most).then_some(()));
}
