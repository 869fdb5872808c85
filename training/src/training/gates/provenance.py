"""G11 provenance: where a candidate comes from, as a security team asks for it, and its bill of materials.

The bill is CycloneDX 1.6 (ECMA-424) with one component of the type `machine-learning-model`.
"""

import hashlib
import uuid
from typing import Any

from training.gates.gate import Case, Check, Finding, finding

NAMESPACE = uuid.UUID("7c1c1f0e-4f5f-5f0f-9a53-0d6f0a1f2b11")
"""For serial numbers that are the same for the same model."""
PURL = "pkg:pypi/{name}@{version}"


def provenance(case: Case) -> Finding:
    """G11: run, data, code and environment are known."""
    known = case.provenance
    training = case.manifest["training"]
    code = training.get("git_commit") or training.get("code_sha256")
    return finding(
        "G11",
        "provenance",
        [
            Check(bool(known.get("mlflow_run_id")), f"MLflow run {known.get('mlflow_run_id')}"),
            Check(bool(known.get("fingerprint")), f"data fingerprint {str(known.get('fingerprint'))[:12]}"),
            Check(
                all(d.get("sha256") for d in training["data"]), f"{len(training['data'])} sources of data with hashes"
            ),
            Check(bool(code), f"code {str(code)[:12]}"),
            Check(bool(training["environment"]), f"{len(training['environment'])} packages with versions"),
            Check(holds=True, text=f"signed: {bool(known.get('signed'))}"),
        ],
    )


def bill_of_materials(case: Case) -> dict[str, Any]:
    """The model, what it was made from and with, and how good it is: CycloneDX 1.6 with a model card."""
    training, metrics = case.manifest["training"], case.compared.together
    sha256 = hashlib.sha256(case.onnx).hexdigest()
    name = case.manifest["name"]
    data = [
        {
            "type": "data",
            "bom-ref": f"data-{i}",
            "name": one["uri"],
            "hashes": [{"alg": "SHA-256", "content": one["sha256"]}],
            "licenses": [{"license": {"name": one["licence"]}}],
            "data": [
                {"type": "dataset", "name": one["uri"], "contents": {"properties": _properties({"rows": one["rows"]})}}
            ],
        }
        for i, one in enumerate(training["data"])
    ]
    packages = [
        {
            "type": "library",
            "bom-ref": PURL.format(name=n, version=v),
            "name": n,
            "version": v,
            "purl": PURL.format(name=n, version=v),
        }
        for n, v in training["environment"].items()
        if n != "python"
    ]
    shown = {k: v for k, v in metrics.rounded().items() if v is not None and k not in {"rows", "pod_days"}}
    card = {
        "modelParameters": {
            "approach": {"type": "supervised"},
            "task": "anomaly detection and forecast",
            "architectureFamily": case.recipe,
            "datasets": [{"ref": one["bom-ref"]} for one in data],
            "inputs": [{"format": f"float32 [N, {len(case.manifest['signature']['inputs'][0]['features'])}]"}],
            "outputs": [{"format": f"{o['name']} {o['dtype']} [N]"} for o in case.manifest["signature"]["outputs"]],
        },
        "quantitativeAnalysis": {
            "performanceMetrics": [{"type": k, "value": str(v), "slice": "test days"} for k, v in shown.items()]
        },
        "considerations": {
            "technicalLimitations": ["Labels are faults that show in CPU; what does not show there is not detected."],
        },
    }
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(NAMESPACE, sha256)}",
        "version": 1,
        "metadata": {
            "timestamp": case.manifest["created_at"],
            "component": {
                "type": "machine-learning-model",
                "bom-ref": "model",
                "name": name,
                "version": sha256[:12],
                "hashes": [{"alg": "SHA-256", "content": sha256}],
                "modelCard": card,
                "properties": _properties({k: v for k, v in case.provenance.items() if isinstance(v, str)}),
            },
        },
        "components": [*data, *packages],
        "dependencies": [{"ref": "model", "dependsOn": [c["bom-ref"] for c in (*data, *packages)]}],
    }


def _properties(found: dict[str, Any]) -> list[dict[str, str]]:
    return [{"name": f"onnxd:{name}", "value": str(value)} for name, value in found.items()]
