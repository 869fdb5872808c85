"""A retraining from Prometheus: what the kubelet tells of a fleet becomes a challenger, which the verdict promotes."""

import json
from pathlib import Path

import pytest

from prometheus_server import FAULTS, kubelet, prometheus
from scenes import DAYS, NEW, OLD, VERDICT, fleet, send
from training import cli, local, onnxd
from training.config import Config
from training.data.days import iso
from training.data.source import open_source, part
from training.pipeline.settings import Settings
from training.pipeline.work import tracking_of
from training.processes import environment


@pytest.mark.usefixtures("program")
def test_metrics_of_prometheus_become_a_champion(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, told = Config(), fleet(0, DAYS, changed=True)
    begin = told.span[0]
    changed, end = begin + OLD * local.DAY, begin + (OLD + NEW) * local.DAY
    repository = tmp_path / "models"
    repository.mkdir()
    flags = ["--event-time", "--poll-interval", "1s", "--state", str(tmp_path / "state")]
    with prometheus(tmp_path / "prometheus", kubelet(told)) as url:
        (whole,) = open_source(f"prometheus:{url}?faults={FAULTS}&days={DAYS}&end={iso(told.span[1])}").read(config)
        assert len(whole.series) == len(told.series)
        assert sum(fault.shows_in_cpu for fault in whole.faults) > 0.9 * len(told.faults)
        old = part(whole, begin, changed, "before", config)
        coming = part(whole, end, whole.span[1] + 1, "coming", config, context=local.WINDOW)
        local.first_champion(tmp_path / "first", old, str(repository))
        settings = {
            "TRAINING_SOURCE": f"prometheus:{url}?faults={FAULTS}&days={NEW}&end={iso(end)}",
            "TRAINING_WORK": str(tmp_path / "work"),
            "TRAINING_RECIPES": "monotone-logistic",
            "TRAINING_VERDICT": VERDICT,
            "ONNXD_REPOSITORY": str(repository),
        }
        with environment(settings), onnxd.serve(repository, flags) as server:
            assert cli.main(["decide", "--trigger", "skill"]) == 0
            assert "of the last day is" in capsys.readouterr().out
            assert cli.main(["retrain", "--no-watch"]) == 0, capsys.readouterr().err
            send(coming, (server,))
            watch = ["watch", "--peers", server.ops, "--poll", "0.1", "--watch-for", "0.1", "--at-most", "20"]
            assert cli.main(watch) == 0, capsys.readouterr()
            known = tracking_of(Settings.read()).aliases()
    aliases = json.loads((repository / "anomaly/aliases.json").read_text())
    assert (aliases["champion"], aliases["previous"], known["champion"]) == ("2", "1", "2")
    assert aliases["reason"] == "version 2: its forecast is better, and nothing else is worse"
    data = json.loads((repository / "anomaly/2/manifest.json").read_text())["training"]["data"]
    assert all(one["uri"].startswith(f"prometheus:{url}") for one in data), data
    assert data[0]["rows"] > 10_000
