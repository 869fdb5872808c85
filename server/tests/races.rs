//! Several change the same pointer at the same moment: each change is made once or not at all, and stands in the ledger once.

mod common;

use std::fs;
use std::sync::Barrier;

use common::peer::{Peer, compared, running, state, two_days};
use common::repo::{Repo, serves};
use common::{Server, wait_for};
use onnxd::promotion::{Author, Change, ChangeError, Changed, change};
use onnxd::source::{Options, Source, sha256};
use serde_json::{Value, json};

fn open(repo: &Repo) -> Source {
    Source::open(&Options { repository: repo.path().into(), ..Options::default() }).expect("a folder")
}

fn author(by: &str) -> Author {
    Author { by: by.into(), reason: "the test".into(), evidence: Value::Null }
}

fn read(repo: &Repo, name: &str) -> Value {
    serde_json::from_slice(&fs::read(repo.path().join("anomaly").join(name)).expect("a file")).expect("JSON")
}

/// The pointer, after it was held against the ledger: one record for each epoch, each naming the one before if it could know it.
#[track_caller]
fn whole(repo: &Repo) -> Value {
    let aliases = read(repo, "aliases.json");
    let epoch = aliases["epoch"].as_u64().expect("a number");
    let folder = repo.path().join("anomaly/ledger");
    let mut names: Vec<String> = fs::read_dir(&folder)
        .expect("a ledger")
        .map(|file| file.expect("a file").file_name().into_string().expect("text"))
        .collect();
    names.sort();
    // The pointer of the first epoch was written by hand.
    let expected: Vec<String> = (1..=epoch).map(|epoch| format!("{epoch}.json")).collect();
    assert_eq!(names, expected, "{aliases}");
    for epoch in 2..=epoch {
        let record = read(repo, &format!("ledger/{epoch}.json"));
        assert_eq!(record["epoch"], json!(epoch));
        let before = sha256(&fs::read(folder.join(format!("{}.json", epoch - 1))).expect("a record"));
        let named = &record["previous_record_sha256"];
        assert!(named.is_null() || *named == json!(before), "{record}");
    }
    let latest = read(repo, &format!("ledger/{epoch}.json"));
    for key in ["champion", "challengers", "by"] {
        assert_eq!(latest[key], aliases[key], "{key}");
    }
    aliases
}

/// Makes all changes at once.
fn race(repo: &Repo, changes: &[(Change, Option<u64>)]) -> Vec<Result<Changed, ChangeError>> {
    let start = Barrier::new(changes.len());
    std::thread::scope(|scope| {
        let racing: Vec<_> = changes
            .iter()
            .enumerate()
            .map(|(number, (wanted, expected))| {
                let start = &start;
                scope.spawn(move || {
                    let source = open(repo);
                    start.wait();
                    change(&source, "anomaly", wanted, &author(&format!("number {number}")), *expected, false)
                })
            })
            .collect();
        racing.into_iter().map(|racer| racer.join().expect("no panic")).collect()
    })
}

/// A verdict rejects what a person promotes at that moment: one of both is told that it was late, or the person was, and decided
/// after the verdict.
#[test]
fn a_rejection_never_undoes_a_promotion() {
    for _ in 0..60 {
        let repo = Repo::serving("good", Some("other"));
        let changes = [(Change::Reject("2".into()), Some(1)), (Change::Promote(Some("2".into())), None)];
        let outcomes = race(&repo, &changes);
        let aliases = whole(&repo);
        assert_eq!(aliases["challengers"], json!([]));
        let done = |outcome: &Result<Changed, ChangeError>| match outcome {
            Ok(done) => {
                assert!(done.changed && done.warning.is_none(), "{done:?}");
                true
            }
            Err(error) => {
                assert!(matches!(error, ChangeError::Lost(_)), "{error:?}");
                false
            }
        };
        let (rejected, promoted) = (done(&outcomes[0]), done(&outcomes[1]));
        assert!(rejected || promoted);
        assert_eq!(aliases["champion"], json!(if promoted { "2" } else { "1" }));
        assert_eq!(aliases["epoch"], json!(1 + u64::from(rejected) + u64::from(promoted)));
    }
}

/// Two servers that are each other's peers come to the same verdict at the same time.
#[test]
fn two_servers_in_auto_mode_promote_once() {
    let (repo, peer) = (Repo::serving("good", Some("other")), Peer::start());
    let start = |peers: &str| {
        Server::start(repo.path(), &["--verdict", "auto", "--verdict-interval", "100ms", "--peers", peers])
    };
    let first = start(&peer.address.to_string());
    let second = start(&format!("{},{}", first.ops, peer.address));
    let status = wait_for("the challenger", || {
        Some(second.model_status("anomaly")).filter(|status| status["challengers"][0].is_object())
    });
    let (epoch, champion, challenger) = running(&status);
    let seen = vec![compared("challenger", challenger, two_days(2.0, 0, 1))];
    peer.tell_state(&state("peer", epoch, champion, seen));
    let servers = [&first, &second];
    servers.iter().for_each(|server| drop(serves(server, 2)));
    let counted = |outcome: &str| -> f64 {
        let series = format!("onnxd_promotions_total{{model=\"anomaly\",outcome=\"{outcome}\"}}");
        servers.iter().filter_map(|server| server.metric(&series)).sum()
    };
    wait_for("the count", || (counted("auto_promoted") >= 1.0).then_some(()));
    let asked = peer.asked();
    wait_for("more judgements", || (peer.asked() > asked + 6).then_some(()));
    let aliases = whole(&repo);
    assert_eq!((&aliases["champion"], &aliases["epoch"]), (&json!("2"), &json!(2)));
    assert_eq!((counted("auto_promoted"), counted("failed")), (1.0, 0.0));
    assert!(counted("lost") <= 1.0, "{}", counted("lost"));
}
