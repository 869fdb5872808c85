//! Whole tensors as JSON: `{name: tensor}`, or a bare one for a model with one input or output. All rows of a tensor are
//! one array, where the rows of other formats are one object each.

use std::fmt;

use serde::de::value::SeqAccessDeserializer;
use serde::de::{DeserializeSeed, Deserializer, Error, IntoDeserializer, MapAccess, SeqAccess, Visitor};

use super::bind::{self, Given};
use super::encode::{self, Classes};
use super::nested::{Nested, OBJECT};
use super::{DecodeError, unknown};
use crate::model::Answer;
use crate::model::signature::{Rows, Signature, Slot};
use crate::model::tensor::Column;
use crate::text::listed;

/// The tensors of a request while they are read.
#[derive(Debug)]
pub(super) struct Tensors<'s> {
    signature: &'s Signature,
    max_rows: usize,
    pub(super) given: Vec<Given>,
    /// The one that is being read.
    pub(super) current: Option<String>,
    pub(super) failure: Option<DecodeError>,
    /// Set when the failure is that a bare tensor begins with an object: it may be an array of rows.
    pub(super) are_rows: bool,
}

impl<'s> Tensors<'s> {
    pub(super) const fn new(signature: &'s Signature, max_rows: usize) -> Self {
        Self { signature, max_rows, given: vec![], current: None, failure: None, are_rows: false }
    }

    /// Whether they are columns of features.
    pub(super) fn are_features(&self) -> bool {
        let keys = self.signature.keys();
        let slot = |name: &str| self.signature.find(name, 0).map(|key| keys[key].1);
        self.given.iter().any(|given| matches!(slot(&given.name), Some(Slot::Feature { .. })))
    }

    fn fail<E: Error>(&mut self, name: &str, message: String) -> E {
        let field = if name.is_empty() { "inputs".to_owned() } else { format!("inputs.{name}") };
        self.failure = Some(DecodeError::Features { field, message });
        E::custom("")
    }

    /// The most elements that are of use under a name. Beyond, another row is refused in words.
    fn most(&self, name: &str) -> usize {
        let size =
            self.signature.inputs.iter().find(|input| input.name == name).map_or(Some(1), |input| {
                input.row_shape.iter().try_fold(1_usize, |size, dim| size.checked_mul((*dim)?))
            });
        size.map_or(usize::MAX, |size| size.max(1).saturating_mul(self.max_rows.saturating_add(1)))
    }

    fn read<'de, D: Deserializer<'de>>(&mut self, name: String, value: D) -> Result<(), D::Error> {
        let Some(dtype) = bind::dtype(self.signature, &name) else {
            let (shown, message) = unknown(self.signature, &name);
            return Err(self.fail(&shown, message));
        };
        if self.given.iter().any(|given| given.name == name) {
            let message = format!("{name} is given twice");
            return Err(self.fail(&name, message));
        }
        let mut nested = Nested::new(Column::new(dtype), self.most(&name));
        self.current = Some(name.clone());
        if let Err(error) = nested.read(value) {
            self.are_rows = nested.values.is_empty() && nested.failure.as_deref() == Some(OBJECT);
            return Err(match nested.failure {
                Some(what) => self.fail(&name, format!("{name} {what}")),
                None => error,
            });
        }
        self.current = None;
        let Nested { values, shape, nulls, .. } = nested;
        self.given.push(Given { name, shape, values, nulls });
        Ok(())
    }

    /// A tensor without a name.
    fn bare<'de, D: Deserializer<'de>>(&mut self, value: D) -> Result<(), D::Error> {
        let inputs = &self.signature.inputs;
        if let [input] = inputs.as_slice() {
            return self.read(input.name.clone(), value);
        }
        let names = listed(inputs.iter().map(|input| input.name.as_str()));
        let message = format!("inputs has no names: the model has {} inputs, {names}", inputs.len());
        Err(self.fail("", message))
    }
}

