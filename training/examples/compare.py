"""Asks a server the rows of an example and compares its answers with those of the library that trained the model."""

import json
import sys
from pathlib import Path

import requests

TOLERANCE = 1e-4
"""Of a number: 1e-4 times its size, or 1e-4."""


def flat(answer: object) -> list[object]:
    """The values of an answer, one after the other."""
    if isinstance(answer, dict):
        return [value for key in sorted(answer) for value in flat(answer[key])]
    if isinstance(answer, list):
        return [value for one in answer for value in flat(one)]
    return [answer]


def difference(ours: object, theirs: object) -> float:
    """Between two values, in tolerances; words differ without measure."""
    if isinstance(ours, (int, float)) and isinstance(theirs, (int, float)):
        return abs(ours - theirs) / (TOLERANCE * max(1.0, abs(theirs)))
    return 0.0 if ours == theirs else float("inf")


folder, url = Path(sys.argv[1]), sys.argv[2]
asked = json.loads((folder / "asked.json").read_text())
expected = json.loads((folder / "expected.json").read_text())
answer = requests.post(url, json=asked, timeout=10)
if not answer.ok:
    sys.exit(f"{answer.status_code}: {answer.json()['error']}")
got = answer.json()
print(f"onnxd        {json.dumps(got[0])}\nthe library  {json.dumps(expected[0])}")
largest = 0.0
for row, (served, said) in enumerate(zip(got, expected, strict=True)):
    if served.keys() != said.keys():
        sys.exit(f"row {row}: onnxd gives {', '.join(served)}, the library {', '.join(said)}")
    largest = max(largest, *(difference(a, b) for a, b in zip(flat(served), flat(said), strict=True)))
if largest > 1:
    sys.exit(f"they differ, by up to {largest * TOLERANCE:.1e}")
print(f"{len(got)} rows, the same within {TOLERANCE:.0e}")
