//! The fields of a protobuf message, one by one, for what changes a few of them and copies all others byte for byte.

use prost::encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint};

/// A field of a message.
pub(super) struct Field<'a> {
    pub(super) number: u32,
    /// With its number and length.
    pub(super) whole: &'a [u8],
    /// What it holds, unless it is a number.
    pub(super) bytes: &'a [u8],
}

/// The fields of a message, in order; ends after the first error.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let message = std::mem::take(&mut self.0);
        Some(field(message).inspect(|field| self.0 = &message[field.whole.len()..]))
    }
}

fn field(message: &[u8]) -> Result<Field<'_>, String> {
    let mut rest = message;
    let (number, kind) = decode_key(&mut rest).map_err(broken)?;
    let length = match kind {
        WireType::Varint => decode_varint(&mut rest).map(|_| 0).map_err(broken)?,
        WireType::ThirtyTwoBit => 4,
        WireType::SixtyFourBit => 8,
        WireType::LengthDelimited => decode_varint(&mut rest).map_err(broken)?,
        WireType::StartGroup | WireType::EndGroup => return Err(broken("it has groups")),
    };
    let length = usize::try_from(length).ok().filter(|length| *length <= rest.len());
    let (bytes, rest) = rest.split_at(length.ok_or_else(|| broken("a field reaches beyond its end"))?);
    let bytes = if kind == WireType::LengthDelimited { bytes } else { &[] };
    Ok(Field { number, whole: &message[..message.len() - rest.len()], bytes })
}

/// The contents of all fields of this number that have any.
pub(super) fn bytes_of(message: &[u8], number: u32) -> impl Iterator<Item = Result<&[u8], String>> {
    let this = move |field: &Result<Field<'_>, String>| field.as_ref().map_or(true, |field| field.number == number);
    Fields(message).filter(this).map(|field| field.map(|field| field.bytes))
}

/// Adds a field.
pub(super) fn put(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// Reads a message that is a part of a model.
pub(super) fn decode<M: prost::Message + Default>(bytes: &[u8]) -> Result<M, String> {
    M::decode(bytes).map_err(broken)
}

fn broken(error: impl std::fmt::Display) -> String {
    format!("the model file is not an ONNX model, or is cut off: {error}")
}
