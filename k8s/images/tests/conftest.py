"""The images that `make images` built, each unpacked once."""

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

import container

ROOT = Path(__file__).resolve().parents[3]
BUILT = ROOT / "target" / "images"
Unpacked = Callable[[str], container.Image]
IMAGES = ("onnxd", "collector", "remediation-operator", "onnxd-training")


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Unpacked:
    """Gives an image by its name."""
    if os.getuid():
        pytest.exit("the tests of the images mount and change root: run them as root, as in `sudo make test-images`", 1)

    @cache
    def unpack(name: str) -> container.Image:
        archive = BUILT / f"{name}.tar"
        if not archive.is_file():
            pytest.skip(f"{archive.relative_to(ROOT)} is not there: run `make images`")
        folder = tmp_path_factory.mktemp(name)
        container.reachable(folder)
        folder.chmod(0o755)
        return container.load(archive, folder)

    return unpack


@pytest.fixture(params=IMAGES)
def image(request: pytest.FixtureRequest, unpacked: Unpacked) -> container.Image:
    """Each of them."""
    return unpacked(request.param)


@pytest.fixture
def onnxd(unpacked: Unpacked) -> container.Image:
    """The server's."""
    return unpacked("onnxd")


@pytest.fixture
def training(unpacked: Unpacked) -> container.Image:
    """The training's."""
    return unpacked("onnxd-training")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder that the image's user can enter."""
    container.reachable(tmp_path)
    tmp_path.chmod(0o755)
    return tmp_path
