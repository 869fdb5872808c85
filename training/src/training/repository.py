"""Writes a model repository: versions, aliases and the ledger, in the order that never leaves it half-written.

A version that is complete (its manifest exists) is never changed.
"""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.manifest import NAME, schema, to_bytes


class RepositoryError(RuntimeError):
    """The repository already holds something else."""


@dataclass(frozen=True)
class Version:
    """One model, ready to be written: its number, the ONNX file's content and its manifest."""

    number: str
    onnx: bytes
    manifest: dict[str, Any]

    @property
    def manifest_bytes(self) -> bytes:
        """The manifest's file content."""
        return to_bytes(self.manifest)


def write(models: Path, champion: Version, challenger: Version, at: str, *, replace: bool = False) -> None:
    """Writes champion, challenger, `aliases.json` and the first ledger record under `models/anomaly`.

    Args:
        models: The repository's folder.
        champion: Becomes the champion.
        challenger: Becomes the challenger.
        at: RFC 3339 time.
        replace: Delete an earlier repository of this model first.

    Raises:
        RepositoryError: The folder holds this model already and `replace` is false.
    """
    root = models / NAME
    if (root / "aliases.json").exists():
        if not replace:
            msg = f"{root.name}: this repository exists and its versions are never changed; --replace starts it afresh"
            raise RepositoryError(msg)
        shutil.rmtree(root)
    versions = (champion, challenger)
    for version in versions:
        folder = root / version.number
        _write(folder / "model.onnx", version.onnx)
        _write(folder / "manifest.json", version.manifest_bytes)
    hashes = {v.number: hashlib.sha256(v.manifest_bytes).hexdigest() for v in versions}
    aliases = {
        "champion": champion.number,
        "challengers": [challenger.number],
        "previous": None,
        "epoch": 1,
        "manifest_sha256": hashes,
        "updated_at": at,
        "by": "training",
        "reason": "first training run: monotone logistic as champion, gradient boosting as challenger",
    }
    evidence = {v.number: {"recipe": v.manifest["tags"]["recipe"], **v.manifest["metrics"]} for v in versions}
    record = {
        "model": NAME,
        "epoch": 1,
        "action": "promote",
        "champion": champion.number,
        "challengers": aliases["challengers"],
        "replaced": None,
        "manifest_sha256": hashes[champion.number],
        "at": aliases["updated_at"],
        "by": aliases["by"],
        "reason": aliases["reason"],
        "evidence": evidence,
        "previous_record_sha256": None,
    }
    _write(root / "ledger" / "1.json", to_bytes(record))
    _write(models / "manifest.schema.json", (json.dumps(schema(), indent=1) + "\n").encode())
    _write(root / "aliases.json", to_bytes(aliases))


def _write(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all: beside it, flushed to disk, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
