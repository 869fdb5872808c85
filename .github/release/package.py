"""Archives of the programs for other machines, each with its licences and bill of materials; the wheel's licences."""

import argparse
import gzip
import json
import os
import shutil
import sys
import tarfile
from pathlib import Path

import build
import sbom

ROOT = Path(__file__).resolve().parents[2]
MACHINES = {0x3E: "x86_64", 0xB7: "aarch64"}
"""What ELF's numbers of machines are called."""
PROGRAMS = ("onnxd", "collector", "remediation-operator")


def machine(program: Path) -> str:
    """The machine that a program is for, which need not be this one."""
    with program.open("rb") as file:
        head = file.read(20)
    if head[:4] != b"\x7fELF" or (number := int.from_bytes(head[18:20], "little")) not in MACHINES:
        sys.exit(f"{program} is no program for Linux on {' or '.join(MACHINES.values())}")
    return MACHINES[number]


def archive(program: Path, out: Path, origin: build.Origin) -> Path:
    """A folder with the program and what has to go with it, into an archive. The same input gives the same bytes."""
    name = f"{program.name}-{origin.version}-{machine(program)}-linux"
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    placed = folder / program.name
    build.run("strip", "--strip-debug", "-o", placed, program)
    shutil.copy(ROOT / "LICENSE", folder)
    if program.name == "onnxd":
        build.onnxruntime(out / "onnxruntime", folder, folder / "onnxruntime")
        shutil.rmtree(out / "onnxruntime")
    binary, compiled = sbom.contents(placed, folder / "licences.txt")
    subject = {"type": "file", "bom-ref": "archive", "name": f"{name}.tar.gz", "version": origin.version}
    bill = sbom.document(subject, binary, compiled, sbom.python(folder), origin.epoch)
    (folder / f"{program.name}.cdx.json").write_text(json.dumps(bill, indent=1) + "\n")
    shutil.copy(folder / f"{program.name}.cdx.json", out / f"{name}.cdx.json")
    packed = out / f"{name}.tar.gz"
    with (
        packed.open("wb") as file,
        gzip.GzipFile("", "wb", 6, file, origin.epoch) as zipped,
        tarfile.open(fileobj=zipped, mode="w|") as tar,
    ):
        for path in [folder, *sorted(folder.rglob("*"))]:
            tar.add(path, path.relative_to(out), recursive=False, filter=lambda about: plain(about, origin.epoch))
    shutil.rmtree(folder)
    return packed


def plain(about: tarfile.TarInfo, epoch: int) -> tarfile.TarInfo:
    """A file without what is another on each machine."""
    about.uid = about.gid = 0
    about.uname = about.gname = "root"
    about.mtime = epoch
    about.mode = 0o755 if about.mode & 0o100 else 0o644
    return about


def main() -> None:
    """Makes an archive of each program that is named, or writes the licences of what is compiled into one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("programs", nargs="*", metavar="PROGRAM", help=f"which [default: {', '.join(PROGRAMS)}]")
    parser.add_argument(
        "--built", type=Path, default=ROOT / "target/release", metavar="FOLDER", help="with the programs"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "target/dist", metavar="FOLDER", help="for the archives")
    parser.add_argument(
        "--licences", type=Path, metavar="FILE", help="write what onnxd is compiled from there, no more"
    )
    given = parser.parse_args()
    if given.licences:
        given.licences.write_text(sbom.notices(sbom.crates("onnxd")))
        return
    chosen = [given.built / name for name in given.programs or PROGRAMS]
    if missing := [str(path) for path in chosen if not path.is_file()]:
        parser.error(f"{', '.join(missing)} not there: `make dist` builds all")
    os.umask(0o022)
    origin = build.Origin.read()
    for program in chosen:
        packed = archive(program, given.out.resolve(), origin)
        print(f"    {packed.stat().st_size / 1e6:.1f} MB, {packed.name}")


if __name__ == "__main__":
    main()
