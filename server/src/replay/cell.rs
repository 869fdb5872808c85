//! A value of a file, whatever the format: as a feature, a name, a time, a measurement or a yes or no.

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::model::tensor::DType;
use crate::text::shown;

/// The first second of the year 5138: what is later was meant as milliseconds.
const LATEST: f64 = 1e11;
/// What pandas and NumPy write for a missing number.
const MISSING: [&str; 6] = ["", "nan", "NaN", "NA", "null", "None"];

/// A value of a file.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cell<'a> {
    /// There is none.
    Missing,
    /// JSON as it stands in the file.
    Json(&'a str),
    /// Text that may stand for a number, as in CSV.
    Written(&'a str),
    /// Text.
    Text(&'a str),
    /// A number.
    Float(f64),
    /// A number of single precision: its shortest text is shorter.
    Single(f32),
    /// A whole number.
    Whole(i128),
    /// Yes or no.
    Bool(bool),
    /// Seconds of Unix time.
    Time(f64),
}

impl Cell<'_> {
    pub(super) fn is_missing(self, dtype: DType) -> bool {
        match self {
            Self::Missing => true,
            Self::Float(value) => value.is_nan(),
            Self::Single(value) => value.is_nan(),
            Self::Written(text) if dtype == DType::Text => text.trim().is_empty(),
            Self::Written(text) => MISSING.contains(&text.trim()),
            _ => false,
        }
    }

    /// Writes it as JSON for an input of a type.
    pub(super) fn write(self, dtype: DType, json: &mut Vec<u8>) -> Result<(), String> {
        let written = match self {
            Self::Json(text) => {
                json.extend_from_slice(text.as_bytes());
                return Ok(());
            }
            Self::Written(text) if dtype == DType::Text => serde_json::to_writer(json, text),
            Self::Written(text) => return written(text.trim(), dtype, json),
            Self::Text(text) => serde_json::to_writer(json, text),
            Self::Float(value) | Self::Time(value) if value.is_finite() => serde_json::to_writer(json, &value),
            Self::Single(value) if value.is_finite() => serde_json::to_writer(json, &value),
            Self::Float(_) | Self::Time(_) | Self::Single(_) => {
                return Err("is infinite: a finite number is taken".into());
            }
            Self::Whole(value) => serde_json::to_writer(json, &value),
            // What takes numbers takes yes and no as one and zero, as tables write them.
            Self::Bool(value) if dtype == DType::Bool => serde_json::to_writer(json, &value),
            Self::Bool(value) => serde_json::to_writer(json, &u8::from(value)),
            Self::Missing => serde_json::to_writer(json, &Value::Null),
        };
        written.map_err(|e| format!("cannot be read: {e}"))
    }

    pub(super) fn text(&self) -> Result<Option<String>, String> {
        Ok(match *self {
            Self::Missing => None,
            Self::Written(text) | Self::Text(text) => Some(text.to_owned()).filter(|text| !text.trim().is_empty()),
            Self::Whole(value) => Some(value.to_string()),
            Self::Json(text) => match parsed(text)? {
                Value::Null => None,
                Value::String(text) => Some(text).filter(|text| !text.is_empty()),
                Value::Number(number) => Some(number.to_string()),
                _ => return Err(format!("is {}: a name is taken", shown(text))),
            },
            Self::Float(_) | Self::Single(_) | Self::Bool(_) | Self::Time(_) => {
                return Err("is no text: a name is taken".into());
            }
        })
    }

    #[expect(clippy::cast_precision_loss, reason = "measurements are far below 2^53")]
    pub(super) fn number(&self) -> Result<Option<f64>, String> {
        let wrong = |text: &str| format!("is {:?}: a number is taken", shown(text));
        let value = match *self {
            Self::Missing => return Ok(None),
            Self::Float(value) | Self::Time(value) => value,
            Self::Single(value) => f64::from(value),
            Self::Whole(value) => value as f64,
            Self::Bool(value) => return Err(wrong(if value { "true" } else { "false" })),
            Self::Written(text) if MISSING.contains(&text.trim()) => return Ok(None),
            Self::Written(text) | Self::Text(text) => text.trim().parse().map_err(|_| wrong(text))?,
            Self::Json(text) => match parsed(text)? {
                Value::Null => return Ok(None),
                Value::Number(number) => number.as_f64().ok_or_else(|| wrong(text))?,
                _ => return Err(wrong(text)),
            },
        };
        if value.is_infinite() {
            Err("is infinite: a finite number is taken".into())
        } else {
            Ok(Some(value).filter(|value| !value.is_nan()))
        }
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is within the range")]
    pub(super) fn seconds(&self) -> Result<Option<u64>, String> {
        let stamp = match *self {
            Self::Text(text) | Self::Written(text) => Some(text.trim().to_owned()),
            Self::Json(text) if text.starts_with('"') => self.text()?,
            _ => None,
        };
        let is_stamp = |stamp: &String| !MISSING.contains(&stamp.as_str()) && stamp.parse::<f64>().is_err();
        let value = match stamp.filter(is_stamp) {
            Some(stamp) => {
                let time = OffsetDateTime::parse(&stamp, &Rfc3339).map_err(|_| {
                    let shown = shown(&stamp);
                    format!("is {shown:?}: seconds of Unix time, or RFC 3339 such as 2026-11-27T09:00:00Z, are taken")
                })?;
                #[expect(clippy::cast_precision_loss, reason = "below 2^53")]
                let seconds = time.unix_timestamp() as f64;
                seconds
            }
            None => match self.number()? {
                Some(value) => value,
                None => return Ok(None),
            },
        };
        match value {
            _ if value < 0.0 => Err(format!("is {value}, before 1970: seconds of Unix time are taken")),
            _ if value >= LATEST => {
                Err(format!("is {value}, far in the future (in milliseconds?): seconds of Unix time are taken"))
            }
            _ => Ok(Some(value as u64)),
        }
    }

    pub(super) fn yes(&self) -> Result<Option<bool>, String> {
        let wrong = |text: &str| format!("is {:?}: true or false, or 1 or 0, is taken", shown(text));
        let known = |text: &str| match text.trim() {
            "1" | "1.0" | "true" | "True" | "TRUE" => Ok(Some(true)),
            "0" | "0.0" | "false" | "False" | "FALSE" => Ok(Some(false)),
            other if MISSING.contains(&other) => Ok(None),
            other => Err(wrong(other)),
        };
        match *self {
            Self::Bool(value) => Ok(Some(value)),
            Self::Json(text) | Self::Written(text) | Self::Text(text) => known(text),
            _ => match self.number()? {
                None => Ok(None),
                Some(value) => known(&value.to_string()),
            },
        }
    }
}

fn parsed(json: &str) -> Result<Value, String> {
    serde_json::from_str(json).map_err(|e| format!("cannot be read: {e}"))
}

/// A cell of CSV as JSON for an input that takes no text.
fn written(text: &str, dtype: DType, json: &mut Vec<u8>) -> Result<(), String> {
    let wrong = || {
        let noun = if dtype == DType::Bool { "true, false, 1 or 0" } else { dtype.noun() };
        format!("is {:?}, the model takes {noun}", shown(text))
    };
    if dtype == DType::Bool {
        let value = Cell::Written(text).yes().ok().flatten().ok_or_else(wrong)?;
        json.extend_from_slice(if value { b"true" } else { b"false" });
        return Ok(());
    }
    if let Ok(whole) = text.parse::<i128>() {
        json.extend_from_slice(whole.to_string().as_bytes());
        return Ok(());
    }
    let value: f64 = text.parse().ok().filter(|value: &f64| value.is_finite()).ok_or_else(wrong)?;
    serde_json::to_writer(json, &value).map_err(|e| format!("cannot be read: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn seconds(cell: Cell<'_>) -> Result<Option<u64>, String> {
        cell.seconds()
    }

    #[test]
    fn times_are_seconds_or_rfc_3339() {
        assert_eq!(seconds(Cell::Written("1661140279")), Ok(Some(1_661_140_279)));
        assert_eq!(seconds(Cell::Json("1661140279.75")), Ok(Some(1_661_140_279)));
        assert_eq!(seconds(Cell::Written("2022-08-22T03:51:19Z")), Ok(Some(1_661_140_279)));
        assert_eq!(seconds(Cell::Json("\"2022-08-22T05:51:19.5+02:00\"")), Ok(Some(1_661_140_279)));
        assert_eq!(seconds(Cell::Json("null")), Ok(None));
        for (cell, told) in [
            (Cell::Written("1661140279000"), "milliseconds"),
            (Cell::Whole(-1), "before 1970"),
            (Cell::Written("2022-08-22 03:51"), "RFC 3339"),
            (Cell::Written("yesterday"), "RFC 3339"),
            (Cell::Bool(true), "a number is taken"),
        ] {
            let error = seconds(cell).expect_err("no time");
            assert!(error.contains(told), "{error}");
        }
    }

    #[test]
    fn truth_is_yes_or_no_or_not_known() {
        for (cell, expected) in [
            (Cell::Written("True"), Some(true)),
            (Cell::Written("0"), Some(false)),
            (Cell::Json("1"), Some(true)),
            (Cell::Json("false"), Some(false)),
            (Cell::Json("null"), None),
            (Cell::Written(""), None),
            (Cell::Whole(1), Some(true)),
            (Cell::Float(0.0), Some(false)),
            (Cell::Float(f64::NAN), None),
        ] {
            assert_eq!(cell.yes(), Ok(expected), "{cell:?}");
        }
        assert!(Cell::Written("2").yes().is_err() && Cell::Json("\"yes\"").yes().is_err());
    }

    #[test]
    fn numbers_keep_their_precision() {
        let mut json = vec![];
        for (cell, dtype, expected) in [
            (Cell::Single(0.1), DType::F32, "0.1"),
            (Cell::Float(0.1), DType::F64, "0.1"),
            (Cell::Written(" 1e-3 "), DType::F32, "0.001"),
            (Cell::Written("9007199254740993"), DType::I64, "9007199254740993"),
            (Cell::Written("007"), DType::Text, "\"007\""),
            (Cell::Bool(true), DType::F32, "1"),
            (Cell::Written("FALSE"), DType::Bool, "false"),
        ] {
            json.clear();
            cell.write(dtype, &mut json).expect("it is taken");
            assert_eq!(String::from_utf8_lossy(&json), expected);
        }
        assert!(Cell::Written("inf").write(DType::F32, &mut json).is_err());
        assert!(Cell::Float(f64::INFINITY).write(DType::F32, &mut json).is_err());
    }
}
