"""What is in the images, and what is not."""

import hashlib
import json
import re
import shutil
import stat
import subprocess
import sys
from base64 import urlsafe_b64encode
from email import message_from_string
from pathlib import Path

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from conftest import BUILT, ROOT
from container import Image

VOLUMES = {"tmp", "var/cache/onnxd", "var/lib/onnxd"}
OWN = re.compile(
    r"opt/([a-z-]+)/\1|usr/share/doc/(onnxd|collector|remediation-operator|onnxruntime)/[^/]*|usr/share/sbom/.*"
    r"|etc/(passwd|group|nsswitch.conf|ssl/certs/ca-certificates.crt)|var/lib/dpkg/status.d/.*"
    r"|usr/local/lib/python3.11/dist-packages/training/.*|.*/__pycache__/.*\.pyc|.*\.dist-info/.*"
)
"""What no package brings: our programs and texts, what is written or compiled here."""
RUNS = {"onnxd": {"onnxd"}, "onnxd-training": {"onnxd", "python3.11"}}
"""Programs that may be in an image; in each other one, its own."""


def elf(image: Image) -> list[Path]:
    return [p for p in image.files if p.open("rb").read(4) == b"\x7fELF"]


def dynamic(path: Path) -> tuple[list[str], list[str]]:
    """Libraries that a file needs, and folders in which it looks first."""
    said = subprocess.run(["readelf", "--dynamic", "--wide", path], capture_output=True, text=True, check=True).stdout
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", said)
    folders = [f for found in re.findall(r"\((?:RUNPATH|RPATH)\).*\[(.*)\]", said) for f in found.split(":")]
    return needed, [f.replace("$ORIGIN", str(path.parent)) for f in folders]


def named(image: Image) -> str:
    return image.config["Labels"]["org.opencontainers.image.title"]


def bill(image: Image) -> tuple[bytes, dict]:
    content = (image.root / f"usr/share/sbom/{named(image)}.cdx.json").read_bytes()
    return content, json.loads(content)


def test_server_takes_less_than_100_megabytes(onnxd: Image) -> None:
    assert sum(p.stat().st_size for p in onnxd.files) < 100_000_000


def test_it_runs_as_nobody_and_stops_when_told(image: Image) -> None:
    config = image.config
    assert (config["User"], config["StopSignal"]) == ("65532:65532", "SIGTERM")
    assert Path(config["Entrypoint"][0]).is_absolute()
    labels = config["Labels"]
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert re.fullmatch(r"\d+\.\d+\.\d+", labels["org.opencontainers.image.version"])
    assert re.fullmatch("[0-9a-f]{40}", labels.get("org.opencontainers.image.revision", "0" * 40))


def test_server_tells_its_health_without_a_shell(onnxd: Image) -> None:
    assert onnxd.config["Healthcheck"]["Test"] == ["CMD", "/opt/onnxd/onnxd", "ready"]
    assert set(onnxd.config["Volumes"]) <= {f"/{v}" for v in VOLUMES}


def test_only_its_programs_can_run(image: Image) -> None:
    """No shell, no package manager, no compiler: nothing that is a program but what the image is for."""
    programs = {p.name for p in elf(image) if dynamic(p)[0] and "INTERP" in header(p)}
    # The C library and the linker can be called too, and say their version.
    assert programs - {"libc.so.6"} == RUNS.get(named(image), {named(image)})
    shells = {"sh", "bash", "dash", "busybox", "apt", "apt-get", "dpkg", "pip", "pip3", "perl", "env"}
    assert not [p for p in image.root.rglob("*") if p.name in shells and not p.is_dir()]
    scripts = [p for p in image.files if p.stat().st_mode & 0o111 and p.open("rb").read(2) == b"#!"]
    assert not [p for p in scripts if b"python" not in p.open("rb").readline()]


def header(path: Path) -> str:
    return subprocess.run(["readelf", "--program-headers", path], capture_output=True, text=True, check=True).stdout


