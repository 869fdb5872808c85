//! Every export that ONNX Runtime can run and a protocol can express is served, and answers as ONNX Runtime itself does in
//! Python. What cannot be expressed is refused with the reason.

mod common;

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use common::repo::{Repo, fixture, settled};
use common::{Server, http, root, wait_for};
use serde_json::{Value, json};

fn serve(name: &str) -> Server {
    Server::start(&fixture(&format!("exports/{name}.onnx")), &[])
}

/// What ONNX Runtime answers in Python to these inputs of a model.
fn python(name: &str, inputs: &Value) -> Value {
    let path = root().join(".venv/bin/python");
    let mut child = Command::new(&path)
        .arg(root().join("server/tests/runs.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{}: {e}: run `make test`, which installs it", path.display()));
    let request = json!([[fixture(name), inputs]]).to_string();
    child.stdin.take().expect("a pipe").write_all(request.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{name}");
    serde_json::from_slice::<Value>(&output.stdout).expect("JSON")[0].clone()
}

/// Whether two answers are the same, numbers as float32: the shortest decimals of it, and those of float64, name its bits.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Number(a), Value::Number(b)) => match (a.as_f64(), b.as_f64()) {
            (Some(a), Some(b)) => (a as f32).to_bits() == (b as f32).to_bits(),
            _ => false,
        },
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        _ => a == b,
    }
}

#[track_caller]
fn assert_same(got: &Value, expected: &Value) {
    assert!(same(got, expected), "{got}\n is not\n{expected}");
}

/// The rows of named columns: `{"x": [1, 2]}` as `[{"x": 1}, {"x": 2}]`.
fn rows(columns: &Value) -> Vec<Value> {
    let columns = columns.as_object().expect("an object");
    let count = columns.values().next().and_then(Value::as_array).expect("an array").len();
    let row = |i: usize| columns.iter().map(|(name, values)| (name.clone(), values[i].clone())).collect();
    (0..count).map(|i| Value::Object(row(i))).collect()
}

#[track_caller]
fn refused(server: &Server, body: &Value, told: &str) {
    let reply = server.post("/predict", &body.to_string());
    assert_eq!(reply.status, 422, "{}", reply.text());
    assert!(reply.json()["error"].as_str().expect("text").contains(told), "{}", reply.text());
}

#[test]
fn every_element_type_comes_back_as_it_was_sent() {
    let server = serve("types");
    let (most, least) = (json!([i64::MAX, 9_007_199_254_740_993_i64]), json!([i64::MIN, -1]));
    let sent = [
        ("float16", json!([0.5, -65504.0])),
        ("bfloat16", json!([1.5, -0.25])),
        ("float", json!([0.1, 1e-40])),
        ("double", json!([0.1, 1.797_693_134_862_315_7e308])),
        ("int8", json!([-128, 127])),
        ("int16", json!([-32768, 32767])),
        ("int32", json!([i32::MIN, i32::MAX])),
        ("int64", least),
        ("uint8", json!([0, 255])),
        ("uint16", json!([0, 65535])),
        ("uint32", json!([0, u32::MAX])),
        ("uint64", json!([0, u64::MAX])),
        ("bool", json!([true, false])),
        ("string", json!(["", "a \"b\"\n\u{1F980}"])),
    ];
    let row: Value = sent.iter().map(|(name, values)| (format!("{name}_in"), values.clone())).collect();
    let mut other = row.clone();
    other["int64_in"] = most.clone();
    let answers = server.predict(&json!([row, other]));
    for (name, values) in &sent {
        assert_eq!(answers[0][format!("{name}_out")], *values, "{name}");
    }
    assert_eq!(answers[1]["int64_out"], most, "no number goes through a float");
    let change = |key: &str, value: Value| {
        let mut changed = row.clone();
        changed[key] = value;
        changed
    };
    // The nearest number of the type, written with as few digits as name it as a float32.
    let rounded = server.predict(&change("float16_in", json!([0.1, 1.0 / 3.0])));
    assert_eq!(rounded["float16_out"], json!([0.099_975_586, 0.333_251_95]));
    let rounded = server.predict(&change("bfloat16_in", json!([0.1, 1.0 / 3.0])));
    assert_eq!(rounded["bfloat16_out"], json!([0.100_097_656, 0.333_984_38]));
    refused(&server, &change("float16_in", json!([65520, 0])), "not finite as float16");
    refused(&server, &change("bfloat16_in", json!([1e39, 0])), "not finite as bfloat16");
    refused(&server, &change("int8_in", json!([128, 0])), "does not fit int8");
    refused(&server, &change("uint64_in", json!([-1, 0])), "does not fit uint64");
    refused(&server, &change("string_in", json!(["a\0b", ""])), "zero character");
}

