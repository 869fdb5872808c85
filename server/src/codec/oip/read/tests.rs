use super::*;
use crate::model::tensor::Scalar;

fn one(json: &str) -> Given {
    let mut infer = request(json.as_bytes(), None).unwrap_or_else(|e| panic!("{json}: {e}"));
    assert_eq!(infer.inputs.len(), 1, "{json}");
    infer.inputs.remove(0)
}

fn refused(json: &str) -> String {
    match request(json.as_bytes(), None) {
        Ok(infer) => panic!("{json} was taken: {infer:?}"),
        Err(error) => error.to_string(),
    }
}

fn ints(given: &Given) -> Vec<i128> {
    let value = |at| match given.values.get(at) {
        Some(Scalar::Int(value)) => value,
        other => panic!("{other:?}"),
    };
    (0..given.values.len()).map(value).collect()
}

#[test]
fn keys_come_in_any_order_and_data_flat_or_nested() {
    let parts =
        [r#""name":"x""#, r#""shape":[2,2]"#, r#""datatype":"INT64""#, r#""data":[[1,2],[3,9007199254740993]]"#];
    for turn in 0..24 {
        let mut left = parts.to_vec();
        let mut order = vec![];
        let mut number = turn;
        while !left.is_empty() {
            let at = number % left.len();
            number /= left.len();
            order.push(left.remove(at));
        }
        let given = one(&format!("{{\"inputs\":[{{{}}}]}}", order.join(",")));
        assert_eq!((given.name.as_str(), &*given.shape), ("x", &[2, 2][..]));
        assert_eq!(ints(&given), [1, 2, 3, 9_007_199_254_740_993], "{order:?}");
    }
    let flat =
        one(r#"{"inputs":[{"name":"x","shape":[2,2],"datatype":"UINT64","data":[0,1,2,18446744073709551615]}]}"#);
    assert_eq!(ints(&flat), [0, 1, 2, u64::MAX.into()]);
    let scalar = one(r#"{"inputs":[{"name":"x","shape":[],"datatype":"INT8","data":-5}]}"#);
    assert_eq!((&*scalar.shape, ints(&scalar)), (&[][..], vec![-5]));
    let null = one(r#"{"inputs":[{"name":"x","shape":[3],"datatype":"FP16","data":[1.5,null,-2]}]}"#);
    assert_eq!((null.values.dtype(), null.nulls), (DType::F16, vec![1]));
}

#[test]
fn what_surrounds_the_inputs_is_read_or_ignored() {
    let json = r#"{"x":[{}],"id":"7","parameters":{"priority":1,"timeout":5,"binary_data_output":true,"mine":"a"},
        "outputs":[{"name":"a","parameters":{"binary_data":false,"classification":3,"mine":1.5}},{"name":"b","parameters":null}],
        "inputs":[]}"#;
    let infer = request(json.as_bytes(), None).expect("fits");
    assert_eq!((infer.id.as_str(), infer.binary_output, infer.wishes.priority), ("7", true, 1));
    assert_eq!(infer.outputs[0], Wanted { name: "a".into(), binary: Some(false), classes: 3 });
    assert_eq!(infer.outputs[1], Wanted { name: "b".into(), binary: None, classes: 0 });
    // What others know may have any form, as Triton's headers do.
    let json = r#"{"parameters":{"headers":{"a":{"b":[1]}},"x":[[],{}],"y":null,"priority":null,"sequence_id":null},
        "outputs":[{"name":"a","parameters":{"x":{"y":1},"z":[1],"classification":null}}],"inputs":[{"name":"x","shape":[1],
        "datatype":"INT8","data":[1],"parameters":{"x":{"y":[null]},"binary_data_size":null,"shared_memory_region":null}}]}"#;
    let infer = request(json.as_bytes(), None).expect("fits");
    assert_eq!((infer.wishes.priority, infer.outputs[0].classes, infer.inputs.len()), (0, 0, 1));
    let infer = request(br#"{"id":null,"parameters":null,"outputs":null,"inputs":[]}"#, None).expect("fits");
    assert!(infer.id.is_empty() && infer.outputs.is_empty());
}

#[test]
fn json_and_bytes_may_be_mixed() {
    let json = br#"{"inputs":[{"name":"a","shape":[2],"datatype":"UINT16","parameters":{"binary_data_size":4}},
        {"name":"b","shape":[1],"datatype":"INT32","data":[7]},
        {"parameters":{"binary_data_size":6},"name":"c","shape":[1],"datatype":"BYTES"}]}"#;
    let body = [&json[..], &[1, 0, 0, 1], &[2, 0, 0, 0, b'h', b'i']].concat();
    let infer = request(&body, Some(json.len())).expect("fits");
    assert_eq!(ints(&infer.inputs[0]), [1, 256]);
    assert_eq!(ints(&infer.inputs[1]), [7]);
    assert!(matches!(infer.inputs[2].values.get(0), Some(Scalar::Text("hi"))));
    let error = |body: &[u8], length| request(body, Some(length)).expect_err("refused").to_string();
    assert!(error(&body, body.len() + 1).starts_with(HEADER));
    assert!(error(&body[..body.len() - 1], json.len()).contains("c has binary_data_size 6, 5 bytes are left"));
    let longer = [&body[..], &[0]].concat();
    assert!(error(&longer, json.len()).contains("1 bytes behind its JSON that no input takes"));
    assert!(error(&body, json.len() - 1).contains("not JSON"));
}

#[test]
fn every_mistake_names_its_place() {
    let tensor = |rest: &str| format!("{{\"inputs\":[{{\"name\":\"x\",{rest}}}]}}");
    for (json, words) in [
        (String::new(), "it is empty"),
        ("[]".into(), "expected an object with \"inputs\""),
        ("{}".into(), "inputs is missing"),
        (r#"{"inputs":{}}"#.into(), "inputs: invalid type: map"),
        (r#"{"inputs":[1]}"#.into(), "inputs[0]: invalid type"),
        (r#"{"inputs":[],"inputs":[]}"#.into(), "inputs is given twice"),
        (r#"{"id":5,"inputs":[]}"#.into(), "id: invalid type"),
        (r#"{"inputs":[],"parameters":[]}"#.into(), "parameters: invalid type"),
        (r#"{"inputs":[],"parameters":{"priority":[1]}}"#.into(), "parameters.priority is an array"),
        (
            r#"{"inputs":[],"parameters":{"binary_data_output":{}}}"#.into(),
            "parameters.binary_data_output is an object",
        ),
        (r#"{"inputs":[],"parameters":{"a":1,"a":2}}"#.into(), "parameters names one twice"),
        (r#"{"inputs":[],"parameters":{"priority":-1}}"#.into(), "parameters.priority"),
        (r#"{"inputs":[],"outputs":[{}]}"#.into(), "outputs[0].name is missing"),
        (r#"{"inputs":[],"outputs":[{"name":"o","parameters":{"classification":-2}}]}"#.into(), "o: classification"),
        (
            r#"{"inputs":[],"outputs":[{"name":"o","parameters":{"shared_memory_region":"r"}}]}"#.into(),
            "o is in shared memory",
        ),
        (r#"{"inputs":[{"shape":[1],"datatype":"FP32","data":[1]}]}"#.into(), "inputs[0].name is missing"),
        (tensor(r#""shape":[1],"data":[1]"#), "inputs[0].datatype is missing (x)"),
        (tensor(r#""datatype":"FP32","data":[1]"#), "inputs[0].shape is missing (x)"),
        (tensor(r#""shape":[1],"datatype":"FP32""#), "x has no data"),
        (tensor(r#""shape":[1],"datatype":"float32","data":[1]"#), "x has datatype \"float32\""),
        (tensor(r#""shape":[1],"shape":[1],"datatype":"FP32","data":[1]"#), "inputs[0].shape is given twice"),
        (tensor(r#""shape":[1.5],"datatype":"FP32","data":[1]"#), "inputs[0].shape: invalid type"),
        (tensor(r#""shape":5,"datatype":"FP32","data":[1]"#), "inputs[0].shape: invalid type"),
        (tensor(r#""shape":[-1,5],"datatype":"FP32","data":[1]"#), "x has shape [-1, 5]"),
        (tensor(r#""shape":[4294967295,4294967295],"datatype":"FP32","data":[1]"#), "too many elements"),
        (tensor(r#""shape":[99999999999999999999],"datatype":"FP32","data":[1]"#), "inputs[0].shape"),
        (tensor(r#""shape":[3],"datatype":"FP32","data":[1,2]"#), "x has 2 elements of data, its shape [3] takes 3"),
        (tensor(r#""shape":[1],"datatype":"FP32","data":[1,2]"#), "x has more than 1 elements"),
        (tensor(r#""data":[1,2],"shape":[1],"datatype":"FP32""#), "x has more than 1 elements"),
        (tensor(r#""datatype":"FP32","data":[1,2],"shape":[1]"#), "x has 2 elements of data, its shape [1] takes 1"),
        (tensor(r#""shape":[4],"datatype":"FP32","data":[[1,2],[3,4]]"#), "x has data of shape [2, 2]"),
        (tensor(r#""shape":[2,2],"datatype":"FP32","data":[[1,2],[3]]"#), "x is ragged"),
        (tensor(r#""shape":[1],"datatype":"FP32","data":["1"]"#), "x is a string"),
        (tensor(r#""shape":[1],"datatype":"INT8","data":[128]"#), "x is 128, which does not fit int8"),
        (tensor(r#""shape":[1],"datatype":"UINT64","data":[-1]"#), "x is -1, which does not fit uint64"),
        (tensor(r#""shape":[1],"datatype":"BOOL","data":[1]"#), "x is the number 1"),
        (tensor(r#""shape":[1],"datatype":"FP16","data":[70000]"#), "not finite as float16"),
        (tensor(r#""shape":[1],"datatype":"BYTES","data":[5]"#), "x is the number 5"),
        (tensor(r#""shape":[1],"datatype":"BYTES","data":["a\u0000"]"#), "x has a zero character"),
        (tensor(r#""shape":[1],"datatype":"FP32","data":[NaN]"#), "inputs[0].data holds NaN"),
        (tensor(r#""shape":[1],"datatype":"FP32","data":[-Infinity]"#), "inputs[0].data holds Infinity"),
        (tensor(r#""shape":[1],"datatype":"FP32","data":[1"#), "in inputs[0].data"),
        (tensor(r#""shape":[1],"datatype":"FP32","data":[1],"parameters":{"binary_data_size":4}"#), "x has both data"),
        (
            tensor(r#""shape":[1],"datatype":"FP32","parameters":{"binary_data_size":4}"#),
            "x has binary_data_size 4, 0 bytes",
        ),
        (
            tensor(r#""shape":[1],"datatype":"FP32","parameters":{"binary_data_size":-4}"#),
            "x: binary_data_size must be",
        ),
        (
            tensor(r#""shape":[1],"datatype":"FP32","parameters":{"binary_data_size":18446744073709551615}"#),
            "x has binary_data_size 18446744073709551615",
        ),
        (tensor(r#""shape":[1],"datatype":"FP32","parameters":{"shared_memory_region":"r"}"#), "x is in shared memory"),
        (format!("{} x", tensor(r#""shape":[1],"datatype":"FP32","data":[1]"#)), "trailing characters"),
    ] {
        let error = refused(&json);
        assert!(error.contains(words), "{json}\n  {error}\n  lacks: {words}");
    }
}

/// Every prefix and every body with one byte changed is answered or refused, and nothing panics.
#[test]
fn no_body_is_too_broken_to_be_refused() {
    let json = br#"{"id":"1","inputs":[{"name":"a","shape":[2,1],"datatype":"FP32","data":[[1e3],[null]]},{"data":["a"],"name":"b",
        "shape":[1],"datatype":"BYTES"},{"name":"c","shape":[1],"datatype":"BOOL","parameters":{"binary_data_size":1}}],
        "outputs":[{"name":"o","parameters":{"binary_data":true}}],"parameters":{"timeout":100}}"#;
    let body = [&json[..], &[1]].concat();
    assert!(request(&body, Some(json.len())).is_ok());
    for end in 0..body.len() {
        assert!(request(&body[..end], Some(json.len().min(end))).is_err(), "{end}");
        for byte in [b'"', b'[', b'}', b'-', b'9', 0xff, 0] {
            let mut changed = body.clone();
            changed[end] = byte;
            let _ = request(&changed, Some(json.len()));
            let _ = request(&changed, Some(end));
        }
    }
    let deep = "[".repeat(100_000);
    assert!(
        refused(&format!(r#"{{"inputs":[{{"name":"x","shape":[1],"datatype":"FP32","data":{deep}"#))
            .contains("recursion")
    );
    let closed = format!("{deep}{}", "]".repeat(100_000));
    let later = format!(r#"{{"inputs":[{{"data":{closed},"name":"x","shape":[1],"datatype":"FP32"}}]}}"#);
    assert!(refused(&later).contains("recursion"));
}

/// One MiB of numbers; what is asserted has room for a busy machine.
#[test]
fn raw_numbers_are_read_about_as_fast_as_they_are_copied() {
    let json =
        br#"{"inputs":[{"name":"x","shape":[262144],"datatype":"FP32","parameters":{"binary_data_size":1048576}}]}"#;
    let body = [&json[..], &vec![1; 1 << 20]].concat();
    let best = (0..20).map(|_| {
        let begin = std::time::Instant::now();
        let infer = request(&body, Some(json.len())).expect("fits");
        assert_eq!(infer.inputs[0].values.len(), 1 << 18);
        begin.elapsed()
    });
    let best = best.min().expect("20 turns");
    assert!(best < std::time::Duration::from_millis(1), "{best:?}");
}
