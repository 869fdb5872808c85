//! `onnxd replay`: the same verdict from every format, on real pods what the models deserve, and errors that name the place.

mod common;

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use common::http::request;
use common::repo::fixture;
use common::{Server, root, wait_for};
use flate2::Compression;
use flate2::write::GzEncoder;
use parquet::basic::{Compression as Packed, ZstdLevel};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DoubleType, FloatType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A row of a made-up table.
struct Row {
    pod: String,
    ts: i64,
    cpu: f32,
    memory: f32,
    disk: Option<f32>,
    percent: f64,
    anomaly: bool,
}

/// A day of four pods, a row a minute each.
fn rows() -> Vec<Row> {
    let mut random = fastrand::Rng::with_seed(11);
    let mut rows = vec![];
    for minute in 0..1440 {
        for pod in 0..4 {
            let anomaly = minute % 200 == 7 && pod == 1;
            let cpu = random.f32() * 2.0 - 1.0 + if anomaly { 12.0 } else { 0.0 };
            let disk = (random.u32(..5) > 0).then(|| random.f32());
            let percent = f64::from(5.0 * cpu) + 10.0;
            let ts = 1_700_000_000 + minute * 60 + pod;
            rows.push(Row { pod: format!("pod-{pod}"), ts, cpu, memory: random.f32(), disk, percent, anomaly });
        }
    }
    rows
}

fn ndjson(rows: &[Row]) -> String {
    let mut text = String::new();
    for row in rows {
        let mut line = json!({
            "series": row.pod, "ts": row.ts, "cpu_zscore": row.cpu, "memory_zscore": row.memory,
            "cpu_percent": row.percent, "anomaly": row.anomaly,
        });
        if let Some(disk) = row.disk {
            line["disk_io_zscore"] = json!(disk);
        }
        writeln!(text, "{line}").expect("text");
    }
    text
}

fn csv(rows: &[Row]) -> String {
    let mut text = String::from("pod,when,cpu_zscore,memory_zscore,disk_io_zscore,cpu_percent,anomaly,zone\r\n");
    for row in rows {
        let disk = row.disk.map_or_else(|| "NaN".into(), |disk| disk.to_string());
        let Row { pod, ts, cpu, memory, percent, anomaly, .. } = row;
        write!(text, "\"{pod}\",{ts},{cpu},{memory},{disk},{percent},{},b\r\n", u8::from(*anomaly)).expect("text");
    }
    text
}

/// Several row groups, with a column of times in nanoseconds as pandas writes them.
fn parquet(path: &Path, rows: &[Row], packed: Packed) {
    let schema = "message table { required binary pod (STRING); required int64 when (TIMESTAMP(NANOS,true)); \
                  required float cpu_zscore; required float memory_zscore; optional float disk_io_zscore; \
                  required double cpu_percent; required boolean anomaly; optional binary zone (STRING); }";
    let schema = Arc::new(parse_message_type(schema).expect("a schema"));
    let properties = Arc::new(WriterProperties::builder().set_compression(packed).build());
    let mut writer =
        SerializedFileWriter::new(File::create(path).expect("a file"), schema, properties).expect("a writer");
    for part in rows.chunks(1500) {
        let mut group = writer.next_row_group().expect("a group");
        let levels: Vec<i16> = part.iter().map(|row| i16::from(row.disk.is_some())).collect();
        let disks: Vec<f32> = part.iter().filter_map(|row| row.disk).collect();
        column::<ByteArrayType>(&mut group, &all(part, |row| ByteArray::from(row.pod.as_str())), None);
        column::<Int64Type>(&mut group, &all(part, |row| row.ts * 1_000_000_000), None);
        column::<FloatType>(&mut group, &all(part, |row| row.cpu), None);
        column::<FloatType>(&mut group, &all(part, |row| row.memory), None);
        column::<FloatType>(&mut group, &disks, Some(&levels));
        column::<DoubleType>(&mut group, &all(part, |row| row.percent), None);
        column::<BoolType>(&mut group, &all(part, |row| row.anomaly), None);
        column::<ByteArrayType>(&mut group, &[], Some(&vec![0; part.len()]));
        group.close().expect("written");
    }
    writer.close().expect("written");
}

fn all<T>(rows: &[Row], value: impl Fn(&Row) -> T) -> Vec<T> {
    rows.iter().map(value).collect()
}