#[test]
fn half_precision_is_computed_as_in_python() {
    let server = serve("half");
    let inputs = json!({"x": [[0.1, 0.2, 0.3], [1000, -2, 0.001], [60000, 60000, 1]]});
    let expected = python("exports/half.onnx", &inputs);
    let answers = server.predict(&json!(rows(&inputs)));
    (0..3).for_each(|i| assert_same(&answers[i]["y"], &expected["y"][i]));
    assert_eq!(answers[2]["y"][1], json!(null), "an overflow is no number of JSON");
}

#[test]
fn rows_share_runs_of_a_fixed_size_and_missing_ones_are_padded() {
    let server = serve("four-rows");
    assert_eq!(server.model_status("four-rows")["champion"]["profile"]["max_batch"], json!(4));
    let all: Vec<Value> = (0..9).map(|i| json!([i, 0.1 * f64::from(i), 5 - i])).collect();
    for count in [1, 3, 4, 9] {
        let some = json!({"x": all[..count]});
        let answers = server.predict(&json!(rows(&some)));
        assert_eq!(answers.as_array().expect("an array").len(), count);
        for (i, answer) in answers.as_array().expect("an array").iter().enumerate() {
            // A full run of this row alone.
            let expected = python_four(&all[i]);
            assert_same(&answer["y"], &expected["y"][0]);
            assert_same(&answer["best"], &expected["best"][0]);
        }
    }
}

fn python_four(row: &Value) -> Value {
    static KNOWN: std::sync::Mutex<Vec<(Value, Value)>> = std::sync::Mutex::new(vec![]);
    let mut known = KNOWN.lock().expect("no panic");
    if let Some((_, answer)) = known.iter().find(|(known, _)| known == row) {
        return answer.clone();
    }
    let answer = python("exports/four-rows.onnx", &json!({"x": [row, row, row, row]}));
    known.push((row.clone(), answer.clone()));
    answer
}

#[test]
fn rows_that_depend_on_each_other_are_not_padded() {
    let server = serve("four-together");
    let inputs = json!({"x": [[1, 2, 3], [4, 5, 6], [7, 8, 10], [0, 0, 1]]});
    assert_same(&server.predict(&inputs), &python("exports/four-together.onnx", &inputs));
    refused(&server, &json!({"x": [[1, 2, 3]]}), "has shape [1, 3], the model takes [4, 3]");
    let warnings = server.model_status("four-together")["champion"]["profile"]["warnings"].to_string();
    assert!(warnings.contains("a run has 4 rows") && warnings.contains("one run"), "{warnings}");
}

