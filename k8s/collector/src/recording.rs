//! Recorded data: a CSV or Parquet file as points, one for each time in it, in the order of the file. Errors name file and line.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use csv_core::{ReadRecordResult, Reader};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row, reader::RowIter};

use crate::fleet::Point;

/// The columns that a file must have. `anomaly`, which is true where there was a fault, may be there too; others are ignored.
pub const COLUMNS: [&str; 5] = ["series", "ts", "cpu_percent", "memory_percent", "disk_io"];
const LABEL: &str = "anomaly";
/// Rows of one time.
const MOST_ROWS: usize = 1_000_000;
/// No time in seconds is later: it would be milliseconds.
const LATEST: f64 = 1e11;
/// One line of CSV.
const MOST_LINE: usize = 1 << 20;

/// One row of a file.
struct Recorded {
    series: Arc<str>,
    time: i64,
    values: [f64; 3],
    fault: bool,
}

enum Rows {
    Csv(Box<Csv>),
    Parquet(Box<RowIter<'static>>),
}

/// A file that is read row by row.
pub struct Recording {
    path: PathBuf,
    rows: Rows,
    /// Rows, or lines, that were read.
    place: u64,
    /// The first row of the next point.
    next: Option<Recorded>,
    last: Option<i64>,
    /// Bytes, or rows, of the file.
    size: u64,
}

impl Recording {
    /// Opens a file: Parquet where its name ends so, else CSV with a header.
    ///
    /// # Errors
    /// When it cannot be read or has not all columns, in words.
    pub fn open(path: &Path) -> Result<Self, String> {
        let named = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
        let file = File::open(path).map_err(|e| named(&e))?;
        let mut size = file.metadata().map_err(|e| named(&e))?.len();
        let rows = if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("parquet")) {
            let reader = SerializedFileReader::new(file).map_err(|e| named(&e))?;
            let schema = reader.metadata().file_metadata().schema_descr();
            let names: Vec<&str> = schema.columns().iter().map(|column| column.name()).collect();
            columns(&names).map_err(|e| named(&e))?;
            size = reader.metadata().file_metadata().num_rows().unsigned_abs();
            Rows::Parquet(Box::new(RowIter::from_file_into(Box::new(reader))))
        } else {
            Rows::Csv(Box::new(Csv::open(file).map_err(|e| named(&e))?))
        };
        let mut recording = Self { path: path.into(), rows, place: 0, next: None, last: None, size };
        recording.next = recording.row()?;
        Ok(recording)
    }

    /// The rows of the next time; none at the end of the file.
    ///
    /// # Errors
    /// Names the line (of CSV) or row (of Parquet) that is wrong.
    pub fn point(&mut self) -> Result<Option<Point>, String> {
        let Some(first) = self.next.take() else { return Ok(None) };
        if let Some(last) = self.last.filter(|last| first.time < *last) {
            return Err(self.wrong(&format!("ts {} is before {last}: sort the file by ts", first.time)));
        }
        self.last = Some(first.time);
        let mut point = Point { time: first.time, ..Point::default() };
        let mut names = HashSet::new();
        let mut row = Some(first);
        while let Some(Recorded { series, time, values, fault }) = row {
            if time != point.time {
                self.next = Some(Recorded { series, time, values, fault });
                break;
            }
            if !names.insert(Arc::clone(&series)) {
                return Err(self.wrong(&format!("{series} has a second row at ts {time}: leave one out")));
            }
            if names.len() > MOST_ROWS {
                return Err(self.wrong(&format!("more than {MOST_ROWS} rows have the ts {time}")));
            }
            if fault {
                point.faults.push(Arc::clone(&series));
            }
            point.samples.push((series, values));
            row = self.row()?;
        }
        point.samples.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        point.faults.sort_unstable();
        Ok(Some(point))
    }

    /// How much was read, and of how much: bytes of CSV, rows of Parquet.
    #[must_use]
    pub fn progress(&self) -> (u64, u64) {
        let read = if let Rows::Csv(csv) = &self.rows { csv.read } else { self.place };
        (read, self.size)
    }

    fn wrong(&self, message: &str) -> String {
        let unit = if matches!(self.rows, Rows::Csv(_)) { "line" } else { "row" };
        format!("{}: {unit} {}: {message}", self.path.display(), self.place)
    }

    fn row(&mut self) -> Result<Option<Recorded>, String> {
        let row = match &mut self.rows {
            Rows::Csv(csv) => {
                let row = csv.row();
                self.place = csv.line;
                row
            }
            Rows::Parquet(rows) => rows.next().map_or(Ok(None), |row| {
                self.place += 1;
                row.map_err(|e| e.to_string()).and_then(|row| of_parquet(&row)).map(Some)
            }),
        };
        row.map_err(|message| self.wrong(&message))
    }
}

/// Where the columns are, and the label's column.
fn columns(names: &[&str]) -> Result<([usize; 5], Option<usize>), String> {
    let place = |wanted: &str| names.iter().position(|name| name.trim() == wanted);
    let mut places = [0; 5];
    for (at, name) in places.iter_mut().zip(COLUMNS) {
        *at = place(name).ok_or_else(|| format!("no column {name}: it needs {}", COLUMNS.join(", ")))?;
    }
    Ok((places, place(LABEL)))
}

fn checked(series: &str, ts: f64, values: [f64; 3], fault: bool) -> Result<Recorded, String> {
    if series.is_empty() {
        return Err("series is empty".into());
    }
    if !(0.0..LATEST).contains(&ts) || ts.fract() != 0.0 {
        return Err(format!("ts is {ts}: write whole seconds of Unix time"));
    }
    if !values[0].is_finite() {
        return Err("cpu_percent is empty or not finite: leave such rows out".into());
    }
    #[expect(clippy::cast_possible_truncation, reason = "it is a whole number in the range")]
    Ok(Recorded { series: series.into(), time: ts as i64, values, fault })
}

