//! Predictions over gRPC, as the clients of the Open Inference Protocol ask for them.

mod common;

use common::grpc::{Client, infer, parameter, raw, row, scores, typed};
use common::repo::{Repo, fixture, serves};
use common::{Server, resident, wait_for};
use futures_util::future::join_all;
use futures_util::{FutureExt, StreamExt};
use onnxd::http::grpc::SERVICE;
use onnxd::http::grpc::proto::infer_parameter::ParameterChoice;
use onnxd::http::grpc::proto::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use onnxd::http::grpc::proto::{
    InferTensorContents, ModelInferRequest, ModelInferResponse, ModelMetadataRequest, ModelMetadataResponse,
    ModelStreamInferResponse, ServerLiveRequest, ServerLiveResponse,
};
use serde_json::json;
use tonic::Code;

#[test]
fn requests_are_answered_in_the_form_that_they_have() {
    let repo = Repo::serving("good", None);
    let server = Server::start(repo.path(), &[]);
    let client = Client::connect(server.grpc);
    let rows = [row(1.0), row(6.0), row(3.0)];
    let expected: Vec<f64> = rows
        .iter()
        .map(|[cpu, memory, _, baseline, scale]| {
            let row = json!({"cpu_zscore": cpu, "memory_zscore": memory, "cpu_baseline": baseline, "cpu_scale": scale});
            server.predict(&row)["score"].as_f64().expect("a number")
        })
        .collect();
    let check = |response: &ModelInferResponse| {
        assert_eq!((response.model_name.as_str(), response.model_version.as_str()), ("anomaly", "1"));
        let outputs: Vec<_> =
            response.outputs.iter().map(|o| (o.name.as_str(), o.datatype.as_str(), o.shape.as_slice())).collect();
        assert_eq!(outputs, [("anomaly", "BOOL", &[3_i64][..]), ("score", "FP32", &[3]), ("forecast", "FP32", &[3])]);
        for (got, expected) in scores(response).iter().zip(&expected) {
            assert!((f64::from(*got) - expected).abs() < 1e-6, "{got} {expected}");
        }
    };
    let response = infer(&client, ModelInferRequest { id: "a-1".into(), ..typed(&rows) });
    check(&response);
    assert_eq!(response.id, "a-1");
    assert!(response.raw_output_contents.is_empty());
    assert_eq!(response.outputs[0].contents.as_ref().expect("contents").bool_contents, [false, true, false]);

    let response = infer(&client, raw(&rows));
    check(&response);
    assert_eq!(response.id, "");
    assert_eq!(response.raw_output_contents[0].as_ref(), [0, 1, 0]);
    assert!(response.outputs.iter().all(|output| output.contents.is_none()));

    // Only what is asked for, in that order.
    let wanted = |name: &str| InferRequestedOutputTensor { name: name.into(), ..Default::default() };
    let response =
        infer(&client, ModelInferRequest { outputs: vec![wanted("forecast"), wanted("score")], ..raw(&rows) });
    assert_eq!(response.outputs.iter().map(|o| o.name.as_str()).collect::<Vec<_>>(), ["forecast", "score"]);
    assert_eq!(response.raw_output_contents.len(), 2);

    let answered = server.metric(
        "onnxd_inference_requests_total{model=\"anomaly\",role=\"champion\",protocol=\"v2_grpc\",outcome=\"ok\"}",
    );
    assert_eq!(answered, Some(3.0));
    let route = format!("onnxd_http_requests_total{{route=\"/{SERVICE}/ModelInfer\",method=\"POST\",code=\"200\"}}");
    assert_eq!(server.metric(&route), Some(3.0));
}

