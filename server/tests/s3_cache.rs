//! Downloads and the cache: nothing is fetched twice, nothing half ever serves, and a start needs no S3.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::proxy::{Fault, Seen};
use common::repo::{row, serves, settled};
use common::s3repo::S3Repo;
use common::{Server, wait_for};
use serde_json::{Value, json};

/// Parts of downloads have this many bytes.
const PART: usize = 8 << 20;
const LARGE: usize = 40 << 20;
const MODEL: &str = "2/model.onnx";

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.flat_map(|e| if e.path().is_dir() { files(&e.path()) } else { vec![e.path()] }).collect()
}

fn temporary(cache: &Path) -> Vec<PathBuf> {
    files(cache).into_iter().filter(|path| path.extension().is_some_and(|e| e == "tmp")).collect()
}

fn blob(repo: &S3Repo, version: u32) -> PathBuf {
    let onnx = fs::read(repo.local().version(version).join("model.onnx")).expect("a file");
    repo.cache().join("blobs").join(onnxd::source::sha256(&onnx))
}

fn source(server: &Server) -> Value {
    server.ops("/status").json()["source"].clone()
}

fn downloads(server: &Server) -> Vec<Value> {
    server.ops("/status").json()["downloads"].as_array().expect("a list").clone()
}

fn sent(requests: &[Seen]) -> usize {
    requests.iter().map(|seen| seen.sent).sum()
}

/// How many of these were under way at the same time.
fn at_once(requests: &[Seen]) -> usize {
    let ends = |seen: &Seen| seen.until.expect("it ended");
    requests.iter().map(|one| requests.iter().filter(|s| s.at <= one.at && ends(s) > one.at).count()).max().unwrap_or(0)
}

#[test]
fn a_large_model_comes_in_parts_and_shows_its_progress() {
    let repo = S3Repo::serving("good", None);
    let server = repo.serve(&["--models", "anomaly"]);
    assert_eq!(downloads(&server), Vec::<Value>::new());
    let onnx = repo.install_large(2, "other", LARGE);
    repo.proxy.set_for(MODEL, Fault::Slow(PART));
    repo.point(2, None);
    let progress = wait_for("progress", || {
        let progress = downloads(&server).first()?.clone();
        (progress["bytes"].as_u64()? > 1 << 20).then_some(progress)
    });
    assert_eq!((&progress["model"], &progress["version"]), (&json!("anomaly"), &json!("2")));
    assert_eq!(progress["of"], json!(onnx.len()));
    assert!(progress["bytes"].as_u64().is_some_and(|n| n < onnx.len() as u64), "{progress}");
    assert_eq!(server.post("/predict", &row(1).to_string()).header("x-model-version"), "1");
    repo.proxy.set(Fault::None);
    serves(&server, 2);
    assert_eq!(downloads(&server), Vec::<Value>::new());
    let requests = repo.proxy.requests_for(MODEL);
    let parts: Vec<Seen> = requests.into_iter().filter(|seen| seen.method == "GET").collect();
    assert_eq!((parts.len(), sent(&parts)), (onnx.len().div_ceil(PART), onnx.len()));
    assert!(parts.iter().all(|seen| seen.range.is_some() && seen.sent <= PART), "{parts:?}");
    // The first answer is where the ETag is known from, at the latest.
    assert!(parts[1..].iter().all(|seen| seen.if_match.is_some()), "{parts:?}");
    let together = at_once(&parts);
    assert!((2..=4).contains(&together), "{together} at the same time");
    assert!(fs::read(blob(&repo, 2)).expect("it is kept") == onnx);
    assert!(files(&repo.cache().join("parts")).is_empty());
    let small = S3Repo::serving("other", None);
    assert_eq!(server.predict(&row(3)), small.serve(&[]).predict(&row(3)));
}

/// While a large model arrives slowly, another pointer, a rollback or a champion beside a large challenger do not wait for it.
#[test]
fn a_slow_download_holds_up_no_other_change() {
    let repo = S3Repo::serving("good", None);
    repo.install(3, "other");
    let server = repo.serve(&["--models", "anomaly"]);
    repo.install_large(2, "good", 2 * PART);
    repo.proxy.set_for(MODEL, Fault::Slow(1000));
    let under_way = || wait_for("the download", || downloads(&server).first().cloned());
    repo.point(2, None);
    under_way();
    repo.point(3, None);
    serves(&server, 3);
    repo.point(2, None);
    under_way();
    repo.point(1, None);
    serves(&server, 1);
    repo.point(3, Some(2));
    let status = serves(&server, 3);
    assert_eq!(status["challengers"], json!([]));
    under_way();
    assert_eq!(source(&server)["error"], json!(null));
    repo.proxy.set(Fault::None);
    wait_for("the challenger", || {
        (server.model_status("anomaly")["challengers"][0]["version"] == json!("2")).then_some(())
    });
}

