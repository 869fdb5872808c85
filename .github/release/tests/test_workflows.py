"""The workflows: what they use is pinned, what they may do is little, what they run is there."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from conftest import ROOT

TOOLS = ROOT / ".venv-release/bin"
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
SCRIPTS = [
    ROOT / ".ci/run",
    *sorted(p for f in (".github", "k8s", "terraform", "gitops") for p in (ROOT / f).rglob("*.sh")),
]
PINNED = re.compile(r"uses: ([\w./-]+)@([0-9a-f]{40}) # (v\d+\.\d+\.\d+)")


def run(*words: str | Path, stdin: str | None = None) -> subprocess.CompletedProcess:
    return subprocess.run(words, cwd=ROOT, input=stdin, capture_output=True, text=True, check=False)


def read(path: Path) -> dict:
    # YAML 1.1 takes the key `on` for a truth value.
    return yaml.load(path.read_text(), yaml.BaseLoader)


def steps(path: Path) -> list[dict]:
    return [step for job in read(path)["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_every_action_is_pinned_by_its_hash(path: Path) -> None:
    used = [line.strip() for line in path.read_text().splitlines() if "uses:" in line]
    assert used
    assert not [line for line in used if not PINNED.fullmatch(line.removeprefix("- "))]


def test_an_action_has_one_version() -> None:
    found = {match.groups() for path in WORKFLOWS for match in PINNED.finditer(path.read_text())}
    assert len({name for name, *_ in found}) == len(found)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_every_job_has_an_end_and_few_rights(path: Path) -> None:
    workflow = read(path)
    assert workflow["permissions"] == {}
    for name, job in workflow["jobs"].items():
        assert int(job["timeout-minutes"]) <= 150, name
        assert job["permissions"], name
        # Who may write is one of these environments, which an administrator protects; pull requests have none.
        if "write" in {right for key, right in job["permissions"].items() if key != "id-token"}:
            assert job["environment"] in {"release", "pypi"}, name


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_what_they_run_is_there(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for step in steps(path):
        text = step.get("run", "")
        # What others can name (branches, titles) would be run as a script.
        assert "${{" not in text
        for target in re.findall(r"\bmake ([a-z-]+)", text):
            assert target in targets, target
        read = re.sub(r">+ \S+", "", text)
        for script in re.findall(r"(?:^|[\s;])([.\w-]+/[\w./-]+)(?=\s|$)", read):
            if (ROOT / script.split("/")[0]).is_dir() and not script.startswith("target/"):
                assert (ROOT / script).exists(), script


def test_scripts_and_steps_pass_shellcheck() -> None:
    done = run(TOOLS / "shellcheck", *SCRIPTS)
    assert done.returncode == 0, done.stdout
    for path in WORKFLOWS:
        for step in steps(path):
            done = run(TOOLS / "shellcheck", "--shell=bash", "-", stdin=step.get("run", ""))
            assert done.returncode == 0, f"{path.name}: {done.stdout}"


def test_files_fit_githubs_schemas() -> None:
    for schema, paths in (("github-workflows", WORKFLOWS), ("dependabot", [GITHUB / "dependabot.yml"])):
        done = run(TOOLS / "check-jsonschema", "--builtin-schema", f"vendor.{schema}", *paths)
        assert done.returncode == 0, done.stdout


def test_zizmor_finds_no_fault() -> None:
    done = run(TOOLS / "zizmor", "--offline", "--no-progress", GITHUB)
    assert done.returncode == 0, done.stdout


def test_zizmor_would_find_one(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yml"
    wrong.write_text((GITHUB / "workflows/ci.yml").read_text().replace("persist-credentials: false", "fetch-depth: 0"))
    assert "artipacked" in run(TOOLS / "zizmor", "--offline", "--no-progress", wrong).stdout
