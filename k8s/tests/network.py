"""Who may talk to whom, by NetworkPolicies: one that selects a pod denies what none of them allows."""

from ipaddress import ip_address, ip_network
from typing import Any

from manifests import Document, namespace, of, ports, selected

Peer = dict[str, Any]
"""An `address`; of a pod also `namespace`, `namespace_labels`, `labels` and `ports` (names to numbers)."""
POD = "10.0.7.9"
"""An address of a pod: on EKS they have those of the nodes' subnets, which a block may hold by mistake."""


def pod_of(pod: Document) -> Peer:
    """A pod of `manifests.pods` as a peer."""
    return stranger(namespace(pod), pod["metadata"]["labels"], ports=ports(pod))


def stranger(place: str, labels: dict[str, str], **more: Any) -> Peer:
    """A pod that the manifests do not make."""
    names = {"kubernetes.io/metadata.name": place, **more.pop("namespace_labels", {})}
    return {"address": POD, "namespace": place, "namespace_labels": names, "labels": labels, "ports": {}, **more}


def allowed(documents: list[Document], source: Peer, target: Peer, port: int, protocol: str = "TCP") -> bool:
    """Whether a connection may be made: both ends must allow it."""
    policies = of(documents, "NetworkPolicy")
    sending = _opens(policies, "Egress", source, target, target, port, protocol)
    return sending and _opens(policies, "Ingress", target, source, target, port, protocol)


def _opens(  # noqa: PLR0913, PLR0917 - a connection has that many parts
    policies: list[Document], direction: str, here: Peer, there: Peer, target: Peer, port: int, protocol: str
) -> bool:
    if "namespace" not in here:
        return True
    on_it = [
        policy["spec"]
        for policy in policies
        if namespace(policy) == here["namespace"]
        and direction in policy["spec"]["policyTypes"]
        and selected(here["labels"], policy["spec"]["podSelector"])
    ]
    rules = [rule for spec in on_it for rule in spec.get(direction.lower(), [])]
    side = "from" if direction == "Ingress" else "to"
    return not on_it or any(
        _port(rule, target, port, protocol) and _peer(rule.get(side), here["namespace"], there) for rule in rules
    )


def _port(rule: Document, target: Peer, port: int, protocol: str) -> bool:
    if "ports" not in rule:
        return True
    return any(
        one.get("protocol", "TCP") == protocol and target.get("ports", {}).get(one["port"], one["port"]) == port
        for one in rule["ports"]
    )


def _peer(peers: list[Document] | None, place: str, there: Peer) -> bool:
    return peers is None or any(_is(peer, place, there) for peer in peers)


def _is(peer: Document, place: str, there: Peer) -> bool:
    if block := peer.get("ipBlock"):
        address = ip_address(there["address"])
        out = [ip_network(network) for network in block.get("except", [])]
        return address in ip_network(block["cidr"]) and not any(address in network for network in out)
    if "namespace" not in there:
        return False
    if "namespaceSelector" in peer:
        in_it = selected(there["namespace_labels"], peer["namespaceSelector"])
    else:
        in_it = there["namespace"] == place
    return in_it and selected(there["labels"], peer.get("podSelector", {}))
