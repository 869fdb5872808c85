//! Rows of any file as the rows of a request: what a column stands for, and what a row says of itself.
//!
//! Every format becomes named JSON here and is then decoded by the one codec, so that a row means in a replay what it meant to
//! the server: missing features, defaults and types follow the manifest.

use std::collections::{BTreeSet, HashMap};

use serde_json::Value;

use super::cell::Cell;
use crate::model::manifest::Missing;
use crate::model::signature::{Signature, Slot};
use crate::model::tensor::DType;
use crate::text::shown;
use crate::verdict::state::hash;

/// The names of columns that are no features. An empty one names none; without one for the time, rows need no time.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// What was measured, such as a pod.
    pub series: String,
    /// When: seconds of Unix time, or RFC 3339.
    pub time: String,
    /// Whether there was an anomaly.
    pub label: String,
}

/// What a row says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Mark {
    /// The line of a text file, counted from 1, or the row of a Parquet file, counted from 1.
    pub place: u64,
    /// [`hash`] of the name of what was measured; 0 for none.
    pub series: u64,
    /// When, in seconds of Unix time.
    pub at: u64,
    /// What the forecast is of, as measured then.
    pub actual: Option<f64>,
    /// Whether there was an anomaly.
    pub anomaly: Option<bool>,
    /// Where the row ends in [`Batch::json`].
    end: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stands {
    Series,
    Time,
    Actual,
    Label,
}

/// What a column stands for. One column may be a feature and more.
#[derive(Clone, Debug, Default)]
pub struct Column {
    /// The feature's key with its colon, and the type of its input.
    feature: Option<(String, DType)>,
    stands: Vec<Stands>,
    name: String,
}

impl Column {
    /// Whether nothing is made of it.
    #[must_use]
    pub const fn is_unknown(&self) -> bool {
        self.feature.is_none() && self.stands.is_empty()
    }
}

/// Knows the columns of a model's tables.
#[derive(Debug)]
pub struct Plan {
    names: Names,
    target: Option<String>,
    features: HashMap<String, DType>,
    required: Vec<String>,
}

impl Plan {
    /// The plan for rows of a model.
    #[must_use]
    pub fn new(signature: &Signature, names: Names) -> Self {
        let of = |slot: &Slot| signature.inputs[slot.input()].dtype;
        let is_required = |slot: &Slot| {
            signature.feature(*slot).is_none_or(|feature| feature.required || feature.missing == Missing::Reject)
        };
        Self {
            target: signature.target().map(Into::into),
            features: signature.keys().iter().map(|(key, slot)| (key.to_string(), of(slot))).collect(),
            required: signature
                .keys()
                .iter()
                .filter(|(_, slot)| is_required(slot))
                .map(|(key, _)| key.to_string())
                .collect(),
            names,
        }
    }

    /// What a name stands for.
    #[must_use]
    pub fn column(&self, name: &str) -> Column {
        let key = |dtype: &DType| (format!("{}:", Value::from(name)), *dtype);
        let stands = [
            (Some(&self.names.series), Stands::Series),
            (Some(&self.names.time), Stands::Time),
            (self.target.as_ref().filter(|_| self.is_timed()), Stands::Actual),
            (Some(&self.names.label), Stands::Label),
        ];
        let is_it = |other: Option<&String>| other.is_some_and(|other| !other.is_empty() && other == name);
        let stands = stands.into_iter().filter(|(other, _)| is_it(*other));
        Column {
            feature: self.features.get(name).map(key),
            stands: stands.map(|(_, stands)| stands).collect(),
            name: name.into(),
        }
    }

    /// Checks the columns of a table before its rows are read.
    ///
    /// # Errors
    /// One sentence that names the column that is missing or there twice.
    pub fn check(&self, columns: &[String]) -> Result<(), String> {
        let mut seen = BTreeSet::new();
        let used = |name: &&String| !self.column(name).is_unknown();
        if let Some(twice) = columns.iter().filter(used).find(|name| !seen.insert(*name)) {
            return Err(format!("the column {:?} is there twice: leave one out", shown(twice)));
        }
        if let Some(missing) = self.required.iter().find(|name| !columns.contains(name)) {
            return Err(format!("there is no column {missing}, which the model requires"));
        }
        if self.is_timed() && !columns.contains(&self.names.time) { Err(self.no_time("column")) } else { Ok(()) }
    }