/// Every bit of every type comes back.
#[test]
fn every_type_is_taken_and_given() {
    let server = Server::start(&fixture("identity.onnx"), &[]);
    let client = Client::connect(server.grpc);
    let metadata: ModelMetadataResponse = client
        .call("ModelMetadata", ModelMetadataRequest { name: "identity".into(), version: String::new() })
        .expect("metadata");
    assert_eq!(metadata.inputs.len(), 14);
    let bytes = |datatype: &str| -> Vec<u8> {
        let width = match datatype {
            "BOOL" => return vec![1, 0, 0, 1],
            "BYTES" => return [&[2, 0, 0, 0][..], "é".as_bytes(), &[0; 12]].concat(),
            "UINT8" | "INT8" => 1,
            "UINT16" | "INT16" | "FP16" | "BF16" => 2,
            "UINT32" | "INT32" | "FP32" => 4,
            _ => 8,
        };
        (0..4 * width).map(|i| 0x81_u8.wrapping_mul(i)).collect()
    };
    let inputs = metadata.inputs.iter().map(|input| {
        assert_eq!(input.shape, [-1, 2], "{}", input.name);
        let (name, datatype) = (input.name.clone(), input.datatype.clone());
        InferInputTensor { name, datatype, shape: vec![2, 2], ..Default::default() }
    });
    let request = ModelInferRequest {
        model_name: "identity".into(),
        inputs: inputs.collect(),
        raw_input_contents: metadata.inputs.iter().map(|input| bytes(&input.datatype).into()).collect(),
        ..Default::default()
    };
    let response = infer(&client, request.clone());
    for (output, raw) in response.outputs.iter().zip(&response.raw_output_contents) {
        assert_eq!(output.shape, [2, 2], "{}", output.name);
        assert_eq!(raw.as_ref(), bytes(&output.datatype), "{}", output.name);
    }
    assert_eq!(response.raw_output_contents.len(), 14);
    let mut typed = request;
    typed.raw_input_contents.clear();
    let status = client.call::<ModelInferResponse>("ModelInfer", typed).expect_err("no contents");
    assert_eq!(status.code(), Code::InvalidArgument);

    // Those that have lists, by these.
    let server = Server::start(&fixture("types.onnx"), &[]);
    let client = Client::connect(server.grpc);
    let input = |name: &str, datatype: &str, shape: &[i64], contents| InferInputTensor {
        name: name.into(),
        datatype: datatype.into(),
        shape: shape.into(),
        contents: Some(contents),
        ..Default::default()
    };
    let inputs = vec![
        input("int64", "INT64", &[2], InferTensorContents { int64_contents: vec![i64::MIN, 2], ..Default::default() }),
        input("int32", "INT32", &[2, 1], InferTensorContents { int_contents: vec![i32::MIN, 4], ..Default::default() }),
        input(
            "float64",
            "FP64",
            &[2, 1],
            InferTensorContents { fp64_contents: vec![1e300, 6.0], ..Default::default() },
        ),
        input("bool", "BOOL", &[2], InferTensorContents { bool_contents: vec![true, false], ..Default::default() }),
        input("float32", "FP32", &[2], InferTensorContents { fp32_contents: vec![7.5, 8.0], ..Default::default() }),
    ];
    let request = ModelInferRequest { model_name: "types".into(), inputs: inputs.clone(), ..Default::default() };
    let response = infer(&client, request);
    for input in inputs {
        let output = response.outputs.iter().find(|o| o.name == format!("{}_out", input.name)).expect("an output");
        assert_eq!((&output.datatype, &output.shape), (&input.datatype, &input.shape));
        assert_eq!(output.contents, input.contents, "{}", input.name);
    }
}

#[test]
fn classes_are_given_where_they_are_asked_for() {
    let server = Server::start(&fixture("vector.onnx"), &[]);
    let client = Client::connect(server.grpc);
    let contents = InferTensorContents { fp32_contents: vec![1.0, 2.0, 3.0, 4.0], ..Default::default() };
    let input = InferInputTensor {
        name: "features".into(),
        datatype: "FP32".into(),
        shape: vec![1, 4],
        contents: Some(contents),
        ..Default::default()
    };
    let classes = [("classification".to_owned(), parameter(ParameterChoice::Int64Param(2)))];
    let output = InferRequestedOutputTensor { name: "probabilities".into(), parameters: classes.into() };
    let request = ModelInferRequest {
        model_name: "vector".into(),
        inputs: vec![input],
        outputs: vec![output],
        ..Default::default()
    };
    let response = infer(&client, request);
    let output = &response.outputs[0];
    assert_eq!((output.datatype.as_str(), output.shape.as_slice()), ("BYTES", &[1, 2][..]));
    let classes = &output.contents.as_ref().expect("contents").bytes_contents;
    let values: Vec<_> = classes.iter().map(|class| String::from_utf8_lossy(class).into_owned()).collect();
    assert!(values.len() == 2 && values[0].split(':').count() == 2, "{values:?}");
}

