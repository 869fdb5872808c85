//! What was measured in this run, beside its floors: a figure alone says more of the machine than of the server.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context as _, Result};
use serde_json::Value;

/// What is divided by its floors.
const OURS: &str = "onnxd";

/// Prints the medians of what was measured since `started`, and how many times as long as each floor it took. Where nothing
/// was measured, as in tests, it prints nothing.
pub(crate) fn print(folder: &Path, started: SystemTime) -> Result<()> {
    let mut heading = Some(());
    for work in folders(folder)?.iter().flat_map(|group| folders(group)).flatten() {
        let Some(ours) = median(&work.join(OURS), started)? else { continue };
        for floor in folders(&work)? {
            let Some(alone) = median(&floor, started)?.filter(|_| !floor.ends_with(OURS)) else { continue };
            if heading.take().is_some() {
                println!("{:<46} {:>12}   {:>12}   ratio  floor", "medians in microseconds", "onnxd", "floor");
            }
            let name = work.strip_prefix(folder).unwrap_or(&work).display();
            let floor = floor.file_name().unwrap_or_default().to_string_lossy();
            println!("{name:<46} {:>12.2}   {:>12.2}   {:>5.2}  {floor}", ours / 1e3, alone / 1e3, ours / alone);
        }
    }
    Ok(())
}

/// The folders in a folder, by name; none if there is no such folder yet.
fn folders(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        entries => entries?,
    };
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    paths.retain(|path| path.is_dir());
    paths.sort();
    Ok(paths)
}

/// Nanoseconds, if it was measured since then.
fn median(measured: &Path, started: SystemTime) -> Result<Option<f64>> {
    let path = measured.join("new/estimates.json");
    let Ok(written) = fs::metadata(&path).and_then(|metadata| metadata.modified()) else { return Ok(None) };
    if written < started {
        return Ok(None);
    }
    let estimates: Value = serde_json::from_slice(&fs::read(&path)?)?;
    let median = estimates["median"]["point_estimate"].as_f64();
    Ok(Some(median.with_context(|| format!("{} has no median", path.display()))?))
}
