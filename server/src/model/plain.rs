//! Models whose rows are plain numbers, as nearly all are: one input of float32, every element of it a named feature.

use super::signature::{Input, Slot};
use super::tensor::DType;

/// What reading rows of such a model takes, found once.
#[derive(Clone, Debug)]
pub struct Plain {
    /// Features of a row; at most 64, so that each has a bit.
    pub width: usize,
    /// The features that may be missing.
    pub optional: u64,
    /// A row of which all are missing; NaN also stands for those that must not be.
    pub absent: Box<[f32]>,
}

impl Plain {
    /// `None` for a model of any other kind, and for names of features that JSON writes with escapes.
    #[expect(clippy::cast_possible_truncation, reason = "the overflow is checked")]
    pub(super) fn of(inputs: &[Input], keys: &[(Box<str>, Slot)]) -> Option<Self> {
        let [input] = inputs else { return None };
        let width = input.features.len();
        let escaped = |byte: u8| matches!(byte, b'"' | b'\\' | 0..0x20);
        if input.dtype != DType::F32
            || !(1..=64).contains(&width)
            || input.row_shape != [Some(width)]
            || keys.len() != width
            || keys.iter().any(|(name, _)| name.bytes().any(escaped))
        {
            return None;
        }
        let mut plain = Self { width, optional: 0, absent: vec![f32::NAN; width].into() };
        for (column, feature) in input.features.iter().enumerate() {
            let Some(value) = feature.stand_in() else { continue };
            let narrow = value as f32;
            if narrow.is_infinite() {
                return None;
            }
            plain.absent[column] = narrow;
            plain.optional |= 1 << column;
        }
        Some(plain)
    }
}
