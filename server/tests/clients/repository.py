"""The repository that the tests serve: one folder a model, `<model>/1/model.onnx`, without manifests."""

import os
import shutil
import subprocess
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np

import oracle
from places import ROOT, binary, library

# A row of `stalls` and `fails` with this in its first column does so.
TRIGGER = 60.0


@dataclass
class Export:
    """A model, what it is asked in the tests, and where it lies once it is written."""

    name: str
    onnx: bytes
    inputs: dict[str, np.ndarray]
    # Files of weights beside it.
    files: dict[str, bytes] = field(default_factory=dict)
    # Outputs that the file declares as maps from class to probability, with their classes.
    maps: dict[str, list[str]] = field(default_factory=dict)
    path: Path = Path()

    def write(self, root: Path, version: int = 1) -> None:
        folder = root / self.name / str(version)
        folder.mkdir(parents=True)
        for name, content in self.files.items():
            (folder / name).write_bytes(content)
        self.path = folder / "model.onnx"
        self.path.write_bytes(self.onnx)
        # A file that has just changed may still be being written; the server would look at it again later.
        os.utime(self.path, (0, 0))

    def expected(self, inputs: dict[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
        """ONNX Runtime's answers to these inputs, or to its own."""
        return oracle.run(self.path, self.inputs if inputs is None else inputs)


def push(export: Export, root: Path) -> None:
    """What has files beside it is served with a manifest only, which a push makes."""
    export.write(root.with_name(f"{root.name}-pushed"))
    command = [binary(), "push", export.path, "--repository", root, "--model", export.name]
    environment = os.environ | {"ONNXD_ONNXRUNTIME": str(library())}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)  # noqa: S603


def copy(models: dict[str, Export], names: list[str], root: Path) -> None:
    """A repository of some of them: links out of a repository are not followed."""
    for name in names:
        shutil.copytree(models[name].path.parents[1], root / name)


@cache
def all_exports() -> tuple[Export, ...]:
    """Every model of the tests, made once."""
    import exports  # noqa: PLC0415  training libraries: only for who needs the models
    import handmade  # noqa: PLC0415

    families = [exports.sklearn_models, exports.boosted_models, handmade.handmade]
    return tuple(export for family in families for export in family())


def write(root: Path) -> dict[str, Export]:
    """All of them, the project's own `anomaly`, and two whose runs can be made to fail or never to end."""
    made = {export.name: export for export in all_exports()}
    for export in made.values():
        if export.files:
            push(export, root)
        else:
            export.write(root)
    shutil.copytree(ROOT / "models" / "anomaly", root / "anomaly")
    rows = np.array([[1, 2, 0, 48, 8], [3, -1, 2, 20, 5], [9, 9, 1, 70, 12]], dtype=np.float32)
    made["anomaly"] = Export("anomaly", b"", {"features": rows}, path=root / "anomaly" / "1" / "model.onnx")
    for name, fixture in [("stalls", "hang-sometimes"), ("fails", "fails-sometimes")]:
        onnx = (ROOT / "server/tests/fixtures" / fixture / "model.onnx").read_bytes()
        made[name] = Export(name, onnx, {"features": rows})
        made[name].write(root)
    return made
