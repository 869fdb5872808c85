//! The rows that nearly all requests have: objects of features, each a plain number, for a model with one input of float32,
//! and what rows say of themselves.
//!
//! They are read straight from the bytes, in a sixth of the instructions that the visitors take. Whatever is anything else,
//! or wrong, is left to the visitors from its beginning: here nothing is refused, and what is read is what they would read.

use super::INSTANCES;
use crate::codec::marks::{LATEST, Mark, MarkKey, SERIES_BYTES};
use crate::codec::{Form, Request, Wishes};
use crate::model::plain::Plain;
use crate::model::signature::{Signature, Slot};
use crate::model::tensor::Column;
use crate::verdict::state::hash;

/// Powers of ten that a float64 holds exactly.
const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];

/// The rows of a body; `None` when it is not as simple as that, or has more than `max_rows`.
pub(super) fn body(signature: &Signature, json: &[u8], max_rows: usize) -> Option<Request> {
    let plain = signature.plain.as_ref()?;
    let width = plain.width;
    let mut rows = Rows { signature, plain, values: Vec::with_capacity(width), marks: vec![] };
    let mut text = Text { json, at: 0 };
    let form = match text.token()? {
        b'{' if text.is_at(INSTANCES) && signature.find(INSTANCES, 0).is_none() => {
            (text.token()? == b'"' && text.passes(INSTANCES)).then_some(())?;
            (text.token()? == b':' && text.token()? == b'[').then_some(())?;
            rows.all(&mut text, max_rows)?;
            (text.token()? == b'}').then_some(Form::Instances)?
        }
        b'{' => {
            rows.row(&mut text)?;
            Form::One
        }
        b'[' => {
            rows.all(&mut text, max_rows)?;
            Form::Many
        }
        _ => return None,
    };
    let count = rows.values.len() / width;
    if text.token().is_some() || count > max_rows {
        return None;
    }
    if !rows.marks.is_empty() {
        rows.marks.resize(count, Mark::default());
    }
    let inputs = vec![Column::F32(rows.values).into_tensor(&[count, width])?];
    Some(Request { inputs, rows: count, form, wishes: Wishes::default(), marks: rows.marks })
}

/// Rounded to float32, if it is finite then.
#[expect(clippy::cast_possible_truncation, reason = "the overflow is checked")]
fn narrow(value: f64) -> Option<f32> {
    Some(value as f32).filter(|value| value.is_finite())
}

struct Rows<'s> {
    signature: &'s Signature,
    plain: &'s Plain,
    values: Vec<f32>,
    /// None, or one for each row up to the last that had any.
    marks: Vec<Mark>,
}

impl Rows<'_> {
    /// All rows behind their `[`.
    fn all(&mut self, text: &mut Text<'_>, max_rows: usize) -> Option<()> {
        loop {
            if text.token()? != b'{' || self.values.len() == max_rows * self.plain.width {
                return None;
            }
            self.row(text)?;
            match text.token()? {
                b',' => {}
                b']' => return Some(()),
                _ => return None,
            }
        }
    }

    /// A row behind its `{`.
    fn row(&mut self, text: &mut Text<'_>) -> Option<()> {
        let first = self.values.len();
        self.values.extend_from_slice(&self.plain.absent);
        let (mut seen, mut hint) = (0_u64, 0);
        let mut next = text.token()?;
        while next != b'}' || seen == 0 {
            if next != b'"' {
                return None;
            }
            let (key, name) = match self.signature.keys().get(hint) {
                Some((name, _)) if text.passes(name) => (Some(hint), &**name),
                _ => text.key().map(|name| (self.signature.find(name, 0), name))?,
            };
            (text.token()? == b':').then_some(())?;
            if let Some(key) = key {
                let (_, Slot::Feature { column, .. }) = self.signature.keys()[key] else { return None };
                if seen & (1 << column) != 0 {
                    return None;
                }
                self.values[first + column] = narrow(text.number()?)?;
                seen |= 1 << column;
                hint = key + 1;
            } else {
                self.mark(MarkKey::of(self.signature, name)?, text)?;
            }
            next = match text.token()? {
                b',' => text.token().filter(|next| *next == b'"')?,
                b'}' => b'}',
                _ => return None,
            };
        }
        let all = u64::MAX >> (64 - self.plain.width);
        (seen | self.plain.optional == all).then_some(())
    }

    /// What the present row says of itself.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is within the range")]
    fn mark(&mut self, key: MarkKey, text: &mut Text<'_>) -> Option<()> {
        let row = self.values.len() / self.plain.width;
        self.marks.resize(row, Mark::default());
        let mark = &mut self.marks[row - 1];
        match key {
            MarkKey::Series => {
                let name = (text.token()? == b'"').then(|| text.key())??;
                mark.series = (1..=SERIES_BYTES).contains(&name.len()).then(|| hash(name.as_bytes()))?;
            }
            MarkKey::Time => mark.at = Some(text.number().filter(|time| (0.0..LATEST).contains(time))? as u64),
            MarkKey::Actual => mark.actual = Some(text.number().filter(|value| value.is_finite())?),
        }
        Some(())
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

    /// Whether this key comes next, behind spaces and a quote.
    fn is_at(&self, key: &str) -> bool {
        let mut ahead = Self { ..*self };
        ahead.token() == Some(b'"') && ahead.passes(key)
    }

    /// Whether this key comes next, behind its quote; it is passed then.
    fn passes(&mut self, key: &str) -> bool {
        let rest = &self.json[self.at..];
        let is_next = rest.get(key.len()) == Some(&b'"') && rest.starts_with(key.as_bytes());
        if is_next {
            self.at += key.len() + 1;
        }
        is_next
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
