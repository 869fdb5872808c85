//! What is recorded of rows and labels: against a count of all of them at once, against itself on several servers, over
//! a restart, and against states that nobody would send in good faith.

use std::collections::BTreeMap;
use std::time::Duration;

use fastrand::Rng;
use onnxd::verdict::draws::{Draws, MOST};
use onnxd::verdict::drift::{Drift, Drifts, Reference};
use onnxd::verdict::rule::{Circumstances, Kind, Rule};
use onnxd::verdict::state::{Answer, Events, Evidence, Joined, Label, Recorder, Row, Saved, Source, Target};
use serde_json::{Value, json};

use crate::Cases;

const HORIZON: u64 = 300;
/// Series with one row a minute; as many again have several rows at the same second.
const SERIES: u64 = 8;

/// What comes, in the order in which it does.
#[derive(Clone, Copy)]
enum Event {
    Row(u64, Row),
    Label(Label),
    Time(u64, u64),
}

fn truth(series: u64, at: u64) -> bool {
    (series * 7 + at / 900).is_multiple_of(5)
}

fn answer(random: &mut Rng, at: u64, series: u64, quality: f64) -> Answer {
    let alarm = (random.f64() < quality) == truth(series, at) && random.u32(..3) == 0;
    let number = |random: &mut Rng| f64::from(random.f32());
    Answer { alarm: Some(alarm), score: Some(number(random)), forecast: Some(40.0 + 9.0 * number(random)) }
}

/// Rows of all series for so many minutes, and labels of them: by id, by time, and by windows that begin before they
/// are told and end after it. A label says what is true, whoever says it and whenever.
fn stream(random: &mut Rng, minutes: u64) -> Vec<Event> {
    let mut events = vec![];
    let mut id = 0;
    for minute in 0..minutes {
        for series in 1..=2 * SERIES {
            let at = 60 * minute + series;
            let value = Some(45.0 + f64::from((at % 11) as u32));
            let label = |target, anomaly, value, source| Event::Label(Label { target, anomaly, value, source });
            let rows = if series <= SERIES { 1 } else { random.u64(1..4) };
            for _ in 0..rows {
                id += 1;
                let (champion, challenger) = (answer(random, at, series, 0.7), answer(random, at, series, 0.8));
                events.push(Event::Row(id, Row { series, at, champion, challenger }));
                events.push(Event::Time(random.u64(10_000..90_000), random.u64(10_000..90_000)));
            }
            let source = Source::LABELS[random.usize(..4)];
            if random.u32(..4) == 0 {
                events.push(label(Target::Row(id), Some(truth(series, at)), None, source));
            }
            if series <= SERIES {
                // Of the forecast for now, and at times of whether this was an anomaly.
                let anomaly = (random.u32(..6) == 0).then(|| truth(series, at));
                events.push(label(Target::At { series, at }, anomaly, value, source));
            }
            if random.u32(..60) == 0 {
                let start = at / 900 * 900;
                let window = Target::Window { series, from: start, to: start + 899 };
                events.push(label(window, Some(truth(series, at)), None, source));
            }
        }
    }
    events
}

fn tell(recorder: &mut Recorder, event: &Event) -> Joined {
    match event {
        Event::Row(id, row) => recorder.record(*id, row),
        Event::Time(champion, challenger) => {
            recorder.time(Duration::from_nanos(*champion), Duration::from_nanos(*challenger));
        }
        Event::Label(label) => return recorder.label(label),
    }
    Joined::default()
}

fn recorded(events: &[Event]) -> Recorder {
    let mut recorder = Recorder::new(Some(HORIZON));
    events.iter().for_each(|event| {
        tell(&mut recorder, event);
    });
    recorder
}

fn through_json(evidence: &Evidence) -> Evidence {
    serde_json::from_str(&serde_json::to_string(evidence).expect("JSON")).expect("the same")
}

/// Without what is known to depend on which server a row was on.
fn with_identity(evidence: &Evidence) -> Evidence {
    let none = Events::default();
    Evidence { units: none, far: none, off: none, missed: none, slow: none, ..evidence.clone() }
}

