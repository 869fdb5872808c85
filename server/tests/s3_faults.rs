//! What networks, disks and S3 itself do wrong: what serves goes on, the reason is told, and the way back needs no restart.

mod common;

use std::time::{Duration, Instant};

use common::http::{self, Load};
use common::proxy::{Fault, Proxy};
use common::repo::{row, serves, settled};
use common::s3::S3;
use common::s3repo::{S3Repo, nowhere};
use common::{Server, wait_for};
use serde_json::{Value, json};

/// The faults of the proxy, with plain requests: the tests below rest on them.
#[test]
fn the_proxy_does_what_its_faults_say() {
    let bucket = S3::start().bucket();
    let proxy = Proxy::start(bucket.s3.address());
    let etag = bucket.put("a/x", vec![b'x'; 1000]);
    let path = bucket.path("a/x");
    // moto wants to see one and does not check it.
    let signature =
        "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0";
    let get = |headers: &[(&str, &str)]| {
        let mut client = http::Client::connect(proxy.address())?;
        client.send("GET", &path, &[headers, &[("authorization", signature)]].concat(), b"")?;
        client.receive()
    };
    let plain = get(&[]).expect("an answer");
    assert_eq!((plain.status, plain.body.len(), plain.header("etag")), (200, 1000, etag.as_str()));
    let part = get(&[("range", "bytes=10-19"), ("if-match", &etag)]).expect("an answer");
    assert_eq!((part.status, part.body.len(), part.header("content-range")), (206, 10, "bytes 10-19/1000"));
    assert_eq!(get(&[("range", "bytes=10-19"), ("if-match", "\"other\"")]).expect("an answer").status, 412);
    assert_eq!(get(&[("if-none-match", &etag)]).expect("an answer").status, 304);
    let seen = proxy.requests_for("a/x");
    let summary: Vec<_> = seen.iter().map(|s| (s.status, s.sent, s.range.as_deref().unwrap_or(""))).collect();
    assert_eq!(summary, [(200, 1000, ""), (206, 10, "bytes=10-19"), (412, seen[2].sent, "bytes=10-19"), (304, 0, "")]);
    assert_eq!(seen[3].if_none_match.as_deref(), Some(etag.as_str()));

    proxy.set(Fault::Refuse);
    let kind = get(&[]).expect_err("no answer").kind();
    assert_eq!(kind, std::io::ErrorKind::ConnectionReset);
    proxy.set(Fault::Status(503, "SlowDown"));
    let slow_down = get(&[]).expect("an answer");
    assert_eq!((slow_down.status, slow_down.text().contains("<Code>SlowDown</Code>")), (503, true));
    proxy.set(Fault::ResetAfter(100));
    assert_eq!(get(&[]).expect_err("no whole answer").kind(), std::io::ErrorKind::ConnectionReset);
    proxy.set(Fault::Truncate(100));
    assert_eq!(get(&[]).expect_err("no whole answer").kind(), std::io::ErrorKind::UnexpectedEof);
    assert_eq!(proxy.requests().last().map(|s| s.sent), Some(100));
    proxy.set(Fault::Shorten(100));
    assert_eq!(get(&[]).expect("an answer").body.len(), 100);
    proxy.set(Fault::Flip);
    assert_eq!(get(&[]).expect("an answer").body.iter().filter(|b| **b != b'x').count(), 1);
    proxy.set(Fault::XmlError);
    assert_eq!(get(&[]).map(|r| (r.status, r.text().contains("<Error>"))).expect("an answer"), (200, true));
    proxy.set(Fault::OtherEtag);
    let others = [get(&[("if-none-match", &etag)]), get(&[])].map(|r| r.expect("an answer").header("etag").to_owned());
    assert!(others[0] != etag && others[0] != others[1], "{others:?}");
    proxy.set(Fault::None);
    proxy.set_for("a/x", Fault::Breaks { gets: 2, after: 10 });
    assert!([get(&[]).is_err(), get(&[]).is_err(), get(&[]).is_ok()].iter().all(|as_said| *as_said));
    proxy.set_for("a/x", Fault::Slow(10_000));
    let begin = Instant::now();
    assert_eq!(get(&[]).expect("an answer").body.len(), 1000);
    assert!(begin.elapsed() > Duration::from_millis(90), "{:?}", begin.elapsed());
    proxy.set_for("a/x", Fault::Stale);
    bucket.put("a/x", "new");
    assert_eq!(get(&[]).expect("an answer").body.len(), 1000);
    assert_eq!(get(&[("if-none-match", &etag)]).expect("an answer").status, 304);
    proxy.set_for("a/x", Fault::Hang);
    let mut waiting = http::Client::connect(proxy.address()).expect("accepted");
    waiting.send("GET", &path, &[], b"").expect("sent");
    wait_for("the request", || proxy.requests().last().filter(|s| s.status == 0).map(|_| ()));
    proxy.set(Fault::None);
    assert!(waiting.receive().is_err(), "no answer came");
    assert_eq!(get(&[]).expect("an answer").text(), "new");
}

