//! Bodies that wrap what they send: TensorFlow Serving's and KServe v1's, Vertex AI's, MLflow's.
//!
//! Keys come in any order and are read in one pass. What can be understood only with something that comes later, or that
//! takes another signature, is learned in the first pass and read in a second one.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::columns::Tensors;
use super::decode::{Also, Found, INSTANCES, Key, Place, Rows, Sequence, fill, syntax};
use super::nested::Word;
use super::table::{self, FirstNames, Split};
use super::{DecodeError, Form, Request, Wishes, bind};
use crate::model::signature::Signature;
use crate::text::shown;

const INPUTS: &str = "inputs";
const SIGNATURE: &str = "signature_name";
const PARAMS: &str = "params";
const PARAMETERS: &str = "parameters";
const RECORDS: &str = "dataframe_records";
const SPLIT: &str = "dataframe_split";

/// Whose body it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Envelope {
    /// TensorFlow Serving's and KServe v1's: `instances` or `inputs`, and perhaps `signature_name`.
    Serving,
    /// Vertex AI's: `instances`, and perhaps `parameters`, which are ignored. What has neither is named JSON.
    Vertex,
    /// MLflow's: one of `dataframe_split`, `dataframe_records`, `instances` and `inputs`. What has none is named JSON.
    Mlflow,
}

impl Envelope {
    const fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Serving => &[INSTANCES, INPUTS, SIGNATURE],
            Self::Vertex => &[INSTANCES, PARAMETERS],
            Self::Mlflow => &[SPLIT, RECORDS, INSTANCES, INPUTS, PARAMS, SIGNATURE],
        }
    }

    /// What may stand for the rows, in words.
    const fn takes(self) -> &'static str {
        match self {
            Self::Serving => "\"instances\" or \"inputs\"",
            Self::Vertex => "\"instances\"",
            Self::Mlflow => "one of \"dataframe_split\", \"dataframe_records\", \"instances\" and \"inputs\"",
        }
    }
}

/// How a body held its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// As named JSON does.
    Named(Form),
    /// An array of rows.
    Rows {
        /// By the names of features, as a table would have them.
        features: bool,
    },
    /// A tensor an input, or a feature.
    Columns {
        /// As above.
        features: bool,
    },
    /// A table.
    Table,
}

/// What the first pass found out for the second.
#[derive(Debug, Default)]
pub(super) struct Learned {
    /// The names of a table's columns; `Some(None)` when it has no names.
    pub(super) columns: Option<Option<Vec<String>>>,
    /// `inputs` is an array of rows.
    pub(super) inputs_are_rows: bool,
}

/// Why a pass ended early.
enum Stop {
    Again(Learned),
    Error(DecodeError),
}

/// Decodes a body of at most `max_rows` rows.
///
/// # Errors
/// As [`super::decode::body`].
pub fn body(
    envelope: Envelope,
    signature: &Signature,
    json: &[u8],
    max_rows: usize,
) -> Result<Request<Layout>, DecodeError> {
    match passes(envelope, signature, json, max_rows) {
        Err(error) if envelope == Envelope::Mlflow => match without_nan(json) {
            Some(json) => passes(envelope, signature, &json, max_rows),
            None => Err(error),
        },
        result => result,
    }
}

/// The body with `null` for every bare `NaN`, by which MLflow's client writes what is missing; `None` when there is none.
fn without_nan(json: &[u8]) -> Option<Vec<u8>> {
    let (mut quoted, mut escaped, mut at, mut from) = (false, false, 0, 0);
    let mut text = vec![];
    while let Some(byte) = json.get(at) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            b'N' if !quoted && json[at..].starts_with(b"NaN") => {
                text.extend_from_slice(&json[from..at]);
                text.extend_from_slice(b"null");
                at += 2;
                from = at + 1;
            }
            _ => {}
        }
        at += 1;
    }
    text.extend_from_slice(&json[from..]);
    (from > 0).then_some(text)
}

