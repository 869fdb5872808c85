"""OpenLineage events of the steps: which run of which job began, ended or failed, and what it read and wrote.

Sent when `OPENLINEAGE_URL` names a collector, such as Marquez, as OpenLineage's own clients do (`OPENLINEAGE_ENDPOINT`,
`OPENLINEAGE_API_KEY` and `OPENLINEAGE_NAMESPACE` are taken too). Specification: openlineage.io/spec/2-0-2. A collector
that does not answer stops no step.
"""

import logging
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import requests

from training import __version__

SCHEMA = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
PRODUCER = f"https://pypi.org/project/onnxd-training/{__version__}"
NAMESPACE = uuid.UUID("0b6f4b53-6f2b-5d0c-9f0e-4a1c9f9d7f55")
"""For run ids that are the same whenever the same step of the same run is done."""
TIMEOUT = 5
"""Seconds."""

_log = logging.getLogger(__name__)


@contextmanager
def told(
    model: str, step: str, key: str, *, reads: tuple[str, ...] = (), writes: tuple[str, ...] = ()
) -> Iterator[None]:
    """Tells that a step begins, and how it ends.

    Args:
        model: The model's name.
        step: The step's.
        key: Of the pipeline's run, which is the parent of all of its steps.
        reads: URIs of what it reads.
        writes: URIs of what it writes.
    """
    if not os.environ.get("OPENLINEAGE_URL"):
        yield
        return
    about = _Step(model, step, key, reads, writes)
    _send(about.event("START"))
    try:
        yield
    except BaseException as error:
        _send(about.event("FAIL", error))
        raise
    _send(about.event("COMPLETE"))


def _send(event: dict[str, Any]) -> None:
    address = os.environ["OPENLINEAGE_URL"].rstrip("/") + "/"
    address += os.environ.get("OPENLINEAGE_ENDPOINT", "api/v1/lineage").lstrip("/")
    token = os.environ.get("OPENLINEAGE_API_KEY")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        requests.post(address, json=event, headers=headers, timeout=TIMEOUT).raise_for_status()
    except requests.RequestException as failure:
        _log.warning("OpenLineage event not taken: %s", failure)


@dataclass(frozen=True)
class _Step:
    """A step of a run, and what it reads and writes."""

    model: str
    name: str
    key: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]

    def event(self, kind: str, error: BaseException | None = None) -> dict[str, Any]:
        """A RunEvent of a kind; its parent is the pipeline's run."""
        namespace = os.environ.get("OPENLINEAGE_NAMESPACE", "onnxd")
        parent = {"run": {"runId": _run_id(self.key)}, "job": {"namespace": namespace, "name": f"{self.model}.retrain"}}
        facets: dict[str, Any] = {"parent": {**_facet("1-2-0", "ParentRunFacet"), **parent}}
        if error is not None:
            failed = {"message": str(error), "programmingLanguage": "PYTHON"}
            facets["errorMessage"] = {**_facet("1-0-1", "ErrorMessageRunFacet"), **failed}
        return {
            "eventType": kind,
            "eventTime": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "run": {"runId": _run_id(f"{self.key}.{self.name}"), "facets": facets},
            "job": {"namespace": namespace, "name": f"{self.model}.{self.name}"},
            "inputs": [_dataset(uri) for uri in self.reads],
            "outputs": [_dataset(uri) for uri in self.writes],
            "producer": PRODUCER,
            "schemaURL": SCHEMA,
        }


def _run_id(name: str) -> str:
    return str(uuid.uuid5(NAMESPACE, name))


def _facet(version: str, name: str) -> dict[str, str]:
    """What every facet says of itself: who made it, and by which version of which schema."""
    schema = f"https://openlineage.io/spec/facets/{version}/{name}.json#/$defs/{name}"
    return {"_producer": PRODUCER, "_schemaURL": schema}


def _dataset(uri: str) -> dict[str, str]:
    """A URI as OpenLineage names datasets: the store, and the name in it."""
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return {"namespace": "file", "name": uri}
    store, _, name = rest.partition("/")
    return {"namespace": f"{scheme}://{store}", "name": name or "/"}
