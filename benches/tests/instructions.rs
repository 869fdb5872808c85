//! The instructions that fixed work takes stay what is noted in `benches/instructions.json`, for the profile of tests.

use std::{path::Path, process::Command};

#[test]
fn the_instructions_of_fixed_work_are_as_noted() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("benches/ lies in the project");
    let counted = Command::new(env!("CARGO_BIN_EXE_benches")).arg("instructions").current_dir(root).output();
    let counted = counted.expect("the program was built");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(counted.status.success(), "{}\n{}", text(&counted.stdout), text(&counted.stderr));
}
