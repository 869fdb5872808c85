//! The bodies of other servers: KServe v1, TensorFlow Serving and MLflow. Whatever the form, the
//! numbers are those of `/predict`, and what is wrong is told as that server tells it.

mod common;

use common::Server;
use common::http::{self, Reply};
use common::repo::{Repo, fixture};
use serde_json::{Value, json};
use tempfile::TempDir;

const V1: &str = "/v1/models/anomaly:predict";
const FEATURES: [&str; 5] = ["cpu_zscore", "memory_zscore", "disk_io_zscore", "cpu_baseline", "cpu_scale"];

fn send(server: &Server, path: &str, content_type: &str, body: &str) -> Reply {
    http::request(server.http, "POST", path, &[("content-type", content_type)], body.as_bytes())
}

#[track_caller]
fn ask(server: &Server, path: &str, body: &Value) -> Value {
    let reply = server.post(path, &body.to_string());
    assert_eq!(reply.status, 200, "{path} {body}: {}", reply.text());
    assert_eq!(reply.header("content-type"), "application/json");
    reply.json()
}

fn get(server: &Server, path: &str) -> Reply {
    http::request(server.http, "GET", path, &[], b"")
}

/// Rows of the anomaly model as objects and as arrays.
fn rows() -> (Vec<Value>, Value) {
    let arrays = json!([[1, 2.5, 0.5, 50, 10], [9, 0, -1, 40, 2], [3, 3, null, 48, null]]);
    let object = |row: &Value| {
        let values = row.as_array().expect("an array").iter();
        FEATURES.iter().zip(values).map(|(name, value)| ((*name).to_owned(), value.clone())).collect::<Value>()
    };
    (arrays.as_array().expect("an array").iter().map(object).collect(), arrays)
}

/// Objects of outputs as one array an output.
fn columns(rows: &Value) -> Value {
    let rows = rows.as_array().expect("an array");
    let names = rows[0].as_object().expect("an object").keys();
    names.map(|name| (name.clone(), rows.iter().map(|row| row[name].clone()).collect::<Value>())).collect()
}

#[test]
fn every_form_gets_the_numbers_of_predict() {
    let repo = Repo::serving("good", None);
    let server = Server::launch_with(repo.path(), &[], &[("AIP_PREDICT_ROUTE", "/vertex")]);
    common::wait_for("readiness", || (server.ops("/readyz").status == 200).then_some(()));
    let (objects, arrays) = rows();
    let expected = json!(objects.iter().map(|row| server.predict(row)).collect::<Vec<_>>());
    assert_ne!(expected[0], expected[1]);
    let by_feature = columns(&json!(objects));
    let whole: Value = arrays.as_array().expect("an array").iter().map(|row| json!({ "features": row })).collect();
    let predictions = json!({ "predictions": expected });
    let outputs = json!({ "outputs": columns(&expected) });
    let tensors = json!({ "predictions": columns(&expected) });

    assert_eq!(server.predict(&arrays), expected);
    assert_eq!(server.predict(&json!({ "instances": arrays })), predictions);
    for body in [
        json!({ "instances": objects }),
        json!({ "instances": arrays }),
        json!({ "signature_name": "serving_default", "instances": objects }),
        json!({ "instances": objects, "signature_name": "" }),
        json!({ "instances": whole }),
    ] {
        assert_eq!(ask(&server, V1, &body), predictions, "{body}");
    }
    for inputs in [by_feature.clone(), arrays.clone(), json!({ "features": arrays })] {
        assert_eq!(ask(&server, V1, &json!({ "inputs": inputs })), outputs, "{inputs}");
    }
    for body in [
        json!({ "instances": objects }),
        json!({ "instances": arrays, "parameters": { "confidence": 0.5 } }),
        json!({ "parameters": null, "instances": objects }),
    ] {
        assert_eq!(ask(&server, "/vertex", &body), predictions, "{body}");
    }
    for body in [json!({ "instances": objects }), json!({ "inputs": by_feature }), json!({ "inputs": objects })] {
        assert_eq!(ask(&server, "/invocations", &body), predictions, "{body}");
    }
    for body in [
        json!({ "instances": arrays }),
        json!({ "instances": whole }),
        json!({ "inputs": arrays }),
        json!({ "inputs": { "features": arrays }, "params": {} }),
        json!({ "params": null, "inputs": arrays }),
    ] {
        assert_eq!(ask(&server, "/invocations", &body), tensors, "{body}");
    }
    for body in [
        json!({ "dataframe_records": objects }),
        json!({ "dataframe_split": { "columns": FEATURES, "index": [0, 1, 2], "data": arrays } }),
        json!({ "dataframe_split": { "data": arrays } }),
        json!({ "dataframe_split": { "columns": null, "data": arrays } }),
    ] {
        assert_eq!(ask(&server, "/invocations", &body), predictions, "{body}");
    }
    // The keys of an object of serde_json are in the order of their insertion, and here the data comes first.
    let late = json!({ "dataframe_split": { "data": arrays, "columns": FEATURES } }).to_string();
    assert!(late.contains("null") && late.find("data\":[") < late.find("columns"), "{late}");
    let reply = send(&server, "/invocations", "application/json; charset=UTF-8", &late);
    assert_eq!(reply.json(), predictions);
    // MLflow's own client writes what is missing as a bare NaN.
    let reply = send(&server, "/invocations", "application/json", &late.replace("null", "NaN"));
    assert_eq!((reply.status, reply.json()), (200, predictions), "{}", reply.text());
    // Some of the columns, in another order: the others are missing.
    let some = json!({ "dataframe_split": { "columns": ["memory_zscore", "cpu_zscore"], "data": [[2, 1], [0, 9]] } });
    let two = [json!({"cpu_zscore": 1, "memory_zscore": 2}), json!({"cpu_zscore": 9, "memory_zscore": 0})];
    assert_eq!(ask(&server, "/invocations", &some), json!({ "predictions": server.predict(&json!(two)) }));
    // None of their keys: named JSON.
    for path in ["/invocations", "/vertex"] {
        assert_eq!(ask(&server, path, &json!(objects)), expected);
        assert_eq!(ask(&server, path, &objects[1]), expected[1]);
    }
}

