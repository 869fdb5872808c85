"""What the model repository says, read only: writing is the server's program's."""

from dataclasses import dataclass
from typing import Any

from training.errors import PipelineError
from training.manifest import to_bytes
from training.pipeline.settings import Settings
from training.storage import Storage


@dataclass(frozen=True)
class Stored:
    """A version of the repository: its number, its ONNX file and its manifest, if it has one."""

    version: str
    onnx: bytes
    manifest: dict[str, Any] | None

    @property
    def manifest_bytes(self) -> bytes | None:
        """The manifest as a file's content."""
        return None if self.manifest is None else to_bytes(self.manifest)


def aliases(settings: Settings) -> dict[str, Any] | None:
    """`aliases.json` of the model; None before its first version."""
    return Storage(settings.repository).read_json(f"{settings.model}/aliases.json")


def stored(settings: Settings, version: str) -> Stored:
    """A version's files.

    Raises:
        PipelineError: There is no such version.
    """
    files = Storage(settings.repository).under(f"{settings.model}/{version}")
    content = files.read("model.onnx")
    if content is None:
        msg = f"{files.uri}/model.onnx is not there: repair the repository, or push a champion"
        raise PipelineError(msg)
    return Stored(version, content, files.read_json("manifest.json"))


def champion(settings: Settings) -> Stored | None:
    """The champion's files; None before the first version."""
    found = aliases(settings)
    return stored(settings, found["champion"]) if found else None
