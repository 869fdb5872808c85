//! Swaps: without a lost or a mixed answer, and never to a model that should not serve.

mod common;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::http::Load;
use common::repo::{Repo, fixture, row, settled};
use common::{Server, resident, wait_for};
use serde_json::{Value, json};

/// 1,000 promotions under 64 connections. `good` and `other` answer every row differently, so an answer that mixes them,
/// or that comes from another version than its header says, shows.
#[test]
fn a_thousand_swaps_under_load_lose_and_mix_nothing() {
    let repo = Repo::new();
    for version in 1..=6 {
        repo.install(version, if version % 2 == 1 { "good" } else { "other" });
    }
    repo.point(1, Some(2));
    let server = Server::start(repo.path(), &[]);
    let answers = |version: u32| -> Vec<Value> {
        let epoch = repo.point(version, None);
        settled(&server, epoch);
        (0..60).map(|turn| server.predict(&row(turn))).collect()
    };
    let (good, other) = (answers(1), answers(2));
    assert!(good.iter().zip(&other).all(|(a, b)| a["score"] != b["score"] && a["forecast"] != b["forecast"]));
    let seen = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
    let count = Arc::clone(&seen);
    let load = Load::start(
        server.http,
        64,
        |turn| row(turn).to_string(),
        move |turn, reply| {
            let version: usize = reply.header("x-model-version").parse().map_err(|_| reply.text())?;
            let expected = if version % 2 == 1 { &good } else { &other };
            count[version % 2].fetch_add(1, Ordering::Relaxed);
            if reply.status == 200 && reply.json() == expected[turn % 60] {
                Ok(())
            } else {
                Err(format!("version {version}: {} {}", reply.status, reply.text()))
            }
        },
    );
    let mut memory = vec![];
    for swap in 0..1_000_u32 {
        // Mostly the champion and the challenger change places, as promotion and rollback do; every tenth time versions
        // come that must be loaded.
        let (champion, challenger) = match swap % 10 {
            0 => (3 + swap / 10 % 2, Some(5)),
            5 => (1, Some(2)),
            n => (1 + n % 2, Some(2 - n % 2)),
        };
        let epoch = repo.point(champion, challenger);
        let status = settled(&server, epoch);
        assert_eq!(status["rejected"], json!([]), "swap {swap}");
        assert_eq!(status["champion"]["version"], json!(champion.to_string()));
        assert_eq!(status["challengers"][0]["version"], json!(challenger.map(|v| v.to_string())));
        if swap % 100 == 99 {
            memory.push(resident(server.pid()));
        }
        assert_eq!(load.problems(), Vec::<String>::new(), "swap {swap}");
    }
    let (answered, problems) = load.finish();
    assert!(problems.is_empty(), "{problems:?}");
    assert!(answered > 1_000, "{answered} answers");
    assert!(seen.iter().all(|n| n.load(Ordering::Relaxed) > 100), "both models answered");
    // Flat: after the first 500 swaps, the other 500 add less than 10 MiB.
    eprintln!("resident memory by 100 swaps: {memory:?}");
    let growth = memory[memory.len() - 1].saturating_sub(memory[4]);
    assert!(growth < 10 << 20, "resident memory by 100 swaps: {memory:?}");
    let threads = server.metric("process_threads").expect("a series");
    assert!(threads < 30.0, "{threads} threads");
}