#[test]
fn csv_gets_the_numbers_of_predict() {
    let repo = Repo::serving("good", None);
    let server = Server::start(repo.path(), &[]);
    let (objects, _) = rows();
    let expected = json!({ "predictions": server.predict(&json!(objects)) });
    for csv in [
        "cpu_zscore,memory_zscore,disk_io_zscore,cpu_baseline,cpu_scale\n1,2.5,0.5,50,10\n9,0,-1,40,2\n3,3,,48,\n",
        "\u{feff}cpu_scale, memory_zscore ,cpu_zscore,\"cpu_baseline\",disk_io_zscore\r\n10,2.5,1, 50,0.5\r\n\
         \"2\",0,9,4e1,-1\r\n\r\nnan,3.0,3,48,NA",
    ] {
        for content_type in ["text/csv", "text/csv; charset=utf-8"] {
            let reply = send(&server, "/invocations", content_type, csv);
            assert_eq!((reply.status, reply.json()), (200, expected.clone()), "{csv}");
        }
    }
    let server = Server::start(&fixture("types.onnx"), &[]);
    let row = json!({"int64": -5, "int32": 6, "float64": 1.5, "bool": true, "float32": 0.25});
    let csv = "int64,int32,float64,bool,float32\n-5,6.0,1.5,True,0.25\n-5,6,1.5,1,0.25\n";
    let reply = send(&server, "/invocations", "text/csv", csv);
    let one = server.predict(&row);
    assert_eq!((reply.status, reply.json()), (200, json!({ "predictions": [one, one] })));
    let server = Server::start(&fixture("named.onnx"), &[]);
    let objects = json!([{"cpu": 1, "memory": 2, "region": "e,\"u"}, {"cpu": 1, "memory": 2, "region": " eu"}]);
    let csv = "region,cpu,memory\n\"e,\"\"u\",1,2\n eu,1,2\n";
    let reply = send(&server, "/invocations", "text/csv", csv);
    assert_eq!((reply.status, reply.json()), (200, json!({ "predictions": server.predict(&objects) })));
}