/// What has no rows takes and gives tensors in their full shapes; so it is answered as in Python, name by name.
#[test]
fn models_without_rows_take_whole_tensors() {
    for (name, requests) in [
        (
            "first-axes",
            vec![
                json!({"x": [[1, 2, 3], [4, 5, 6]], "w": [[1, 0, 2, 0.5], [0, 1, 1, 1], [1, 1, 0, 2]], "k": 4}),
                json!({"x": [[1, 2, 3]], "w": [[1], [0], [1]], "k": -1}),
            ],
        ),
        ("similarity", vec![json!({"a": [[1, 0, 2], [0, 1, 0]], "b": [[1, 1, 1]]})]),
        ("pooled", vec![json!({"x": [[1, 2, 3, 4], [5, 6, 7, 8], [0.5, 0, 0, 0]]}), json!({"x": [[1, 2, 3, 4]]})]),
        ("one-baked-in", vec![json!({"x": [[1, 2, 3, 4]]})]),
    ] {
        let server = serve(name);
        let status = server.model_status(name);
        assert_eq!(status["champion"]["profile"]["rows"], json!("whole"), "{status}");
        let mut answers = vec![];
        for request in &requests {
            let answer = server.predict(request);
            let expected = python(&format!("exports/{name}.onnx"), request);
            for (output, value) in expected.as_object().expect("an object") {
                assert_same(&answer[output], value);
            }
            answers.push(answer);
        }
        // One line each, whatever their shapes.
        let lines: String = requests.iter().map(|request| format!("{request}\n")).collect();
        let json_lines = [("content-type", "application/x-ndjson")];
        let reply = http::request(server.http, "POST", "/predict", &json_lines, lines.as_bytes());
        let streamed: Vec<Value> = reply.text().lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
        assert_eq!(streamed, answers, "{name}");
        // A list of requests is as many runs.
        assert_eq!(server.predict(&json!([requests[0], requests[0]])), json!([answers[0], answers[0]]), "{name}");
    }
    // What lies in an empty array has the size that the model takes.
    let server = serve("first-axes");
    let empty = json!({"x": [], "w": [[1, 2], [0, 1], [1, 0]], "k": 1});
    assert_eq!(server.predict(&empty), json!({"y": [], "twice": 2}));
    let server = Server::start(&fixture("scalar-input.onnx"), &[]);
    assert_eq!(server.predict(&json!({"x": 1.5})), json!({"y": 3.0}));
    assert_eq!(server.predict(&json!([{"x": 1}, {"x": 2}])), json!([{"y": 2.0}, {"y": 4.0}]));
    refused(&server, &json!({"x": [1, 2]}), "an array of 2 elements");
}

#[test]
fn a_model_without_inputs_takes_an_empty_object() {
    let server = Server::start(&fixture("faults/no-inputs.onnx"), &[]);
    assert_eq!(server.predict(&json!({})), json!({"y": [1.0, 2.0]}));
    assert_eq!(server.predict(&json!([{}, {}])), json!([{"y": [1.0, 2.0]}, {"y": [1.0, 2.0]}]));
    refused(&server, &json!({"x": 1}), "x");
    let server = serve("random-draw");
    let (one, other) = (server.predict(&json!({})), server.predict(&json!({})));
    assert!(one["y"].as_array().is_some_and(|y| y.len() == 3) && one != other, "{one} {other}");
}

#[test]
fn maps_of_probabilities_are_served_as_tensors() {
    let four = json!([[0.1, 0.2, 0.3, 0.4], [-3, 2, 1, 0], [9, 8, -7, 6]]);
    for (name, label, map, inputs, classes) in [
        ("zipmap.onnx", "output_label", "output_probability", json!({"float_input": four}), ["0", "1", "2"].as_slice()),
        (
            "exports/zipmap-text.onnx",
            "output_label",
            "output_probability",
            json!({"x": four}),
            &["low", "middle", "high"],
        ),
        ("exports/classical.onnx", "label", "probabilities", json!({"x": [[0.1, 0.2], [-3, 2]]}), &["-1", "7"]),
    ] {
        let expected = python(name, &inputs);
        let server = Server::start(&fixture(name), &[]);
        let answers = server.predict(&json!(rows(&inputs)));
        for (i, answer) in answers.as_array().expect("an array").iter().enumerate() {
            assert_same(&answer[label], &expected[label][i]);
            let probabilities: Vec<&Value> = classes.iter().map(|class| &expected[map][i][class]).collect();
            assert_same(&answer[map], &json!(probabilities));
        }
        // By label for who asks, one row a line too.
        let asked = |content_type: &str, body: &str| {
            let headers = [("content-type", content_type), ("x-classes", "map")];
            http::request(server.http, "POST", "/predict", &headers, body.as_bytes())
        };
        let row = &rows(&inputs)[0];
        for content_type in ["application/json", "application/x-ndjson"] {
            let answer = asked(content_type, &row.to_string()).json();
            assert_same(&answer[map], &expected[map][0]);
        }
        let models = http::request(server.http, "GET", "/v1/models", &[], b"").json();
        let path = format!("/v1/models/{}:predict", models["models"][0].as_str().expect("a name"));
        let body = json!({"instances": [row]}).to_string();
        let v1 = http::request(server.http, "POST", &path, &[("x-classes", "map")], body.as_bytes());
        assert_same(&v1.json()["predictions"][0][map], &expected[map][0]);
        let headers = [("content-type", "application/json"), ("x-classes", "list")];
        let reply = http::request(server.http, "POST", "/predict", &headers, row.to_string().as_bytes());
        assert_eq!(reply.status, 400);
        assert!(reply.text().contains("x-classes"), "{}", reply.text());
    }
}

