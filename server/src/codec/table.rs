//! Tables as pandas writes them: `{"columns": [..], "data": [[..]]}`, and what the columns of a table stand for.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::decode::{Place, Rows, Sequence, not_an_array};
use super::envelope::Learned;
use super::nested::{Word, Words};
use super::{DecodeError, unknown};
use crate::model::signature::Signature;
use crate::text::shown;

/// Where the rows of a split table stand.
const DATA: &str = "dataframe_split.data";

/// The key of each column.
///
/// # Errors
/// The first column that the model does not take, and where it stands, as `place` writes its position.
pub(super) fn order(
    signature: &Signature,
    names: &[String],
    place: impl Fn(usize) -> String,
) -> Result<Vec<usize>, DecodeError> {
    let mut order = Vec::with_capacity(names.len());
    for (position, name) in names.iter().enumerate() {
        let field = || place(position);
        let Some(key) = signature.find(name, position) else {
            let (_, message) = unknown(signature, name);
            return Err(DecodeError::Features { field: field(), message: format!("{}: {message}", field()) });
        };
        if order.contains(&key) {
            return Err(DecodeError::Features {
                field: field(),
                message: format!("{}: {name} is there twice", field()),
            });
        }
        order.push(key);
    }
    Ok(order)
}

/// More columns than a table has whose model takes any number of them.
const MOST_COLUMNS: usize = 1 << 16;

/// How many columns a table may have.
pub(super) fn most_columns(signature: &Signature) -> usize {
    match signature.inputs.as_slice() {
        [input] if signature.has_nameless_columns() => input.row_shape[0].unwrap_or(MOST_COLUMNS),
        _ => signature.keys().len(),
    }
}

/// The signature with the columns of its only input named as those of a table are, if they have no names.
///
/// # Errors
/// In words, when these columns do not fit. Of more than [`most_columns`] it is enough to give one more.
pub(super) fn renamed(signature: &Signature, names: &[String]) -> Result<Option<Signature>, String> {
    let most = most_columns(signature);
    if names.len() > most && signature.has_nameless_columns() {
        return Err(format!("there are more than {most} columns: the model takes no more"));
    }
    signature.with_columns(names).transpose()
}

/// The value under `dataframe_split`.
pub(super) struct Split<'a, 's> {
    rows: &'a mut Rows<'s>,
    /// What the first pass learned of the columns; `None` in the first pass.
    learned: Option<&'a Option<Vec<String>>>,
    again: &'a mut Option<Learned>,
}

impl<'a, 's> Split<'a, 's> {
    pub(super) const fn new(
        rows: &'a mut Rows<'s>,
        learned: Option<&'a Option<Vec<String>>>,
        again: &'a mut Option<Learned>,
    ) -> Self {
        Self { rows, learned, again }
    }

    fn fail<E: Error>(&mut self, key: &str, message: String) -> E {
        self.rows.failure = Some(DecodeError::Features { field: key.to_owned(), message });
        E::custom("")
    }

    fn no_table<E: Error>(mut self, what: &str) -> E {
        let message = format!("dataframe_split is {what}: send an object with \"columns\" and \"data\"");
        self.fail("dataframe_split", message)
    }

    /// Prepares for rows with these columns, or with none that are named.
    fn begin<E: Error>(&mut self, columns: Option<&Vec<String>>) -> Result<(), E> {
        self.rows.place = Place::Under(DATA);
        let signature = self.rows.signature;
        match columns {
            Some(columns) => {
                let place = |position| format!("dataframe_split.columns[{position}]");
                match order(signature, columns, place) {
                    Ok(order) => self.rows.order = Some(order),
                    Err(error) => {
                        self.rows.failure = Some(error);
                        return Err(E::custom(""));
                    }
                }
            }
            None if signature.inputs.len() > 1 => self.rows.order = Some((0..signature.keys().len()).collect()),
            None => {}
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Split<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Split<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with \"columns\" and \"data\"")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        let mut columns: Option<Vec<String>> = None;
        let (mut has_data, mut skipped) = (false, false);
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "columns" => match map.next_value_seed(Words { most: most_columns(self.rows.signature) })? {
                    Word::Names(names) => columns = Some(names),
                    Word::Nothing => {}
                    _ => {
                        let message = "dataframe_split.columns is not an array of names".into();
                        return Err(self.fail("dataframe_split.columns", message));
                    }
                },
                "index" => drop(map.next_value::<IgnoredAny>()?),
                "data" if has_data => return Err(self.fail(DATA, "\"data\" is there twice".into())),
                "data" => {
                    has_data = true;
                    let known = match (self.learned, &columns) {
                        (Some(learned), _) => learned.as_ref(),
                        (None, Some(names)) if self.rows.signature.with_columns(names).is_some() => {
                            *self.again = Some(Learned { columns: Some(columns), ..Learned::default() });
                            return Err(A::Error::custom(""));
                        }
                        (None, Some(names)) => Some(names),
                        (None, None) => {
                            skipped = true;
                            map.next_value::<IgnoredAny>()?;
                            continue;
                        }
                    };
                    self.begin(known)?;
                    map.next_value_seed(Sequence(&mut *self.rows))?;
                }
                other => {
                    let shown = shown(other);
                    let message = format!("dataframe_split takes \"columns\", \"index\" and \"data\", not {shown:?}");
                    return Err(self.fail(&format!("dataframe_split.{shown}"), message));
                }
            }
        }
        if !has_data {
            return Err(self.fail("dataframe_split", "dataframe_split has no \"data\": send an array of rows".into()));
        }
        if skipped {
            *self.again = Some(Learned { columns: Some(columns), ..Learned::default() });
        }
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        Err(self.no_table("an array"))
    }
    no_scalars!((), Self::no_table);
}

/// Reads the names of the first of an array of records, and ends the pass there: they are the columns.
pub(super) struct FirstNames<'a, 's> {
    pub(super) rows: &'a mut Rows<'s>,
    pub(super) again: &'a mut Option<Learned>,
}

impl<'de> DeserializeSeed<'de> for FirstNames<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for FirstNames<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of records")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        // What else it may be is told by the second pass.
        let most = most_columns(self.rows.signature);
        let names = seq
            .next_element_seed(Words { most })?
            .and_then(|word| if let Word::Keys(names) = word { Some(names) } else { None });
        *self.again = Some(Learned { columns: Some(names), ..Learned::default() });
        Err(A::Error::custom(""))
    }
    fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        Err(not_an_array(Sequence(self.rows), "an object"))
    }
    no_scalars!((), |names: Self, what| not_an_array(Sequence(names.rows), what));
}
