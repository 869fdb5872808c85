"""Runs an image as a container engine does, without one: its user, its environment, its root file system read-only.

What an engine adds beyond that (limits, seccomp, a network of its own) is not here. It takes root, as mounts do.
"""

import json
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
PATIENCE = 180
"""Seconds that anything may take: the machine may be busy."""
ALONE = ("/usr/bin/unshare", "--net", "/bin/sh", "-ec", '/sbin/ip link set lo up; exec "$@"', "alone")
"""A network with nothing else in it: the image's ports are free there, and counters tell what was asked."""
ENTER = """
root=$1 user=$2; shift 2
/bin/mount --bind "$root" "$root"
/bin/mount -o remount,bind,ro "$root"
/bin/mount -t proc proc "$root/proc"
/bin/mount --rbind /dev "$root/dev"
/bin/mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
while [ "$1" != -- ]; do
    /bin/mount --bind "$2" "$root$1"
    [ "$3" = rw ] || /bin/mount -o remount,bind,ro "$root$1"
    shift 3
done
shift
exec /usr/sbin/chroot --userspec="$user" --groups= "$root" "$@"
"""


@dataclass(frozen=True)
class Image:
    """An image that was unpacked.

    Attributes:
        root: Its file system.
        config: What `docker inspect` calls Config.
        identity: SHA-256 of its configuration, which names all layers by theirs.
        archive: Where it came from.
    """

    root: Path
    config: dict[str, Any]
    identity: str
    archive: Path

    @property
    def files(self) -> list[Path]:
        """Its regular files."""
        return [p for p in sorted(self.root.rglob("*")) if p.is_file() and not p.is_symlink()]

    def within(self, path: Path) -> str:
        """A path as programs in it see it, without the slash before."""
        return str(path.relative_to(self.root))


def load(archive: Path, folder: Path) -> Image:
    """Unpacks an archive as `docker load` takes it."""
    with tarfile.open(archive) as tar:
        read = lambda name: tar.extractfile(name).read()  # noqa: E731
        [manifest] = json.loads(read("manifest.json"))
        config = json.loads(read(manifest["Config"]))["config"]
        for layer in manifest["Layers"]:
            with tarfile.open(fileobj=tar.extractfile(layer)) as files:
                files.extractall(folder, filter="fully_trusted")
    return Image(folder, config, manifest["Config"].removesuffix(".json"), archive)


@dataclass
class Container:
    """A program that runs in an image."""

    process: subprocess.Popen[bytes]
    output: Path

    def said(self) -> str:
        """What it has written."""
        return self.output.read_text(errors="replace")

    def root(self) -> str:
        """Its root file system, or `/` where it has none: not yet, or no longer."""
        with suppress(OSError):
            return str(Path(f"/proc/{self.process.pid}/root").readlink())
        return "/"

    def wait(self) -> int:
        """Waits for its end. Returns the exit code."""
        return self.process.wait(PATIENCE)


