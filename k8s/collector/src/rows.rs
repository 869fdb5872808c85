//! Feature rows as Parquet: what was measured, its features, and what was answered, as training reads it back
//! (`training/src/training/data/rows.py` has the schema). Bounded: what cannot be written in time is counted as lost.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parquet::basic::{Compression, ZstdLevel};
use parquet::column::writer::ColumnWriter;
use parquet::data_type::ByteArray;
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use time::OffsetDateTime;
use tokio::sync::Notify;

use crate::baseline::FEATURES;
use crate::changes::Changes;
use crate::fleet::Row;
use crate::metrics;
use crate::server::Answer;
use crate::store::Store;

/// A file has no more rows; so many are written at once.
const FILE_ROWS: usize = 100_000;
/// Tries of one file, with a pause between them that doubles, before the next turn.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_millis(500);
/// Between two turns while files cannot be written; less where rows are written more often.
const AGAIN: Duration = Duration::from_secs(30);

/// The columns, in this order. `anomaly` is true where a fault is known, and else null: nobody knows that there was none.
const SCHEMA: &str = "message rows {
    REQUIRED BYTE_ARRAY series (STRING);
    REQUIRED INT64 ts;
    REQUIRED DOUBLE cpu_percent;
    OPTIONAL DOUBLE memory_percent;
    OPTIONAL DOUBLE disk_io;
    OPTIONAL FLOAT cpu_zscore;
    OPTIONAL FLOAT memory_zscore;
    OPTIONAL FLOAT disk_io_zscore;
    OPTIONAL FLOAT cpu_baseline;
    OPTIONAL FLOAT cpu_scale;
    OPTIONAL BOOLEAN anomaly;
    OPTIONAL FLOAT score;
    OPTIONAL FLOAT forecast;
    OPTIONAL BYTE_ARRAY version (STRING);
}";

/// A row to be written.
#[derive(Clone, Debug)]
pub struct Stored {
    /// What was measured, and its features.
    pub row: Row,
    /// Whether something was done to the series then.
    pub fault: bool,
    /// What was answered.
    pub answer: Option<Answer>,
    /// By which version.
    pub version: Option<Arc<str>>,
}

/// Rows that wait, and where they go.
pub struct Rows {
    waiting: Mutex<VecDeque<Stored>>,
    most: usize,
    every: Duration,
    store: Store,
    full: Notify,
    /// One writes at a time.
    writing: tokio::sync::Mutex<(Changes, u64)>,
}

impl Rows {
    /// Writes to `store` every so often; at most `most` rows wait.
    #[must_use]
    pub fn new(store: Store, every: Duration, most: usize) -> Self {
        let writing = tokio::sync::Mutex::default();
        Self { waiting: Mutex::default(), most, every, store, full: Notify::new(), writing }
    }

    /// Takes the rows of one time; times do not go back.
    pub fn push(&self, rows: impl Iterator<Item = Stored>) {
        let mut waiting = self.lock();
        waiting.extend(rows);
        let beyond = waiting.len().saturating_sub(self.most);
        waiting.drain(..beyond);
        let full = waiting.len() >= FILE_ROWS.min(self.most);
        drop(waiting);
        metrics::rows("lost", beyond);
        if full {
            self.full.notify_one();
        }
    }

    /// Writes for ever.
    pub async fn write(&self) {
        let mut written = true;
        loop {
            if written {
                let _ = tokio::time::timeout(self.every, self.full.notified()).await;
            } else {
                tokio::time::sleep(AGAIN.min(self.every)).await;
            }
            written = self.flush().await;
        }
    }

    /// Writes what waits, within a bound of time; what could not be written then is lost.
    pub async fn finish(&self, bound: Duration) {
        // Rows of a file that is being written when the time is over are not known to be there.
        let all = self.lock().len();
        let written = tokio::time::timeout(bound, self.flush()).await;
        if written != Ok(true) {
            let left = if written.is_err() { all } else { self.lock().len() };
            metrics::rows("lost", left);
            tracing::error!(rows = left, "rows were not written before the end: they are lost");
        }
    }

    /// Writes what waits now. False when something could not be written: it waits on.
    async fn flush(&self) -> bool {
        let mut writing = self.writing.lock().await;
        let (changes, number) = &mut *writing;
        loop {
            let file = take_file(&mut self.lock());
            let Some(first) = file.first() else { break };
            let name = name(first.row.sample.time, *number);
            *number += 1;
            let count = file.len();
            let encoded = tokio::task::spawn_blocking(move || (encode(&file).map(bytes::Bytes::from), file)).await;
            let (encoded, file) = encoded.expect("it does not panic");
            let result = match encoded {
                Ok(bytes) => self.put(&name, &bytes).await,
                Err(error) => Err(error.to_string()),
            };
            match result {
                Ok(()) => {
                    metrics::rows("written", count);
                    changes.fine("rows");
                }
                Err(message) => {
                    changes.fault("rows", &format!("{message}: rows wait for the next try"));
                    let mut waiting = self.lock();
                    for row in file.into_iter().rev() {
                        waiting.push_front(row);
                    }
                    let beyond = waiting.len().saturating_sub(self.most);
                    waiting.drain(..beyond);
                    metrics::rows("lost", beyond);
                    return false;
                }
            }
        }
        true
    }

