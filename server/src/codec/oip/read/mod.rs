//! A REST request: JSON, and behind it the raw bytes of those tensors that say how many theirs are.
//!
//! One pass over the JSON, keys in any order. Data is read straight into its type when that is known already, else kept as
//! text until the end of its tensor. Nothing is reserved that the body does not hold.

mod pieces;
#[cfg(test)]
mod tests;

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use self::pieces::{Keys, OrNull, Parameters, Text};
use super::{Infer, Parameter, Wanted, dtype_of, no_shared_memory, raw, shape_of};
use crate::codec::bind::Given;
use crate::codec::decode::number_beyond_json;
use crate::codec::nested::Nested;
use crate::codec::{DecodeError, refuse};
use crate::model::tensor::{Column, DType};

/// Reads a request whose JSON is the first `json` bytes of the body, or all of it.
///
/// # Errors
/// The first thing that is wrong, with its place.
pub fn request(body: &[u8], json: Option<usize>) -> Result<Infer, DecodeError> {
    let (json, binary) = match json {
        None => (body, &[][..]),
        Some(length) => body.split_at_checked(length).ok_or_else(|| {
            let have = body.len();
            let message =
                format!("{HEADER} is {length}, the body has {have} bytes: it is the length of the JSON in it");
            refuse(HEADER, message)
        })?,
    };
    let place = Place { part: "", index: 0, key: "" };
    let mut reader = Reader { place, failure: None, infer: Infer::default(), binary: vec![] };
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let result = deserializer.deserialize_map(Body(&mut reader)).and_then(|()| deserializer.end());
    if let Err(error) = result {
        return Err(reader.failure.take().unwrap_or_else(|| reader.explain(json, &error)));
    }
    let left = take(&mut reader.infer.inputs, &reader.binary, binary)?.len();
    if left > 0 {
        let message = format!(
            "the body has {left} bytes behind its JSON that no input takes: give each its binary_data_size, in the order of \
             the inputs, and {HEADER}"
        );
        return Err(refuse("inputs", message));
    }
    Ok(reader.infer)
}

/// A tensor whose elements stand behind the JSON.
struct Behind {
    /// Which of the inputs.
    input: usize,
    count: usize,
    bytes: usize,
}

/// Gives each tensor its bytes, and what is left of them. Not before the JSON is known to be whole: when it is not, that
/// is the mistake, and not what its bytes would be.
fn take<'b>(inputs: &mut [Given], tensors: &[Behind], bytes: &'b [u8]) -> Result<&'b [u8], DecodeError> {
    let mut rest = bytes;
    for Behind { input, count, bytes } in tensors {
        let given = &mut inputs[*input];
        let name = given.name.as_str();
        let Some((bytes, after)) = rest.split_at_checked(*bytes) else {
            let left = rest.len();
            let message = format!(
                "{name} has binary_data_size {bytes}, {left} bytes are left behind the JSON: {HEADER} says how long that is"
            );
            return Err(refuse(name, message));
        };
        rest = after;
        let values = raw::decode(given.values.dtype(), *count, bytes);
        given.values = values.map_err(|reason| refuse(name, format!("{name} {reason}")))?;
    }
    Ok(rest)
}

/// The header of a binary request.
pub const HEADER: &str = "inference-header-content-length";

/// Where in the JSON something is.
#[derive(Clone, Copy)]
struct Place {
    /// `inputs`, `outputs` or nothing.
    part: &'static str,
    index: usize,
    /// The key in it.
    key: &'static str,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.part, self.key) {
            ("", key) => f.write_str(key),
            (part, "") => write!(f, "{part}[{}]", self.index),
            (part, key) => write!(f, "{part}[{}].{key}", self.index),
        }
    }
}

struct Reader {
    place: Place,
    failure: Option<DecodeError>,
    infer: Infer,
    binary: Vec<Behind>,
}

impl Reader {
    /// Records what is wrong and gives the error that makes the parser stop.
    fn fail<E: Error>(&mut self, error: DecodeError) -> E {
        self.failure = Some(error);
        E::custom("")
    }

    fn fail_here<E: Error>(&mut self, message: &str) -> E {
        let place = self.place.to_string();
        let message = if place.is_empty() { format!("the body {message}") } else { format!("{place} {message}") };
        self.fail(refuse(&place, message))
    }

