"""An S3 server on a port of this machine, a free one if none is given. It prints which, and ends as its input does.

The training's tests need the same one, beside Step Functions, so that it stands there.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "training" / "src"))

from training import interpreter


def main() -> None:
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    with interpreter.serve({}, port=port) as endpoint:
        print(endpoint.rpartition(":")[2], flush=True)  # noqa: T201
        sys.stdin.read()


if __name__ == "__main__":
    main()