    async fn put(&self, name: &str, bytes: &bytes::Bytes) -> Result<(), String> {
        let mut tried = 1;
        loop {
            match self.store.put(name, bytes.clone()).await {
                Ok(()) => return Ok(()),
                Err(message) if tried == TRIES => return Err(message),
                Err(_) => tokio::time::sleep(PAUSE * (1 << tried)).await,
            }
            tried += 1;
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Stored>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first rows that belong into one file: those of one date.
fn take_file(waiting: &mut VecDeque<Stored>) -> Vec<Stored> {
    let Some(first) = waiting.front() else { return Vec::new() };
    let date = first.row.sample.time.div_euclid(86_400);
    let same = |stored: &&Stored| stored.row.sample.time.div_euclid(86_400) == date;
    let count = waiting.iter().take(FILE_ROWS).take_while(same).count();
    waiting.drain(..count).collect()
}

/// `date=YYYY-MM-DD/<time>-<what no other file has>.parquet`, both of the first row, in UTC.
fn name(time: i64, number: u64) -> String {
    let at = OffsetDateTime::from_unix_timestamp(time).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (date, hour, minute, second) = (at.date(), at.hour(), at.minute(), at.second());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let process = std::process::id();
    format!("date={date}/{hour:02}{minute:02}{second:02}-{now:x}-{process:x}-{number:x}.parquet")
}

fn encode(rows: &[Stored]) -> Result<Vec<u8>, ParquetError> {
    let schema = Arc::new(parse_message_type(SCHEMA)?);
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties))?;
    let mut group = writer.next_row_group()?;
    let mut index = 0;
    while let Some(mut column) = group.next_column()? {
        match column.untyped() {
            ColumnWriter::ByteArrayColumnWriter(column) => {
                let text = |stored: &Stored| match index {
                    0 => Some(ByteArray::from(stored.row.series.as_bytes().to_vec())),
                    _ => stored.version.as_ref().map(|version| ByteArray::from(version.as_bytes().to_vec())),
                };
                let (values, levels) = present(rows, text);
                column.write_batch(&values, (index > 0).then_some(&levels), None)?;
            }
            ColumnWriter::Int64ColumnWriter(column) => {
                let times: Vec<i64> = rows.iter().map(|stored| stored.row.sample.time).collect();
                column.write_batch(&times, None, None)?;
            }
            ColumnWriter::DoubleColumnWriter(column) => {
                let channel = index - 2;
                let value = |stored: &Stored| Some(stored.row.sample.values[channel]).filter(|value| value.is_finite());
                let (values, levels) = present(rows, value);
                column.write_batch(&values, (channel > 0).then_some(&levels), None)?;
            }
            ColumnWriter::FloatColumnWriter(column) => {
                let (values, levels) = present(rows, |stored| number(stored, index));
                column.write_batch(&values, Some(&levels), None)?;
            }
            ColumnWriter::BoolColumnWriter(column) => {
                let (values, levels) = present(rows, |stored| stored.fault.then_some(true));
                column.write_batch(&values, Some(&levels), None)?;
            }
            _ => unreachable!("the schema has no other type"),
        }
        column.close()?;
        index += 1;
    }
    group.close()?;
    writer.into_inner()
}

/// A feature, the score or the forecast, by the number of its column.
#[expect(clippy::cast_possible_truncation, reason = "the server computes in float32")]
fn number(stored: &Stored, column: usize) -> Option<f32> {
    let answer = stored.answer;
    let number = match column - 5 {
        feature if feature < FEATURES.len() => Some(stored.row.features[feature]),
        6 => answer.and_then(|answer| answer.score).map(|score| score as f32),
        _ => answer.and_then(|answer| answer.forecast).map(|forecast| forecast as f32),
    };
    number.filter(|number| number.is_finite())
}

/// The values that are there, and for each row whether its is (1) or not (0).
fn present<T>(rows: &[Stored], value: impl Fn(&Stored) -> Option<T>) -> (Vec<T>, Vec<i16>) {
    let mut values = Vec::with_capacity(rows.len());
    let levels = rows.iter().map(|stored| match value(stored) {
        Some(value) => {
            values.push(value);
            1
        }
        None => 0,
    });
    let levels = levels.collect();
    (values, levels)
}
