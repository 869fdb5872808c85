"""Makes `local`, the training's package, and what draws dashboards importable."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "k8s"), str(ROOT / "training" / "src"), str(ROOT / "k8s" / "tests")]
