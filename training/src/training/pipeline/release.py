"""From a candidate that passed its gates to the champion, and back: register, push, judge, promote, recheck, roll back.

All writes of the repository, and all judgements, are the server's program's; MLflow's aliases follow.
"""

import tempfile
from pathlib import Path
from typing import Any

from training import onnxd, signing
from training.errors import PipelineError
from training.manifest import to_bytes
from training.pipeline import repository
from training.pipeline.settings import Settings
from training.pipeline.work import Run, once, tracking_of
from training.storage import Storage
from training.told import Told, nobody
from training.tracking import roles_of

BY = "training"
"""Who changes the repository, in its ledger."""
CHAMPION, CHALLENGER = ROLES = "champion", "challenger"
"""What a pushed version becomes."""


@once
def register(settings: Settings, key: str, told: Told = nobody) -> dict[str, Any]:
    """Makes the candidate a version of MLflow's registry, under a number that the repository has not taken.

    Returns:
        `run`, `recipe`, `version`, `mlflow_run_id`.

    Raises:
        PipelineError: It has not passed the gates.
        TransientError: MLflow or the repository does not answer.
    """
    run = Run(settings, key)
    gates = run.needs("gate")
    if not gates["passed"]:
        msg = f"run {key[:12]} did not pass its gates ({', '.join(gates['failed'])}): it is not registered"
        raise PipelineError(msg)
    return _numbered(settings, run, told)


def _numbered(settings: Settings, run: Run, told: Told) -> dict[str, Any]:
    """The candidate as a version of MLflow's registry, made if need be, with its files under that number."""
    recipe = run.needs("evaluate")["recipe"]
    tracking = tracking_of(settings)
    told("versions that the repository has and MLflow has not")
    tracking.adopt(_versions(settings))
    told("the model")
    manifest = run.files.read_json(f"{recipe}/manifest.json")
    manifest["training"]["mlflow_run_id"] = tracking.run(run.key)
    version, mlflow_run = tracking.register(run.key, run.read(f"{recipe}/model.onnx"), manifest)
    manifest["version"] = version
    run.files.write("model.onnx", run.read(f"{recipe}/model.onnx"))
    run.files.write("manifest.json", to_bytes(manifest))
    return {"run": run.key, "recipe": recipe, "version": version, "mlflow_run_id": mlflow_run}


def _free_number(settings: Settings, run: Run, told: Told) -> str:
    """The registered number; another one where somebody's push has taken it meanwhile, by which the run then goes."""
    version = run.needs("register")["version"]
    ours = run.files.read_json("manifest.json")
    theirs = Storage(settings.repository).under(f"{settings.model}/{version}").read_json("manifest.json")
    if theirs is None or theirs.get("training") == ours["training"]:
        return version
    told(f"version {version} was pushed by somebody meanwhile: another number")
    tracking_of(settings).cede(run.key, version, theirs["artifact"]["sha256"])
    found = _numbered(settings, run, told)
    run.files.write_json("register.json", found)
    return found["version"]


def _versions(settings: Settings) -> dict[str, tuple[str, str]]:
    """The complete versions of the repository: by number, the folder's URI and the model's SHA-256."""
    found = repository.aliases(settings)
    if found is None:
        return {}
    files = Storage(settings.repository).under(settings.model)
    versions = {}
    for number in files.folders():
        manifest = files.read_json(f"{number}/manifest.json") if number.isdigit() else None
        if manifest is not None:
            uri = f"{files.uri}/{number}"
            versions[number] = (uri if "://" in uri else Path(uri).absolute().as_uri(), manifest["artifact"]["sha256"])
    return versions


@once
def push(settings: Settings, key: str, told: Told = nobody) -> dict[str, Any]:
    """Puts the registered version into the repository as the challenger, by `onnxd push`, under MLflow's number.

    A number that somebody's push, which asks MLflow for none, took since then is left to them: the version then is
    registered once more, under the next one.

    Returns:
        `pushed`, `reason`, `version`, `role`, `aliases` (what changed in MLflow). Not pushed: another challenger was
        first, and one at a time is compared.
    """
    run = Run(settings, key)
    version = _free_number(settings, run, told)
    found = repository.aliases(settings)
    others = [] if found is None else [v for v in found["challengers"] if v != version]
    if others:
        return {"pushed": False, "reason": f"version {others[0]} is in the shadow already", "version": version}
    role = CHALLENGER if found else CHAMPION
    with tempfile.TemporaryDirectory() as folder:
        file = onnxd.place(Path(folder) / "candidate", run.read("model.onnx"), run.read("manifest.json"))
        told(f"version {version} as {role}")
        pushed = push_file(settings, file, version, role, f"run {key[:12]}")
    return {"pushed": True, "reason": f"version {version} is the {role}", "role": role, **pushed}


