//! A day in minutes: promotions and rollbacks under load, with challengers that fail and an S3 server that does. Nothing is lost or
//! mixed, and memory, threads and files stay what they were.
//!
//! `make soak` is the whole of it, and draws docs/reliability/soak.svg.

#![expect(clippy::disallowed_methods, reason = "the long run is asked for by the environment")]

mod common;

use std::fmt::Write as _;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use common::http::{Load, request};
use common::proxy::Fault;
use common::repo::{row, settled};
use common::s3repo::S3Repo;
use common::{Server, resident, wait_for};
use serde_json::{Value, json};
use tempfile::NamedTempFile;

/// Rows of a large request.
const ROWS: usize = 200;
const TOKEN: &str = "a-secret-of-the-tests";
/// Bodies that are sent in turn.
const BODIES: usize = 20;
/// Samples of a run.
const SAMPLES: u32 = 30;

/// A number of the environment, for the long run.
fn setting(name: &str, default: u32) -> u32 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

fn bodies() -> Vec<String> {
    let body = |turn| match turn % 4 {
        0 => row(turn).to_string(),
        // On these, some challengers fail.
        1 => Value::from(vec![json!({"cpu_zscore": 55, "memory_zscore": turn}); ROWS]).to_string(),
        _ => Value::from(vec![row(turn); ROWS]).to_string(),
    };
    (0..BODIES).map(body).collect()
}

/// What a server takes of the system.
struct Sample {
    seconds: f64,
    changes: u32,
    rows: u64,
    resident: u64,
    threads: usize,
    files: usize,
}

impl Sample {
    fn of(server: &Server, begin: Instant, changes: u32, rows: u64) -> Self {
        let count = |what: &str| fs::read_dir(format!("/proc/{}/{what}", server.pid())).expect("a process").count();
        Self {
            seconds: begin.elapsed().as_secs_f64(),
            changes,
            rows,
            resident: resident(server.pid()),
            threads: count("task"),
            files: count("fd"),
        }
    }
}

#[test]
fn a_day_loses_nothing_and_leaves_nothing_behind() {
    let (changes, least_rows) = (setting("ONNXD_SOAK_CHANGES", 300), u64::from(setting("ONNXD_SOAK_ROWS", 100_000)));
    let repo = S3Repo::new();
    for version in 1..=4 {
        repo.install(version, if version % 2 == 1 { "good" } else { "other" });
    }
    // Challengers: two that are well, four that fail, one that is refused, one that hangs.
    let challengers =
        ["other", "good", "slow", "nan-sometimes", "fails-sometimes", "batch-mean", "wrong-golden", "hang"];
    for (version, name) in (11..).zip(challengers) {
        repo.install(version, name);
    }
    repo.point(1, None);
    let arguments = ["--models", "anomaly", "--probe-timeout", "2s", "--guard-period", "0s", "--admin-token-file"];
    let token = NamedTempFile::new().expect("a file");
    fs::write(token.path(), TOKEN).expect("written");
    let arguments = [&arguments[..], &[token.path().to_str().expect("text")]].concat();
    let server = repo.serve(&arguments);
    // At once, where S3 lets it; else at the next poll.
    let look = || {
        let authorization = format!("Bearer {TOKEN}");
        request(server.ops, "POST", "/models/anomaly/reload", &[("authorization", &authorization)], b"")
    };
    let bodies = bodies();
    let answers = |version: u32| -> Vec<Vec<u8>> {
        settled(&server, repo.point(version, None));
        let answer = |body: &String| server.post("/predict", body).body;
        bodies.iter().map(answer).collect()
    };
    let expected = [answers(2), answers(1)];
    assert!(expected[0].iter().zip(&expected[1]).all(|(even, odd)| even != odd && !even.is_empty()));
    let rows = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&rows);
    let load = Load::start(
        server.http,
        4,
        move |turn| bodies[turn % BODIES].clone(),
        move |turn, reply| {
            let version: usize = reply.header("x-model-version").parse().map_err(|_| reply.text())?;
            let turn = turn % BODIES;
            counted.fetch_add(if turn.is_multiple_of(4) { 1 } else { ROWS as u64 }, Ordering::Relaxed);
            if reply.status == 200 && reply.body == expected[version % 2][turn] {
                Ok(())
            } else {
                Err(format!("version {version}: {} {:.300}", reply.status, reply.text()))
            }
        },
    );
    let faults = [
        Fault::Refuse,
        Fault::Status(503, "SlowDown"),
        Fault::Truncate(300),
        Fault::Flip,
        Fault::XmlError,
        Fault::OtherEtag,
        Fault::Stale,
        Fault::Status(403, "AccessDenied"),
    ];
    let begin = Instant::now();
    let mut samples = vec![];
    for change in 0..changes {
        let number = change as usize;
        let fault = (change % 10 == 9).then(|| faults[number / 10 % faults.len()].clone());
        fault.into_iter().for_each(|fault| repo.proxy.set(fault));
        // Mostly champion and challenger change places; every fifth time comes what must be loaded, every hundredth what hangs.
        let champion = 1 + if change.is_multiple_of(5) { 2 + change / 5 % 2 } else { change % 2 };
        let challenger = match change % 100 {
            50 => Some(18),
            n if n.is_multiple_of(5) => Some(11 + change / 5 % 7),
            n if n.is_multiple_of(7) => None,
            _ => Some(3 - champion.min(2)),
        };
        let epoch = repo.point(champion, challenger);
        if change % 10 == 9 {
            let before = load.answered();
            wait_for("answers", || (load.answered() > before + 20 || !load.problems().is_empty()).then_some(()));
            repo.proxy.set(Fault::None);
        }
        look();
        let status = settled(&server, epoch);
        assert_eq!(status["champion"]["version"], json!(champion.to_string()), "change {change}: {status}");
        assert_eq!(load.problems(), Vec::<String>::new(), "change {change}");
        if (change + 1).is_multiple_of((changes / SAMPLES).max(1)) {
            samples.push(Sample::of(&server, begin, change + 1, rows.load(Ordering::Relaxed)));
        }
    }
    wait_for("the last rows", || (rows.load(Ordering::Relaxed) >= least_rows).then_some(()));
    let (answered, problems) = load.finish();
    assert!(problems.is_empty(), "{problems:?}");
    let mut table = String::from("seconds,changes,rows,resident,threads,files\n");
    for Sample { seconds, changes, rows, resident, threads, files } in &samples {
        writeln!(table, "{seconds:.1},{changes},{rows},{resident},{threads},{files}").expect("text");
    }
    eprintln!("{answered} answers\n{table}");
    if let Ok(path) = std::env::var("ONNXD_SOAK_TABLE") {
        fs::write(path, &table).expect("written");
    }
    // It goes up and down, as models come and go, and is not more in the end.
    let third = samples.len() / 3;
    let most = |of: fn(&Sample) -> u64| samples[..third].iter().map(of).max().expect("samples");
    let least = |of: fn(&Sample) -> u64| samples[2 * third..].iter().map(of).min().expect("samples");
    assert!(least(|sample| sample.resident) < most(|sample| sample.resident) + (8 << 20), "{table}");
    assert!(samples.iter().all(|sample| sample.threads < 64 && sample.files < 64), "{table}");
}
