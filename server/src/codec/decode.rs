//! JSON bytes straight into the rows of the input tensors: one pass, no intermediate tree.
//!
//! Every visitor refuses what does not fit at the place where it stands, so neither depth nor width of a hostile
//! document costs more than its bytes.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{DecodeError, Form, Request};
use crate::model::manifest::Missing;
use crate::model::signature::{Signature, Slot};
use crate::model::tensor::{Column, Scalar};

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

/// The rows decoded so far.
struct Rows<'s> {
    signature: &'s Signature,
    max_rows: usize,
    columns: Vec<Column>,
    /// Dimensions of a row, as the first row set them, of the inputs that have free ones.
    free_shapes: Vec<(usize, Vec<usize>)>,
    rows: usize,
    /// For each key, the last row (counted from 1) that had it.
    seen: Vec<usize>,
    current: Option<usize>,
    wrapped: Wrapped,
    failure: Option<DecodeError>,
}

#[derive(Clone, Copy)]
enum Wrapped {
    No,
    Array,
    Instances,
}

impl<'s> Rows<'s> {
    fn new(signature: &'s Signature, max_rows: usize) -> Self {
        Self {
            signature,
            max_rows,
            columns: signature.inputs.iter().map(|i| Column::new(i.dtype)).collect(),
            free_shapes: vec![],
            rows: 0,
            seen: vec![0; signature.keys().len()],
            current: None,
            wrapped: Wrapped::No,
            failure: None,
        }
    }

    fn error(&self, key: Option<&str>, message: String) -> DecodeError {
        let row = self.rows.saturating_sub(1);
        let place = match self.wrapped {
            Wrapped::No => String::new(),
            Wrapped::Array => format!("[{row}]"),
            Wrapped::Instances => format!("{INSTANCES}[{row}]"),
        };
        let field = match (place.as_str(), key) {
            ("", key) => key.unwrap_or_default().to_owned(),
            (_, None) => place.clone(),
            (_, Some(key)) => format!("{place}.{key}"),
        };
        let message = if place.is_empty() { message } else { format!("{place}: {message}") };
        DecodeError::Features { field, message }
    }

    /// Records what is wrong and gives the error that makes the parser stop.
    fn fail<E: Error>(&mut self, key: Option<&str>, message: impl Into<String>) -> E {
        self.failure = Some(self.error(key, message.into()));
        E::custom("")
    }

    fn begin_row<E: Error>(&mut self) -> Result<(), E> {
        if self.rows == self.max_rows {
            let message = format!("there are more than {} rows: send them in several requests", self.max_rows);
            self.wrapped = Wrapped::No;
            return Err(self.fail(None, message));
        }
        self.rows += 1;
        for (column, input) in self.columns.iter_mut().zip(&self.signature.inputs) {
            column.grow(input.features.len());
        }
        Ok(())
    }

    fn end_row<E: Error>(&mut self) -> Result<(), E> {
        self.current = None;
        let signature = self.signature;
        let mut absent: Vec<&str> = vec![];
        for (i, (key, slot)) in signature.keys().iter().enumerate() {
            if self.seen[i] == self.rows {
                continue;
            }
            match (slot, signature.feature(*slot)) {
                (Slot::Feature { input, column }, Some(feature)) if !feature.required => {
                    let at = (self.rows - 1) * signature.inputs[*input].features.len() + column;
                    let value = match feature.missing {
                        Missing::Nan => f64::NAN,
                        Missing::Default => feature.default.unwrap_or(f64::NAN),
                        Missing::Reject => {
                            absent.push(key);
                            continue;
                        }
                    };
                    self.columns[*input].set_missing(at, value);
                }
                _ => absent.push(key),
            }
        }
        match absent.as_slice() {
            [] => Ok(()),
            [key] => Err(self.fail(Some(key), format!("{key} is missing: the model requires it"))),
            [first, ..] => {
                Err(self.fail(Some(first), format!("{} are missing: the model requires them", absent.join(", "))))
            }
        }
    }

    /// Takes the value under a key.
    fn set<'de, D: Deserializer<'de>>(&mut self, key: usize, value: D) -> Result<(), D::Error> {
        let signature = self.signature;
        let (name, slot) = &signature.keys()[key];
        if self.seen[key] == self.rows {
            return Err(self.fail(Some(name), format!("{name} is given twice")));
        }
        self.current = Some(key);
        let present = match *slot {
            Slot::Feature { input, column } => {
                let at = (self.rows - 1) * signature.inputs[input].features.len() + column;
                Value { rows: self, key: name, input, at: Some(at), depth: 0 }.deserialize(value)?
            }
            Slot::Row { input } => {
                let declared = signature.inputs[input].row_shape.as_slice();
                // A row of one element may stand bare: `"region": "eu"` for an input of shape [rows, 1].
                let bare = declared.iter().all(|d| *d == Some(1));
                let before = self.columns[input].len();
                let depth = if bare { 0 } else { declared.len() };
                let mut dims = Dims { sizes: vec![None; declared.len()] };
                let present = if bare {
                    Value { rows: self, key: name, input, at: None, depth }.deserialize(value)?
                } else {
                    Nested { rows: self, key: name, input, level: 0, dims: &mut dims }.deserialize(value)?;
                    true
                };
                if present && !bare {
                    let shape: Vec<usize> = dims.sizes.iter().map(|d| d.unwrap_or(0)).collect();
                    self.check_shape(name, input, shape, before)?;
                }
                present
            }
        };
        if present {
            self.seen[key] = self.rows;
        }
        Ok(())
    }