#[test]
fn token_ids_of_one_length_share_a_run_and_others_are_refused_in_words() {
    let server = serve("tokens");
    let inputs = json!({"input_ids": [[1, 2, 3], [4, 5, 0]], "attention_mask": [[1, 1, 1], [1, 1, 0]]});
    let expected = python("exports/tokens.onnx", &inputs);
    let answers = server.predict(&json!(rows(&inputs)));
    for i in 0..2 {
        assert_same(&answers[i]["pooled"], &expected["pooled"][i]);
        assert_same(&answers[i]["last_hidden_state"], &expected["last_hidden_state"][i]);
    }
    assert_eq!(server.predict(&json!({"input_ids": [1], "attention_mask": [1]}))["pooled"], json!([2.0, 3.0]));
    let ragged = json!([{"input_ids": [1], "attention_mask": [1]}, {"input_ids": [1, 2], "attention_mask": [1, 1]}]);
    refused(&server, &ragged, "pad the rows to one size");
    // They disagree with one another, and the graph says by a name that they must not.
    let words = "attention_mask has size 3 in dimension \"sequence\", input_ids has 2";
    refused(&server, &json!({"input_ids": [1, 2], "attention_mask": [1, 1, 1]}), words);
    let tensor =
        |name: &str, size: usize| json!({"name": name, "datatype": "INT64", "shape": [1, size], "data": vec![1; size]});
    let body = json!({"inputs": [tensor("attention_mask", 3), tensor("input_ids", 2)]});
    let reply = server.post("/v2/models/tokens/infer", &body.to_string());
    assert_eq!(reply.status, 400, "{}", reply.text());
    assert!(reply.text().contains("attention_mask has size 3"), "{}", reply.text());
    assert_eq!(server.predict(&json!(rows(&inputs))), answers);
}

