//! The files that a replay reads: what they are, how far they are read, and what is wrong with them.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::MultiGzDecoder;

use super::csv::Csv;
use super::ndjson::Ndjson;
use super::parquet::Parquet;
use super::rows::{Batch, Plan};

/// A line or a record that is longer is none.
pub(super) const LONGEST_LINE: usize = 64 << 20;
/// Bytes that are read at a time.
const BUFFER: usize = 256 << 10;
/// Names of unknown columns that are told.
const UNKNOWN: usize = 100;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line.
    Ndjson,
    /// A header row, then one line a row.
    Csv,
    /// Parquet with flat columns.
    Parquet,
}

impl Format {
    /// Its names on the command line.
    pub const NAMES: [&str; 3] = ["ndjson", "csv", "parquet"];

    /// The format of a name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::Ndjson, Self::Csv, Self::Parquet]
            .into_iter()
            .zip(Self::NAMES)
            .find(|(_, of)| *of == name)
            .map(|(f, _)| f)
    }

    /// What the name of a file says; a compressed one and one that was rotated are what they are within.
    fn of(path: &Path) -> Option<Self> {
        let extension = path.extension().and_then(OsStr::to_str)?.to_ascii_lowercase();
        match extension.as_str() {
            "ndjson" | "jsonl" | "json" => Some(Self::Ndjson),
            "csv" => Some(Self::Csv),
            "parquet" | "pq" => Some(Self::Parquet),
            _ if Packed::of(&extension).is_some() || extension.bytes().all(|b| b.is_ascii_digit()) => {
                Self::of(&path.with_extension(""))
            }
            _ => None,
        }
    }

    /// What a row's place is called.
    #[must_use]
    pub const fn place(self) -> &'static str {
        if matches!(self, Self::Parquet) { "row" } else { "line" }
    }
}

/// How a file is compressed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Packed {
    Gzip,
    Zstd,
}

impl Packed {
    fn of(extension: &str) -> Option<Self> {
        match extension {
            "gz" | "gzip" => Some(Self::Gzip),
            "zst" | "zstd" => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// Rows, one after the other.
pub(super) trait Reader {
    /// Reads the next row into a batch; `false` at the end.
    ///
    /// # Errors
    /// One sentence that begins with the place.
    fn next(&mut self, plan: &Plan, batch: &mut Batch) -> Result<bool, String>;

    /// Names of columns that were not used.
    fn unknown(&self) -> &Unknown;

    /// Whether rows can say what they are of.
    fn names_series(&self) -> bool;

    /// How much was read, in bytes of the file.
    fn done(&self) -> u64;
}

/// A file that is open.
pub struct Input {
    /// How it is called in messages.
    pub name: String,
    /// What it is.
    pub format: Format,
    /// Its bytes, where these are known.
    pub bytes: Option<u64>,
    /// Whether its rows say what they are of: each for itself in NDJSON, by a column in a table.
    pub names_series: bool,
    reader: Box<dyn Reader>,
}

impl Input {
    /// Opens a file, or standard input when it is named `-`.
    ///
    /// # Errors
    /// One sentence that names the file.
    pub fn open(path: &Path, format: Option<Format>, plan: &Plan) -> Result<Self, String> {
        if path == Path::new("-") {
            let format = format.unwrap_or(Format::Ndjson);
            let read = Counted::new(std::io::stdin().lock());
            return Self::text("standard input".into(), format, None, read, None, plan);
        }
        let name = path.display().to_string();
        let format = format.or_else(|| Format::of(path)).ok_or_else(|| {
            format!("{name}: its name does not tell what it is: say so with --format ndjson, csv or parquet")
        })?;
        let file = File::open(path).map_err(|e| format!("{name}: {e}: name a file of recorded requests"))?;
        let bytes = file.metadata().map_err(|e| format!("{name}: {e}"))?.len();
        let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default().to_ascii_lowercase();
        let packed = Packed::of(&extension);
        if format != Format::Parquet {
            return Self::text(name, format, Some(bytes), Counted::new(file), packed, plan);
        }
        if packed.is_some() {
            return Err(format!("{name}: Parquet is compressed within: unpack the file"));
        }
        let reader = Parquet::open(file, bytes, plan).map_err(|e| format!("{name}: {e}"))?;
        Ok(Self { names_series: reader.names_series(), reader: Box::new(reader), name, format, bytes: Some(bytes) })
    }

    fn text(
        name: String,
        format: Format,
        bytes: Option<u64>,
        read: Counted<impl Read + 'static>,
        packed: Option<Packed>,
        plan: &Plan,
    ) -> Result<Self, String> {
        let failed = |e: std::io::Error| format!("{name}: {e}");
        let count = Arc::clone(&read.count);
        let raw = BufReader::with_capacity(BUFFER, read);
        let text: Box<dyn BufRead> = match packed {
            None => Box::new(raw),
            Some(Packed::Gzip) => Box::new(BufReader::with_capacity(BUFFER, MultiGzDecoder::new(raw))),
            Some(Packed::Zstd) => {
                let decoder = zstd::stream::read::Decoder::with_buffer(raw).map_err(failed)?;
                Box::new(BufReader::with_capacity(BUFFER, decoder))
            }
        };
        let reader: Box<dyn Reader> = match format {
            Format::Ndjson => Box::new(Ndjson::new(text, count)),
            Format::Csv => Box::new(Csv::open(text, count, plan).map_err(|e| format!("{name} {e}"))?),
            Format::Parquet => return Err(format!("{name}: Parquet needs a file: name it in the place of -")),
        };
        Ok(Self { names_series: reader.names_series(), name, format, bytes, reader })
    }

    /// Reads the next row into a batch; `false` at the end.
    ///
    /// # Errors
    /// One sentence that names the file, the place and the column.
    pub fn next(&mut self, plan: &Plan, batch: &mut Batch) -> Result<bool, String> {
        self.reader.next(plan, batch).map_err(|e| format!("{} {e}", self.name))
    }

    /// Columns that were not used, as far as they were seen.
    #[must_use]
    pub fn unknown(&self) -> Vec<&str> {
        self.reader.unknown().names.iter().map(String::as_str).collect()
    }

    /// How much was read, in bytes of the file.
    #[must_use]
    pub fn done(&self) -> u64 {
        self.reader.done()
    }
}

/// Names that nothing is made of; the first ones are kept.
#[derive(Debug, Default)]
pub(super) struct Unknown {
    names: BTreeSet<String>,
}

impl Unknown {
    pub(super) fn add(&mut self, name: &str) {
        if self.names.len() < UNKNOWN {
            self.names.insert(name.to_owned());
        }
    }
}

/// Counts what is read.
struct Counted<R> {
    read: R,
    count: Arc<AtomicU64>,
}

impl<R> Counted<R> {
    fn new(read: R) -> Self {
        Self { read, count: Arc::default() }
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.read.read(buffer)?;
        self.count.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_what_a_file_is() {
        for (name, expected) in [
            ("a.ndjson", Some(Format::Ndjson)),
            ("a.ndjson.1", Some(Format::Ndjson)),
            ("a.jsonl.zst", Some(Format::Ndjson)),
            ("A.CSV.GZ", Some(Format::Csv)),
            ("a.b.parquet", Some(Format::Parquet)),
            ("a.txt", None),
            ("csv", None),
        ] {
            assert_eq!(Format::of(Path::new(name)), expected, "{name}");
        }
    }
}
