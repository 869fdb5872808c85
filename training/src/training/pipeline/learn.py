"""Prepare and train: from a source of metrics to candidates that were fitted, calibrated, exported and described."""

import hashlib
import io
import json
import os
import subprocess
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from training import candidate, lineage
from training.config import FEATURES, Config
from training.data import source
from training.data.days import Day, iso
from training.data.saved import from_parquet, to_parquet, with_features
from training.errors import PipelineError
from training.features import Table, join, table
from training.manifest import code_sha256, now, to_bytes
from training.model import Outputs, Rows
from training.onnxd import ROOT
from training.pipeline.settings import Settings
from training.pipeline.work import LATEST, Run, once, tracking_of
from training.recipes import RECIPES
from training.storage import Storage
from training.told import Told, nobody


def config_of(settings: Settings) -> Config:
    """All parameters of a run."""
    return replace(Config(), seed=settings.seed)


def prepare(settings: Settings, told: Told = nobody) -> dict[str, Any]:
    """Reads the source, splits it by time, computes the features, and names the run by what went in.

    Returns:
        `run_key`, `fingerprint`, `source`, `train_rows`, `test_rows`, `from`, `to`, `notes` (how many), `at`.

    Raises:
        PipelineError: An unknown recipe, or too little data.
        training.data.days.DataError: The source cannot be read.
        TransientError: It does not answer.
    """
    if unknown := set(settings.recipes) - set(RECIPES):
        msg = f"no recipe {', '.join(sorted(unknown))}: there are {', '.join(RECIPES)}"
        raise PipelineError(msg)
    # Asked first, so that nothing is read for a run that could not be told of.
    tracking = tracking_of(settings)
    config = config_of(settings)
    prepared = source.prepare(settings.source, config, told)
    fingerprint = source.fingerprint([*prepared.train, *prepared.test])
    # Who asks for other recipes, or has other code, gets another run.
    parameters = {"config": asdict(config), "recipes": settings.recipes, "model": settings.model}
    named = json.dumps([fingerprint, code_sha256(), parameters], sort_keys=True, default=str)
    key = hashlib.sha256(named.encode()).hexdigest()
    run = Run(settings, key)
    if (found := run.done("prepare")) is None:
        uris = tuple(sorted({day.uri for day in (*prepared.train, *prepared.test)}))
        with lineage.told(settings.model, "prepare", key, reads=uris, writes=(run.files.uri,)):
            for name, days in (("train", prepared.train), ("test", prepared.test)):
                told(f"features of {sum(d.rows for d in days):,} samples to {name} on")
                run.files.write(f"{name}.parquet", to_parquet([with_features(day, config) for day in days]))
        days = [*prepared.train, *prepared.test]
        found = {
            "run_key": key,
            "fingerprint": fingerprint,
            "source": settings.source,
            "train_rows": sum(d.rows for d in prepared.train),
            "test_rows": sum(d.rows for d in prepared.test),
            "from": iso(min(d.span[0] for d in days)),
            "to": iso(max(d.span[1] for d in days)),
            "notes": len(prepared.notes),
            "at": now(),
        }
        for note in prepared.notes:
            told(f"note: {note}")
        told("telling MLflow")
        tracking.run(key, {**{k: v for k, v in found.items() if k not in {"run_key", "notes"}}, **_flat(parameters)})
        tracking.log(key, {}, {"data/notes.txt": "\n".join(prepared.notes).encode()})
        run.files.write_json("prepare.json", found)
    Storage(settings.work).write_json(LATEST, {"run": key})
    return found


def _flat(parameters: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested parameters under dotted names."""
    found = {}
    for name, value in parameters.items():
        if isinstance(value, dict):
            found.update(_flat(value, f"{prefix}{name}."))
        else:
            found[f"{prefix}{name}"] = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else value
    return found


def days_of(run: Run, part: str) -> list[Day]:
    """The days to `train` or to `test` on, as `prepare` wrote them."""
    return from_parquet(run.read(f"{part}.parquet"))


def tables_of(days: list[Day], config: Config) -> dict[str, Table]:
    """A table for each day, by its name."""
    return {day.name: table(day, config) for day in days}


@once
def train(settings: Settings, key: str, told: Told = nobody) -> dict[str, Any]:
    """Makes a candidate by each recipe.

    Returns:
        `recipes`: by recipe, `held_out`, the metrics on series that it had not seen.

    Raises:
        PipelineError: No recipe can learn from the data, such as without a fault in it.
    """
    run, config = Run(settings, key), config_of(settings)
    prepared = run.needs("prepare")
    days = days_of(run, "train")
    rows = join([table(day, config) for day in days])
    found: dict[str, Any] = {}
    for recipe in settings.recipes:
        try:
            made = candidate.make(recipe, rows, config, told)
        except ValueError as error:
            msg = f"{recipe} cannot learn from this data: {error}"
            raise PipelineError(msg) from error
        told(f"{recipe}: writing")
        agreement = candidate.prove(made)
        metrics = {"held_out": made.held_out.rounded(), "parity": agreement.rounded()}
        document = candidate.document(made, days, rows, metrics=metrics, config=config, at=prepared["at"])
        document["training"]["git_commit"] = git_commit()
        run.files.write(f"{recipe}/model.onnx", made.onnx)
        run.files.write(f"{recipe}/expected.npz", _pack(made.rows, made.expected))
        run.files.write(f"{recipe}/manifest.json", to_bytes(document))
        found[recipe] = {"held_out": made.held_out.rounded()}
    tracking = tracking_of(settings)
    metrics = {f"held_out.{r}.{k}": v for r, one in found.items() for k, v in one["held_out"].items()}
    tracking.log(key, metrics, {})
    return {"run": key, "recipes": found}


def git_commit() -> str | None:
    """The commit of the code: of `GIT_COMMIT`, which an image sets, or of a checkout without changes; else None.

    The hash of the code itself is in the manifest either way.
    """
    if named := os.environ.get("GIT_COMMIT"):
        return named
    found = []
    for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--", "training/src"]):
        try:
            done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False)  # noqa: S603, S607
        except FileNotFoundError:
            return None
        if done.returncode:
            return None
        found.append(done.stdout.strip())
    return found[0] if not found[1] else None


def _pack(rows: Rows, expected: Outputs) -> bytes:
    out = io.BytesIO()
    np.savez_compressed(out, rows=rows, **vars(expected))
    return out.getvalue()


def expected_of(run: Run, recipe: str) -> tuple[Rows, Outputs]:
    """Rows that a candidate's graph must survive, float32 [M, 5], and its model's answers."""
    with np.load(io.BytesIO(run.read(f"{recipe}/expected.npz"))) as packed:
        if packed["rows"].shape[1] != len(FEATURES):
            msg = f"{recipe}/expected.npz is of another version: begin again with `prepare`"
            raise PipelineError(msg)
        return packed["rows"], Outputs(packed["anomaly"], packed["score"], packed["forecast"])
