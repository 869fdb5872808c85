//! From the tensors of a run to the bytes of an answer, beside writing the same values by what a program of one model would have.

use std::{hint::black_box, sync::Arc};

use anyhow::{Context as _, Result};
use criterion::{BenchmarkId, Criterion, Throughput};
use onnxd::{
    codec::{
        Form, decode,
        encode::{self, Classes},
        oip,
    },
    model::{Answer, tensor::Tensor},
};
use serde::Serialize;
use tokio::runtime::Builder;

use crate::{
    Served,
    rows::{self, MANY},
};

const ONNXD: &str = "onnxd";
const SOUND: &str = "it is written to memory";

/// A row of the answer as a program would declare it that has this model alone.
#[derive(Serialize)]
struct Row {
    anomaly: bool,
    score: f32,
    forecast: f32,
}

pub(crate) fn measure(criterion: &mut Criterion, served: &Served) -> Result<()> {
    let champion = &served.set.champion;
    let signature = &champion.signature;
    let request = decode::body(signature, rows::array(&rows::plain()?).as_bytes(), MANY)?;
    let call = served.engine.call("micro");
    let runtime = Builder::new_current_thread().build()?;
    let many = runtime.block_on(served.lane.predict(&served.set, request.inputs, MANY, call, None))?;
    let outputs = &many.first().context("the model gave no answer")?.outputs;
    let one = [Answer { outputs: Arc::clone(outputs), rows: 0..1 }];
    let typed = typed(&many)?;

    let mut group = criterion.benchmark_group("encode");
    group.throughput(Throughput::Elements(1));
    let write = |answers: &[Answer], form| encode::answer(signature, answers, form, Classes::Array);
    group.bench_function(BenchmarkId::new("a row", ONNXD), |b| b.iter(|| write(black_box(&one), Form::One)));
    group.bench_function(BenchmarkId::new("a row", "serde_json"), |b| {
        b.iter(|| serde_json::to_vec(black_box(&typed[0])).expect(SOUND));
    });
    group.throughput(Throughput::Elements(MANY as u64));
    group.bench_function(BenchmarkId::new("array", ONNXD), |b| b.iter(|| write(black_box(&many), Form::Many)));
    group.bench_function(BenchmarkId::new("array", "serde_json"), |b| {
        b.iter(|| serde_json::to_vec(black_box(&typed)).expect(SOUND));
    });
    let chosen = |output| oip::Chosen { output, binary: true, classes: 0 };
    let form = oip::Form { id: String::new(), outputs: (0..signature.outputs.len()).map(chosen).collect() };
    group.bench_function(BenchmarkId::new("tensors as bytes", ONNXD), |b| {
        b.iter(|| oip::write::answer(&champion.id, signature, black_box(&many), &form));
    });
    let column = |output: &Tensor| {
        let mut bytes = vec![];
        oip::raw::encode(&mut bytes, output, 0..MANY);
        bytes
    };
    let columns: Vec<Vec<u8>> = outputs.iter().map(column).collect();
    group.bench_function(BenchmarkId::new("tensors as bytes", "a copy"), |b| {
        b.iter(|| black_box(&columns).concat());
    });
    group.finish();
    Ok(())
}

/// The same values as a program's own rows.
fn typed(answers: &[Answer]) -> Result<Vec<Row>> {
    let mut typed = vec![];
    for Answer { outputs, rows } in answers {
        let [Tensor::Bool(anomaly), Tensor::F32(score), Tensor::F32(forecast)] = &**outputs else {
            anyhow::bail!("the model has other outputs than anomaly, score and forecast");
        };
        let row = |at: usize| Row { anomaly: anomaly[[at]], score: score[[at]], forecast: forecast[[at]] };
        typed.extend(rows.clone().map(row));
    }
    Ok(typed)
}
