//! The Open Inference Protocol over REST: inference in JSON and in raw bytes, and every mistake with its reason.

mod common;

use common::http::{Reply, request};
use common::repo::{Repo, fixture, row};
use common::{Server, wait_for};
use serde_json::{Value, json};

const HEADER: &str = "inference-header-content-length";

/// A body of JSON and raw bytes.
struct Mixed {
    inputs: Vec<Value>,
    bytes: Vec<u8>,
}

impl Mixed {
    const fn new() -> Self {
        Self { inputs: vec![], bytes: vec![] }
    }

    fn raw(mut self, name: &str, datatype: &str, shape: &[usize], bytes: &[u8]) -> Self {
        let parameters = json!({"binary_data_size": bytes.len()});
        self.inputs.push(json!({"name": name, "shape": shape, "datatype": datatype, "parameters": parameters}));
        self.bytes.extend_from_slice(bytes);
        self
    }

    fn json(mut self, name: &str, datatype: &str, shape: &[usize], data: Value) -> Self {
        self.inputs.push(json!({"name": name, "shape": shape, "datatype": datatype, "data": data}));
        self
    }

    fn post(self, server: &Server, path: &str, more: &Value) -> Reply {
        let mut body = json!({"inputs": self.inputs});
        for (key, value) in more.as_object().into_iter().flatten() {
            body[key] = value.clone();
        }
        let json = body.to_string();
        let length = json.len().to_string();
        let body = [json.as_bytes(), &self.bytes].concat();
        request(server.http, "POST", path, &[(HEADER, &length)], &body)
    }
}

/// The JSON of an answer, and the bytes of each output that has some.
#[track_caller]
fn parts(reply: &Reply) -> (Value, Vec<(String, Vec<u8>)>) {
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.header("content-type"), "application/octet-stream");
    let length: usize = reply.header(HEADER).parse().expect("a length");
    let json: Value = serde_json::from_slice(&reply.body[..length]).expect("JSON");
    let mut rest = &reply.body[length..];
    let mut outputs = vec![];
    for output in json["outputs"].as_array().expect("a list") {
        if let Some(size) = output["parameters"]["binary_data_size"].as_u64() {
            assert!(output.get("data").is_none(), "{output}");
            let (bytes, after) = rest.split_at(usize::try_from(size).expect("small"));
            outputs.push((output["name"].as_str().expect("a name").to_owned(), bytes.to_vec()));
            rest = after;
        }
    }
    assert!(rest.is_empty(), "{} bytes too many", rest.len());
    (json, outputs)
}

/// Two rows of two elements of each type, NaNs with a payload among them.
fn every_type() -> Vec<(&'static str, Vec<u8>)> {
    let bytes = |count: u8| (0..count).map(|i| i.wrapping_mul(37)).collect::<Vec<u8>>();
    let nans = |bits: [u64; 4], width: usize| bits.iter().flat_map(|b| b.to_le_bytes()[..width].to_vec()).collect();
    let text = |text: &str| [&u32::try_from(text.len()).expect("short").to_le_bytes(), text.as_bytes()].concat();
    vec![
        ("BOOL", vec![1, 0, 0, 1]),
        ("UINT8", vec![0, 1, 128, 255]),
        ("UINT16", bytes(8)),
        ("UINT32", bytes(16)),
        ("UINT64", u64::MAX.to_le_bytes().into_iter().chain(bytes(24)).collect()),
        ("INT8", vec![0, 127, 128, 255]),
        ("INT16", bytes(8)),
        ("INT32", bytes(16)),
        ("INT64", i64::MIN.to_le_bytes().into_iter().chain(bytes(24)).collect()),
        ("FP16", nans([0x7e01, 0xfc00, 0x7d55, 0x0001], 2)),
        ("BF16", nans([0x7fc1, 0xff80, 0x7f81, 0x0001], 2)),
        ("FP32", nans([0x7fc0_1234, 0xff80_0000, 0x7f80_0001, 0x8000_0000], 4)),
        ("FP64", nans([0x7ff8_0000_0000_1234, 0xfff0 << 48, 0x7ff0_0000_0000_0001, 1 << 63], 8)),
        ("BYTES", [text(""), text("a"), text("\u{1}é"), text("\"\\")].concat()),
    ]
}

