"""The command line: `python -m training COMMAND`."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from rich.console import Console

from training import commands
from training.config import Config
from training.data.days import DataError
from training.data.source import FORMS
from training.errors import PipelineError, TransientError
from training.lambdas import KINDS
from training.onnxd import ROOT
from training.pipeline.release import ROLES
from training.pipeline.settings import Settings
from training.recipes import RECIPES
from training.repository import RepositoryError
from training.train import GateError

DESCRIPTION = """\
Makes the models that onnxd serves, and makes them anew when the world has changed.

one step after the other; each may be run again and does what is left to do:
  prepare          reads metrics, splits them by time, computes the features: begins a run
  train            fits, calibrates and exports a candidate by each recipe
  evaluate         measures them and the champion on the days that were kept apart; picks one
  gate             puts it through G1 to G11, in the server's program too
  register         makes it a version of MLflow's registry
  push             puts it into the model repository as the challenger; with --from, any model of MLflow
  watch            waits for the verdict, promotes or withdraws, then watches the new champion

all of them:
  retrain          prepare to push; then watch, unless --no-watch
  local            all of it on this machine: PostgreSQL, MLflow, S3, two servers and traffic, started and stopped
  decide           whether there is cause to retrain: exit status 0 yes, 10 no

besides:
  init             a first repository: champion and challenger, from the Nezha days or synthetic ones
  reconcile        makes MLflow's aliases those of aliases.json
  nab              the detector on the Numenta Anomaly Benchmark, by its own rules
  compare-recipes, compare-baselines, compare-iforest, measure, vectors
                   tables of the README, and the examples of the features
"""
EPILOG = """\
examples:
  python -m training retrain --source 'prometheus:http://localhost:9090?days=14' --repository s3://models
  python -m training prepare --source nezha:../shared/data && python -m training train
  python -m training push --from models:/anomaly@challenger
  python -m training init --data ../shared/data --out models --replace

