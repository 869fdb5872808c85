"""What is in an image: a bill of materials (CycloneDX 1.6), and the licences that go with a program."""

import hashlib
import json
import re
import subprocess
import uuid
from datetime import UTC, datetime
from email import message_from_string
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import quote

ROOT = Path(__file__).resolve().parents[2]
NAMESPACE = uuid.UUID("5b0f6a52-3b0a-5c39-9d0c-6a1f8f0b7d11")
"""For serial numbers that are the same for the same content."""
DISTRIBUTION = "debian-12"
Component = dict[str, Any]


def run(*words: str) -> str:
    """What a program of Rust's tools says."""
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def sha256(path: Path) -> list[dict[str, str]]:
    """A file's hash, as CycloneDX writes it."""
    return [{"alg": "SHA-256", "content": hashlib.sha256(path.read_bytes()).hexdigest()}]


def component(kind: str, name: str, version: str, purl: str, licences: list[str], **more: object) -> Component:
    """A component; one licence is an expression of SPDX, several are names."""
    named = [{"expression": licences[0]}] if len(licences) == 1 else [{"license": {"name": n}} for n in licences]
    found = {"type": kind, "bom-ref": purl, "name": name, "version": version, "purl": purl, **more}
    return {**found, "licenses": named} if named else found


def debian(root: Path, debs: dict[str, Path]) -> list[Component]:
    """Debian's packages, by the list that `build.py` keeps in the image; a hash is that of the package's file."""
    found = []
    for control in sorted((root / "var/lib/dpkg/status.d").iterdir()):
        if control.suffix == ".md5sums":
            continue
        fields = message_from_string(control.read_text())
        name, version = fields["Package"], fields["Version"]
        copyright_file = root / "usr/share/doc" / name / "copyright"
        text = copyright_file.read_text() if copyright_file.is_file() else ""
        licences = sorted(set(re.findall(r"^License: *(\S[^\n]*)", text, re.MULTILINE)))
        place = f"arch={fields['Architecture']}&distro={DISTRIBUTION}"
        purl = f"pkg:deb/debian/{quote(name, safe='')}@{quote(version, safe='~')}?{place}"
        # Not an expression: Debian's names are not SPDX's.
        one = component("library", name, version, purl, [], hashes=sha256(debs[name]))
        found.append(one | ({"licenses": [{"license": {"name": n}} for n in licences]} if licences else {}))
    return found


def python(root: Path) -> list[Component]:
    """Packages of PyPI, by their own metadata."""
    found = []
    for folder in sorted({p.parent for p in root.rglob("*.dist-info")}):
        for one in metadata.distributions(path=[str(folder)]):
            about = one.metadata
            name = re.sub(r"[-_.]+", "-", about["Name"]).lower()
            short = (about.get("License") or "").strip()
            classified = [c.rsplit(" :: ", 1)[1] for c in about.get_all("Classifier", []) if c.startswith("License ::")]
            purl = f"pkg:pypi/{name}@{one.version}"
            made = component("library", name, one.version, purl, [])
            if expression := about.get("License-Expression"):
                made["licenses"] = [{"expression": expression}]
            elif names := classified or ([short] if short and "\n" not in short else []):
                made["licenses"] = [{"license": {"name": n}} for n in names]
            found.append(made)
    return sorted(found, key=lambda c: c["bom-ref"])


def crates(package: str) -> list[dict[str, Any]]:
    """What is compiled into a program: the packages of `cargo metadata` that `cargo tree` finds in this one's build."""
    target = re.search(r"^host: (.*)$", run("rustc", "-vV"), re.MULTILINE)[1]
    words = ["--package", package, "--edges", "normal,no-proc-macro", "--prefix", "none", "--format", "{p}"]
    tree = run("cargo", "tree", "--locked", "--target", target, *words)
    built = {tuple(line.split()[:2]) for line in tree.splitlines()}
    known = json.loads(run("cargo", "metadata", "--locked", "--format-version", "1"))["packages"]
    return sorted(
        (p for p in known if (p["name"], f"v{p['version']}") in built), key=lambda p: (p["name"], p["version"])
    )