#[test]
fn a_signature_change_is_accepted_when_asked_for() {
    let repo = Repo::serving("good", None);
    repo.install(2, "needs-more");
    let server = Server::start(repo.path(), &["--allow-signature-change"]);
    settled(&server, repo.point(2, None));
    let reply = server.post("/predict", r#"{"cpu_zscore":1,"memory_zscore":1}"#);
    assert_eq!((reply.status, reply.json()["field"].clone()), (422, json!("gpu_zscore")));
}

/// Broken `aliases.json` files: what serves goes on, and the reason is told.
#[test]
fn a_broken_pointer_changes_nothing() {
    let repo = Repo::serving("good", None);
    let server = Server::start(repo.path(), &[]);
    let before = server.predict(&row(3));
    for (text, reason) in [
        ("{\"champion\": \"1\", ", "EOF"),
        ("", "EOF"),
        (r#"{"champion": 1}"#, "expected a string"),
        (r#"{"champion": "../2"}"#, "positive whole number"),
        (r#"{"champion": "1", "manifest_sha256": {}}"#, "add the SHA-256 of 1/manifest.json"),
    ] {
        repo.write_aliases(text);
        wait_for(reason, || server.model_status("anomaly")["error"].as_str()?.contains(reason).then_some(()));
        assert_eq!(server.predict(&row(3)), before);
        assert_eq!(server.ops("/readyz").status, 200);
    }
    fs::remove_dir_all(repo.path().join("anomaly")).expect("a folder");
    server.metric("onnxd_ready").filter(|r| *r == 1.0).expect("still ready");
    assert_eq!(server.predict(&row(3)), before);
}

/// A model file alone, rewritten in place bit by bit and by rename: each new content is served once it is whole.
#[test]
fn a_file_is_served_anew_when_it_is_whole() {
    use std::io::Write;
    let folder = tempfile::TempDir::new().expect("a folder");
    let path = folder.path().join("m.onnx");
    fs::copy(fixture("good/model.onnx"), &path).expect("a file");
    let server = Server::start(&path, &[]);
    let ask = || server.post("/predict", r#"{"features": [3, 1, 0, 50, 10]}"#).json()["score"].clone();
    let good = ask();
    let bytes = fs::read(fixture("other/model.onnx")).expect("a fixture");
    let mut file = fs::File::create(&path).expect("a file");
    for chunk in bytes.chunks(bytes.len() / 10) {
        file.write_all(chunk).expect("written");
        assert_eq!(ask(), good, "while it is written");
    }
    drop(file);
    let other = wait_for("the rewritten file", || Some(ask()).filter(|score| *score != good));
    let next = folder.path().join("next");
    fs::copy(fixture("good/model.onnx"), &next).expect("a file");
    fs::rename(next, &path).expect("a rename");
    wait_for("the renamed file", || Some(ask()).filter(|score| *score == good));
    assert_ne!(good, other);
    // The same bytes once more are no new model.
    let swaps =
        server.metric("onnxd_model_swaps_total{model=\"m\",role=\"champion\",outcome=\"published\",stage=\"publish\"}");
    fs::copy(fixture("good/model.onnx"), &path).expect("a file");
    wait_for("a look", || {
        (server.metric("onnxd_model_load_duration_seconds_count{stage=\"fetch\"}")? > 3.0).then_some(())
    });
    assert_eq!(
        server.metric("onnxd_model_swaps_total{model=\"m\",role=\"champion\",outcome=\"published\",stage=\"publish\"}"),
        swaps
    );
}

/// A mounted ConfigMap: everything is a link through `..data`, which is renamed over.
#[test]
fn a_mounted_volume_is_followed_through_its_links() {
    let volume = tempfile::TempDir::new().expect("a folder");
    let write = |generation: &str, champion: u32| {
        let repo = Repo::new();
        repo.install(1, "good");
        repo.install(2, "other");
        repo.point(champion, None);
        let status =
            std::process::Command::new("cp").arg("-r").arg(repo.path()).arg(volume.path().join(generation)).status();
        assert!(status.expect("cp").success());
        let temporary = volume.path().join("..data_tmp");
        std::os::unix::fs::symlink(generation, &temporary).expect("a link");
        fs::rename(temporary, volume.path().join("..data")).expect("a rename");
    };
    write("..2026_1", 1);
    std::os::unix::fs::symlink(Path::new("..data/anomaly"), volume.path().join("anomaly")).expect("a link");
    let server = Server::start(volume.path(), &[]);
    let version = || server.post("/predict", &row(1).to_string()).header("x-model-version").to_owned();
    assert_eq!(version(), "1");
    for turn in 2..6_u32 {
        let champion = 1 + (turn + 1) % 2;
        write(&format!("..2026_{turn}"), champion);
        fs::remove_dir_all(volume.path().join(format!("..2026_{}", turn - 1))).expect("a folder");
        wait_for("the new generation", || (version() == champion.to_string()).then_some(()));
    }
}

#[test]
fn a_server_without_a_model_is_live_but_not_ready_until_one_comes() {
    let repo = Repo::new();
    let server = Server::launch(repo.path(), &[]);
    assert_eq!(server.ops("/livez").status, 200);
    assert_eq!(server.ops("/readyz").status, 503);
    let reply = server.post("/predict", &row(1).to_string());
    assert_eq!((reply.status, reply.header("retry-after")), (503, "1"));
    repo.install(1, "good");
    repo.point(1, None);
    wait_for("readiness", || (server.ops("/readyz").status == 200).then_some(()));
    server.predict(&row(1));
}

/// Other folders, broken or not, beside the model that serves.
#[test]
fn a_broken_neighbour_does_not_take_the_default_away() {
    let repo = Repo::serving("good", None);
    let server = Server::start(repo.path(), &[]);
    let before = server.predict(&row(3));
    let neighbour = repo.path().join("scratch");
    fs::create_dir(&neighbour).expect("a folder");
    fs::write(neighbour.join("aliases.json"), "garbage").expect("a file");
    wait_for("the report", || server.model_status("scratch")["error"].as_str().map(str::to_owned));
    assert_eq!(server.predict(&row(3)), before);
    fs::remove_dir_all(&neighbour).expect("a folder");
    wait_for("the report to go", || server.model_status("scratch").is_null().then_some(()));
    // A second model that serves does not change what /predict means either.
    let status = std::process::Command::new("cp").arg("-r").arg(repo.version(1)).arg(&neighbour).status();
    assert!(status.expect("cp").success());
    fs::create_dir(neighbour.join("1")).expect("a folder");
    fs::rename(neighbour.join("model.onnx"), neighbour.join("1/model.onnx")).expect("a rename");
    fs::remove_file(neighbour.join("manifest.json")).expect("a file");
    wait_for("the second model", || server.model_status("scratch")["champion"]["version"].as_str().map(str::to_owned));
    assert_eq!(server.predict(&row(3)), before);
}

#[test]
fn going_back_is_allowed_whatever_the_new_champion_gave_more() {
    let repo = Repo::serving("fewer-outputs", None);
    repo.install(2, "good");
    let server = Server::start(repo.path(), &[]);
    settled(&server, repo.point(2, None));
    let status = settled(&server, repo.point(1, None));
    assert_eq!((&status["champion"]["version"], &status["rejected"]), (&json!("1"), &json!([])));
}

/// The pointer arrives before its files: they are looked for again until they are whole, and the log is not filled.
#[test]
fn files_that_come_after_the_pointer_are_found() {
    let repo = Repo::serving("good", None);
    let server = Server::start(repo.path(), &["--poll-interval", "100ms"]);
    repo.install(2, "other");
    let whole = fs::read(repo.version(2).join("model.onnx")).expect("a file");
    fs::write(repo.version(2).join("model.onnx"), &whole[..100]).expect("a file");
    let epoch = repo.point(2, None);
    wait_for("several looks", || {
        let looks = server.metric("onnxd_source_polls_total{source=\"file\",outcome=\"unchanged\"}")?;
        (looks > 6.0).then_some(())
    });
    assert_eq!(server.model_status("anomaly")["rejected"][0]["passing"], json!(true));
    fs::write(repo.path().join("whole"), &whole).expect("a file");
    fs::rename(repo.path().join("whole"), repo.version(2).join("model.onnx")).expect("a rename");
    wait_for("the swap", || (server.model_status("anomaly")["epoch"] == json!(epoch)).then_some(()));
    let told = server.log().lines().filter(|l| l.contains("a model was refused")).count();
    assert_eq!(told, 1, "the same reason is told once");
}

#[test]
fn a_misnamed_challenger_does_not_hold_the_champion_back() {
    let repo = Repo::serving("good", None);
    repo.install(2, "other");
    let server = Server::start(repo.path(), &[]);
    let sha256 = onnxd::source::sha256(&fs::read(repo.version(2).join("manifest.json")).expect("a file"));
    repo.write_aliases(
        &json!({"champion": "2", "challengers": ["7"], "epoch": 9, "manifest_sha256": {"2": sha256}}).to_string(),
    );
    // The champion serves before anything is said of its challenger.
    let status = wait_for("the refusal", || {
        Some(server.model_status("anomaly")).filter(|status| status["rejected"][0].is_object())
    });
    assert_eq!(
        (&status["champion"]["version"], &status["rejected"][0]["role"], &status["rejected"][0]["version"]),
        (&json!("2"), &json!("challenger"), &json!("7"))
    );
}

/// A bare version gets its manifest later: it takes over from what was read off the graph.
#[test]
fn a_manifest_that_comes_later_is_taken() {
    let repo = Repo::new();
    repo.install(1, "good");
    let manifest = fs::read(repo.version(1).join("manifest.json")).expect("a file");
    fs::remove_file(repo.version(1).join("manifest.json")).expect("a file");
    let server = Server::start(repo.path(), &[]);
    let signature = || server.model_status("anomaly")["champion"]["signature"].clone();
    assert_eq!(signature(), json!("inferred"));
    fs::write(repo.version(1).join("manifest.json"), manifest).expect("a file");
    wait_for("the manifest", || (signature() == json!("manifest")).then_some(()));
    server.predict(&row(3));
    // From now on a version without a manifest is one that is not complete.
    fs::create_dir(repo.version(2)).expect("a folder");
    fs::copy(fixture("other/model.onnx"), repo.version(2).join("model.onnx")).expect("a file");
    server.predict(&row(3));
    assert_eq!(server.model_status("anomaly")["champion"]["version"], json!("1"));
}

/// Champion and challenger change places: the shadow's thread has a session of its own in both.
#[test]
fn a_champion_can_be_its_own_challenger() {
    let repo = Repo::serving("slow", None);
    let server = Server::start(repo.path(), &[]);
    settled(&server, repo.point(1, Some(1)));
    server.predict(&row(3));
    let statistics = wait_for("a pair", || Some(server.shadow()).filter(|s| s["pairs"] == json!(1)));
    assert_eq!((&statistics["agreements"], &statistics["score_difference"]["sum_abs"]), (&json!(1), &json!(0.0)));
}

#[test]
fn a_default_that_does_not_fit_its_type_is_refused() {
    let repo = Repo::serving("good", None);
    let server = Server::start(repo.path(), &[]);
    for (feature, reason) in [
        (
            json!({"name": "cpu_scale", "required": false, "missing": "default", "default": 1e300}),
            "not finite as float32",
        ),
        (json!({"name": "cpu_scale", "required": false, "missing": "default"}), "there is no default"),
    ] {
        repo.install(2, "good");
        repo.edit(2, |manifest| manifest["signature"]["inputs"][0]["features"][4] = feature);
        let status = settled(&server, repo.point(2, None));
        assert!(status["rejected"][0]["reason"].as_str().expect("text").contains(reason), "{status}");
    }
}

/// With little memory the champion before is not kept; going back to it loads it again.
#[test]
fn a_rollback_works_without_room_for_the_champion_before() {
    let repo = Repo::serving("good", None);
    repo.install(2, "other");
    let server = Server::start(repo.path(), &["--probe-memory", "1GiB", "--memory-limit", "1MiB"]);
    let before = server.predict(&row(3));
    let status = settled(&server, repo.point(2, None));
    assert_eq!((&status["previous"], &status["guard"]), (&json!(null), &json!(null)));
    assert!(server.log().contains("memory is short"));
    settled(&server, repo.point(1, None));
    assert_eq!(server.predict(&row(3)), before);
}

/// Where the system cannot watch (limits reached, some network file systems), polling finds the changes.
#[cfg(target_os = "linux")]
#[test]
fn without_watches_changes_are_found_by_polling() {
    let repo = Repo::serving("good", None);
    repo.install(2, "other");
    let no_watches = "echo 0 > /proc/sys/user/max_inotify_instances";
    let server = Server::launch_after(no_watches, repo.path(), &["--poll-interval", "100ms"]);
    settled(&server, 1);
    assert_eq!(server.ops("/status").json()["source"]["watching"], json!(false));
    assert!(server.log().contains("changes are looked for every 100ms only"), "{}", server.log());
    settled(&server, repo.point(2, None));
    assert_eq!(server.model_status("anomaly")["champion"]["version"], json!("2"));
}