fn column<T: parquet::data_type::DataType>(
    group: &mut SerializedRowGroupWriter<'_, File>,
    values: &[T::T],
    levels: Option<&[i16]>,
) {
    let mut column = group.next_column().expect("a column").expect("one more");
    column.typed::<T>().write_batch(values, levels, None).expect("written");
    column.close().expect("closed");
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_onnxd"));
    command.arg("replay").args(args).current_dir(root());
    command
}

fn text(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

/// What a replay tells as JSON.
#[track_caller]
fn told(args: &[&str]) -> Value {
    let output = command(args).arg("--json").output().expect("it runs");
    let (told, said) = text(&output);
    assert!(output.status.success(), "{args:?}: {said}");
    serde_json::from_str(&told).expect("JSON")
}

/// What was counted, without what differs from run to run: times, and the name of the file.
fn counted(report: &Value) -> Value {
    let mut shadow = report["shadow"].clone();
    shadow["server"].take();
    for challenger in shadow["challengers"].as_array_mut().expect("challengers") {
        challenger["statistics"]["champion_compute"].take();
        challenger["statistics"]["challenger_compute"].take();
        challenger["evidence"]["latency"].take();
        challenger["evidence"]["slow"].take();
    }
    shadow
}

fn path(folder: &TempDir, name: &str) -> String {
    folder.path().join(name).to_str().expect("text").into()
}

const TABLE: [&str; 4] = ["--series-column", "pod", "--time-column", "when"];

#[test]
fn every_format_tells_the_same() {
    let folder = TempDir::new().expect("a folder");
    let rows = rows();
    let put = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).expect("written");
    put("a.ndjson", ndjson(&rows).as_bytes());
    put("a.csv", csv(&rows).as_bytes());
    let mut gzip = GzEncoder::new(vec![], Compression::fast());
    gzip.write_all(csv(&rows).as_bytes()).expect("packed");
    put("a.csv.gz", &gzip.finish().expect("packed"));
    put("a.ndjson.zst", &zstd::encode_all(ndjson(&rows).as_bytes(), 1).expect("packed"));
    for (name, packed) in
        [("snappy", Packed::SNAPPY), ("zstd", Packed::ZSTD(ZstdLevel::default())), ("plain", Packed::UNCOMPRESSED)]
    {
        parquet(&folder.path().join(format!("{name}.parquet")), &rows, packed);
    }
    let first = told(&[&path(&folder, "a.ndjson"), "--repository", "models"]);
    let evidence = &first["shadow"]["challengers"][0]["evidence"];
    assert_eq!((&evidence["requests"], &evidence["active"][0][0]), (&json!(rows.len()), &json!(rows[0].ts / 600)));
    assert_eq!((&first["replay"]["actuals"], &first["replay"]["truths"]), (&json!(rows.len()), &json!(rows.len())));
    assert_eq!((&first["at"], &first["servers"]["told"]), (&json!(rows[rows.len() - 1].ts), &json!(1)));
    assert!(first["verdicts"][0]["conditions"].as_array().is_some_and(|conditions| !conditions.is_empty()));
    // Labels and values are joined: all but the last five minutes' forecasts are compared.
    let forecasts = first["shadow"]["challengers"][0]["evidence"]["forecast"].to_string();
    assert!(forecasts.len() > 1000, "{forecasts}");
    assert_eq!(evidence["labels"]["incident"]["brier"]["rows"], json!(rows.len()));
    for name in ["a.csv", "a.csv.gz", "a.ndjson.zst", "snappy.parquet", "zstd.parquet", "plain.parquet"] {
        let file = path(&folder, name);
        let mut args = vec![file.as_str(), "--repository", "models"];
        if !name.contains("ndjson") {
            args.extend(TABLE);
        }
        let report = told(&args);
        assert_eq!(counted(&report), counted(&first), "{name}");
        let warned = report["replay"]["warnings"].to_string().contains("not used: zone");
        assert_eq!(warned, !name.contains("ndjson"), "{name}");
    }
    let saved = path(&folder, "state.json");
    let mut child = command(&["-", "--repository", "models", "--save", &saved])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    child.stdin.take().expect("a pipe").write_all(ndjson(&rows).as_bytes()).expect("sent");
    let output = child.wait_with_output().expect("an end");
    let (said, _) = text(&output);
    assert!(output.status.success() && said.contains("standard input: 5760 rows"), "{said}");
    let saved: Value = serde_json::from_slice(&fs::read(&saved).expect("a file")).expect("JSON");
    assert_eq!(counted(&json!({"shadow": saved})), counted(&first));
    // Servers read it as what another server tells.
    serde_json::from_value::<onnxd::shadow::state::State>(saved).expect("a state");
}

