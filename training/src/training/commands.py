"""What the commands do, with progress on stderr and results on stdout."""

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from training import vectors
from training.config import Config
from training.data.days import Day
from training.data.nezha import read_day
from training.data.synthetic import make_day
from training.manifest import now
from training.onnxd import HOLD, REJECT, ROOT
from training.pipeline import compare, decide, gating, learn, release
from training.pipeline.settings import Settings
from training.pipeline.work import Run, latest
from training.report import metrics
from training.told import Told
from training.train import save, train

DATA = ROOT.parent / "shared" / "data"
"""Where data lies beside a checkout."""
DATA_SET = "nezha"
LOCAL_SOURCE = "synthetic:?days=11&pods=8&seed=2&drift_day=4&drift=persistence&kinds=cpu_stress&weekend=1"
"""Load lasts longer from the fourth day on, which z-scores hardly show: the champion loses its skill."""
DRIFT_SOURCE = LOCAL_SOURCE.replace("drift=persistence", "drift=limits,persistence")
"""Limits are raised as well, so that it is a smaller percent of them, which the servers see in the baselines."""
LOCAL_SOURCES = {"skill": LOCAL_SOURCE, "drift": DRIFT_SOURCE}
"""What begins the retraining of `local`, and the fleet in which that happens."""
FAILED = 1


def plain(error: Exception) -> str:
    """An error's text, in which nothing is markup."""
    return escape(str(error))


@contextmanager
def progress(errors: Console, title: str, steps: int | None = None) -> Iterator[Told]:
    """A line with a spinner that says what happens, and a bar where the number of steps is known."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True) as bar:
        task = bar.add_task(title, total=steps)

        def told(text: str) -> None:
            if text.startswith("note: "):
                errors.print(f"  - {escape(text.removeprefix('note: '))}")
                return
            bar.update(task, description=f"{title}: {escape(text)}", advance=1)

        yield told


STEPS: dict[str, tuple[Callable[..., dict[str, Any]], int | None]] = {
    "train": (learn.train, None),
    "evaluate": (compare.evaluate, None),
    "gate": (gating.gate, 11),
    "register": (release.register, 2),
    "push": (release.push, 1),
}
"""Steps of a run in their order, and of how many parts each tells."""


def settings_of(options: argparse.Namespace) -> Settings:
    """Flags over environment over defaults."""
    return Settings.read({one.name: getattr(options, one.name) for one in fields(Settings)})


def step(options: argparse.Namespace, errors: Console) -> int:
    """Runs a step, or all of them."""
    settings = settings_of(options)
    name = options.command
    if name == "retrain":
        return retrain(settings, options, errors)
    if name == "watch":
        return watch(settings, options.run or latest(settings), options, errors)
    if name in STEPS and not getattr(options, "uri", None):
        return _step(settings, options.run or latest(settings), name, errors)
    with progress(errors, name) as told:
        if name == "prepare":
            found = learn.prepare(settings, told)
        elif name == "push":
            found = release.push_from(settings, options.uri, options.role or release.CHALLENGER, told)
        elif name == "decide":
            found = decide.decide(settings, decide.Trigger(options.trigger, options.reason), told)
        else:
            found = {"aliases": release.reconcile(settings)}
    return _say(found, 0 if found.get("proceed", True) else HOLD)


def _step(settings: Settings, key: str, name: str, errors: Console) -> int:
    """Runs one step and prints what it found; a failed gate ends the run in MLflow."""
    call, parts = STEPS[name]
    with progress(errors, name, parts) as told:
        found = call(settings, key, told)
    if name == "evaluate":
        print(Run(settings, key).read("evaluation.md").decode())
    if name == "gate":
        print(Run(settings, key).read("gates.md").decode())
        if not found["passed"]:
            decide.report(settings, key, "failed", found["reason"], failed=True)
            return FAILED
    return _say(found, 0 if found.get("pushed", True) else FAILED)


def _say(found: dict[str, Any], code: int = 0) -> int:
    """Prints a result without its tables, which are in the run's folder and were shown already."""
    found = {k: v for k, v in found.items() if k not in {"metrics", "champion", "differences", "replay", "recipes"}}
    print(json.dumps(found, indent=1, ensure_ascii=False))
    return code


def retrain(settings: Settings, options: argparse.Namespace, errors: Console) -> int:
    """All steps; what is done already is not done again."""
    with progress(errors, "prepare") as told:
        found = learn.prepare(settings, told)
    _say(found)
    for name in STEPS:
        if code := _step(settings, found["run_key"], name, errors):
            return code
    return 0 if options.no_watch else watch(settings, found["run_key"], options, errors)


