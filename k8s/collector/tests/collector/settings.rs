//! Flags, environment, and files that are wrong.

use std::fs;

use crate::process::{collector, folder};

#[test]
fn the_default_sources_are_shown_and_may_be_a_file_again() {
    let (code, shown, _) = collector(&["run", "--print-config"]);
    assert_eq!(code, 0);
    assert_eq!(shown, collector::sources::DEFAULT);
    let folder = folder();
    let file = folder.path().join("sources.toml");
    fs::write(&file, shown.replace("name = \"pods\"", "name = \"mine\"")).expect("a file");
    let (code, again, _) = collector(&["run", "--print-config", "--sources", &file.display().to_string()]);
    assert_eq!((code, again.contains("\"mine\"")), (0, true));
}

#[test]
fn sources_that_are_wrong_are_named() {
    let folder = folder();
    let path = folder.path().join("sources.toml");
    let file = path.display().to_string();
    let source = "[[sources]]\nname = \"a\"\nlabels = [\"pod\"]\ncpu = \"1\"\nmemory = \"1\"\ndisk_io = \"1\"\n";
    for (text, message) in [
        ("sources = []", "there is no source"),
        (&source.replace("cpu = \"1\"", "cpu = \" \""), "source \"a\": cpu is empty"),
        (&source.replace("[\"pod\"]", "[]"), "source \"a\": labels is empty"),
        (&source.repeat(2), "two sources have the name \"a\""),
        (&source.replace("cpu", "cpus"), "unknown field `cpus`"),
    ] {
        fs::write(&path, text).expect("a file");
        let (code, _, err) = collector(&["run", "--sources", &file]);
        assert_eq!(code, 2, "{err}");
        assert!(err.contains(&file) && err.contains(message), "{message} is not in: {err}");
    }
}

#[test]
fn all_mistakes_are_told_at_once() {
    let (code, _, err) = collector(&["run", "--step", "1500ms", "--timeout", "20s", "--rows-every", "1ms"]);
    assert_eq!(code, 2);
    for message in ["step is 1.5s", "timeout is 20s: write less than the step", "rows-every is 1ms"] {
        assert!(err.contains(message), "{err}");
    }
    for (flag, value, message) in [
        ("--server", "ftp://a", "write http://host:port"),
        ("--model", "a/b", "letters, digits"),
        ("--max-series", "0", "write a whole number from 1"),
        ("--ops", "8083", "write an address and a port"),
    ] {
        let (code, _, err) = collector(&["run", flag, value]);
        assert_eq!(code, 2);
        assert!(err.contains(message), "{err}");
    }
    let (code, _, err) = collector(&["run", "--rows", "gs://bucket/a"]);
    assert_eq!(code, 1);
    assert!(err.contains("gs://bucket/a: rows go to a folder, or to s3://bucket/prefix"), "{err}");
}

#[test]
fn help_teaches_and_names_the_environment() {
    let (_, help, _) = collector(&["run", "--help"]);
    for text in ["COLLECTOR_PROMETHEUS", "COLLECTOR_ROWS", "[default: 127.0.0.1:8083]", "--print-config", "Example:"] {
        assert!(help.contains(text), "{text} is not in:\n{help}");
    }
    let (_, help, _) = collector(&["replay", "--help"]);
    assert!(help.contains("--event-time") && help.contains("memory_percent"), "{help}");
}