#[test]
fn every_type_passes_the_binary_door_bit_for_bit() {
    let server = Server::start(&fixture("identity.onnx"), &[]);
    let types = every_type();
    let body = || types.iter().fold(Mixed::new(), |body, (name, bytes)| body.raw(name, name, &[2, 2], bytes));
    let path = "/v2/models/identity/infer";
    let reply = body().post(&server, path, &json!({"id": "a\"b", "parameters": {"binary_data_output": true}}));
    let (json, outputs) = parts(&reply);
    assert_eq!((&json["model_name"], &json["model_version"]), (&json!("identity"), &json!("1")));
    assert_eq!(json["id"], "a\"b");
    for (((name, bytes), (output, answered)), told) in
        types.iter().zip(&outputs).zip(json["outputs"].as_array().expect("a list"))
    {
        assert_eq!(output, &format!("{name}_out"));
        assert_eq!(answered, bytes, "{name}");
        assert_eq!((&told["datatype"], &told["shape"]), (&json!(name), &json!([2, 2])));
    }
    // Some as bytes, the rest as JSON, in the order in which they are asked for.
    let wanted = json!({"outputs": [
        {"name": "BYTES_out"}, {"name": "FP32_out", "parameters": {"binary_data": true}}, {"name": "UINT64_out"},
        {"name": "BOOL_out", "parameters": {"binary_data": false}}, {"name": "FP64_out"},
    ]});
    let (json, outputs) = parts(&body().post(&server, path, &wanted));
    assert_eq!(outputs, [("FP32_out".to_owned(), types[11].1.clone())]);
    let data: Vec<&Value> = json["outputs"].as_array().expect("a list").iter().map(|output| &output["data"]).collect();
    assert_eq!(data[0], &json!(["", "a", "\u{1}é", "\"\\"]));
    assert_eq!(data[2][0], json!(u64::MAX));
    assert_eq!(data[3], &json!([true, false, false, true]));
    assert_eq!(data[4], &json!([null, null, null, -0.0]), "what is not finite has no form in JSON");
    assert!(json.get("id").is_none());
}

#[test]
fn every_type_passes_as_json() {
    let server = Server::start(&fixture("identity.onnx"), &[]);
    let values = [
        ("BOOL", json!([true, false])),
        ("UINT8", json!([0, 255])),
        ("UINT16", json!([0, 65535])),
        ("UINT32", json!([0, u32::MAX])),
        ("UINT64", json!([9_007_199_254_740_993_u64, u64::MAX])),
        ("INT8", json!([-128, 127])),
        ("INT16", json!([-32768, 32767])),
        ("INT32", json!([i32::MIN, i32::MAX])),
        ("INT64", json!([i64::MIN, 9_007_199_254_740_993_i64])),
        ("FP16", json!([1.5, -65504.0])),
        ("BF16", json!([1.5, -256.0])),
        ("FP32", json!([0.1, 3.4e38])),
        ("FP64", json!([0.1, -1e-300])),
        ("BYTES", json!(["é", "\u{1F600}\n"])),
    ];
    let body = |nested: bool| {
        values.iter().fold(Mixed::new(), |body, (name, data)| {
            body.json(name, name, &[1, 2], if nested { json!([data]) } else { data.clone() })
        })
    };
    for nested in [false, true] {
        let inputs = json!({"inputs": body(nested).inputs});
        let reply = server.post("/v2/models/identity/versions/1/infer", &inputs.to_string());
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(reply.header("content-type"), "application/json");
        assert_eq!(reply.header(HEADER), "");
        assert_eq!(reply.header("x-model-version"), "1");
        assert_eq!(reply.header("x-request-id").len(), 16);
        let json = reply.json();
        for ((name, data), output) in values.iter().zip(json["outputs"].as_array().expect("a list")) {
            assert_eq!(&output["data"], data, "{name}");
        }
    }
    // The length of the JSON may be said of a body that has nothing else.
    let text = json!({"inputs": body(false).inputs}).to_string();
    let length = text.len().to_string();
    let reply = request(server.http, "POST", "/v2/models/identity/infer", &[(HEADER, &length)], text.as_bytes());
    assert_eq!(reply.status, 200, "{}", reply.text());
}

