//! Tensors between the wire and the runtime: an n-dimensional array of one of a closed set of element types.
//!
//! The first axis is always the row (batch) axis. This module knows nothing of ONNX Runtime or of JSON.

use std::ops::Range;

use half::{bf16, f16};
use ndarray::{ArrayD, ArrayViewD, Axis, IxDyn, Slice};
use serde::{Deserialize, Serialize};

macro_rules! tensors {
    ($($variant:ident($element:ty) = $name:literal),+ $(,)?) => {
        /// The element type of a tensor, by the names a manifest uses.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum DType {
            $(#[doc = concat!("`", $name, "`")] #[serde(rename = $name)] $variant),+
        }

        impl DType {
            /// The manifest's name of this type, such as `float32`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }

        /// An owned tensor in standard (row-major) layout.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Tensor {
            $(#[doc = concat!("Elements of type `", $name, "`.")] $variant(ArrayD<$element>)),+
        }

        $(impl From<ArrayD<$element>> for Tensor {
            fn from(array: ArrayD<$element>) -> Self {
                let array = if array.is_standard_layout() { array } else { array.as_standard_layout().into_owned() };
                Self::$variant(array)
            }
        })+

        /// The elements of a tensor while its rows arrive one by one.
        #[derive(Debug)]
        pub enum Column {
            $(#[doc = concat!("Elements of type `", $name, "`.")] $variant(Vec<$element>)),+
        }

        impl Column {
            /// An empty column.
            #[must_use]
            pub const fn new(dtype: DType) -> Self {
                match dtype { $(DType::$variant => Self::$variant(Vec::new())),+ }
            }

            /// How many elements there are.
            #[must_use]
            pub const fn len(&self) -> usize {
                match self { $(Self::$variant(values) => values.len()),+ }
            }

            /// Whether there are none.
            #[must_use]
            pub const fn is_empty(&self) -> bool {
                self.len() == 0
            }

            /// Appends `count` zero elements and gives the index of the first.
            pub fn grow(&mut self, count: usize) -> usize {
                let at = self.len();
                match self { $(Self::$variant(values) => values.resize_with(at + count, Default::default)),+ }
                at
            }

            /// The element type.
            #[must_use]
            pub const fn dtype(&self) -> DType {
                match self { $(Self::$variant(_) => DType::$variant),+ }
            }

            /// All elements as a tensor; `None` when their number does not fit the shape.
            #[must_use]
            pub fn into_tensor(self, shape: &[usize]) -> Option<Tensor> {
                match self {
                    $(Self::$variant(values) => ArrayD::from_shape_vec(IxDyn(shape), values).ok().map(Tensor::$variant)),+
                }
            }
        }

        impl Tensor {
            /// The element type.
            #[must_use]
            pub const fn dtype(&self) -> DType {
                match self { $(Self::$variant(_) => DType::$variant),+ }
            }

            /// All dimensions, rows first.
            #[must_use]
            pub fn shape(&self) -> &[usize] {
                match self { $(Self::$variant(array) => array.shape()),+ }
            }

            /// A copy of some rows.
            ///
            /// # Panics
            /// When `rows` is out of range or the tensor is a scalar.
            #[must_use]
            pub fn slice_rows(&self, rows: Range<usize>) -> Self {
                match self {
                    $(Self::$variant(array) => {
                        Self::$variant(array.slice_axis(Axis(0), Slice::from(rows)).to_owned())
                    })+
                }
            }

            /// With its last row repeated until there are `rows`, of which it has at least one.
            #[must_use]
            pub fn padded(&self, rows: usize) -> Self {
                let last = self.rows().unwrap_or(0).saturating_sub(1);
                let indices: Vec<usize> = (0..rows).map(|i| i.min(last)).collect();
                match self { $(Self::$variant(array) => array.select(Axis(0), &indices).into()),+ }
            }

            /// With a first axis of 1 before all others.
            #[must_use]
            pub fn with_row_axis(self) -> Self {
                match self { $(Self::$variant(array) => Self::$variant(array.insert_axis(Axis(0)))),+ }
            }

            /// Puts the rows of several tensors under one another.
            ///
            /// Returns `None` when they differ in type or in any dimension but the first, or when there are none.
            #[must_use]
            pub fn concat<'a>(parts: impl Iterator<Item = &'a Self> + Clone) -> Option<Self> {
                let first = parts.clone().next()?;
                let mut shape = first.shape().to_vec();
                shape[0] = 0;
                for part in parts.clone() {
                    if part.shape().len() != shape.len() || part.shape()[1..] != shape[1..] {
                        return None;
                    }
                    shape[0] += part.shape()[0];
                }
                match first {
                    $(Self::$variant(_) => {
                        let mut values = Vec::with_capacity(shape.iter().product());
                        for part in parts {
                            let Self::$variant(array) = part else { return None };
                            values.extend_from_slice(array.as_slice()?);
                        }
                        ArrayD::from_shape_vec(IxDyn(&shape), values).ok().map(Self::$variant)
                    })+
                }
            }
        }
    };
}

tensors! {
    F16(f16) = "float16",
    BF16(bf16) = "bfloat16",
    F32(f32) = "float32",
    F64(f64) = "float64",
    I8(i8) = "int8",
    I16(i16) = "int16",
    I32(i32) = "int32",
    I64(i64) = "int64",
    U8(u8) = "uint8",
    U16(u16) = "uint16",
    U32(u32) = "uint32",
    U64(u64) = "uint64",
    Bool(bool) = "bool",
    Text(String) = "string",
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A value of a request before it is one of a tensor's type.
#[derive(Clone, Copy, Debug)]
pub enum Scalar<'a> {
    /// A JSON integer.
    Int(i128),
    /// A JSON number with a point or an exponent.
    Float(f64),
    /// `true` or `false`.
    Bool(bool),
    /// A string.
    Text(&'a str),
}

impl Scalar<'_> {
    /// Whether it is a NaN.
    #[must_use]
    pub const fn is_nan(self) -> bool {
        matches!(self, Self::Float(v) if v.is_nan())
    }
}

impl Column {
    /// An element.
    #[must_use]
    pub fn get(&self, at: usize) -> Option<Scalar<'_>> {
        Some(match self {
            Self::F16(values) => Scalar::Float(values.get(at)?.to_f64()),
            Self::BF16(values) => Scalar::Float(values.get(at)?.to_f64()),
            Self::F32(values) => Scalar::Float(f64::from(*values.get(at)?)),
            Self::F64(values) => Scalar::Float(*values.get(at)?),
            Self::I8(values) => Scalar::Int(i128::from(*values.get(at)?)),
            Self::I16(values) => Scalar::Int(i128::from(*values.get(at)?)),
            Self::I32(values) => Scalar::Int(i128::from(*values.get(at)?)),
            Self::I64(values) => Scalar::Int(i128::from(*values.get(at)?)),
            Self::U8(values) => Scalar::Int(i128::from(*values.get(at)?)),
            Self::U16(values) => Scalar::Int(i128::from(*values.get(at)?)),
            Self::U32(values) => Scalar::Int(i128::from(*values.get(at)?)),
            Self::U64(values) => Scalar::Int(i128::from(*values.get(at)?)),
            Self::Bool(values) => Scalar::Bool(*values.get(at)?),
            Self::Text(values) => Scalar::Text(values.get(at)?),
        })
    }

    /// The first element of a row from `row` on that is infinite, or NaN where its place in a row does not keep that. `kept`
    /// is as long as a row.
    #[must_use]
    pub fn next_unfit(&self, row: usize, kept: &[bool]) -> Option<usize> {
        let width = kept.len().max(1);
        macro_rules! search {
            ($values:expr, $element:ty) => {{
                let fits = |(value, kept): (&$element, &bool)| value.is_finite() || (*kept && value.is_nan());
                let mut rows = $values.get(row * width..)?.chunks(width).zip(row..);
                let (values, row) = rows.find(|(values, _)| !values.iter().zip(kept).all(fits))?;
                values.iter().zip(kept).position(|one| !fits(one)).map(|at| row * width + at)
            }};
        }
        match self {
            Self::F16(values) => search!(values, f16),
            Self::BF16(values) => search!(values, bf16),
            Self::F32(values) => search!(values, f32),
            Self::F64(values) => search!(values, f64),
            _ => None,
        }
    }

    /// Sets an element.
    ///
    /// # Errors
    /// What the value is and what is taken instead, to follow the field's name.
    pub fn set(&mut self, at: usize, value: Scalar<'_>) -> Result<(), String> {
        fn int<T: TryFrom<i128>>(value: Scalar<'_>, dtype: DType) -> Result<T, String> {
            let whole = match value {
                Scalar::Int(v) => v,
                #[expect(clippy::cast_possible_truncation, reason = "whole and in range")]
                Scalar::Float(v) if v.fract() == 0.0 && v.abs() < 1e18 => v as i128,
                other => return Err(mismatch(other, dtype)),
            };
            T::try_from(whole).map_err(|_| format!("is {whole}, which does not fit {dtype}"))
        }
        #[expect(clippy::cast_precision_loss, reason = "as JSON numbers are read everywhere")]
        fn float(value: Scalar<'_>, dtype: DType) -> Result<f64, String> {
            match value {
                Scalar::Int(v) => Ok(v as f64),
                Scalar::Float(v) => Ok(v),
                other => Err(mismatch(other, dtype)),
            }
        }
        macro_rules! narrow {
            ($values:ident, $dtype:expr, $cast:expr) => {{
                let wide = float(value, $dtype)?;
                let narrow = $cast(wide);
                if !narrow.is_finite() {
                    return Err(format!("is {wide:e}, which is not finite as {}", $dtype));
                }
                $values[at] = narrow;
            }};
        }
        match self {
            // Those of `half` that are `const` round once; the others go through float32 where the CPU can.
            Self::F16(values) => narrow!(values, DType::F16, f16::from_f64_const),
            Self::BF16(values) => narrow!(values, DType::BF16, bf16::from_f64_const),
            #[expect(clippy::cast_possible_truncation, reason = "the overflow is checked")]
            Self::F32(values) => narrow!(values, DType::F32, |wide| wide as f32),
            Self::F64(values) => values[at] = float(value, DType::F64)?,
            Self::I8(values) => values[at] = int(value, DType::I8)?,
            Self::I16(values) => values[at] = int(value, DType::I16)?,
            Self::I32(values) => values[at] = int(value, DType::I32)?,
            Self::I64(values) => values[at] = int(value, DType::I64)?,
            Self::U8(values) => values[at] = int(value, DType::U8)?,
            Self::U16(values) => values[at] = int(value, DType::U16)?,
            Self::U32(values) => values[at] = int(value, DType::U32)?,
            Self::U64(values) => values[at] = int(value, DType::U64)?,
            Self::Bool(values) => match value {
                Scalar::Bool(v) => values[at] = v,
                other => return Err(mismatch(other, DType::Bool)),
            },
            Self::Text(values) => match value {
                Scalar::Text(v) if v.contains('\0') => {
                    return Err("has a zero character, which ONNX Runtime takes for its end".into());
                }
                Scalar::Text(v) => v.clone_into(&mut values[at]),
                other => return Err(mismatch(other, DType::Text)),
            },
        }
        Ok(())
    }

    /// Sets the element that stands for a missing value: NaN in a float column, else `value`, as a boolean or a number.
    ///
    /// # Errors
    /// As [`Column::set`]; a manifest is checked for it when it is read.
    pub fn set_default(&mut self, at: usize, value: f64) -> Result<(), String> {
        match self {
            Self::F16(values) if value.is_nan() => values[at] = f16::NAN,
            Self::BF16(values) if value.is_nan() => values[at] = bf16::NAN,
            Self::F32(values) if value.is_nan() => values[at] = f32::NAN,
            Self::F64(values) if value.is_nan() => values[at] = f64::NAN,
            Self::Bool(values) => values[at] = value != 0.0,
            _ => self.set(at, Scalar::Float(value))?,
        }
        Ok(())
    }
}

