"""Runs Terraform over the root module, with the providers for tests."""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from provider import Running

ROOT = Path(__file__).resolve().parents[1]
REPOSITORY = ROOT.parent
GIVEN = {
    "api_cidrs": '["203.0.113.7/32"]',
    "training_image_tag": "0.1.0",
    "github_repository": "octocat@1/onnxd@2",
    "alarm_email": "oncall@example.com",
}


@dataclass
class Resource:
    """A resource of a plan or of a state."""

    address: str
    type: str
    values: dict[str, Any]


@dataclass
class Stack:
    """A copy of the root module, with Terraform's files and the state in it.

    Attributes:
        providers: the running providers.
        root: the copy.
        given: values of variables.
        more: what else is in the environment.
    """

    providers: Running
    root: Path
    given: dict[str, str] = field(default_factory=lambda: dict(GIVEN))
    more: dict[str, str] = field(default_factory=dict)

    def terraform(self, *arguments: str, good: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs Terraform, and fails with what it says unless that is what the caller is after."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("TF_")}
        environment |= {f"TF_VAR_{k}": v for k, v in self.given.items()} | self.providers.environment
        environment |= self.more | {
            "TF_IN_AUTOMATION": "1",
            "CHECKPOINT_DISABLE": "1",
            "TF_CLI_CONFIG_FILE": os.devnull,
        }
        done = subprocess.run(
            ["terraform", f"-chdir={self.root}", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if good and done.returncode:
            msg = f"terraform {' '.join(arguments)}\n{done.stdout}{done.stderr}"
            raise AssertionError(msg)
        return done

    def apply(self, *arguments: str) -> str:
        """Applies, and tells what Terraform said."""
        return self.terraform("apply", "-auto-approve", "-no-color", *arguments).stdout

    def plan(self, *arguments: str) -> dict[str, Any]:
        """A plan, in Terraform's JSON."""
        self.terraform("plan", "-out=plan", *arguments)
        return json.loads(self.terraform("show", "-json", "plan").stdout)

    def shown(self) -> dict[str, Any]:
        """The state, in Terraform's JSON."""
        return json.loads(self.terraform("show", "-json").stdout)


def resources(module: dict[str, Any]) -> list[Resource]:
    """All resources of a module, and of those in it; not the data sources."""
    managed = (one for one in module.get("resources", []) if one["mode"] == "managed")
    found = [Resource(one["address"], one["type"], one["values"]) for one in managed]
    return found + [one for inner in module.get("child_modules", []) for one in resources(inner)]


def copy(to: Path) -> Path:
    """A copy of the module, without what belongs to one's own account: backend, values of variables, state."""
    own = ("backend.tf", "*.tfvars", "*.tfstate*", ".terraform*")
    ignored = shutil.ignore_patterns(*own, "*.py", "*.json", "*.lock", "__pycache__")
    shutil.copytree(ROOT, to / "terraform", ignore=ignored)
    for folder in ("training/statemachine", "gitops/argocd"):
        shutil.copytree(REPOSITORY / folder, to / folder)
    return to / "terraform"
