//! What `push` takes and what it refuses: files, manifests, weights and keys.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::repo::fixture;
use common::root;
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::EncodePrivateKey;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use serde_json::{Value, json};
use tempfile::TempDir;

/// What a command says that ends with this code: its answer, or its complaint.
#[track_caller]
fn onnxd(repository: &Path, args: &[&str], code: i32) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_onnxd"));
    command.args(args).args(["--repository", text(repository)]).current_dir(root());
    let output = command.output().expect("it runs");
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {complaint}");
    if code == 0 { String::from_utf8(output.stdout).expect("text") } else { complaint }
}

fn model(name: &str) -> String {
    fixture(name).to_str().expect("text").into()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

/// Changes a file of JSON.
fn edit(file: &Path, change: impl FnOnce(&mut Value)) {
    let mut value = serde_json::from_slice(&fs::read(file).expect("a file")).expect("JSON");
    change(&mut value);
    fs::write(file, value.to_string()).expect("written");
}

/// The model with its weights in another file, and no manifest, in a folder of its own.
fn bare(change: impl FnOnce(&mut Vec<u8>)) -> (TempDir, PathBuf) {
    let folder = TempDir::new().expect("a folder");
    fs::copy(fixture("external-good/weights.bin"), folder.path().join("weights.bin")).expect("copied");
    let mut onnx = fs::read(fixture("external-good/model.onnx")).expect("a fixture");
    change(&mut onnx);
    let file = folder.path().join("model.onnx");
    fs::write(&file, onnx).expect("written");
    (folder, file)
}

#[test]
fn files_and_settings_that_cannot_be_used_are_told_with_what_to_do() {
    let folder = TempDir::new().expect("a folder");
    let (place, good) = (folder.path(), model("good/model.onnx"));
    let push = |file: &str, more: &[&str]| {
        onnxd(place, &[&["push", file, "--model", "anomaly", "--dry-run"], more].concat(), 1)
    };
    assert!(push(text(&fixture("good")), &[]).contains("that is a folder: name an .onnx file that can be read"));
    assert!(push("nowhere.onnx", &[]).contains("there is no such file: name an .onnx file that can be read"));
    assert!(push("/dev/zero", &[]).contains("not a regular file"));
    assert!(push(&good, &["--manifest", "/dev/zero"]).contains("not a regular file: name a manifest.json"));
    assert!(push(&good, &["--model-limit", "100B"]).contains("raise --model-limit"));
    // Keys are looked at first: a job that cannot sign is told so by a dry run.
    for (key, told) in [("nowhere.pem", "nowhere.pem"), ("README.md", "openssl genpkey")] {
        let said = push("nowhere.onnx", &["--sign-with", key]);
        assert!(said.contains(told) && !said.contains("nowhere.onnx"), "{said}");
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_onnxd"));
    command.args(["push", &good, "--model", "anomaly", "--repository", text(place)]).current_dir(root());
    let output = command.env("ONNXD_ALLOW_SIGNATURE_CHANGE", "yes").output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && said.contains("it must be true or false"), "{said}");
    assert_eq!(fs::read_dir(place).expect("a folder").count(), 0);
}

#[test]
fn a_manifest_that_is_not_of_its_files_is_refused() {
    let folder = TempDir::new().expect("a folder");
    let place = folder.path();
    let written = TempDir::new().expect("a folder");
    let manifest = written.path().join("written.json");
    let push = |from: &str, change: &dyn Fn(&mut Value)| {
        fs::copy(fixture(from).join("manifest.json"), &manifest).expect("copied");
        edit(&manifest, change);
        let file = fixture(from).join("model.onnx");
        onnxd(place, &["push", text(&file), "--model", "anomaly", "--manifest", text(&manifest)], 1)
    };
    assert!(push("good", &|m| *m = json!({"artifact": "x"})).contains("its artifact is not a JSON object"));
    assert!(push("good", &|m| *m = json!([])).contains("it is not a JSON object"));
    assert!(push("good", &|m| m["artifact"]["bytes"] = json!(1)).contains("the manifest is of a file with 1"));
    let external = |key: &'static str, value: Value| {
        push("external-good", &move |m| m["artifact"]["external_data"][0][key] = value.clone())
    };
    assert!(external("bytes", json!(9)).contains("weights.bin has 8 bytes, the manifest says 9"));
    assert!(external("sha256", json!("0".repeat(64))).contains("with another SHA-256"));
    assert!(external("path", json!("other.bin")).contains("other.bin, to which no weights refer"));
    assert!(external("path", json!("a/weigh.bin")).contains("save it with onnx.save_model"));
    assert!(!place.join("anomaly").exists());
    // Of versions that are there, one whose manifest is something else is another model.
    let good = model("good/model.onnx");
    onnxd(place, &["push", &good, "--model", "anomaly"], 0);
    fs::write(place.join("anomaly/1/manifest.json"), "[]").expect("written");
    assert!(onnxd(place, &["push", &good, "--model", "anomaly"], 0).contains("anomaly version 2: added"));
}

