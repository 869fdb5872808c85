"""Gate: the chosen candidate must pass G1 to G11 before it is registered."""

import json
from typing import Any

from training.features import join, table
from training.gates import graph, quality, served
from training.gates.gate import Case, Finding, text
from training.gates.provenance import bill_of_materials, provenance
from training.manifest import to_bytes
from training.pipeline import repository
from training.pipeline.compare import compare, graph_of
from training.pipeline.learn import config_of, days_of, expected_of, tables_of
from training.pipeline.settings import Settings
from training.pipeline.work import Run, once, tracking_of
from training.scoring.served import Graph
from training.told import Told, nobody


def case_of(settings: Settings, key: str, recipe: str) -> Case:
    """A candidate of a run at the gates, with the champion beside it.

    Args:
        settings: Where things are.
        key: Of the run.
        recipe: Which candidate.
    """
    run, config = Run(settings, key), config_of(settings)
    prepared, evaluated = run.needs("prepare"), run.needs("evaluate")
    days = days_of(run, "test")
    tables = tables_of(days, config)
    content = run.read(f"{recipe}/model.onnx")
    stored = repository.champion(settings)
    champion = graph_of(stored)
    rows, expected = expected_of(run, recipe)
    return Case(
        recipe=recipe,
        onnx=content,
        manifest=run.files.read_json(f"{recipe}/manifest.json"),
        rows=rows,
        expected=expected,
        train=join([table(day, config) for day in days_of(run, "train")]),
        days=days,
        tables=tables,
        compared=compare(recipe, Graph(content), tables, config),
        champion=stored,
        champion_compared=compare("champion", champion, tables, config) if champion is not None else None,
        differences=evaluated["differences"],
        provenance={
            "run_key": key,
            "fingerprint": prepared["fingerprint"],
            "mlflow_run_id": tracking_of(settings).run(key),
            "signed": bool(settings.sign_with),
        },
        config=config,
    )


def findings_of(case: Case, told: Told = nobody) -> list[Finding]:
    """All gates, in order."""
    gates = (
        ("G1 artifact", lambda: graph.artifact(case)),
        ("G2 signature", lambda: graph.signature(case)),
        ("G3 parity, in the server too", lambda: served.agreement(case)),
        ("G4 batch invariance", lambda: graph.batches(case)),
        ("G5 latency", lambda: served.latency(case)),
        ("G6 quality", lambda: quality.quality(case)),
        ("G7 robustness", lambda: graph.robustness(case)),
        ("G8 slices", lambda: quality.slices(case)),
        ("G9 calibration", lambda: quality.calibration(case)),
        ("G10 negative controls", lambda: quality.controls(case, lambda: quality.reproduced(case))),
        ("G11 provenance", lambda: provenance(case)),
    )
    found = []
    for name, gate in gates:
        told(name)
        found.append(gate())
    return found


@once
def gate(settings: Settings, key: str, told: Told = nobody) -> dict[str, Any]:
    """Puts the chosen candidate through all gates; the report, the bill of materials and the reason go to MLflow.

    Returns:
        `run`, `passed`, `failed` (the gates), `reason` (of the first that failed).
    """
    run = Run(settings, key)
    recipe = run.needs("evaluate")["recipe"]
    case = case_of(settings, key, recipe)
    found = findings_of(case, told)
    failed = [one for one in found if not one.passed]
    report, bill = text(found), bill_of_materials(case)
    run.files.write("gates.md", report.encode())
    run.files.write("bom.cdx.json", json.dumps(bill, indent=1).encode())
    manifest = dict(case.manifest)
    manifest["metrics"] = {**manifest["metrics"], **_metrics(case)}
    run.files.write(f"{recipe}/manifest.json", to_bytes(manifest))
    tracking = tracking_of(settings)
    tracking.log(key, {}, {"gates.md": report.encode(), "bom.cdx.json": json.dumps(bill, indent=1).encode()})
    reason = f"{failed[0].gate} {failed[0].name}: {failed[0].found[0]}" if failed else "every gate is passed"
    gates = {f"onnxd.{one.gate}": "passed" if one.passed else one.found[0][:500] for one in found}
    tracking.tag(key, {"onnxd.gates": "failed" if failed else "passed", **gates})
    return {"run": key, "passed": not failed, "failed": [one.gate for one in failed], "reason": reason}


def _metrics(case: Case) -> dict[str, Any]:
    """Of the test days, for the manifest."""
    days = {day: {"role": "hold-out", **m.rounded()} for day, m in case.compared.metrics.items()}
    return {"holdout": case.compared.together.rounded(), "days": days}
