//! CSV with a header row, read record by record.

use std::io::BufRead;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use csv_core::ReadRecordResult;

use super::cell::Cell;
use super::input::{LONGEST_LINE, Reader, Unknown};
use super::rows::{Batch, Column, Plan};

pub(super) struct Csv {
    text: Box<dyn BufRead>,
    count: Arc<AtomicU64>,
    core: csv_core::Reader,
    /// Ends of blank lines, which are not records.
    blank: u64,
    /// The present record's cells behind one another.
    cells: Vec<u8>,
    /// Where in it each of them ends.
    ends: Vec<usize>,
    columns: Vec<Column>,
    unknown: Unknown,
    names_series: bool,
}

impl Csv {
    /// Reads the header.
    ///
    /// # Errors
    /// One sentence that begins with the line.
    pub(super) fn open(mut text: Box<dyn BufRead>, count: Arc<AtomicU64>, plan: &Plan) -> Result<Self, String> {
        let failed = |e: std::io::Error| format!("line 1: {e}");
        if text.fill_buf().map_err(failed)?.starts_with(b"\xef\xbb\xbf") {
            text.consume(3);
        }
        let core = csv_core::Reader::new();
        let (cells, ends) = (vec![0; 1 << 10], vec![0; 64]);
        let mut csv = Self {
            text,
            count,
            core,
            blank: 0,
            cells,
            ends,
            columns: vec![],
            unknown: Unknown::default(),
            names_series: false,
        };
        let Some((line, count)) = csv.read()? else {
            return Err("line 1: it is empty: the first line names the columns".into());
        };
        let names = (0..count).map(|i| csv.cell(i, line).map(|name| name.trim().to_owned()));
        let names = names.collect::<Result<Vec<_>, _>>()?;
        plan.check(&names).map_err(|e| format!("line {line}: {e}"))?;
        csv.names_series = plan.names_series(&names);
        csv.columns = names.iter().map(|name| plan.column(name)).collect();
        for (name, _) in names.iter().zip(&csv.columns).filter(|(_, column)| column.is_unknown()) {
            csv.unknown.add(name);
        }
        Ok(csv)
    }

    /// Reads a record: the line where it begins, and how many cells it has.
    fn read(&mut self) -> Result<Option<(u64, usize)>, String> {
        let place = |line: u64, what: &dyn std::fmt::Display| format!("line {line}: {what}");
        loop {
            let line = self.core.line() + self.blank;
            let ahead = self.text.fill_buf().map_err(|e| place(line, &e))?;
            let blank = ahead.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            if blank == 0 {
                break;
            }
            self.blank += ahead[..blank].iter().filter(|byte| **byte == b'\n').count() as u64;
            self.text.consume(blank);
        }
        let line = self.core.line() + self.blank;
        let (mut written, mut count) = (0, 0);
        loop {
            let ahead = self.text.fill_buf().map_err(|e| place(line, &e))?;
            let (result, read, wrote, ended) =
                self.core.read_record(ahead, &mut self.cells[written..], &mut self.ends[count..]);
            self.text.consume(read);
            written += wrote;
            count += ended;
            match result {
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull if written >= LONGEST_LINE => {
                    let what = format!("it is longer than {} MiB: is a quote not closed?", LONGEST_LINE >> 20);
                    return Err(place(line, &what));
                }
                ReadRecordResult::OutputFull => self.cells.resize(2 * self.cells.len(), 0),
                ReadRecordResult::OutputEndsFull => self.ends.resize(2 * self.ends.len(), 0),
                ReadRecordResult::Record => return Ok(Some((line, count))),
                ReadRecordResult::End => return Ok(None),
            }
        }
    }

    fn cell(&self, index: usize, line: u64) -> Result<&str, String> {
        let begin = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        let cell = &self.cells[begin..self.ends[index]];
        std::str::from_utf8(cell).map_err(|_| format!("line {line}: cell {} is not UTF-8 text", index + 1))
    }
}

impl Reader for Csv {
    fn next(&mut self, plan: &Plan, batch: &mut Batch) -> Result<bool, String> {
        let Some((line, count)) = self.read()? else { return Ok(false) };
        let header = self.columns.len();
        if count != header {
            return Err(format!("line {line}: it has {count} cells, the header {header}"));
        }
        batch.begin(line);
        for (index, column) in self.columns.iter().enumerate() {
            if !column.is_unknown() {
                let cell = Cell::Written(self.cell(index, line)?);
                batch.put(column, cell).map_err(|e| format!("line {line}: {e}"))?;
            }
        }
        batch.end(plan).map(|()| true).map_err(|e| format!("line {line}: {e}"))
    }

    fn unknown(&self) -> &Unknown {
        &self.unknown
    }

    fn names_series(&self) -> bool {
        self.names_series
    }

    fn done(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}
