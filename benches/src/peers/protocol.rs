//! How each server is asked for the score of a row, and where its answer has it.

use onnxd::load::Requests;
use serde_json::{Map, Value, json};

/// A row: each feature by its name, in the order of the model's input.
pub(super) type Row = Vec<(String, f64)>;

/// A way to write a row as JSON, and to answer it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// `{"f0": 1, ..}` to `{"score": 1, ..}`: onnxd's, and that of programs that people write themselves.
    Named,
    /// `{"rows": [[1, ..]]}` to `[{"score": 1, ..}]`: BentoML names its arguments.
    Rows,
    /// KServe's first: `{"instances": [[1, ..]]}` to `{"predictions": [{"score": 1, ..}]}`.
    KserveV1,
    /// The Open Inference Protocol: named tensors.
    OpenInference,
    /// MLflow's: `{"inputs": [[1, ..]]}` to `{"predictions": {"score": [[1]]}}`.
    Mlflow,
}

impl Protocol {
    /// The body that asks for one row.
    pub(super) fn body(self, row: &Row) -> String {
        let values: Vec<f64> = row.iter().map(|(_, value)| *value).collect();
        match self {
            Self::Named => {
                Value::Object(row.iter().map(|(name, value)| (name.clone(), json!(value))).collect::<Map<_, _>>())
            }
            Self::Rows => json!({ "rows": [values] }),
            Self::KserveV1 => json!({ "instances": [values] }),
            Self::Mlflow => json!({ "inputs": [values] }),
            Self::OpenInference => json!({
                "inputs": [{ "name": "features", "shape": [1, values.len()], "datatype": "FP32", "data": values }]
            }),
        }
        .to_string()
    }

    /// The bodies of all rows, to be sent in turn.
    pub(super) fn requests(self, rows: &[Row]) -> Requests {
        Requests::json(rows.iter().map(|row| self.body(row)))
    }

    /// The score in an answer; `None` when it is no such answer.
    pub(super) fn score(self, body: &[u8]) -> Option<f64> {
        let answer: Value = serde_json::from_slice(body).ok()?;
        let score = match self {
            Self::Named => answer.get("score")?,
            Self::Rows => answer.get(0)?.get("score")?,
            Self::KserveV1 => answer.get("predictions")?.get(0)?.get("score")?,
            Self::Mlflow => answer.get("predictions")?.get("score")?,
            Self::OpenInference => {
                let outputs = answer.get("outputs")?.as_array()?;
                outputs.iter().find(|output| output.get("name").is_some_and(|name| name == "score"))?.get("data")?
            }
        };
        first(score)
    }

    /// Whether a body has a score, for the load generator.
    pub(super) fn is_good(self) -> fn(&[u8]) -> bool {
        match self {
            Self::Named => |body| Self::Named.score(body).is_some(),
            Self::Rows => |body| Self::Rows.score(body).is_some(),
            Self::KserveV1 => |body| Self::KserveV1.score(body).is_some(),
            Self::OpenInference => |body| Self::OpenInference.score(body).is_some(),
            Self::Mlflow => |body| Self::Mlflow.score(body).is_some(),
        }
    }
}

/// The number, however deep in lists of one.
fn first(value: &Value) -> Option<f64> {
    match value {
        Value::Array(values) => first(values.first()?),
        value => value.as_f64(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_written_as_each_server_reads_it() {
        let row = vec![("b".to_owned(), 1.5), ("a".to_owned(), -2.0)];
        assert_eq!(
            serde_json::from_str::<Value>(&Protocol::Named.body(&row)).expect("JSON"),
            json!({"b": 1.5, "a": -2.0})
        );
        assert_eq!(Protocol::Rows.body(&row), r#"{"rows":[[1.5,-2.0]]}"#);
        assert_eq!(Protocol::KserveV1.body(&row), r#"{"instances":[[1.5,-2.0]]}"#);
        assert_eq!(Protocol::Mlflow.body(&row), r#"{"inputs":[[1.5,-2.0]]}"#);
        let tensor: Value = serde_json::from_str(&Protocol::OpenInference.body(&row)).expect("JSON");
        assert_eq!(tensor["inputs"][0]["shape"], json!([1, 2]));
    }

    #[test]
    fn a_score_is_found_where_each_server_puts_it() {
        for (protocol, answer) in [
            (Protocol::Named, r#"{"label":1,"score":0.25}"#),
            (Protocol::Rows, r#"[{"score":0.25}]"#),
            (Protocol::KserveV1, r#"{"predictions":[{"score":0.25}]}"#),
            (Protocol::Mlflow, r#"{"predictions":{"score":[[0.25]]}}"#),
            (Protocol::OpenInference, r#"{"outputs":[{"name":"label","data":[1]},{"name":"score","data":[0.25]}]}"#),
        ] {
            assert_eq!(protocol.score(answer.as_bytes()), Some(0.25), "{protocol:?}");
            assert!(protocol.is_good()(answer.as_bytes()), "{protocol:?}");
            for wrong in ["{}", "[]", "score", r#"{"predictions":[]}"#, r#"{"error":"no"}"#] {
                assert_eq!(protocol.score(wrong.as_bytes()), None, "{protocol:?} {wrong}");
            }
        }
    }
}