#[test]
fn a_download_that_breaks_goes_on_where_it_was() {
    let repo = S3Repo::serving("good", None);
    let server = repo.serve(&["--models", "anomaly"]);
    let onnx = repo.install_large(2, "other", LARGE);
    let (gets, after) = (3, 1 << 20);
    repo.proxy.set_for(MODEL, Fault::Breaks { gets, after });
    repo.point(2, None);
    serves(&server, 2);
    let sent = sent(&repo.proxy.requests_for(MODEL));
    assert!((onnx.len()..=onnx.len() + gets * after).contains(&sent), "{sent} bytes for {}", onnx.len());
}

#[test]
fn a_download_goes_on_after_a_kill() {
    let repo = S3Repo::serving("good", None);
    let server = repo.serve(&["--models", "anomaly"]);
    let onnx = repo.install_large(2, "other", LARGE);
    repo.proxy.set_for(MODEL, Fault::Slow(PART));
    repo.point(2, None);
    // Four at a time: with the sixth under way, at least two parts have been taken.
    wait_for("the sixth part", || (repo.proxy.requests_for(MODEL).len() >= 6).then_some(()));
    // Dropped is killed.
    drop(server);
    repo.proxy.set(Fault::None);
    repo.proxy.clear();
    let server = repo.serve(&["--models", "anomaly"]);
    serves(&server, 2);
    let sent = sent(&repo.proxy.requests_for(MODEL));
    assert!(sent <= onnx.len() - 2 * PART, "{sent} bytes more for {}", onnx.len());
    server.stop();
    assert!(files(&repo.cache().join("parts")).is_empty());
    assert_eq!(temporary(repo.cache()), Vec::<PathBuf>::new());
}

/// Other bytes under the same key while the first ones are on their way: the two are never put together.
#[test]
fn an_object_that_is_replaced_in_mid_download_never_serves() {
    let repo = S3Repo::serving("good", None);
    let server = repo.serve(&["--models", "anomaly"]);
    let before = server.predict(&row(3));
    let right = repo.install_large(2, "other", LARGE);
    let mut wrong = right.clone();
    wrong.reverse();
    repo.proxy.set_for(MODEL, Fault::Slow(PART));
    let epoch = repo.point(2, None);
    wait_for("a part", || repo.proxy.requests_for(MODEL).iter().any(|s| s.sent > PART / 2).then_some(()));
    repo.bucket.put("anomaly/2/model.onnx", wrong);
    repo.proxy.set(Fault::None);
    let status = settled(&server, epoch);
    assert!(status["rejected"][0]["passing"] == json!(true), "{status}");
    assert_eq!(server.predict(&row(3)), before);
    repo.bucket.put("anomaly/2/model.onnx", right);
    serves(&server, 2);
}

/// Every way in which S3 can be down at the start.
#[test]
fn a_start_needs_no_s3_when_the_cache_has_what_served() {
    let repo = S3Repo::serving("good", Some("other"));
    let server = repo.serve(&[]);
    wait_for("the challenger", || server.model_status("anomaly")["challengers"][0].is_object().then_some(()));
    let (first, at) = (server.predict(&row(3)), Instant::now());
    server.stop();
    for fault in [Fault::Refuse, Fault::Hang, Fault::Status(503, "SlowDown"), Fault::Status(403, "AccessDenied")] {
        repo.proxy.set(fault.clone());
        let server = repo.serve(&[]);
        assert_eq!(server.predict(&row(3)), first, "{fault:?}");
        let status = server.model_status("anomaly");
        assert_eq!((&status["champion"]["version"], &status["epoch"]), (&json!("1"), &json!(1)), "{fault:?}");
        assert_eq!(source(&server)["from_cache"], json!(true), "{fault:?}");
        let ready = server.ops("/readyz");
        assert_eq!(ready.status, 200, "{fault:?}");
        assert!(ready.text().contains("cannot be read"), "{fault:?}: {}", ready.text());
        // Time-outs are not waited for.
        assert!(fault != Fault::Hang || ready.text().contains("no answer in 3s"), "{}", ready.text());
        assert!(source(&server)["read_at"].as_f64().is_none_or(|then| then > 0.0));
    }
    repo.proxy.set(Fault::Refuse);
    let server = repo.serve(&[]);
    // The challenger is back too.
    wait_for("the challenger", || {
        (server.model_status("anomaly")["challengers"][0]["version"] == json!("2")).then_some(())
    });
    let page = server.ops("/readyz").text();
    assert!(page.chars().any(|c| c.is_ascii_digit()), "the age, which is {:?}, is told: {page}", at.elapsed());
    repo.point(2, Some(1));
    repo.proxy.set(Fault::None);
    serves(&server, 2);
    let status = wait_for("the repository", || Some(source(&server)).filter(|s| s["from_cache"] == json!(false)));
    assert_eq!(status["error"], json!(null));
}

