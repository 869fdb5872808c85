//! From the bytes of a body to the tensors of a run, beside reading the same bytes by what a program of one model would have.

use std::hint::black_box;

use anyhow::{Context as _, Result, ensure};
use benches::{parse, prepared};
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, measurement::WallTime};
use onnxd::{
    codec::{csv, decode, oip},
    model::signature::Signature,
};
use serde::Deserialize;
use serde_json::{from_slice, json};

use crate::rows::{self, MANY, Row};

/// What a body that was decoded before is expected to do.
const SOUND: &str = "what was read just now is read again";
const ONNXD: &str = "onnxd";
const SERDE: &str = "serde_json";

/// The typed form of `{"instances": [..]}`.
#[derive(Deserialize)]
struct Instances<'a> {
    #[serde(borrow)]
    instances: Vec<Row<'a>>,
}

/// The typed form of a request of the Open Inference Protocol.
#[derive(Deserialize)]
struct Infer<'a> {
    #[serde(borrow)]
    inputs: Vec<Given<'a>>,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "what a floor reads is of no other use")]
struct Given<'a> {
    name: &'a str,
    shape: Vec<usize>,
    datatype: &'a str,
    #[serde(default)]
    data: Vec<f32>,
}

pub(crate) fn measure(criterion: &mut Criterion, signature: &Signature) -> Result<()> {
    let mut group = criterion.benchmark_group("decode");
    let plain = rows::plain()?;
    objects(&mut group, signature, &plain)?;
    tensors(&mut group, signature, &plain)?;
    table(&mut group, signature, &plain)?;
    group.finish();
    Ok(())
}

/// Objects of features.
fn objects(group: &mut BenchmarkGroup<'_, WallTime>, signature: &Signature, plain: &[String]) -> Result<()> {
    let one = plain.first().context("there are no rows")?;
    let marked = rows::marked(plain)?;
    let (array, marks) = (rows::array(plain), rows::array(&marked));
    let instances = format!(r#"{{"instances":{array}}}"#);
    let read = |json: &str| decode::body(signature, json.as_bytes(), MANY);
    ensure!(read(one)?.rows == 1 && read(&array)?.rows == MANY && read(&instances)?.rows == MANY, "other rows");
    ensure!(read(&marks)?.marks.len() == MANY, "the marks are not read");

    for (name, count, json) in [
        ("a row", 1, one),
        ("array", MANY, &array),
        ("array with marks", MANY, &marks),
        ("instances", MANY, &instances),
    ] {
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::new(name, ONNXD), |b| b.iter(|| read(black_box(json)).expect(SOUND)));
        let json = json.as_bytes();
        group.bench_function(BenchmarkId::new(name, SERDE), |b| match name {
            "a row" => b.iter(|| from_slice::<Row<'_>>(black_box(json)).expect(SOUND)),
            "instances" => b.iter(|| from_slice::<Instances<'_>>(black_box(json)).expect(SOUND).instances),
            _ => b.iter(|| from_slice::<Vec<Row<'_>>>(black_box(json)).expect(SOUND)),
        });
    }
    // The floor of `benches reach`.
    let names: Vec<String> = signature.keys().iter().map(|(name, _)| name.to_string()).collect();
    group.bench_function(BenchmarkId::new("instances", "serde_json into a buffer"), |b| {
        let mut values = vec![];
        b.iter(|| parse::rows(black_box(instances.as_bytes()), &names, &mut values).expect(SOUND));
    });
    Ok(())
}

/// Requests of the Open Inference Protocol.
fn tensors(group: &mut BenchmarkGroup<'_, WallTime>, signature: &Signature, plain: &[String]) -> Result<()> {
    let values = rows::values(plain)?;
    let [input] = signature.inputs.as_slice() else { anyhow::bail!("the model has other inputs than one") };
    let shape = [MANY, values.len() / MANY];
    let request = json!({"inputs": [{"name": input.name, "shape": shape, "datatype": "FP32", "data": values}]});
    let json = request.to_string().into_bytes();
    let read = |bytes: &[u8], json| oip::bind(signature, oip::read::request(bytes, json)?, MANY);
    let request = read(&json, None)?;
    let (bytes, head) = prepared::as_bytes(signature, &request.inputs, MANY);
    ensure!(read(&bytes, Some(head))?.inputs == request.inputs, "the tensors differ from those of the JSON");

    group.throughput(Throughput::Elements(MANY as u64));
    let id = |function| BenchmarkId::new("tensors as JSON", function);
    group.bench_function(id(ONNXD), |b| b.iter(|| read(black_box(&json), None).expect(SOUND)));
    group.bench_function(id(SERDE), |b| b.iter(|| from_slice::<Infer<'_>>(black_box(&json)).expect(SOUND).inputs));
    let id = |function| BenchmarkId::new("tensors as bytes", function);
    group.bench_function(id(ONNXD), |b| b.iter(|| read(black_box(&bytes), Some(head)).expect(SOUND)));
    group.bench_function(id("serde_json and a copy"), |b| {
        b.iter(|| {
            let (head, tensor) = black_box(bytes.as_slice()).split_at(head);
            let (numbers, _) = tensor.as_chunks();
            let values: Vec<f32> = numbers.iter().map(|number| f32::from_le_bytes(*number)).collect();
            (from_slice::<Infer<'_>>(head).expect(SOUND).inputs, values)
        });
    });
    Ok(())
}

/// CSV with a line of names.
fn table(group: &mut BenchmarkGroup<'_, WallTime>, signature: &Signature, plain: &[String]) -> Result<()> {
    let mut text = "cpu_zscore,memory_zscore\n".to_owned();
    for row in plain {
        let Row { cpu_zscore, memory_zscore, .. } = serde_json::from_str(row)?;
        text += &format!("{cpu_zscore},{memory_zscore}\n");
    }
    let read = |csv: &[u8]| csv::body(signature, csv, MANY);
    ensure!(read(text.as_bytes())?.rows == MANY, "other rows");

    group.throughput(Throughput::Elements(MANY as u64));
    group.bench_function(BenchmarkId::new("CSV", ONNXD), |b| b.iter(|| read(black_box(text.as_bytes())).expect(SOUND)));
    group.bench_function(BenchmarkId::new("CSV", "split and parse"), |b| {
        b.iter(|| {
            let cells = black_box(text.as_str()).lines().skip(1).flat_map(|line| line.split(','));
            cells.map(|cell| cell.parse().expect(SOUND)).collect::<Vec<f32>>()
        });
    });
    Ok(())
}
