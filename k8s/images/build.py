"""Builds the images without a container engine: packages and programs into a root file system, that by buildah into an archive.

Each image has a Containerfile, which only copies its root file system and says how it is run. Debian's packages are
unpacked, not installed: there is no shell, no package manager, nothing that can run but the programs and what they load.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import pip
import sbom

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "target" / "images"
SUITE = "bookworm"
ARCHIVE = os.environ.get("DEBIAN_ARCHIVE", "http://deb.debian.org/{}")
"""Where Debian's archives are; snapshot.debian.org has those of each day, to build again what was built before."""
BASE = ("base-files", "ca-certificates", "gcc-12-base", "libc6", "libgcc-s1", "libstdc++6", "locales-all")
PYTHON = (
    *("python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib", "tzdata", "libbz2-1.0", "libcrypt1"),
    *("libexpat1", "libffi8", "libgomp1", "liblzma5", "libsqlite3-0", "libssl3", "libuuid1", "zlib1g"),
)
LOCALE = "usr/lib/locale/en_US.utf8"
"""ONNX Runtime's StringNormalizer does not load without it."""
MACHINE = f"{os.uname().machine}-linux-gnu"
UNUSED = re.compile(
    # Converters of character sets and hooks of the linker, which no program here asks for; what only people read.
    rf"usr/lib/{MACHINE}/(gconv|audit)/|usr/share/(lintian|man|bug|base-files|pixmaps|applications|binfmts)/"
    r"|usr/share/doc/.*/(?!copyright$)[^/]*$|usr/lib/locale/|etc/(?!os-release)|usr/(bin|sbin|games)/(?!python)"
    # Modules of Python whose libraries are left out.
    r"|usr/lib/python3.11/lib-dynload/(_curses|_dbm|_gdbm|nis|readline)"
)
UNUSED_PYTHON = ("bin", "**/tests", "**/include", "onnx/backend/test")
# Which file may lie where is for whoever starts a program from an image; here, all of a package is taken as it is.
tarfile.TarFile.extraction_filter = staticmethod(lambda member, _: member)
USERS = {
    "etc/passwd": "root:x:0:0:root:/:/nologin\nnonroot:x:65532:65532:nonroot:/tmp:/nologin\n",
    "etc/group": "root:x:0:\nnonroot:x:65532:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}
OPEN = ("tmp", "var/cache/onnxd", "var/lib/onnxd", "models")
"""Folders for volumes, which any user may write to: some clusters choose the user of each namespace."""
IMAGES = {
    "onnxd": "an ONNX inference server with a shadow lane and hot swap",
    "collector": "metrics of Prometheus to z-scores, predictions and rows for training",
    "remediation-operator": "acts on what is anomalous or fails in a cluster",
    "onnxd-training": "the retraining loop, for AWS Lambda and Kubernetes",
}


def run(*words: str | Path, cwd: Path = ROOT, env: dict[str, str] | None = None) -> str:
    """Runs a program, gives what it wrote; ends all with its complaint if it fails."""
    done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, words))}\n{done.stdout}{done.stderr}")
    return done.stdout.strip()


def download(names: Sequence[str]) -> dict[str, Path]:
    """The newest of Debian's packages, checked by the archive's signature, without a look at this machine's own."""
    apt, debs = OUT / "apt", OUT / "debs"
    shutil.rmtree(debs, ignore_errors=True)
    for folder in (debs, apt / "state/lists/partial", apt / "cache/archives/partial"):
        folder.mkdir(parents=True, exist_ok=True)
    (apt / "status").touch()
    places = (("debian", SUITE), ("debian", f"{SUITE}-updates"), ("debian-security", f"{SUITE}-security"))
    signed = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]"
    lines = [f"deb {signed} {ARCHIVE.format(archive)} {suite} main\n" for archive, suite in places]
    (apt / "sources.list").write_text("".join(lines))
    settings = {
        "Dir": apt,
        "Dir::State": apt / "state",
        "Dir::Cache": apt / "cache",
        "Dir::State::status": apt / "status",
    }
    settings |= {
        "Dir::Etc::sourcelist": apt / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "APT::Sandbox::User": "root",
    }
    settings |= {"Acquire::Check-Valid-Until": "false", "Acquire::Languages": "none"}
    words = ["apt-get", "--quiet", *(word for name, value in settings.items() for word in ("-o", f"{name}={value}"))]
    run(*words, "update")
    run(*words, "download", *names, cwd=debs)
    return {name: next(debs.glob(f"{name}_*.deb")) for name in names}