fn mismatch(value: Scalar<'_>, dtype: DType) -> String {
    let what = match value {
        Scalar::Int(v) => format!("the number {v}"),
        Scalar::Float(v) => format!("the number {v}"),
        Scalar::Bool(_) => "a boolean".into(),
        Scalar::Text(_) => "a string".into(),
    };
    format!("is {what}, the model takes {}", dtype.noun())
}

/// The elements of some rows of an array in standard layout; none when it has no such rows.
#[must_use]
pub fn rows_of<T>(array: &ArrayD<T>, rows: Range<usize>) -> &[T] {
    let row: usize = array.shape().iter().skip(1).product();
    array.as_slice().and_then(|values| values.get(rows.start * row..rows.end * row)).unwrap_or_default()
}

/// Puts the rows of several runs' tensors under one another, tensor by tensor; `None` when shapes or types differ.
#[must_use]
pub fn stack<'a>(runs: impl Iterator<Item = &'a [Tensor]> + Clone) -> Option<Vec<Tensor>> {
    let count = runs.clone().next()?.len();
    (0..count).map(|i| Tensor::concat(runs.clone().map(|tensors| &tensors[i]))).collect()
}

/// Whether the rows of two runs' tensors have the same shapes, so that they may share a run.
#[must_use]
pub fn same_rows(a: &[Tensor], b: &[Tensor]) -> bool {
    a.iter().zip(b).all(|(a, b)| a.shape()[1..] == b.shape()[1..])
}

