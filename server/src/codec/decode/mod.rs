//! JSON bytes straight into the rows of the input tensors: one pass, no intermediate tree.
//!
//! Every visitor refuses what does not fit at the place where it stands, so neither depth nor width of a hostile
//! document costs more than its bytes.

mod plain;
mod rows;
#[cfg(test)]
mod tests;
mod value;

use std::fmt;

use serde::de::value::SeqAccessDeserializer;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, IntoDeserializer, MapAccess, SeqAccess, Visitor};

use self::rows::Manner;
pub(super) use self::rows::{Place, Rows};
use super::marks::{MarkKey, MarkValue};
use super::nested::base64_value;
use super::{DecodeError, Form, Request, Wishes, unknown};
use crate::model::signature::Signature;
use crate::text;

pub(super) const INSTANCES: &str = "instances";

/// Decodes a body of at most `max_rows` rows.
///
/// # Errors
/// [`DecodeError::Syntax`] for what is not JSON, [`DecodeError::Features`] for the first field that does not fit.
pub fn body(signature: &Signature, json: &[u8], max_rows: usize) -> Result<Request, DecodeError> {
    plain::body(signature, json, max_rows).map_or_else(|| any(signature, json, max_rows), Ok)
}

/// Decodes a body of whatever is taken, or says what is wrong.
fn any(signature: &Signature, json: &[u8], max_rows: usize) -> Result<Request, DecodeError> {
    let mut rows = Rows::new(signature, max_rows);
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let result = Body(&mut rows).deserialize(&mut deserializer).and_then(|form| deserializer.end().map(|()| form));
    match result {
        Ok(form) => rows.finish(form),
        Err(error) => Err(rows.failure.take().unwrap_or_else(|| syntax(&rows, None, json, &error))),
    }
}

/// Explains a syntax error; the numbers that JSON does not have are named with their field: `tensor`, or the rows' present
/// key.
pub(super) fn syntax(rows: &Rows<'_>, tensor: Option<&str>, json: &[u8], error: &serde_json::Error) -> DecodeError {
    let text = error.to_string();
    let key = tensor.or_else(|| rows.current.map(|i| &*rows.signature.keys()[i].0));
    if text.starts_with("number out of range")
        && let Some(key) = key
    {
        return rows.error(Some(key), format!("{key} is a number beyond every float: send a finite one"));
    }
    if json.trim_ascii().is_empty() {
        return DecodeError::Syntax("it is empty".into());
    }
    if let Some(name) = number_beyond_json(json, error)
        && let Some(key) = key
    {
        let then = match tensor {
            Some(_) => "send a finite number",
            None if rows.manner == Manner::Positional => "send null if it is not known",
            None => "leave the feature out if it is not known",
        };
        let message = format!("{key} is {name}, which JSON does not have: {then}");
        return rows.error(Some(key), message);
    }
    DecodeError::Syntax(text)
}

/// The name of a number that JSON does not have, when a syntax error stands at one.
pub(super) fn number_beyond_json(json: &[u8], error: &serde_json::Error) -> Option<&'static str> {
    let line = json.split(|b| *b == b'\n').nth(error.line().saturating_sub(1)).unwrap_or_default();
    let rest = line.get(error.column().saturating_sub(1)..).unwrap_or_default();
    let rest = rest.strip_prefix(b"-").unwrap_or(rest);
    ["NaN", "Infinity", "nan", "inf"].into_iter().find(|name| rest.starts_with(name.as_bytes()))
}

/// The whole body.
struct Body<'a, 's>(&'a mut Rows<'s>);

