//! The rows of a request while they arrive: where values go, what is missing, and how a mistake is told.

use serde::de::{DeserializeSeed, Deserializer, Error};

use super::value::{Dims, Nested, Value};
use super::{DecodeError, INSTANCES, Request, Wishes};
use crate::codec::marks::Mark;
use crate::codec::same_sizes;
use crate::model::manifest::Feature;
use crate::model::signature::{Signature, Slot};
use crate::model::tensor::{Column, DType};
use crate::text::listed;

/// The rows decoded so far.
pub(in crate::codec) struct Rows<'s> {
    pub(in crate::codec) signature: &'s Signature,
    max_rows: usize,
    pub(super) columns: Vec<Column>,
    /// Dimensions of a row, as the first row set them, of the inputs that have free ones.
    free_shapes: Vec<(usize, Vec<usize>)>,
    pub(in crate::codec) rows: usize,
    /// For each key, the last row (counted from 1) that had it.
    seen: Vec<usize>,
    pub(super) current: Option<usize>,
    /// One for each row up to the last that said anything of itself.
    marks: Vec<Mark>,
    pub(in crate::codec) place: Place,
    /// The keys of a table's columns, in order; `None` when rows that are arrays hold the keys in declared order.
    pub(in crate::codec) order: Option<Vec<usize>>,
    pub(super) manner: Manner,
    pub(in crate::codec) failure: Option<DecodeError>,
    /// Where in the failure's field the indices of arrays belong.
    base: usize,
}

/// Where the rows stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::codec) enum Place {
    /// The body is one row.
    Body,
    /// The body is an array of rows.
    Array,
    /// The rows are an array under this key.
    Under(&'static str),
    /// The row is a line of the body.
    Line(u64),
}

/// How the present row names its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// By keys.
    Named,
    /// By keys, of which one is an input and its value all of the input's features.
    Whole,
    /// By their positions in an array.
    Positional,
    /// Not at all: it is one value.
    Bare,
}

impl<'s> Rows<'s> {
    pub(in crate::codec) fn new(signature: &'s Signature, max_rows: usize) -> Self {
        Self {
            signature,
            max_rows,
            columns: signature.inputs.iter().map(|i| Column::new(i.dtype)).collect(),
            free_shapes: vec![],
            rows: 0,
            seen: vec![0; signature.keys().len()],
            current: None,
            marks: vec![],
            place: Place::Body,
            order: None,
            manner: Manner::Named,
            failure: None,
            base: 0,
        }
    }

    pub(in crate::codec) fn error(&self, key: Option<&str>, message: String) -> DecodeError {
        let row = self.rows.saturating_sub(1);
        let place = match self.place {
            Place::Body => String::new(),
            Place::Array => format!("[{row}]"),
            Place::Under(key) => format!("{key}[{row}]"),
            Place::Line(line) => format!("line {line}"),
        };
        let (place, key) = match (self.manner, key) {
            _ if place.is_empty() => (place, key),
            (Manner::Positional, Some(key)) => match self.position(key) {
                Some(position) => (format!("{place}[{position}]"), None),
                None if self.order.is_some() => (place, Some(key)),
                // The row is an array of the value's elements.
                None => (place, None),
            },
            (Manner::Bare, _) => (place, None),
            (_, key) => (place, key),
        };
        let message = if place.is_empty() { message } else { format!("{place}: {message}") };
        let field = match key {
            Some(key) if place.is_empty() => key.to_owned(),
            Some(key) => format!("{place}.{key}"),
            None => place,
        };
        DecodeError::Features { field, message }
    }

    /// Where a key's value stands in a row that is an array; nowhere when the row is the value.
    fn position(&self, key: &str) -> Option<usize> {
        let key = self.signature.find(key, 0)?;
        match &self.order {
            Some(order) => order.iter().position(|k| *k == key),
            None => self.signature.feature(self.signature.keys()[key].1).map(|_| key),
        }
    }

    /// Records what is wrong and gives the error that makes the parser stop.
    pub(in crate::codec) fn fail<E: Error>(&mut self, key: Option<&str>, message: impl Into<String>) -> E {
        let error = self.error(key, message.into());
        if let DecodeError::Features { field, .. } = &error {
            self.base = field.len();
        }
        self.failure = Some(error);
        E::custom("")
    }

    /// What the present row says of itself.
    pub(in crate::codec) fn mark(&mut self) -> &mut Mark {
        let row = self.rows.max(1);
        self.marks.resize(row, Mark::default());
        &mut self.marks[row - 1]
    }

    /// Adds to the failure's field that it happened inside of an array, at this index.
    #[cold]
    pub(super) fn inside(&mut self, index: usize) {
        if let Some(DecodeError::Features { field, message }) = &mut self.failure {
            let index = format!("[{index}]");
            // The message begins with the place, which is all of the field when the row is the array.
            if message.strip_prefix(field.as_str()).is_some_and(|rest| rest.starts_with(':')) {
                message.insert_str(self.base, &index);
            }
            field.insert_str(self.base, &index);
        }
    }