/// The memory that tensors take for their elements, in bytes.
#[must_use]
pub fn weight(tensors: &[Tensor]) -> usize {
    let of = |tensor: &Tensor| {
        let elements: usize = tensor.shape().iter().product();
        match tensor {
            Tensor::Text(texts) => texts.iter().map(|text| size_of::<String>() + text.len()).sum(),
            Tensor::Bool(_) | Tensor::I8(_) | Tensor::U8(_) => elements,
            Tensor::F16(_) | Tensor::BF16(_) | Tensor::I16(_) | Tensor::U16(_) => 2 * elements,
            Tensor::F32(_) | Tensor::I32(_) | Tensor::U32(_) => 4 * elements,
            Tensor::F64(_) | Tensor::I64(_) | Tensor::U64(_) => 8 * elements,
        }
    };
    tensors.iter().map(of).sum()
}

impl DType {
    /// What a person sends for it.
    #[must_use]
    pub const fn noun(self) -> &'static str {
        match self {
            Self::F16 | Self::BF16 | Self::F32 | Self::F64 => "a number",
            Self::Bool => "true or false",
            Self::Text => "a string",
            _ => "a whole number",
        }
    }

    /// Whether values of this type are floating point numbers.
    #[must_use]
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::BF16 | Self::F32 | Self::F64)
    }
}

