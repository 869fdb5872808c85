//! How many instructions fixed work takes, as valgrind counts them: it depends on no clock and on no other process, so a
//! test can hold the server to it.

use std::{collections::BTreeMap, fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail, ensure};

use crate::work::KINDS;

/// How much more, or less, than noted is let pass: hash seeds and processors differ.
const TOLERANCE: f64 = 0.05;

/// Counts the instructions of fixed work, and compares them with the noted ones.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The notes: instructions by the name of the work. They are of one build profile.
    #[arg(long, default_value = "benches/instructions.json")]
    notes: PathBuf,
    /// The folder of the version to serve.
    #[arg(long, default_value = "models/anomaly/1")]
    version: PathBuf,
    /// Write the notes anew instead of comparing.
    #[arg(long)]
    note: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut counted = count(&arguments.version)?;
    // Threads that now and then look after something can only add to it.
    for (name, again) in count(&arguments.version)? {
        counted.entry(name).and_modify(|counted| *counted = again.min(*counted));
    }
    if arguments.note {
        fs::write(&arguments.notes, serde_json::to_string_pretty(&counted)? + "\n")?;
    }
    let noted = fs::read(&arguments.notes).with_context(|| arguments.notes.display().to_string())?;
    let noted: BTreeMap<String, u64> = serde_json::from_slice(&noted)?;
    println!("{:<40} {:>12} {:>12} {:>7}", "instructions of", "counted", "noted", "");
    let mut off = vec![];
    for kind in &KINDS {
        let counted = counted[kind.name];
        let Some(&noted) = noted.get(kind.name) else { bail!("{:?} is not noted: run with --note", kind.name) };
        let ratio = counted as f64 / noted as f64;
        println!("{:<40} {counted:>12} {noted:>12} {:>+6.1}%", kind.name, 100.0 * (ratio - 1.0));
        if (ratio - 1.0).abs() > TOLERANCE {
            off.push(format!("{:?} takes {counted} instructions, noted are {noted}", kind.name));
        }
    }
    let of = |name| counted[name] as f64;
    let ours = of("answer a request") - of("run the model on a row");
    let ratio = ours / of("answer a request by an echo");
    println!("without the model's run, a request takes {ratio:.2} times the instructions of the echo's");
    ensure!(off.is_empty(), "{}: find out why; if it is meant to be so, note it with --note", off.join("; "));
    Ok(())
}

/// Instructions by the name of the work, each time.
fn count(version: &std::path::Path) -> Result<BTreeMap<&'static str, u64>> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("counts");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--dump-before=*counting_turns*"])
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(std::env::current_exe()?)
        .arg("work")
        .arg(version)
        .output()
        .context("valgrind counts the instructions: install it (apt install valgrind)")?;
    ensure!(output.status.success(), "the work failed: {}", String::from_utf8_lossy(&output.stderr));
    let mut counts = vec![];
    // What is written at every other turn was counted since the work began.
    for part in (2..).step_by(2) {
        let Ok(text) = fs::read_to_string(file.with_extension(part.to_string())) else { break };
        let total = text.lines().find_map(|line| line.strip_prefix("totals:")).context("a count without a total")?;
        counts.push(total.trim().parse::<u64>()?);
    }
    ensure!(counts.len() == KINDS.len(), "{} of {} kinds of work were counted", counts.len(), KINDS.len());
    Ok(KINDS.iter().zip(counts).map(|(kind, count)| (kind.name, count / kind.times as u64)).collect())
}