fn passes(
    envelope: Envelope,
    signature: &Signature,
    json: &[u8],
    max_rows: usize,
) -> Result<Request<Layout>, DecodeError> {
    let learned = match pass(envelope, signature, json, max_rows, None) {
        Ok(request) => return Ok(request),
        Err(Stop::Error(error)) => return Err(error),
        Err(Stop::Again(learned)) => learned,
    };
    let names = learned.columns.iter().flatten().next();
    let renamed = names.map_or(Ok(None), |names| table::renamed(signature, names));
    let renamed = renamed.map_err(|message| DecodeError::Features { field: String::new(), message })?;
    pass(envelope, renamed.as_ref().unwrap_or(signature), json, max_rows, Some(&learned)).map_err(|stop| match stop {
        Stop::Error(error) => error,
        Stop::Again(_) => DecodeError::Syntax("a key is there twice".into()),
    })
}

fn pass(
    envelope: Envelope,
    signature: &Signature,
    json: &[u8],
    max_rows: usize,
    learned: Option<&Learned>,
) -> Result<Request<Layout>, Stop> {
    let mut rows = Rows::new(signature, max_rows);
    let mut tensors = Tensors::new(signature, max_rows);
    let mut again = None;
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let body = Body { envelope, rows: &mut rows, tensors: &mut tensors, learned, again: &mut again };
    let result = body.deserialize(&mut deserializer).and_then(|layout| deserializer.end().map(|()| layout));
    if let Some(learned) = again {
        return Err(Stop::Again(learned));
    }
    let layout = match result {
        Ok(layout) => layout,
        Err(error) => {
            let told = tensors.failure.take().or_else(|| rows.failure.take());
            let error = told.unwrap_or_else(|| syntax(&rows, tensors.current.as_deref(), json, &error));
            return Err(Stop::Error(error));
        }
    };
    if tensors.given.is_empty() {
        return rows.finish(layout).map_err(Stop::Error);
    }
    let (inputs, rows) = bind::bind(signature, tensors.given, max_rows).map_err(Stop::Error)?;
    Ok(Request { inputs, rows, form: layout, wishes: Wishes::default(), marks: vec![] })
}

/// The whole body.
struct Body<'a, 's> {
    envelope: Envelope,
    rows: &'a mut Rows<'s>,
    tensors: &'a mut Tensors<'s>,
    learned: Option<&'a Learned>,
    again: &'a mut Option<Learned>,
}

impl Body<'_, '_> {
    fn no_envelope<E: Error>(self, what: &str) -> E {
        let takes = self.envelope.takes();
        self.rows.fail(None, format!("the body is {what}: send an object with {takes}"))
    }

    /// Reads the value under a key; gives how it holds the rows, if it does.
    fn take<'de, A: MapAccess<'de>>(&mut self, key: &'static str, map: &mut A) -> Result<Option<Layout>, A::Error> {
        let layout = match key {
            SIGNATURE => {
                self.signature(&map.next_value()?)?;
                return Ok(None);
            }
            // MLflow's models take parameters that their signature declares, and ignore others.
            PARAMETERS | PARAMS => {
                map.next_value::<serde::de::IgnoredAny>()?;
                return Ok(None);
            }
            SPLIT => {
                let Self { rows, learned, again, .. } = self;
                map.next_value_seed(Split::new(rows, learned.and_then(|l| l.columns.as_ref()), again))?;
                Layout::Table
            }
            RECORDS if self.learned.is_none() && self.rows.signature.has_nameless_columns() => {
                self.rows.place = Place::Under(RECORDS);
                map.next_value_seed(FirstNames { rows: self.rows, again: self.again })?;
                Layout::Table
            }
            INPUTS if self.learned.is_none_or(|learned| !learned.inputs_are_rows) => {
                let read = map.next_value_seed(&mut *self.tensors);
                if read.is_err() && self.envelope == Envelope::Mlflow && self.tensors.are_rows {
                    *self.again = Some(Learned { inputs_are_rows: true, ..Learned::default() });
                }
                read?;
                Layout::Columns { features: self.tensors.are_features() }
            }
            rows => {
                self.rows.place = Place::Under(rows);
                map.next_value_seed(Sequence(self.rows))?;
                if rows == RECORDS { Layout::Table } else { Layout::Rows { features: self.rows.are_features() } }
            }
        };
        Ok(Some(layout))
    }