impl<'de> DeserializeSeed<'de> for Body<'_, '_> {
    type Value = Form;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Form, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Body<'_, '_> {
    type Value = Form;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of features, an array of them, or {\"instances\": [..]}")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Form, A::Error> {
        self.0.place = Place::Array;
        Sequence(self.0).visit_seq(seq).map(|()| Form::Many)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Form, A::Error> {
        let rows = self.0;
        let also = if rows.signature.find(INSTANCES, 0).is_none() { Also::Instances } else { Also::Nothing };
        let first = map.next_key_seed(Key { rows: &mut *rows, hint: 0, also })?;
        if first == Some(Found::Instances) {
            rows.place = Place::Under(INSTANCES);
            map.next_value_seed(Sequence(&mut *rows))?;
            if map.next_key::<IgnoredAny>()?.is_some() {
                rows.place = Place::Body;
                return Err(rows.fail(None, "beside \"instances\" nothing else is taken"));
            }
            return Ok(Form::Instances);
        }
        rows.begin_row()?;
        fill(rows, first, &mut map)?;
        Ok(Form::One)
    }

    no_scalars!(Form, not_rows);
}

fn not_rows<E: Error>(body: Body<'_, '_>, what: &str) -> E {
    let rows = body.0;
    rows.fail(None, format!("the body is {what}: send an object of features, such as {}", example(rows.signature)))
}

pub(super) fn not_an_array<E: Error>(sequence: Sequence<'_, '_>, what: &str) -> E {
    let rows = sequence.0;
    let key = if let Place::Under(key) = rows.place { key } else { INSTANCES };
    rows.place = Place::Body;
    rows.fail(Some(key), format!("{key} is {what}: send an array of rows"))
}

fn example(signature: &Signature) -> String {
    let keys: Vec<_> = signature
        .keys()
        .iter()
        .filter(|(_, slot)| signature.feature(*slot).is_none_or(|f| f.required))
        .map(|(key, _)| format!("{key:?}: .."))
        .take(4)
        .collect();
    format!("{{{}}}", keys.join(", "))
}

/// An array of rows.
pub(super) struct Sequence<'a, 's>(pub(super) &'a mut Rows<'s>);

impl<'de> DeserializeSeed<'de> for Sequence<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Sequence<'_, '_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of rows")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(Row(&mut *self.0))?.is_some() {}
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        Err(not_an_array(self, "an object"))
    }

    no_scalars!((), not_an_array);
}

/// One row: an object of features, or an array of them in declared order, or the one value that there is.
struct Row<'a, 's>(&'a mut Rows<'s>);

impl<'de> DeserializeSeed<'de> for Row<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.0.begin_row()?;
        deserializer.deserialize_any(self)
    }
}

impl Row<'_, '_> {
    /// Takes a row that is a value.
    fn bare<'de, D: Deserializer<'de>>(self, value: D, what: &str) -> Result<(), D::Error> {
        let Some(key) = self.0.only_key() else { return Err(not_an_object(self, what)) };
        self.0.manner = Manner::Bare;
        self.0.set(key, value)?;
        self.0.end_row()
    }
}

fn not_an_object<E: Error>(row: Row<'_, '_>, what: &str) -> E {
    let rows = row.0;
    let inputs = &rows.signature.inputs;
    let takes = match inputs.as_slice() {
        _ if rows.order.is_some() => format!("an array of {}", listed(rows)),
        [input] if input.features.is_empty() => format!("an array, a row of {}, or an object", input.name),
        [_] => format!("an object of features, or an array of {}", listed(rows)),
        several => {
            let names = text::listed(several.iter().map(|input| input.name.as_str()));
            format!("an object, since the model has {} inputs: {names}", several.len())
        }
    };
    rows.fail(None, format!("the row is {what}: send {takes}"))
}

/// How many values a row that is an array has, and which.
fn listed(rows: &Rows<'_>) -> String {
    let names = rows.names();
    format!("{} ({})", values(names.len()), text::listed(names))
}

fn values(count: usize) -> String {
    if count == 1 { "1 value".into() } else { format!("{count} values") }
}

fn takes(rows: &Rows<'_>) -> String {
    let who = if rows.order.is_some() { "the table has" } else { "the model takes" };
    format!("{who} {}", listed(rows))
}

impl<'de> Visitor<'de> for Row<'_, '_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of features")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let first = map.next_key_seed(Key { rows: &mut *self.0, hint: 0, also: Also::Base64 })?;
        if first == Some(Found::Base64) {
            return match base64_value(map)? {
                Ok(text) => self.bare(text.into_deserializer(), "a string"),
                Err(what) => Err(self.0.fail(None, format!("the row {what}"))),
            };
        }
        fill(self.0, first, &mut map)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<(), A::Error> {
        if self.0.order.is_none() {
            match self.0.signature.inputs.as_slice() {
                [input] if input.features.is_empty() => {
                    self.0.manner = Manner::Positional;
                    self.0.set(0, SeqAccessDeserializer::new(seq))?;
                    return self.0.end_row();
                }
                [_] => {}
                _ => return Err(not_an_object(self, "an array")),
            }
        }
        positional(self.0, seq)
    }
    fn visit_bool<E: Error>(self, v: bool) -> Result<(), E> {
        self.bare(v.into_deserializer(), "a boolean")
    }
    fn visit_i64<E: Error>(self, v: i64) -> Result<(), E> {
        self.bare(v.into_deserializer(), "a number")
    }
    fn visit_u64<E: Error>(self, v: u64) -> Result<(), E> {
        self.bare(v.into_deserializer(), "a number")
    }
    fn visit_f64<E: Error>(self, v: f64) -> Result<(), E> {
        self.bare(v.into_deserializer(), "a number")
    }
    fn visit_str<E: Error>(self, v: &str) -> Result<(), E> {
        self.bare(v.into_deserializer(), "a string")
    }
    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.bare(().into_deserializer(), "null")
    }
}

