//! How much disk an installed server takes.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// The bytes of all files below a folder. What a link points to is not counted: the Python that an environment links
/// to belongs to no server.
pub(super) fn of(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("no {}", folder.display()))? {
            let (path, kind) = entry.map(|entry| (entry.path(), entry.file_type()))?;
            let kind = kind?;
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                bytes += fs::metadata(path)?.len();
            }
        }
    }
    Ok(bytes)
}

/// The ONNX Runtime that onnxd loaded, as its log tells.
pub(super) fn library(log: &str) -> Option<PathBuf> {
    let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    lines.filter_map(|line| line.get("library")?.as_str().map(PathBuf::from)).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_count_and_links_do_not() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("a")).expect("it is made");
        fs::write(folder.path().join("a/b"), [0; 1000]).expect("it is written");
        fs::write(folder.path().join("c"), [0; 24]).expect("it is written");
        std::os::unix::fs::symlink(folder.path().join("c"), folder.path().join("d")).expect("it is linked");
        assert_eq!(of(folder.path()).expect("it can be read"), 1024);
    }

    #[test]
    fn the_library_is_named_in_the_log() {
        let log = "not JSON\n{\"message\":\"a\"}\n{\"library\":\"/x/libonnxruntime.so\"}\n";
        assert_eq!(library(log), Some(PathBuf::from("/x/libonnxruntime.so")));
        assert_eq!(library(""), None);
    }
}
