"""Small steps for the state machine: a mean for a model, but with real objects in a real bucket between them.

The bucket has `rows.json` (numbers to train on), `limit.json` (the gate's), `verdicts.json` and `rechecks.json` (what
the server answers in order, the last one for ever), and `aliases.json`, which only conditional PUTs change.
"""

import json
import threading
from collections.abc import Callable
from typing import Any

import boto3
from botocore.client import BaseClient
from botocore.config import Config
from botocore.exceptions import ClientError, EndpointConnectionError

from training.errors import PipelineError, TransientError

NOWHERE = "http://127.0.0.1:1"
"""Nothing listens on this port."""


def connect(service: str, endpoint: str) -> BaseClient:
    """A client that asks once."""
    return boto3.client(
        service,
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",  # noqa: S106 - the server does not look at it
        config=Config(retries={"total_max_attempts": 1}),
    )


class Bucket:
    """JSON objects of a bucket."""

    def __init__(self, endpoint: str, name: str) -> None:
        """Connects; asks nothing."""
        self.s3, self.name = connect("s3", endpoint), name

    def get(self, key: str) -> Any:  # noqa: ANN401 - JSON is anything
        return self.find(key)[0]

    def find(self, key: str) -> tuple[Any, str | None]:
        """An object and its ETag; None and None if there is none."""
        try:
            found = self.s3.get_object(Bucket=self.name, Key=key)
        except ClientError as error:
            if error.response["Error"]["Code"] == "NoSuchKey":
                return None, None
            raise
        except EndpointConnectionError as error:
            raise TransientError(str(error)) from error
        return json.load(found["Body"]), found["ETag"]

    def put(self, key: str, value: object, etag: str | None = None) -> bool:
        """Writes an object; with an ETag only if the object still has it. False if it has not."""
        condition = {} if etag is None else {"IfMatch": etag}
        try:
            self.s3.put_object(Bucket=self.name, Key=key, Body=json.dumps(value).encode(), **condition)
        except ClientError as error:
            if error.response["Error"]["Code"] == "PreconditionFailed":
                return False
            raise
        return True


class Steps:
    """The steps over one bucket, and what a test does to them."""

    def __init__(self, endpoint: str, name: str) -> None:
        """Makes the bucket and fills it."""
        self.bucket = Bucket(endpoint, name)
        self.bucket.s3.create_bucket(Bucket=name)
        self.calls: list[str] = []
        self.outages: dict[str, int] = {}
        """How often a step finds that S3 does not answer."""
        self.before: dict[str, Callable[[], object]] = {}
        """Runs before a step."""
        self.released = threading.Event()
        for key, value in {
            "rows.json": [1.0, 2.0, 3.0],
            "limit.json": 2.5,
            "verdicts.json": ["hold", "promote"],
            "rechecks.json": ["keep"],
            "aliases.json": {"champion": "1", "challengers": [], "epoch": 1},
        }.items():
            self.bucket.put(key, value)

    def table(self) -> dict[str, Callable[[dict[str, Any]], dict[str, Any]]]:
        names = "decide prepare train evaluate gate register push judge promote recheck rollback withdraw report"
        return {name: self._wrapped(name) for name in names.split()}

    def _wrapped(self, name: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
        def step(state: dict[str, Any]) -> dict[str, Any]:
            self.calls.append(name)
            if self.outages.get(name, 0) > 0:
                self.outages[name] -= 1
                Bucket(NOWHERE, self.bucket.name).get("rows.json")
            if name in self.before:
                self.before[name]()
            return getattr(self, f"_{name}")(state)

        return step

    def _aliases(self) -> tuple[dict[str, Any], str | None]:
        return self.bucket.find("aliases.json")

    def _change(self, etag: str | None, **fields: object) -> bool:
        aliases, _ = self._aliases()
        return self.bucket.put("aliases.json", {**aliases, "epoch": aliases["epoch"] + 1, **fields}, etag)

    def _next(self, key: str) -> str:
        first, *rest = self.bucket.get(key)
        if rest:
            self.bucket.put(key, rest)
        return first

    def _decide(self, _: dict[str, Any]) -> dict[str, Any]:
        taken = self._aliases()[0]["challengers"]
        return {"proceed": not taken, "reason": f"in the shadow: {taken}"}

    def _prepare(self, state: dict[str, Any]) -> dict[str, Any]:
        key = f"run-{state['execution']['name']}"
        self.bucket.put(f"{key}/data.json", self.bucket.get("rows.json"))
        return {"run_key": key}

    def _train(self, state: dict[str, Any]) -> dict[str, Any]:
        rows = self.bucket.get(f"{state['prepare']['run_key']}/data.json")
        if not rows:
            msg = "rows.json: there is nothing to train on; wait for metrics"
            raise PipelineError(msg)
        self.bucket.put(f"{state['prepare']['run_key']}/model.json", {"mean": sum(rows) / len(rows)})
        return {"rows": len(rows)}

    def _evaluate(self, state: dict[str, Any]) -> dict[str, Any]:
        return {"error": self.bucket.get(f"{state['prepare']['run_key']}/model.json")["mean"]}

    def _gate(self, state: dict[str, Any]) -> dict[str, Any]:
        error, limit = state["evaluate"]["error"], self.bucket.get("limit.json")
        return {"passed": error <= limit, "reason": f"error {error} against {limit}"}

    def _register(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"version": "2"}

    def _push(self, state: dict[str, Any]) -> dict[str, Any]:
        version = state["register"]["version"]
        aliases, etag = self._aliases()
        if aliases["challengers"] not in ([], [version]):
            return {"pushed": False, "reason": f"{aliases['challengers']} came first"}
        self.bucket.put(f"anomaly/{version}/model.json", self.bucket.get(f"{state['prepare']['run_key']}/model.json"))
        return {"pushed": self._change(etag, challengers=[version]), "reason": "the shadow was free"}

    def _judge(self, _: dict[str, Any]) -> dict[str, Any]:
        verdict = self._next("verdicts.json")
        return {"verdict": verdict, "reason": f"the server says {verdict}", "etag": self._aliases()[1]}

    def _promote(self, state: dict[str, Any]) -> dict[str, Any]:
        done = self._change(
            state["judge"]["etag"],
            champion=state["register"]["version"],
            challengers=[self._aliases()[0]["champion"]],
        )
        return {"promoted": done, "reason": "aliases.json as it was" if done else "aliases.json has changed"}

    def _recheck(self, _: dict[str, Any]) -> dict[str, Any]:
        verdict = self._next("rechecks.json")
        return {"verdict": verdict, "reason": f"the server says {verdict}"}

    def _rollback(self, _: dict[str, Any]) -> dict[str, Any]:
        aliases, etag = self._aliases()
        return {"done": self._change(etag, champion=aliases["challengers"][0], challengers=[])}

    def _withdraw(self, state: dict[str, Any]) -> dict[str, Any]:
        aliases, etag = self._aliases()
        mine = {state["register"]["version"], "1"}
        return {"done": bool(set(aliases["challengers"]) & mine) and self._change(etag, challengers=[])}

    def _report(self, state: dict[str, Any]) -> dict[str, Any]:
        self.bucket.put(f"ends/{state['execution']['name']}.json", state["end"])
        return {}