#[test]
fn features_may_be_tensors_of_their_own() {
    let repo = Repo::serving("good", None);
    let server = Server::start(repo.path(), &[]);
    let client = Client::connect(server.grpc);
    let input = |name: &str, values: &[f32]| InferInputTensor {
        name: name.into(),
        datatype: "FP32".into(),
        shape: vec![values.len() as i64],
        contents: Some(InferTensorContents { fp32_contents: values.into(), ..Default::default() }),
        ..Default::default()
    };
    let inputs = vec![input("cpu_zscore", &[1.0, 6.0]), input("memory_zscore", &[1.0, 1.0])];
    let response = infer(&client, ModelInferRequest { inputs, ..typed(&[]) });
    assert_eq!(scores(&response), scores(&infer(&client, typed(&[row(1.0), row(6.0)]))));
}

/// What is wrong has the code that clients act on, and the sentence that the HTTP port has.
#[test]
fn what_is_wrong_has_its_code() {
    let repo = Repo::serving("good", None);
    let server = Server::start(repo.path(), &["--body-limit", "200KiB", "--max-rows", "100"]);
    let client = Client::connect(server.grpc);
    let change = |change: &dyn Fn(&mut ModelInferRequest)| {
        let mut request = typed(&[row(1.0)]);
        change(&mut request);
        request
    };
    let mut short = raw(&[row(1.0)]);
    short.raw_input_contents[0].truncate(19);
    let mut surplus = raw(&[row(1.0)]);
    surplus.raw_input_contents.push(vec![0].into());
    let both = ModelInferRequest { raw_input_contents: raw(&[row(1.0)]).raw_input_contents, ..typed(&[row(1.0)]) };
    let bad = Code::InvalidArgument;
    let cases = [
        (
            "a model that is not served",
            change(&|r| r.model_name = "other".into()),
            Code::NotFound,
            "no model \"other\"",
        ),
        ("a version that does not serve", change(&|r| r.model_version = "7".into()), Code::NotFound, "7"),
        ("no inputs", change(&|r| r.inputs.clear()), bad, "missing"),
        ("an unknown input", change(&|r| r.inputs[0].name = "feature".into()), bad, "features"),
        ("an unknown type", change(&|r| r.inputs[0].datatype = "FP33".into()), bad, "FP33"),
        ("another type", change(&|r| r.inputs[0].datatype = "FP64".into()), bad, "features"),
        ("a shape that does not fit", change(&|r| r.inputs[0].shape = vec![1, 4]), bad, "shape"),
        ("a negative dimension", change(&|r| r.inputs[0].shape = vec![-1, 5]), bad, "features"),
        ("a huge shape", change(&|r| r.inputs[0].shape = vec![i64::MAX, 5]), bad, "features"),
        ("more elements than the shape", change(&|r| r.inputs[0].shape = vec![2, 5]), bad, "features"),
        ("no contents", change(&|r| r.inputs[0].contents = None), bad, "features"),
        (
            "an unknown output",
            change(&|r| r.outputs = vec![InferRequestedOutputTensor { name: "scores".into(), ..Default::default() }]),
            bad,
            "scores",
        ),
        ("too many rows", typed(&[row(1.0); 101]), bad, "100 rows"),
        ("no rows", typed(&[]), bad, "rows"),
        ("raw bytes that do not fit", short, bad, "features"),
        ("more raw contents than inputs", surplus, bad, "raw_input_contents"),
        ("raw contents and typed ones", both, bad, "raw_input_contents"),
        ("an infinity", typed(&[row(f32::INFINITY)]), bad, "cpu_zscore"),
        ("a missing feature", typed(&[row(f32::NAN)]), bad, "cpu_zscore"),
        (
            "a timeout that is no number",
            change(&|r| {
                r.parameters.insert("timeout".into(), parameter(ParameterChoice::StringParam("soon".into())));
            }),
            bad,
            "timeout",
        ),
    ];
    for (what, request, code, words) in cases {
        let status = client.call::<ModelInferResponse>("ModelInfer", request).expect_err(what);
        assert_eq!(status.code(), code, "{what}: {status}");
        assert!(status.message().contains(words), "{what}: {status}");
    }
    let (head, ..) = client.raw("ModelInfer", &[], vec![0, 0, 0, 0, 2, 0xff, 0xff]);
    assert_eq!(head["grpc-status"], "3", "{head:?}");
    let (head, ..) = client.raw("ModelInfer", &[], vec![0, 0, 0, 0, 9, 1]);
    assert_eq!(head["grpc-status"], "3", "{head:?}");
    let (head, ..) = client.raw("ModelInfer", &[("grpc-encoding", "br")], vec![]);
    assert_eq!(
        (&head["grpc-status"], &head["grpc-accept-encoding"]),
        (&"12".parse().expect("a value"), &"gzip,identity".parse().expect("a value"))
    );
    let status = client.call::<ServerLiveResponse>("Nothing", ServerLiveRequest {}).expect_err("no such method");
    assert_eq!((status.code(), status.message().contains("Nothing")), (Code::Unimplemented, true), "{status}");
    // The good ones are answered as before, on the same connection.
    infer(&client, typed(&[row(1.0)]));
    let route = format!("onnxd_http_requests_total{{route=\"/{SERVICE}/ModelInfer\",method=\"POST\",code=\"400\"}}");
    assert!(server.metric(&route) > Some(10.0));
}