/// What a model names is read from beside it, or not at all; and what `inspect` advises works.
#[test]
fn weights_come_from_beside_the_model_only() {
    let folder = TempDir::new().expect("a folder");
    let place = folder.path();
    let inspect = |file: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_onnxd"));
        let output = command.args(["inspect", "--no-run", text(file)]).current_dir(root()).output().expect("it runs");
        String::from_utf8(output.stdout).expect("text")
    };
    let push = |file: &Path| onnxd(place, &["push", text(file), "--model", "anomaly"], 1);
    let resave = "onnx.save_model(model, \"model.onnx\", save_as_external_data=True, location=\"weights.bin\")";
    for name in ["a/weigh.bin", "../weigh.bi", "/etc/passwd", ".weight.bin"] {
        let (_kept, file) = bare(|onnx| {
            let places: Vec<usize> = (0..onnx.len()).filter(|at| onnx[*at..].starts_with(b"weights.bin")).collect();
            assert!(!places.is_empty());
            places.into_iter().for_each(|at| onnx[at..at + 11].copy_from_slice(name.as_bytes()));
        });
        let said = push(&file);
        assert!(said.contains(resave) && said.contains(name), "{said}");
        let said = inspect(&file);
        assert!(said.contains(resave) && !said.contains("-> `onnxd push`"), "{said}");
    }
    let (kept, file) = bare(|_| {});
    let weights = kept.path().join("weights.bin");
    let made = |make: &dyn Fn()| {
        fs::remove_file(&weights).expect("a file");
        make();
        push(&file)
    };
    assert!(made(&|| {}).contains("there is no such file: copy the file beside the model"));
    fs::write(&weights, "").expect("written");
    for target in ["/dev/zero", text(&fixture("external-good/weights.bin"))] {
        let said = made(&|| std::os::unix::fs::symlink(target, &weights).expect("a link"));
        assert!(said.contains("outside of the model's folder"), "{said}");
    }
    let said = made(&|| assert!(Command::new("mkfifo").arg(&weights).status().expect("mkfifo").success()));
    assert!(said.contains("not a regular file"), "{said}");
    let said = made(&|| fs::File::create(&weights).and_then(|file| file.set_len(1 << 40)).expect("a file"));
    assert!(said.contains("raise --model-limit"), "{said}");
    fs::copy(fixture("external-good/weights.bin"), &weights).expect("copied");
    assert!(inspect(&file).contains("-> `onnxd push` writes the manifest"));
    onnxd(place, &["push", text(&file), "--model", "anomaly"], 0);
    assert!(place.join("anomaly/1/weights.bin").exists());
}

