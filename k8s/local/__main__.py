"""The command: `python -m local loop | chaos`."""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from local import chaos, loop
from local.cluster import ROOT
from training.data.days import DataError
from training.errors import PipelineError

REAL = ROOT.parent / "shared" / "data"
SYNTHETIC = "synthetic:?days=2&kinds=cpu_stress"


def main(words: list[str] | None = None) -> int:
    """Runs a command. Returns the exit code: 0 as it should be, 1 not, 2 usage."""
    parser = argparse.ArgumentParser(
        prog="local", description="The parts of the cluster as processes of this machine, with real programs."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser(
        "loop",
        help="a CPU fault, from the z-score until the alert clears",
        description="Replays a CPU fault to Prometheus: the collector asks onnxd, the alert fires, Slack, PagerDuty "
        "and the operator hear of it, the operator evicts the pod, the alert clears. Needs make kubernetes, etcd, "
        "Prometheus and Alertmanager.",
    )
    source = f"nezha:{REAL}" if (REAL / "nezha").is_dir() else SYNTHETIC
    one.add_argument("--source", default=source, help="recorded days with CPU faults (default: %(default)s)")
    two = commands.add_parser(
        "chaos",
        help="replicas are killed, the network is slow, S3 is gone: nothing is lost, alerts fire and clear",
        description="The faults of k8s/chaos* against two replicas that serve from S3, under load.",
    )
    for command in (one, two):
        command.add_argument("--work", type=Path, help="new folder for all files (default: a temporary one)")
        command.add_argument("--keep", action="store_true", help="leave all running at the end until Enter is pressed")
    chosen = parser.parse_args(words)
    console = Console(stderr=True)
    try:
        if chosen.command == "loop":
            told = loop.run(chosen.source, chosen.work, console, at_end=_ask(chosen.keep, console))
            return 0 if told.untouched else 1
        shown = chaos.run(chosen.work, console, at_end=_ask(chosen.keep, console))
        return 1 if any(one.lost for one in shown) else 0
    except (PipelineError, DataError) as error:
        console.print(f"[red]{error}[/]", soft_wrap=True)
        return 1


def _ask(keep: bool, console: Console):  # noqa: ANN202, FBT001 - a callback of either story
    """What is called at the end, when everything still runs."""

    def ask(stage: loop.Stage | chaos.Stage) -> None:
        if keep:
            console.print(
                f"\nPrometheus: {stage.monitoring.prometheus}   Alertmanager: {stage.monitoring.alertmanager}"
            )
            console.input("Everything runs until Enter is pressed. ")

    return ask


if __name__ == "__main__":
    sys.exit(main())
