//! What a model takes, as a server of the Open Inference Protocol tells it, and requests with rows for it.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use fastrand::Rng;
use prost::Message as _;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::http::{self, Target};
use super::{Binary, Requests};
use crate::http::grpc::proto::ModelInferRequest;
use crate::http::grpc::proto::model_infer_request::InferInputTensor;

/// How requests are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Protocol {
    /// Objects of features, to `/models/{model}/predict`.
    Json,
    /// The Open Inference Protocol's JSON, to `/v2/models/{model}/infer`.
    Oip,
    /// The same with tensors as bytes, in the answer too.
    Binary,
    /// The same protocol over gRPC, tensors as bytes.
    Grpc,
}

/// A model as `GET /v2/models/{model}` tells it.
#[derive(Clone, Debug, Deserialize)]
pub struct Model {
    /// Its name.
    pub name: String,
    /// Its inputs.
    pub inputs: Vec<Input>,
}

/// One input.
#[derive(Clone, Debug, Deserialize)]
pub struct Input {
    /// The graph's name for it.
    pub name: String,
    /// `FP32` and the like.
    pub datatype: String,
    /// Rows first; a free dimension is -1.
    pub shape: Vec<i64>,
    /// What its columns are called, where they have names.
    #[serde(default)]
    pub features: Vec<String>,
}

/// Rows of one request.
#[derive(Clone, Debug)]
pub struct Table {
    /// How many.
    pub rows: usize,
    /// Of each input, the values of all rows, one row after the other.
    pub inputs: Vec<Vec<f64>>,
}

impl Model {
    /// Asks a server about a model; about the only one it has when there is no name.
    ///
    /// # Errors
    /// That it does not answer, has no such model, or several.
    pub fn ask(server: SocketAddr, name: Option<&str>) -> Result<Self> {
        let name = match name {
            Some(name) => name.to_owned(),
            None => only_model(server)?,
        };
        let (status, text) = http::get(server, &format!("/v2/models/{name}"))?;
        ensure!(status == 200, "{server} answered {status} about model {name}: {text}");
        serde_json::from_str(&text).with_context(|| format!("what {server} tells of model {name}"))
    }

    /// Where its requests go. gRPC has its own path, and mostly its own port.
    #[must_use]
    pub fn target(&self, address: SocketAddr, protocol: Protocol) -> Target {
        let path = match protocol {
            Protocol::Json => format!("/models/{}/predict", self.name),
            Protocol::Oip | Protocol::Binary | Protocol::Grpc => format!("/v2/models/{}/infer", self.name),
        };
        Target { address, path }
    }

    /// Names of the features, if rows are objects of them alone.
    #[must_use]
    pub fn features(&self) -> Option<&[String]> {
        match self.inputs.as_slice() {
            [input] if !input.features.is_empty() => Some(&input.features),
            _ => None,
        }
    }

    /// Tables of rows that differ, the same for the same seed: numbers from -3 to 3 with two decimals, small whole numbers
    /// where the type has no fractions.
    ///
    /// # Errors
    /// An input for which no rows can be made up.
    pub fn tables(&self, count: usize, rows: usize, seed: u64) -> Result<Vec<Table>> {
        let mut random = Rng::with_seed(seed);
        let widths = self.inputs.iter().map(Input::width).collect::<Result<Vec<_>>>()?;
        let mut value = |input: &Input| match input.datatype.as_str() {
            "BOOL" => f64::from(random.u8(..2)),
            "FP16" | "BF16" | "FP32" | "FP64" => f64::from(random.i32(-300..=300)) / 100.0,
            _ => f64::from(random.u8(..10)),
        };
        let table = |_| {
            let inputs = self.inputs.iter().zip(&widths);
            let inputs = inputs.map(|(input, width)| (0..rows * width).map(|_| value(input)).collect());
            Table { rows, inputs: inputs.collect() }
        };
        Ok((0..count).map(table).collect())
    }

    /// Requests, one for each table; `connections` is how many HTTP/2 connections gRPC has.
    ///
    /// # Errors
    /// An input whose type or shape the protocol's requests are not written for.
    pub fn requests(&self, protocol: Protocol, tables: &[Table], connections: usize) -> Result<Requests> {
        Ok(match protocol {
            Protocol::Json => Requests::json(tables.iter().map(|table| self.named(table)).collect::<Result<Vec<_>>>()?),
            Protocol::Oip => Requests::json(tables.iter().map(|table| self.oip(table)).collect::<Result<Vec<_>>>()?),
            Protocol::Binary => Requests::Binary(tables.iter().map(|table| self.binary(table)).collect::<Result<_>>()?),
            Protocol::Grpc => {
                let messages = tables.iter().map(|table| self.grpc(table)).collect::<Result<_>>()?;
                Requests::Grpc { messages, connections }
            }
        })
    }

