//! The instructions that fixed work takes stay what is noted in `benches/instructions.json`, for the profile of tests, on
//! Linux and x86-64.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::{path::Path, process::Command};

/// Leaves the test out, where valgrind cannot be.
const WITHOUT: &str = "ONNXD_TEST_WITHOUT_VALGRIND";

#[test]
fn the_instructions_of_fixed_work_are_as_noted() {
    if std::env::var_os(WITHOUT).is_some_and(|value| value == "1") {
        return;
    }
    let found = Command::new("valgrind").arg("--version").output();
    assert!(found.is_ok(), "valgrind is missing: apt-get install valgrind, or set {WITHOUT}=1 to leave this test out");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("benches/ lies in the project");
    let counted = Command::new(env!("CARGO_BIN_EXE_benches")).arg("instructions").current_dir(root).output();
    let counted = counted.expect("the program was built");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(counted.status.success(), "{}\n{}", text(&counted.stdout), text(&counted.stderr));
}