impl Tensor {
    /// The number of rows: the first dimension, or `None` for a scalar.
    #[must_use]
    pub fn rows(&self) -> Option<usize> {
        self.shape().first().copied()
    }

    /// The elements as numbers, row-major: booleans are 0 and 1, strings have none.
    #[must_use]
    pub fn numbers(&self) -> Option<Vec<f64>> {
        fn cast<T: Copy>(array: &ArrayD<T>, to: impl Fn(T) -> f64) -> Option<Vec<f64>> {
            Some(array.iter().map(|v| to(*v)).collect())
        }
        #[expect(clippy::cast_precision_loss, reason = "for comparison with a tolerance only")]
        match self {
            Self::F16(a) => cast(a, f64::from),
            Self::BF16(a) => cast(a, f64::from),
            Self::F32(a) => cast(a, f64::from),
            Self::F64(a) => cast(a, |v| v),
            Self::I8(a) => cast(a, f64::from),
            Self::I16(a) => cast(a, f64::from),
            Self::I32(a) => cast(a, f64::from),
            Self::I64(a) => cast(a, |v| v as f64),
            Self::U8(a) => cast(a, f64::from),
            Self::U16(a) => cast(a, f64::from),
            Self::U32(a) => cast(a, f64::from),
            Self::U64(a) => cast(a, |v| v as f64),
            Self::Bool(a) => cast(a, |v| f64::from(u8::from(v))),
            Self::Text(_) => None,
        }
    }