def unpack(package: str, deb: Path, root: Path) -> None:
    """A package's files, without those that nothing here uses, and its place in the list that scanners read."""
    unpacked = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE)
    with tarfile.open(fileobj=unpacked.stdout, mode="r|") as files:
        for file in files:
            name = file.name.removeprefix("./")
            if package == "locales-all" and name.startswith("usr/lib/locale/"):
                files.extract(file, root / "locales")
            elif name and not file.isdir() and not UNUSED.match(name):
                files.extract(file, root)
    if unpacked.wait():
        sys.exit(f"{deb} cannot be unpacked")
    if package == "locales-all":
        # Most of its files are links to other languages' equal ones.
        shutil.copytree(root / "locales" / LOCALE, root / LOCALE)
        shutil.rmtree(root / "locales")
    known = root / "var/lib/dpkg/status.d"
    known.mkdir(parents=True, exist_ok=True)
    (known / package).write_text(run("dpkg-deb", "--field", deb) + "\n")
    run("dpkg-deb", "--control", deb, OUT / "control")
    shutil.copy(OUT / "control/md5sums", known / f"{package}.md5sums")
    shutil.rmtree(OUT / "control")


def base(debs: dict[str, Path], packages: Sequence[str], root: Path) -> None:
    """What every program needs: C library, certificates, locale, a user."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    for package in packages:
        unpack(package, debs[package], root)
    for name, text in USERS.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    bundle = root / "etc/ssl/certs/ca-certificates.crt"
    bundle.parent.mkdir(parents=True)
    bundle.write_bytes(b"".join(p.read_bytes() for p in sorted((root / "usr/share/ca-certificates").rglob("*.crt"))))
    for folder in OPEN:
        (root / folder).mkdir(parents=True)
        (root / folder).chmod(0o1777)


def program(root: Path, path: Path) -> Path:
    """Puts a program into an image, without what only debuggers read."""
    placed = root / "opt" / path.name / path.name
    placed.parent.mkdir(parents=True)
    run("strip", "--strip-debug", "-o", placed, path)
    placed.chmod(0o755)
    needed = max(int(minor) for minor in re.findall(rb"GLIBC_2\.(\d+)", placed.read_bytes()))
    has = int(re.search(r"^Version: 2\.(\d+)", (root / "var/lib/dpkg/status.d/libc6").read_text(), re.MULTILINE)[1])
    if needed > has:
        sys.exit(f"{path} needs glibc 2.{needed}, Debian {SUITE} has 2.{has}: build the program on Debian {SUITE}")
    return placed


def install(locks: Sequence[Path], target: Path, python: Sequence[str | Path], env: dict[str, str]) -> None:
    """Packages of PyPI, all named in lock files and checked by their hashes."""
    words = ["--require-hashes", "--no-deps", "--only-binary", ":all:", "--no-compile", "--disable-pip-version-check"]
    locked = [word for lock in locks for word in ("--requirement", lock)]
    run(
        *python,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--root-user-action",
        "ignore",
        *words,
        "--target",
        target,
        *locked,
        env=env,
    )


def without_tests(lock: Path) -> str:
    """A lock file without what only the group `dev` of the project asks for."""
    blocks = re.split(r"^(?=[a-z0-9])", lock.read_text(), flags=re.MULTILINE)[1:]
    asked = {b.split("==")[0]: set(re.findall(r"^    #(?: via|  ) +(\S.*)$", b, re.MULTILINE)) for b in blocks}
    dev = {"onnxd-training (pyproject.toml:dev)"}
    while more := {name for name, by in asked.items() if by <= dev} - dev:
        dev |= more
    return "".join(b for b in blocks if b.split("==")[0] not in dev)


def training(root: Path) -> None:
    """Python packages, by the image's own Python, and the training's."""
    site = root / "usr/local/lib/python3.11/dist-packages"
    libraries = f"{root}/lib/{MACHINE}:{root}/usr/lib/{MACHINE}"
    linker = next((root / "lib" / MACHINE).glob("ld-linux-*"))
    env = {**os.environ, "PYTHONHOME": str(root / "usr"), "PYTHONPATH": str(Path(pip.__file__).parents[1])}
    python = (linker, "--library-path", libraries, root / "usr/bin/python3.11")
    lock = OUT / "training.lock"
    lock.write_text(without_tests(ROOT / "training/requirements.lock"))
    install([lock, ROOT / "k8s/images/lambda.lock"], site, python, env)
    shutil.copytree(ROOT / "training/src/training", site / "training")
    for pattern in UNUSED_PYTHON:
        for folder in [f for f in site.glob(pattern) if f.is_dir()]:
            shutil.rmtree(folder, ignore_errors=True)
    # Lambda waits 10 s for the first import, which compiling would take; the root file system is read-only. One process, since
    # the bytes would depend on which of several compiled what.
    compiled = ("-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "-s", str(root))
    run(*python, *compiled, root / "usr/lib/python3.11", root / "usr/local/lib/python3.11", env=env)
    for name in ("python", "python3"):
        (root / "usr/bin" / name).symlink_to("python3.11")


def main() -> None:
    """Builds all images, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="*", choices=[*IMAGES, []], help=f"which [default: {', '.join(IMAGES)}]")
    parser.add_argument(
        "--programs", type=Path, default=ROOT / "target/release", metavar="FOLDER", help="built programs"
    )
    given = parser.parse_args()
    commit, epoch = run("git", "log", "-1", "--format=%H %ct").split()
    changed = bool(run("git", "status", "--porcelain"))
    if changed:
        print("==> there are changes that no commit has: the images say no revision")
    os.environ["SOURCE_DATE_EPOCH"] = epoch
    os.umask(0o022)
    print(f"==> packages of Debian {SUITE}")
    debs = download([*BASE, *PYTHON])
    version = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"]
    for image in given.images or IMAGES:
        print(f"==> {image}")
        root, is_python = OUT / image, image == "onnxd-training"
        base(debs, (*BASE, *PYTHON) if is_python else BASE, root)
        crate = "onnxd" if is_python else image
        placed = program(root, given.programs / crate)
        if is_python:
            training(root)
        elif image == "onnxd":
            runtime = OUT / "onnxruntime"
            shutil.rmtree(runtime, ignore_errors=True)
            install([ROOT / "server/onnxruntime.lock"], runtime, [sys.executable], dict(os.environ))
            [library] = (runtime / "onnxruntime/capi").glob("libonnxruntime.so.*")
            shutil.copy(library, placed.parent)
            [about] = runtime.glob("onnxruntime-*.dist-info")
            shutil.copytree(about, placed.parent / about.name)
            notices = root / "usr/share/doc/onnxruntime"
            notices.mkdir()
            for name in ("LICENSE", "ThirdPartyNotices.txt"):
                shutil.copy(runtime / "onnxruntime" / name, notices)
        bill = sbom.bill(image, version, root, placed, debs, int(epoch))
        written = OUT / f"{image}.cdx.json"
        written.write_text(json.dumps(bill, indent=1) + "\n")
        (root / "usr/share/sbom").mkdir()
        shutil.copy(written, root / "usr/share/sbom")
        source = urlsplit(
            subprocess.run(
                ["git", "remote", "get-url", "origin"], capture_output=True, text=True, check=False
            ).stdout.strip()
        )
        labels = {
            "title": image,
            "description": IMAGES[image],
            "version": version,
            "licenses": "Apache-2.0",
            "created": datetime.fromtimestamp(int(epoch), UTC).isoformat(),
            "revision": "" if changed else commit,
            "source": f"https://{source.hostname}{source.path}" if source.scheme == "https" else "",
        }
        pack(
            image,
            version,
            labels,
            hashlib.sha256(written.read_bytes()).hexdigest(),
            "" if changed else commit,
            int(epoch),
        )