/// The gap between what is polled and what serves, and its reason.
fn source(server: &Server) -> Value {
    server.ops("/status").json()["source"].clone()
}

/// When the repository was last read.
fn read_at(server: &Server) -> Option<f64> {
    server.metric("onnxd_source_read_timestamp_seconds{source=\"s3\"}")
}

const ERRORS: &str = "onnxd_source_polls_total{source=\"s3\",outcome=\"error\"}";
const UNCHANGED: &str = "onnxd_source_polls_total{source=\"s3\",outcome=\"unchanged\"}";
const POINTER: &str = "/anomaly/aliases.json";

/// Every way in which S3 is not there: what serves goes on, the error is told, its age can be seen, requests become rare, and
/// it is found again.
fn is_survived(faults: &[(Fault, &str)], failures: f64) {
    let repo = S3Repo::serving("good", None);
    repo.install(2, "other");
    let server = repo.serve(&["--models", "anomaly"]);
    let before = server.predict(&row(3));
    let load = Load::start(
        server.http,
        2,
        |turn| row(turn).to_string(),
        |_, reply| match reply.status {
            200 => Ok(()),
            other => Err(format!("{other}: {}", reply.text())),
        },
    );
    let mut version = 1;
    for (fault, told) in faults {
        let good = wait_for("a poll", || server.metric(UNCHANGED));
        wait_for("another poll", || server.metric(UNCHANGED).filter(|n| *n > good));
        let errors = server.metric(ERRORS).unwrap_or(0.0);
        repo.proxy.clear();
        repo.proxy.set(fault.clone());
        wait_for("the failures", || server.metric(ERRORS).filter(|n| *n >= errors + failures));
        let status = source(&server);
        let error = status["error"].as_str().unwrap_or_default();
        assert!(error.contains(told), "{fault:?}: {status}");
        assert_eq!(status["from_cache"], json!(false), "{fault:?}");
        let ready = server.ops("/readyz");
        assert_eq!(ready.status, 200, "{fault:?}: {}", ready.text());
        let stopped = read_at(&server).expect("a time");
        // One poll is one request, and the pauses between them grow. The first failure comes after at most one interval.
        let polls = repo.proxy.requests_for(POINTER);
        assert_eq!(polls.len(), repo.proxy.requests().len(), "{fault:?}: only the pointer is asked for");
        let failed: Vec<Instant> = polls.iter().filter(|s| !matches!(s.status, 200 | 304)).map(|s| s.at).collect();
        let gaps: Vec<Duration> = failed.windows(2).map(|two| two[1] - two[0]).collect();
        assert!(failed.len() as f64 <= failures + 1.0, "{fault:?}: {} requests", failed.len());
        if gaps.len() > 2 {
            assert!(gaps[gaps.len() - 1] > gaps[0] + Duration::from_millis(50), "{fault:?}: {gaps:?}");
        }
        assert_eq!(read_at(&server), Some(stopped), "{fault:?}");
        // A promotion that nobody could see is seen afterwards.
        version = 3 - version;
        repo.point(version, None);
        assert_eq!(server.model_status("anomaly")["champion"]["version"], json!((3 - version).to_string()));
        repo.proxy.set(Fault::None);
        serves(&server, version);
        wait_for("the error to go", || source(&server)["error"].is_null().then_some(()));
        assert!(read_at(&server).is_some_and(|at| at > stopped), "{fault:?}");
    }
    let (answered, problems) = load.finish();
    assert!(problems.is_empty() && answered > 100, "{answered}: {problems:?}");
    repo.point(1, None);
    serves(&server, 1);
    assert_eq!(server.predict(&row(3)), before);
}

#[test]
fn s3_that_refuses_or_answers_errors_changes_nothing_and_is_asked_less() {
    is_survived(
        &[
            (Fault::Refuse, ""),
            (Fault::Status(500, "InternalError"), "InternalError"),
            (Fault::Status(503, "SlowDown"), "SlowDown"),
        ],
        4.0,
    );
}

#[test]
fn s3_that_denies_access_changes_nothing_and_is_asked_less() {
    is_survived(
        &[
            (Fault::Status(403, "AccessDenied"), "AccessDenied"),
            (Fault::Status(400, "ExpiredToken"), "ExpiredToken"),
            (Fault::Status(403, "RequestTimeTooSkewed"), "RequestTimeTooSkewed"),
            (Fault::Status(404, "NoSuchBucket"), "NoSuchBucket"),
        ],
        4.0,
    );
}

/// Given up after 10 seconds: the time-out of small objects.
#[test]
fn s3_that_never_answers_changes_nothing() {
    is_survived(&[(Fault::Hang, "")], 1.0);
}

