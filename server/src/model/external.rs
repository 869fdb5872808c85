//! Weights outside of the ONNX file: whether each tensor that refers to a file lies inside one that is listed.
//!
//! ONNX Runtime gets the files from memory by their names, and reads nothing else. It checks some of this itself; here
//! each refusal names the tensor and says what to do.

use super::onnx::TensorProto;

/// `TensorProto.DataLocation.EXTERNAL`
const EXTERNAL: i32 = 1;

/// The files that a graph may refer to.
pub(super) struct Files<'a> {
    listed: Vec<Listed<'a>>,
}

struct Listed<'a> {
    name: &'a str,
    bytes: u64,
    used: bool,
}

/// Where a tensor says that its values are.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Place<'a> {
    pub(super) location: Option<&'a str>,
    offset: Option<&'a str>,
    length: Option<&'a str>,
}

impl Place<'_> {
    /// Where it begins in the file.
    pub(super) fn offset(&self) -> Option<u64> {
        self.offset?.parse().ok()
    }
}

impl<'a> Files<'a> {
    /// Names and sizes, as the manifest lists them.
    pub(super) fn new(files: &[(&'a str, u64)]) -> Self {
        Self { listed: files.iter().map(|(name, bytes)| Listed { name, bytes: *bytes, used: false }).collect() }
    }

    /// Checks one tensor; nothing is to be checked of one that holds its values itself.
    ///
    /// # Errors
    /// One sentence that names the tensor.
    pub(super) fn check(&mut self, tensor: &TensorProto) -> Result<(), String> {
        if !is_external(tensor) {
            return Ok(());
        }
        let name = &tensor.name;
        let place = place(tensor).map_err(|e| format!("weights {name:?}: {e}"))?;
        let location = place.location.ok_or_else(|| format!("weights {name:?}: external_data has no location"))?;
        let Some(file) = self.listed.iter_mut().find(|f| f.name == location) else {
            return Err(if self.listed.is_empty() {
                format!(
                    "weights {name:?} lie in another file, {location:?} (external data), which is served with a manifest \
                     only: `onnxd push` the model, or add a manifest whose artifact.external_data lists the file"
                )
            } else {
                format!(
                    "weights {name:?} lie in {location:?}, which the manifest's artifact.external_data does not list"
                )
            });
        };
        file.used = true;
        let number = |key: &str, text: Option<&str>| {
            let wrong = |text| format!("weights {name:?}: the {key} {text:?} is not a whole number");
            text.map(|text| text.parse::<u64>().map_err(|_| wrong(text))).transpose()
        };
        let size = size(tensor).ok_or_else(|| {
            format!(
                "weights {name:?}: values of this type or shape cannot lie in another file: save the model as one file"
            )
        })?;
        if let Some(length) = number("length", place.length)?.filter(|length| *length != size) {
            return Err(format!(
                "weights {name:?} say that they have {length} bytes in {location:?}, their type and shape make {size}"
            ));
        }
        let offset = number("offset", place.offset)?.unwrap_or(0);
        if offset.checked_add(size).is_none_or(|end| end > file.bytes) {
            return Err(format!(
                "weights {name:?} reach beyond the end of {location:?}: {size} bytes from {offset}, the file has {}",
                file.bytes
            ));
        }
        Ok(())
    }

    /// The files that no tensor referred to.
    pub(super) fn unused(&self) -> impl Iterator<Item = &'a str> {
        self.listed.iter().filter(|f| !f.used).map(|f| f.name)
    }
}

pub(super) const fn is_external(tensor: &TensorProto) -> bool {
    tensor.data_location == EXTERNAL
}

/// Reads a tensor's `external_data`.
///
/// # Errors
/// A key that is there twice, which one reader may take for the first and another for the last, or that is unknown.
pub(super) fn place(tensor: &TensorProto) -> Result<Place<'_>, String> {
    let mut place = Place::default();
    for entry in &tensor.external_data {
        let to = match entry.key.as_str() {
            "location" => &mut place.location,
            "offset" => &mut place.offset,
            "length" => &mut place.length,
            // A SHA-1 that nobody writes; the manifest's SHA-256 covers the whole file.
            "checksum" => continue,
            // ONNX Runtime refuses most of them; those that it knows (`prepacked_..`) name bytes that it would trust.
            key => {
                return Err(format!("external_data has the key {key:?}: save the model with location, offset, length"));
            }
        };
        if to.replace(entry.value.as_str()).is_some() {
            return Err(format!("external_data has two values for {:?}", entry.key));
        }
    }
    Ok(place)
}