/// The deadline is the earliest of the client's, the request's and the server's.
#[test]
fn deadlines_are_kept() {
    let repo = Repo::serving("hang-sometimes", None);
    let server = Server::start(repo.path(), &["--request-timeout", "60s"]);
    let client = Client::connect(server.grpc);
    let hangs = typed(&[row(60.0)]);
    let late = |request: ModelInferRequest, metadata: &[(&str, &str)]| {
        client.call_with::<ModelInferResponse>("ModelInfer", request, metadata).expect_err("it hangs").code()
    };
    assert_eq!(late(hangs.clone(), &[("grpc-timeout", "200m")]), Code::DeadlineExceeded);
    assert_eq!(late(hangs.clone(), &[("grpc-timeout", "1n")]), Code::DeadlineExceeded);
    assert_eq!(late(hangs.clone(), &[("grpc-timeout", "soon")]), Code::InvalidArgument);
    let mut request = hangs;
    request.parameters.insert("timeout".into(), parameter(ParameterChoice::Int64Param(200_000)));
    request.parameters.insert("priority".into(), parameter(ParameterChoice::Uint64Param(1)));
    assert_eq!(late(request, &[]), Code::DeadlineExceeded);
    assert_eq!(late(typed(&[row(1.0)]), &[("x-request-priority", "highest")]), Code::InvalidArgument);
    infer(&client, typed(&[row(1.0)]));
}

/// A client that leaves takes its job with it: what waits behind it is run.
#[test]
fn a_client_that_leaves_is_not_waited_for() {
    let repo = Repo::serving("slow", None);
    let server = Server::start(repo.path(), &["--workers", "1", "--queue-rows", "1000000"]);
    let client = Client::connect(server.grpc);
    let path = format!("/{SERVICE}/ModelInfer");
    let waiting = || server.metric("onnxd_queue_rows{model=\"anomaly\"}");
    let calls = (0..400).map(|_| client.channel.call::<ModelInferResponse>(&path, typed(&[row(1.0); 1024]), &[]));
    let mut calls = Box::pin(join_all(calls));
    wait_for("a queue", || {
        client.wait(async { assert!(calls.as_mut().now_or_never().is_none(), "they are not all answered") });
        (waiting()? > 20.0 * 1024.0).then_some(())
    });
    drop(calls);
    wait_for("an empty queue", || (waiting()? == 0.0).then_some(()));
    let rows = server.metric("onnxd_inference_rows_total{model=\"anomaly\",role=\"champion\"}").expect("rows");
    assert!(rows < 400.0 * 1024.0, "{rows}");
}

#[test]
fn a_stream_answers_in_order_and_goes_on_after_an_error() {
    let repo = Repo::serving("good", None);
    let server = Server::start(repo.path(), &[]);
    let client = Client::connect(server.grpc);
    let requests: Vec<_> = (0..50_u8)
        .map(|i| {
            let mut request =
                if i % 2 == 0 { raw(&[row(f32::from(i) / 10.0)]) } else { typed(&[row(f32::from(i) / 10.0)]) };
            request.id = i.to_string();
            if i == 20 {
                request.inputs[0].name = "nothing".into();
            }
            request
        })
        .collect();
    let alone: Vec<_> = requests.iter().map(|r| client.call::<ModelInferResponse>("ModelInfer", r.clone())).collect();
    let answers: Vec<ModelStreamInferResponse> = client.wait(async {
        let path = format!("/{SERVICE}/ModelStreamInfer");
        let stream = client.channel.stream(&path, futures_util::stream::iter(requests), &[]).await;
        let stream = stream.expect("a stream").into_inner();
        stream.map(|answer| answer.expect("the stream goes on")).collect().await
    });
    assert_eq!(answers.len(), 50);
    for (i, (answer, alone)) in answers.iter().zip(alone).enumerate() {
        let response = answer.infer_response.as_ref().expect("it has the id");
        assert_eq!(response.id, i.to_string());
        match alone {
            Ok(alone) => assert_eq!((&response.outputs, answer.error_message.as_str()), (&alone.outputs, "")),
            Err(status) => assert_eq!(answer.error_message, status.message()),
        }
    }
}