    /// The names of the values of a row that is an array, in order.
    pub(super) fn names(&self) -> Vec<&'s str> {
        let keys = self.signature.keys();
        match &self.order {
            Some(order) => order.iter().map(|key| &*keys[*key].0).collect(),
            None => keys.iter().map(|(key, _)| &**key).collect(),
        }
    }

    /// The key at a position of a row that is an array.
    pub(super) fn key_at(&self, position: usize) -> Option<usize> {
        match &self.order {
            Some(order) => order.get(position).copied(),
            None => Some(position).filter(|position| *position < self.signature.keys().len()),
        }
    }

    /// The key of the one value that a row has, when it has no more.
    pub(super) fn only_key(&self) -> Option<usize> {
        let key = self.key_at(0).filter(|_| self.key_at(1).is_none())?;
        let all = self.order.is_some() || self.signature.inputs.len() == 1;
        (all && self.is_bare(key)).then_some(key)
    }

    /// The key of the one string that a row has, when it has no more: it may come as `{"b64": ".."}`.
    pub(super) fn only_text(&self) -> Option<usize> {
        self.only_key().filter(|key| self.dtype(*key) == DType::Text)
    }

    /// Whether the rows were given by the names of features.
    pub(in crate::codec) fn are_features(&self) -> bool {
        self.manner == Manner::Named && self.signature.inputs.iter().any(|input| !input.features.is_empty())
    }

    /// The type of the value under a key.
    pub(in crate::codec) fn dtype(&self, key: usize) -> DType {
        self.signature.inputs[self.signature.keys()[key].1.input()].dtype
    }

    /// Whether the value under a key is one element.
    fn is_bare(&self, key: usize) -> bool {
        match self.signature.keys()[key].1 {
            Slot::Feature { .. } => true,
            Slot::Row { input } => self.signature.inputs[input].row_shape.iter().all(|d| *d == Some(1)),
        }
    }

    pub(in crate::codec) fn begin_row<E: Error>(&mut self) -> Result<(), E> {
        if self.rows == self.max_rows {
            let message = format!("there are more than {} rows: send them in several requests", self.max_rows);
            self.place = Place::Body;
            return Err(self.fail(None, message));
        }
        self.manner = Manner::Named;
        self.rows += 1;
        for (column, input) in self.columns.iter_mut().zip(&self.signature.inputs) {
            column.grow(input.features.len());
        }
        Ok(())
    }

    pub(in crate::codec) fn end_row<E: Error>(&mut self) -> Result<(), E> {
        self.current = None;
        let signature = self.signature;
        let mut absent: Vec<&str> = vec![];
        for (i, (key, slot)) in signature.keys().iter().enumerate() {
            if self.seen[i] == self.rows {
                continue;
            }
            match (slot, signature.feature(*slot).and_then(Feature::stand_in)) {
                (Slot::Feature { input, column }, Some(value)) => {
                    let at = (self.rows - 1) * signature.inputs[*input].features.len() + column;
                    if let Err(reason) = self.columns[*input].set_default(at, value) {
                        return Err(self.fail(Some(key), format!("{key} is missing, and its default {reason}")));
                    }
                }
                _ => absent.push(key),
            }
        }
        match absent.as_slice() {
            [] => Ok(()),
            [key] => Err(self.fail(Some(key), format!("{key} is missing: the model requires it"))),
            [first, ..] => Err(self
                .fail(Some(first), format!("{} are missing: the model requires them", listed(absent.iter().copied())))),
        }
    }

    /// Takes the value under a key.
    pub(in crate::codec) fn set<'de, D: Deserializer<'de>>(&mut self, key: usize, value: D) -> Result<(), D::Error> {
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
                let bare = self.is_bare(key);
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
                    // What lies in nothing has the size that the model takes.
                    let sizes = dims.sizes.iter().zip(declared);
                    let shape: Vec<usize> = sizes.map(|(size, takes)| size.or(*takes).unwrap_or(0)).collect();
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

    pub(in crate::codec) fn finish<F>(self, form: F) -> Result<Request<F>, DecodeError> {
        let rows = self.rows;
        if rows == 0 {
            let (field, what) = match self.place {
                Place::Under(key) => (key, if key == INSTANCES { "object of features" } else { "row" }),
                Place::Line(_) => ("", "line after the header"),
                Place::Body | Place::Array => ("", "object of features"),
            };
            let message = format!("there are no rows: send at least one {what}");
            return Err(DecodeError::Features { field: field.into(), message });
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
        same_sizes(self.signature, &inputs)?;
        let mut marks = self.marks;
        if !marks.is_empty() {
            marks.resize(rows, Mark::default());
        }
        Ok(Request { inputs, rows, form, wishes: Wishes::default(), marks })
    }
}
