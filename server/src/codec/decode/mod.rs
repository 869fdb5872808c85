//! JSON bytes straight into the rows of the input tensors: one pass, no intermediate tree.
//!
//! Every visitor refuses what does not fit at the place where it stands, so neither depth nor width of a hostile
//! document costs more than its bytes.

/// Refuses every kind of scalar where none is taken: `$fail` makes the error of `self` and the kind's name.
macro_rules! no_scalars {
    ($value:ty, $fail:expr) => {
        fn visit_bool<E: Error>(self, _: bool) -> Result<$value, E> {
            Err($fail(self, "a boolean"))
        }
        fn visit_i64<E: Error>(self, _: i64) -> Result<$value, E> {
            Err($fail(self, "a number"))
        }
        fn visit_u64<E: Error>(self, _: u64) -> Result<$value, E> {
            Err($fail(self, "a number"))
        }
        fn visit_f64<E: Error>(self, _: f64) -> Result<$value, E> {
            Err($fail(self, "a number"))
        }
        fn visit_str<E: Error>(self, _: &str) -> Result<$value, E> {
            Err($fail(self, "a string"))
        }
        fn visit_unit<E: Error>(self) -> Result<$value, E> {
            Err($fail(self, "null"))
        }
    };
}

mod rows;
mod value;

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use self::rows::{Rows, Wrapped};
use super::{DecodeError, Form, Request};
use crate::model::signature::Signature;

const INSTANCES: &str = "instances";

/// Decodes a body of at most `max_rows` rows.
///
/// # Errors
/// [`DecodeError::Syntax`] for what is not JSON, [`DecodeError::Features`] for the first field that does not fit.
pub fn body(signature: &Signature, json: &[u8], max_rows: usize) -> Result<Request, DecodeError> {
    let mut rows = Rows::new(signature, max_rows);
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let result = Body(&mut rows).deserialize(&mut deserializer).and_then(|form| deserializer.end().map(|()| form));
    match result {
        Ok(form) => rows.finish(form),
        Err(error) => Err(rows.failure.take().unwrap_or_else(|| syntax(&rows, json, &error))),
    }
}

/// Explains a syntax error; the numbers that JSON does not have are named with their field.
fn syntax(rows: &Rows<'_>, json: &[u8], error: &serde_json::Error) -> DecodeError {
    let text = error.to_string();
    let key = rows.current.map(|i| &*rows.signature.keys()[i].0);
    if text.starts_with("number out of range")
        && let Some(key) = key
    {
        return rows.error(Some(key), format!("{key} is a number beyond every float: send a finite one"));
    }
    if json.trim_ascii().is_empty() {
        return DecodeError::Syntax("it is empty".into());
    }
    let line = json.split(|b| *b == b'\n').nth(error.line().saturating_sub(1)).unwrap_or_default();
    let rest = line.get(error.column().saturating_sub(1)..).unwrap_or_default();
    let rest = rest.strip_prefix(b"-").unwrap_or(rest);
    if let Some(name) = ["NaN", "Infinity", "nan", "inf"].iter().find(|n| rest.starts_with(n.as_bytes()))
        && let Some(key) = key
    {
        let message = format!("{key} is {name}, which JSON does not have: leave the feature out if it is not known");
        return rows.error(Some(key), message);
    }
    DecodeError::Syntax(text)
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
        self.0.wrapped = Wrapped::Array;
        Sequence(self.0).visit_seq(seq).map(|()| Form::Many)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Form, A::Error> {
        let rows = self.0;
        let wraps = rows.signature.find(INSTANCES, 0).is_none();
        let first = map.next_key_seed(Key { rows: &mut *rows, hint: 0, wraps })?;
        if first == Some(Found::Instances) {
            rows.wrapped = Wrapped::Instances;
            map.next_value_seed(Sequence(&mut *rows))?;
            rows.wrapped = Wrapped::No;
            if map.next_key::<IgnoredAny>()?.is_some() {
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

fn not_an_array<E: Error>(sequence: Sequence<'_, '_>, what: &str) -> E {
    let rows = sequence.0;
    rows.wrapped = Wrapped::No;
    rows.fail(Some(INSTANCES), format!("{INSTANCES} is {what}: send an array of objects"))
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
struct Sequence<'a, 's>(&'a mut Rows<'s>);

impl<'de> DeserializeSeed<'de> for Sequence<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Sequence<'_, '_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of objects")
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

/// One row: an object of features.
struct Row<'a, 's>(&'a mut Rows<'s>);

impl<'de> DeserializeSeed<'de> for Row<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.0.begin_row()?;
        deserializer.deserialize_any(self)
    }
}

fn not_an_object<E: Error>(row: Row<'_, '_>, what: &str) -> E {
    row.0.fail(None, format!("the row is {what}: send an object of features"))
}

impl<'de> Visitor<'de> for Row<'_, '_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of features")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let first = map.next_key_seed(Key { rows: &mut *self.0, hint: 0, wraps: false })?;
        fill(self.0, first, &mut map)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        Err(not_an_object(self, "an array"))
    }

    no_scalars!((), not_an_object);
}

fn fill<'de, A: MapAccess<'de>>(rows: &mut Rows<'_>, first: Option<Found>, map: &mut A) -> Result<(), A::Error> {
    let mut next = first;
    while let Some(found) = next {
        let Found::Key(key) = found else { break };
        map.next_value_seed(At { rows: &mut *rows, key })?;
        next = map.next_key_seed(Key { rows: &mut *rows, hint: key + 1, wraps: false })?;
    }
    rows.end_row()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    Key(usize),
    Instances,
}

/// A key of a row, looked up in the signature.
struct Key<'a, 's> {
    rows: &'a mut Rows<'s>,
    hint: usize,
    wraps: bool,
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
        if self.wraps && key == INSTANCES {
            return Ok(Found::Instances);
        }
        self.rows.rows = self.rows.rows.max(1);
        let shown: String = key.chars().take(64).collect();
        let nearest = self
            .rows
            .signature
            .keys()
            .iter()
            .map(|(k, _)| &**k)
            .max_by(|a, b| strsim::jaro_winkler(a, &shown).total_cmp(&strsim::jaro_winkler(b, &shown)));
        let hint = match nearest {
            Some(name) if strsim::jaro_winkler(name, &shown) > 0.75 => format!(": did you mean {name}?"),
            _ => {
                let names: Vec<_> = self.rows.signature.keys().iter().map(|(k, _)| &**k).take(20).collect();
                format!(": the model takes {}", names.join(", "))
            }
        };
        Err(self.rows.fail(Some(&shown), format!("{shown:?} is not a feature of this model{hint}")))
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