    fn signature<E: Error>(&mut self, name: &Word) -> Result<(), E> {
        let message = match name {
            _ if self.envelope == Envelope::Mlflow => "\"signature_name\" is not taken: leave it out".to_owned(),
            Word::Text(name) if ["", "serving_default"].contains(&name.as_str()) => return Ok(()),
            Word::Text(name) => {
                let shown = shown(name);
                format!("there is no signature {shown:?}: the model has \"serving_default\", or leave it out")
            }
            _ => "signature_name is not a string".to_owned(),
        };
        self.rows.place = Place::Body;
        Err(self.rows.fail(Some(SIGNATURE), message))
    }

    fn unknown<E: Error>(&mut self, key: &str) -> E {
        let shown = shown(key);
        let keys: Vec<_> = self.envelope.keys().iter().map(|key| format!("{key:?}")).collect();
        self.rows.place = Place::Body;
        self.rows.fail(Some(&shown), format!("{shown:?} is not taken here: the body may hold {}", keys.join(", ")))
    }

    fn known(&self, key: &str) -> Option<&'static str> {
        self.envelope.keys().iter().find(|known| **known == key).copied()
    }
}

impl<'de> DeserializeSeed<'de> for Body<'_, '_> {
    type Value = Layout;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Layout, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Body<'_, '_> {
    type Value = Layout;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Layout, A::Error> {
        if self.envelope == Envelope::Serving {
            return Err(self.no_envelope("an array"));
        }
        self.rows.place = Place::Array;
        Sequence(self.rows).visit_seq(seq).map(|()| Layout::Named(Form::Many))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Layout, A::Error> {
        let mut layout: Option<(&str, Layout)> = None;
        let mut next = match map.next_key_seed(First(&mut self))? {
            Some(Begins::Envelope(key)) => Some(key),
            Some(Begins::Named(found)) => return named(self.rows, Some(found), &mut map),
            None if self.envelope != Envelope::Serving => return named(self.rows, None, &mut map),
            None => None,
        };
        while let Some(key) = next {
            let taken = self.take(key, &mut map)?;
            match (taken, layout) {
                (Some(_), Some((first, _))) => {
                    self.rows.place = Place::Body;
                    let message = format!("{first:?} and {key:?} are both given: send {}", self.envelope.takes());
                    return Err(self.rows.fail(Some(key), message));
                }
                (Some(taken), None) => layout = Some((key, taken)),
                (None, _) => {}
            }
            next = map.next_key_seed(Later(&mut self))?;
        }
        let Some((_, layout)) = layout else {
            let takes = self.envelope.takes();
            return Err(self.rows.fail(None, format!("there are no rows: send {takes}")));
        };
        Ok(layout)
    }

    no_scalars!(Layout, Self::no_envelope);
}

/// One row of named JSON.
fn named<'de, A: MapAccess<'de>>(rows: &mut Rows<'_>, first: Option<Found>, map: &mut A) -> Result<Layout, A::Error> {
    rows.begin_row()?;
    fill(rows, first, map)?;
    Ok(Layout::Named(Form::One))
}

/// What a body's first key begins.
enum Begins {
    Envelope(&'static str),
    Named(Found),
}

struct First<'a, 'b, 's>(&'a mut Body<'b, 's>);

impl<'de> DeserializeSeed<'de> for First<'_, '_, '_> {
    type Value = Begins;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Begins, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for First<'_, '_, '_> {
    type Value = Begins;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }
    fn visit_str<E: Error>(self, key: &str) -> Result<Begins, E> {
        match self.0.known(key) {
            Some(key) => Ok(Begins::Envelope(key)),
            None if self.0.envelope == Envelope::Serving => Err(self.0.unknown(key)),
            None => {
                let found = Key { rows: &mut *self.0.rows, hint: 0, also: Also::Nothing }.visit_str(key);
                if let (Err(_), Some(DecodeError::Features { message, .. })) = (&found, &mut self.0.rows.failure) {
                    *message += &format!("; or send {}", self.0.envelope.takes());
                }
                found.map(Begins::Named)
            }
        }
    }
}

