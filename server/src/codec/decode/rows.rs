//! The rows of a request while they arrive: where values go, what is missing, and how a mistake is told.

use serde::de::{DeserializeSeed, Deserializer, Error};

use super::value::{Dims, Nested, Value};
use super::{DecodeError, Form, INSTANCES, Request};
use crate::model::manifest::Missing;
use crate::model::signature::{Signature, Slot};
use crate::model::tensor::Column;

/// The rows decoded so far.
pub(super) struct Rows<'s> {
    pub(super) signature: &'s Signature,
    max_rows: usize,
    pub(super) columns: Vec<Column>,
    /// Dimensions of a row, as the first row set them, of the inputs that have free ones.
    free_shapes: Vec<(usize, Vec<usize>)>,
    pub(super) rows: usize,
    /// For each key, the last row (counted from 1) that had it.
    seen: Vec<usize>,
    pub(super) current: Option<usize>,
    pub(super) wrapped: Wrapped,
    pub(super) failure: Option<DecodeError>,
}

#[derive(Clone, Copy)]
pub(super) enum Wrapped {
    No,
    Array,
    Instances,
}

impl<'s> Rows<'s> {
    pub(super) fn new(signature: &'s Signature, max_rows: usize) -> Self {
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

    pub(super) fn error(&self, key: Option<&str>, message: String) -> DecodeError {
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
    pub(super) fn fail<E: Error>(&mut self, key: Option<&str>, message: impl Into<String>) -> E {
        self.failure = Some(self.error(key, message.into()));
        E::custom("")
    }

    pub(super) fn begin_row<E: Error>(&mut self) -> Result<(), E> {
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

    pub(super) fn end_row<E: Error>(&mut self) -> Result<(), E> {
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
            [first, ..] => {
                Err(self.fail(Some(first), format!("{} are missing: the model requires them", absent.join(", "))))
            }
        }
    }

    /// Takes the value under a key.
    pub(super) fn set<'de, D: Deserializer<'de>>(&mut self, key: usize, value: D) -> Result<(), D::Error> {
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

    pub(super) fn finish(self, form: Form) -> Result<Request, DecodeError> {
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