    fn check_shape<E: Error>(&mut self, name: &str, input: usize, shape: Vec<usize>, before: usize) -> Result<(), E> {
        let declared = &self.signature.inputs[input].row_shape;
        let fits = declared.iter().zip(&shape).all(|(d, s)| d.is_none_or(|d| d == *s));
        let full = self.columns[input].len() - before == shape.iter().product::<usize>();
        if !fits || !full {
            let want: Vec<_> = declared.iter().map(|d| d.map_or("any".to_owned(), |d| d.to_string())).collect();
            let message = format!("{name} has shape {shape:?}, the model takes [{}]", want.join(", "));
            return Err(self.fail(Some(name), message));
        }
        if declared.iter().all(Option::is_some) {
            return Ok(());
        }
        match self.free_shapes.iter().find(|(i, _)| *i == input) {
            Some((_, first)) if *first != shape => {
                let message =
                    format!("{name} has shape {shape:?}, in the first row it has {first:?}: pad the rows to one size");
                Err(self.fail(Some(name), message))
            }
            Some(_) => Ok(()),
            None => {
                self.free_shapes.push((input, shape));
                Ok(())
            }
        }
    }

    fn finish(self, form: Form) -> Result<Request, DecodeError> {
        let rows = self.rows;
        if rows == 0 {
            let field = if form == Form::Instances { INSTANCES } else { "" };
            return Err(DecodeError::Features {
                field: field.into(),
                message: "there are no rows: send at least one object of features".into(),
            });
        }
        let mut inputs = Vec::with_capacity(self.columns.len());
        for (i, column) in self.columns.into_iter().enumerate() {
            let free = self.free_shapes.iter().find(|(input, _)| *input == i).map(|(_, shape)| shape.as_slice());
            let mut dims = vec![rows];
            match free {
                Some(shape) => dims.extend(shape),
                None => dims.extend(self.signature.inputs[i].row_shape.iter().flatten()),
            }
            inputs.push(column.into_tensor(&dims).ok_or_else(|| DecodeError::Features {
                field: self.signature.inputs[i].name.clone(),
                message: format!("the rows of {} differ in size", self.signature.inputs[i].name),
            })?);
        }
        Ok(Request { inputs, rows, form })
    }
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

    fn visit_bool<E: Error>(self, _: bool) -> Result<Form, E> {
        Err(not_rows(self.0, "a boolean"))
    }
    fn visit_i64<E: Error>(self, _: i64) -> Result<Form, E> {
        Err(not_rows(self.0, "a number"))
    }
    fn visit_u64<E: Error>(self, _: u64) -> Result<Form, E> {
        Err(not_rows(self.0, "a number"))
    }
    fn visit_f64<E: Error>(self, _: f64) -> Result<Form, E> {
        Err(not_rows(self.0, "a number"))
    }
    fn visit_str<E: Error>(self, _: &str) -> Result<Form, E> {
        Err(not_rows(self.0, "a string"))
    }
    fn visit_unit<E: Error>(self) -> Result<Form, E> {
        Err(not_rows(self.0, "null"))
    }
}

fn not_rows<E: Error>(rows: &mut Rows<'_>, what: &str) -> E {
    rows.fail(None, format!("the body is {what}: send an object of features, such as {}", example(rows.signature)))
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
        deserializer.deserialize_seq(self)
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

macro_rules! refuse {
    ($($method:ident($ty:ty) = $what:literal),+) => {
        $(fn $method<E: Error>(self, _: $ty) -> Result<(), E> {
            Err(self.0.fail(None, concat!("the row is ", $what, ": send an object of features")))
        })+
    };
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
        Err(self.0.fail(None, "the row is an array: send an object of features"))
    }
    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Err(self.0.fail(None, "the row is null: send an object of features"))
    }
    refuse!(
        visit_bool(bool) = "a boolean",
        visit_i64(i64) = "a number",
        visit_u64(u64) = "a number",
        visit_f64(f64) = "a number",
        visit_str(&str) = "a string"
    );
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

/// One scalar, put at an index of a column or appended to it. Gives whether there was one: `null` is none.
struct Value<'a, 's> {
    rows: &'a mut Rows<'s>,
    key: &'s str,
    input: usize,
    at: Option<usize>,
    /// How deep in an array the value stands; there, `null` is refused.
    depth: usize,
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
        // A whole row of one element: `[3]` is as good as `3`.
        if self.at.is_some() || self.depth > 0 {
            return Err(self.refuse("an array"));
        }
        let Value { rows, key, input, .. } = self;
        let mut count = 0;
        while seq.next_element_seed(Value { rows: &mut *rows, key, input, at: None, depth: 1 })?.is_some() {
            count += 1;
        }
        if count != 1 {
            return Err(rows.fail(Some(key), format!("{key} is an array of {count} elements, the model takes one")));
        }
        Ok(true)
    }
    fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<bool, A::Error> {
        Err(self.refuse("an object"))
    }
}

/// Sizes of a nested array, taken from the first array of each level.
struct Dims {
    sizes: Vec<Option<usize>>,
}

/// A nested array for a whole row of an input.
struct Nested<'a, 's> {
    rows: &'a mut Rows<'s>,
    key: &'s str,
    input: usize,
    level: usize,
    dims: &'a mut Dims,
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
        while seq
            .next_element_seed(Nested { rows: &mut *rows, key, input, level: level + 1, dims: &mut *dims })?
            .is_some()
        {
            size += 1;
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
    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Err(self.refuse("a boolean"))
    }
    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        Err(self.refuse("a number"))
    }
    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        Err(self.refuse("a number"))
    }
    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        Err(self.refuse("a number"))
    }
    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        Err(self.refuse("a string"))
    }
    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Err(self.refuse("null"))
    }
    fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        Err(self.refuse("an object"))
    }
}
