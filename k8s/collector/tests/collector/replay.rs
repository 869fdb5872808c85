//! `collector replay` with a real onnxd; and what it writes, read by training.

use std::fmt::Write as _;
use std::fs;

use crate::process::{Collector, Onnxd, collector, folder, get, python};

/// Midnight, so that a day is one file's folder.
const BEGIN: i64 = 1_767_571_200;

/// A day of three pods, a minute apart, one of them with a fault of five minutes; `hours` of it.
fn day(hours: i64, fault: bool) -> String {
    let mut text = "ts,series,cpu_percent,memory_percent,disk_io,anomaly,node\n".to_owned();
    for minute in 0..60 * hours {
        for (i, pod) in ["cart", "pay", "ship"].iter().enumerate() {
            let faulty = fault && i == 0 && (400..405).contains(&minute);
            let wave = ((minute * 7919 + 31 * i as i64) % 101) as f64 / 50.0;
            let cpu = if faulty { 95.0 } else { 20.0 + wave };
            // One pod has no disk.
            let disk = if i == 2 { String::new() } else { format!("{}", 30.0 + wave) };
            let time = BEGIN + 60 * minute;
            let _ = writeln!(text, "{time},shop/{pod},{cpu},{},{disk},{faulty},a", 40.0 - wave);
        }
    }
    text
}

#[test]
fn a_recorded_fault_is_detected_and_summed_up() {
    let folder = folder();
    let Some(onnxd) = Onnxd::start(folder.path(), &["--event-time"]) else { return };
    let (file, rows) = (folder.path().join("day.csv"), folder.path().join("rows"));
    fs::write(&file, day(8, true)).expect("a file");
    let (file, place) = (file.display().to_string(), rows.display().to_string());
    let args = ["replay", &file, "--server", &onnxd.url(), "--ops", "off", "--rows", &place];
    let (code, out, err) = collector(&args);
    assert_eq!(code, 0, "{err}");
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0], "480 ticks, 1440 rows of 3 series, 1395 answered (the others warm up)");
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(lines[1]), ["series", "rows", "anomalous", "labelled", "detected", "false"]);
    assert_eq!(words(lines[2]), ["shop/cart", "480", "5", "5", "5", "0"]);
    assert_eq!(words(lines[3]), ["shop/pay", "480", "0", "0", "0", "0"]);
    let joined = "onnxd_feedback_total{model=\"anomaly\",source=\"chaos\",outcome=\"joined\"}";
    crate::process::wait_for("the labels at the server", || (onnxd.metric(joined) >= 5.0).then_some(()));
    // The forecasts were judged by what came five minutes later: in the rows themselves.
    let judged = "onnxd_feedback_total{model=\"anomaly\",source=\"metric\",outcome=\"joined\"}";
    crate::process::wait_for("the values at the server", || (onnxd.metric(judged) >= 1000.0).then_some(()));
    // What was written is recorded data again.
    let script = "import sys; from pyarrow import dataset, parquet; t = dataset.dataset(sys.argv[1], format='parquet').to_table().sort_by('ts'); assert t['anomaly'].drop_null().to_pylist() == [True] * 5; parquet.write_table(t, sys.argv[2])";
    let again = folder.path().join("again.parquet").display().to_string();
    let Some(_) = python(script, &[&place, &again]) else { return };
    let (code, parquet, err) = collector(&["replay", &again, "--server", &onnxd.url(), "--ops", "off"]);
    assert_eq!((code, parquet), (0, out), "{err}");
}

#[test]
fn training_reads_the_rows_back_without_a_skew() {
    let folder = folder();
    let Some(onnxd) = Onnxd::start(folder.path(), &["--event-time"]) else { return };
    let (file, rows) = (folder.path().join("day.csv"), folder.path().join("rows"));
    fs::write(&file, day(26, false)).expect("a file");
    let (file, place) = (file.display().to_string(), rows.display().to_string());
    let (code, _, err) = collector(&["replay", &file, "--server", &onnxd.url(), "--ops", "off", "--rows", &place]);
    assert_eq!(code, 0, "{err}");
    let dates: Vec<_> = fs::read_dir(&rows).expect("a folder").flatten().map(|date| date.file_name()).collect();
    assert_eq!(dates.len(), 2, "a folder for each date: {dates:?}");
    let script = "
import json, sys
from pyarrow import parquet
from pathlib import Path
from training.config import Config
from training.data.rows import ANSWERS, SCHEMA, read
day = read(sys.argv[1], Config(), begin=int(sys.argv[2]), end=int(sys.argv[3]))
files = sorted(Path(sys.argv[1]).glob('date=*/*.parquet'))
schema = parquet.read_schema(files[0])
for name, kind in [*((f.name, f.type) for f in SCHEMA), *ANSWERS.items()]:
    assert schema.field(name).type == kind, (name, schema.field(name).type)
assert parquet.ParquetFile(files[0]).metadata.row_group(0).column(0).compression == 'ZSTD'
print(json.dumps([day.rows, day.notes]))
";
    let (begin, end) = (BEGIN.to_string(), (BEGIN + 26 * 3600 - 60).to_string());
    let Some(text) = python(script, &[&place, &begin, &end]) else { return };
    let (count, notes): (i64, Vec<String>) = serde_json::from_str(&text).expect("JSON");
    assert_eq!(count, 3 * 26 * 60);
    let same = "the stored features of 3600 rows are those that training computes, within 0.001";
    assert!(notes.iter().any(|note| note == same), "{notes:?}");
}