/// A hundred calls at a time on one connection, while versions change: every one is answered by one version.
#[test]
fn promotions_lose_no_call() {
    let repo = Repo::serving("good", None);
    repo.install(2, "other");
    let server = Server::start(repo.path(), &["--workers", "2"]);
    let client = Client::connect(server.grpc);
    let score = |version: u32| {
        serves(&server, version);
        scores(&infer(&client, raw(&[row(3.0)])))[0]
    };
    let good = score(1);
    repo.point(2, None);
    let other = score(2);
    assert!((good - other).abs() > 0.2);
    let path = format!("/{SERVICE}/ModelInfer");
    let mut answered = 0;
    let mut versions = std::collections::BTreeSet::new();
    for turn in 0..12 {
        let version = 1 + turn % 2;
        repo.point(version, None);
        wait_for("the promotion", || {
            let calls = (0..100).map(|_| client.channel.call::<ModelInferResponse>(&path, raw(&[row(3.0)]), &[]));
            for response in client.wait(join_all(calls)) {
                let response = response.expect("an answer").into_inner();
                let expected = if response.model_version == "1" { good } else { other };
                assert_eq!(scores(&response), [expected], "version {}", response.model_version);
                versions.insert(response.model_version);
                answered += 1;
            }
            let status = server.model_status("anomaly");
            (status["champion"]["version"] == json!(version.to_string())).then_some(())
        });
    }
    assert!(answered >= 1200 && versions.len() == 2, "{answered} {versions:?}");
}

/// A status travels in a header: what it repeats of the request must not make that too large for the client.
#[test]
fn statuses_are_short_whatever_the_request_holds() {
    let repo = Repo::serving("good", None);
    let server = Server::start(repo.path(), &[]);
    let client = Client::connect(server.grpc);
    for long in ["a".repeat(100_000), "é\n".repeat(50_000)] {
        for part in ["name", "datatype", "parameter"] {
            let mut message = typed(&[row(1.0)]);
            message.inputs[0].shape = vec![-1];
            match part {
                "name" => message.inputs[0].name.clone_from(&long),
                "datatype" => message.inputs[0].datatype.clone_from(&long),
                _ => {
                    let shared = parameter(ParameterChoice::BoolParam(true));
                    message.inputs[0].name.clone_from(&long);
                    message.inputs[0].parameters.insert("shared_memory_region".into(), shared);
                }
            }
            let refused = client.call::<ModelInferResponse>("ModelInfer", message).expect_err("refused");
            assert_eq!(refused.code(), Code::InvalidArgument, "{part}: {refused}");
            assert!(refused.message().len() <= 1027, "{part}: {} bytes", refused.message().len());
        }
    }
}

/// An empty tensor takes two bytes of a message and hundreds when it is decoded: millions are refused before.
#[test]
fn a_message_of_empty_tensors_is_refused_before_it_is_decoded() {
    let repo = Repo::serving("good", None);
    let server = Server::start(repo.path(), &[]);
    let client = Client::connect(server.grpc);
    infer(&client, raw(&[row(1.0)]));
    let before = resident(server.pid());
    for tensor in ["inputs", "outputs", "raw_input_contents"] {
        let mut message = ModelInferRequest { model_name: "anomaly".into(), ..Default::default() };
        match tensor {
            "inputs" => message.inputs = vec![InferInputTensor::default(); 1 << 20],
            "outputs" => message.outputs = vec![InferRequestedOutputTensor::default(); 1 << 20],
            _ => message.raw_input_contents = vec![Default::default(); 1 << 20],
        }
        let refused = client.call::<ModelInferResponse>("ModelInfer", message).expect_err("refused");
        assert_eq!(refused.code(), Code::InvalidArgument, "{tensor}: {refused}");
        assert!(refused.message().contains("more than 4096 inputs or outputs"), "{tensor}: {refused}");
    }
    let grown = resident(server.pid()).saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes more than before");
}