/// 200 bytes a second, and the manifest (2 kB) slower still, so that it is given up after 10 seconds: a promotion waits, and
/// nothing else does.
#[test]
fn slow_s3_holds_up_a_promotion_and_nothing_else() {
    let repo = S3Repo::serving("good", None);
    repo.install(2, "other");
    let server = repo.serve(&["--models", "anomaly"]);
    repo.proxy.set(Fault::Slow(200));
    repo.proxy.set_for("manifest.json", Fault::Slow(50));
    let load = Load::start(
        server.http,
        2,
        |turn| row(turn).to_string(),
        |_, reply| match reply.status {
            200 if reply.header("x-model-version") == "1" => Ok(()),
            other => Err(format!("{other}: {}", reply.text())),
        },
    );
    repo.point(2, None);
    wait_for("the manifest to be given up", || {
        let rejected = server.model_status("anomaly")["rejected"][0].clone();
        (rejected["passing"] == json!(true) && rejected["stage"] == json!("fetch")).then_some(())
    });
    let (answered, problems) = load.finish();
    assert!(problems.is_empty() && answered > 1_000, "{answered}: {problems:?}");
    repo.proxy.set(Fault::None);
    serves(&server, 2);
}

/// What comes is not what was asked for: it never serves, the reason is told, and the right bytes are taken once they come.
#[test]
fn damaged_answers_never_serve() {
    let repo = S3Repo::serving("good", None);
    let server = repo.serve(&["--models", "anomaly"]);
    let before = server.predict(&row(3));
    let faults = [
        Fault::Truncate(500),
        Fault::Shorten(500),
        Fault::Flip,
        Fault::XmlError,
        Fault::ResetAfter(500),
        Fault::Status(404, "NoSuchKey"),
        Fault::Status(412, "PreconditionFailed"),
        Fault::Status(416, "InvalidRange"),
    ];
    let mut version = 2;
    for name in ["model.onnx", "manifest.json"] {
        for fault in &faults {
            // Other bytes each time, so that none are in the cache.
            repo.install_large(version, "other", 64 + version as usize);
            repo.proxy.set_for(name, fault.clone());
            let epoch = repo.point(version, None);
            let status = settled(&server, epoch);
            // A model's download goes on where it broke, so that it may be whole in the end.
            let goes_on = matches!(fault, Fault::Truncate(_) | Fault::Shorten(_) | Fault::ResetAfter(_));
            if !(name == "model.onnx" && goes_on) {
                let rejected = &status["rejected"][0];
                assert!(rejected["reason"].as_str().is_some_and(|r| r.contains(name)), "{name} {fault:?}: {status}");
                assert_eq!(rejected["passing"], json!(true), "{name} {fault:?}");
                assert_eq!(server.predict(&row(3)), before, "{name} {fault:?}");
                repo.proxy.set(Fault::None);
            }
            serves(&server, version);
            assert_ne!(server.predict(&row(3)), before, "{name} {fault:?}");
            repo.proxy.set(Fault::None);
            let epoch = repo.point(1, None);
            settled(&server, epoch);
            version += 1;
        }
    }
}

/// The pointer itself comes damaged.
#[test]
fn a_damaged_pointer_changes_nothing() {
    let repo = S3Repo::serving("good", None);
    repo.install(2, "other");
    let server = repo.serve(&["--models", "anomaly"]);
    let length = repo.aliases().len();
    for fault in [
        Fault::Truncate(length / 2),
        Fault::Shorten(length / 2),
        Fault::Shorten(0),
        Fault::Flip,
        Fault::XmlError,
        Fault::ResetAfter(length / 2),
    ] {
        repo.proxy.set_for(POINTER, fault.clone());
        repo.point(2, None);
        wait_for("the report", || {
            let status = server.model_status("anomaly");
            // A flipped bit may leave a pointer to a manifest that is not there.
            let told = status["error"].is_string() || status["rejected"][0].is_object();
            (told || source(&server)["error"].is_string()).then_some(())
        });
        assert_eq!(server.model_status("anomaly")["champion"]["version"], json!("1"), "{fault:?}");
        assert_eq!(server.ops("/readyz").status, 200);
        repo.proxy.set(Fault::None);
        serves(&server, 2);
        let epoch = repo.point(1, None);
        settled(&server, epoch);
    }
}