/// A row that is an array of values, one a key.
fn positional<'de, A: SeqAccess<'de>>(rows: &mut Rows<'_>, mut seq: A) -> Result<(), A::Error> {
    rows.manner = Manner::Positional;
    let mut position = 0;
    while let Some(key) = rows.key_at(position) {
        if seq.next_element_seed(At { rows: &mut *rows, key })?.is_none() {
            let takes = takes(rows);
            return Err(rows.fail(None, format!("the row has {}, {takes}", values(position))));
        }
        position += 1;
    }
    if seq.next_element::<IgnoredAny>()?.is_some() {
        let takes = takes(rows);
        return Err(rows.fail(None, format!("the row has more than {}, {takes}", values(position))));
    }
    rows.end_row()
}

pub(super) fn fill<'de, A: MapAccess<'de>>(
    rows: &mut Rows<'_>,
    first: Option<Found>,
    map: &mut A,
) -> Result<(), A::Error> {
    let mut next = first;
    let mut hint = 0;
    while let Some(found) = next {
        hint = match found {
            Found::Key(key) => {
                map.next_value_seed(At { rows: &mut *rows, key })?;
                key + 1
            }
            Found::Input(input) => {
                map.next_value_seed(Features { rows: &mut *rows, input })?;
                0
            }
            Found::Mark(key) => {
                map.next_value_seed(MarkValue { rows: &mut *rows, key })?;
                hint
            }
            Found::Instances | Found::Base64 => break,
        };
        next = map.next_key_seed(Key { rows: &mut *rows, hint, also: Also::Nothing })?;
    }
    rows.end_row()
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Key(usize),
    /// An input that has features.
    Input(usize),
    /// What the row says of itself.
    Mark(MarkKey),
    Instances,
    /// Of a row that is one string.
    Base64,
}

/// A key of a row, looked up in the signature.
pub(super) struct Key<'a, 's> {
    pub(super) rows: &'a mut Rows<'s>,
    pub(super) hint: usize,
    pub(super) also: Also,
}

/// What a key may be that is not the model's.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Also {
    Nothing,
    Instances,
    Base64,
}

impl<'de> DeserializeSeed<'de> for Key<'_, '_> {
    type Value = Found;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Found, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_, '_> {
    type Value = Found;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a feature")
    }
    fn visit_str<E: Error>(self, key: &str) -> Result<Found, E> {
        if let Some(found) = self.rows.signature.find(key, self.hint) {
            return Ok(Found::Key(found));
        }
        if self.also == Also::Instances && key == INSTANCES {
            return Ok(Found::Instances);
        }
        if self.also == Also::Base64 && key == "b64" && self.rows.only_text().is_some() {
            return Ok(Found::Base64);
        }
        if let Some(input) = self.rows.signature.inputs.iter().position(|input| input.name == key) {
            return Ok(Found::Input(input));
        }
        if let Some(mark) = MarkKey::of(self.rows.signature, key) {
            return Ok(Found::Mark(mark));
        }
        self.rows.rows = self.rows.rows.max(1);
        let (field, message) = unknown(self.rows.signature, key);
        Err(self.rows.fail(Some(&field), message))
    }
}

/// The value under a key.
struct At<'a, 's> {
    rows: &'a mut Rows<'s>,
    key: usize,
}

impl<'de> DeserializeSeed<'de> for At<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.rows.set(self.key, deserializer)
    }
}

/// All features of an input, as an array under the input's name.
struct Features<'a, 's> {
    rows: &'a mut Rows<'s>,
    input: usize,
}

impl Features<'_, '_> {
    fn refuse<E: Error>(self, what: &str) -> E {
        let input = &self.rows.signature.inputs[self.input];
        let names = text::listed(input.features.iter().map(|feature| feature.name.as_str()));
        let takes = format!("an array of {} ({})", values(input.features.len()), names);
        self.rows.fail(Some(&input.name), format!("{} is {what}, the model takes {takes}", input.name))
    }
}

impl<'de> DeserializeSeed<'de> for Features<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Features<'_, '_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of features")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        self.rows.manner = Manner::Whole;
        let keys = self.rows.signature.keys().iter().enumerate();
        let mut count = 0;
        for (key, _) in keys.filter(|(_, (_, slot))| slot.input() == self.input) {
            if seq.next_element_seed(At { rows: &mut *self.rows, key })?.is_none() {
                return Err(self.refuse(&format!("an array of {}", values(count))));
            }
            count += 1;
        }
        if seq.next_element::<IgnoredAny>()?.is_none() {
            return Ok(());
        }
        Err(self.refuse(&format!("an array of more than {}", values(count))))
    }
    fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        Err(self.refuse("an object"))
    }
    no_scalars!((), Self::refuse);
}