impl<'de> DeserializeSeed<'de> for &mut Tensors<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for &mut Tensors<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a tensor or an object of tensors")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<String>()? {
            map.next_value_seed(Named { tensors: &mut *self, name })?;
        }
        if self.given.is_empty() {
            Err(self.fail("", "inputs is empty: send a tensor an input".into()))
        } else {
            Ok(())
        }
    }
    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<(), A::Error> {
        self.bare(SeqAccessDeserializer::new(seq))
    }
    fn visit_bool<E: Error>(self, v: bool) -> Result<(), E> {
        self.bare(v.into_deserializer())
    }
    fn visit_i64<E: Error>(self, v: i64) -> Result<(), E> {
        self.bare(v.into_deserializer())
    }
    fn visit_u64<E: Error>(self, v: u64) -> Result<(), E> {
        self.bare(v.into_deserializer())
    }
    fn visit_f64<E: Error>(self, v: f64) -> Result<(), E> {
        self.bare(v.into_deserializer())
    }
    fn visit_str<E: Error>(self, v: &str) -> Result<(), E> {
        self.bare(v.into_deserializer())
    }
    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Err(self.fail("", "inputs is null: send a tensor an input".into()))
    }
}

struct Named<'a, 's> {
    tensors: &'a mut Tensors<'s>,
    name: String,
}

impl<'de> DeserializeSeed<'de> for Named<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.tensors.read(self.name, deserializer)
    }
}

/// `{"<key>": ..}` with all rows of each output in one tensor. The tensor of a model with one output has no name when
/// `bare` says so.
#[must_use]
pub fn encode(signature: &Signature, parts: &[Answer], key: &str, bare: bool) -> Vec<u8> {
    let rows: usize = parts.iter().map(|part| part.rows.len()).sum();
    let mut json = Vec::with_capacity(32 + rows * signature.outputs.len() * 16);
    json.extend_from_slice(format!("{{\"{key}\":").as_bytes());
    if bare && signature.outputs.len() == 1 {
        tensor(&mut json, signature, parts, 0);
    } else {
        json.push(b'{');
        for (i, output) in signature.outputs.iter().enumerate() {
            if i > 0 {
                json.push(b',');
            }
            json.extend_from_slice(output.key.as_bytes());
            tensor(&mut json, signature, parts, i);
        }
        json.push(b'}');
    }
    json.push(b'}');
    json
}

fn tensor(json: &mut Vec<u8>, signature: &Signature, parts: &[Answer], output: usize) {
    // The one row of a model without rows is its tensor.
    let is_whole = signature.rows == Rows::Whole;
    if !is_whole {
        json.push(b'[');
    }
    let rows = parts.iter().flat_map(|part| part.rows.clone().map(move |row| (&part.outputs[output], row)));
    for (i, (tensor, row)) in rows.enumerate() {
        if i > 0 {
            json.push(b',');
        }
        encode::one(json, &signature.outputs[output], tensor, row, true, Classes::Array);
    }
    if !is_whole {
        json.push(b']');
    }
}

/// `{"predictions": [..]}` as TensorFlow Serving writes rows: values in their full shapes, and bare when the model has one
/// output.
#[must_use]
pub fn predictions(signature: &Signature, parts: &[Answer], classes: Classes) -> Vec<u8> {
    let rows: usize = parts.iter().map(|part| part.rows.len()).sum();
    let mut json = Vec::with_capacity(24 + rows * signature.outputs.len() * 28);
    json.extend_from_slice(b"{\"predictions\":[");
    let rows = parts.iter().flat_map(|part| part.rows.clone().map(move |row| (&part.outputs, row)));
    for (i, (outputs, row)) in rows.enumerate() {
        if i > 0 {
            json.push(b',');
        }
        if let ([output], [only]) = (signature.outputs.as_slice(), &outputs[..]) {
            encode::one(&mut json, output, only, row, true, classes);
            continue;
        }
        for (j, (output, tensor)) in signature.outputs.iter().zip(outputs.iter()).enumerate() {
            json.push(if j == 0 { b'{' } else { b',' });
            json.extend_from_slice(output.key.as_bytes());
            encode::one(&mut json, output, tensor, row, true, classes);
        }
        json.push(b'}');
    }
    json.extend_from_slice(b"]}");
    json
}
