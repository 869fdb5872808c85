//! Pieces of a request's JSON: text, what may be `null`, known keys, parameters.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::Reader;
use crate::codec::DecodeError;
use crate::codec::oip::Parameter;

/// Text, given to a function.
pub(super) struct Text<F>(pub(super) F);

impl<'de, T, F: FnOnce(&str) -> T> DeserializeSeed<'de> for Text<F> {
    type Value = T;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<T, F: FnOnce(&str) -> T> Visitor<'_> for Text<F> {
    type Value = T;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }
    fn visit_str<E: Error>(self, v: &str) -> Result<T, E> {
        Ok((self.0)(v))
    }
}

/// A value that may be `null`, which is as good as none: some clients send it for what they leave out.
pub(super) struct OrNull<V>(pub(super) V);

impl<'de, V: Visitor<'de, Value = ()>> DeserializeSeed<'de> for OrNull<V> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de, V: Visitor<'de, Value = ()>> Visitor<'de> for OrNull<V> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(f)
    }
    fn visit_none<E: Error>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self.0)
    }
}

/// The keys of an object that this protocol knows, with which of them were there.
pub(super) struct Keys {
    known: &'static [&'static str],
    seen: u32,
}

impl Keys {
    pub(super) const fn new(known: &'static [&'static str]) -> Self {
        Self { known, seen: 0 }
    }

    /// The next key; an empty one stands for those that are not known. `None` at the end.
    pub(super) fn next<'de, A: MapAccess<'de>>(
        &mut self,
        reader: &mut Reader,
        map: &mut A,
    ) -> Result<Option<&'static str>, A::Error> {
        reader.place.key = "";
        let known = self.known;
        let Some(found) = map.next_key_seed(Text(|key: &str| known.iter().position(|k| *k == key)))? else {
            return Ok(None);
        };
        let Some(at) = found else { return Ok(Some("")) };
        reader.place.key = known[at];
        if self.seen & 1 << at != 0 {
            return Err(reader.fail_here("is given twice"));
        }
        self.seen |= 1 << at;
        Ok(Some(known[at]))
    }
}

/// An object of parameters, each given to a function.
pub(super) struct Parameters<'a, F> {
    pub(super) reader: &'a mut Reader,
    pub(super) take: F,
}

impl<'de, F> Visitor<'de> for Parameters<'_, F>
where
    F: FnMut(&mut Reader, &str, Parameter<'_>) -> Result<(), DecodeError>,
{
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of parameters")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Parameters { reader, mut take } = self;
        let mut seen: HashSet<String> = HashSet::new();
        while let Some(name) = map.next_key_seed(Text(str::to_owned))? {
            let taken = map.next_value_seed(Value(|value: Parameter<'_>| take(reader, &name, value)))?;
            taken.map_err(|error| reader.fail(error))?;
            if !seen.insert(name) {
                return Err(reader.fail_here("names one twice"));
            }
        }
        Ok(())
    }
}

/// The value of a parameter, given to a function.
struct Value<F>(F);

/// What became of a parameter.
type Taken = Result<(), DecodeError>;

impl<'de, F: FnOnce(Parameter<'_>) -> Taken> DeserializeSeed<'de> for Value<F> {
    type Value = Taken;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Taken, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, F: FnOnce(Parameter<'_>) -> Taken> Visitor<'de> for Value<F> {
    type Value = Taken;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }
    fn visit_bool<E: Error>(self, v: bool) -> Result<Taken, E> {
        Ok((self.0)(Parameter::Bool(v)))
    }
    fn visit_i64<E: Error>(self, v: i64) -> Result<Taken, E> {
        Ok((self.0)(Parameter::Int(v)))
    }
    fn visit_u64<E: Error>(self, v: u64) -> Result<Taken, E> {
        Ok((self.0)(i64::try_from(v).map_or(Parameter::Uint(v), Parameter::Int)))
    }
    fn visit_f64<E: Error>(self, v: f64) -> Result<Taken, E> {
        Ok((self.0)(Parameter::Float(v)))
    }
    fn visit_str<E: Error>(self, v: &str) -> Result<Taken, E> {
        Ok((self.0)(Parameter::Text(v)))
    }
    /// As good as none.
    fn visit_unit<E: Error>(self) -> Result<Taken, E> {
        Ok(Ok(()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Taken, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok((self.0)(Parameter::Other("an array")))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Taken, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok((self.0)(Parameter::Other("an object")))
    }
}
