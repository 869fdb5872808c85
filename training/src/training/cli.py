"""The command line: `python -m training train`, `measure` and `compare-iforest`."""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.panel import Panel
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from training import compare, vectors
from training.config import Config
from training.data.days import DataError, Day, iso
from training.data.nezha import read_day
from training.data.synthetic import make_day
from training.report import metrics
from training.repository import RepositoryError
from training.train import GateError, save, train

ROOT = Path(__file__).resolve().parents[3]
"""The repository's root when the package runs from its checkout."""
DATA_SET = "nezha"

DESCRIPTION = """\
Trains the anomaly models that onnxd serves.

  train            reads a data folder (or makes synthetic data), trains champion and
                   challenger, evaluates both on days they have not seen, and writes
                   models/anomaly with manifests that the server can check
  measure          size, nodes and latency of the models in a repository
  compare-iforest  measures the compact IsolationForest export against skl2onnx's
  compare-recipes, compare-baselines
                   evaluate every recipe, and every way to learn what is normal
  vectors          writes the examples of the features
"""
EPILOG = """\
examples:
  python -m training train --data ../shared/data --out models --replace
  python -m training train --synthetic --out build/models --plots build/plots
  SOURCE_DATE_EPOCH=1700000000 python -m training train     the same bytes every time

exit status: 0 done, 1 a model failed a gate, 2 wrong arguments or data
"""


def parser() -> argparse.ArgumentParser:
    """The arguments, each with its help."""
    raw = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser("training", description=DESCRIPTION, epilog=EPILOG, formatter_class=raw)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser("train", help="train, evaluate and write the models", epilog=EPILOG, formatter_class=raw)
    _add_source(run)
    run.add_argument("--out", type=Path, default=ROOT / "models", metavar="DIR", help="model repository to write")
    run.add_argument("--plots", type=Path, metavar="DIR", help="also draw PR curve, scores and forecasts here, as PNG")
    run.add_argument("--replace", action="store_true", help="delete an earlier repository of this model first")
    run.add_argument("--seed", type=int, default=Config.seed, help="of everything random (default: %(default)s)")
    measure_models = commands.add_parser("measure", help="size, nodes and latency of the models in a repository")
    measure_models.add_argument("--models", type=Path, default=ROOT / "models", metavar="DIR", help="the repository")
    compare = commands.add_parser("compare-iforest", help="compact IsolationForest export against skl2onnx's")
    compare.add_argument("--trees", type=int, default=100, help="of the forest (default: %(default)s)")
    for name, text in (
        ("recipes", "all recipes on all days"),
        ("baselines", "median/MAD, EWMA, frozen in alert or not"),
    ):
        comparison = commands.add_parser(f"compare-{name}", help=text)
        _add_source(comparison)
        comparison.add_argument("--seed", type=int, default=Config.seed, help="of everything random")
    examples = commands.add_parser("vectors", help="write the examples of the features")
    examples.add_argument("--out", type=Path, default=ROOT / "training" / "vectors" / "features.json", metavar="FILE")
    return top


def _add_source(command: argparse.ArgumentParser) -> None:
    source = command.add_mutually_exclusive_group()
    source.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="folder that holds nezha/<day>.csv and nezha/<day>-faults.json; default: ../shared/data beside the "
        "repository if it exists, else synthetic data",
    )
    source.add_argument("--synthetic", action="store_true", help="take generated data, to try the path")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command. Returns the exit status; messages go to stderr, tables to stdout."""
    options = parser().parse_args(arguments)
    errors = Console(stderr=True, soft_wrap=True)
    try:
        if options.command in {"measure", "compare-iforest"}:
            from training import measure  # noqa: PLC0415 - needs skl2onnx, a development tool

            print(measure.models(options.models) if options.command == "measure" else measure.iforests(options.trees))
            return 0
        if options.command == "vectors":
            vectors.write(options.out)
            return 0
        if options.command.startswith("compare-"):
            config = replace(Config(), seed=options.seed)
            comparison = {"compare-recipes": compare.recipes, "compare-baselines": compare.baselines}[options.command]
            print(comparison(_read(options, config, errors), config))
            return 0
        return _train(options, errors)
    except (DataError, RepositoryError) as error:
        errors.print(f"[bold red]error:[/] {error}")
        return 2
    except GateError as error:
        errors.print(f"[bold red]gate failed:[/] {error}")
        return 1


def _train(options: argparse.Namespace, errors: Console) -> int:
    config = replace(Config(), seed=options.seed)
    at = created_at()
    days = _read(options, config, errors)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True) as bar:
        task = bar.add_task("starting", total=None)
        run = train(days, config, at, lambda step: bar.update(task, description=step))
        save(run, options.out, at, replace=options.replace)
        if options.plots:
            from training.plots import draw  # noqa: PLC0415 - matplotlib takes a second to import

            bar.update(task, description="drawing")
            draw(run, days, config, options.plots)
    print(metrics({"champion": run.champion.metrics, "challenger": run.challenger.metrics}))
    print(f"written: {options.out.name}/anomaly, versions 1 (champion) and 2 (challenger)")
    return 0


def created_at() -> str:
    """Now, or `SOURCE_DATE_EPOCH` for reproducible manifests, RFC 3339."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    return iso(int(epoch) if epoch else int(datetime.now(UTC).timestamp()))


def _read(options: argparse.Namespace, config: Config, errors: Console) -> dict[str, Day]:
    """The days, from files or generated, with their quirks printed."""
    names = (config.train_day, *config.holdout_days)
    folder = options.data or ROOT.parent / "shared" / "data"
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


def entry() -> None:
    """For `python -m training` and the installed script."""
    sys.exit(main())