#[test]
fn an_independent_count_of_all_rows_finds_the_same() {
    let mut random = Rng::with_seed(11);
    let mut cases = Cases::default();
    for _ in 0..5 {
        let events = stream(&mut random, 900);
        let recorder = recorded(&events);
        let draws = &recorder.evidence().draws;
        let rows: Vec<(u64, Row)> = events
            .iter()
            .filter_map(|event| if let Event::Row(id, row) = event { Some((*id, *row)) } else { None })
            .collect();
        let mut labels = vec![];
        for event in &events {
            let Event::Label(Label { target, anomaly: Some(anomaly), source, .. }) = event else { continue };
            let source = Source::LABELS.iter().position(|known| known == source).expect("a source of labels");
            let of = |(id, row): &(u64, Row)| match *target {
                Target::Row(named) => *id == named,
                Target::At { series, at } => row.series == series && row.at == at,
                Target::Window { series, from, to } => row.series == series && (from..=to).contains(&row.at),
            };
            labels.extend(rows.iter().filter(|row| of(row)).map(|(id, _)| json!([id, source, anomaly])));
        }
        let raised = draws.alarms();
        let told = draws.labels();
        let alarms =
            [raised.any.both, raised.any.champion, raised.any.challenger, raised.first.given, raised.first.missed];
        let kinds = told.anomalies.iter().zip(&told.normals).flat_map(|(anomalies, normals)| [*anomalies, *normals]);
        let pairs = kinds.flat_map(|labelled| [labelled.pairs.challenger, labelled.pairs.champion, labelled.right]);
        let ours: Vec<f64> = alarms.into_iter().chain(pairs).map(|count| count as f64).collect();
        assert!(ours.iter().sum::<f64>() > 60.0, "{ours:?}");
        let rows: Vec<Value> = rows
            .iter()
            .map(|(id, row)| json!([id, row.series, row.at, row.champion.alarm, row.challenger.alarm]))
            .collect();
        cases.add("draws", &json!([rows, labels]), &ours);
    }
    cases.check();
}

/// However rows are spread over servers, each of which is told all labels, and in whatever order their states are added.
#[test]
fn several_servers_know_what_one_would() {
    let mut random = Rng::with_seed(12);
    for (servers, by_series) in [(2, false), (3, false), (2, true), (3, true)] {
        let events = stream(&mut random, 120);
        let whole = recorded(&events);
        let mut spread: Vec<Recorder> = (0..servers).map(|_| Recorder::new(Some(HORIZON))).collect();
        for event in &events {
            match event {
                Event::Label(_) => spread.iter_mut().for_each(|server| {
                    tell(server, event);
                }),
                Event::Row(_, row) if by_series => {
                    tell(&mut spread[row.series as usize % servers], event);
                }
                _ => {
                    tell(&mut spread[random.usize(..servers)], event);
                }
            }
        }
        random.shuffle(&mut spread);
        let mut merged = Evidence::default();
        spread.iter().for_each(|server| merged.merge(&through_json(server.evidence())));
        let whole = whole.evidence();
        assert!(whole.forecast.pairs() > 500 && whole.labels.len() == 4, "{whole:?}");
        assert_eq!(with_identity(&merged), with_identity(whole), "{servers}");
        if by_series {
            assert_eq!(
                (merged.units, merged.far, merged.off, merged.missed),
                (whole.units, whole.far, whole.off, whole.missed)
            );
        }
    }
}

/// Draws of the same series on several servers, some with a clock of long ago, added in any order and grouping.
#[test]
fn draws_add_up_in_any_order_and_grouping() {
    let mut random = Rng::with_seed(16);
    for _ in 0..20 {
        let mut whole = Draws::default();
        let mut parts = vec![Draws::default(); 3];
        for _ in 0..3000 {
            let series = random.u64(1..40).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let late = if random.u32(..50) == 0 { 0 } else { 1_700_000_000 };
            let at = late + random.u64(0..20 * 24 * 3600);
            let (champion, challenger, anomaly) = (random.bool(), random.bool(), random.bool());
            let source = Source::LABELS[random.usize(..4)];
            for draws in [&mut whole, &mut parts[random.usize(..3)]] {
                draws.decided(series, at, champion, challenger);
                draws.labelled(series, at, (source, anomaly), champion, challenger);
            }
        }
        let add = |a: &Draws, b: &Draws| {
            let mut sum: Draws = serde_json::from_str(&serde_json::to_string(a).expect("JSON")).expect("the same");
            sum.merge(b);
            sum
        };
        let [a, b, c] = [&parts[0], &parts[1], &parts[2]];
        for sum in [
            add(&add(a, b), c),
            add(a, &add(b, c)),
            add(&add(c, a), b),
            add(c, &add(b, a)),
            add(&add(a, a), &add(b, c)),
        ] {
            assert_eq!(sum, whole);
        }
        let hours = whole.alarms().any;
        assert!(hours.both + hours.champion + hours.challenger <= MOST, "{hours:?}");
        assert!(serde_json::to_string(&whole).expect("JSON").len() < 300_000);
    }
}

