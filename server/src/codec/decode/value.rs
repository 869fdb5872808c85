//! One value of a row: a scalar, or a nested array for a whole row of an input.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::rows::Rows;
use crate::codec::nested::base64;
use crate::model::tensor::{DType, Scalar};

/// One scalar, put at an index of a column or appended to it. Gives whether there was one: `null` is none.
pub(super) struct Value<'a, 's> {
    pub(super) rows: &'a mut Rows<'s>,
    pub(super) key: &'s str,
    pub(super) input: usize,
    pub(super) at: Option<usize>,
    /// How deep in an array the value stands; there, `null` is refused.
    pub(super) depth: usize,
}

impl<'de> DeserializeSeed<'de> for Value<'_, '_> {
    type Value = bool;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Value<'_, '_> {
    fn put<E: Error>(self, scalar: Scalar<'_>) -> Result<bool, E> {
        let column = &mut self.rows.columns[self.input];
        let at = self.at.unwrap_or_else(|| column.grow(1));
        match column.set(at, scalar) {
            Ok(()) => Ok(true),
            Err(reason) => Err(self.rows.fail(Some(self.key), format!("{} {reason}", self.key))),
        }
    }

    fn refuse<E: Error>(self, what: &str) -> E {
        let dtype = self.rows.signature.inputs[self.input].dtype;
        self.rows.fail(Some(self.key), format!("{} is {what}, the model takes {}", self.key, dtype.noun()))
    }
}

impl<'de> Visitor<'de> for Value<'_, '_> {
    type Value = bool;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }
    fn visit_bool<E: Error>(self, v: bool) -> Result<bool, E> {
        self.put(Scalar::Bool(v))
    }
    fn visit_i64<E: Error>(self, v: i64) -> Result<bool, E> {
        self.put(Scalar::Int(v.into()))
    }
    fn visit_u64<E: Error>(self, v: u64) -> Result<bool, E> {
        self.put(Scalar::Int(v.into()))
    }
    fn visit_f64<E: Error>(self, v: f64) -> Result<bool, E> {
        self.put(Scalar::Float(v))
    }
    fn visit_str<E: Error>(self, v: &str) -> Result<bool, E> {
        self.put(Scalar::Text(v))
    }
    fn visit_unit<E: Error>(self) -> Result<bool, E> {
        if self.depth > 0 { Err(self.refuse("null")) } else { Ok(false) }
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<bool, A::Error> {
        // A whole row of one element: `[3]` is as good as `3`, and `[[3]]` where the row has two dimensions.
        let deepest = self.rows.signature.inputs[self.input].row_shape.len().max(1);
        if self.at.is_some() || self.depth >= deepest {
            return Err(self.refuse("an array"));
        }
        let Value { rows, key, input, depth, .. } = self;
        let mut count = 0;
        while seq.next_element_seed(Value { rows: &mut *rows, key, input, at: None, depth: depth + 1 })?.is_some() {
            count += 1;
        }
        if count != 1 {
            return Err(rows.fail(Some(key), format!("{key} is an array of {count} elements, the model takes one")));
        }
        Ok(true)
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<bool, A::Error> {
        if self.rows.signature.inputs[self.input].dtype != DType::Text {
            return Err(self.refuse("an object"));
        }
        match base64(map)? {
            Ok(text) => self.put(Scalar::Text(&text)),
            Err(what) => Err(self.rows.fail(Some(self.key), format!("{} {what}", self.key))),
        }
    }
}

/// Sizes of a nested array, taken from the first array of each level.
pub(super) struct Dims {
    pub(super) sizes: Vec<Option<usize>>,
}

/// A nested array for a whole row of an input.
pub(super) struct Nested<'a, 's> {
    pub(super) rows: &'a mut Rows<'s>,
    pub(super) key: &'s str,
    pub(super) input: usize,
    pub(super) level: usize,
    pub(super) dims: &'a mut Dims,
}

impl<'de> DeserializeSeed<'de> for Nested<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.level == self.dims.sizes.len() {
            let Nested { rows, key, input, level, .. } = self;
            return Value { rows, key, input, at: None, depth: level }.deserialize(deserializer).map(|_| ());
        }
        deserializer.deserialize_any(self)
    }
}

impl Nested<'_, '_> {
    fn refuse<E: Error>(self, what: &str) -> E {
        let levels = self.dims.sizes.len();
        let message = format!("{} is {what}, the model takes an array of {levels} dimension(s) a row", self.key);
        self.rows.fail(Some(self.key), message)
    }
}

impl<'de> Visitor<'de> for Nested<'_, '_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Nested { rows, key, input, level, dims } = self;
        let mut size = 0;
        loop {
            let element = Nested { rows: &mut *rows, key, input, level: level + 1, dims: &mut *dims };
            match seq.next_element_seed(element) {
                Ok(Some(())) => size += 1,
                Ok(None) => break,
                Err(error) => {
                    rows.inside(size);
                    return Err(error);
                }
            }
        }
        match dims.sizes[level] {
            Some(first) if first != size => {
                Err(rows.fail(Some(key), format!("{key} is ragged: arrays of {first} and of {size} elements")))
            }
            _ => {
                dims.sizes[level] = Some(size);
                Ok(())
            }
        }
    }
    no_scalars!((), Self::refuse);

    fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        Err(self.refuse("an object"))
    }
}