def push_file(settings: Settings, file: Path, version: str, role: str, reason: str) -> dict[str, Any]:
    """Pushes an ONNX file, with the manifest beside it if there is one, and sets MLflow's aliases."""
    words: list[str | Path] = ["push", file, "--number", version, "--as", role, *_place(settings)]
    with signing.flags(settings.sign_with) as signed:
        said = onnxd.call([*words, *signed, "--by", BY, "--reason", reason])
    found = {k: said.answer[k] for k in ("version", "uploaded", "becomes")}
    return {**found, "aliases": reconcile(settings)}


def push_from(settings: Settings, uri: str, role: str = CHALLENGER, told: Told = nobody) -> dict[str, Any]:
    """Pushes a model that was registered in MLflow by hand, under its number there.

    Whoever reaches MLflow can write it, aliases too. So what it becomes is the caller's word alone.

    Args:
        settings: Where to.
        uri: `models:/anomaly@challenger` or `models:/anomaly/4`.
        role: `challenger` or `champion`.
        told: Told what happens next.

    Raises:
        PipelineError: It is to be a challenger, and there is no champion.
    """
    if role == CHALLENGER and repository.aliases(settings) is None:
        msg = f"{settings.model} has no champion that {uri} could be compared with: --as champion makes it the champion"
        raise PipelineError(msg)
    tracking = tracking_of(settings)
    with tempfile.TemporaryDirectory() as folder:
        told(f"loading {uri}")
        version, file, manifest = tracking.fetch(uri, Path(folder))
        if manifest is not None:
            manifest.replace(file.with_name("manifest.json"))
        told(f"version {version} as {role}")
        return push_file(settings, file, version, role, f"from MLflow, {uri}")


def reconcile(settings: Settings) -> dict[str, str]:
    """Makes MLflow's aliases those of `aliases.json`. Returns what was changed.

    A version that somebody pushed without MLflow is registered first: an alias would else go on naming another one.
    """
    tracking, roles = tracking_of(settings), roles_of(repository.aliases(settings))
    if not tracking.knows(roles.values()):
        tracking.adopt(_versions(settings))
    return tracking.reconcile(roles)


def _place(settings: Settings) -> list[str]:
    return ["--model", settings.model, "--repository", settings.repository]


def _verdict(settings: Settings, *more: str) -> onnxd.Said:
    """What `onnxd verdict` says of all servers together."""
    peers = ",".join(settings.peers)
    words = ["verdict", *_place(settings), "--peers", peers, *settings.verdict, *more]
    return onnxd.call(words, codes=(0, onnxd.LOST, onnxd.HOLD, onnxd.REJECT))


def judge(settings: Settings, key: str, told: Told = nobody) -> dict[str, Any]:
    """What the servers' evidence says of the challenger now; changes nothing.

    Returns:
        `verdict`: `promote`, `reject` or `hold`, and `reason`. A version that is the champion already is to be
        promoted, which then changes nothing; one that somebody took out of the challengers is rejected.
    """
    version = Run(settings, key).needs("register")["version"]
    found = repository.aliases(settings) or {}
    if found.get("champion") == version:
        return {"verdict": "promote", "reason": f"version {version} is the champion: {found.get('reason', '')}"}
    if version not in found.get("challengers", ()):
        return {"verdict": "reject", "reason": f"version {version} is no challenger: {found.get('reason', '')}"}
    told(f"asking {', '.join(settings.peers)}")
    answer = _verdict(settings).answer
    for one in answer["verdicts"]:
        if one["version"] == version:
            reasons = [*answer["servers"]["missing"], *one["reasons"]]
            return {"verdict": one["decision"], "reason": "; ".join(reasons)[:2000]}
    return {"verdict": "hold", "reason": "; ".join(["no server tells of it yet", *answer["servers"]["missing"]])[:2000]}