#[test]
fn versions_and_files_are_chosen_by_name() {
    let folder = TempDir::new().expect("a folder");
    let file = path(&folder, "a.ndjson");
    fs::write(&file, ndjson(&rows()[..100])).expect("written");
    let swapped = told(&[&file, "--repository", "models", "--champion", "2", "--challenger", "1"]);
    assert_eq!((&swapped["champion"]["version"], &swapped["verdicts"][0]["version"]), (&json!("2"), &json!("1")));
    let (one, two) = ("models/anomaly/1", "models/anomaly/2/model.onnx");
    let several = told(&[&file, "--champion-file", two, "--challenger-file", &format!("{one},{two}")]);
    let roles = [&several["verdicts"][0]["role"], &several["verdicts"][1]["role"]];
    assert_eq!(roles, [&json!("challenger"), &json!("challenger-2")]);
    assert_eq!(several["verdicts"][0]["sha256"], swapped["verdicts"][0]["sha256"]);
    assert_eq!(several["shadow"]["challengers"][1]["agreement"], json!(1.0), "a model agrees with itself");
    let other = path(&folder, "other");
    fs::create_dir(&other).expect("a folder");
    fs::copy("../models/anomaly/1/model.onnx", folder.path().join("other/model.onnx")).expect("a model");
    let manifest = fs::read_to_string("../models/anomaly/1/manifest.json").expect("a manifest");
    let later = manifest.replace("\"horizon_seconds\": 300", "\"horizon_seconds\": 3600");
    assert_ne!(manifest, later);
    fs::write(folder.path().join("other/manifest.json"), later).expect("written");
    for (args, said) in [
        (&["--champion-file", one, "--challenger-file", &other][..], "its horizon_seconds is 3600, the champion's 300"),
        (&["--repository", "models", "--challenger", "7"], "anomaly has no version 7; it has: 1, 2"),
        (&["--repository", "models", "--model", "other"], "other"),
        (&["--champion-file", one], "--challenger-file"),
        (&["--champion-file", one, "--challenger-file", "models"], "name an .onnx file"),
        (&["--repository", "models", "--verdict-alpha", "2"], "above 0 and at most 0.2"),
    ] {
        let output = command(&[&[file.as_str()], args].concat()).output().expect("it runs");
        let (_, told) = text(&output);
        assert!(!output.status.success() && told.contains(said), "{args:?}: {told}");
    }
}

#[test]
fn what_is_wrong_is_named_with_its_place() {
    let folder = TempDir::new().expect("a folder");
    let good = "{\"cpu_zscore\":1,\"memory_zscore\":1,\"ts\":1700000000}\n";
    let head = "ts,cpu_zscore,memory_zscore\n";
    for (name, content, said) in [
        (
            "a.ndjson",
            format!("{good}\n{{\"cpu_zscore\":\"high\",\"memory_zscore\":1,\"ts\":1700000001}}\n"),
            "a.ndjson line 3: cpu_zscore is a string",
        ),
        (
            "b.ndjson",
            format!("{good}{{\"cpu_zscore\":1,\"ts\":1700000001}}\n"),
            "b.ndjson line 2: memory_zscore is missing",
        ),
        (
            "c.ndjson",
            format!("{good}{{\"cpu_zscore\":1,\"memory_zscore\":1}}\n"),
            "c.ndjson line 2: there is no value of ts",
        ),
        (
            "d.ndjson",
            format!("{good}{{\"ts\":1700000000000}}\n"),
            "d.ndjson line 2: ts is 1700000000000, far in the future (in milliseconds?)",
        ),
        ("e.ndjson", format!("{good}[1]\n"), "e.ndjson line 2: it is no JSON object"),
        ("f.ndjson", format!("{good}{{\"ts\":1,\"anomaly\":\"perhaps\"}}\n"), "f.ndjson line 2: anomaly is"),
        (
            "a.csv",
            format!("{head}1700000000,1,2\n\n1700000001,1,x\n"),
            "a.csv line 4: memory_zscore is \"x\", the model takes a number",
        ),
        ("b.csv", format!("{head}1700000000,1\n"), "b.csv line 2: it has 2 cells, the header 3"),
        (
            "c.csv",
            "ts,cpu_zscore\n1700000000,1\n".into(),
            "c.csv line 1: there is no column memory_zscore, which the model requires",
        ),
        ("d.csv", "cpu_zscore,memory_zscore\n1,1\n".into(), "name it with --time-column"),
        ("e.csv", head.into(), "e.csv: there are no rows"),
        ("f.csv", format!("{head}1700000000,1,\n"), "f.csv line 2: memory_zscore is missing"),
        ("a.parquet", "PAR1".into(), "a.parquet: it cannot be read as Parquet"),
        ("a.txt", good.into(), "say so with --format"),
        ("a.ndjson.gz", good.into(), "a.ndjson.gz line 1: "),
    ] {
        let file = path(&folder, name);
        fs::write(&file, content).expect("written");
        let output = command(&[&file, "--repository", "models"]).output().expect("it runs");
        let (_, told) = text(&output);
        assert_eq!(output.status.code(), Some(1), "{name}: {told}");
        assert!(told.contains(said), "{name}: {told}");
    }
}

