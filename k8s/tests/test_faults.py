"""Experiments of Chaos Mesh as the collector's default query sees them, and what is deployed so that it sees any."""

import tomllib
from pathlib import Path

import pytest
import yaml

import monitoring
from manifests import K8S, of, read, render

LABEL = "onnxd.dev/chaos"
(QUERY,) = [
    source["faults"]
    for source in tomllib.loads((K8S / "collector" / "src" / "sources.toml").read_text())["sources"]
    if "faults" in source
]
# As both exporters have them: three replicas of Chaos Mesh's controller manager tell the same.
PODS = [
    'kube_pod_labels{namespace="shop", pod="pay", uid="1", label_onnxd_dev_chaos="StressChaos"}',
    'kube_pod_labels{namespace="shop", pod="cart", uid="2", label_onnxd_dev_chaos="IOChaos"}',
    'kube_pod_labels{namespace="shop", pod="ship", uid="3"}',
    'kube_pod_labels{namespace="ml", pod="pay", uid="4", label_onnxd_dev_chaos="StressChaos"}',
]


def experiments(space: str, kind: str, phase: str, values: str) -> dict[str, str]:
    """The gauge of Chaos Mesh's replicas, as promtool takes it."""
    labels = f'namespace="{space}", kind="{kind}", phase="{phase}", job="chaos-mesh-controller-manager"'
    return {f'chaos_controller_manager_chaos_experiments{{{labels}, pod="replica-{i}"}}': values for i in range(3)}


@pytest.mark.parametrize(
    ("told", "faulty"),
    [
        (experiments("shop", "StressChaos", "running", "1+0x9"), ["shop/pay"]),
        (experiments("shop", "StressChaos", "running", "2+0x9"), ["shop/pay"]),
        (experiments("shop", "IOChaos", "running", "1+0x9"), ["shop/cart"]),
        # A label outlives its experiment, and others run meanwhile.
        (experiments("shop", "PodChaos", "running", "1+0x9"), []),
        (experiments("shop", "StressChaos", "injecting", "1+0x9"), []),
        (experiments("shop", "StressChaos", "paused", "1+0x9"), []),
        (experiments("shop", "StressChaos", "finished", "1+0x9"), []),
        (experiments("ml", "StressChaos", "running", "1+0x9"), ["ml/pay"]),
        (experiments("other", "StressChaos", "running", "1+0x9"), []),
        # It is over, or deleted.
        (experiments("shop", "StressChaos", "running", "1 1 0+0x7"), []),
        (experiments("shop", "StressChaos", "running", "1 1 stale"), []),
        ({}, []),
    ],
)
def test_pods_are_faulty_while_an_experiment_of_their_kind_runs(
    tmp_path: Path, told: dict[str, str], faulty: list[str]
) -> None:
    series = dict.fromkeys(PODS, "1+0x9") | told
    assert asked(tmp_path, series, faulty) == ""


def test_where_nobody_tells_of_pods_none_is_faulty(tmp_path: Path) -> None:
    told = experiments("shop", "StressChaos", "running", "1+0x9")
    assert asked(tmp_path, told, []) == ""
    assert "shop" in asked(tmp_path, dict.fromkeys(PODS, "1+0x9") | told, []), "a mistake would be found"


def asked(folder: Path, series: dict[str, str], faulty: list[str]) -> str:
    """What promtool has against the query's answer after four minutes."""
    names = [name.split("/") for name in faulty]
    samples = [{"labels": f'{{namespace="{space}", pod="{pod}"}}', "value": 1} for space, pod in names]
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [{"expr": QUERY, "eval_time": "4m", "exp_samples": samples}],
    }
    (folder / "test.yaml").write_text(yaml.safe_dump({"tests": [test]}))
    done = monitoring.run("promtool", "test", "rules", "test.yaml", cwd=folder)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_prometheus_is_told_of_experiments_and_of_the_label() -> None:
    (monitor,) = of(render("chaos-mesh"), "ServiceMonitor")
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["honorLabels"], "else `namespace` would be Chaos Mesh's"
    (values,) = read(K8S / "prometheus" / "values.yaml")
    assert values["kube-state-metrics"]["metricLabelsAllowlist"] == [f"pods=[{LABEL}]"]
    assert "label_" + LABEL.replace(".", "_").replace("/", "_") in QUERY


def test_experiments_that_go_by_the_label_hit_all_that_have_it_and_nobody_else() -> None:
    found = [one for file in sorted((K8S / "chaos").glob("*.yaml")) for one in read(file)]
    ours = [one for one in found if LABEL in one["spec"]["selector"]["labelSelectors"]]
    assert [one["kind"] for one in ours] == ["StressChaos"]
    for one in ours:
        assert one["spec"]["selector"] == {
            "namespaces": [one["metadata"]["namespace"]],
            "labelSelectors": {LABEL: one["kind"]},
        }
        assert one["spec"]["mode"] == "all"