def promote(settings: Settings, key: str, told: Told = nobody) -> dict[str, Any]:
    """Does what the verdict says, by one conditional write with the evidence; MLflow's aliases follow.

    Returns:
        `promoted`, `reason`, `aliases` (what changed in MLflow). Not promoted: someone else changed the model first, or
        the verdict is not that any more.
    """
    version = Run(settings, key).needs("register")["version"]
    found = repository.aliases(settings) or {}
    if found.get("champion") != version and version in found.get("challengers", ()):
        told(f"version {version}")
        _verdict(settings, "--apply", "--by", BY)
        found = repository.aliases(settings) or {}
    promoted = found.get("champion") == version
    reason = f"the champion is {found.get('champion')}, by {found.get('by')}: {found.get('reason', '')}"
    return {"promoted": promoted, "reason": reason[:2000], "aliases": reconcile(settings)}


def withdraw(settings: Settings, key: str, told: Told = nobody) -> dict[str, Any]:
    """Takes the version out of the challengers, if it is one; MLflow's aliases follow.

    By the verdict if that says so, with its evidence in the ledger; else without.

    Returns:
        `withdrawn`, `reason`, `aliases`.
    """
    registered = Run(settings, key).done("register")
    version = registered["version"] if registered else None
    if version is None or version not in (repository.aliases(settings) or {}).get("challengers", ()):
        return {"withdrawn": False, "reason": "it is no challenger", "aliases": reconcile(settings)}
    told(f"version {version}")
    try:
        rejected = any(
            one["version"] == version and one["decision"] == "reject" for one in _verdict(settings).answer["verdicts"]
        )
    except PipelineError:
        # Servers that do not tell keep no challenger in the shadow.
        rejected = False
    if rejected:
        _verdict(settings, "--apply", "--by", BY)
    if version in (repository.aliases(settings) or {}).get("challengers", ()):
        reason = f"run {key[:12]} has ended"
        words = ["withdraw", version, *_place(settings), "--by", BY, "--reason", reason]
        onnxd.call(words, codes=(0, onnxd.LOST))
    reason = (repository.aliases(settings) or {}).get("reason", "")
    return {"withdrawn": True, "reason": reason, "aliases": reconcile(settings)}


def recheck(settings: Settings, key: str, told: Told = nobody) -> dict[str, Any]:
    """Whether the promoted version still deserves its place: the champion before is compared with it in the shadow.

    Returns:
        `verdict`: `keep` or `rollback`, and `reason`. Where another version is the champion already, since a guard or a
        person was first, it is `rollback`, which then changes nothing.
    """
    version = Run(settings, key).needs("register")["version"]
    found = repository.aliases(settings) or {}
    if found.get("champion") != version:
        return {"verdict": "rollback", "reason": f"the champion is {found.get('champion')}: {found.get('reason', '')}"}
    told(f"asking {', '.join(settings.peers)}")
    previous = _verdict(settings).answer["previous"]
    if previous is not None and previous["decision"] == "promote":
        return {"verdict": "rollback", "reason": "; ".join(previous["reasons"])[:2000]}
    return {"verdict": "keep", "reason": f"version {version} is no worse than the one before"}


def rollback(settings: Settings, key: str, told: Told = nobody) -> dict[str, Any]:
    """Makes the champion before the champion again, if the version still is; MLflow's aliases follow.

    Returns:
        `rolled_back`, `reason`, `aliases`.
    """
    version = Run(settings, key).needs("register")["version"]
    if (repository.aliases(settings) or {}).get("champion") == version:
        told(f"back from version {version}")
        reason = f"run {key[:12]}: the champion before is better"
        onnxd.call(["rollback", *_place(settings), "--by", BY, "--reason", reason], codes=(0, onnxd.LOST))
    found = repository.aliases(settings) or {}
    reason = f"the champion is {found.get('champion')}, by {found.get('by')}: {found.get('reason', '')}"
    return {"rolled_back": found.get("champion") != version, "reason": reason[:2000], "aliases": reconcile(settings)}