def pack(image: str, version: str, labels: dict[str, str], bill: str, commit: str, epoch: int) -> None:
    """The root file system and its Containerfile into an archive."""
    buildah = ("buildah", "--root", OUT / "storage", "--runroot", OUT / "runroot", "--storage-driver", "vfs")
    named = [f"--label=org.opencontainers.image.{name}={value}" for name, value in labels.items() if value]
    words = [
        "--format",
        "docker",
        "--isolation",
        "chroot",
        "--timestamp",
        str(epoch),
        "--identity-label=false",
        "--quiet",
    ]
    words += [*named, f"--label=dev.onnxd.sbom=sha256:{bill}", f"--build-arg=GIT_COMMIT={commit}"]
    tag, archive = f"{image}:{version}", OUT / f"{image}.tar"
    recipe = Path(__file__).parent / f"{image}.Containerfile"
    run(*buildah, "bud", *words, "--tag", tag, "--file", recipe, OUT / image)
    archive.unlink(missing_ok=True)
    run(*buildah, "push", "--quiet", tag, f"docker-archive:{archive}:{tag}")
    identity = run(*buildah, "images", "--no-trunc", "--quiet", tag)
    run(*buildah, "rmi", tag)
    size = sum(p.lstat().st_size for p in (OUT / image).rglob("*") if not p.is_dir())
    print(f"    {size / 1e6:.1f} MB, {identity}, in {archive.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