/// What happens to all of a fleet at once counts once.
#[test]
fn an_incident_of_all_pods_is_one_draw() {
    let mut recorder = Recorder::new(None);
    for minute in 0..5 {
        for series in 1..=14 {
            let (champion, challenger) =
                [false, true].map(|alarm| Answer { alarm: Some(alarm), ..Answer::default() }).into();
            let id = minute * 14 + series;
            recorder.record(id, &Row { series, at: 36_000 + 60 * minute, champion, challenger });
            recorder.label(&Label { target: Target::Row(id), anomaly: Some(true), value: None, source: Source::Chaos });
        }
    }
    let draws = &recorder.evidence().draws;
    assert_eq!(draws.labels().anomalies[2].pairs.pairs(), 1);
    assert_eq!((draws.alarms().any.challenger, draws.alarms().first.alarms()), (1, 0));
}

/// A champion that alarms on a row of each half hour is not matched by one that alarms on all of them.
#[test]
fn alarms_on_each_row_are_more_than_one_at_times() {
    let mut draws = Draws::default();
    for minute in 0..100 * 30 {
        draws.decided(1 + minute / 30 % 3, 60 * minute, minute % 30 == 7, true);
    }
    let any = draws.alarms().any;
    assert!(any.both + any.challenger == 100 && any.challenger > 90, "{any:?}");
    assert_eq!(draws.alarms().first.given, 100);
}

#[test]
fn a_restart_changes_nothing() {
    let mut random = Rng::with_seed(13);
    // More rows than are kept.
    let events = stream(&mut random, 2900);
    assert!(events.iter().filter(|event| matches!(event, Event::Row(..))).count() > 66_000);
    let whole = recorded(&events);
    let mut recorder = Recorder::new(Some(HORIZON));
    for (number, event) in events.iter().enumerate() {
        tell(&mut recorder, event);
        if number % 30_000 == 29_000 {
            let saved = serde_json::to_string(&recorder.save()).expect("JSON");
            recorder = Recorder::restore(Some(HORIZON), serde_json::from_str(&saved).expect("the same"));
        }
    }
    assert_eq!(recorder.evidence(), whole.evidence());
    assert!(whole.evidence().slow.trials > 60_000, "{:?}", whole.evidence().slow);
}

#[test]
fn labels_count_once_in_any_order() {
    let mut random = Rng::with_seed(14);
    let events = stream(&mut random, 120);
    let (rows, mut labels): (Vec<Event>, Vec<Event>) =
        events.into_iter().partition(|event| !matches!(event, Event::Label(_)));
    let mut expected = None;
    for _ in 0..4 {
        let mut recorder = recorded(&rows);
        random.shuffle(&mut labels);
        let mut joined = Joined::default();
        labels.iter().for_each(|label| joined.add(tell(&mut recorder, label)));
        let once = recorder.evidence().clone();
        let mut again = Joined::default();
        labels.iter().for_each(|label| again.add(tell(&mut recorder, label)));
        assert_eq!(recorder.evidence(), &once);
        assert!(joined.labelled > 1000 && again.labelled == 0, "{joined:?} {again:?}");
        assert_eq!(again.known, joined.labelled + joined.known);
        assert_eq!(expected.get_or_insert_with(|| once.clone()), &once);
    }
}

