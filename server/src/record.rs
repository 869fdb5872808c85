//! Recording requests: a sampled, bounded file of rows, as `onnxd replay` and `POST /predict` take them.
//!
//! What is written are the model's features, the time, the actual value of what the forecast is of, and, in the place of the
//! series' name, its hash: no names, no answers. Recording never fails whoever calls it: what cannot be written is counted, and
//! told once.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use crate::codec::encode;
use crate::codec::marks::{SERIES, TIME};
use crate::model::signature::Signature;
use crate::model::tensor::Tensor;
use crate::verdict::state::mix;

/// Bytes after which a file makes way for a new one.
pub const MOST_BYTES: u64 = 64 << 20;
/// How long after an error the file is opened again.
const RETRY: Duration = Duration::from_secs(60);
/// Rows of a series that are recorded or left out together, in seconds: a forecast can be judged only where the rows that follow
/// it are there too.
const STRETCH: u64 = 3600;
/// Whoever may read the requests is the one who recorded them.
const MODE: u32 = 0o600;

/// What is recorded, and where.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// The file; each model's has the model's name before its extension.
    pub file: PathBuf,
    /// Share of the rows, 0 to 1.
    pub sample: f64,
}

impl Options {
    /// The file of a model: `requests.ndjson` becomes `requests.anomaly.ndjson`.
    #[must_use]
    pub fn file_of(&self, model: &str) -> PathBuf {
        let part = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
        let (stem, extension) = (part(self.file.file_stem()), part(self.file.extension()));
        let extension = if extension.is_empty() { extension } else { format!(".{extension}") };
        self.file.with_file_name(format!("{stem}.{model}{extension}"))
    }
}

/// What a row says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Told {
    /// Hash of the series' name; 0 for none.
    pub series: u64,
    /// When, in seconds of Unix time.
    pub at: u64,
    /// What the forecast is of, as measured then.
    pub actual: Option<f64>,
}

/// A file that rows are recorded in.
#[derive(Debug)]
pub struct Recording {
    path: PathBuf,
    sample: f64,
    most_bytes: u64,
    file: Option<File>,
    /// Of the present file.
    bytes: u64,
    /// Rows without a series that were offered.
    offered: u64,
    /// Rows that were written.
    pub written: u64,
    /// Rows that could not be written.
    pub failed: u64,
    failed_at: Option<Instant>,
    line: Vec<u8>,
}

impl Recording {
    /// Opens the file to write at its end. `sample` is the share of the rows that are written, from 0 to 1; a file of
    /// `most_bytes` is renamed to `FILE.1`, in the place of the one before.
    ///
    /// # Errors
    /// One sentence when the file cannot be written.
    pub fn open(path: &Path, sample: f64, most_bytes: u64) -> Result<Self, String> {
        let mut recording = Self {
            path: path.into(),
            sample,
            most_bytes,
            file: None,
            bytes: 0,
            offered: 0,
            written: 0,
            failed: 0,
            failed_at: None,
            line: vec![],
        };
        recording.reopen().map_err(|e| format!("record: {}: {e}", path.display()))?;
        Ok(recording)
    }

    /// Writes rows of a model, those of them that are sampled; `told` says of each what it is.
    pub fn write(&mut self, signature: &Signature, inputs: &[Tensor], told: impl IntoIterator<Item = Told>) {
        let mut rows = 0;
        self.line.clear();
        for (row, told) in told.into_iter().enumerate() {
            if self.takes(told) {
                encode(signature, inputs, row, told, &mut self.line);
                rows += 1;
            }
        }
        if rows == 0 {
            return;
        }
        match self.put() {
            Ok(()) => self.written += rows,
            Err(None) => self.failed += rows,
            Err(Some(error)) => {
                if self.failed == 0 {
                    let file = self.path.display();
                    tracing::warn!(%file, %error, "requests cannot be recorded: what is lost is counted");
                }
                self.failed += rows;
                self.file = None;
                self.failed_at = Some(Instant::now());
            }
        }
    }

    /// Whether a row is in the sample. A series is recorded for whole hours, the same ones on every server.
    fn takes(&mut self, told: Told) -> bool {
        let drawn = if told.series == 0 {
            self.offered += 1;
            mix(self.offered)
        } else {
            mix(told.series ^ mix(told.at / STRETCH))
        };
        #[expect(clippy::cast_precision_loss, reason = "a share")]
        let drawn = (drawn >> 11) as f64 / (1_u64 << 53) as f64;
        drawn < self.sample
    }