/// A CSV file with a header.
struct Csv {
    input: BufReader<File>,
    reader: Reader,
    fields: Vec<u8>,
    ends: Vec<usize>,
    places: [usize; 5],
    label: Option<usize>,
    /// Of the record that was read last, counted from 1.
    line: u64,
    /// Bytes that were read.
    read: u64,
}

impl Csv {
    fn open(file: File) -> Result<Self, String> {
        let mut csv = Self {
            input: BufReader::with_capacity(1 << 16, file),
            reader: Reader::new(),
            fields: vec![0; 1 << 12],
            ends: vec![0; 64],
            places: [0; 5],
            label: None,
            line: 1,
            read: 0,
        };
        let count = csv.record()?.ok_or("it is empty")?;
        let names: Vec<String> = (0..count).map(|i| csv.field(i).map(str::to_owned)).collect::<Result<_, _>>()?;
        let names: Vec<&str> = names.iter().map(|name| name.trim_start_matches('\u{feff}')).collect();
        (csv.places, csv.label) = columns(&names)?;
        Ok(csv)
    }

    fn row(&mut self) -> Result<Option<Recorded>, String> {
        let Some(count) = self.record()? else { return Ok(None) };
        let most = self.places.into_iter().chain(self.label).max().unwrap_or_default();
        if count <= most {
            return Err(format!("it has {count} fields, the header has more"));
        }
        let [series, ts, channels @ ..] = self.places;
        let mut values = [f64::NAN; 3];
        for (value, (place, name)) in values.iter_mut().zip(channels.into_iter().zip(&COLUMNS[2..])) {
            *value = number(self.field(place)?, name)?;
        }
        let fault = self.label.map(|place| self.field(place)).transpose()?;
        let fault = matches!(fault.map(str::to_ascii_lowercase).as_deref(), Some("true" | "1"));
        let ts = number(self.field(ts)?, "ts")?;
        checked(self.field(series)?, ts, values, fault).map(Some)
    }

    fn field(&self, i: usize) -> Result<&str, String> {
        let begin = if i == 0 { 0 } else { self.ends[i - 1] };
        let text = std::str::from_utf8(&self.fields[begin..self.ends[i]]);
        text.map(str::trim).map_err(|_| "it is not UTF-8".into())
    }

    /// Reads a record: the number of its fields, none at the end of the file.
    fn record(&mut self) -> Result<Option<usize>, String> {
        let (mut written, mut ended) = (0, 0);
        loop {
            let input = self.input.fill_buf().map_err(|e| e.to_string())?;
            let (result, read, wrote, ends) =
                self.reader.read_record(input, &mut self.fields[written..], &mut self.ends[ended..]);
            self.input.consume(read);
            self.read += read as u64;
            written += wrote;
            ended += ends;
            match result {
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull if written < MOST_LINE => self.fields.resize(self.fields.len() * 2, 0),
                ReadRecordResult::OutputEndsFull if ended < MOST_LINE => self.ends.resize(self.ends.len() * 2, 0),
                ReadRecordResult::OutputFull | ReadRecordResult::OutputEndsFull => {
                    return Err("it is longer than 1 MiB: is there a quote without an end?".into());
                }
                ReadRecordResult::Record => {
                    // The reader stands behind the line's end.
                    self.line = self.reader.line().saturating_sub(1).max(1);
                    return Ok(Some(ended));
                }
                ReadRecordResult::End => return Ok(None),
            }
        }
    }
}

/// A number; NaN where the field is empty.
fn number(text: &str, name: &str) -> Result<f64, String> {
    if text.is_empty() {
        return Ok(f64::NAN);
    }
    text.parse().map_err(|_| format!("{name} is {text:?}: write a number"))
}

fn of_parquet(row: &Row) -> Result<Recorded, String> {
    let (mut series, mut ts, mut values, mut fault) = (None, f64::NAN, [f64::NAN; 3], false);
    for (name, field) in row.get_column_iter() {
        match COLUMNS.iter().position(|column| column == name) {
            Some(0) => match field {
                Field::Str(text) => series = Some(text.as_str()),
                _ => return Err("series is no text".into()),
            },
            Some(1) => ts = seconds(field)?,
            Some(channel) => values[channel - 2] = real(field, name)?,
            None => fault |= name == LABEL && matches!(field, Field::Bool(true)),
        }
    }
    checked(series.unwrap_or_default(), ts, values, fault)
}

#[expect(clippy::cast_precision_loss, reason = "seconds are far below what float64 holds exactly")]
fn seconds(field: &Field) -> Result<f64, String> {
    match field {
        Field::Long(seconds) => Ok(*seconds as f64),
        Field::Int(seconds) => Ok(f64::from(*seconds)),
        Field::TimestampMillis(time) => Ok(time.div_euclid(1_000) as f64),
        Field::TimestampMicros(time) => Ok(time.div_euclid(1_000_000) as f64),
        _ => Err("ts is no whole number: write seconds of Unix time".into()),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a measurement")]
fn real(field: &Field, name: &str) -> Result<f64, String> {
    match field {
        Field::Null => Ok(f64::NAN),
        Field::Double(value) => Ok(*value),
        Field::Float(value) => Ok(f64::from(*value)),
        Field::Long(value) => Ok(*value as f64),
        Field::Int(value) => Ok(f64::from(*value)),
        _ => Err(format!("{name} is no number")),
    }
}
