//! What a row says of itself beside its features: of what it is, of when, and what became of the forecast that was for now.
//! None of it reaches a model; the evidence for a challenger is counted by it.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, Visitor};

use super::decode::Rows;
use crate::model::signature::Signature;
use crate::verdict::state::hash;

/// The key of a row's series.
pub const SERIES: &str = "series";
/// The key of a row's time.
pub const TIME: &str = "ts";
/// A series' name is short.
pub const SERIES_BYTES: usize = 256;
/// A time beyond this, in the year 5138, was meant as milliseconds.
pub const LATEST: f64 = 1e11;

/// What a row says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Mark {
    /// [`hash`] of the name of what was measured, such as a pod; 0 for none.
    pub series: u64,
    /// When, in seconds of Unix time; the arrival of the request when `None`.
    pub at: Option<u64>,
    /// What the forecast is of, as measured now.
    pub actual: Option<f64>,
}

/// A key that is not the model's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MarkKey {
    Series,
    Time,
    Actual,
}

impl MarkKey {
    /// What a key is that the model does not have.
    pub(super) fn of(signature: &Signature, key: &str) -> Option<Self> {
        match key {
            SERIES => Some(Self::Series),
            TIME => Some(Self::Time),
            _ => (signature.target() == Some(key)).then_some(Self::Actual),
        }
    }

    fn name(self, signature: &Signature) -> &str {
        match self {
            Self::Series => SERIES,
            Self::Time => TIME,
            Self::Actual => signature.target().unwrap_or_default(),
        }
    }
}

/// The value under such a key; null is as if it were not there.
pub(super) struct MarkValue<'a, 's> {
    pub(super) rows: &'a mut Rows<'s>,
    pub(super) key: MarkKey,
}

impl MarkValue<'_, '_> {
    fn refuse<E: Error>(self, what: &str) -> E {
        let name = self.key.name(self.rows.signature);
        let takes = match self.key {
            MarkKey::Series => "a string is taken, the name of what was measured",
            MarkKey::Time => "a number is taken, the seconds of Unix time when it was measured",
            MarkKey::Actual => "a number is taken, what was measured of what the forecast is of",
        };
        self.rows.fail(Some(name), format!("{name} is {what}: {takes}"))
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is within the range")]
    fn number<E: Error>(self, value: f64) -> Result<(), E> {
        match self.key {
            MarkKey::Series => Err(self.refuse("a number")),
            MarkKey::Time if (0.0..LATEST).contains(&value) => {
                self.rows.mark().at = Some(value as u64);
                Ok(())
            }
            MarkKey::Time if value >= LATEST => Err(self.refuse("far in the future (in milliseconds?)")),
            MarkKey::Time => Err(self.refuse("before 1970")),
            MarkKey::Actual => {
                self.rows.mark().actual = Some(value);
                Ok(())
            }
        }
    }
}

impl<'de> DeserializeSeed<'de> for MarkValue<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for MarkValue<'_, '_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or a number")
    }
    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Err(self.refuse("a boolean"))
    }
    #[expect(clippy::cast_precision_loss, reason = "times and measurements are far below 2^53")]
    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.number(value as f64)
    }
    #[expect(clippy::cast_precision_loss, reason = "as above")]
    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.number(value as f64)
    }
    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.number(value)
    }
    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        match self.key {
            MarkKey::Series if value.is_empty() => Err(self.refuse("empty")),
            MarkKey::Series if value.len() > SERIES_BYTES => {
                Err(self.refuse(&format!("longer than {SERIES_BYTES} bytes")))
            }
            MarkKey::Series => {
                self.rows.mark().series = hash(value.as_bytes());
                Ok(())
            }
            _ => Err(self.refuse("a string")),
        }
    }
    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        Err(self.refuse("an array"))
    }
    fn visit_map<A: serde::de::MapAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        Err(self.refuse("an object"))
    }
}