    /// Writes what was encoded; `None` while it is not tried again after an error.
    fn put(&mut self) -> Result<(), Option<std::io::Error>> {
        if self.file.is_none() {
            if self.failed_at.is_some_and(|at| at.elapsed() < RETRY) {
                return Err(None);
            }
            self.reopen()?;
        }
        if self.bytes > 0 && self.bytes + self.line.len() as u64 > self.most_bytes {
            self.rotate()?;
        }
        let Some(file) = &mut self.file else { return Err(None) };
        if let Err(error) = file.write_all(&self.line) {
            // What was begun is no line.
            file.set_len(self.bytes)?;
            return Err(Some(error));
        }
        self.bytes += self.line.len() as u64;
        Ok(())
    }

    fn reopen(&mut self) -> std::io::Result<()> {
        // Without NONBLOCK, opening a FIFO would wait for a reader.
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let file =
            OpenOptions::new().create(true).read(true).append(true).mode(MODE).custom_flags(flags).open(&self.path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(std::io::Error::other("it is not a regular file"));
        }
        self.bytes = whole_lines(&file, metadata.len())?;
        if self.bytes < metadata.len() {
            // Whoever wrote it was killed amid a line.
            file.set_len(self.bytes)?;
        }
        self.file = Some(file);
        self.failed_at = None;
        Ok(())
    }

    fn rotate(&mut self) -> std::io::Result<()> {
        let mut before = self.path.clone().into_os_string();
        before.push(".1");
        std::fs::rename(&self.path, before)?;
        self.reopen()
    }
}