#[test]
fn labels_find_their_rows() {
    let mut recorder = Recorder::new(Some(HORIZON));
    let answer = |alarm| Answer { alarm: Some(alarm), score: Some(0.25), forecast: Some(10.0) };
    for (id, at) in [(1, 1000), (2, 1040), (3, 1300)] {
        recorder.record(id, &Row { series: 9, at, champion: answer(false), challenger: answer(true) });
    }
    let mut label = |target, anomaly, value, source| {
        let joined = recorder.label(&Label { target, anomaly, value, source });
        (joined.labelled, joined.known)
    };
    let at = |at| Target::At { series: 9, at };
    assert_eq!(label(at(1020), Some(true), None, Source::Human), (1, 0), "the earlier of two that are as near");
    assert_eq!(label(Target::Row(1), Some(true), None, Source::Human), (0, 1), "the same row");
    assert_eq!(label(Target::Row(1), Some(true), None, Source::Chaos), (1, 0), "another source");
    assert_eq!(label(at(1071), Some(true), None, Source::Human), (0, 0), "31 seconds off");
    assert_eq!(label(Target::At { series: 8, at: 1000 }, Some(true), None, Source::Human), (0, 0), "another series");
    assert_eq!(label(Target::Row(77), Some(true), None, Source::Human), (0, 0), "no such row");
    assert_eq!(label(at(1040), Some(true), None, Source::Metric), (0, 0), "a metric tells values");
    assert_eq!(label(at(1310), None, Some(12.0), Source::Metric), (1, 0), "the forecast of 1000, 10 seconds off");
    assert_eq!(label(at(1310), None, Some(12.0), Source::Metric), (0, 1), "it is known");
    assert_eq!(label(Target::Row(1), None, Some(99.0), Source::Human), (1, 0), "told, and not compared again");
    assert_eq!(label(at(1300), Some(false), Some(f64::NAN), Source::Human), (1, 0), "no value");
    let window = Target::Window { series: 9, from: 1000, to: 1500 };
    assert_eq!(label(window, Some(true), None, Source::Incident), (3, 0));
    assert_eq!(label(window, Some(true), None, Source::Incident), (0, 3));
    recorder.record(4, &Row { series: 9, at: 1400, champion: answer(false), challenger: answer(true) });
    let told =
        recorder.label(&Label { target: Target::Row(4), anomaly: Some(true), value: None, source: Source::Incident });
    assert_eq!(told, Joined { labelled: 0, known: 1 }, "the window had it");
    assert_eq!(recorder.evidence().forecast.pairs(), 1);
    assert_eq!(recorder.evidence().labels[&Source::Incident].brier.rows, 4);
    // After a day no label finds it.
    recorder.record(5, &Row { series: 9, at: 1001 + 24 * 3600, ..Row::default() });
    let late = recorder.label(&Label {
        target: Target::Row(1),
        anomaly: Some(true),
        value: None,
        source: Source::Alertmanager,
    });
    assert_eq!(late, Joined::default());
}

/// Puts something else in the place of some numbers, texts and lists.
fn spoil(random: &mut Rng, value: &mut Value) {
    let numbers =
        [json!(0), json!(u64::MAX), json!(i64::MIN), json!(i64::MAX), json!(1), json!(65_535), json!(-1), json!(1e300)];
    match value {
        Value::Number(_) if random.u32(..8) == 0 => *value = numbers[random.usize(..numbers.len())].clone(),
        Value::Array(list) => {
            match random.u32(..20) {
                0 => list.clear(),
                1 => list.push(json!(u64::MAX)),
                2 => list.truncate(list.len() / 2),
                _ => {}
            }
            list.iter_mut().for_each(|value| spoil(random, value));
        }
        Value::Object(fields) => {
            fields.values_mut().for_each(|value| spoil(random, value));
            let far = fields.values().next().cloned().filter(|_| random.u32(..10) == 0);
            fields.extend(far.map(|value| (u64::MAX.to_string(), value)));
        }
        Value::String(text) if random.u32(..3) == 0 => {
            let cut = random.usize(..=text.len());
            text.truncate(cut - cut % 4);
        }
        _ => {}
    }
}

