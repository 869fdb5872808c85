"""The checks are of the script beside this folder, and of k8s/tests."""

import sys
from pathlib import Path

GITOPS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(GITOPS), str(GITOPS.parent / "k8s" / "tests")]