    /// What the parser itself found.
    fn explain(&self, json: &[u8], error: &serde_json::Error) -> DecodeError {
        let place = self.place.to_string();
        if json.trim_ascii().is_empty() {
            return DecodeError::Syntax("it is empty".into());
        }
        if error.is_data() {
            let message = if place.is_empty() { error.to_string() } else { format!("{place}: {error}") };
            return refuse(&place, message);
        }
        if let Some(name) = number_beyond_json(json, error) {
            let message = format!(
                "{place} holds {name}, which JSON does not have: send the tensor as binary data, or null for a feature that is \
                 not known"
            );
            return refuse(&place, message);
        }
        if place.is_empty() {
            DecodeError::Syntax(error.to_string())
        } else {
            DecodeError::Syntax(format!("{error}, in {place}"))
        }
    }
}

/// The whole JSON.
struct Body<'a>(&'a mut Reader);

impl<'de> Visitor<'de> for Body<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with \"inputs\"")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let reader = self.0;
        let mut keys = Keys::new(&["inputs", "id", "outputs", "parameters"]);
        let mut has_inputs = false;
        while let Some(key) = keys.next(reader, &mut map)? {
            match key {
                "inputs" => {
                    has_inputs = true;
                    map.next_value_seed(List { reader, part: "inputs" })?;
                }
                "outputs" => map.next_value_seed(OrNull(List { reader, part: "outputs" }))?,
                "id" => map.next_value_seed(OrNull(Text(|id: &str| reader.infer.id = id.into())))?,
                "parameters" => map.next_value_seed(OrNull(Parameters {
                    reader,
                    take: |reader: &mut Reader, name: &str, value: Parameter<'_>| reader.infer.parameter(name, value),
                }))?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
            reader.place = Place { part: "", index: 0, key: "" };
        }
        if !has_inputs {
            return Err(reader.fail(refuse("inputs", "inputs is missing: send the model's input tensors".into())));
        }
        Ok(())
    }
}

/// The list of inputs or of outputs.
struct List<'a> {
    reader: &'a mut Reader,
    part: &'static str,
}

impl<'de> DeserializeSeed<'de> for List<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for List<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of objects")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let List { reader, part } = self;
        for index in 0.. {
            reader.place = Place { part, index, key: "" };
            let more = if part == "inputs" {
                seq.next_element_seed(Tensor(&mut *reader))?
            } else {
                seq.next_element_seed(Output(&mut *reader))?
            };
            if more.is_none() {
                break;
            }
        }
        Ok(())
    }
}

/// One of `inputs`.
struct Tensor<'a>(&'a mut Reader);

/// What is known of a tensor.
#[derive(Default)]
struct Known<'de> {
    name: Option<String>,
    dtype: Option<DType>,
    /// As it was sent, so that it can be checked when the name is known.
    datatype: Option<String>,
    shape: Option<(Vec<usize>, usize)>,
    data: Option<Nested>,
    later: Option<&'de RawValue>,
    binary: Option<usize>,
}

impl<'de> DeserializeSeed<'de> for Tensor<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Tensor<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with name, shape, datatype and data")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let reader = self.0;
        let mut known = Known::default();
        let mut keys = Keys::new(&["name", "shape", "datatype", "data", "parameters"]);
        while let Some(key) = keys.next(reader, &mut map)? {
            match key {
                "name" => known.name = Some(map.next_value_seed(Text(str::to_owned))?),
                "datatype" => {
                    let sent = map.next_value_seed(Text(str::to_owned))?;
                    known.dtype = super::dtype(&sent);
                    known.datatype = Some(sent);
                }
                "shape" => {
                    let sent: Vec<i64> = map.next_value()?;
                    let name = known.name.clone().unwrap_or_else(|| here(reader));
                    known.shape = Some(shape_of(&name, &sent).map_err(|error| reader.fail(error))?);
                }
                "data" => match known.dtype {
                    Some(dtype) => {
                        let most = known.shape.as_ref().map_or(usize::MAX, |(_, count)| *count);
                        let name = known.name.as_deref();
                        known.data = Some(map.next_value_seed(Data { reader, name, dtype, most })?);
                    }
                    None => known.later = Some(map.next_value()?),
                },
                "parameters" => {
                    let (name, binary) = (known.name.clone(), &mut known.binary);
                    map.next_value_seed(OrNull(Parameters {
                        reader,
                        take: move |reader: &mut Reader, parameter: &str, value: Parameter<'_>| {
                            let name = name.clone().unwrap_or_else(|| here(reader));
                            if parameter != "binary_data_size" {
                                return no_shared_memory(&name, parameter);
                            }
                            *binary = value.whole().and_then(|size| usize::try_from(size).ok());
                            let refused =
                                || refuse(&name, format!("{name}: binary_data_size must be a whole number, 0 or more"));
                            binary.map(drop).ok_or_else(refused)
                        },
                    }))?;
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        match finish(reader, known) {
            Ok(given) => {
                reader.infer.inputs.push(given);
                Ok(())
            }
            Err(error) => Err(reader.fail(error)),
        }
    }
}

