//! Many small records as one text: little-endian, one after the other, in base64.

use base64ct::{Base64, Encoding as _};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serializer};

/// A record of a fixed size.
pub(super) trait Record: Sized {
    /// Its bytes.
    const SIZE: usize;
    /// Appends it.
    fn write(&self, bytes: &mut Vec<u8>);
    /// Reads it.
    fn read(bytes: &mut Bytes<'_>) -> Option<Self>;
}

/// Bytes that are still to be read.
pub(super) struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    /// The next ones.
    pub(super) fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    /// The next number of 64 bits.
    pub(super) fn number(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }
}

impl Record for [u64; 2] {
    const SIZE: usize = 16;

    fn write(&self, bytes: &mut Vec<u8>) {
        self.iter().for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
    }

    fn read(bytes: &mut Bytes<'_>) -> Option<Self> {
        Some([bytes.number()?, bytes.number()?])
    }
}

pub(super) fn serialize<T: Record, S: Serializer>(records: &[T], serializer: S) -> Result<S::Ok, S::Error> {
    let mut bytes = Vec::with_capacity(records.len() * T::SIZE);
    records.iter().for_each(|record| record.write(&mut bytes));
    serializer.serialize_str(&Base64::encode_string(&bytes))
}

pub(super) fn deserialize<'de, T: Record, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let bytes =
        Base64::decode_vec(&text).map_err(|_| D::Error::custom("what was saved is not base64: delete the file"))?;
    if bytes.len() % T::SIZE != 0 {
        return Err(D::Error::custom(format!(
            "what was saved is not in records of {} bytes: delete the file",
            T::SIZE
        )));
    }
    let mut rest = Bytes(&bytes);
    Ok(std::iter::from_fn(|| T::read(&mut rest)).collect())
}
