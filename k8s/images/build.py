"""Builds the images without a container engine: files into a root file system, that by buildah into an archive.

Each image has a Containerfile, which copies its root file system and says how it is run. Debian's packages are
unpacked, not installed: there is no shell, no package manager, nothing that runs but the programs and what they load.
"""

import argparse
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
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
    opened(root / "tmp")


def opened(folder: Path) -> None:
    """A folder to mount a volume on. Any user may write to it: some clusters choose the user."""
    folder.mkdir(parents=True)
    folder.chmod(0o1777)


def program(root: Path, path: Path) -> Path:
    """Puts a program into an image, without what only debuggers read."""
    if not path.is_file():
        sys.exit(f"{path} is not there: build it with `cargo build --release --package {path.name}`")
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
    words = ["--quiet", "--disable-pip-version-check", "--root-user-action=ignore", "--target", target]
    words += ["--require-hashes", "--no-deps", "--only-binary=:all:", "--no-compile"]
    words += [f"--requirement={lock}" for lock in locks]
    run(*python, "-m", "pip", "install", *words, env=env)


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
    shutil.copytree(ROOT / "training/src/training", site / "training", ignore=shutil.ignore_patterns("__pycache__"))
    # onnxd's library is that of Python's package.
    [library] = (site / "onnxruntime/capi").glob("libonnxruntime.so.*")
    (root / "opt/onnxd" / library.name).symlink_to(f"/{library.relative_to(root)}")
    for pattern in UNUSED_PYTHON:
        for folder in [f for f in site.glob(pattern) if f.is_dir()]:
            shutil.rmtree(folder, ignore_errors=True)
    # A first import would compile, for 5 s of a CPU, each time: nothing can be written. Lambda waits 10 s for it.
    # In one process: with several the bytes depend on which of them compiled what.
    compiled = ("-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "-s", str(root))
    run(*python, *compiled, root / "usr/lib/python3.11", root / "usr/local/lib/python3.11", env=env)
    for name in ("python", "python3"):
        (root / "usr/bin" / name).symlink_to("python3.11")


def onnxruntime(wheel: Path, beside: Path, texts: Path) -> None:
    """ONNX Runtime from its wheel, which is unpacked to a folder of its own.

    Args:
        wheel: That folder.
        beside: Where the server is: gets the library, and what scanners know it by.
        texts: Gets the licences.
    """
    shutil.rmtree(wheel, ignore_errors=True)
    install([ROOT / "server/onnxruntime.lock"], wheel, [sys.executable], dict(os.environ))
    [found] = (wheel / "onnxruntime/capi").glob("libonnxruntime.so.*")
    [about] = wheel.glob("onnxruntime-*.dist-info")
    shutil.copy(found, beside)
    shutil.copytree(about, beside / about.name)
    texts.mkdir()
    for name in ("LICENSE", "ThirdPartyNotices.txt"):
        shutil.copy(wheel / "onnxruntime" / name, texts)


def runtime(root: Path) -> None:
    """ONNX Runtime beside the server, and the folders that it serves from and writes to."""
    onnxruntime(OUT / "onnxruntime", root / "opt/onnxd", root / "usr/share/doc/onnxruntime")
    opened(root / "var/cache/onnxd")
    opened(root / "var/lib/onnxd")
    (root / "models").mkdir()


@dataclass(frozen=True)
class Origin:
    """What the images are made from.

    Attributes:
        version: Of the project.
        commit: Empty where there are changes that no commit has.
        epoch: When it was committed, in seconds; all times in the images are this one.
        source: Where the project is; empty where it was not cloned from the web.
    """

    version: str
    commit: str
    epoch: int
    source: str

    @classmethod
    def read(cls) -> "Origin":
        """Of this checkout."""
        commit, epoch = run("git", "log", "-1", "--format=%H %ct").split()
        if run("git", "status", "--porcelain"):
            print("==> there are changes that no commit has: what is built names none")
            commit = ""
        url = urlsplit(run("git", "config", "--default", "", "--get", "remote.origin.url"))
        # Without a name and a password that may stand in it.
        source = f"https://{url.hostname}{url.path}" if url.scheme == "https" else ""
        version = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"]
        return cls(version, commit, int(epoch), source)

    def labels(self, image: str, bill: Path) -> dict[str, str]:
        """What the image says of itself."""
        said = {
            "title": image,
            "description": IMAGES[image],
            "version": self.version,
            "licenses": "Apache-2.0",
            "created": datetime.fromtimestamp(self.epoch, UTC).isoformat(),
            "revision": self.commit,
            "source": self.source,
        }
        named = {f"org.opencontainers.image.{name}": text for name, text in said.items() if text}
        return named | {"dev.onnxd.sbom": f"sha256:{hashlib.sha256(bill.read_bytes()).hexdigest()}"}


def build(image: str, programs: Path, debs: dict[str, Path], origin: Origin) -> None:
    """One image: its root file system, its bill of materials, its archive."""
    root, is_python = OUT / image, image == "onnxd-training"
    base(debs, (*BASE, *PYTHON) if is_python else BASE, root)
    placed = program(root, programs / ("onnxd" if is_python else image))
    if is_python:
        training(root)
    elif image == "onnxd":
        runtime(root)
    bill = OUT / f"{image}.cdx.json"
    bill.write_text(json.dumps(sbom.bill(image, root, placed, debs, origin.epoch), indent=1) + "\n")
    (root / "usr/share/sbom").mkdir()
    shutil.copy(bill, root / "usr/share/sbom")
    pack(image, origin, origin.labels(image, bill))


def pack(image: str, origin: Origin, labels: dict[str, str]) -> None:
    """The root file system and its Containerfile into an archive."""
    buildah = ("buildah", "--root", OUT / "storage", "--runroot", OUT / "runroot", "--storage-driver", "vfs")
    # The format of Docker has health checks, that of OCI has none.
    words = ["--format", "docker", "--isolation", "chroot", "--identity-label=false", "--quiet"]
    words += [f"--timestamp={origin.epoch}", f"--build-arg=GIT_COMMIT={origin.commit}"]
    words += [f"--label={name}={text}" for name, text in labels.items()]
    tag, archive = f"{image}:{origin.version}", OUT / f"{image}.tar"
    recipe = Path(__file__).parent / f"{image}.Containerfile"
    run(*buildah, "bud", *words, "--tag", tag, "--file", recipe, OUT / image)
    pushed = OUT / "pushed.tar"
    pushed.unlink(missing_ok=True)
    run(*buildah, "push", "--quiet", tag, f"docker-archive:{pushed}")
    run(*buildah, "rmi", tag)
    identity = settle(pushed, archive, tag)
    pushed.unlink()
    size = sum(p.lstat().st_size for p in (OUT / image).rglob("*") if p.is_file() and not p.is_symlink())
    print(f"    {size / 1e6:.1f} MB, sha256:{identity}, in {archive.relative_to(ROOT)}")


def settle(pushed: Path, archive: Path, tag: str) -> str:
    """Takes from an image what is another in each build, the names of containers. Returns what identifies it."""
    with tarfile.open(pushed) as old, tarfile.open(archive, "w") as new:
        [manifest] = json.load(old.extractfile("manifest.json"))
        config = json.load(old.extractfile(manifest["Config"]))
        del config["container"], config["container_config"], config["config"]["Hostname"]
        content = json.dumps(config).encode()
        identity = hashlib.sha256(content).hexdigest()
        manifest |= {"Config": f"{identity}.json", "RepoTags": [tag]}
        described = {manifest["Config"]: content, "manifest.json": json.dumps([manifest]).encode()}
        files = {name: (io.BytesIO(text), len(text)) for name, text in described.items()}
        files |= {name: (old.extractfile(name), old.getmember(name).size) for name in manifest["Layers"]}
        for name, (file, size) in files.items():
            about = tarfile.TarInfo(name)
            about.size = size
            new.addfile(about, file)
    return identity


def main() -> None:
    """Builds all images, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="*", metavar="IMAGE", help=f"which [default: {', '.join(IMAGES)}]")
    parser.add_argument(
        "--programs", type=Path, default=ROOT / "target/release", metavar="FOLDER", help="with the built programs"
    )
    given = parser.parse_args()
    if unknown := set(given.images) - set(IMAGES):
        parser.error(f"there is no image {', '.join(sorted(unknown))}; there are {', '.join(IMAGES)}")
    if missing := [name for name in ("buildah", "apt-get", "dpkg-deb", "strip", "cargo") if not shutil.which(name)]:
        parser.error(f"{', '.join(missing)} not found: on Debian, apt-get install buildah binutils")
    os.umask(0o022)
    origin = Origin.read()
    print(f"==> packages of Debian {SUITE}")
    debs = download([*BASE, *PYTHON])
    for image in given.images or IMAGES:
        print(f"==> {image}")
        build(image, given.programs.resolve(), debs, origin)


if __name__ == "__main__":
    main()