    /// One row as an object, more as `instances`.
    fn named(&self, table: &Table) -> Result<String> {
        let widths = self.inputs.iter().map(Input::width).collect::<Result<Vec<_>>>()?;
        let row = |row: usize| {
            let mut object = Map::new();
            for ((input, values), width) in self.inputs.iter().zip(&table.inputs).zip(&widths) {
                let cells = &values[row * width..(row + 1) * width];
                let mut cells = cells.iter().map(|value| number(&input.datatype, *value));
                if !input.features.is_empty() {
                    object.extend(input.features.iter().cloned().zip(cells));
                } else if input.shape.len() == 1 {
                    object.extend(cells.next().map(|cell| (input.name.clone(), cell)));
                } else {
                    object.insert(input.name.clone(), cells.collect());
                }
            }
            Value::Object(object)
        };
        Ok(match table.rows {
            1 => row(0).to_string(),
            rows => json!({ "instances": (0..rows).map(row).collect::<Vec<_>>() }).to_string(),
        })
    }

    fn oip(&self, table: &Table) -> Result<String> {
        let inputs = self.inputs.iter().zip(&table.inputs).map(|(input, values)| {
            let data: Vec<_> = values.iter().map(|value| number(&input.datatype, *value)).collect();
            let shape = input.shape_of(table.rows)?;
            Ok(json!({ "name": input.name, "datatype": input.datatype, "shape": shape, "data": data }))
        });
        Ok(json!({ "inputs": inputs.collect::<Result<Vec<_>>>()? }).to_string())
    }

    fn binary(&self, table: &Table) -> Result<Binary> {
        let (mut inputs, mut data) = (Vec::new(), Vec::new());
        for (input, values) in self.inputs.iter().zip(&table.inputs) {
            let bytes = input.bytes(values)?;
            inputs.push(json!({
                "name": input.name, "datatype": input.datatype, "shape": input.shape_of(table.rows)?,
                "parameters": { "binary_data_size": bytes.len() },
            }));
            data.extend(bytes);
        }
        let head = json!({ "inputs": inputs, "parameters": { "binary_data_output": true } }).to_string();
        Ok(Binary { json: head.len(), body: Bytes::from([head.as_bytes(), &data].concat()) })
    }

    fn grpc(&self, table: &Table) -> Result<Bytes> {
        let mut request = ModelInferRequest { model_name: self.name.clone(), ..ModelInferRequest::default() };
        for (input, values) in self.inputs.iter().zip(&table.inputs) {
            let (name, datatype) = (input.name.clone(), input.datatype.clone());
            let shape = input.shape_of(table.rows)?;
            request.inputs.push(InferInputTensor { name, datatype, shape, ..InferInputTensor::default() });
            request.raw_input_contents.push(input.bytes(values)?.into());
        }
        Ok(request.encode_to_vec().into())
    }
}

impl Input {
    /// Values of one row.
    ///
    /// # Errors
    /// A shape or type that no rows are made up for.
    pub fn width(&self) -> Result<usize> {
        let Self { name, datatype, shape, .. } = self;
        let numeric = !matches!(datatype.as_str(), "BYTES" | "FP16" | "BF16");
        let width = match shape[..] {
            [_] => Some(1),
            [_, width] => usize::try_from(width).ok().filter(|width| *width > 0),
            _ => None,
        };
        width.filter(|_| numeric).with_context(|| {
            format!("input {name} is {datatype} {shape:?}: rows are made up for numbers [rows] or [rows, width] alone")
        })
    }

    fn shape_of(&self, rows: usize) -> Result<Vec<i64>> {
        let rest = self.shape.get(1..).unwrap_or_default();
        Ok([&[i64::try_from(rows)?], rest].concat())
    }

