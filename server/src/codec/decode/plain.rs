//! The rows that nearly all requests have: objects of features, each a plain number, for a model with one input of float32.
//!
//! They are read straight from the bytes, in a sixth of the instructions that the visitors take. Whatever is anything else,
//! or wrong, is left to the visitors from its beginning: here nothing is refused, and what is read is what they would read.

use crate::codec::{Form, Request, Wishes};
use crate::model::signature::{Signature, Slot};
use crate::model::tensor::{Column, DType};

/// Powers of ten that a float64 holds exactly.
const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];

/// The rows of a body; `None` when it is not as simple as that, or has more than `max_rows`.
pub(super) fn body(signature: &Signature, json: &[u8], max_rows: usize) -> Option<Request> {
    let input = match signature.inputs.as_slice() {
        [input] if input.dtype == DType::F32 => input,
        _ => return None,
    };
    let width = input.features.len();
    // One bit a feature.
    if !(1..=64).contains(&width) || input.row_shape != [Some(width)] || signature.keys().len() != width {
        return None;
    }
    let mut rows = Rows { signature, width, optional: 0, absent: [f32::NAN; 64], values: Vec::with_capacity(width) };
    for (column, feature) in input.features.iter().enumerate() {
        let Some(value) = feature.stand_in() else { continue };
        rows.absent[column] = narrow(value).or_else(|| value.is_nan().then_some(f32::NAN))?;
        rows.optional |= 1 << column;
    }
    let mut text = Text { json, at: 0 };
    let form = match text.token()? {
        b'{' => {
            rows.row(&mut text)?;
            Form::One
        }
        b'[' => {
            loop {
                if text.token()? != b'{' || rows.values.len() == max_rows * width {
                    return None;
                }
                rows.row(&mut text)?;
                match text.token()? {
                    b',' => {}
                    b']' => break,
                    _ => return None,
                }
            }
            Form::Many
        }
        _ => return None,
    };
    let count = rows.values.len() / width;
    if text.token().is_some() || count > max_rows {
        return None;
    }
    let inputs = vec![Column::F32(rows.values).into_tensor(&[count, width])?];
    Some(Request { inputs, rows: count, form, wishes: Wishes::default(), marks: vec![] })
}

/// Rounded to float32, if it is finite then.
#[expect(clippy::cast_possible_truncation, reason = "the overflow is checked")]
fn narrow(value: f64) -> Option<f32> {
    Some(value as f32).filter(|value| value.is_finite())
}

struct Rows<'s> {
    signature: &'s Signature,
    width: usize,
    /// The features that may be missing.
    optional: u64,
    /// What then stands in their place.
    absent: [f32; 64],
    values: Vec<f32>,
}

impl Rows<'_> {
    /// A row behind its `{`.
    fn row(&mut self, text: &mut Text<'_>) -> Option<()> {
        let first = self.values.len();
        self.values.extend_from_slice(&self.absent[..self.width]);
        let (mut seen, mut hint) = (0_u64, 0);
        let mut next = text.token()?;
        while next != b'}' || seen == 0 {
            if next != b'"' {
                return None;
            }
            let key = self.signature.find(text.key()?, hint)?;
            let (_, Slot::Feature { column, .. }) = self.signature.keys()[key] else { return None };
            if text.token()? != b':' || seen & (1 << column) != 0 {
                return None;
            }
            self.values[first + column] = narrow(text.number()?)?;
            seen |= 1 << column;
            hint = key + 1;
            next = match text.token()? {
                b',' => text.token().filter(|next| *next == b'"')?,
                b'}' => b'}',
                _ => return None,
            };
        }
        let all = u64::MAX >> (64 - self.width);
        (seen | self.optional == all).then_some(())
    }
}

struct Text<'a> {
    json: &'a [u8],
    at: usize,
}

impl<'a> Text<'a> {
    /// The next byte that is no space, which is passed.
    fn token(&mut self) -> Option<u8> {
        self.spaces();
        let byte = *self.json.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn spaces(&mut self) {
        while matches!(self.json.get(self.at), Some(b' ' | b'\n' | b'\t' | b'\r')) {
            self.at += 1;
        }
    }

    /// A key behind its quote: of letters without escapes.
    fn key(&mut self) -> Option<&'a str> {
        let rest = &self.json[self.at..];
        let end = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20 | 0x80..))?;
        self.at += end + 1;
        if rest[end] == b'"' { str::from_utf8(&rest[..end]).ok() } else { None }
    }

    /// A number as JSON has it, the nearest float64. The byte behind it is not passed.
    fn number(&mut self) -> Option<f64> {
        self.spaces();
        let begin = self.at;
        let negative = self.json.get(self.at) == Some(&b'-');
        self.at += usize::from(negative);
        let (mut mantissa, whole) = self.digits(0)?;
        if whole > 1 && self.json[self.at - whole] == b'0' {
            return None;
        }
        let mut digits = whole;
        let mut exponent = 0_i64;
        if self.json.get(self.at) == Some(&b'.') {
            self.at += 1;
            let (more, fraction) = self.digits(mantissa)?;
            mantissa = more;
            digits += fraction;
            exponent -= i64::try_from(fraction).ok()?;
        }
        if matches!(self.json.get(self.at), Some(b'e' | b'E')) {
            self.at += 1;
            let down = match self.json.get(self.at) {
                Some(sign @ (b'+' | b'-')) => {
                    self.at += 1;
                    *sign == b'-'
                }
                _ => false,
            };
            let (power, count) = self.digits(0)?;
            if count > 4 {
                return None;
            }
            let power = i64::try_from(power).ok()?;
            exponent += if down { -power } else { power };
        }
        // Both numbers are exact, so their product or quotient is rounded once (Clinger 1990).
        let exact = digits <= 19 && mantissa < 1 << 53 && exponent.abs() <= 22;
        if !exact {
            return str::from_utf8(&self.json[begin..self.at]).ok()?.parse().ok();
        }
        #[expect(clippy::cast_precision_loss, reason = "it has at most 53 bits")]
        let value = mantissa as f64;
        let power = POWERS[usize::try_from(exponent.unsigned_abs()).ok()?];
        let value = if exponent < 0 { value / power } else { value * power };
        Some(if negative { -value } else { value })
    }

    /// At least one digit, behind those that `mantissa` is of; and how many. Beyond 19 of them it is no number any more.
    fn digits(&mut self, mantissa: u64) -> Option<(u64, usize)> {
        let begin = self.at;
        let mut mantissa = mantissa;
        while let Some(digit @ b'0'..=b'9') = self.json.get(self.at) {
            mantissa = mantissa.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
            self.at += 1;
        }
        (self.at > begin).then_some((mantissa, self.at - begin))
    }
}
