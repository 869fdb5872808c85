//! CSV with a header row into the rows of the input tensors. Cells are read as the type of their column's input; an empty
//! one is missing.

use std::borrow::Cow;

use csv_core::ReadRecordResult;
use serde::de::value::Error;
use serde::de::{Error as _, IntoDeserializer};

use super::decode::{Place, Rows};
use super::envelope::Layout;
use super::table::{most_columns, order, renamed};
use super::{DecodeError, Request, refuse};
use crate::model::signature::Signature;
use crate::model::tensor::DType;
use crate::text::shown;

/// What pandas and NumPy write for a missing number.
const MISSING: [&str; 6] = ["", "nan", "NaN", "NA", "null", "None"];

/// Its cell holds all that follows.
const OPEN: &str = "a quote is not closed";

/// Decodes a body of at most `max_rows` rows.
///
/// # Errors
/// [`DecodeError::Features`] for the first line that does not fit.
pub fn body(signature: &Signature, csv: &[u8], max_rows: usize) -> Result<Request<Layout>, DecodeError> {
    let csv = csv.strip_prefix(b"\xef\xbb\xbf").unwrap_or(csv);
    let mut records = Records::new(csv, most_columns(signature));
    let names = match records.next() {
        None => vec![],
        Some(line) => {
            let names = records.cells(line).map(|name| Ok(name?.trim().to_owned()));
            names.collect::<Result<Vec<_>, DecodeError>>()?
        }
    };
    if records.open {
        return Err(refuse("line 1", format!("line 1: {OPEN}")));
    }
    if names.is_empty() {
        let message = "the body is empty: send a line of names, then one line a row".into();
        return Err(DecodeError::Features { field: String::new(), message });
    }
    if names.first().is_some_and(String::is_empty) {
        let message = "line 1: the first column has no name: leave the index out, as to_csv(index=False) does".into();
        return Err(DecodeError::Features { field: "line 1".into(), message });
    }
    let renamed = renamed(signature, &names);
    let renamed = renamed.map_err(|message| DecodeError::Features { field: "line 1".into(), message })?;
    let signature = renamed.as_ref().unwrap_or(signature);
    let order = order(signature, &names, |position| format!("line 1, column {}", position + 1))?;
    let mut rows = Rows::new(signature, max_rows);
    rows.place = Place::Line(1);
    records.most = order.len();
    while let Some(line) = records.next() {
        // A failure is kept in the rows, and the error itself says nothing.
        if row(&mut rows, &order, &records, line).is_err() {
            return Err(rows.failure.take().unwrap_or_else(|| rows.error(None, "the line cannot be read".into())));
        }
    }
    rows.finish(Layout::Table)
}

/// The records of a body, one after the other.
struct Records<'b> {
    core: csv_core::Reader,
    rest: &'b [u8],
    /// Cells of a record that are of use; of those beyond, one is kept.
    most: usize,
    /// The present record's cells behind one another.
    text: Vec<u8>,
    /// Where in it each of them ends.
    ends: Vec<usize>,
    /// How many they are.
    count: usize,
    /// Whether the end of the last line was read, which a body may leave out.
    ended: bool,
    /// Whether the body ends within quotes.
    open: bool,
}

impl<'b> Records<'b> {
    fn new(csv: &'b [u8], most: usize) -> Self {
        Self {
            core: csv_core::Reader::new(),
            rest: csv,
            most,
            text: vec![],
            ends: vec![],
            count: 0,
            ended: false,
            open: false,
        }
    }

    /// Reads the next one; gives the line where it begins.
    fn next(&mut self) -> Option<u64> {
        let blank = self.rest.iter().take_while(|byte| matches!(byte, b'\r' | b'\n'));
        let line = self.core.line() + blank.filter(|byte| **byte == b'\n').count() as u64;
        let mut written = 0;
        self.count = 0;
        loop {
            let (text, ends) = (&mut self.text[written..], &mut self.ends[self.count..]);
            let end = self.rest.is_empty() && !self.ended;
            let input = if end { b"\n" } else { self.rest };
            let (result, read, wrote, ended) = self.core.read_record(input, text, ends);
            if end {
                self.ended = read > 0;
                // Within quotes, the end of a line is text.
                self.open = wrote > 0;
            } else {
                self.rest = &self.rest[read..];
            }
            written += wrote;
            self.count += ended;
            match result {
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull => self.text.resize(2 * self.text.len().max(128), 0),
                // The rest of it is not read: it is refused.
                ReadRecordResult::OutputEndsFull if self.count > self.most => return Some(line),
                ReadRecordResult::OutputEndsFull => {
                    self.ends.resize((2 * self.ends.len()).max(8).min(self.most + 1), 0);
                }
                ReadRecordResult::Record => return Some(line),
                ReadRecordResult::End => return None,
            }
        }
    }