/// Bytes of a tensor's values by its type and shape; `None` for types that have no fixed size.
pub(super) fn size(tensor: &TensorProto) -> Option<u64> {
    let bits: u64 = match tensor.data_type {
        2 | 3 | 9 | 17..=20 | 24 => 8,
        4 | 5 | 10 | 16 => 16,
        1 | 6 | 12 => 32,
        7 | 11 | 13 | 14 => 64,
        15 => 128,
        21..=23 => 4,
        _ => return None,
    };
    let count = tensor.dims.iter().try_fold(1_u64, |count, dim| count.checked_mul(u64::try_from(*dim).ok()?))?;
    count.checked_mul(bits).map(|bits| bits.div_ceil(8))
}

#[cfg(test)]
mod tests {
    use super::super::onnx::StringEntry;
    use super::*;

    fn tensor(dims: &[i64], entries: &[(&str, &str)]) -> TensorProto {
        let entry = |(key, value): &(&str, &str)| StringEntry { key: (*key).into(), value: (*value).into() };
        TensorProto {
            name: "w".into(),
            data_type: 1,
            dims: dims.to_vec(),
            data_location: EXTERNAL,
            external_data: entries.iter().map(entry).collect(),
            ..TensorProto::default()
        }
    }

    fn check(tensor: &TensorProto) -> Result<(), String> {
        Files::new(&[("w.bin", 16)]).check(tensor)
    }

    #[test]
    fn a_tensor_inside_a_listed_file_passes() {
        for entries in [
            &[("location", "w.bin")][..],
            &[("location", "w.bin"), ("offset", "8")],
            &[("location", "w.bin"), ("offset", "8"), ("length", "8"), ("checksum", "00")],
        ] {
            assert_eq!(check(&tensor(&[2], entries)), Ok(()), "{entries:?}");
        }
        let four_bits = TensorProto { data_type: 22, ..tensor(&[31], &[("location", "w.bin")]) };
        assert_eq!(check(&four_bits), Ok(()));
    }

    #[test]
    fn a_tensor_elsewhere_is_refused() {
        let max = u64::MAX.to_string();
        let text = TensorProto { data_type: 8, ..tensor(&[2], &[("location", "w.bin")]) };
        let w = ("location", "w.bin");
        for (tensor, reason) in [
            (tensor(&[2], &[]), "no location"),
            (tensor(&[2], &[("location", "../w.bin")]), "does not list"),
            (tensor(&[2], &[("location", "/etc/passwd")]), "does not list"),
            (tensor(&[2], &[("location", "./w.bin")]), "does not list"),
            (tensor(&[2], &[("location", "*/_ORT_MEM_ADDR_/*"), ("offset", "4096")]), "does not list"),
            (tensor(&[5], &[w]), "beyond the end"),
            (tensor(&[2], &[w, ("offset", "9")]), "beyond the end"),
            (tensor(&[2], &[w, ("offset", &max)]), "beyond the end"),
            (tensor(&[2], &[w, ("offset", "-8")]), "not a whole number"),
            (tensor(&[2], &[w, ("offset", "")]), "not a whole number"),
            (tensor(&[2], &[w, ("length", "4")]), "have 4 bytes"),
            (tensor(&[2], &[w, w]), "two values"),
            (tensor(&[2], &[w, ("offset", "8"), ("offset", "0")]), "two values"),
            (tensor(&[2], &[w, ("basepath", "/")]), "basepath"),
            (tensor(&[2], &[w, ("prepacked_0", "0|4")]), "prepacked_0"),
            (tensor(&[-1], &[w]), "type or shape"),
            (tensor(&[i64::MAX, i64::MAX], &[w]), "type or shape"),
            (tensor(&[1 << 62, 2], &[w]), "type or shape"),
            (text, "type or shape"),
        ] {
            let told = check(&tensor).expect_err(reason);
            assert!(told.contains(reason), "{tensor:?}: {told}");
        }
        let told = Files::new(&[]).check(&tensor(&[2], &[w])).expect_err("no manifest");
        assert!(told.contains("onnxd push") && told.contains("external_data"), "{told}");
    }

    #[test]
    fn files_that_nothing_refers_to_are_told() {
        let mut files = Files::new(&[("a", 8), ("b", 8)]);
        files.check(&tensor(&[2], &[("location", "b")])).expect("inside");
        assert_eq!(files.unused().collect::<Vec<_>>(), ["a"]);
    }
}
