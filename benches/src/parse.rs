//! The least that reading a request's JSON costs: serde_json straight into one flat buffer of numbers.

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// Reads an object of features, or `{"instances": [..]}` of such, into `values`, in the order of `names`; what is not
/// given is NaN. Gives the number of rows.
pub fn rows(body: &[u8], names: &[String], values: &mut Vec<f32>) -> serde_json::Result<usize> {
    values.clear();
    let mut json = serde_json::Deserializer::from_slice(body);
    json.deserialize_map(Body { names, values })?;
    json.end()?;
    Ok(values.len() / names.len().max(1))
}

struct Body<'a> {
    names: &'a [String],
    values: &'a mut Vec<f32>,
}

impl<'de> Visitor<'de> for Body<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of features, or of instances")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { names, values } = self;
        let mut row = Row { names, values };
        match map.next_key::<&str>()? {
            None => Err(A::Error::custom("an object without features")),
            Some("instances") => map.next_value_seed(Instances { names: row.names, values: row.values }),
            Some(first) => row.read(first, map),
        }
    }
}

struct Instances<'a> {
    names: &'a [String],
    values: &'a mut Vec<f32>,
}

impl<'de> DeserializeSeed<'de> for Instances<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Instances<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of objects of features")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut rows: A) -> Result<(), A::Error> {
        while rows.next_element_seed(Row { names: self.names, values: &mut *self.values })?.is_some() {}
        Ok(())
    }
}

struct Row<'a> {
    names: &'a [String],
    values: &'a mut Vec<f32>,
}

impl Row<'_> {
    /// Reads the values of a row whose first key was read already.
    fn read<'de, A: MapAccess<'de>>(&mut self, first: &'de str, mut map: A) -> Result<(), A::Error> {
        let start = self.values.len();
        self.values.resize(start + self.names.len(), f32::NAN);
        let (mut key, mut expected) = (Some(first), 0);
        while let Some(name) = key {
            // Rows mostly name their features in order.
            let is_next = self.names.get(expected).is_some_and(|next| next == name);
            let place = if is_next { Some(expected) } else { self.names.iter().position(|known| known == name) };
            let place = place.ok_or_else(|| A::Error::custom(format_args!("{name} is no feature")))?;
            self.values[start + place] = map.next_value::<Option<f32>>()?.unwrap_or(f32::NAN);
            expected = place + 1;
            key = map.next_key()?;
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Row<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Row<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of features")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        let first = map.next_key::<&str>()?.ok_or_else(|| A::Error::custom("an object without features"))?;
        self.read(first, map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<(usize, Vec<f32>), String> {
        let names = ["a".to_owned(), "b".to_owned()];
        let mut values = vec![9.0];
        let rows = rows(body.as_bytes(), &names, &mut values).map_err(|error| error.to_string())?;
        Ok((rows, values))
    }

    #[test]
    fn rows_come_in_the_order_of_the_names() {
        assert_eq!(read(r#"{"a": 1, "b": 2.5}"#), Ok((1, vec![1.0, 2.5])));
        let two = read(r#"{"instances": [{"b": 1, "a": 2}, {"a": 3, "b": -4e1}]}"#);
        assert_eq!(two, Ok((2, vec![2.0, 1.0, 3.0, -40.0])));
        let (rows, values) = read(r#"{"b": null}"#).expect("it is a row");
        assert!(rows == 1 && values.len() == 2 && values.iter().all(|value| value.is_nan()));
    }

    #[test]
    fn what_is_no_row_is_an_error() {
        for body in ["{}", r#"{"c": 1}"#, r#"{"a": "x"}"#, r#"{"instances": [1]}"#, r#"{"a": 1} x"#, "[]"] {
            assert!(read(body).is_err(), "{body}");
        }
    }
}