#[test]
fn integers_inside_of_a_graph_are_no_matter() {
    let inputs = json!({"x": [[0.1, 0.2, 0.3, 0.4], [-3, 2, 1, 100]]});
    let expected = python("exports/quantized.onnx", &inputs);
    let answers = serve("quantized").predict(&json!(rows(&inputs)));
    (0..2).for_each(|i| assert_same(&answers[i]["y"], &expected["y"][i]));
    // Small integers divide without harm: an error, or a number.
    let server = serve("small-division");
    assert_eq!(server.predict(&json!({"a": -128, "b": -1}))["y"], json!(-128));
    assert_eq!(server.post("/predict", r#"{"a": 1, "b": 0}"#).status, 500);
    assert_eq!(server.predict(&json!({"a": 7, "b": 2}))["y"], json!(3));
}

#[test]
fn a_model_that_no_invented_values_satisfy_is_served_with_a_warning() {
    let server = serve("picky");
    let champion = server.model_status("picky")["champion"].clone();
    assert!(champion["profile"]["warnings"].to_string().contains("could not be tried out"), "{champion}");
    assert_eq!(server.predict(&json!({"x": -9}))["y"], json!(2.0));
    assert_eq!(server.post("/predict", r#"{"x": 0}"#).status, 500);
    assert_eq!(server.predict(&json!([{"x": -10}, {"x": -7}])), json!([{"y": 1.0}, {"y": 4.0}]));
}

#[test]
fn what_no_protocol_can_express_is_refused_with_the_reason() {
    for (name, reason) in [
        ("exports/optional-input", "input x is an optional value"),
        ("exports/optional-output", "output y is an optional value"),
        ("exports/sequence-input", "input x is a sequence of tensors"),
        ("faults/sequence", "output y is a sequence of tensors"),
        ("exports/map-input", "input x is a map"),
        ("exports/no-shape", "input x declares no shape"),
        ("exports/zipmap-wrong", "has 2 class labels for 4 columns"),
    ] {
        let file = fixture(&format!("{name}.onnx"));
        let server = Server::launch(&file, &[]);
        let model = name.split('/').next_back().expect("a name");
        let told = wait_for("the refusal", || {
            let status = server.model_status(model);
            status["rejected"][0]["reason"].as_str().map(str::to_owned)
        });
        assert!(told.contains(reason), "{name}: {told}");
        assert_eq!(server.ops("/livez").status, 200, "{name}");
    }
}

/// A manifest that speaks of rows where there are none is refused in words, and one that says `whole` is served.
#[test]
fn a_manifest_says_whether_there_are_rows() {
    let repo = Repo::new();
    repo.install(1, "good");
    let onnx = fs::read(fixture("exports/pooled.onnx")).expect("a fixture");
    let install = |version: u32, layout: &str, input: Value, expected: Value| {
        repo.install(version, "good");
        fs::write(repo.version(version).join("model.onnx"), &onnx).expect("a file");
        repo.edit(version, |manifest| {
            manifest["artifact"]["sha256"] = json!(onnxd::source::sha256(&onnx));
            manifest["artifact"]["bytes"] = json!(onnx.len());
            let x = json!({"name": "x", "dtype": "float32", "shape": [-1, 4]});
            let y = json!({"name": "y", "dtype": "float32", "shape": [4]});
            manifest["signature"] = json!({"layout": layout, "inputs": [x], "outputs": [y]});
            manifest["outputs_semantics"] = json!({});
            manifest["golden"] = json!({"samples": [{"input": {"x": input}, "expected": {"y": expected}}]});
        });
        version
    };
    let rowless = install(1, "whole", json!([[1, 2, 3, 4], [1, 1, 1, 1]]), json!([2, 3, 4, 5]));
    let rows = install(2, "packed", json!([1, 2, 3, 4]), json!([1, 2, 3, 4]));
    repo.point(rowless, None);
    let server = Server::start(repo.path(), &[]);
    assert_eq!(server.predict(&json!({"x": [[1, 0, 0, 0], [2, 0, 0, 0]]})), json!({"y": [3.0, 0.0, 0.0, 0.0]}));
    let status = settled(&server, repo.point(rows, None));
    let told = status["rejected"][0]["reason"].as_str().expect("text");
    assert!(told.contains("its first axis is not rows") && told.contains("layout \"whole\""), "{told}");
}

/// Asks for all outputs by their bits as float16.
fn halves(server: &Server, model: &str, inputs: &[(&str, [u16; 2])]) -> Vec<Vec<u16>> {
    let described = |(name, _): &(&str, [u16; 2])| json!({"name": name, "datatype": "FP16", "shape": [1, 2], "parameters": {"binary_data_size": 4}});
    let listed: Vec<Value> = inputs.iter().map(described).collect();
    let head = json!({"inputs": listed, "parameters": {"binary_data_output": true}}).to_string();
    let length = head.len().to_string();
    let bytes = inputs.iter().flat_map(|(_, bits)| bits.iter().flat_map(|b| b.to_le_bytes()));
    let body: Vec<u8> = head.bytes().chain(bytes).collect();
    let path = format!("/v2/models/{model}/infer");
    let header = "inference-header-content-length";
    let reply = http::request(server.http, "POST", &path, &[(header, &length)], &body);
    assert_eq!(reply.status, 200, "{}", reply.text());
    let length: usize = reply.header(header).parse().expect("a length");
    let bits = |pair: &[u8]| u16::from_le_bytes([pair[0], pair[1]]);
    reply.body[length..].chunks_exact(4).map(|row| row.chunks_exact(2).map(bits).collect()).collect()
}

#[test]
fn float8_is_carried_as_float16() {
    let server = serve("float8");
    let metadata = http::request(server.http, "GET", "/v2/models/float8", &[], b"").json();
    assert_eq!(metadata["inputs"][0], json!({"name": "e4m3fn_in", "datatype": "FP16", "shape": [-1, 2]}));
    assert_eq!(metadata["outputs"][2], json!({"name": "e5m2_out", "datatype": "FP16", "shape": [-1, 2]}));
    let kinds = ["e4m3fn", "e4m3fnuz", "e5m2", "e5m2fnuz"];
    let request = |values: [Value; 4]| -> Value {
        kinds.iter().zip(values).map(|(kind, value)| (format!("{kind}_in"), value)).collect()
    };
    // The largest of each, and what has to be rounded.
    let row = request([json!([448, 0.3]), json!([-240, 0.3]), json!([57344, 0.3]), json!([-57344, 0.3])]);
    let answer = server.predict(&row);
    for (kind, most) in kinds.iter().zip([448.0, -240.0, 57344.0, -57344.0]) {
        assert_eq!(answer[format!("{kind}_out")], json!([most, 0.3125]), "{kind}");
    }
    let (infinite, beyond, minus_zero, nan) = (0x7c00, 0x7b80, 0x8000, 0x7e00);
    let inputs = ["e4m3fn_in", "e4m3fnuz_in", "e5m2_in", "e5m2fnuz_in"].map(|name| (name, [infinite, minus_zero]));
    let answers = halves(&server, "float8", &inputs);
    let is_nan = |bits: u16| bits & 0x7c00 == 0x7c00 && bits & 0x3ff != 0;
    // One kind has an infinity, and two have a zero of one sign.
    assert_eq!(answers[2], [infinite, minus_zero]);
    assert!([0, 1, 3].iter().all(|i: &usize| is_nan(answers[*i][0])), "{answers:?}");
    assert_eq!([answers[0][1], answers[1][1], answers[3][1]], [minus_zero, 0, 0]);
    let inputs = ["e4m3fn_in", "e4m3fnuz_in", "e5m2_in", "e5m2fnuz_in"].map(|name| (name, [beyond, nan]));
    let answers = halves(&server, "float8", &inputs);
    assert!(answers[..2].iter().flatten().all(|bits| is_nan(*bits)), "{answers:?}");
}

#[test]
fn float8_keeps_the_names_of_its_graph() {
    let server = serve("float8-names");
    let metadata = http::request(server.http, "GET", "/v2/models/float8-names", &[], b"").json();
    let names = |ports: &Value| -> Vec<String> {
        ports.as_array().expect("a list").iter().map(|port| port["name"].as_str().expect("text").to_owned()).collect()
    };
    assert_eq!(names(&metadata["inputs"]), ["x", "yes"]);
    assert_eq!(names(&metadata["outputs"]), ["x", "y", "w", "x_from_float16"]);
    for (yes, y) in [(true, [3.0, -0.5]), (false, [6.0, -1.0])] {
        let answer = server.predict(&json!({"x": [[3, -0.5]], "yes": yes}));
        assert_eq!(answer, json!({"x": [[3.0, -0.5]], "y": [y], "w": [1.0], "x_from_float16": [y]}));
    }
}

#[test]
fn a_map_of_one_row_is_a_row_of_classes() {
    let inputs = json!({"x": [0.1, -3, 2]});
    let expected = python("exports/zipmap-row.onnx", &inputs);
    let server = serve("zipmap-row");
    let row: Vec<&Value> = ["0", "1", "2"].iter().map(|class| &expected["y"][0][class]).collect();
    assert_same(&server.predict(&inputs)["y"], &json!(row));
    let headers = [("content-type", "application/json"), ("x-classes", "map")];
    let reply = http::request(server.http, "POST", "/predict", &headers, inputs.to_string().as_bytes());
    assert_same(&reply.json()["y"], &expected["y"][0]);
}