/// Bits that rotted in the cache are found out and fetched anew.
#[test]
fn a_damaged_cache_never_serves() {
    let repo = S3Repo::serving("good", None);
    let server = repo.serve(&[]);
    let first = server.predict(&row(3));
    server.stop();
    let path = blob(&repo, 1);
    let whole = fs::read(&path).expect("it is kept");
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for damaged in [&flipped, &whole[..whole.len() / 2], b""] {
        fs::write(&path, damaged).expect("written");
        repo.proxy.set(Fault::Refuse);
        let server = repo.launch(&[]);
        wait_for("the error", || source(&server)["error"].as_str().map(str::to_owned));
        assert_eq!(server.ops("/readyz").status, 503);
        repo.proxy.set(Fault::None);
        wait_for("readiness", || (server.ops("/readyz").status == 200).then_some(()));
        assert_eq!(server.predict(&row(3)), first);
        server.stop();
        assert!(fs::read(&path).expect("it is kept") == whole);
    }
    // And so is a note that makes no sense.
    for note in files(&repo.cache().join("served")) {
        fs::write(note, "{\"champion\": ").expect("written");
    }
    let server = repo.serve(&[]);
    assert_eq!(server.predict(&row(3)), first);
}

/// What is in the cache is not fetched again.
#[test]
fn a_restart_fetches_no_model_again() {
    let repo = S3Repo::serving("good", None);
    repo.serve(&["--models", "anomaly"]).stop();
    repo.proxy.clear();
    let server = repo.serve(&["--models", "anomaly"]);
    wait_for("the repository", || (source(&server)["from_cache"] == json!(false)).then_some(()));
    assert_eq!(repo.proxy.requests_for("model.onnx").len(), 0);
    // Nor by another version with the same bytes.
    repo.install(2, "good");
    repo.point(2, None);
    serves(&server, 2);
    assert_eq!(repo.proxy.requests_for("model.onnx").len(), 0);
}

/// A cache that cannot be written, is full, or is off is told and costs nothing else.
#[test]
fn without_a_usable_cache_models_still_serve() {
    let repo = S3Repo::serving("good", None);
    repo.install(2, "other");
    let file = repo.cache().join("file");
    fs::write(&file, "no folder").expect("a file");
    let below = file.join("cache");
    let cases: [&[&str]; 3] = [
        &["--cache", below.to_str().expect("text")],
        // Less than a model.
        &["--cache-size", "1KiB"],
        &["--cache", "off"],
    ];
    for more in cases {
        let server = repo.serve(more);
        repo.point(2, None);
        serves(&server, 2);
        repo.point(1, None);
        serves(&server, 1);
        assert_eq!(source(&server)["error"], json!(null), "{more:?}");
        if more[1].ends_with("file/cache") {
            assert!(server.log().contains("cache"), "{}", server.log());
        }
    }
}

/// The cache's folders turn into something that cannot be written while the server runs.
#[test]
fn a_cache_that_fails_later_costs_nothing_else() {
    let repo = S3Repo::serving("good", None);
    repo.install_large(2, "other", 2 * PART);
    let server = repo.serve(&["--models", "anomaly"]);
    let before = server.predict(&row(3));
    for folder in fs::read_dir(repo.cache()).expect("a cache").flatten() {
        let path = folder.path();
        if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }.expect("removed");
        fs::write(path, "no folder").expect("written");
    }
    repo.point(2, None);
    serves(&server, 2);
    assert_ne!(server.predict(&row(3)), before);
    let epoch = repo.point(1, None);
    settled(&server, epoch);
    assert_eq!(server.predict(&row(3)), before);
}

