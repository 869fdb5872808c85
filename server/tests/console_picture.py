"""Sends a table to a server of which a picture of the console is to be taken, as if it were measured now.

`console_picture.py TABLE DATA_PORT OPERATIONS_PORT` posts the rows of each time to `/predict` and their labels to
`/feedback`. It waits for the shadow each hour, which may run only where a CPU is idle. The server is to be started with
`--event-time`.
"""

import csv
import itertools
import json
import sys
import time
from collections.abc import Iterable
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

HOUR = 3600


def ask(port: str, path: str, body: Any = None) -> Any:
    """Asks a server of this machine; a body is posted."""
    connection = HTTPConnection("127.0.0.1", int(port), timeout=60)
    method, data = ("GET", None) if body is None else ("POST", json.dumps(body))
    connection.request(method, path, data, {"content-type": "application/json"})
    reply = connection.getresponse()
    told = reply.read()
    connection.close()
    if reply.status >= HTTPStatus.BAD_REQUEST:
        message = f"{path}: {reply.status} {told.decode()}"
        raise RuntimeError(message)
    return json.loads(told)


def rows_of(table: Iterable[dict[str, str]]) -> list[dict[str, Any]]:
    """Makes rows of what a table holds; what is empty is left out."""
    texts = ("series", "anomaly", "node")
    return [{k: v if k in texts else float(v) for k, v in row.items() if v and k != "node"} for row in table]


def wait(port: str, rows: int) -> None:
    """Waits until each challenger has seen, or lost, so many rows."""
    while True:
        told = [one["statistics"] for one in ask(port, "/models/anomaly/shadow")["challengers"]]
        if all(one["pairs"] + sum(one["lost"].values()) >= rows for one in told):
            return
        time.sleep(0.05)


def main(path: str, data: str, operations: str) -> None:
    """Sends all of it."""
    with Path(path).open(newline="", encoding="utf-8") as file:
        rows = rows_of(csv.DictReader(file))
    sent = 0
    for _, of_hour in itertools.groupby(rows, lambda row: row["ts"] // HOUR):
        hour = list(of_hour)
        for _, of_time in itertools.groupby(hour, lambda row: row["ts"]):
            ask(data, "/predict", [{k: v for k, v in row.items() if k != "anomaly"} for row in of_time])
        sent += len(hour)
        wait(operations, sent)
        labels = [
            {"series": row["series"], "ts": row["ts"], "anomaly": row["anomaly"] == "true", "source": "chaos"}
            for row in hour
            if "anomaly" in row
        ]
        for start in range(0, len(labels), 500):
            ask(data, "/feedback", labels[start : start + 500])


if __name__ == "__main__":
    main(*sys.argv[1:])