def test_nobody_gets_rights_or_writes_outside_of_volumes(image: Image) -> None:
    for path in image.root.rglob("*"):
        inside = image.within(path)
        if path.is_symlink() or inside.split("/")[0] in {"proc", "dev"}:
            continue
        found = path.stat()
        assert not found.st_mode & (stat.S_ISUID | stat.S_ISGID), inside
        assert (found.st_uid, found.st_gid) == (0, 0), inside
        assert inside in VOLUMES or not found.st_mode & stat.S_IWOTH, inside
        assert found.st_mode & 0o004, f"{inside} cannot be read"


def test_every_library_that_is_needed_is_there(image: Image) -> None:
    machine = [p for p in (image.root / "lib", image.root / "usr/lib") for p in p.glob("*-linux-gnu")]
    for path in elf(image):
        needed, first = dynamic(path)
        for name in needed:
            # What Python loads before counts as well: extension modules find libraries that a wheel has loaded already.
            places = [*first, *machine, image.root / "lib64"]
            assert any((Path(f) / name).exists() for f in places) or name in loaded_by_wheels(image), f"{path}: {name}"


def loaded_by_wheels(image: Image) -> set[str]:
    return {p.name for p in image.root.glob("usr/local/lib/python3.11/dist-packages/*/*.so*")}


def test_every_file_is_of_a_package_and_as_it_was_there(image: Image) -> None:
    known = image.root / "var/lib/dpkg/status.d"
    debian = {line.split()[0] for sums in known.glob("*.md5sums") for line in sums.read_text().splitlines()}
    wheels = set()
    for record in image.root.rglob("*.dist-info/RECORD"):
        wheels |= set(re.findall(r"sha256=([\w-]+)", record.read_text()))
    strange = []
    for path in image.files:
        content = path.read_bytes()
        if OWN.fullmatch(image.within(path)) or hashlib.md5(content).hexdigest() in debian:
            continue
        if urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=") not in wheels:
            strange.append(image.within(path))
    assert not strange


def test_bill_of_materials_is_valid_and_travels_with_the_image(image: Image) -> None:
    content, said = bill(image)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(content.decode()) is None
    assert image.config["Labels"]["dev.onnxd.sbom"] == f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert (BUILT / f"{named(image)}.cdx.json").read_bytes() == content
    references = {c["bom-ref"] for c in said["components"]}
    assert len(references) == len(said["components"])
    assert {ref for one in said["dependencies"] for ref in one["dependsOn"]} == references
    unlicensed = [c["name"] for c in said["components"] if not c.get("licenses")]
    assert len(unlicensed) <= len(said["components"]) // 20, unlicensed


def test_bill_of_materials_is_complete(image: Image) -> None:
    _, said = bill(image)
    listed = {c["purl"].split("?")[0]: c for c in said["components"]}
    names = {purl.rsplit("@", 1)[0] for purl in listed}
    for control in (image.root / "var/lib/dpkg/status.d").glob("[!.]*"):
        if control.suffix != ".md5sums":
            fields = message_from_string(control.read_text())
            assert f"pkg:deb/debian/{fields['Package'].replace('+', '%2B')}" in names
    for folder in image.root.rglob("*.dist-info"):
        assert f"pkg:pypi/{re.sub(r'[-_.]+', '-', folder.name.split('-')[0]).lower()}" in names
    # The program's own strings name the crates that can panic.
    [program] = [p for p in image.root.glob("opt/*/*") if p.name == p.parent.name]
    content = program.read_bytes()
    compiled = {a.decode() for a in re.findall(rb"index\.crates\.io-[0-9a-f]+/([\w.+-]+?)/src/", content)}
    assert len(compiled) > 10
    crates = {f"{c['name']}-{c['version']}" for c in said["components"] if c["purl"].startswith("pkg:cargo/")}
    assert compiled <= crates, compiled - crates
    own = next(c for c in said["components"] if c["type"] == "application")
    assert own["hashes"][0]["content"] == hashlib.sha256(content).hexdigest()


def test_a_second_build_gives_the_same_image(onnxd: Image, tmp_path: Path) -> None:
    """Of the same program, which is taken from the image."""
    shutil.copy(onnxd.root / "opt/onnxd/onnxd", tmp_path)
    words = [sys.executable, str(ROOT / "k8s/images/build.py"), "--programs", str(tmp_path), "onnxd"]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert f"sha256:{onnxd.identity}" in said, "another image, or it was built from another commit: run `make images`"