/// Ten models of 1 MiB through a cache of 4 MiB: it stays in its bound and never loses what serves.
#[test]
fn the_cache_is_bounded_and_keeps_what_serves() {
    let repo = S3Repo::serving("good", None);
    let more = ["--models", "anomaly", "--cache-size", "4MiB"];
    let server = repo.serve(&more);
    let mut seen = BTreeSet::new();
    for version in 2..=11 {
        repo.install_large(version, if version % 2 == 0 { "other" } else { "good" }, 1 << 20);
        repo.point(version, None);
        serves(&server, version);
        let kept = wait_for("the blob", || fs::metadata(blob(&repo, version)).ok());
        assert!(kept.len() > 1 << 20);
        let all = wait_for("the bound", || {
            let all: u64 = files(repo.cache()).iter().filter_map(|path| fs::metadata(path).ok()).map(|m| m.len()).sum();
            (all <= 4 << 20).then_some(all)
        });
        seen.insert(all);
    }
    assert!(seen.iter().any(|all| *all > 2 << 20), "it is used: {seen:?}");
    assert!(!blob(&repo, 2).exists());
    let last = server.predict(&row(3));
    server.stop();
    repo.proxy.set(Fault::Refuse);
    let server = repo.serve(&more);
    assert_eq!(server.predict(&row(3)), last);
    assert_eq!(server.model_status("anomaly")["champion"]["version"], json!("11"));
}

/// Killed at random moments of fetch and swap: with S3 down, the next start serves the set from before or the one after.
#[test]
fn a_kill_at_any_moment_leaves_a_set_that_serves() {
    let repo = S3Repo::new();
    for version in 1..=4 {
        repo.install_large(version, if version % 2 == 1 { "good" } else { "other" }, 100 << 10);
    }
    repo.point(1, None);
    let server = repo.serve(&["--models", "anomaly"]);
    let good = server.predict(&row(3));
    repo.point(2, None);
    serves(&server, 2);
    let other = server.predict(&row(3));
    drop(server);
    let mut last = 2;
    for round in 0..20_u32 {
        repo.proxy.set(Fault::Refuse);
        let server = repo.serve(&["--models", "anomaly"]);
        let version = server.model_status("anomaly")["champion"]["version"].as_str().and_then(|v| v.parse().ok());
        let version: u32 = version.expect("a version");
        // The one from the round before may have come or not.
        let before = if last == 1 { 4 } else { last - 1 };
        assert!(version == last || version == before, "round {round}: {version}, not {last} or {before}");
        assert_eq!(
            server.predict(&row(3)),
            if version % 2 == 1 { good.clone() } else { other.clone() },
            "round {round}"
        );
        let left = temporary(repo.cache());
        assert!(left.len() <= 1, "round {round}: {left:?}");
        last = version % 4 + 1;
        repo.point(last, None);
        repo.proxy.set(Fault::None);
        // Up to where the swap is done.
        let moment = Instant::now() + Duration::from_millis(u64::from(round * 37 % 20) * 25);
        wait_for("the moment", || (Instant::now() >= moment).then_some(()));
        drop(server);
    }
    let server = repo.serve(&["--models", "anomaly"]);
    serves(&server, last);
    server.stop();
    assert_eq!(temporary(repo.cache()), Vec::<PathBuf>::new());
}

/// Files that a killed process left are cleaned up.
#[test]
fn what_a_killed_process_left_is_cleaned_up() {
    let repo = S3Repo::serving("good", None);
    drop(repo.serve(&[]));
    for folder in ["blobs", "parts", "served"] {
        let folder = repo.cache().join(folder);
        fs::create_dir_all(&folder).expect("a folder");
        fs::write(folder.join("left.tmp"), "half").expect("a file");
    }
    let _server = repo.serve(&[]);
    wait_for("the files to go", || temporary(repo.cache()).is_empty().then_some(()));
}

/// A disk that is full: what does not fit is served all the same, nothing half is left, and what fits is kept.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_costs_the_cache_and_nothing_else() {
    let repo = S3Repo::new();
    repo.install_large(1, "good", 200 << 10);
    repo.install(2, "other");
    repo.point(1, None);
    let small_disk = format!("mount -t tmpfs -o size=100k none {}", repo.cache().display());
    let endpoint = repo.proxy.endpoint();
    let server = Server::launch_after(&small_disk, repo.bucket.url().as_ref(), &repo.args(&endpoint, &[]));
    serves(&server, 1);
    wait_for("the warning", || server.log().contains("the cache cannot be written").then_some(()));
    // The disk as the server sees it.
    let disk = PathBuf::from(format!("/proc/{}/root{}", server.pid(), repo.cache().display()));
    assert_eq!(temporary(&disk), Vec::<PathBuf>::new());
    repo.point(2, None);
    serves(&server, 2);
    let kept = fs::read(repo.local().version(2).join("model.onnx")).expect("a model");
    let path = disk.join("blobs").join(onnxd::source::sha256(&kept));
    wait_for("what fits", || (fs::read(&path).ok()? == kept).then_some(()));
}
