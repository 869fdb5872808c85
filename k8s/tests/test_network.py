"""Who reaches whom under the NetworkPolicies: all that the parts need of each other, and nobody whom they do not."""

import pytest

from manifests import pods, render
from network import Peer, allowed, pod_of, stranger

DNS = stranger("kube-system", {"k8s-app": "kube-dns"})
PROMETHEUS = stranger("monitoring", {"app.kubernetes.io/name": "prometheus"}, ports={"http-web": 9090})
ALERTMANAGER = stranger("monitoring", {"app.kubernetes.io/name": "alertmanager"})
SHOP = stranger("shop", {"app": "cart"})
CLIENT = stranger("shop", {"app": "cart"}, namespace_labels={"onnxd.dev/client": "true"})
NEIGHBOUR = stranger("ml", {"app": "notebook"})
OUTSIDE = {"address": "52.218.1.1"}
METADATA = {"address": "169.254.169.254"}
FUNCTION = {"address": "10.0.245.9"}
DATABASE = {"address": "10.0.244.40"}

NEEDED = [
    ("anomaly-api", DNS, 53),
    ("mlflow", DNS, 53),
    ("collector", PROMETHEUS, 9090),
    ("collector", "anomaly-api", 8080),
    ("collector", OUTSIDE, 443),
    ("anomaly-api", "anomaly-api", 8082),
    ("anomaly-api", OUTSIDE, 443),
    ("remediation-operator", OUTSIDE, 443),
    (PROMETHEUS, "anomaly-api", 8082),
    (PROMETHEUS, "collector", 8083),
    (PROMETHEUS, "remediation-operator", 8084),
    (ALERTMANAGER, "remediation-operator", 8084),
    (CLIENT, "anomaly-api", 8080),
    (CLIENT, "anomaly-api", 8081),
]
ON_EKS = [
    ("mlflow", OUTSIDE, 443),
    ("mlflow", DATABASE, 5432),
    (FUNCTION, "mlflow", 5000),
    (FUNCTION, "anomaly-api", 8082),
]
OF_ONE = {
    "overlays/local": [("mlflow", "mlflow-postgres", 5432)],
    "overlays/production": ON_EKS,
    "overlays/dev": ON_EKS,
}
DENIED = [
    (SHOP, "anomaly-api", 8080),
    (CLIENT, "anomaly-api", 8082),
    (SHOP, "anomaly-api", 8082),
    (SHOP, "mlflow", 5000),
    ("collector", "mlflow", 5000),
    (SHOP, "remediation-operator", 8084),
    (NEIGHBOUR, "anomaly-api", 8080),
    ("collector", "anomaly-api", 8082),
    ("collector", "remediation-operator", 8084),
    ("mlflow", "anomaly-api", 8080),
    ("anomaly-api", METADATA, 80),
    ("anomaly-api", METADATA, 443),
    ("collector", METADATA, 80),
    ("remediation-operator", METADATA, 80),
    ("anomaly-api", OUTSIDE, 80),
    (OUTSIDE, "anomaly-api", 8080),
]


@pytest.mark.parametrize("folder", list(OF_ONE))
def test_the_parts_reach_what_they_need_and_nothing_else(folder: str) -> None:
    documents = render(folder)
    ours = {pod["metadata"]["labels"]["app"]: pod_of(pod) for pod in pods(documents)}

    def told(connections: list[tuple[str | Peer, str | Peer, int]]) -> dict[str, bool]:
        return {
            f"{source} -> {target}:{port}": allowed(
                documents,
                ours[source] if isinstance(source, str) else source,
                ours[target] if isinstance(target, str) else target,
                port,
                "UDP" if port == 53 else "TCP",
            )
            for source, target, port in connections
        }

    assert [one for one, may in told(NEEDED + OF_ONE[folder]).items() if not may] == []
    assert [one for one, may in told(DENIED).items() if may] == []


def test_the_evaluator_knows_what_kubernetes_does() -> None:
    def policy(**spec: object) -> dict[str, object]:
        return {"kind": "NetworkPolicy", "metadata": {"name": "one", "namespace": "a"}, "spec": spec}

    here, there = stranger("a", {"app": "here"}, ports={"http": 80}), stranger("b", {"app": "there"})
    assert allowed([], there, here, 80), "without a policy everything is allowed"
    closed = policy(podSelector={}, policyTypes=["Ingress"])
    assert not allowed([closed], there, here, 80), "a policy without rules denies"
    assert allowed([closed], here, there, 80), "in its own direction only"
    opened = policy(
        podSelector={"matchLabels": {"app": "here"}},
        policyTypes=["Ingress"],
        ingress=[{"from": [{"namespaceSelector": {}}], "ports": [{"port": "http"}]}],
    )
    assert allowed([closed, opened], there, here, 80), "policies add up, and a port may be named"
    assert not allowed([closed, opened], there, here, 81)
    both = [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "other"}}}]
    assert not allowed([policy(podSelector={}, policyTypes=["Ingress"], ingress=[{"from": both}])], there, here, 80)
    block = [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]}}]
    out = policy(podSelector={}, policyTypes=["Egress"], egress=[{"to": block}])
    assert allowed([out], here, {"address": "8.8.8.8"}, 443)
    assert not allowed([out], here, {"address": "10.1.1.1"}, 443)