    /// As they lie in memory: little-endian.
    fn bytes(&self, values: &[f64]) -> Result<Vec<u8>> {
        macro_rules! raw {
            ($element:ty) => {
                values.iter().flat_map(|value| (*value as $element).to_le_bytes()).collect()
            };
        }
        Ok(match self.datatype.as_str() {
            "FP32" => raw!(f32),
            "FP64" => raw!(f64),
            "INT8" => raw!(i8),
            "INT16" => raw!(i16),
            "INT32" => raw!(i32),
            "INT64" => raw!(i64),
            "BOOL" | "UINT8" => raw!(u8),
            "UINT16" => raw!(u16),
            "UINT32" => raw!(u32),
            "UINT64" => raw!(u64),
            other => bail!("input {} is {other}, which is not written as bytes here", self.name),
        })
    }
}

/// A value as JSON has it; NaN, which JSON does not have, as null.
fn number(datatype: &str, value: f64) -> Value {
    match datatype {
        "BOOL" => Value::Bool(value != 0.0),
        "FP16" | "BF16" | "FP32" | "FP64" => json!(value),
        _ => json!(value as i64),
    }
}

fn only_model(server: SocketAddr) -> Result<String> {
    #[derive(Deserialize)]
    struct Models {
        models: Vec<String>,
    }
    let (status, text) = http::get(server, "/v2/models")?;
    ensure!(status == 200, "{server} answered {status} about its models: name one");
    let mut models = serde_json::from_str::<Models>(&text).context("the list of models")?.models;
    ensure!(models.len() == 1, "{server} serves {}: name one of them", models.join(", "));
    Ok(models.remove(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> Model {
        let told = json!({ "name": "m", "inputs": [
            { "name": "x", "datatype": "FP32", "shape": [-1, 2], "features": ["a", "b"] },
            { "name": "n", "datatype": "INT64", "shape": [-1] },
        ]});
        serde_json::from_value(told).expect("it is a model")
    }

    fn table() -> Table {
        Table { rows: 2, inputs: vec![vec![1.5, f64::NAN, 2.25, -3.0], vec![7.0, 8.0]] }
    }

    #[test]
    fn rows_are_objects_of_features_and_inputs() {
        let one = Table { rows: 1, inputs: vec![vec![1.5, f64::NAN], vec![7.0]] };
        assert_eq!(model().named(&one).expect("it is written"), r#"{"a":1.5,"b":null,"n":7}"#);
        let two = r#"{"instances":[{"a":1.5,"b":null,"n":7},{"a":2.25,"b":-3.0,"n":8}]}"#;
        assert_eq!(model().named(&table()).expect("it is written"), two);
    }

    #[test]
    fn tensors_hold_all_rows() {
        let oip: Value = serde_json::from_str(&model().oip(&table()).expect("it is written")).expect("it is JSON");
        assert_eq!(oip["inputs"][0]["shape"], json!([2, 2]));
        assert_eq!(oip["inputs"][1]["data"], json!([7, 8]));
        let binary = model().binary(&table()).expect("it is written");
        let head: Value = serde_json::from_slice(&binary.body[..binary.json]).expect("it is JSON");
        assert_eq!(head["inputs"][1]["parameters"]["binary_data_size"], 16);
        assert_eq!(binary.body.len() - binary.json, 4 * 4 + 2 * 8);
        assert_eq!(binary.body[binary.json..][..4], 1.5_f32.to_le_bytes());
        let message = model().grpc(&table()).expect("it is written");
        let request = ModelInferRequest::decode(message).expect("it is a request");
        assert_eq!(request.raw_input_contents[1], [7_i64.to_le_bytes(), 8_i64.to_le_bytes()].concat());
        assert_eq!((request.inputs[0].shape.as_slice(), request.model_name.as_str()), (&[2, 2][..], "m"));
    }

    #[test]
    fn made_up_rows_differ_and_come_again() {
        let tables = model().tables(2, 3, 1).expect("rows can be made up");
        assert_ne!(tables[0].inputs, tables[1].inputs);
        assert_eq!(tables[0].inputs, model().tables(1, 3, 1).expect("rows can be made up")[0].inputs);
        assert_eq!((tables[0].inputs[0].len(), tables[0].inputs[1].len()), (6, 3));
        assert!(tables[0].inputs[1].iter().all(|value| value.fract() == 0.0));
        let mut text = model();
        text.inputs[1].datatype = "BYTES".to_owned();
        let error = text.tables(1, 1, 1).expect_err("text is not made up").to_string();
        assert!(error.contains("input n is BYTES [-1]"), "{error}");
    }
}
