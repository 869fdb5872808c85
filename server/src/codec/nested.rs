//! A JSON value of any nesting into the flat elements of a tensor: one pass, no intermediate tree.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::model::tensor::{Column, Scalar};

/// The elements read so far. A bare scalar has no dimension.
#[derive(Debug)]
pub struct Nested {
    /// The elements, row-major; where one is `null`, a zero.
    pub values: Column,
    /// Sizes of the arrays, outermost first.
    pub shape: Vec<usize>,
    /// Which elements are `null`.
    pub nulls: Vec<usize>,
    /// What is wrong with them: what stands where, to follow the tensor's name.
    pub failure: Option<String>,
    /// How deep the elements stand; `None` before the first one.
    depth: Option<usize>,
    sizes: Vec<Option<usize>>,
    most: usize,
}

impl Nested {
    /// Takes at most `most` elements, as those of `values`, which is empty.
    #[must_use]
    pub const fn new(values: Column, most: usize) -> Self {
        Self { values, shape: vec![], nulls: vec![], failure: None, depth: None, sizes: vec![], most }
    }

    /// Reads one value.
    ///
    /// # Errors
    /// The deserializer's; [`Nested::failure`] is set when the value is JSON but no tensor.
    pub fn read<'de, D: Deserializer<'de>>(&mut self, deserializer: D) -> Result<(), D::Error> {
        Level { nested: self, depth: 0 }.deserialize(deserializer)?;
        self.shape = self.sizes.iter().map(|size| size.unwrap_or(0)).collect();
        Ok(())
    }

    fn fail<E: Error>(&mut self, what: impl Into<String>) -> E {
        self.failure = Some(what.into());
        E::custom("")
    }

    fn element<E: Error>(&mut self, depth: usize) -> Result<usize, E> {
        if *self.depth.get_or_insert(depth) != depth {
            return Err(self.fail("is ragged: some of its elements stand deeper than others"));
        }
        if self.values.len() == self.most {
            let message = format!("has more than {} elements", self.most);
            return Err(self.fail(message));
        }
        Ok(self.values.grow(1))
    }
}

struct Level<'a> {
    nested: &'a mut Nested,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Level<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Level<'_> {
    fn put<E: Error>(self, scalar: Scalar<'_>) -> Result<(), E> {
        let at = self.nested.element(self.depth)?;
        self.nested.values.set(at, scalar).map_err(|reason| self.nested.fail(reason))
    }
}

impl<'de> Visitor<'de> for Level<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value or arrays of values")
    }
    fn visit_bool<E: Error>(self, v: bool) -> Result<(), E> {
        self.put(Scalar::Bool(v))
    }
    fn visit_i64<E: Error>(self, v: i64) -> Result<(), E> {
        self.put(Scalar::Int(v.into()))
    }
    fn visit_u64<E: Error>(self, v: u64) -> Result<(), E> {
        self.put(Scalar::Int(v.into()))
    }
    fn visit_f64<E: Error>(self, v: f64) -> Result<(), E> {
        self.put(Scalar::Float(v))
    }
    fn visit_str<E: Error>(self, v: &str) -> Result<(), E> {
        self.put(Scalar::Text(v))
    }
    fn visit_unit<E: Error>(self) -> Result<(), E> {
        let at = self.nested.element(self.depth)?;
        self.nested.nulls.push(at);
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Level { nested, depth } = self;
        if nested.depth.is_some_and(|elements| depth >= elements) {
            return Err(nested.fail("is ragged: some of its elements stand deeper than others"));
        }
        if nested.sizes.len() == depth {
            nested.sizes.push(None);
        }
        let mut size = 0;
        while seq.next_element_seed(Level { nested: &mut *nested, depth: depth + 1 })?.is_some() {
            size += 1;
        }
        match nested.sizes[depth] {
            Some(first) if first != size => {
                let message = format!("is ragged: it holds arrays of {first} and of {size} elements");
                Err(nested.fail(message))
            }
            _ => {
                nested.sizes[depth] = Some(size);
                Ok(())
            }
        }
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        match base64(map)? {
            Ok(text) => self.put(Scalar::Text(&text)),
            Err(what) => Err(self.nested.fail(what)),
        }
    }
}

/// What is wrong with an object that is no string.
pub(super) const OBJECT: &str = "holds an object: send numbers, strings or arrays of them";

/// The string of a `{"b64": ".."}`, as TensorFlow Serving writes bytes, or what is wrong with the object.
pub(super) fn base64<'de, A: MapAccess<'de>>(mut map: A) -> Result<Result<String, &'static str>, A::Error> {
    let key: Option<String> = map.next_key()?;
    if key.as_deref() != Some("b64") {
        return Ok(Err(OBJECT));
    }
    base64_value(map)
}