    fn cells(&self, line: u64) -> impl Iterator<Item = Result<&str, DecodeError>> {
        let begins = std::iter::once(0).chain(self.ends.iter().copied());
        let cells = begins.zip(&self.ends[..self.count]).map(|(begin, end)| &self.text[begin..*end]);
        cells.map(move |cell| {
            let field = format!("line {line}");
            std::str::from_utf8(cell).map_err(|_| refuse(&field, format!("{field} is not UTF-8 text")))
        })
    }
}

fn row(rows: &mut Rows<'_>, order: &[usize], records: &Records<'_>, line: u64) -> Result<(), Error> {
    rows.place = Place::Line(line);
    rows.begin_row::<Error>()?;
    if records.open {
        return Err(rows.fail(None, OPEN));
    }
    if records.count != order.len() {
        let more = if records.count > order.len() { "more than " } else { "" };
        let cells = records.count.min(order.len());
        return Err(rows.fail(None, format!("the line has {more}{cells} cells, the header {}", order.len())));
    }
    for (key, cell) in order.iter().zip(records.cells(line)) {
        match cell {
            Ok(cell) => value(rows, *key, cell)?,
            Err(error) => {
                rows.failure = Some(error);
                return Err(Error::custom(""));
            }
        }
    }
    rows.end_row()
}

fn value(rows: &mut Rows<'_>, key: usize, cell: &str) -> Result<(), Error> {
    let dtype = rows.dtype(key);
    let text = cell.trim();
    let is_missing = if dtype == DType::Text { text.is_empty() } else { MISSING.contains(&text) };
    if is_missing {
        return rows.set(key, ().into_deserializer());
    }
    match dtype {
        DType::Text => rows.set(key, cell.into_deserializer()),
        DType::Bool => match text {
            "1" => rows.set(key, true.into_deserializer()),
            "0" => rows.set(key, false.into_deserializer()),
            _ if text.eq_ignore_ascii_case("true") => rows.set(key, true.into_deserializer()),
            _ if text.eq_ignore_ascii_case("false") => rows.set(key, false.into_deserializer()),
            _ => Err(no_value(rows, key, text, dtype)),
        },
        _ if dtype.is_float() => number(rows, key, text, dtype),
        _ => match (text.parse::<i64>(), text.parse::<u64>()) {
            (Ok(whole), _) => rows.set(key, whole.into_deserializer()),
            (_, Ok(whole)) => rows.set(key, whole.into_deserializer()),
            _ => number(rows, key, text, dtype),
        },
    }
}

fn number(rows: &mut Rows<'_>, key: usize, text: &str, dtype: DType) -> Result<(), Error> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => rows.set(key, number.into_deserializer()),
        _ => Err(no_value(rows, key, text, dtype)),
    }
}