/// A state that comes from elsewhere is refused or counted, and nothing panics or takes forever.
#[test]
fn no_state_from_elsewhere_does_harm() {
    let mut random = Rng::with_seed(15);
    let events = stream(&mut random, 40);
    let good = recorded(&events);
    let entry = json!({"edges": [0.0, 1.0, 2.0], "p": [0.5, 0.5], "n": 100});
    let reference = || BTreeMap::from([("x".to_owned(), Reference::parse(&entry).expect("a reference"))]);
    let mut drifts = Drifts::new(reference());
    (0..50).for_each(|series| drifts.record(series, 0, 0, 1.5));
    let states =
        [good.evidence().clone(), Evidence::default()].map(|evidence| serde_json::to_value(evidence).expect("JSON"));
    let saved = serde_json::to_value(good.save()).expect("JSON");
    let drift = serde_json::to_value(drifts.state()).expect("JSON");
    let (mut taken, mut refused) = (0, 0);
    for round in 0..300 {
        let mut state = states[round % 2].clone();
        spoil(&mut random, &mut state);
        if let Ok(evidence) = serde_json::from_value::<Evidence>(state) {
            taken += 1;
            let mut merged = good.evidence().clone();
            merged.merge(&evidence);
            merged.merge(&evidence);
            for now in [0, 7200, u64::MAX] {
                let rule =
                    if random.bool() { Rule::default() } else { Rule { kind: Kind::Equivalent, ..Rule::bring_back() } };
                let verdict = rule.decide(&merged, &Circumstances { now, ..Circumstances::default() });
                serde_json::to_string(&verdict).expect("JSON");
            }
        } else {
            refused += 1;
        }
        let mut state = saved.clone();
        spoil(&mut random, &mut state);
        if let Ok(saved) = serde_json::from_value::<Saved>(state) {
            taken += 1;
            let mut recorder = Recorder::restore(Some(HORIZON), saved);
            events.iter().take(500).for_each(|event| {
                tell(&mut recorder, event);
            });
            recorder.record(1, &Row { at: u64::MAX, series: 3, ..Row::default() });
            recorder.label(&Label {
                target: Target::At { series: 3, at: u64::MAX },
                anomaly: Some(true),
                value: Some(f64::MAX),
                source: Source::Human,
            });
            serde_json::to_string(&recorder.save()).expect("JSON");
        } else {
            refused += 1;
        }
        let mut state = drift.clone();
        spoil(&mut random, &mut state);
        if let Ok(mut state) = serde_json::from_value::<Drift>(state) {
            taken += 1;
            let copy = state.clone();
            state.merge(&copy);
            assert!(state.alarms().len() <= state.features.len());
            Drifts::restore(reference(), &state).record(1, 2, 0, f64::INFINITY);
        } else {
            refused += 1;
        }
    }
    assert!(taken > 100 && refused > 100, "{taken} and {refused}");
}

#[test]
fn references_that_cannot_be_used_are_told() {
    for (entry, field) in [
        (json!({"edges": [0, 1], "p": [0.5, 0.5], "n": 9}), "`edges` has 2 numbers and `p` has 2"),
        (json!({"edges": [0, 2, 1], "p": [0.5, 0.5], "n": 9}), "`edges` are not ascending"),
        (json!({"edges": [0, 1, 2], "p": [0.5, 0.9], "n": 9}), "`p` adds up to 1.4"),
        (json!({"edges": [0, 1, 2], "p": [0.5, 0.5]}), "`n` is no number"),
        (json!({"edges": [0, 1, 2], "p": [0.5, 0.5], "p_missing": 2, "n": 9}), "`p_missing` is 2"),
        (json!({"edges": [0, "a", 2], "p": [0.5, 0.5], "n": 9}), "`edges` is no list"),
        (json!(null), "`edges` is no list"),
    ] {
        let error = Reference::parse(&entry).expect_err("it cannot be used");
        assert!(error.contains(field), "{error}");
    }
}

#[test]
fn few_values_are_no_drift() {
    let entry = json!({"edges": [0.0, 1.0, 2.0], "p": [0.5, 0.5], "n": 1000});
    let references = BTreeMap::from([("x".to_owned(), Reference::parse(&entry).expect("a reference"))]);
    let mut drifts = Drifts::new(references);
    for series in 1..=50 {
        assert!(drifts.state().alarms().is_empty(), "{series}");
        drifts.record(series, 0, 0, 1.5);
    }
    assert_eq!(drifts.state().alarms(), ["x"]);
}