struct Later<'a, 'b, 's>(&'a mut Body<'b, 's>);

impl<'de> DeserializeSeed<'de> for Later<'_, '_, '_> {
    type Value = &'static str;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<&'static str, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Later<'_, '_, '_> {
    type Value = &'static str;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }
    fn visit_str<E: Error>(self, key: &str) -> Result<&'static str, E> {
        self.0.known(key).ok_or_else(|| self.0.unknown(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::signature::{GraphIo, Port, Rows as RowAxis};
    use crate::model::tensor::DType;

    fn signature(inputs: &[(&str, DType, &[i64])]) -> Signature {
        let port = |(name, dtype, shape): &(&str, DType, &[i64])| Port {
            name: (*name).into(),
            tensor: Ok((*dtype, shape.to_vec())),
        };
        let outputs = vec![port(&("y", DType::F32, &[-1]))];
        let graph = GraphIo { inputs: inputs.iter().map(port).collect(), outputs, ..GraphIo::default() };
        Signature::new(&graph, None).expect("a signature")
    }

    fn named() -> Signature {
        signature(&[("cpu", DType::F32, &[-1, 1]), ("region", DType::Text, &[-1])])
    }

    fn mlflow(signature: &Signature, json: &str) -> Result<Request<Layout>, String> {
        body(Envelope::Mlflow, signature, json.as_bytes(), 100).map_err(|error| error.to_string())
    }

    #[test]
    fn a_table_may_name_its_columns_late_and_in_any_order() {
        let expected = mlflow(&named(), r#"{"dataframe_records":[{"cpu":1,"region":"a"},{"region":"b","cpu":2}]}"#);
        let expected = expected.expect("records");
        for json in [
            r#"{"dataframe_split":{"columns":["region","cpu"],"data":[["a",1],["b",2]]}}"#,
            r#"{"params":{},"dataframe_split":{"data":[["a",1],["b",2]],"index":[7,8],"columns":["region","cpu"]}}"#,
            r#"{"dataframe_split":{"data":[[1,"a"],[[2],"b"]]}}"#,
        ] {
            let request = mlflow(&named(), json).expect(json);
            assert_eq!(
                (request.inputs, request.rows, request.form),
                (expected.inputs.clone(), 2, Layout::Table),
                "{json}"
            );
        }
    }

    #[test]
    fn a_table_has_no_more_columns_than_the_model() {
        let wide =
            |columns: &str, row: &str| format!(r#"{{"dataframe_split":{{"columns":[{columns}],"data":[[{row}]]}}}}"#);
        let many = |of: &str| vec![of; 100_000].join(",");
        let error = mlflow(&named(), &wide(&many("1"), "1")).expect_err("unknown");
        assert!(error.starts_with("dataframe_split.columns[0]: \"1\" is not a feature"), "{error}");
        for (shape, most) in [(3, 3), (-1, 65536)] {
            let nameless = signature(&[("x", DType::F32, &[-1, shape])]);
            let error = mlflow(&nameless, &wide(&many("1"), &many("2"))).expect_err("too many");
            assert_eq!(error, format!("there are more than {most} columns: the model takes no more"));
        }
    }

    #[test]
    fn a_bare_nan_is_missing_in_mlflows_bodies_alone() {
        let rewritten = without_nan(br#"{"a":[NaN,"NaN \" NaN",NaN],"b":-1}"#).expect("two");
        assert_eq!(rewritten, br#"{"a":[null,"NaN \" NaN",null],"b":-1}"#);
        assert_eq!(without_nan(br#"{"a":"NaN","b":"\\"}"#), None);
        let json = r#"{"dataframe_records":[{"cpu":NaN,"region":"NaN"}]}"#;
        let error = mlflow(&named(), json).expect_err("it is required");
        assert_eq!(error, "dataframe_records[0]: cpu is missing: the model requires it");
        let error = body(Envelope::Serving, &named(), br#"{"inputs":{"cpu":[NaN],"region":["a"]}}"#, 9);
        assert!(error.expect_err("no JSON").to_string().contains("which JSON does not have"));
    }

    /// A model without rows takes whole tensors: each row of `instances` is a request, `inputs` is one.
    #[test]
    fn a_model_without_rows_takes_whole_tensors() {
        let mut signature = signature(&[("a", DType::F32, &[-1, 2]), ("b", DType::F32, &[-1, 1])]);
        signature.rows = RowAxis::Whole;
        signature.inputs[0].row_shape = vec![Some(2), None];
        signature.inputs[1].row_shape = vec![];
        let decode = |json: &str| body(Envelope::Serving, &signature, json.as_bytes(), 100);
        let one = decode(r#"{"inputs":{"a":[[1,2,3],[4,5,6]],"b":7}}"#).expect("one request");
        assert_eq!((one.rows, one.inputs[0].shape(), one.inputs[1].shape()), (1, &[1, 2, 3][..], &[1][..]));
        let two = decode(r#"{"instances":[{"a":[[1],[2]],"b":3},{"b":4,"a":[[5],[6]]}]}"#).expect("two requests");
        assert_eq!((two.rows, two.inputs[0].shape(), two.inputs[1].shape()), (2, &[2, 2, 1][..], &[2][..]));
        let error = decode(r#"{"inputs":{"a":[[1,2,3]],"b":7}}"#).expect_err("another shape");
        assert_eq!(error.to_string(), "a has shape [1, 3], the model takes [2, any]");
    }

    /// Whatever the bytes are, they are taken or refused.
    #[test]
    fn mutated_bodies_are_refused_in_words() {
        let bodies = [
            r#"{"dataframe_split":{"columns":["region","cpu"],"data":[["a",1],["b",2]]}}"#,
            r#"{"dataframe_split":{"data":[["a",1],["b",null]],"columns":["region","cpu"]},"params":null}"#,
            r#"{"dataframe_records":[{"cpu":1,"region":"a"},{"region":{"b64":"YQ=="},"cpu":[2]}]}"#,
            r#"{"inputs":{"cpu":[[1],[2]],"region":["a","b"]},"signature_name":"serving_default"}"#,
            r#"{"instances":[{"cpu":1e3,"region":"a"}],"parameters":{"a":[]}}"#,
        ];
        let plain = signature(&[("x", DType::I64, &[-1, 3])]);
        let pieces: [&[u8]; 12] =
            [b"[", b"]", b"{", b"}", b",", b":", b"\"", b"null", b"1", b"\"cpu\"", b"\"data\":", b"[[1,2,3]]"];
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..20_000 {
            let mut json = bodies[random.usize(..bodies.len())].as_bytes().to_vec();
            for _ in 0..random.usize(1..4) {
                let at = random.usize(..json.len());
                let end = (at + random.usize(..6)).min(json.len());
                json.splice(at..end, pieces[random.usize(..pieces.len())].iter().copied());
            }
            for signature in [&named(), &plain] {
                for envelope in [Envelope::Serving, Envelope::Vertex, Envelope::Mlflow] {
                    match body(envelope, signature, &json, 100) {
                        Ok(request) => assert!(request.inputs.iter().all(|t| t.rows() == Some(request.rows))),
                        Err(error) => assert!(!error.to_string().is_empty()),
                    }
                }
                let _ = crate::codec::csv::body(signature, &json, 100);
            }
        }
    }
}