def watch(settings: Settings, key: str, options: argparse.Namespace, errors: Console) -> int:
    """Waits for the verdict and does what it says; then watches the new champion."""
    with progress(errors, "watch") as told:
        until = time.monotonic() + options.at_most
        while (found := release.judge(settings, key))["verdict"] == "hold":
            if time.monotonic() >= until:
                return _say(found, HOLD)
            told(f"hold: {found['reason']}")
            time.sleep(options.poll)
        if found["verdict"] == "reject":
            release.withdraw(settings, key, told)
            decide.report(settings, key, "rejected", found["reason"], failed=False)
            return _say(found, REJECT)
        promoted = release.promote(settings, key, told)
        if not promoted["promoted"]:
            release.withdraw(settings, key, told)
            decide.report(settings, key, "failed", promoted["reason"], failed=True)
            return _say(promoted, FAILED)
        _say(promoted)
        until = time.monotonic() + options.watch_for
        while (found := release.recheck(settings, key))["verdict"] == "keep":
            left = until - time.monotonic()
            if left <= 0:
                decide.report(settings, key, "promoted", found["reason"], failed=False)
                return _say(found)
            told(f"the new champion is watched for {left / 3600:.1f} h more")
            time.sleep(min(options.poll, left))
        _say(release.rollback(settings, key, told))
        decide.report(settings, key, "failed", f"rolled back: {found['reason']}", failed=True)
        return _say(found, FAILED)


def init(options: argparse.Namespace, errors: Console) -> int:
    """Writes a first repository, with its pictures if asked for."""
    config = replace(Config(), seed=options.seed)
    at = now()
    days = read_days(options, config, errors)
    with progress(errors, "init") as told:
        run = train(days, config, at, told)
        save(run, options.out, at, replace=options.replace)
        if options.plots:
            from training.plots import Answered, draw  # noqa: PLC0415 - matplotlib takes a second to import

            told("drawing")
            day = config.holdout_days[0]
            models = {"champion": run.champion, "challenger": run.challenger}
            answers = {
                name: Answered(one.model.predict(run.tables[day].features), one.metrics[day])
                for name, one in models.items()
            }
            options.plots.mkdir(parents=True, exist_ok=True)
            for name, content in draw(answers, run.tables[day], days[day]).items():
                (options.plots / name).write_bytes(content)
    print(metrics({"champion": run.champion.metrics, "challenger": run.challenger.metrics}))
    print(f"written: {options.out.name}/anomaly, versions 1 (champion) and 2 (challenger)")
    return 0


def read_days(options: argparse.Namespace, config: Config, errors: Console) -> dict[str, Day]:
    """The days, from files or generated, with their quirks printed."""
    names = (config.train_day, *config.holdout_days)
    folder = options.data or DATA
    synthetic = options.synthetic or (options.data is None and not (folder / DATA_SET).is_dir())
    if synthetic:
        text = "Training on SYNTHETIC data. The models prove the path and nothing about real pods."
        reason = "asked for by --synthetic" if options.synthetic else "no data folder found; give one with --data DIR"
        errors.print(Panel(f"{text}\nReason: {reason}.", title="no real data", border_style="bold yellow"))
        days = {name: make_day(name, config) for name in names}
    else:
        days = {name: read_day(folder / DATA_SET, name, config.labels) for name in names}
    for name, day in days.items():
        errors.print(f"[bold]{name}[/]: {day.rows:,} samples of {len(day.series)} pods, {len(day.faults)} faults")
        for note in day.notes:
            errors.print(f"  - {note}", highlight=False)
    return days


def _compare(options: argparse.Namespace, errors: Console) -> int:
    from training import comparisons  # noqa: PLC0415 - LightGBM takes a second to import

    config = replace(Config(), seed=options.seed)
    comparison = {"compare-recipes": comparisons.recipes, "compare-baselines": comparisons.baselines}[options.command]
    print(comparison(read_days(options, config, errors), config))
    return 0


def _measure(options: argparse.Namespace, _errors: Console) -> int:
    from training import measure  # noqa: PLC0415 - needs skl2onnx, a development tool

    print(measure.models(options.models) if options.command == "measure" else measure.iforests(options.trees))
    return 0


def _nab(options: argparse.Namespace, errors: Console) -> int:
    from training import nab  # noqa: PLC0415 - matplotlib takes a second to import
    from training.data.nab import read_nab  # noqa: PLC0415 - beside it

    folder = options.data / "nab" if (options.data / "nab").is_dir() else options.data
    series = read_nab(folder)
    for one in series:
        for note in one.notes:
            errors.print(f"  - {escape(one.name)}: {escape(note)}")
    with progress(errors, "nab") as told:
        print(nab.table(folder, told))
        if options.plot:
            nab.draw(series, "rds_cpu_utilization_e47b3b", options.plot)
    return 0


def _vectors(options: argparse.Namespace, _errors: Console) -> int:
    vectors.write(options.out)
    return 0


def _local(options: argparse.Namespace, errors: Console) -> int:
    from training import local  # noqa: PLC0415 - needs moto, a development tool

    # What it started is stopped then, too.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))

    def at_end(stage: local.Stage, _settings: Settings) -> None:
        if options.keep:
            local.ask(stage, errors)

    source = options.source or LOCAL_SOURCES[options.trigger]
    return local.run(source, options.work, errors, trigger=options.trigger, at_end=at_end)


OTHERS: dict[str, Callable[[argparse.Namespace, Console], int]] = {
    "init": init,
    "nab": _nab,
    "measure": _measure,
    "compare-iforest": _measure,
    "compare-recipes": _compare,
    "compare-baselines": _compare,
    "vectors": _vectors,
    "local": _local,
}
"""Commands that are no steps of a run."""
