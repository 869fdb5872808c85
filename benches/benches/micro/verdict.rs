//! What the verdict on a challenger costs: a pair of answers more, another server's evidence, a decision.

use std::hint::black_box;

use anyhow::{Result, ensure};
use benches::pairs::{self, DIFFERENT, HORIZON, With};
use criterion::{BatchSize, Criterion, Throughput};
use onnxd::{
    judge::{Settings, judge},
    shadow::{
        state::{Compared, State, Version},
        stats::Statistics,
    },
    verdict::{
        drift::Drift,
        state::{Answer, Evidence, Recorder},
    },
};

/// Series, each with a row a minute, of which a server sees its share.
const SERIES: u64 = 20;
/// Two days of them.
const ROWS: u64 = SERIES * 2 * 24 * 60;
const SERVERS: usize = 3;

pub(crate) fn measure(criterion: &mut Criterion) -> Result<()> {
    let answers = pairs::answers();
    let mut group = criterion.benchmark_group("verdict");
    group.throughput(Throughput::Elements(1));
    for (name, with) in
        [("a pair", With::Nothing), ("a pair with a value", With::Values), ("a pair with labels", With::Labels)]
    {
        let mut recorder = Recorder::new(Some(HORIZON));
        let mut number = 0;
        let mut record = || {
            pairs::row(&mut recorder, SERIES, number, &answers, with);
            number += 1;
        };
        // As many as are kept, so that each further row takes the place of another.
        (0..2 * DIFFERENT).for_each(|_| record());
        group.bench_function(name, |b| b.iter(&mut record));
    }

    let states: Vec<State> = (0..SERVERS).map(|server| state(server, &answers)).collect();
    let [mine, theirs] = [0, 1].map(|server: usize| &states[server].challengers[0].evidence);
    group.bench_function("merge two servers", |b| {
        b.iter_batched_ref(|| mine.clone(), |mine| mine.merge(black_box(theirs)), BatchSize::SmallInput);
    });
    let settings = Settings::default();
    let now = mine.until.unwrap_or_default() + HORIZON;
    for (name, servers) in [("judge one server", 1), ("judge three servers", SERVERS)] {
        let decide = |states: &[State]| judge(states, &[], &settings, now).map_err(anyhow::Error::msg);
        let judgement = decide(&states[..servers])?;
        ensure!(judgement.servers.told == servers && judgement.verdicts.len() == 1, "not all that was told is judged");
        group.bench_function(name, |b| {
            b.iter(|| decide(black_box(&states[..servers])).expect("they were judged just now"));
        });
    }
    group.finish();
    Ok(())
}

/// What a server tells that saw each so many rows of two days, with values and labels.
fn state(server: usize, answers: &[(Answer, Answer)]) -> State {
    let mut recorder = Recorder::new(Some(HORIZON));
    for number in (0..ROWS).skip(server).step_by(SERVERS) {
        pairs::row(&mut recorder, SERIES, number, answers, With::Labels);
    }
    let version = |number: &str| Version { version: number.into(), sha256: number.repeat(64) };
    let evidence: Evidence = recorder.evidence().clone();
    let statistics = Statistics { pairs: evidence.requests, ..Statistics::default() };
    let challenger = Compared {
        role: "challenger".into(),
        version: version("2"),
        agreement: None,
        statistics,
        evidence,
        drift: Drift::default(),
    };
    State {
        model: "anomaly".into(),
        server: format!("server-{server}"),
        epoch: 1,
        event_time: false,
        horizon_seconds: Some(HORIZON),
        champion: version("1"),
        challengers: vec![challenger],
        refused: vec![],
        drift: Drift::default(),
        previous: None,
    }
}