/// Bytes of a file up to the end of its last whole line.
fn whole_lines(file: &File, bytes: u64) -> std::io::Result<u64> {
    let mut end = bytes;
    let mut part = [0; 4096];
    while end > 0 {
        let start = end.saturating_sub(part.len() as u64);
        let part = &mut part[..usize::try_from(end - start).expect("a part")];
        file.read_exact_at(part, start)?;
        if let Some(at) = part.iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

/// Appends a row as a line of JSON; what is missing in it, a NaN, is left out.
fn encode(signature: &Signature, inputs: &[Tensor], row: usize, told: Told, line: &mut Vec<u8>) {
    let mut object = serde_json::Map::new();
    if told.series != 0 {
        object.insert(SERIES.into(), format!("{:016x}", told.series).into());
    }
    object.insert(TIME.into(), told.at.into());
    let row: Vec<Tensor> = inputs.iter().map(|tensor| tensor.slice_rows(row..row + 1)).collect();
    let features = encode::request(signature, &row);
    object.extend(features.into_iter().filter(|(_, value)| !value.is_null()));
    if let (Some(target), Some(actual)) = (signature.target(), told.actual.filter(|actual| actual.is_finite())) {
        object.entry(target.to_owned()).or_insert_with(|| actual.into());
    }
    if serde_json::to_writer(&mut *line, &object).is_ok() {
        line.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::decode;
    use crate::model::manifest::{Role, Semantics};
    use crate::model::signature::{GraphIo, Port};
    use crate::model::tensor::DType;

    /// A model with a column that may be missing, text, and a row of values.
    fn signature() -> Signature {
        let port = |name: &str, dtype, shape: &[i64]| Port { name: name.into(), tensor: Ok((dtype, shape.to_vec())) };
        let inputs = vec![
            port("cpu", DType::F32, &[-1, 1]),
            port("region", DType::Text, &[-1]),
            port("window", DType::F64, &[-1, 3]),
            port("on", DType::Bool, &[-1]),
        ];
        let graph = GraphIo { inputs, outputs: vec![port("forecast", DType::F32, &[-1])], ..GraphIo::default() };
        let mut signature = Signature::new(&graph, None).expect("a signature");
        let semantics = serde_json::json!({"role": Role::Forecast, "target_feature": "cpu_percent"});
        signature.outputs[0].semantics = Some(serde_json::from_value::<Semantics>(semantics).expect("a meaning"));
        signature
    }

    fn rows(signature: &Signature, json: &str) -> Vec<Tensor> {
        decode::body(signature, json.as_bytes(), 100).expect("rows").inputs
    }

    const ROWS: &str = r#"[{"cpu":0.1,"region":"a\"b","window":[1,2.5,3],"on":true},{"cpu":2,"region":"","window":[4,5,6],"on":false}]"#;

    #[test]
    fn what_is_recorded_is_taken_again_as_it_was() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let path = folder.path().join("requests.ndjson");
        let signature = signature();
        let inputs = rows(&signature, ROWS);
        let mut recording = Recording::open(&path, 1.0, MOST_BYTES).expect("it can be written");
        let told = [Told { series: 255, at: 7, actual: Some(1.5) }, Told { series: 0, at: 8, actual: None }];
        recording.write(&signature, &inputs, told);
        let text = std::fs::read_to_string(&path).expect("text");
        let lines: Vec<&str> = text.lines().collect();
        let expected = r#"{"series":"00000000000000ff","ts":7,"cpu":0.1,"region":"a\"b","window":[1.0,2.5,3.0],"on":true,"cpu_percent":1.5}"#;
        assert_eq!(lines[0], expected);
        assert_eq!((lines.len(), recording.written, recording.failed), (2, 2, 0));
        let again = rows(&signature, &format!("[{}]", lines.join(",")));
        assert_eq!(again, inputs);
    }

    #[test]
    fn a_missing_number_is_left_out() {
        let mut line = vec![];
        let inputs = [
            Tensor::filled(DType::F32, &[1, 1], |_| f64::NAN).expect("a tensor"),
            Tensor::texts(&[1], |_| "x".into()).expect("a tensor"),
        ];
        encode(&signature(), &inputs, 0, Told { at: 1, ..Told::default() }, &mut line);
        let line = String::from_utf8(line).expect("text");
        assert!(!line.contains("\"cpu\""), "{line}");
    }

    #[test]
    fn a_full_file_makes_way_for_a_new_one() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let path = folder.path().join("requests.ndjson");
        let signature = signature();
        let inputs = rows(&signature, ROWS);
        let mut recording = Recording::open(&path, 1.0, 1000).expect("it can be written");
        for at in 0..100 {
            recording.write(&signature, &inputs, (0..2).map(|_| Told { series: 1, at, actual: None }));
        }
        let size = |name: &str| std::fs::metadata(folder.path().join(name)).expect("a file").len();
        assert!(size("requests.ndjson") <= 1000 && size("requests.ndjson.1") <= 1000);
        assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 2);
        assert_eq!((recording.written, recording.failed), (200, 0));
        // A server that starts again goes on in the same file.
        let before = size("requests.ndjson");
        let mut recording = Recording::open(&path, 1.0, MOST_BYTES).expect("it can be written");
        recording.write(&signature, &inputs, [Told::default()]);
        assert!(size("requests.ndjson") > before);
    }

    /// A server that was killed amid a line leaves a file that others can read, after the next start.
    #[test]
    fn what_was_begun_is_no_line() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let path = folder.path().join("requests.ndjson");
        let signature = signature();
        let inputs = rows(&signature, ROWS);
        for (torn, whole) in [("{\"a\":1}\n{\"a\":".to_owned(), 1), ("x".repeat(10_000), 0), (String::new(), 0)] {
            std::fs::write(&path, torn).expect("written");
            let mut recording = Recording::open(&path, 1.0, MOST_BYTES).expect("it can be written");
            recording.write(&signature, &inputs, [Told::default()]);
            let text = std::fs::read_to_string(&path).expect("text");
            let lines: Vec<serde_json::Value> =
                text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
            assert_eq!(lines.len(), whole + 1, "{text}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_written_is_counted_and_harms_nobody() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let inner = folder.path().join("inner");
        std::fs::create_dir(&inner).expect("a folder");
        let signature = signature();
        let inputs = rows(&signature, ROWS);
        let mut recording = Recording::open(&inner.join("requests.ndjson"), 1.0, 1).expect("it can be written");
        std::fs::remove_dir_all(&inner).expect("gone");
        for at in 0..3 {
            recording.write(&signature, &inputs, (0..2).map(|_| Told { series: 1, at, actual: None }));
        }
        // What was written before the file had to make way went to a file without a name.
        assert_eq!((recording.written, recording.failed), (2, 4));
        assert!(Recording::open(&inner.join("requests.ndjson"), 1.0, 1).is_err());
    }

    /// The rows of a series that are needed to judge its forecasts are recorded together.
    #[test]
    fn a_series_is_recorded_for_whole_hours() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let mut recording = Recording::open(&folder.path().join("a"), 0.1, 1).expect("it can be written");
        let mut hours = 0;
        for series in 1..=20 {
            for hour in 0..100 {
                let mut takes =
                    |minute: u64| recording.takes(Told { series, at: hour * STRETCH + minute * 60, actual: None });
                let first = takes(0);
                assert!((1..60).all(|minute| takes(minute) == first), "{series} {hour}");
                hours += u32::from(first);
            }
        }
        assert!((150..=250).contains(&hours), "{hours} of 2000");
        let taken = (0..10_000).filter(|at| recording.takes(Told { series: 0, at: *at, actual: None })).count();
        assert!((850..=1150).contains(&taken), "{taken} of 10000");
        let mut none = Recording::open(&folder.path().join("a"), 0.0, 1).expect("it can be written");
        assert!(!none.takes(Told::default()));
    }

    #[test]
    fn each_model_has_its_own_file() {
        let options = |file: &str| Options { file: file.into(), sample: 1.0 };
        assert_eq!(options("/a/requests.ndjson").file_of("m"), Path::new("/a/requests.m.ndjson"));
        assert_eq!(options("requests").file_of("m"), Path::new("requests.m"));
    }
}