    /// Whether a table says what its rows are of.
    #[must_use]
    pub fn names_series(&self, columns: &[String]) -> bool {
        columns.contains(&self.names.series)
    }

    const fn is_timed(&self) -> bool {
        !self.names.time.is_empty()
    }

    fn no_time(&self, what: &str) -> String {
        let name = &self.names.time;
        format!("there is no {what} {name}, the time of each row in seconds of Unix time: name it with --time-column")
    }
}

/// Rows that are scored together.
#[derive(Debug)]
pub struct Batch {
    /// The rows' features, one object after the other.
    json: Vec<u8>,
    /// One for each row.
    pub marks: Vec<Mark>,
    row: Mark,
    has_time: bool,
    /// The series of rows that name none.
    pub unnamed: u64,
}

impl Batch {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self { json: vec![], marks: vec![], row: Mark::default(), has_time: false, unnamed: 0 }
    }

    /// Takes the rows before one out.
    pub fn keep_from(&mut self, row: usize) {
        let end = row.checked_sub(1).map_or(0, |before| self.marks[before].end);
        self.json.drain(..end);
        self.marks.drain(..row);
        self.marks.iter_mut().for_each(|mark| mark.end -= end);
    }

    /// The features of some rows, as the body of a request.
    #[must_use]
    pub fn body(&self, rows: std::ops::Range<usize>) -> Vec<u8> {
        let begin = rows.start.checked_sub(1).map_or(0, |before| self.marks[before].end);
        let mut body = Vec::with_capacity(self.json.len() + 2);
        body.push(b'[');
        body.extend_from_slice(&self.json[begin..self.marks[rows.end - 1].end - 1]);
        body.push(b']');
        body
    }

    /// Begins a row.
    pub fn begin(&mut self, place: u64) {
        self.row = Mark { place, series: self.unnamed, ..Mark::default() };
        self.has_time = false;
        self.json.push(b'{');
    }

    /// Takes the value of a column.
    ///
    /// # Errors
    /// One sentence that names the column, what it holds and what it should.
    pub(super) fn put(&mut self, column: &Column, cell: Cell<'_>) -> Result<(), String> {
        let wrong = |what: String| format!("{} {what}", column.name);
        for stands in &column.stands {
            self.mark(*stands, cell).map_err(wrong)?;
        }
        let Some((key, dtype)) = &column.feature else { return Ok(()) };
        if cell.is_missing(*dtype) {
            return Ok(());
        }
        self.json.extend_from_slice(key.as_bytes());
        cell.write(*dtype, &mut self.json).map_err(wrong)?;
        self.json.push(b',');
        Ok(())
    }

    /// Ends the row.
    ///
    /// # Errors
    /// When it has no time.
    pub fn end(&mut self, plan: &Plan) -> Result<(), String> {
        if plan.is_timed() && !self.has_time {
            return Err(plan.no_time("value of"));
        }
        if self.json.last() == Some(&b',') {
            self.json.pop();
        }
        self.json.extend_from_slice(b"},");
        self.marks.push(Mark { end: self.json.len(), ..self.row });
        Ok(())
    }

    fn mark(&mut self, stands: Stands, cell: Cell<'_>) -> Result<(), String> {
        match stands {
            Stands::Series => self.row.series = cell.text()?.map_or(self.unnamed, |name| hash(name.as_bytes())),
            Stands::Actual => self.row.actual = cell.number()?,
            Stands::Label => self.row.anomaly = cell.yes()?,
            Stands::Time => {
                if let Some(seconds) = cell.seconds()? {
                    self.row.at = seconds;
                    self.has_time = true;
                }
            }
        }
        Ok(())
    }
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}