/// The `ETag` is another one each time and the bytes are the same: nothing is fetched or swapped for it.
#[test]
fn another_etag_on_the_same_bytes_is_no_change() {
    let repo = S3Repo::serving("good", Some("other"));
    let server = repo.serve(&["--models", "anomaly"]);
    let published =
        "onnxd_model_swaps_total{model=\"anomaly\",role=\"champion\",outcome=\"published\",stage=\"publish\"}";
    let loads = "onnxd_model_load_duration_seconds_count{stage=\"load\"}";
    let before = (server.metric(published), server.metric(loads));
    repo.proxy.clear();
    repo.proxy.set(Fault::OtherEtag);
    // The same bytes written anew as well.
    repo.bucket.put("anomaly/aliases.json", repo.aliases());
    wait_for("polls", || {
        (repo.proxy.requests_for(POINTER).iter().filter(|s| s.status == 200).count() > 10).then_some(())
    });
    assert_eq!((server.metric(published), server.metric(loads)), before);
    let other: Vec<_> = repo.proxy.requests().into_iter().filter(|s| !s.path.ends_with(POINTER)).collect();
    assert!(other.is_empty(), "{other:?}");
}

/// Lists may be old: they only bring new names. What serves is decided by the pointer.
#[test]
fn an_old_list_hides_no_promotion() {
    let repo = S3Repo::serving("good", None);
    repo.install(2, "other");
    let server = repo.serve(&[]);
    wait_for("a list", || repo.proxy.requests().iter().any(|s| s.is_list()).then_some(()));
    repo.proxy.set_for("list-type", Fault::Stale);
    repo.point(2, None);
    serves(&server, 2);
    // A list that fails takes no model away either.
    repo.proxy.set_for("list-type", Fault::Status(403, "AccessDenied"));
    repo.point(1, None);
    serves(&server, 1);
    assert_eq!(server.ops("/readyz").status, 200);
}

/// Rights to read objects and none to list them: `--models` names what there is.
#[test]
fn without_the_right_to_list_the_models_are_named() {
    let repo = S3Repo::serving("good", None);
    repo.install(2, "other");
    repo.proxy.set_for("list-type", Fault::Status(403, "AccessDenied"));
    let server = repo.serve(&["--models", "anomaly"]);
    repo.point(2, None);
    serves(&server, 2);
    assert!(source(&server)["error"].is_null());
    assert!(!repo.proxy.requests().iter().any(|s| s.is_list()));
    // Without the names it is said what is missing.
    let unnamed = repo.launch(&["--cache", "off"]);
    let error = wait_for("the error", || source(&unnamed)["error"].as_str().map(str::to_owned));
    assert!(error.contains("AccessDenied") && error.contains("--models"), "{error}");
    assert_eq!((unnamed.ops("/livez").status, unnamed.ops("/readyz").status), (200, 503));
}

/// Live and not ready, whatever is wrong with S3; ready by itself once it is there.
#[test]
fn s3_that_is_down_at_the_start_without_a_cache_is_waited_for() {
    let repo = S3Repo::serving("good", None);
    repo.proxy.set(Fault::Refuse);
    let nobody = format!("http://{}", nowhere());
    let lost = Server::launch(repo.bucket.url().as_ref(), &["--s3-endpoint", &nobody, "--cache", "off"]);
    let server = repo.launch(&[]);
    for server in [&lost, &server] {
        wait_for("the error", || source(server)["error"].as_str().map(str::to_owned));
        assert_eq!((server.ops("/livez").status, server.ops("/readyz").status), (200, 503));
        let why = server.ops("/status").json()["not_ready"].as_str().expect("a reason").to_owned();
        assert!(why.contains("the repository cannot be read: "), "{why}");
        let reply = server.post("/predict", &row(1).to_string());
        assert_eq!((reply.status, reply.header("retry-after")), (503, "1"));
    }
    repo.proxy.set(Fault::None);
    wait_for("readiness", || (server.ops("/readyz").status == 200).then_some(()));
    server.predict(&row(1));
    assert_eq!(source(&server)["from_cache"], json!(false));
}

/// It has another hash than the manifest says, and stays so: it is looked at, and fetched rarely; put right, it is taken at once.
#[test]
fn a_wrong_object_is_not_fetched_again_and_again() {
    let repo = S3Repo::serving("good", None);
    let server = repo.serve(&["--models", "anomaly"]);
    repo.install_large(2, "other", 100 << 10);
    let right = repo.bucket.get("anomaly/2/model.onnx").expect("an object");
    let mut wrong = right.clone();
    wrong[50_000] ^= 1;
    repo.bucket.put("anomaly/2/model.onnx", wrong);
    let status = settled(&server, repo.point(2, None));
    assert!(status["rejected"][0]["reason"].as_str().is_some_and(|why| why.contains("model.onnx")), "{status}");
    let seen =
        |method: &str| repo.proxy.requests_for("2/model.onnx").iter().filter(|seen| seen.method == method).count();
    wait_for("some looks", || (seen("HEAD") >= 3).then_some(()));
    assert_eq!(seen("GET"), 2, "it may have come damaged, so once more");
    repo.bucket.put("anomaly/2/model.onnx", right);
    serves(&server, 2);
}