#[test]
fn named_features_may_be_sent_packed_or_one_by_one() {
    let repo = Repo::serving("good", None);
    let server = Server::start(repo.path(), &[]);
    let rows = [
        json!({"cpu_zscore": 1.5, "memory_zscore": 2, "cpu_baseline": 50}),
        json!({"cpu_zscore": 9, "memory_zscore": 0, "cpu_baseline": 40, "cpu_scale": 2}),
    ];
    let expected = server.predict(&json!(rows));
    let check = |reply: &Reply| {
        assert_eq!(reply.status, 200, "{}", reply.text());
        let json = reply.json();
        for output in json["outputs"].as_array().expect("a list") {
            let name = output["name"].as_str().expect("a name");
            let column: Vec<&Value> = expected.as_array().expect("rows").iter().map(|row| &row[name]).collect();
            assert_eq!(output["data"], json!(column), "{name}");
            assert_eq!(output["shape"], json!([2]));
        }
    };
    let infer = |body: Mixed| body.post(&server, "/v2/models/anomaly/infer", &json!({}));
    let packed = json!([1.5, 2, null, 50, null, 9, 0, null, 40, 2]);
    check(&infer(Mixed::new().json("features", "FP32", &[2, 5], packed)));
    // Columns of any number type; one that is not known is left out, or null, or NaN.
    let columns = || {
        let scale: Vec<u8> = [f64::NAN, 2.0].iter().flat_map(|v| v.to_le_bytes()).collect();
        Mixed::new()
            .json("cpu_baseline", "INT64", &[2], json!([50, 40]))
            .raw("cpu_scale", "FP64", &[2, 1], &scale)
            .json("disk_io_zscore", "FP32", &[2], json!([null, null]))
            .json("cpu_zscore", "FP64", &[2], json!([1.5, 9]))
    };
    check(&infer(columns().json("memory_zscore", "UINT8", &[2, 1], json!([[2], [0]]))));
    let error = infer(columns()).json();
    assert!(error["error"].as_str().expect("text").contains("memory_zscore is missing"), "{error}");
    let rows = infer(columns().json("memory_zscore", "UINT8", &[3], json!([2, 0, 0]))).json();
    assert!(rows["error"].as_str().expect("text").contains("memory_zscore has 3 rows"), "{rows}");
}

