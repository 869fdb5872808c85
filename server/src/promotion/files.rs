//! Reads what a push names. A model comes from anywhere: the files that it names are taken from beside it only, so that none
//! of its author's choosing ends in a repository.

use std::io::Read;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rustix::fs::OFlags;

use crate::inspect::is_plain_name;
use crate::model::manifest::BESIDE;
use crate::model::{External, facts};
use crate::source::{MANIFEST, MANIFEST_BYTES, MODEL, SIGNATURE, open_regular};

/// Reads a model and the files of weights that it names, `most` bytes together.
///
/// # Errors
/// One sentence that says what to do.
pub(super) fn model(path: &Path, most: u64) -> Result<(Bytes, Vec<External>), String> {
    let shown = path.display();
    let mut left = most;
    let onnx: Bytes = match read(path, left) {
        Ok(bytes) => bytes.into(),
        Err(Unread::Large) => return Err(too_large(path, most)),
        Err(Unread::Other(reason)) => return Err(format!("{shown}: {reason}: name an .onnx file that can be read")),
    };
    left = left.saturating_sub(onnx.len() as u64);
    let facts = facts::read(&onnx, &[]).map_err(|e| format!("{shown}: {e}"))?;
    let mut files = vec![];
    for name in facts.external.into_keys() {
        let bytes = match beside(path, &name).and_then(|real| read(&real, left)) {
            Ok(bytes) => bytes,
            Err(Unread::Large) => return Err(too_large(path, most)),
            Err(Unread::Other(reason)) => return Err(format!("{shown}: its weights lie in {name:?}: {reason}")),
        };
        left = left.saturating_sub(bytes.len() as u64);
        files.push(External { path: name, bytes: bytes.into() });
    }
    Ok((onnx, files))
}

/// Reads the manifest that a user wrote.
///
/// # Errors
/// One sentence that says what to do.
pub(super) fn manifest(path: &Path) -> Result<Vec<u8>, String> {
    let shown = path.display();
    read(path, MANIFEST_BYTES).map_err(|error| {
        let reason = match error {
            Unread::Large => format!("it has more than {MANIFEST_BYTES} bytes"),
            Unread::Other(reason) => reason,
        };
        format!("{shown}: {reason}: name a {MANIFEST}, or leave it out to have it derived from the model")
    })
}

enum Unread {
    /// More bytes than may be read.
    Large,
    Other(String),
}

fn too_large(path: &Path, most: u64) -> String {
    format!(
        "{}: the model has more than {most} bytes, its weights included: raise --model-limit, here and where it is served",
        path.display()
    )
}

/// Where a file lies that a model names.
fn beside(model: &Path, name: &str) -> Result<PathBuf, Unread> {
    if !is_plain_name(name) || [MODEL, MANIFEST, SIGNATURE].contains(&name) {
        let reason = "that is not a name that a file beside the model can have";
        return Err(Unread::Other(format!("{reason}: save the model with {BESIDE}")));
    }
    let missing = |e: std::io::Error| {
        Unread::Other(format!("{}: copy the file beside the model, or save the model with {BESIDE}", reason(&e)))
    };
    let real = model.with_file_name(name).canonicalize().map_err(missing)?;
    let folder = model.canonicalize().map_err(missing)?;
    // Of a model that is itself a link, the weights lie beside what it links to.
    if folder.parent().is_none_or(|folder| !real.starts_with(folder)) {
        let reason = "it links to a place outside of the model's folder: copy the file itself beside the model";
        return Err(Unread::Other(reason.into()));
    }
    Ok(real)
}

/// Reads a regular file of at most `most` bytes; a device or a pipe is never read.
fn read(path: &Path, most: u64) -> Result<Vec<u8>, Unread> {
    let failed = |e: std::io::Error| Unread::Other(reason(&e));
    if path.is_dir() {
        return Err(Unread::Other("that is a folder".into()));
    }
    let (file, metadata) = open_regular(path, OFlags::empty()).map_err(failed)?;
    if metadata.len() > most {
        return Err(Unread::Large);
    }
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
    file.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > most { Err(Unread::Large) } else { Ok(bytes) }
}

fn reason(error: &std::io::Error) -> String {
    if error.kind() == std::io::ErrorKind::NotFound { "there is no such file".into() } else { error.to_string() }
}