    /// A tensor of small values: element `i` is `value(i)` as far as the type holds it. Text is empty.
    #[must_use]
    pub fn filled(dtype: DType, shape: &[usize], value: impl Fn(usize) -> f64) -> Option<Self> {
        let mut column = Column::new(dtype);
        let count = shape.iter().product();
        column.grow(count);
        for i in 0..count {
            // Where the value does not fit the type, a zero serves.
            drop(column.set_default(i, value(i)));
        }
        column.into_tensor(shape)
    }

    /// A tensor of text: element `i` is `text(i)`.
    #[must_use]
    pub fn texts(shape: &[usize], text: impl Fn(usize) -> String) -> Option<Self> {
        let count = shape.iter().product();
        ArrayD::from_shape_vec(IxDyn(shape), (0..count).map(text).collect()).ok().map(Self::Text)
    }

    /// The first row that holds a NaN or an infinity, if any does.
    #[must_use]
    pub fn first_non_finite_row(&self) -> Option<usize> {
        fn find<T: Copy>(array: &ArrayViewD<'_, T>, finite: impl Fn(T) -> bool) -> Option<usize> {
            let values = array.as_slice()?;
            let at = values.iter().position(|v| !finite(*v))?;
            Some(at / (values.len() / array.shape().first().copied().unwrap_or(1)))
        }
        match self {
            Self::F16(a) => find(&a.view(), f16::is_finite),
            Self::BF16(a) => find(&a.view(), bf16::is_finite),
            Self::F32(a) => find(&a.view(), f32::is_finite),
            Self::F64(a) => find(&a.view(), f64::is_finite),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn concat_keeps_order_and_refuses_other_shapes() {
        let a = Tensor::from(array![[1.0_f32, 2.0]].into_dyn());
        let b = Tensor::from(array![[3.0_f32, 4.0], [5.0, 6.0]].into_dyn());
        let all = Tensor::concat([&a, &b].into_iter()).expect("same shape");
        assert_eq!(all, Tensor::from(array![[1.0_f32, 2.0], [3.0, 4.0], [5.0, 6.0]].into_dyn()));
        assert_eq!(all.slice_rows(1..3), b);
        let wide = Tensor::from(array![[1.0_f32, 2.0, 3.0]].into_dyn());
        assert_eq!(Tensor::concat([&a, &wide].into_iter()), None);
        let other = Tensor::from(array![[1_i64, 2]].into_dyn());
        assert_eq!(Tensor::concat([&a, &other].into_iter()), None);
    }

    #[test]
    fn non_finite_row_is_found() {
        let t = Tensor::from(array![[1.0_f32, 2.0], [3.0, f32::NAN]].into_dyn());
        assert_eq!(t.first_non_finite_row(), Some(1));
        let t = Tensor::from(array![1_i64, 2].into_dyn());
        assert_eq!(t.first_non_finite_row(), None);
    }

    #[test]
    fn a_transposed_array_is_put_in_standard_layout() {
        let t = Tensor::from(array![[1.0_f32, 2.0], [3.0, 4.0]].reversed_axes().into_dyn());
        assert_eq!(Tensor::concat(std::iter::once(&t)).expect("contiguous").numbers(), Some(vec![1.0, 3.0, 2.0, 4.0]));
    }
}