#[test]
fn several_inputs_are_named() {
    let server = Server::start(&fixture("named.onnx"), &[]);
    let path = "/v1/models/named:predict";
    let objects = json!([{"cpu": 1, "memory": 2, "region": "eu"}, {"cpu": 3, "memory": 0.5, "region": "us"}]);
    let expected = server.predict(&objects);
    let scores = columns(&expected)["score"].clone();
    // One output: bare.
    assert_eq!(ask(&server, path, &json!({ "instances": objects })), json!({ "predictions": scores }));
    let base64 = json!([{"cpu": [1], "memory": 2, "region": {"b64": "ZXU="}}]);
    assert_eq!(ask(&server, path, &json!({ "instances": base64 })), json!({ "predictions": [scores[0]] }));
    let inputs = json!({ "cpu": [[1], [3]], "memory": [2, 0.5], "region": [["eu"], [{"b64": "dXM="}]] });
    assert_eq!(ask(&server, path, &json!({ "inputs": inputs })), json!({ "outputs": scores }));
    let tensors = json!({ "predictions": { "score": scores } });
    assert_eq!(ask(&server, "/invocations", &json!({ "inputs": inputs })), tensors);
    assert_eq!(ask(&server, "/invocations", &json!({ "instances": objects })), tensors);
    let split = json!({ "dataframe_split": { "data": [[1, 2, "eu"], [3, 0.5, "us"]] } });
    assert_eq!(ask(&server, "/invocations", &split), json!({ "predictions": expected }));
    let error = server.post(path, r#"{"instances": [[1, 2, "eu"]]}"#);
    assert_eq!(error.status, 400);
    assert!(error.text().contains("3 inputs: cpu, memory, region"), "{}", error.text());
}

/// As scikit-learn's models are exported: one tensor, whose columns a DataFrame names as it likes.
#[test]
fn a_row_without_names_takes_any_table() {
    let server = Server::start(&fixture("vector.onnx"), &[]);
    let arrays = json!([[1, 2, 3, 4], [4, 3, 2, 1]]);
    let expected = server.predict(&json!([{ "features": arrays[0] }, { "features": arrays[1] }]));
    assert_eq!(server.predict(&arrays), expected);
    let records = json!({ "predictions": expected });
    for body in [
        json!({ "dataframe_split": { "columns": ["a", "b", "c", "d"], "data": arrays } }),
        json!({ "dataframe_split": { "data": arrays, "columns": [0, 1, 2, 3] } }),
        json!({ "dataframe_split": { "data": arrays } }),
        json!({ "dataframe_records": [{"a": 1, "b": 2, "c": 3, "d": 4}, {"d": 1, "c": 2, "b": 3, "a": 4}] }),
        json!({ "dataframe_records": [{ "features": arrays[0] }, { "features": arrays[1] }] }),
        json!({ "dataframe_records": arrays }),
    ] {
        assert_eq!(ask(&server, "/invocations", &body), records, "{body}");
    }
    let csv = send(&server, "/invocations", "text/csv", "a,b,c,d\n1,2,3,4\n4,3,2,1\n");
    assert_eq!(csv.json(), records);
    let tensors = columns(&expected);
    assert_eq!(ask(&server, "/invocations", &json!({ "instances": arrays })), json!({ "predictions": tensors }));
    let path = "/v1/models/vector:predict";
    assert_eq!(ask(&server, path, &json!({ "inputs": arrays })), json!({ "outputs": tensors }));
    assert_eq!(ask(&server, path, &json!({ "instances": arrays })), records);
    for (body, words) in [
        (
            json!({ "dataframe_split": { "columns": ["a", "b", "c"], "data": [[1, 2, 3]] } }),
            "3 columns, features takes 4",
        ),
        (json!({ "dataframe_records": [{"a": 1, "b": 2, "c": 3, "d": 4}, {"a": 1}] }), "[1]: b, c, d are missing"),
        (
            json!({ "dataframe_records": [{"a": 1, "b": 2, "c": 3, "d": 4}, {"e": 1}] }),
            "is not a feature of this model: the model takes a, b, c, d",
        ),
    ] {
        let reply = server.post("/invocations", &body.to_string());
        assert_eq!(reply.status, 400);
        assert!(reply.text().contains(words), "{body}: {}", reply.text());
    }
}

/// A request that takes several runs is answered in its order, in every form.
#[test]
fn the_answers_of_several_runs_are_joined() {
    let server = Server::start(&fixture("fixed-batch.onnx"), &[]);
    let arrays: Vec<Value> = (0..5).map(|i| json!([i, 1, 1, 1])).collect();
    let sums = json!([3.0, 4.0, 5.0, 6.0, 7.0]);
    let path = "/v1/models/fixed-batch:predict";
    assert_eq!(ask(&server, path, &json!({ "instances": arrays })), json!({ "predictions": sums }));
    assert_eq!(ask(&server, path, &json!({ "inputs": arrays })), json!({ "outputs": sums }));
    assert_eq!(ask(&server, "/invocations", &json!({ "inputs": arrays })), json!({ "predictions": { "y": sums } }));
}

#[test]
fn models_versions_and_labels() {
    let repo = Repo::new();
    repo.install(7, "good");
    repo.point(7, None);
    let server = Server::start(repo.path(), &[]);
    let body = json!({ "instances": [{"cpu_zscore": 1, "memory_zscore": 1}] });
    let expected = ask(&server, V1, &body);
    for of in ["/versions/7", "/labels/champion", "/labels/stable"] {
        let reply = server.post(&format!("/v1/models/anomaly{of}:predict"), &body.to_string());
        assert_eq!((reply.status, reply.json(), reply.header("x-model-version")), (200, expected.clone(), "7"));
        let status = get(&server, &format!("/v1/models/anomaly{of}"));
        assert_eq!((status.status, &status.json()["ready"]), (200, &json!(true)));
    }
    // TensorFlow Serving does not look at the type, and curl's is another.
    let reply = send(&server, V1, "application/x-www-form-urlencoded", &body.to_string());
    assert_eq!((reply.status, reply.json()), (200, expected));
    for of in ["anomaly/versions/1", "anomaly/versions/x", "anomaly/labels/canary", "anomalie"] {
        for reply in [
            server.post(&format!("/v1/models/{of}:predict"), &body.to_string()),
            get(&server, &format!("/v1/models/{of}")),
            get(&server, &format!("/v1/models/{of}/metadata")),
        ] {
            assert_eq!(reply.status, 404, "{of}");
            assert_eq!(reply.json().as_object().expect("an object").keys().collect::<Vec<_>>(), ["error"]);
        }
    }
    assert_eq!(get(&server, "/v1/models").json(), json!({ "models": ["anomaly"] }));
    assert_eq!(
        get(&server, "/v1/models/anomaly").json(),
        json!({
            "name": "anomaly",
            "ready": true,
            "model_version_status": [
                { "version": "7", "state": "AVAILABLE", "status": { "error_code": "OK", "error_message": "" } },
            ],
        })
    );
    let metadata = get(&server, "/v1/models/anomaly/metadata").json();
    assert_eq!(metadata["model_spec"], json!({ "name": "anomaly", "signature_name": "", "version": "7" }));
    let signature = &metadata["metadata"]["signature_def"]["signature_def"]["serving_default"];
    let features = &signature["inputs"]["features"];
    assert_eq!(features["dtype"], json!("DT_FLOAT"));
    assert_eq!(features["tensor_shape"]["dim"], json!([{ "size": "-1", "name": "" }, { "size": "5", "name": "" }]));
    assert_eq!(signature["outputs"]["anomaly"]["dtype"], json!("DT_BOOL"));
    for verb in ["explain", "classify", "regress"] {
        let reply = server.post(&format!("/v1/models/anomaly:{verb}"), &body.to_string());
        assert_eq!(reply.status, 501);
        assert!(reply.json()["error"].as_str().is_some_and(|error| error.contains(verb)), "{}", reply.text());
    }
    let requests = "onnxd_http_requests_total{route=\"/v1/models/*:predict\",method=\"POST\",code=\"200\"}";
    common::wait_for("the route's count", || server.metric(requests).filter(|count| *count >= 2.0));
}

#[test]
fn what_is_wrong_is_told_in_the_dialects_shape() {
    let repo = Repo::serving("good", None);
    let server = Server::launch_with(
        repo.path(),
        &["--max-rows", "3", "--body-limit", "10KiB"],
        &[("AIP_PREDICT_ROUTE", "/vertex")],
    );
    common::wait_for("readiness", || (server.ops("/readyz").status == 200).then_some(()));
    let row = r#"{"cpu_zscore":1,"memory_zscore":1}"#;
    let many = format!("{{\"instances\":[{}]}}", [row; 4].join(","));
    let huge = " ".repeat(20 << 10);
    let (v1, mlflow, json) = (V1, "/invocations", "application/json");
    let cases: &[(&str, &str, &str)] = &[
        (v1, json, "{"),
        (v1, json, "3"),
        (v1, json, "[]"),
        (v1, json, "{}"),
        (v1, json, row),
        (v1, json, r#"{"instances":[]}"#),
        (v1, json, r#"{"instances":3}"#),
        (v1, json, r#"{"instances":[3]}"#),
        (v1, json, r#"{"instances":[[1,2,3,4,5],[1,2,"x",4,5]]}"#),
        (v1, json, r#"{"instances":[[1,2,3,4,5],[1,2,3,4]]}"#),
        (v1, json, r#"{"instances":[[1,2,3,4,5,6]]}"#),
        (v1, json, r#"{"instances":[[null,2,3,4,5]]}"#),
        (v1, json, r#"{"instances":[[[1],2,3,4,5]]}"#),
        (v1, json, r#"{"instances":[[NaN,2,3,4,5]]}"#),
        (v1, json, r#"{"instances":[{"cpu_zscore":1}]}"#),
        (v1, json, r#"{"instances":[{"cpu":1}]}"#),
        (v1, json, r#"{"instances":[{"features":[1,2,3,4,5],"cpu_zscore":1}]}"#),
        (v1, json, r#"{"instances":[{"features":[1,2,3,4]}]}"#),
        (v1, json, r#"{"instances":[{"features":[1,2,null,4,5,6]}]}"#),
        (v1, json, r#"{"instances":[{"features":[null,2,3,4,5]}]}"#),
        (v1, json, r#"{"instances":[{"features":1}]}"#),
        (v1, json, &many),
        (v1, json, r#"{"inputs":[[1,2,3,4,5]],"instances":[[1,2,3,4,5]]}"#),
        (v1, json, r#"{"inputs":[[1,2,3,4]]}"#),
        (v1, json, r#"{"inputs":[[1,2,3,4,5],[1]]}"#),
        (v1, json, r#"{"inputs":[[Infinity,2,3,4,5]]}"#),
        (v1, json, r#"{"inputs":[{"cpu_zscore":1}]}"#),
        (v1, json, r#"{"inputs":{"cpu_zscore":[1,2],"memory_zscore":[1]}}"#),
        (v1, json, r#"{"inputs":{"cpu_zscore":[1,2]}}"#),
        (v1, json, r#"{"inputs":{"cpu_zscore":[1,null],"memory_zscore":[1,1]}}"#),
        (v1, json, r#"{"inputs":{"cpu":[1]}}"#),
        (v1, json, r#"{"inputs":{}}"#),
        (v1, json, r#"{"inputs":[[1,1,1,1,1],[1,1,1,1,1],[1,1,1,1,1],[1,1,1,1,1]]}"#),
        (v1, json, r#"{"instances":[[1,2,3,4,5]],"signature_name":"other"}"#),
        (v1, json, r#"{"instances":[[1,2,3,4,5]],"signature_name":[3]}"#),
        (v1, json, r#"{"instances":[[1,2,3,4,5]],"extra":3}"#),
        (v1, json, &huge),
        ("/vertex", json, r#"{"instances":[[1,2]]}"#),
        ("/vertex", json, r#"{"instances":[[1,2,3,4,5]],"signature_name":""}"#),
        ("/vertex", json, r#"{"parameters":{}}"#),
        ("/vertex", json, r#"{"cpu_zscore":1}"#),
        (mlflow, json, "{"),
        (mlflow, json, "\"x\""),
        (mlflow, json, "{}"),
        (mlflow, json, r#"{"columns":["cpu_zscore"],"data":[[1]]}"#),
        (mlflow, json, r#"{"cpu_zscore":1,"instances":[]}"#),
        (mlflow, json, r#"{"signature_name":"a","inputs":[[1,2,3,4,5]]}"#),
        (mlflow, json, r#"{"instances":[[1,2,3,4,5]],"inputs":[[1,2,3,4,5]]}"#),
        (mlflow, json, r#"{"inputs":[[1,2,3,4,5]],"extra":1}"#),
        (mlflow, json, r#"{"inputs":[{"cpu_zscore":1}]}"#),
        (mlflow, json, r#"{"dataframe_split":[]}"#),
        (mlflow, json, r#"{"dataframe_split":{"columns":["cpu_zscore"]}}"#),
        (mlflow, json, r#"{"dataframe_split":{"columns":3,"data":[]}}"#),
        (mlflow, json, r#"{"dataframe_split":{"columns":["cpu_zscore","memory_zscor"],"data":[]}}"#),
        (mlflow, json, r#"{"dataframe_split":{"columns":["cpu_zscore","cpu_zscore"],"data":[]}}"#),
        (mlflow, json, r#"{"dataframe_split":{"columns":["cpu_zscore","memory_zscore"],"data":[]}}"#),
        (mlflow, json, r#"{"dataframe_split":{"columns":["cpu_zscore","memory_zscore"],"data":[[1,2],[1]]}}"#),
        (mlflow, json, r#"{"dataframe_split":{"columns":["cpu_zscore","memory_zscore"],"data":[[1,"2"]]}}"#),
        (mlflow, json, r#"{"dataframe_split":{"columns":["cpu_zscore","memory_zscore"],"data":[[1,null]]}}"#),
        (mlflow, json, r#"{"dataframe_split":{"columns":["cpu_zscore"],"data":[[1]]}}"#),
        (mlflow, json, r#"{"dataframe_split":{"columns":["cpu_zscore","memory_zscore"],"data":[3]}}"#),
        (mlflow, json, r#"{"dataframe_split":{"data":[[1,2]]}}"#),
        (mlflow, json, r#"{"dataframe_split":{"columns":[],"rows":[]}}"#),
        (mlflow, json, r#"{"dataframe_records":{"cpu_zscore":[1]}}"#),
        (mlflow, json, r#"{"dataframe_records":[{"cpu_zscore":1,"memory_zscore":1},{"cpu_zscore":1}]}"#),
        (mlflow, "text/csv", ""),
        (mlflow, "text/csv", "cpu_zscore,memory_zscore\n"),
        (mlflow, "text/csv", "cpu_zscore,memory\n1,2\n"),
        (mlflow, "text/csv", ",cpu_zscore,memory_zscore\n0,1,2\n"),
        (mlflow, "text/csv", "cpu_zscore,memory_zscore\n1,2\n3,x\n"),
        (mlflow, "text/csv", "cpu_zscore,memory_zscore\n1,2\n3\n"),
        (mlflow, "text/csv", "cpu_zscore,memory_zscore\n1,2\n3,inf\n"),
        (mlflow, "text/csv", "cpu_zscore,memory_zscore\n1,2\n,3\n"),
        (mlflow, "text/csv", "cpu_zscore,memory_zscore\n1,1\n1,1\n1,1\n1,1\n"),
        (mlflow, "application/json; charset=latin-1", "{}"),
        (mlflow, "application/json; format=pandas-split", "{}"),
        (mlflow, "application/vnd.apache.parquet", "{}"),
        (mlflow, "", "{}"),
        (mlflow, json, &huge),
    ];
    let mut golden = String::new();
    for (path, content_type, body) in cases {
        let reply = send(&server, path, content_type, body);
        assert!((400..500).contains(&reply.status), "{path} {body}: {} {}", reply.status, reply.text());
        assert_eq!(reply.header("content-type"), "application/json");
        let told = reply.json();
        let keys: Vec<_> = told.as_object().expect("an object").keys().collect();
        let message = if *path == mlflow {
            assert_eq!(keys, ["error_code", "message"]);
            assert_eq!(told["error_code"], "BAD_REQUEST");
            &told["message"]
        } else {
            assert_eq!(keys, ["error"]);
            &told["error"]
        };
        let of = if *content_type == json { String::new() } else { format!(" ({content_type})") };
        let shown: String = body.trim().chars().take(100).collect();
        golden += &format!("{path}{of} {shown:?}\n    {} {}\n", reply.status, message.as_str().expect("text"));
    }
    for (method, path) in [("GET", v1), ("GET", mlflow), ("DELETE", "/vertex")] {
        let reply = http::request(server.http, method, path, &[], b"");
        assert_eq!((reply.status, reply.header("allow")), (405, "POST"), "{path}");
    }
    assert_eq!(server.post("/predict", row).status, 200);
    expectorate::assert_contents("tests/golden/dialects.txt", &golden);
}

/// Errors of positional rows name the place in problem JSON as well.
#[test]
fn the_field_of_a_problem_is_a_place_in_the_arrays() {
    let repo = Repo::serving("good", None);
    let server = Server::start(repo.path(), &[]);
    for (body, field) in [
        (json!([[1, 2, 3, 4, 5], [1, 2, "x", 4, 5]]), "[1][2]"),
        (json!({ "instances": [[1, null, 3, 4, 5]] }), "instances[0][1]"),
        (json!([[1, 2]]), "[0]"),
        (json!([1]), "[0]"),
    ] {
        let reply = server.post("/predict", &body.to_string());
        assert_eq!((reply.status, reply.json()["field"].clone()), (422, json!(field)), "{body}: {}", reply.text());
    }
    let server = Server::start(&fixture("vector.onnx"), &[]);
    for (body, field) in [
        (json!([[1, 2, 3, 4], [1, 2, true, 4]]), "[1][2]"),
        (json!([{ "features": [1, 2, "x", 4] }]), "[0].features[2]"),
        (json!([[1, 2, 3]]), "[0]"),
    ] {
        let reply = server.post("/predict", &body.to_string());
        assert_eq!((reply.status, reply.json()["field"].clone()), (422, json!(field)), "{body}: {}", reply.text());
    }
}

#[test]
fn mlflow_and_sagemaker_ask_for_health() {
    let repo = Repo::serving("good", None);
    let server = Server::start(repo.path(), &["--drain-delay", "30s"]);
    for path in ["/ping", "/health"] {
        let reply = get(&server, path);
        assert_eq!((reply.status, reply.text().as_str()), (200, "\n"));
    }
    assert_eq!(get(&server, "/version").text(), env!("CARGO_PKG_VERSION"));
    server.signal("TERM");
    let reply =
        common::wait_for("the end to begin", || Some(get(&server, "/ping")).filter(|reply| reply.status != 200));
    assert_eq!((reply.status, reply.json()["error_code"].clone()), (503, json!("TEMPORARILY_UNAVAILABLE")));
    let empty = TempDir::new().expect("a folder");
    let server = Server::launch(empty.path(), &[]);
    assert_eq!(get(&server, "/ping").status, 503);
    assert_eq!(server.post("/invocations", "{}").status, 503);
    let named = server.post(V1, "{}");
    assert_eq!((named.status, named.json().as_object().map(serde_json::Map::len)), (404, Some(1)));
}

#[test]
fn lines_are_answered_one_by_one_and_problems_as_mlflow_tells_them() {
    let repo = Repo::serving("good", None);
    let server = Server::start(repo.path(), &[]);
    let good = json!({"cpu_zscore": 1, "memory_zscore": 1});
    let lines = format!("{good}\n[1,2,3,4,5]\n{{\"cpu_zscore\":1}}\n");
    let reply = send(&server, "/invocations", "application/jsonlines", &lines);
    assert_eq!((reply.status, reply.header("content-type")), (200, "application/jsonlines"));
    let answers: Vec<Value> = reply.text().lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(answers[0], server.predict(&good));
    // A line is a body: an array is one of rows, and its elements are no rows.
    assert_eq!(answers[1]["error_code"], json!("BAD_REQUEST"));
    assert!(answers[2]["message"].as_str().is_some_and(|m| m.contains("memory_zscore is missing")), "{answers:?}");
}
