//! One row a line, as `POST /predict` takes them.

use std::collections::HashMap;
use std::fmt;
use std::io::{BufRead, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::cell::Cell;
use super::input::{LONGEST_LINE, Reader, Unknown};
use super::rows::{Batch, Column, Plan};

/// Keys whose meaning is remembered; a file with more has other keys in each line.
const KNOWN: usize = 4096;

pub(super) struct Ndjson {
    text: Box<dyn BufRead>,
    count: Arc<AtomicU64>,
    line: Vec<u8>,
    number: u64,
    columns: HashMap<String, Column>,
    unknown: Unknown,
}

impl Ndjson {
    pub(super) fn new(text: Box<dyn BufRead>, count: Arc<AtomicU64>) -> Self {
        Self { text, count, line: vec![], number: 0, columns: HashMap::new(), unknown: Unknown::default() }
    }

    /// Reads a line that is not blank.
    fn read(&mut self) -> Result<bool, String> {
        loop {
            self.line.clear();
            self.number += 1;
            let most = LONGEST_LINE as u64 + 1;
            let read = self.text.by_ref().take(most).read_until(b'\n', &mut self.line);
            if read.map_err(|e| format!("line {}: {e}", self.number))? == 0 {
                return Ok(false);
            }
            if self.line.len() > LONGEST_LINE {
                return Err(format!("line {}: it is longer than {} MiB", self.number, LONGEST_LINE >> 20));
            }
            if !self.line.trim_ascii().is_empty() {
                return Ok(true);
            }
        }
    }
}

impl Reader for Ndjson {
    fn next(&mut self, plan: &Plan, batch: &mut Batch) -> Result<bool, String> {
        if !self.read()? {
            return Ok(false);
        }
        let Self { line, number, columns, unknown, .. } = self;
        let place = |e: String| format!("line {number}: {e}");
        let text = std::str::from_utf8(line).map_err(|_| place("it is not UTF-8 text".into()))?;
        batch.begin(*number);
        let mut failure = None;
        let mut json = serde_json::Deserializer::from_str(text);
        let put = |name: String, value: &RawValue| {
            if !columns.contains_key(&name) {
                if columns.len() >= KNOWN {
                    columns.clear();
                }
                columns.insert(name.clone(), plan.column(&name));
            }
            let column = &columns[&name];
            if column.is_unknown() {
                unknown.add(&name);
            }
            batch.put(column, Cell::Json(value.get())).map_err(|e| failure = Some(e))
        };
        let read = json.deserialize_any(Object(put)).and_then(|()| json.end());
        match (failure, read) {
            (Some(failure), _) => Err(place(failure)),
            (None, Err(e)) => Err(place(format!("it is no JSON object: {e}"))),
            (None, Ok(())) => batch.end(plan).map(|()| true).map_err(place),
        }
    }

    fn unknown(&self) -> &Unknown {
        &self.unknown
    }

    fn names_series(&self) -> bool {
        true
    }

    fn done(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

/// Hands each key and its value, as they stand there, to a function.
struct Object<F>(F);

impl<'de, F: FnMut(String, &RawValue) -> Result<(), ()>> Visitor<'de> for Object<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of features")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some((key, value)) = map.next_entry::<String, &RawValue>()? {
            // What is wrong was kept by the function.
            (self.0)(key, value).map_err(|()| serde::de::Error::custom(""))?;
        }
        Ok(())
    }
}