/// One row that a challenger cannot answer is one failure, not those of the rows beside it.
#[test]
fn a_row_that_a_challenger_fails_on_fails_alone() {
    let folder = TempDir::new().expect("a folder");
    let mut lines = ndjson(&rows()[..200]);
    for ts in [1_700_003_001, 1_700_003_002] {
        writeln!(lines, "{{\"series\":\"pod-1\",\"ts\":{ts},\"cpu_zscore\":60,\"memory_zscore\":1}}").expect("text");
    }
    let file = path(&folder, "a.ndjson");
    fs::write(&file, lines).expect("written");
    let model = |name: &str| fixture(name).to_str().expect("text").to_owned();
    let bad = format!("{},{}", model("nan-sometimes"), model("fails-sometimes"));
    let report = told(&[&file, "--champion-file", &model("good"), "--challenger-file", &bad]);
    for challenger in report["shadow"]["challengers"].as_array().expect("two") {
        let active = challenger["evidence"]["active"].as_array().expect("times");
        let sum = |place: usize| active.iter().filter_map(|ten| ten[place].as_u64()).sum::<u64>();
        assert_eq!((sum(1), sum(2)), (202, 2), "rows, and those that failed");
        assert_eq!(challenger["statistics"]["pairs"], json!(200));
    }
    let report = told(&[&file, "--champion-file", &model("nan-sometimes"), "--challenger-file", &model("good")]);
    assert_eq!(report["replay"]["unanswered"], json!(2));
    assert_eq!(report["shadow"]["challengers"][0]["evidence"]["requests"], json!(200));
}

/// The pods' tables and the models that differ in one thing, made by Python; `None` without the data.
#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
fn pods(folder: &TempDir) -> Option<()> {
    let data = root().parent().expect("a folder around the project").join("shared/data/nezha");
    if !data.is_dir() {
        eprintln!("skipped: no data folder ../shared/data/nezha");
        return None;
    }
    for (what, from, to) in [("tables", data, "."), ("models", root().join("models/anomaly/1"), "models")] {
        let made = Command::new(root().join(".venv/bin/python"))
            .env("PYTHONPATH", root().join("training/src"))
            .arg(root().join("server/tests/pods.py"))
            .args([what.into(), from, folder.path().join(to)])
            .status();
        assert!(made.expect("Python runs").success(), "{what}");
    }
    Some(())
}

