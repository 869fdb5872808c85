//! `onnxd bench`: every request is answered, the report holds together, what is wrong is named, and nothing is left behind.
//! Never how fast anything was.

mod common;

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use common::repo::{Repo, fixture, row};
use common::{Server, root, wait_for};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The program, with a folder of its own for temporary files.
struct Bench {
    temporary: TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { temporary: TempDir::new().expect("a temporary folder") }
    }

    fn command(&self, path: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_onnxd"));
        command.arg("bench").arg(path).args(args).current_dir(root()).env("TMPDIR", self.temporary.path());
        command
    }

    /// Exit code, output and errors. Nothing is left in the temporary folder.
    fn run(&self, path: &Path, args: &[&str]) -> (i32, String, String) {
        let output = self.command(path, args).output().expect("the program runs");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        assert!(self.left().is_empty(), "{:?}", self.left());
        (output.status.code().expect("a code"), text(output.stdout), text(output.stderr))
    }

    #[track_caller]
    fn report(&self, path: &Path, args: &[&str]) -> Value {
        let (code, out, errors) = self.run(path, &[args, &["--json"]].concat());
        assert_eq!((code, errors.as_str()), (0, ""), "{out}");
        serde_json::from_str(&out).expect("JSON")
    }

    #[track_caller]
    fn refused(&self, path: &Path, args: &[&str], code: i32) -> String {
        let (got, out, errors) = self.run(path, args);
        assert_eq!((got, out.as_str()), (code, ""), "{errors}");
        assert_eq!(errors.lines().count(), 1, "{errors}");
        errors
    }

    /// What lies in the temporary folder.
    fn left(&self) -> Vec<PathBuf> {
        fs::read_dir(self.temporary.path()).expect("a folder").map(|entry| entry.expect("an entry").path()).collect()
    }

    fn file(name: &str, text: &str) -> (TempDir, PathBuf) {
        let folder = TempDir::new().expect("a temporary folder");
        let path = folder.path().join(name);
        fs::write(&path, text).expect("a file");
        (folder, path)
    }
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn list(value: &Value) -> &Vec<Value> {
    value.as_array().unwrap_or_else(|| panic!("{value} is no list"))
}

/// What holds of every part about a server.
#[track_caller]
fn holds_together(served: &Value, latency_us: &Value) {
    assert_eq!(served["closed"]["errors"], json!(0), "{served}");
    assert!(number(&served["closed"]["answered"]) > 0.0 && served["closed"]["rate"].is_null(), "{served}");
    let steps = list(&served["steps"]);
    assert!(!steps.is_empty());
    for step in steps {
        assert!(number(&step["p50_us"]) <= number(&step["p99_us"]), "{step}");
        assert!(number(&step["p99_us"]) <= number(&step["p999_us"]), "{step}");
        if step["verdict"] == "kept" {
            assert_eq!(step["errors"], json!(0), "{step}");
            assert!(number(&step["p99_us"]) <= number(latency_us), "{step}");
            assert!(number(&step["answered_per_second"]) >= 0.95 * number(&step["rate"]), "{step}");
        }
    }
    let kept = steps.iter().filter(|step| step["verdict"] == "kept").map(|step| number(&step["rate"]));
    let greatest = kept.max_by(f64::total_cmp);
    let knee = served["knee"].as_u64().map(|knee| number(&steps[usize::try_from(knee).expect("small")]["rate"]));
    assert_eq!(knee, greatest, "{served}");
}

#[test]
fn a_repository_is_measured_alone_and_served() {
    let repo = Repo::serving("good", Some("other"));
    let (folder, bench) = (TempDir::new().expect("a folder"), Bench::new());
    let picture = folder.path().join("bench.svg");
    let before: Vec<_> = walk(repo.path());
    // Latencies of seconds are kept on any machine, so that the rate rises until they are not or the time is up.
    let args = ["--seconds", "6", "--latency", "20s", "--workers", "2", "--svg", picture.to_str().expect("UTF-8")];
    let report = bench.report(repo.path(), &args);
    let keys: Vec<_> = report.as_object().expect("an object").keys().map(String::as_str).collect();
    // Programs read them: they may become more, and none may go or change its meaning.
    let promised = "model machine rows latency_us alone served warnings interrupted seconds";
    assert_eq!(keys.join(" "), promised);
    assert_eq!((&report["model"]["name"], &report["model"]["version"]), (&json!("anomaly"), &json!("1")));
    assert_eq!((&report["latency_us"], &report["interrupted"]), (&json!(20e6), &json!(false)));
    assert!(report["rows"]["from"].as_str().expect("text").contains("golden sample"), "{}", report["rows"]);

    let alone = &report["alone"];
    let cells = list(&alone["cells"]);
    let place = |cell: &Value| (cell["workers"].as_u64().expect("a count"), cell["batch"].as_u64().expect("a count"));
    let places: Vec<(u64, u64)> = cells.iter().map(place).collect();
    let all: Vec<(u64, u64)> = (1..=2).flat_map(|workers| (0..=10).map(move |power| (workers, 1 << power))).collect();
    assert_eq!(places, all);
    // A linear model of a few columns: a run of 1,024 rows takes nowhere near 1,024 times as long as one of a row.
    for workers in 0..2 {
        let of = |place: usize| number(&cells[11 * workers + place]["rows_per_second"]);
        assert!(of(10) > 10.0 * of(0), "{cells:?}");
    }
    let best = cells.iter().find(|cell| place(cell) == place(&alone["best"])).expect("one of the cells");
    assert_eq!(best["rows_per_second"], alone["best"]["rows_per_second"]);
    assert!(
        cells.iter().all(|cell| number(&cell["rows_per_second"]) * 0.95 <= number(&best["rows_per_second"]) / 0.95)
    );
    let server = &alone["server"];
    assert_eq!((&server["max_batch"], &server["batches"], &server["workers"]), (&json!(1024), &json!(true), &json!(2)));

    let served = &report["served"];
    assert_eq!((&served["own"], &served["rows_per_request"]), (&json!(true), &json!(1)));
    holds_together(served, &report["latency_us"]);
    let svg = fs::read_to_string(picture).expect("a picture");
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"), "{svg}");
    assert!(svg.contains("The model alone") && svg.contains("Served: latency") && svg.contains("2 threads"), "{svg}");
    assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    assert_eq!(walk(repo.path()), before, "the repository was changed");
}

