use super::*;
use crate::model::signature::{GraphIo, Port};
use crate::model::tensor::{DType, Tensor};

/// The anomaly model's: two features are required, the others are NaN when they are missing.
fn anomaly() -> Signature {
    let manifest = include_str!("../../../../models/anomaly/1/manifest.json");
    let manifest = serde_json::from_str(manifest).expect("a manifest");
    let port = |name: &str, dtype, shape: &[i64]| Port { name: name.into(), tensor: Ok((dtype, shape.to_vec())) };
    let graph = GraphIo {
        inputs: vec![port("features", DType::F32, &[-1, 5])],
        outputs: vec![
            port("anomaly", DType::Bool, &[-1]),
            port("score", DType::F32, &[-1]),
            port("forecast", DType::F32, &[-1]),
        ],
        ..GraphIo::default()
    };
    Signature::new(&graph, Some(&manifest)).expect("a signature")
}

/// Bits, since NaN differs from itself.
fn bits(request: &Request) -> (Vec<u32>, usize, Form) {
    let [Tensor::F32(values)] = request.inputs.as_slice() else { panic!("one input of float32") };
    assert_eq!(values.shape(), [request.rows, 5]);
    (values.iter().map(|value| value.to_bits()).collect(), request.rows, request.form)
}

/// Whether the plain way took it. If so, it read what the visitors read.
fn is_plain(signature: &Signature, json: &[u8]) -> bool {
    let Some(plain) = plain::body(signature, json, 3) else { return false };
    let shown = String::from_utf8_lossy(json);
    let any = any(signature, json, 3).unwrap_or_else(|e| panic!("{shown} is refused: {e}"));
    assert_eq!(bits(&plain), bits(&any), "{shown}");
    assert_eq!(plain.marks, any.marks, "{shown}");
    true
}

#[test]
fn plain_rows_are_read_in_the_plain_way() {
    let signature = anomaly();
    let row = r#"{"cpu_zscore":2.1,"memory_zscore":-1.5}"#;
    for json in [
        row.to_owned(),
        format!("[{row}]"),
        format!(r#"[{row}, {{"series":"a","ts":1764270000,"cpu_zscore":0,"memory_zscore":0}}, {row}]"#),
        format!(" [ {row} ,\n{row},{row}\t] "),
        format!(r#"{{"instances":[{row}]}}"#),
        format!("{{ \"instances\"\t: [ {row} ,{row}]\n}} "),
        r#"{ "memory_zscore" : 1 , "disk_io_zscore" : -0.5e-3 , "cpu_zscore" : 12345678901234567890 }"#.into(),
    ] {
        assert!(is_plain(&signature, json.as_bytes()), "{json}");
    }
    for json in [
        "",
        "{}",
        "[]",
        "[[1,2,3,4,5]]",
        r#"{"instances":[]}"#,
        r#"{"instances":[{"cpu_zscore":2.1,"memory_zscore":-1.5}],"instances":[]}"#,
        r#"{"instances":[{"cpu_zscore":2.1,"memory_zscore":-1.5}]"#,
        r#"{"instances":{"cpu_zscore":2.1,"memory_zscore":-1.5}}"#,
        r#"{"instances":[[2.1,-1.5,0,0,0]]}"#,
        r#"{"cpu_zscore":2.1}"#,
        r#"{"cpu_zscore":2.1,"cpu_zscore":2.1,"memory_zscore":-1.5}"#,
        r#"{"cpu_zscore":null,"memory_zscore":-1.5}"#,
        r#"{"cpu_zscore":1e39,"memory_zscore":-1.5}"#,
        r#"{"cpu_zscore":01,"memory_zscore":-1.5}"#,
        r#"{"cpu_zscore":1.,"memory_zscore":-1.5}"#,
        r#"{"cpu_zscore":-,"memory_zscore":-1.5}"#,
        r#"{"cpu_zscore":1,"memory_zscore":-1.5,}"#,
        r#"{"cpu_zscore":1,"memory_zscore":-1.5}x"#,
        r#"{"cpu_zscore":1,"memory_zscore":-1.5,"series":""}"#,
        r#"{"cpu_zscore":1,"memory_zscore":-1.5,"series":null}"#,
        r#"{"cpu_zscore":1,"memory_zscore":-1.5,"series":"\u0061"}"#,
        r#"{"cpu_zscore":1,"memory_zscore":-1.5,"ts":-1}"#,
        r#"{"cpu_zscore":1,"memory_zscore":-1.5,"ts":1e11}"#,
        r#"{"cpu_zscore":1,"memory_zscore":-1.5,"other":1}"#,
        r#"{"series":"a","ts":1}"#,
        r#"{"cpu\u005fzscore":1,"memory_zscore":-1.5}"#,
    ] {
        assert!(!is_plain(&signature, json.as_bytes()), "{json}");
    }
    for json in [format!("[{row},{row},{row},{row}]"), format!(r#"{{"instances":[{row},{row},{row},{row}]}}"#)] {
        assert!(!is_plain(&signature, json.as_bytes()), "more rows than are allowed");
    }
}

/// Numbers of all kinds, whole bodies, and bodies with a byte or two changed, left out or doubled.
#[test]
fn what_the_plain_way_reads_is_what_the_visitors_read() {
    let signature = anomaly();
    let mut random = fastrand::Rng::with_seed(7);
    let mut plain = 0;
    for _ in 0..30_000 {
        let mut other = random.fork();
        let mut number = || match random.u8(0..8) {
            0 => random.i64(-100..100).to_string(),
            1 => random.u64(..).to_string(),
            2 => format!("{:e}", f64::from_bits(random.u64(..) & !(1 << 62))),
            3 => format!("{}", f32::from_bits(random.u32(..) & !(1 << 30))),
            4 => format!("{}{}.{}E{}", random.u64(..), random.u64(..), random.u64(..), random.i8(..)),
            5 => ["0", "-0", "-0.0", "0e0", "1E+2", "4.35", "0.1", "9007199254740993", "1e22", "1e23"]
                [random.usize(..10)]
            .into(),
            _ => format!("{:.1$}", (random.f64() - 0.5) * 20.0, random.usize(0..9)),
        };
        let names = ["cpu_zscore", "memory_zscore", "disk_io_zscore", "cpu_baseline", "cpu_scale"];
        let mut row = || {
            let fields: Vec<String> = names.iter().map(|name| format!("{name:?}:{}", number())).collect();
            let marks = ["", r#", "series": "pod/a-1""#, r#","ts":1764270000.25,"series":"b""#, r#","ts":17"#];
            format!("{{{}{}}}", fields[..2 + fields.len() % 4].join(","), marks[other.usize(..4)])
        };
        let json = match plain % 3 {
            0 => row(),
            1 => format!("[{}, {}]", row(), row()),
            _ => format!("{{\"instances\": [{}, {}]}}", row(), row()),
        };
        let mut json = json.into_bytes();
        plain += usize::from(is_plain(&signature, &json));
        for _ in 0..random.u8(1..3) {
            let at = random.usize(..json.len());
            match random.u8(0..3) {
                0 => json[at] = *b"{}[]\",:.-+eE0159 \\nt\n\x80".get(random.usize(..22)).unwrap_or(&b' '),
                1 => drop(json.remove(at)),
                _ => json.insert(at, json[at]),
            }
        }
        is_plain(&signature, &json);
    }
    assert!(plain > 20_000, "{plain} of 30,000 were plain");
}