/// How a tensor without a name is called.
fn here(reader: &Reader) -> String {
    Place { key: "", ..reader.place }.to_string()
}

fn finish(reader: &mut Reader, known: Known<'_>) -> Result<Given, DecodeError> {
    let here = here(reader);
    let missing = |key: &str| {
        let field = format!("{here}.{key}");
        let name = known.name.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
        Err(refuse(&field, format!("{field} is missing{name}")))
    };
    let Some(name) = known.name.clone() else { return missing("name") };
    let Some(datatype) = &known.datatype else { return missing("datatype") };
    let Some((shape, count)) = known.shape.clone() else { return missing("shape") };
    let dtype = dtype_of(&name, datatype)?;
    let data = match (known.data, known.later) {
        (None, Some(later)) => {
            let mut nested = Nested::new(Column::new(dtype), count);
            if let Err(error) = nested.read(&mut serde_json::Deserializer::from_str(later.get())) {
                let reason = nested.failure.take().unwrap_or_else(|| error.to_string());
                return Err(refuse(&name, format!("{name} {reason}")));
            }
            Some(nested)
        }
        (data, _) => data,
    };
    match (data, known.binary) {
        (Some(_), Some(_)) => {
            Err(refuse(&name, format!("{name} has both data and binary_data_size: send one of them")))
        }
        (None, None) => {
            let message = format!("{name} has no data: send data, or its bytes behind the JSON and binary_data_size");
            Err(refuse(&name, message))
        }
        (None, Some(bytes)) => {
            reader.binary.push(Behind { input: reader.infer.inputs.len(), count, bytes });
            Ok(Given { name, shape, values: Column::new(dtype), nulls: vec![] })
        }
        (Some(data), None) => {
            if data.values.len() != count {
                let have = data.values.len();
                return Err(refuse(
                    &name,
                    format!("{name} has {have} elements of data, its shape {shape:?} takes {count}"),
                ));
            }
            // Flat, or nested as the shape says.
            if data.shape.len() > 1 && data.shape != shape {
                let message = format!("{name} has data of shape {:?}, its shape is {shape:?}", data.shape);
                return Err(refuse(&name, message));
            }
            Ok(Given { name, shape, values: data.values, nulls: data.nulls })
        }
    }
}

/// The data of a tensor whose type is known.
struct Data<'a> {
    reader: &'a mut Reader,
    name: Option<&'a str>,
    dtype: DType,
    most: usize,
}

impl<'de> DeserializeSeed<'de> for Data<'_> {
    type Value = Nested;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Nested, D::Error> {
        let Data { reader, name, dtype, most } = self;
        let mut nested = Nested::new(Column::new(dtype), most);
        match nested.read(deserializer) {
            Ok(()) => Ok(nested),
            Err(error) => match nested.failure.take() {
                Some(reason) => {
                    let name = name.map_or_else(|| here(reader), str::to_owned);
                    Err(reader.fail(refuse(&name, format!("{name} {reason}"))))
                }
                None => Err(error),
            },
        }
    }
}

/// One of `outputs`.
struct Output<'a>(&'a mut Reader);

impl<'de> DeserializeSeed<'de> for Output<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Output<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with name")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let reader = self.0;
        let mut wanted = Wanted::default();
        let mut keys = Keys::new(&["name", "parameters"]);
        let mut named = false;
        while let Some(key) = keys.next(reader, &mut map)? {
            match key {
                "name" => {
                    named = true;
                    wanted.name = map.next_value_seed(Text(str::to_owned))?;
                }
                "parameters" => {
                    let wanted = &mut wanted;
                    map.next_value_seed(OrNull(Parameters {
                        reader,
                        take: |_: &mut Reader, name: &str, value: Parameter<'_>| wanted.parameter(name, value),
                    }))?;
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        if !named {
            let field = format!("{}.name", here(reader));
            return Err(reader.fail(refuse(&field, format!("{field} is missing"))));
        }
        reader.infer.outputs.push(wanted);
        Ok(())
    }
}
