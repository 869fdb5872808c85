//! What a child that tries out a model may reach: nothing but what the system's libraries need.

use std::path::{Path, PathBuf};

/// Folders and files that are read while a model runs: libraries, locales, what the kernel says of CPUs and of this process.
#[cfg(target_os = "linux")]
const READ: [&str; 9] = [
    "/usr",
    "/lib",
    "/lib64",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/proc/self",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/sys/devices/system",
];

/// From here on this thread, and those that it starts, read nothing but libraries, and `more`; write no file, start no program, connect to
/// nobody and look into no other process. Where the kernel has no Landlock (Linux 5.13), or less of it, it is as much as it can.
///
/// Graphics processors are opened as files by drivers of many kinds, so that a child that has one is not confined.
pub(super) fn confine(more: &[PathBuf]) -> Result<(), String> {
    #[cfg(target_os = "linux")]
    {
        use landlock::{
            ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetCreatedAttr, Scope, path_beneath_rules,
        };
        let abi = ABI::V6;
        let read = READ.iter().map(Path::new).chain(more.iter().map(PathBuf::as_path)).filter(|path| path.exists());
        let confined = Ruleset::default()
            .handle_access(AccessFs::from_all(abi))
            .and_then(|rules| rules.handle_access(AccessNet::from_all(abi)))
            .and_then(|rules| rules.scope(Scope::from_all(abi)))
            .and_then(Ruleset::create)
            .and_then(|rules| rules.add_rules(path_beneath_rules(read, AccessFs::ReadFile | AccessFs::ReadDir)))
            // It also gives up all ways to more rights.
            .and_then(|rules| rules.restrict_self());
        confined.map_err(|e| e.to_string())?;
    }
    #[cfg(not(target_os = "linux"))]
    let _ = more;
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::fs;
    use std::io::ErrorKind;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// It holds for the thread that asks, so that others of this program go on.
    #[test]
    fn a_confined_thread_reads_libraries_and_nothing_else() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let folder = tempfile::TempDir::new().expect("a folder");
        let secret = folder.path().join("secret");
        fs::write(&secret, "of the server").expect("written");
        let allowed = tempfile::NamedTempFile::new().expect("a file");
        fs::write(allowed.path(), "a library").expect("written");
        let confined = std::thread::spawn(move || {
            confine(&[allowed.path().into()]).expect("confined");
            let denied = |result: std::io::Result<()>| match result {
                Ok(()) => false,
                Err(error) => error.kind() == ErrorKind::PermissionDenied,
            };
            let parent = format!("/proc/{}/environ", std::os::unix::process::parent_id());
            let written = folder.path().join("new");
            [
                ("a secret", denied(fs::read(&secret).map(drop))),
                ("a new file", denied(fs::write(&written, "x"))),
                ("the parent's environment", denied(fs::read(parent).map(drop))),
                ("a password file", denied(fs::read("/etc/passwd").map(drop))),
                ("a program", denied(std::process::Command::new("/bin/true").status().map(drop))),
                ("a connection", denied(TcpStream::connect(address).map(drop))),
                ("a library", fs::read(allowed.path()).is_ok()),
                ("what it is", fs::read("/proc/self/stat").is_ok()),
            ]
        });
        for (what, holds) in confined.join().expect("no panic") {
            assert!(holds, "{what}");
        }
    }
}