exit status: 0 done, 1 a gate or a step failed, 2 wrong arguments or data, 3 something does not answer: try again,
10 no cause to retrain, or no verdict yet, 11 rejected
"""
STEPS = ("prepare", "train", "evaluate", "gate", "register", "push", "watch", "retrain", "decide", "reconcile")


def parser() -> argparse.ArgumentParser:
    """The arguments, each with its help."""
    raw = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser("training", description=DESCRIPTION, epilog=EPILOG, formatter_class=raw)
    known = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    helps = {
        "prepare": "read metrics and compute features",
        "train": "fit a candidate by each recipe",
        "evaluate": "measure candidates and champion, and pick one",
        "gate": "G1 to G11",
        "register": "make it a version in MLflow",
        "push": "put it into the model repository as the challenger",
        "watch": "wait for the verdict, promote or withdraw, watch the new champion",
        "retrain": "prepare to watch",
        "decide": "whether there is cause to retrain",
        "reconcile": "set MLflow's aliases from aliases.json",
    }
    for name in STEPS:
        text = f"Sources of data:\n{FORMS}" if name in {"prepare", "retrain"} else None
        step = known.add_parser(name, help=helps[name], epilog=text, formatter_class=raw)
        _add_settings(step)
        if name in {"train", "evaluate", "gate", "register", "push", "watch"}:
            step.add_argument("--run", metavar="KEY", help="the run (default: the one that was prepared last)")
        if name == "push":
            step.add_argument("--from", dest="uri", metavar="URI", help="models:/NAME@ALIAS or models:/NAME/VERSION")
            step.add_argument(
                "--as",
                dest="role",
                choices=ROLES,
                help="what a model of --from becomes, whatever MLflow calls it (default: challenger)",
            )
        if name in {"watch", "retrain"}:
            step.add_argument(
                "--poll", type=float, default=60.0, help="seconds between two looks (default: %(default)s)"
            )
            step.add_argument(
                "--at-most", type=float, default=15 * 86_400.0, metavar="SECONDS", help="wait for the verdict, then end"
            )
            step.add_argument("--watch-for", type=float, default=86_400.0, metavar="SECONDS", help="after a promotion")
        if name == "retrain":
            step.add_argument("--no-watch", action="store_true", help="end when the challenger is in the shadow")
        if name == "decide":
            step.add_argument("--trigger", choices=KINDS, default="schedule", help="what asks for it")
            step.add_argument("--reason", default="", help="why, in words")
    _add_others(known)
    return top


def _add_settings(command: argparse.ArgumentParser) -> None:
    """A flag for each setting; the default is that of the environment."""
    group = command.add_argument_group("settings")
    for one in fields(Settings):
        shown = ",".join(map(str, one.default)) if isinstance(one.default, tuple) else one.default
        choices = f" ({', '.join(RECIPES)})" if one.name == "recipes" else ""
        default = f"default: {shown}, " if shown != "" else ""
        text = f"{one.metadata['help']}{choices} [{default}env: {one.metadata['environment']}]"
        group.add_argument(f"--{one.name.replace('_', '-')}", default=None, help=text.replace("%", "%%"))


def _add_others(known: argparse._SubParsersAction) -> None:
    """The commands that are no steps."""
    local = known.add_parser("local", help="retrain on this machine with every part real, and clean up")
    local.add_argument(
        "--trigger",
        choices=tuple(commands.LOCAL_SOURCES),
        default="skill",
        help="what begins the retraining: lost forecast skill, or inputs that drift (default: %(default)s)",
    )
    local.add_argument("--source", help="where the metrics come from, of 11 days (default: a fleet that changes so)")
    local.add_argument("--keep", action="store_true", help="leave everything running at the end until Enter is pressed")
    local.add_argument("--work", type=Path, help="folder for all files (default: a temporary one)")
    init = known.add_parser("init", help="train, evaluate and write a first repository")
    _add_data(init)
    init.add_argument("--out", type=Path, default=ROOT / "models", metavar="DIR", help="model repository to write")
    init.add_argument("--plots", type=Path, metavar="DIR", help="also draw the first hold-out day here, as PNG")
    init.add_argument("--replace", action="store_true", help="delete an earlier repository of this model first")
    nab = known.add_parser("nab", help="the detector on the Numenta Anomaly Benchmark")
    nab.add_argument("--data", type=Path, default=commands.DATA, metavar="DIR", help="folder that holds nab/")
    nab.add_argument("--plot", type=Path, metavar="FILE", help="also draw one series with its windows, as PNG")
    measure = known.add_parser("measure", help="size, nodes and latency of the models in a repository")
    measure.add_argument("--models", type=Path, default=ROOT / "models", metavar="DIR", help="the repository")
    forests = known.add_parser("compare-iforest", help="compact IsolationForest export against skl2onnx's")
    forests.add_argument("--trees", type=int, default=100, help="of the forest (default: %(default)s)")
    for name, text in (
        ("recipes", "all recipes on all days"),
        ("baselines", "median/MAD and EWMA, frozen or not"),
    ):
        _add_data(known.add_parser(f"compare-{name}", help=text))
    vectors = known.add_parser("vectors", help="write the examples of the features")
    vectors.add_argument("--out", type=Path, default=ROOT / "training" / "vectors" / "features.json", metavar="FILE")


def _add_data(command: argparse.ArgumentParser) -> None:
    source = command.add_mutually_exclusive_group()
    source.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="folder that holds nezha/<day>.csv and nezha/<day>-faults.json; default: ../shared/data beside the "
        "repository if it exists, else synthetic data",
    )
    source.add_argument("--synthetic", action="store_true", help="take generated data, to try the path")
    command.add_argument("--seed", type=int, default=Config.seed, help="of everything random (default: %(default)s)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command. Returns the exit status; messages go to stderr, tables and results to stdout."""
    known = parser()
    options = known.parse_args(arguments)
    if options.command == "push" and options.role and not options.uri:
        known.error("--as is for a model of --from: a run's becomes the challenger, or the champion if there is none")
    errors = Console(stderr=True, soft_wrap=True, highlight=False)
    try:
        if options.command in STEPS:
            return commands.step(options, errors)
        return commands.OTHERS[options.command](options, errors)
    except TransientError as error:
        errors.print("[bold red]does not answer:[/]", str(error), markup=True)
        return 3
    except PipelineError as error:
        errors.print(f"[bold red]failed:[/] {commands.plain(error)}")
        return 1
    except (DataError, RepositoryError) as error:
        errors.print(f"[bold red]error:[/] {commands.plain(error)}")
        return 2
    except GateError as error:
        errors.print(f"[bold red]gate failed:[/] {commands.plain(error)}")
        return 1


def entry() -> None:
    """For `python -m training` and the installed script."""
    sys.exit(main())