#[test]
fn a_request_may_be_nothing_but_bytes() {
    let server = Server::start(&fixture("vector.onnx"), &[]);
    let bytes: Vec<u8> = [1.0_f32, 2.0, 3.0, 4.0, 0.0, 0.0, 0.0, 1.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let post = |path: &str, body: &[u8]| request(server.http, "POST", path, &[(HEADER, "0")], body);
    let (json, outputs) = parts(&post("/v2/models/vector/infer", &bytes));
    assert_eq!(json["outputs"][1]["shape"], json!([2, 3]));
    let packed = Mixed::new().raw("features", "FP32", &[2, 4], &bytes);
    let asked = packed.post(&server, "/v2/models/vector/infer", &json!({"parameters": {"binary_data_output": true}}));
    assert_eq!(parts(&asked).1, outputs);
    for body in [&bytes[..15], &bytes[..20], &[]] {
        let reply = post("/v2/models/vector/infer", body);
        assert_eq!(reply.status, 400, "{}", reply.text());
        assert!(reply.json()["error"].as_str().expect("text").contains("features"), "{}", reply.text());
    }
    let several = Server::start(&fixture("identity.onnx"), &[]);
    let reply = request(several.http, "POST", "/v2/models/identity/infer", &[(HEADER, "0")], &bytes);
    assert_eq!(reply.status, 400);
    assert!(reply.text().contains("a model of one input, this one has 14"), "{}", reply.text());
}

#[test]
fn the_highest_classes_come_as_text() {
    let server = Server::start(&fixture("vector.onnx"), &[]);
    let input = || Mixed::new().json("features", "FP32", &[2, 4], json!([3, 0, 0, 0, 0, 0, 0, 2]));
    let wanted = |classes: usize, binary: bool| json!({"outputs": [{"name": "probabilities", "parameters": {"classification": classes, "binary_data": binary}}]});
    let path = "/v2/models/vector/infer";
    let output = input().post(&server, path, &wanted(2, false)).json()["outputs"][0].clone();
    assert_eq!((&output["datatype"], &output["shape"]), (&json!("BYTES"), &json!([2, 2])));
    let classes: Vec<&str> = output["data"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    let index = |class: &str| class.split(':').nth(1).and_then(|index| index.parse::<usize>().ok());
    let value = |class: &str| class.split(':').next().and_then(|value| value.parse::<f64>().ok());
    assert_eq!(classes.iter().map(|class| index(class)).collect::<Vec<_>>(), [Some(0), Some(1), Some(2), Some(1)]);
    assert!(value(classes[0]) > value(classes[1]) && value(classes[2]) > value(classes[3]), "{classes:?}");
    let (_, bytes) = parts(&input().post(&server, path, &wanted(2, true)));
    let length = u32::try_from(classes[0].len()).expect("short").to_le_bytes();
    assert_eq!(bytes[0].1[..4 + classes[0].len()], [&length, classes[0].as_bytes()].concat());
    let all = input().post(&server, path, &wanted(9, false)).json()["outputs"][0].clone();
    assert_eq!(all["shape"], json!([2, 3]));
}

/// Whatever is wrong with a request: a status, and one sentence that names what is meant.
#[test]
fn mistakes_are_told_in_the_protocols_form() {
    let repo = Repo::serving("good", Some("other"));
    let server = Server::start(repo.path(), &["--max-rows", "100", "--body-limit", "1MiB"]);
    let tensor = |name: &str, datatype: &str, shape: Value, data: Value| {
        json!({"inputs": [{"name": name, "datatype": datatype, "shape": shape, "data": data}]}).to_string()
    };
    let five = json!([1, 2, 3, 4, 5]);
    let good = tensor("features", "FP32", json!([1, 5]), five.clone());
    let with = |key: &str, value: Value| {
        let mut body: Value = serde_json::from_str(&good).expect("JSON");
        body[key] = value;
        body.to_string()
    };
    let infer = "/v2/models/anomaly/infer";
    assert_eq!(server.post(infer, &good).status, 200);
    for (path, body, status, words) in [
        (infer, "nonsense".into(), 400, "not JSON"),
        (infer, String::new(), 400, "it is empty"),
        (infer, "{}".into(), 400, "inputs is missing"),
        (infer, r#"{"inputs":[]}"#.into(), 400, "memory_zscore"),
        (
            infer,
            tensor("x", "FP32", json!([1, 5]), five.clone()),
            400,
            "\"x\" is not an input of this model: it takes features",
        ),
        (
            infer,
            tensor("features", "FP64", json!([1, 5]), five.clone()),
            400,
            "features has datatype FP64, the model takes FP32",
        ),
        (infer, tensor("features", "F32", json!([1, 5]), five.clone()), 400, "features has datatype \"F32\""),
        (infer, tensor("features", "FP32", json!([5]), five.clone()), 400, "features has shape [5]"),
        (infer, tensor("features", "FP32", json!([1, 4]), five.clone()), 400, "features has more than 4 elements"),
        (infer, tensor("features", "FP32", json!([5, 1]), five.clone()), 400, "features has shape [5, 1]"),
        (infer, tensor("features", "FP32", json!([0, 5]), json!([])), 400, "features has no rows"),
        (infer, tensor("features", "FP32", json!([-1, 5]), five.clone()), 400, "features has shape [-1, 5]"),
        (
            infer,
            tensor("features", "FP32", json!([4_294_967_295_u32, 4_294_967_295_u32]), five),
            400,
            "too many elements",
        ),
        (infer, tensor("features", "FP32", json!([101, 5]), json!(vec![1; 505])), 400, "more than 100 rows"),
        (infer, tensor("features", "FP32", json!([1, 5]), json!([null, 2, 3, 4, 5])), 400, "cpu_zscore is missing"),
        (infer, tensor("features", "FP32", json!([1, 5]), json!([1, 2, 3, 4, "5"])), 400, "features is a string"),
        (
            infer,
            with("outputs", json!([{"name": "verdict"}])),
            400,
            "\"verdict\" is not an output of this model: it gives anomaly",
        ),
        (infer, with("outputs", json!([{"name": "score"}, {"name": "score"}])), 400, "output score is asked for twice"),
        (infer, with("parameters", json!({"sequence_id": 5})), 400, "parameters.sequence_id"),
        (infer, with("parameters", json!({"timeout": "soon"})), 400, "parameters.timeout"),
        (infer, with("parameters", json!({"timeout": [1]})), 400, "parameters.timeout is an array"),
        (infer, with("parameters", json!({"timeout": 1})), 504, "deadline"),
        (infer, "[".repeat(2 << 20), 413, "larger than"),
        ("/v2/models/other/infer", good.clone(), 404, "no model \"other\"; served are: anomaly"),
        (
            "/v2/models/anomaly/versions/2/infer",
            good.clone(),
            404,
            "version 1 of the model answers; version \"2\" is a challenger",
        ),
        ("/v2/models/anomaly/versions/9/infer", good.clone(), 404, "version \"9\" is not in memory"),
        ("/v2/models/anomaly/versions//infer", good.clone(), 404, "version \"\" is not in memory"),
        ("/v2/models/anomaly/generate", good.clone(), 404, "nothing at this path"),
        ("/v2/models/anomaly/versions/1/2/infer", good.clone(), 404, "nothing at this path"),
        ("/v2/models/anomaly", good.clone(), 405, "another method"),
    ] {
        let reply = server.post(path, &body);
        assert_eq!(reply.status, status, "{path} {body:.200}: {}", reply.text());
        assert_eq!(reply.header("content-type"), "application/json");
        let json = reply.json();
        let error = json["error"].as_str().unwrap_or_else(|| panic!("{json}"));
        assert!(error.contains(words), "{body:.200}\n  {error}\n  lacks: {words}");
        assert_eq!(json.as_object().expect("an object").len(), 1, "{json}");
        assert_eq!(reply.header("x-request-id").len(), 16);
    }
    let unknown = with("parameters", json!({"headers": {"a": ["b"]}, "x": [1], "y": null}));
    assert_eq!(server.post(infer, &unknown).status, 200);
    for length in ["-1", "a", "", "1.5"] {
        let reply = request(server.http, "POST", infer, &[(HEADER, length)], good.as_bytes());
        assert_eq!(reply.status, 400, "{length}: {}", reply.text());
        assert!(reply.json()["error"].as_str().expect("text").contains(HEADER), "{}", reply.text());
    }
    for method in ["GET", "PUT", "DELETE"] {
        let reply = request(server.http, method, infer, &[], b"");
        assert_eq!((reply.status, reply.header("allow")), (405, "POST"), "{method}");
        assert!(reply.json()["error"].is_string());
    }
    let reply = request(server.http, "GET", "/v2/nothing", &[], b"");
    assert_eq!((reply.status, reply.header("content-type")), (404, "application/json"));
    let plain = [("content-type", "text/plain"), ("content-encoding", "br")];
    assert_eq!(request(server.http, "POST", infer, &plain[..1], good.as_bytes()).status, 200, "only the header tells");
    let reply = request(server.http, "POST", infer, &plain, good.as_bytes());
    assert_eq!((reply.status, reply.json()["error"].is_string()), (415, true));
}

/// The protocols run the same models: what one of them is asked counts for all, under its own name.
#[test]
fn a_promotion_changes_what_answers_and_the_metrics_tell_the_protocol() {
    let repo = Repo::serving("good", None);
    repo.install(2, "other");
    let server = Server::start(repo.path(), &[]);
    let score = |path: &str| {
        let body = json!({"inputs": [
            {"name": "features", "datatype": "FP32", "shape": [1, 5], "data": [3, 1, null, 50, 10]}],
            "outputs": [{"name": "score"}]});
        let reply = server.post(path, &body.to_string());
        (reply.status, reply.header("x-model-version").to_owned(), reply.text())
    };
    let (status, version, before) = score("/v2/models/anomaly/versions/1/infer");
    assert_eq!((status, version.as_str()), (200, "1"));
    let named = server.predict(&row(3))["score"].to_string();
    assert!(before.contains(&format!("\"data\":[{named}]")), "{before} {named}");
    repo.point(2, None);
    common::repo::serves(&server, 2);
    let (status, _, text) = score("/v2/models/anomaly/versions/1/infer");
    assert_eq!(status, 404);
    assert!(text.contains("version 2 of the model answers; version \\\"1\\\" is the champion before it"), "{text}");
    let (status, version, after) = score("/v2/models/anomaly/infer");
    assert_eq!((status, version.as_str()), (200, "2"));
    assert_ne!(before.replace("\"1\"", "\"2\""), after);
    let series = r#"onnxd_inference_requests_total{model="anomaly",role="champion",protocol="v2_http",outcome="ok"}"#;
    wait_for("the metric", || (server.metric(series) == Some(2.0)).then_some(()));
    let route = r#"onnxd_http_requests_total{route="/v2/models/*/infer",method="POST",code="200"}"#;
    assert_eq!(server.metric(route), Some(1.0));
}
