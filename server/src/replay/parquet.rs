//! Parquet with flat columns, of which only those that are used are read, page by page.

use std::fs::File;
use std::sync::Arc;

use parquet::basic::{LogicalType, TimeUnit};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use parquet::record::reader::RowIter;
use parquet::schema::types::Type;

use super::cell::Cell;
use super::input::{Reader, Unknown};
use super::rows::{Batch, Column, Plan};

/// Seconds of a day.
const DAY: f64 = 86400.0;

pub(super) struct Parquet {
    rows: RowIter<'static>,
    /// Each column that is used, and what its whole numbers are to be divided by.
    columns: Vec<(Column, Option<f64>)>,
    row: u64,
    count: u64,
    bytes: u64,
    unknown: Unknown,
    names_series: bool,
}

impl Parquet {
    /// Reads the file's own description.
    ///
    /// # Errors
    /// One sentence.
    pub(super) fn open(file: File, bytes: u64, plan: &Plan) -> Result<Self, String> {
        let reader = SerializedFileReader::new(file).map_err(|e| format!("it cannot be read as Parquet: {e}"))?;
        let metadata = reader.metadata().file_metadata();
        let count = u64::try_from(metadata.num_rows()).unwrap_or(0);
        let root = metadata.schema_descr().root_schema().clone();
        let names: Vec<String> = root.get_fields().iter().map(|field| field.name().to_owned()).collect();
        plan.check(&names)?;
        let (mut columns, mut used, mut unknown) = (vec![], vec![], Unknown::default());
        for field in root.get_fields() {
            let column = plan.column(field.name());
            if column.is_unknown() {
                unknown.add(field.name());
                continue;
            }
            if !field.is_primitive() {
                return Err(format!("the column {} holds lists or groups: flat columns are read", field.name()));
            }
            columns.push((column, parts(field)));
            used.push(Arc::clone(field));
        }
        let wanted = Type::group_type_builder(root.name()).with_fields(used).build();
        let rows = RowIter::from_file_into(Box::new(reader));
        let rows = wanted.and_then(|wanted| rows.project(Some(wanted)));
        let rows = rows.map_err(|e| format!("its columns cannot be read: {e}"))?;
        let names_series = plan.names_series(&names);
        Ok(Self { rows, columns, row: 0, count, bytes, unknown, names_series })
    }
}

/// What a column's whole numbers are parts of, where they are times that the reader does not take for such.
fn parts(field: &Type) -> Option<f64> {
    let Some(LogicalType::Timestamp(time)) = field.get_basic_info().logical_type_ref() else { return None };
    Some(match time.unit {
        TimeUnit::MILLIS => 1e3,
        TimeUnit::MICROS => 1e6,
        TimeUnit::NANOS => 1e9,
    })
}

impl Reader for Parquet {
    fn next(&mut self, plan: &Plan, batch: &mut Batch) -> Result<bool, String> {
        let Some(row) = self.rows.next() else { return Ok(false) };
        self.row += 1;
        let number = self.row;
        let place = |e: String| format!("row {number}: {e}");
        let row = row.map_err(|e| place(e.to_string()))?;
        batch.begin(number);
        for ((_, value), (column, parts)) in row.get_column_iter().zip(&self.columns) {
            cell(value, *parts).and_then(|cell| batch.put(column, cell)).map_err(place)?;
        }
        batch.end(plan).map(|()| true).map_err(place)
    }

    fn unknown(&self) -> &Unknown {
        &self.unknown
    }

    fn names_series(&self) -> bool {
        self.names_series
    }

    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "for a bar"
    )]
    fn done(&self) -> u64 {
        (self.bytes as f64 * self.row as f64 / self.count.max(1) as f64) as u64
    }
}

#[expect(clippy::cast_precision_loss, reason = "times are taken to the second")]
fn cell(field: &Field, parts: Option<f64>) -> Result<Cell<'_>, String> {
    Ok(match field {
        Field::Null => Cell::Missing,
        Field::Bool(value) => Cell::Bool(*value),
        Field::Byte(value) => Cell::Whole((*value).into()),
        Field::Short(value) => Cell::Whole((*value).into()),
        Field::Int(value) => Cell::Whole((*value).into()),
        Field::Long(value) => {
            parts.map_or_else(|| Cell::Whole((*value).into()), |parts| Cell::Time(*value as f64 / parts))
        }
        Field::UByte(value) => Cell::Whole((*value).into()),
        Field::UShort(value) => Cell::Whole((*value).into()),
        Field::UInt(value) => Cell::Whole((*value).into()),
        Field::ULong(value) => Cell::Whole((*value).into()),
        Field::Float16(value) => Cell::Single(value.to_f32()),
        Field::Float(value) => Cell::Single(*value),
        Field::Double(value) => Cell::Float(*value),
        Field::Str(value) => Cell::Text(value),
        Field::Bytes(value) => match std::str::from_utf8(value.data()) {
            Ok(text) => Cell::Text(text),
            Err(_) => return Err("it holds bytes that are no text".into()),
        },
        Field::Date(days) => Cell::Time(f64::from(*days) * DAY),
        Field::TimestampMillis(value) => Cell::Time(*value as f64 / 1e3),
        Field::TimestampMicros(value) => Cell::Time(*value as f64 / 1e6),
        _ => return Err("it holds a value of a kind that no model takes".into()),
    })
}