#[test]
fn a_version_that_is_there_is_signed_once() {
    let folder = TempDir::new().expect("a folder");
    let (place, keys) = (folder.path(), TempDir::new().expect("a folder"));
    let [first, second] = [1, 2].map(|seed| {
        let pem = SigningKey::from_bytes(&[seed; 32]).to_pkcs8_pem(LineEnding::LF).expect("PEM");
        let file = keys.path().join(format!("{seed}.pem"));
        fs::write(&file, pem.as_bytes()).expect("written");
        text(&file).to_owned()
    });
    let good = model("good/model.onnx");
    let push = ["push", &good, "--model", "anomaly", "--json"];
    let pushed = |more: &[&str]| -> Value {
        serde_json::from_str(&onnxd(place, &[push.as_slice(), more].concat(), 0)).expect("JSON")
    };
    assert_eq!(pushed(&[])["signed"], json!(false));
    let signature = place.join("anomaly/1/manifest.json.sig");
    assert_eq!(pushed(&["--sign-with", &first, "--dry-run"])["signed"], json!(true));
    assert!(!signature.exists());
    let said = pushed(&["--sign-with", &first]);
    assert_eq!((&said["signed"], &said["uploaded"], &said["version"]), (&json!(true), &json!(false), &json!("1")));
    let written = fs::read(&signature).expect("a signature");
    let manifest = place.join("anomaly/1/manifest.json");
    assert_eq!(
        onnxd::source::signing::sign(&fs::read(&manifest).expect("a file"), first.as_ref()),
        Ok(written.clone())
    );
    let said = pushed(&["--sign-with", &first]);
    assert_eq!((&said["signed"], &said["warnings"]), (&json!(false), &json!([])));
    let said = pushed(&["--sign-with", &second]);
    assert!(said["signed"] == json!(false) && said["warnings"][0].as_str().is_some_and(|w| w.contains("another key")));
    assert_eq!(fs::read(&signature).expect("a signature"), written);
    // One that says it belongs elsewhere is not vouched for.
    fs::remove_file(&signature).expect("a file");
    edit(&manifest, |manifest| manifest["name"] = json!("payments"));
    let said = onnxd(place, &["push", &good, "--model", "anomaly", "--sign-with", &first], 1);
    assert!(said.contains("is of payments version 1, so it is not signed"), "{said}");
    assert!(!signature.exists());
}

#[test]
fn a_number_that_is_asked_for_is_taken_once() {
    let folder = TempDir::new().expect("a folder");
    let place = folder.path();
    let push = |file: &str, number: &str, code: i32| {
        onnxd(place, &["push", &model(file), "--model", "anomaly", "--number", number, "--json"], code)
    };
    let pushed = |said: String| serde_json::from_str::<Value>(&said).expect("JSON");
    let first = pushed(push("good/model.onnx", "7", 0));
    assert_eq!((&first["version"], &first["uploaded"]), (&json!("7"), &json!(true)));
    let again = pushed(push("good/model.onnx", "7", 0));
    assert_eq!((&again["version"], &again["uploaded"]), (&json!("7"), &json!(false)));
    let said = push("external-good/model.onnx", "7", 1);
    assert!(said.contains("version 7 is another model") && said.contains("take another number"), "{said}");

    // A push that was cut off left its file: the same goes on, another one does not.
    fs::create_dir(place.join("anomaly/9")).expect("a folder");
    fs::copy(fixture("good/model.onnx"), place.join("anomaly/9/model.onnx")).expect("copied");
    let said = push("external-good/model.onnx", "9", 1);
    assert!(said.contains("anomaly/9/model.onnx is there") && said.contains("never finished"), "{said}");
    assert_eq!(pushed(push("good/model.onnx", "9", 0))["uploaded"], json!(true));
    // A free number below others is as good; unasked, the next one above all is taken.
    assert_eq!(pushed(push("good/model.onnx", "3", 0))["version"], json!("3"));
    let next = onnxd(place, &["push", &model("external-good/model.onnx"), "--model", "anomaly", "--json"], 0);
    assert_eq!(pushed(next)["version"], json!("10"));
    assert!(push("good/model.onnx", "0", 2).contains("0 is not in"));
}