/// Every file below a folder.
fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut files = vec![];
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { files.extend(walk(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}

#[test]
fn people_get_tables_and_what_follows_from_them() {
    let (code, out, errors) = Bench::new().run(&fixture("good"), &["--seconds", "3", "--workers", "1", "--batch", "4"]);
    assert_eq!((code, errors.as_str()), (0, ""));
    for told in [
        "The model alone",
        "threads  rows in a run",
        "best  ",
        "onnxd     at most 1024 rows in a run on 1 worker",
        "Served by onnxd serve: 4 rows a request, 64 connections",
        "requests/s  answered/s",
        "knee  ",
        "the load generator shares the CPUs with the server",
        "█",
    ] {
        assert!(out.contains(told), "no {told:?} in\n{out}");
    }
}

#[test]
fn rows_of_the_user_are_sent_whatever_the_file_is() {
    let (bench, model) = (Bench::new(), fixture("good"));
    let csv = "cpu_zscore,memory_zscore,pod\n1,2,a\n3,4,b\n5,6,c\n";
    let json = json!({"instances": [row(1), row(2)]}).to_string();
    let ndjson = format!("{}\n{}\n{}\n{}\n", row(1), row(2), row(3), row(4));
    for (name, text, count) in [("a.csv", csv, 3), ("a.json", &json, 2), ("a.ndjson", &ndjson, 4)] {
        let (_folder, path) = Bench::file(name, text);
        let path = path.to_str().expect("UTF-8");
        let report = bench.report(&model, &["--rows", path, "--only", "alone", "--seconds", "0.2"]);
        assert_eq!(report["rows"], json!({"from": path, "count": count}));
        assert!(report["served"].is_null());
        let unused = report["warnings"].to_string().contains("not used: pod");
        assert_eq!(unused, name == "a.csv", "{}", report["warnings"]);
    }
}

#[test]
fn a_row_that_is_wrong_or_fails_is_named() {
    let bench = Bench::new();
    let refused = |model: &str, name: &str, text: &str| {
        let (_folder, path) = Bench::file(name, text);
        bench.refused(&fixture(model), &["--rows", path.to_str().expect("UTF-8")], 1)
    };
    let error = refused("good", "a.csv", "cpu_zscore,memory_zscore\n1,2\n1,high\n");
    assert!(error.contains("a.csv line 3: memory_zscore"), "{error}");
    let error = refused("good", "a.csv", "memory_zscore\n1\n");
    assert!(error.contains("there is no column cpu_zscore"), "{error}");
    let error = refused("good", "a.json", r#"[{"cpu_zscore": 1, "memory_zscore": 2}, {"cpu_zscor": 1}]"#);
    assert!(error.contains("a.json row 2: \"cpu_zscor\" is not a feature") && error.contains("cpu_zscore?"), "{error}");
    let error = refused("good", "a.csv", "cpu_zscore,memory_zscore\n");
    assert!(error.contains("there are no rows"), "{error}");
    // It fails on rows whose cpu_zscore is above 50.
    let rows: String = (0..100).map(|i| format!("{}\n", row(if i == 70 { 55 } else { i % 40 }))).collect();
    let error = refused("fails-sometimes", "a.ndjson", &rows);
    assert!(error.contains("a.ndjson line 71: the model fails on it: ") && error.contains("leave it out"), "{error}");
}

#[test]
fn what_would_not_be_served_is_not_measured() {
    let bench = Bench::new();
    let error = bench.refused(&fixture("fails"), &[], 1);
    assert!(error.contains("anomaly version 1 would not be served: golden: ") && error.contains("inspect"), "{error}");
    let error = bench.refused(Path::new("/nowhere"), &[], 1);
    assert!(error.contains("there is no repository /nowhere"), "{error}");
    let error = bench.refused(&fixture("good"), &["--seconds", "0"], 2);
    assert!(error.contains("--seconds is 0: it must be a number above 0"), "{error}");
    let error = bench.refused(&fixture("good"), &["--only", "served", "--url", "https://localhost:1"], 2);
    assert!(error.contains("only http://"), "{error}");
    let error = bench.refused(&fixture("good"), &["--only", "served", "--url", "http://127.0.0.1:1"], 1);
    assert!(
        error.contains("http://127.0.0.1:1/predict does not answer") && error.contains("is a server there"),
        "{error}"
    );
}

/// Made-up rows, a model without rows, and one whose rows depend on each other.
#[test]
fn every_kind_of_model_is_measured() {
    let bench = Bench::new();
    let measured = |name: &str| bench.report(&fixture(name), &["--only", "alone", "--seconds", "0.5"]);
    let invented = measured("named.onnx");
    assert!(invented["rows"]["from"].as_str().expect("text").contains("made-up row"), "{}", invented["rows"]);
    let together = measured("batch-mean");
    assert_eq!(together["alone"]["server"]["batches"], json!(false));
    assert!(together["warnings"].to_string().contains("never share a run"), "{}", together["warnings"]);
    assert!(!together["alone"]["advice"].to_string().contains("max_batch"), "{}", together["alone"]["advice"]);
    let fixed = measured("exports/four-rows.onnx");
    let cells = list(&fixed["alone"]["cells"]).iter().filter(|cell| cell["workers"] == 1);
    assert_eq!(cells.map(|cell| &cell["batch"]).collect::<Vec<_>>(), [1, 2, 4]);
}

#[test]
fn a_server_that_runs_already_is_measured_and_answers_are_looked_at() {
    let repo = Repo::serving("good", None);
    let (server, bench) = (Server::start(repo.path(), &[]), Bench::new());
    let url = format!("http://{}/models/anomaly/predict", server.http);
    let args = ["--only", "served", "--url", &url, "--seconds", "2", "--latency", "20s", "--connections", "8"];
    let report = bench.report(repo.path(), &args);
    let served = &report["served"];
    assert_eq!((&served["own"], &served["url"], &served["connections"]), (&json!(false), &json!(url), &json!(8)));
    assert!(report["alone"].is_null());
    holds_together(served, &report["latency_us"]);
    let steps = list(&served["steps"]).iter().chain([&served["closed"]]);
    let told: f64 = steps.map(|step| number(&step["answered"])).sum();
    let rows = server.metric("onnxd_inference_rows_total{model=\"anomaly\",role=\"champion\"}").expect("a series");
    assert!(rows > told, "{rows} rows, {told} told");

    // What the server says of a row that it does not take is told.
    let (_folder, path) = Bench::file("a.json", r#"{"float_input": [1, 2, 3, 4]}"#);
    let args = ["--only", "served", "--url", &url, "--rows", path.to_str().expect("UTF-8")];
    let error = bench.refused(&fixture("zipmap.onnx"), &args, 1);
    assert!(error.contains("answers the first row with 422") && error.contains("float_input"), "{error}");
}

/// Sends a signal to a run that measures a server of its own; gives its output when both have ended.
fn stopped_by(signal: &str) -> (i32, String, String) {
    let bench = Bench::new();
    let mut command = bench.command(&fixture("good"), &["--only", "served", "--seconds", "600"]);
    let mut child: Child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program runs");
    let ports = wait_for("the server that is measured", || {
        let folder = bench.left().into_iter().next()?;
        serde_json::from_str::<Value>(&fs::read_to_string(folder.join("ports.json")).ok()?).ok()
    });
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-s", signal, &id]).status().expect("kill runs").success());
    let status = wait_for("the end", || child.try_wait().expect("a child"));
    let http = ports["http"].as_str().expect("an address");
    assert!(std::net::TcpStream::connect(http).is_err(), "the server that was measured still takes requests");
    assert!(bench.left().is_empty(), "{:?}", bench.left());
    let (mut out, mut errors) = (String::new(), String::new());
    child.stdout.take().expect("piped").read_to_string(&mut out).expect("text");
    child.stderr.take().expect("piped").read_to_string(&mut errors).expect("text");
    (status.code().expect("it ends by itself"), out, errors)
}

#[test]
fn a_signal_ends_it_and_the_server_that_it_started() {
    for signal in ["INT", "TERM"] {
        let (code, out, errors) = stopped_by(signal);
        // Steps take most of a minute: none is finished.
        assert_eq!((code, out.as_str()), (1, ""), "{errors}");
        assert!(errors.contains("it was ended before anything was measured"), "{errors}");
    }
}