/// The same, when its key was read.
pub(super) fn base64_value<'de, A: MapAccess<'de>>(mut map: A) -> Result<Result<String, &'static str>, A::Error> {
    let value = map.next_value::<Word>()?;
    if map.next_key::<IgnoredAny>()?.is_some() {
        return Ok(Err("holds an object with more than \"b64\""));
    }
    let bytes = match value {
        Word::Text(text) => <base64ct::Base64 as base64ct::Encoding>::decode_vec(&text).ok(),
        _ => None,
    };
    Ok(bytes.and_then(|bytes| String::from_utf8(bytes).ok()).ok_or("holds a \"b64\" that is not UTF-8 text in base64"))
}

/// A small value beside the rows.
#[derive(Debug)]
pub(super) enum Word {
    /// A string.
    Text(String),
    /// A number, as it is written.
    Number(String),
    /// `null` or `{}`.
    Nothing,
    /// An array of strings and numbers, such as names of columns.
    Names(Vec<String>),
    /// An object with these keys.
    Keys(Vec<String>),
    /// Something else, whose content is not of interest.
    Other,
}

impl<'de> Deserialize<'de> for Word {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Words { most: 0 }.deserialize(deserializer)
    }
}

/// Reads a [`Word`] and keeps no more than so many names or keys in it, and one to show that there are more.
pub(super) struct Words {
    pub(super) most: usize,
}

impl<'de> DeserializeSeed<'de> for Words {
    type Value = Word;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Word, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Words {
    type Value = Word;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }
    fn visit_str<E: Error>(self, v: &str) -> Result<Word, E> {
        Ok(Word::Text(v.to_owned()))
    }
    fn visit_bool<E: Error>(self, _: bool) -> Result<Word, E> {
        Ok(Word::Other)
    }
    fn visit_i64<E: Error>(self, v: i64) -> Result<Word, E> {
        Ok(Word::Number(v.to_string()))
    }
    fn visit_u64<E: Error>(self, v: u64) -> Result<Word, E> {
        Ok(Word::Number(v.to_string()))
    }
    fn visit_f64<E: Error>(self, v: f64) -> Result<Word, E> {
        Ok(Word::Number(v.to_string()))
    }
    fn visit_unit<E: Error>(self) -> Result<Word, E> {
        Ok(Word::Nothing)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Word, A::Error> {
        let mut names = Some(vec![]);
        while let Some(word) = seq.next_element()? {
            match (word, &mut names) {
                (Word::Text(_) | Word::Number(_), Some(names)) if names.len() > self.most => {}
                (Word::Text(name) | Word::Number(name), Some(names)) => names.push(name),
                _ => names = None,
            }
        }
        Ok(names.map_or(Word::Other, Word::Names))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Word, A::Error> {
        let mut keys = vec![];
        while let Some((key, IgnoredAny)) = map.next_entry()? {
            if keys.len() <= self.most {
                keys.push(key);
            }
        }
        Ok(if keys.is_empty() { Word::Nothing } else { Word::Keys(keys) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tensor::DType;

    fn read(json: &str) -> Result<Nested, String> {
        let mut nested = Nested::new(Column::new(DType::F32), 10);
        match nested.read(&mut serde_json::Deserializer::from_str(json)) {
            Ok(()) => Ok(nested),
            Err(e) => Err(nested.failure.unwrap_or_else(|| e.to_string())),
        }
    }

    #[test]
    fn shapes_are_those_of_the_arrays() {
        for (json, shape) in
            [("3", vec![]), ("[]", vec![0]), ("[1,2]", vec![2]), ("[[1],[2],[3]]", vec![3, 1]), ("[[],[]]", vec![2, 0])]
        {
            assert_eq!(read(json).expect(json).shape, shape, "{json}");
        }
        assert_eq!(read("[[1,null],[null,4]]").expect("nulls").nulls, [1, 2]);
    }

    #[test]
    fn no_more_names_are_kept_than_are_of_use() {
        for (json, keys) in [("[1,\"b\",3,4,5]", false), ("{\"a\":1,\"b\":2,\"c\":3,\"d\":4}", true)] {
            let word = Words { most: 2 }.deserialize(&mut serde_json::Deserializer::from_str(json)).expect(json);
            match word {
                Word::Names(names) => assert_eq!((names.len(), keys), (3, false)),
                Word::Keys(names) => assert_eq!((names.len(), keys), (3, true)),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn what_is_no_tensor_is_refused_in_words() {
        for (json, words) in [
            ("[[1],[2,3]]", "ragged"),
            ("[1,[2]]", "ragged"),
            ("[[1],2]", "ragged"),
            ("[[],[1]]", "ragged"),
            ("[[[1]],[[]]]", "ragged"),
            ("[\"a\"]", "a string"),
            ("{\"a\":1}", "object"),
            ("[1,2,3,4,5,6,7,8,9,10,11]", "more than 10"),
            ("[1", "EOF"),
        ] {
            let error = read(json).expect_err(json);
            assert!(error.contains(words), "{json}: {error}");
        }
    }
}
