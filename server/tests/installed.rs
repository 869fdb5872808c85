//! The program as pip, pipx and uv install it: in a Python environment, beside the wheel of ONNX Runtime.

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

use common::Server;
use common::repo::{Repo, row};
use tempfile::TempDir;

/// A Python environment with the program. It is on the file system of the program, which is linked and not copied.
fn environment() -> (TempDir, PathBuf) {
    let folder = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let program = folder.path().join("bin/onnxd");
    fs::create_dir(folder.path().join("bin")).expect("a folder");
    fs::hard_link(env!("CARGO_BIN_EXE_onnxd"), &program).expect("a link");
    // Of another Python, without the wheel.
    fs::create_dir_all(folder.path().join("lib/python3.10/site-packages")).expect("a folder");
    (folder, program)
}

/// Without a variable or a flag, and before the `.venv` of the folder that it is started in.
#[test]
fn the_library_of_its_own_environment_is_found() {
    let repo = Repo::serving("good", None);
    let usual = Server::start(repo.path(), &[]);
    let answer = usual.predict(&row(1));
    let library = usual.library();
    let (wheel, name) = (library.parent().expect("a folder"), library.file_name().expect("a name"));
    for site in ["lib/python3.11/site-packages", "lib64/python3.14/site-packages", "lib/python3/dist-packages"] {
        let (folder, program) = environment();
        let capi = folder.path().join(site).join("onnxruntime/capi");
        fs::create_dir_all(capi.parent().expect("a folder")).expect("a folder");
        symlink(wheel, &capi).expect("a link");
        let server = Server::start_copy(&program, repo.path());
        assert_eq!(server.library(), capi.join(name), "{site}");
        assert_eq!(server.predict(&row(1)), answer, "{site}");
    }
}

#[test]
fn without_a_library_it_says_what_to_install() {
    let repo = Repo::serving("good", None);
    let (folder, program) = environment();
    let mut command = Command::new(program);
    command.arg("serve").arg(repo.path()).current_dir(folder.path()).env_clear();
    let output = command.output().expect("it runs");
    let errors = String::from_utf8(output.stderr).expect("text");
    assert!(!output.status.success(), "{errors}");
    assert!(errors.contains("ONNX Runtime 1.31 or newer was not found"), "{errors}");
    assert!(errors.contains("`pip install onnxruntime`"), "{errors}");
    assert!(errors.contains("the environment that onnxd is installed in"), "{errors}");
}