/// Two days of real pods, 18,992 rows with their faults: the better forecast is promoted, the worse one rejected, and whoever
/// decides nothing is rejected for that, though it forecasts as well.
#[test]
fn on_real_pods_the_better_one_is_promoted_and_the_worse_one_rejected() {
    let folder = TempDir::new().expect("a folder");
    if pods(&folder).is_none() {
        return;
    }
    let read = |day: &str| fs::read_to_string(folder.path().join(format!("{day}.csv"))).expect("a table");
    let second = read("2022-08-23");
    let table = read("2022-08-22") + second.split_once('\n').expect("a header").1;
    let file = path(&folder, "pods.csv");
    fs::write(&file, table).expect("written");
    let model = |name: &str| path(&folder, &format!("models/{name}"));
    let judged = |champion: &str, challengers: &str| {
        let challengers: Vec<String> = challengers.split(',').map(model).collect();
        let champion = model(champion);
        let args =
            ["--champion-file", &champion, "--label-source", "chaos", "--challenger-file", &challengers.join(",")];
        told(&[&[file.as_str()], &args[..]].concat())
    };
    let hours = |report: &Value, of: usize| report["first"][of]["hours"].as_f64().expect("it was decided");

    let better = judged("naive", "trained");
    let verdict = &better["verdicts"][0];
    assert_eq!(
        (&verdict["decision"], &better["first"][0]["decision"]),
        (&json!("promote"), &json!("promote")),
        "{verdict}"
    );
    assert!(verdict["reasons"].to_string().contains("forecast is better"), "{verdict}");
    // 24 hours are the least; the alarms of 16 half hours show that the decisions are the same.
    assert!((24.0..44.0).contains(&hours(&better, 0)), "{}", better["first"]);
    let improvement = verdict["improvement"]["mean"].as_f64().expect("a number");
    assert!((0.2..0.4).contains(&improvement), "{improvement}");

    let worse = judged("trained", "naive");
    let verdict = &worse["verdicts"][0];
    assert_eq!(
        (&verdict["decision"], &worse["first"][0]["decision"]),
        (&json!("reject"), &json!("reject")),
        "{verdict}"
    );
    assert!(verdict["reasons"].to_string().contains("forecast is worse"), "{verdict}");
    assert!((8.0..24.0).contains(&hours(&worse, 0)), "{}", worse["first"]);

    let controls = judged("naive", "silent,always,naive");
    for (of, decision, reason) in [
        (0, "reject", "misses 100 % of the champion's alarms"),
        (1, "reject", "gives more false alarms"),
        (2, "hold", "forecast is better"),
    ] {
        let verdict = &controls["verdicts"][of];
        assert_eq!(verdict["decision"], json!(decision), "{verdict}");
        assert!(verdict["reasons"].to_string().contains(reason), "{verdict}");
        let first = &controls["first"][of]["decision"];
        assert_eq!(*first, if decision == "hold" { Value::Null } else { json!("reject") }, "it was never promoted");
    }
    assert!(hours(&controls, 0) < 8.0 && hours(&controls, 1) < 16.0, "both are found out before their forecasts are");
}

/// What a server was asked is a file for a replay: without names, and the losses are those of the rows as they were.
#[test]
fn what_a_server_records_is_replayed() {
    let folder = TempDir::new().expect("a folder");
    let (asked, rows) = (path(&folder, "asked.ndjson"), &rows()[..400]);
    let arguments = ["--event-time", "--record", &asked, "--record-sample", "1", "--state", "off"];
    let server = Server::start(Path::new("models"), &arguments);
    let headers = [("content-type", "application/x-ndjson")];
    // Labels are for /feedback.
    let lines = ndjson(rows)
        .replace(",\"anomaly\":false", "")
        .replace("\"anomaly\":false,", "")
        .replace("\"anomaly\":true,", "");
    let reply = request(server.http, "POST", "/predict", &headers, lines.as_bytes());
    assert_eq!((reply.status, reply.text().lines().count()), (200, rows.len()), "{}", reply.text());
    let recorded = path(&folder, "asked.anomaly.ndjson");
    // It is written when nothing else is to be done.
    wait_for("the record", || (fs::read_to_string(&recorded).ok()?.lines().count() == rows.len()).then_some(()));
    server.stop();
    assert!(!fs::read_to_string(&recorded).expect("a record").contains("pod-"), "series are hashes");
    let original = path(&folder, "original.ndjson");
    fs::write(&original, lines).expect("written");
    let [recorded, original] = [recorded, original].map(|file| {
        let evidence = told(&[&file, "--repository", "models"])["shadow"]["challengers"][0]["evidence"].clone();
        (evidence["requests"].clone(), evidence["forecast"].clone())
    });
    assert_eq!(recorded, original);
    assert_eq!(recorded.0, json!(rows.len()));
}