def rust(packages: list[dict[str, Any]]) -> list[Component]:
    """Crates as components, and Rust's standard library. A hash is that of the crate's file, of `Cargo.lock`."""
    lock = re.findall(
        r'name = "(.*)"\nversion = "(.*)"\nsource = .*\nchecksum = "(.*)"', (ROOT / "Cargo.lock").read_text()
    )
    sums = {(name, version): checksum for name, version, checksum in lock}
    found = []
    for one in packages:
        name, version = one["name"], one["version"]
        licences = [one["license"].replace("/", " OR ")] if one["license"] else []
        checksum = sums.get((name, version))
        hashes = {"hashes": [{"alg": "SHA-256", "content": checksum}]} if checksum else {}
        found.append(component("library", name, version, f"pkg:cargo/{name}@{version}", licences, **hashes))
    version = run("rustc", "--version").split()[1]
    standard = component("library", "rust", version, f"pkg:generic/rust@{version}", ["MIT OR Apache-2.0"])
    return [*found, standard]


def notices(packages: list[dict[str, Any]]) -> str:
    """The licences' texts that come with crates, each once, with the crates that it is of."""
    texts: dict[str, list[str]] = {}
    for one in packages:
        folder = Path(one["manifest_path"]).parent
        files = sorted(
            p for p in folder.iterdir() if re.match(r"(?i)(licen[cs]e|copying|notice)", p.name) and p.is_file()
        )
        for file in files:
            texts.setdefault(file.read_text(errors="replace").strip(), []).append(f"{one['name']} {one['version']}")
    return "\n\n".join(f"==== {', '.join(of)}\n\n{text}" for text, of in texts.items()) + "\n"


def contents(program: Path, licences: Path) -> tuple[Component, list[Component]]:
    """A Rust program, named as its package, and what is compiled into it, whose licences are written to a file."""
    packages = crates(program.name)
    version = next(p["version"] for p in packages if p["name"] == program.name)
    licences.write_text(notices(packages))
    own = f"pkg:generic/{program.name}@{version}"
    binary = component("application", program.name, version, own, ["Apache-2.0"], hashes=sha256(program))
    return binary, [c for c in rust(packages) if c["name"] != program.name]


def document(
    subject: Component, binary: Component, compiled: list[Component], others: list[Component], epoch: int
) -> dict[str, Any]:
    """A bill of materials.

    Args:
        subject: What holds it all.
        binary: The program in it.
        compiled: What is compiled into the program.
        others: What is beside the program.
        epoch: The time that it says it was made at, seconds.
    """
    made = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"timestamp": datetime.fromtimestamp(epoch, UTC).isoformat(), "component": subject},
        "components": [binary, *compiled, *others],
        "dependencies": [
            {"ref": subject["bom-ref"], "dependsOn": [c["bom-ref"] for c in (binary, *others)]},
            {"ref": binary["bom-ref"], "dependsOn": [c["bom-ref"] for c in compiled]},
        ],
        "compositions": [{"aggregate": "complete", "assemblies": [subject["bom-ref"]]}],
    }
    serial = uuid.uuid5(NAMESPACE, json.dumps(made, sort_keys=True))
    return {"$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json", "serialNumber": f"urn:uuid:{serial}", **made}


def bill(image: str, root: Path, program: Path, debs: dict[str, Path], epoch: int) -> dict[str, Any]:
    """The bill of an image that lies in `root`; its licences are written there.

    Args:
        image: Its name.
        root: The root file system.
        program: The Rust program in it, named as its package.
        debs: The files of Debian's packages, by name.
        epoch: The time that it says it was made at, seconds.
    """
    texts = root / "usr/share/doc" / program.name / "licences.txt"
    texts.parent.mkdir()
    binary, compiled = contents(program, texts)
    subject = {"type": "container", "bom-ref": "image", "name": image, "version": binary["version"]}
    return document(subject, binary, compiled, [*debian(root, debs), *python(root)], epoch)
