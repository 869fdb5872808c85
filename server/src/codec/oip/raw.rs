//! Raw bytes to tensors and back: little-endian, row-major, no padding. A boolean is one byte, 0 or 1; a string is its
//! length in four bytes and then its bytes.

use std::ops::Range;

use half::{bf16, f16};

use super::datatype;
use crate::model::tensor::{Column, DType, Tensor, rows_of};

/// Bytes of an element; `None` for strings, which differ.
#[must_use]
pub const fn width(dtype: DType) -> Option<usize> {
    match dtype {
        DType::Bool | DType::U8 | DType::I8 => Some(1),
        DType::U16 | DType::I16 | DType::F16 | DType::BF16 => Some(2),
        DType::U32 | DType::I32 | DType::F32 => Some(4),
        DType::U64 | DType::I64 | DType::F64 => Some(8),
        DType::Text => None,
    }
}

/// All elements of a tensor that has `count` of them. What is reserved is never more than the bytes hold.
///
/// # Errors
/// What is wrong with the bytes, to follow the tensor's name.
pub fn decode(dtype: DType, count: usize, bytes: &[u8]) -> Result<Column, String> {
    if let Some(width) = width(dtype)
        && count.checked_mul(width) != Some(bytes.len())
    {
        let name = datatype(dtype);
        return Err(format!("has {} bytes of data, {count} elements of {name} take {width} each", bytes.len()));
    }
    macro_rules! numbers {
        ($variant:ident, $element:ty) => {{
            let (elements, _) = bytes.as_chunks();
            Column::$variant(elements.iter().map(|element| <$element>::from_le_bytes(*element)).collect())
        }};
    }
    Ok(match dtype {
        DType::F16 => numbers!(F16, f16),
        DType::BF16 => numbers!(BF16, bf16),
        DType::F32 => numbers!(F32, f32),
        DType::F64 => numbers!(F64, f64),
        DType::I8 => numbers!(I8, i8),
        DType::I16 => numbers!(I16, i16),
        DType::I32 => numbers!(I32, i32),
        DType::I64 => numbers!(I64, i64),
        DType::U8 => Column::U8(bytes.to_vec()),
        DType::U16 => numbers!(U16, u16),
        DType::U32 => numbers!(U32, u32),
        DType::U64 => numbers!(U64, u64),
        DType::Bool => booleans(bytes)?,
        DType::Text => strings(count, bytes)?,
    })
}

fn booleans(bytes: &[u8]) -> Result<Column, String> {
    match bytes.iter().position(|byte| *byte > 1) {
        Some(at) => Err(format!("holds the byte {} at element {at}: a boolean is 0 or 1", bytes[at])),
        None => Ok(Column::Bool(bytes.iter().map(|byte| *byte == 1).collect())),
    }
}

fn strings(count: usize, bytes: &[u8]) -> Result<Column, String> {
    let mut values: Vec<String> = Vec::with_capacity(count.min(bytes.len() / 4));
    let mut rest = bytes;
    while let Some((length, after)) = rest.split_first_chunk() {
        let (at, length) = (values.len(), usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX));
        if at == count {
            break;
        }
        let Some((text, after)) = after.split_at_checked(length) else {
            return Err(format!("is cut off: element {at} has {length} bytes, {} are left", after.len()));
        };
        values.push(text_of(at, text)?.to_owned());
        rest = after;
    }
    if values.len() < count {
        return Err(format!("is cut off: it holds {} elements of {count}", values.len()));
    }
    if !rest.is_empty() {
        return Err(format!("has {} bytes of data more than its {count} elements", rest.len()));
    }
    Ok(Column::Text(values))
}

/// An element of type BYTES as the text that ONNX's strings are.
///
/// # Errors
/// When it is not UTF-8, or holds a NUL, which ONNX Runtime does not take.
pub fn text_of(at: usize, bytes: &[u8]) -> Result<&str, String> {
    let text = std::str::from_utf8(bytes);
    let text = text.map_err(|_| format!("is not UTF-8 text at element {at}: the model takes strings"))?;
    if text.contains('\0') {
        return Err(format!("holds a NUL character at element {at}, which no model takes"));
    }
    Ok(text)
}

/// How many bytes some rows of a tensor take.
#[must_use]
pub fn len(tensor: &Tensor, rows: Range<usize>) -> usize {
    match tensor {
        Tensor::Text(a) => rows_of(a, rows).iter().map(|text| 4 + text.len()).sum(),
        tensor => {
            let row: usize = tensor.shape().iter().skip(1).product();
            rows.len() * row * width(tensor.dtype()).unwrap_or(0)
        }
    }
}

