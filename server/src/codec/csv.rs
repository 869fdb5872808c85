//! CSV with a header row into the rows of the input tensors. Cells are read as the type of their column's input; an empty
//! one is missing.

use std::borrow::Cow;

use csv::{ReaderBuilder, StringRecord};
use serde::de::IntoDeserializer;
use serde::de::value::Error;

use super::decode::{Place, Rows};
use super::envelope::Layout;
use super::table::order;
use super::{DecodeError, Request};
use crate::model::signature::Signature;
use crate::model::tensor::DType;

/// What pandas and NumPy write for a missing number.
const MISSING: [&str; 6] = ["", "nan", "NaN", "NA", "null", "None"];

/// Decodes a body of at most `max_rows` rows.
///
/// # Errors
/// [`DecodeError::Features`] for the first line that does not fit.
pub fn body(signature: &Signature, csv: &[u8], max_rows: usize) -> Result<Request<Layout>, DecodeError> {
    let csv = csv.strip_prefix(b"\xef\xbb\xbf").unwrap_or(csv);
    let mut reader = ReaderBuilder::new().flexible(true).from_reader(csv);
    let header = reader.headers().map_err(|error| unreadable(&error))?;
    let names: Vec<String> = header.iter().map(|name| name.trim().to_owned()).collect();
    if names.is_empty() {
        let message = "the body is empty: send a line of names, then one line a row".into();
        return Err(DecodeError::Features { field: String::new(), message });
    }
    if names.first().is_some_and(String::is_empty) {
        let message = "line 1: the first column has no name: leave the index out, as to_csv(index=False) does".into();
        return Err(DecodeError::Features { field: "line 1".into(), message });
    }
    let renamed = signature.with_columns(&names).transpose();
    let renamed = renamed.map_err(|message| DecodeError::Features { field: "line 1".into(), message })?;
    let signature = renamed.as_ref().unwrap_or(signature);
    let order = order(signature, &names, |position| format!("line 1, column {}", position + 1))?;
    let mut rows = Rows::new(signature, max_rows);
    rows.place = Place::Line(1);
    let mut record = StringRecord::new();
    while reader.read_record(&mut record).map_err(|error| unreadable(&error))? {
        let line = record.position().map_or(0, csv::Position::line);
        // A failure is kept in the rows, and the error itself says nothing.
        if row(&mut rows, &order, &record, line).is_err() {
            return Err(rows.failure.take().unwrap_or_else(|| rows.error(None, "the line cannot be read".into())));
        }
    }
    rows.finish(Layout::Table)
}

fn row(rows: &mut Rows<'_>, order: &[usize], record: &StringRecord, line: u64) -> Result<(), Error> {
    rows.place = Place::Line(line);
    rows.begin_row::<Error>()?;
    if record.len() != order.len() {
        let message = format!("the line has {} cells, the header {}", record.len(), order.len());
        return Err(rows.fail(None, message));
    }
    for (key, cell) in order.iter().zip(record) {
        value(rows, *key, cell)?;
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
    let shown: String = text.chars().take(64).collect();
    let name = &*rows.signature.keys()[key].0;
    let noun = if dtype == DType::Bool { Cow::from("true, false, 1 or 0") } else { Cow::from(dtype.noun()) };
    rows.fail(Some(name), format!("{name} is {shown:?}, the model takes {noun}"))
}

fn unreadable(error: &csv::Error) -> DecodeError {
    let line = error.position().map_or(1, csv::Position::line);
    let message = match error.kind() {
        csv::ErrorKind::Utf8 { .. } => format!("line {line} is not UTF-8 text"),
        _ => format!("line {line} cannot be read: {error}"),
    };
    DecodeError::Features { field: format!("line {line}"), message }
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

    #[test]
    fn a_line_that_does_not_fit_is_named() {
        for (csv, dtype, words) in [
            ("a,b\n1.5,x", DType::I64, "line 2: a is the number 1.5, the model takes a whole number"),
            ("a,b\n300,x", DType::U8, "line 2: a is 300, which does not fit uint8"),
            ("a,b\nyes,x", DType::Bool, "line 2: a is \"yes\", the model takes true, false, 1 or 0"),
            ("a,b\n1,\"x\ny\"\n,x", DType::F32, "line 4: a is missing"),
            ("a,b\n1,", DType::F32, "line 2: b is missing"),
            ("a,b\n1,x,2", DType::F32, "line 2: the line has 3 cells, the header 2"),
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
