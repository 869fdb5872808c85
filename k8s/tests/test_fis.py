"""What k8s/chaos/fis-labels.sh makes of an experiment of AWS FIS, where AWS CLI and kubectl answer from files."""

import copy
import json
import os
import re
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from botocore import xform_name
from botocore.model import ListShape, MapShape, OperationModel, Shape, StringShape, StructureShape

from manifests import K8S
from test_programs import Served, served, until

SCRIPT = K8S / "chaos" / "fis-labels.sh"
INSTANCES = "arn:aws:ec2:eu-west-1:111122223333:instance"
BEGIN = datetime(2026, 11, 28, 12, 0, 3, tzinfo=UTC)
FROM, TO = int(BEGIN.timestamp()), int(BEGIN.timestamp()) + 180
EXPERIMENT: dict[str, Any] = {
    "experiment": {
        "id": "EXP1",
        "state": {"status": "completed", "reason": "Experiment completed."},
        "targets": {"nodes": {"resourceType": "aws:ec2:instance", "selectionMode": "PERCENT(50)"}},
        "actions": {
            "cpu-stress": {
                "actionId": "aws:ssm:send-command",
                "targets": {"Instances": "nodes"},
                "state": {"status": "completed", "reason": "Action was completed."},
                "startTime": "2026-11-28T12:00:03.250000+00:00",
                "endTime": "2026-11-28T12:03:03.720000+00:00",
            },
            "wait": {
                "actionId": "aws:fis:wait",
                "state": {"status": "completed"},
                "startTime": "2026-11-28T12:03:04+00:00",
                "endTime": "2026-11-28T12:04:04+00:00",
            },
            "more": {
                "actionId": "aws:ssm:send-command",
                "targets": {"Instances": "nodes"},
                "state": {"status": "cancelled"},
            },
        },
        "startTime": "2026-11-28T12:00:01.100000+00:00",
        "endTime": "2026-11-28T12:04:05.900000+00:00",
    }
}
TARGETS: dict[str, Any] = {
    "resolvedTargets": [
        {
            "resourceType": "aws:ec2:instance",
            "targetName": name,
            "targetInformation": {"arn": f"{INSTANCES}/{instance}"},
        }
        for name, instance in (
            ("nodes", "i-0a1b2c3d4e5f60718"),
            ("nodes", "i-0aaaaaaaaaaaaaaaa"),
            ("unused", "i-0bbbbbbbbbbbbbbbb"),
        )
    ]
}
NODES = {
    "items": [
        {"metadata": {"name": name}, "spec": {"providerID": f"aws:///eu-west-1a/{instance}"}}
        for name, instance in (
            ("ip-10-0-1-7.eu-west-1.compute.internal", "i-0a1b2c3d4e5f60718"),
            ("ip-10-0-1-9.eu-west-1.compute.internal", "i-0bbbbbbbbbbbbbbbb"),
        )
    ]
}
HIT = ["i-0aaaaaaaaaaaaaaaa", "ip-10-0-1-7.eu-west-1.compute.internal"]
"""A host outside of the cluster, by its instance, and a node."""


def answering(folder: Path, experiment: object, targets: object) -> dict[str, str]:
    """An environment whose `aws` and `kubectl` answer so, and write down what they were asked."""
    for name, answer in (("get-experiment", experiment), ("list-experiment-resolved-targets", targets), ("get", NODES)):
        (folder / name).write_text(json.dumps(answer))
    for program, word in (("aws", 2), ("kubectl", 1)):
        file = folder / program
        file.write_text(f'#!/bin/sh\necho "{program} $*" >> "{folder}/asked"\ncat "{folder}/${word}"\n')
        file.chmod(0o755)
    return os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}


def labels(
    folder: Path, experiment: object = EXPERIMENT, targets: object = TARGETS
) -> subprocess.CompletedProcess[str]:
    """Runs the script."""
    if shutil.which("jq") is None:
        pytest.skip("no jq in PATH (Debian: apt-get install jq)")
    environment = answering(folder, experiment, targets)
    return subprocess.run([SCRIPT, "EXP1"], env=environment, capture_output=True, text=True, timeout=60, check=False)


def changed(path: str, value: object) -> dict[str, Any]:
    """The experiment with another value at `a.b.c`."""
    experiment = copy.deepcopy(EXPERIMENT)
    *way, last = path.split(".")
    place = experiment["experiment"]
    for key in way:
        place = place[key]
    place[last] = value
    return experiment


def test_each_node_that_was_hit_gets_a_window(tmp_path: Path) -> None:
    done = labels(tmp_path)
    assert done.returncode == 0, done.stderr
    told = {"from": FROM, "to": TO, "anomaly": True, "source": "chaos"}
    assert json.loads(done.stdout) == [{"series": series} | told for series in HIT]