@contextmanager
def start(  # noqa: PLR0913 - as many as an engine has
    image: Image,
    output: Path,
    *,
    command: Sequence[str] | None = None,
    entrypoint: Sequence[str] | None = None,
    environment: Mapping[str, str] | None = None,
    mounts: Mapping[str, Path] | None = None,
    writable: Mapping[str, Path] | None = None,
    network: Sequence[str] = (),
) -> Iterator[Container]:
    """Starts a program in an image, and kills it at the end of the block if it still runs.

    Args:
        image: The image.
        output: File for what it writes.
        command: In the place of the image's.
        entrypoint: In the place of the image's.
        environment: Beside the image's.
        mounts: Folders and files of this machine, read-only, by where they are seen.
        writable: The same, to write to.
        network: Program and arguments that lead into another network.
    """
    places = [(at, path, "ro") for at, path in (mounts or {}).items()]
    places += [(at, path, "rw") for at, path in (writable or {}).items()]
    for at in ["/proc", "/dev", *(at for at, path, _ in places if path.is_dir())]:
        # As an engine makes what a volume is mounted on.
        (image.root / at[1:]).mkdir(parents=True, exist_ok=True)
    flat = [str(word) for place in places for word in place]
    words = entrypoint if entrypoint is not None else image.config["Entrypoint"]
    words = [*words, *(command if command is not None else image.config["Cmd"])]
    given = dict(pair.split("=", 1) for pair in image.config["Env"])
    enter = [*network, "/usr/bin/unshare", "--mount", "/bin/sh", "-ec", ENTER, "enter", str(image.root)]
    process = subprocess.Popen(
        # The same process all the way, so that signals and the exit code are the program's.
        [*enter, image.config["User"], *flat, "--", *words],
        env={**given, **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=output.open("wb"),
        stderr=subprocess.STDOUT,
    )
    try:
        yield Container(process, output)
    finally:
        process.kill()
        process.wait()


def run(image: Image, output: Path, command: Sequence[str], **more: Any) -> tuple[int, str]:
    """Runs a program in an image to its end. Returns its exit code and all that it wrote."""
    with start(image, output, command=command, **more) as container:
        return container.wait(), container.said()


def until(what: str, found: Callable[[], T | None], container: Container) -> T:
    """Waits until something is found."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if (value := found()) is not None:
            return value
        assert container.process.poll() is None, f"it ended before {what}:\n{container.said()}"
        time.sleep(0.05)
    msg = f"waited {PATIENCE} s for {what}:\n{container.said()}"
    raise AssertionError(msg)


def open_folder(path: Path, source: Path | None = None) -> Path:
    """A folder that the image's user may write to, with a copy of another's content."""
    if source is not None:
        shutil.copytree(source, path)
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o1777)
    return path


def reachable(path: Path) -> None:
    """Lets the image's user through to a temporary folder, which is otherwise its maker's alone."""
    for folder in (path, *path.parents):
        mode = folder.stat().st_mode
        if folder.stat().st_uid == os.getuid() and not mode & 0o001:
            folder.chmod(mode | 0o011)


@dataclass
class Server:
    """A container with a network of its own, and how it is reached there."""

    image: Image
    container: Container
    place: Path
    environment: Mapping[str, str]
    asked: int = 0
    """Connections that were made in its network; nobody else makes any."""

    @property
    def within(self) -> tuple[str, str]:
        """What leads into its network."""
        return ("/usr/bin/nsenter", f"--net=/proc/{self.container.process.pid}/ns/net")

    def ask(self, where: str, body: Any = None) -> tuple[int, str]:
        """A request to `port/path`. Returns status, or 0 where nobody listens, and body."""
        words = [*self.within, "curl", "--silent", "--write-out", "\n%{http_code}", f"http://127.0.0.1:{where}"]
        if body is not None:
            words += ["--header", "Content-Type: application/json", "--data", json.dumps(body)]
        self.asked += 1
        said = subprocess.run(words, capture_output=True, text=True, check=False).stdout
        answer, status = said.rsplit("\n", 1)
        return int(status), answer

    def health(self) -> tuple[int, str]:
        """The health check, as an engine runs it."""
        [kind, *command] = self.image.config["Healthcheck"]["Test"]
        assert kind == "CMD"
        self.asked += 1
        more = {"entrypoint": [], "environment": self.environment, "network": self.within}
        return run(self.image, self.place / "health", command, **more)

    def wait(self, where: str) -> str:
        """Waits until something answers with success. Returns the answer."""

        def asked() -> str | None:
            status, answer = self.ask(where)
            return answer if status == 200 else None

        return until(where, asked, self.container)


@contextmanager
def serve(image: Image, place: Path, *, environment: Mapping[str, str] | None = None, **more: Any) -> Iterator[Server]:
    """A server as its image starts it."""
    environment = environment or {}
    with start(image, place / "log", environment=environment, network=ALONE, **more) as container:
        # Until then its network is this machine's, and its root too.
        until("its start", lambda: container.root() != "/" or None, container)
        yield Server(image, container, place, environment)