/// Appends some rows of a tensor.
pub fn encode(into: &mut Vec<u8>, tensor: &Tensor, rows: Range<usize>) {
    macro_rules! numbers {
        ($array:expr) => {{
            let values = rows_of($array, rows);
            let at = into.len();
            into.resize(at + size_of_val(values), 0);
            let (places, _) = into[at..].as_chunks_mut();
            for (place, value) in places.iter_mut().zip(values) {
                *place = value.to_le_bytes();
            }
        }};
    }
    match tensor {
        Tensor::F16(a) => numbers!(a),
        Tensor::BF16(a) => numbers!(a),
        Tensor::F32(a) => numbers!(a),
        Tensor::F64(a) => numbers!(a),
        Tensor::I8(a) => numbers!(a),
        Tensor::I16(a) => numbers!(a),
        Tensor::I32(a) => numbers!(a),
        Tensor::I64(a) => numbers!(a),
        Tensor::U8(a) => numbers!(a),
        Tensor::U16(a) => numbers!(a),
        Tensor::U32(a) => numbers!(a),
        Tensor::U64(a) => numbers!(a),
        Tensor::Bool(a) => into.extend(rows_of(a, rows).iter().map(|value| u8::from(*value))),
        Tensor::Text(a) => rows_of(a, rows).iter().for_each(|text| string(into, text)),
    }
}

/// Appends an element of type BYTES.
pub fn string(into: &mut Vec<u8>, text: &str) {
    // An element of 4 GiB does not come out of a model that fits this server.
    into.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
    into.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(dtype: DType, count: usize, bytes: &[u8]) -> Vec<u8> {
        let column = decode(dtype, count, bytes).expect("fits");
        assert_eq!((column.dtype(), column.len()), (dtype, count));
        let tensor = column.into_tensor(&[count, 1]).expect("its shape");
        let mut out = vec![];
        encode(&mut out, &tensor, 0..count);
        assert_eq!(len(&tensor, 0..count), out.len());
        out
    }

    #[test]
    fn every_bit_of_every_type_comes_back() {
        // Among these are NaNs with a payload, of either sign, in every float type.
        let bytes: Vec<u8> = (0..=255).chain([0x01, 0x7c, 0xff, 0x7f, 0x01, 0x00, 0x80, 0x7f]).collect();
        for dtype in [
            DType::U8,
            DType::I8,
            DType::U16,
            DType::I16,
            DType::F16,
            DType::BF16,
            DType::U32,
            DType::I32,
            DType::F32,
            DType::U64,
            DType::I64,
            DType::F64,
        ] {
            let width = width(dtype).expect("a number");
            assert_eq!(round(dtype, bytes.len() / width, &bytes), bytes, "{dtype}");
        }
        let nans = [0x7fc0_0001_u32, 0xffbf_ffff, 0x7f80_0001].map(u32::to_le_bytes).concat();
        assert_eq!(round(DType::F32, 3, &nans), nans);
        assert_eq!(round(DType::Bool, 3, &[1, 0, 1]), [1, 0, 1]);
        let texts = [&[0, 0, 0, 0][..], &[3, 0, 0, 0], "é!".as_bytes()].concat();
        assert_eq!(round(DType::Text, 2, &texts), texts);
        assert!(round(DType::F32, 0, &[]).is_empty());
    }

    #[test]
    fn what_does_not_fit_is_refused_in_words() {
        let refused = |dtype, count, bytes: &[u8]| decode(dtype, count, bytes).expect_err("refused");
        assert!(refused(DType::F32, 2, &[0; 7]).contains("7 bytes"));
        assert!(refused(DType::F32, usize::MAX, &[0; 4]).contains("4 bytes"));
        assert!(refused(DType::F64, usize::MAX / 8 + 1, &[]).contains("0 bytes"));
        assert!(refused(DType::Bool, 2, &[1, 2]).contains("byte 2 at element 1"));
        assert!(refused(DType::Text, 1, &[5, 0, 0, 0, b'a']).contains("element 0 has 5 bytes, 1 are left"));
        assert!(refused(DType::Text, 1, &[0xff, 0xff, 0xff, 0xff]).contains("cut off"));
        assert!(refused(DType::Text, usize::MAX, &[0, 0, 0, 0]).contains("holds 1 elements"));
        assert!(refused(DType::Text, 1, &[0, 0, 0]).contains("holds 0 elements"));
        assert!(refused(DType::Text, 1, &[0, 0, 0, 0, 9]).contains("1 bytes of data more"));
        assert!(refused(DType::Text, 1, &[1, 0, 0, 0, 0xff]).contains("UTF-8"));
        assert!(refused(DType::Text, 1, &[1, 0, 0, 0, 0]).contains("NUL"));
    }

    #[test]
    fn rows_are_cut_out() {
        let column = decode(DType::I16, 6, &[1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0]).expect("fits");
        let tensor = column.into_tensor(&[3, 2]).expect("its shape");
        let mut out = vec![9];
        encode(&mut out, &tensor, 1..2);
        assert_eq!(out, [9, 3, 0, 4, 0]);
        assert_eq!(len(&tensor, 1..3), 8);
    }
}