#[test]
fn a_replay_at_a_speed_shows_its_gauges_and_ends_at_a_signal() {
    let folder = folder();
    let Some(onnxd) = Onnxd::start(folder.path(), &["--event-time"]) else { return };
    let file = folder.path().join("day.csv");
    fs::write(&file, day(24, false)).expect("a file");
    let file = file.display().to_string();
    let mut replay = Collector::start(folder.path(), &["replay", &file, "--server", &onnxd.url(), "--speed", "600"]);
    replay.until("anomaly_detected{series=\"shop/ship\"}", |detected| detected == 0.0);
    assert_eq!(get(replay.ops, "/readyz").map(|(status, _)| status), Some(200));
    let tick = replay.value("collector_last_tick_timestamp_seconds").expect("a time") as i64;
    assert!((BEGIN..BEGIN + 24 * 3600).contains(&tick), "the recorded time: {tick}");
    assert_eq!(replay.program.stop().code(), Some(0));
    assert!(replay.program.log().contains(" ticks, "), "the summary so far: {}", replay.program.log());
}

#[test]
fn a_server_that_takes_no_old_times_is_told_of_at_once() {
    let folder = folder();
    let Some(onnxd) = Onnxd::start(folder.path(), &[]) else { return };
    let file = folder.path().join("day.csv");
    fs::write(&file, day(1, false)).expect("a file");
    let file = file.display().to_string();
    let (code, out, err) = collector(&["replay", &file, "--server", &onnxd.url(), "--ops", "off"]);
    assert_eq!(code, 1, "{out}");
    assert!(err.contains("answers 422") && err.contains("event-time"), "{err}");
}

#[test]
fn a_server_that_is_away_makes_the_replay_fail() {
    let folder = folder();
    let file = folder.path().join("day.csv");
    // The sixteenth minute is the first one that is asked about.
    let short: Vec<String> = day(1, false).lines().take(1 + 3 * 17).map(str::to_owned).collect();
    fs::write(&file, short.join("\n")).expect("a file");
    let file = file.display().to_string();
    let server = format!("http://127.0.0.1:{}", crate::process::free_port());
    let (code, out, err) = collector(&["replay", &file, "--server", &server, "--ops", "off"]);
    assert_eq!(code, 1, "{out}{err}");
    assert!(err.contains("collector: 2 of 17 ticks were not answered: http://127.0.0.1:"), "{err}");
}

#[test]
fn mistakes_in_a_file_name_its_line() {
    let folder = folder();
    let path = folder.path().join("day.csv");
    let file = path.display().to_string();
    let header = "series,ts,cpu_percent,memory_percent,disk_io\n";
    for (text, message) in [
        ("", "it is empty"),
        ("series,ts,cpu_percent,memory_percent\n", "no column disk_io"),
        (&format!("{header}a,60,1,2,3\n,60,1,2,3\n"), "line 3: series is empty"),
        (&format!("{header}a,60,,2,3\n"), "line 2: cpu_percent is empty"),
        (&format!("{header}a,60,1,two,3\n"), "line 2: memory_percent is \"two\": write a number"),
        (&format!("{header}a,1767571200000,1,2,3\n"), "line 2: ts is 1767571200000: write whole seconds"),
        (&format!("{header}a,60,1,2\n"), "line 2: it has 4 fields"),
        (&format!("{header}a,60,1,2,3\na,60,1,2,3\n"), "line 3: a has a second row at ts 60"),
        (&format!("{header}\"a\nb\",120,1,2,3\na,60,1,2,3\n"), "ts 60 is before 120: sort the file by ts"),
    ] {
        fs::write(&path, text).expect("a file");
        let server = format!("http://127.0.0.1:{}", crate::process::free_port());
        let (code, _, err) = collector(&["replay", &file, "--server", &server, "--ops", "off"]);
        assert_eq!(code, 1, "{text}");
        let at_place = err.contains(&format!("collector: {file}: ")) && err.contains(message);
        assert!(at_place, "{message} is not in: {err}");
    }
}