@pytest.mark.parametrize(
    "begin", ["2026-11-28T12:00:03Z", "2026-11-28T13:30:03.250000+01:30", "2026-11-28T04:00:03-08:00", FROM + 0.25]
)
def test_times_are_read_as_the_cli_may_write_them(tmp_path: Path, begin: str | float) -> None:
    done = labels(tmp_path, changed("actions.cpu-stress.startTime", begin))
    assert {one["from"] for one in json.loads(done.stdout)} == {FROM}


@pytest.mark.parametrize(
    ("experiment", "says"),
    [
        (changed("endTime", None), "has not ended"),
        (changed("actions.cpu-stress.state.status", "failed"), "no action hit an instance"),
    ],
)
def test_what_cannot_be_told_is_said(tmp_path: Path, experiment: dict[str, Any], says: str) -> None:
    done = labels(tmp_path, experiment)
    assert (done.returncode != 0, done.stdout) == (True, "")
    assert says in done.stderr


def test_an_experiment_that_was_stopped_is_told_until_then(tmp_path: Path) -> None:
    done = labels(tmp_path, changed("actions.cpu-stress.state.status", "stopped"))
    assert [one["series"] for one in json.loads(done.stdout)] == HIT


def operation(name: str) -> OperationModel:
    """What the CLI's command asks FIS."""
    service = botocore.session.get_session().get_service_model("fis")
    (found,) = [one for one in service.operation_names if xform_name(one, "-") == name]
    return service.operation_model(found)


def misfits(shape: Shape, value: object, where: str) -> list[str]:
    """Where an answer is not what botocore's model says."""
    if isinstance(shape, StructureShape):
        unknown = [f"{where}.{key}" for key in value if key not in shape.members]
        known = [(shape.members[key], one, f"{where}.{key}") for key, one in value.items() if key in shape.members]
        return unknown + [wrong for part in known for wrong in misfits(*part)]
    if isinstance(shape, MapShape):
        return [wrong for key, one in value.items() for wrong in misfits(shape.value, one, f"{where}.{key}")]
    if isinstance(shape, ListShape):
        return [wrong for one in value for wrong in misfits(shape.member, one, where)]
    fits = isinstance(value, str) and (not isinstance(shape, StringShape) or value in (shape.enum or [value]))
    return [] if fits else [where]


def test_fis_knows_what_it_is_asked_and_answers_so(tmp_path: Path) -> None:
    assert labels(tmp_path).returncode == 0
    asked = [line.split() for line in (tmp_path / "asked").read_text().splitlines()]
    assert asked[2:] == [["kubectl", "get", "nodes", "--output", "json"]]
    for (_, service, name, *words), answer in zip(asked[:2], (EXPERIMENT, TARGETS)):
        assert service == "fis"
        model = operation(name)
        options = {word.removeprefix("--") for word in words[::2]} - {"output"}
        assert options == {xform_name(member, "-") for member in model.input_shape.required_members}
        assert misfits(model.output_shape, answer, name) == []
    wrong = changed("actions.cpu-stress.state.status", "done")
    wrong["experiment"]["began"] = ""
    assert len(misfits(operation("get-experiment").output_shape, wrong, "")) == 2


def challengers(server: Served) -> list[dict[str, Any]]:
    """Those that are compared with the champion by now."""
    answer = server.get("/models/anomaly/shadow", "ops")
    return answer.json().get("challengers", []) if answer.ok else []


def test_the_server_takes_them_and_finds_the_rows(tmp_path: Path) -> None:
    assert labels(tmp_path).returncode == 0
    (command,) = re.findall(r"^#   (\S*fis-labels\.sh .*)$", SCRIPT.read_text(), re.MULTILINE)
    settings = {"ONNXD_REPOSITORY": "models", "ONNXD_EVENT_TIME": "true"}
    with served(tmp_path, settings) as server:
        # Rows are remembered for a challenger.
        until(lambda: any(one.get("evidence") for one in challengers(server)))
        for ts in (FROM - 60, FROM + 57, FROM + 117, TO + 57):
            row = {"series": HIT[1], "ts": ts, "cpu_percent": 99.0, "cpu_zscore": 9.0, "memory_zscore": 0.5}
            assert server.post("/predict", row).ok
        words = ["bash", "-ec", command.replace("localhost:8080", server.http).replace("EXPERIMENT_ID", "EXP1")]
        environment = answering(tmp_path, EXPERIMENT, TARGETS)
        sent = subprocess.run(words, cwd=K8S.parent, env=environment, capture_output=True, text=True, check=True)
        assert json.loads(sent.stdout) == {"accepted": 2}
        joined = 'onnxd_feedback_total{model="anomaly",source="chaos",outcome="joined"} 2'
        until(lambda: joined in server.get("/metrics", "ops").text)