fn no_value(rows: &mut Rows<'_>, key: usize, text: &str, dtype: DType) -> Error {
    let shown = shown(text);
    let name = &*rows.signature.keys()[key].0;
    let noun = if dtype == DType::Bool { Cow::from("true, false, 1 or 0") } else { Cow::from(dtype.noun()) };
    rows.fail(Some(name), format!("{name} is {shown:?}, the model takes {noun}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::signature::{GraphIo, Port};
    use crate::model::tensor::Tensor;

    fn decode(csv: &str, dtype: DType) -> Result<Vec<Tensor>, String> {
        let port = |name: &str, dtype| Port { name: name.into(), tensor: Ok((dtype, vec![-1])) };
        let graph = GraphIo {
            inputs: vec![port("a", dtype), port("b", DType::Text)],
            outputs: vec![port("y", dtype)],
            ..GraphIo::default()
        };
        let signature = Signature::new(&graph, None).expect("a signature");
        body(&signature, csv.as_bytes(), 10).map(|request| request.inputs).map_err(|error| error.to_string())
    }

    fn first(csv: &str, dtype: DType) -> Result<Vec<f64>, String> {
        decode(csv, dtype).map(|inputs| inputs[0].numbers().expect("numbers"))
    }

    #[test]
    fn cells_are_read_as_the_type_of_their_column() {
        assert_eq!(first("a,b\n 1.5 ,x\n-2e1,y\n", DType::F32), Ok(vec![1.5, -20.0]));
        assert_eq!(first("b,a\r\nx,3\r\n\"y\",\"4.0\"", DType::I32), Ok(vec![3.0, 4.0]));
        assert_eq!(first("a,b\n18446744073709551615,x", DType::U64), Ok(vec![18_446_744_073_709_551_615.0]));
        assert_eq!(first("a,b\nTrue,x\nfalse,x\n1,x\n0,x", DType::Bool), Ok(vec![1.0, 0.0, 1.0, 0.0]));
        let text = decode("a,b\n1,\"two\n lines, \"\"quoted\"\"\"\n2, as it is \n", DType::F64).expect("text");
        let Tensor::Text(text) = &text[1] else { panic!("{text:?}") };
        assert_eq!(text.as_slice().expect("text"), ["two\n lines, \"quoted\"", " as it is "]);
    }

    /// Its cell would hold the lines behind it, and their rows would be lost.
    #[test]
    fn a_quote_that_is_not_closed_is_refused() {
        for csv in ["a,b\n1,\"x\n2,y\n", "a,b\n1,\"x", "a,b\n1,x\n2,\"\"\"", "a,\"b\n1,x"] {
            let refused = decode(csv, DType::F32).expect_err("refused");
            assert!(refused.contains("a quote is not closed"), "{csv:?}: {refused}");
        }
        for csv in ["a,b\n1,\"x\"", "a,b\n1,\"x\"\r\n", "a,b\n1,x\" \n", "a,b\r\n1,\"\"\"\"\r\n\r\n"] {
            assert_eq!(first(csv, DType::F32), Ok(vec![1.0]), "{csv:?}");
        }
    }

    #[test]
    fn no_more_cells_are_kept_than_are_of_use() {
        let wide = format!("a,b{}\n1,x\n", ",c".repeat(1 << 20));
        let mut records = Records::new(wide.as_bytes(), 2);
        assert_eq!((records.next(), records.count, records.ends.len()), (Some(1), 3, 3));
        assert!(records.text.len() < 1024);
        assert_eq!(
            first(&wide, DType::F32).expect_err("too wide"),
            "line 1, column 3: \"c\" is not a feature of this model: the model takes a, b"
        );
        let wide = format!("a,b\n1,x{}\n", ",c".repeat(1 << 20));
        assert_eq!(
            first(&wide, DType::F32).expect_err("too wide"),
            "line 2: the line has more than 2 cells, the header 2"
        );
    }

    #[test]
    fn lines_are_counted_whatever_ends_them() {
        for end in ["\n", "\r\n", "\n\n", "\r\n\r\n"] {
            let error = first(&format!("a,b{end}1,x{end}no,x{end}"), DType::F32).expect_err("no number");
            let line = 1 + 2 * end.matches('\n').count();
            assert!(error.starts_with(&format!("line {line}: a is \"no\"")), "{end:?} {error}");
        }
        // Two halves of a letter make one only when they stand in one cell.
        let port = |name: &str| Port { name: name.into(), tensor: Ok((DType::Text, vec![-1])) };
        let graph = GraphIo { inputs: vec![port("a"), port("b")], outputs: vec![port("y")], ..GraphIo::default() };
        let signature = Signature::new(&graph, None).expect("a signature");
        let error = body(&signature, b"a,b\n\xc3,\xa9\n", 10).expect_err("no text");
        assert_eq!(error.to_string(), "line 2 is not UTF-8 text");
    }

    #[test]
    fn a_line_that_does_not_fit_is_named() {
        for (csv, dtype, words) in [
            ("a,b\n1.5,x", DType::I64, "line 2: a is the number 1.5, the model takes a whole number"),
            ("a,b\n300,x", DType::U8, "line 2: a is 300, which does not fit uint8"),
            ("a,b\nyes,x", DType::Bool, "line 2: a is \"yes\", the model takes true, false, 1 or 0"),
            ("a,b\n1,\"x\ny\"\n,x", DType::F32, "line 4: a is missing"),
            ("a,b\n1,", DType::F32, "line 2: b is missing"),
            ("a,b\n1,x,2", DType::F32, "line 2: the line has more than 2 cells, the header 2"),
            ("a,b,c\n1,x,2", DType::F32, "line 1, column 3: \"c\" is not a feature"),
            ("a,a\n1,1", DType::F32, "line 1, column 2: a is there twice"),
            ("a\n1", DType::F32, "line 2: b is missing"),
            ("a;b\n1;x", DType::F32, "\"a;b\" is not a feature"),
            ("a,b\n1e39,x", DType::F32, "not finite as float32"),
        ] {
            let error = first(csv, dtype).expect_err(csv);
            assert!(error.contains(words), "{csv}: {error}");
        }
        let port = Port { name: "a".into(), tensor: Ok((DType::F32, vec![-1])) };
        let graph = GraphIo { inputs: vec![port.clone()], outputs: vec![port], ..GraphIo::default() };
        let signature = Signature::new(&graph, None).expect("a signature");
        let error = body(&signature, b"a\n1\n\xff\n", 10).expect_err("no text");
        assert_eq!(error.to_string(), "line 3 is not UTF-8 text");
    }
}
