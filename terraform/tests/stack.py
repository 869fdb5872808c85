"""Runs Terraform over the root module, with the providers for tests."""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
REPOSITORY = ROOT.parent
GIVEN = {"api_cidrs": '["203.0.113.7/32"]', "training_image_tag": "0.1.0", "alarm_email": "oncall@example.com"}


@dataclass
class Resource:
    """A resource of a plan or of a state."""

    address: str
    type: str
    values: dict[str, Any]


@dataclass
class Stack:
    """A root module with its own place for Terraform's files.

    Attributes:
        providers: the environment that names the running providers.
        data: where Terraform keeps what it installs, and the state.
        root: the module.
        given: values of variables.
    """

    providers: dict[str, str]
    data: Path
    root: Path = ROOT
    given: dict[str, str] = field(default_factory=lambda: dict(GIVEN))

    def terraform(self, *arguments: str, good: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs Terraform, and fails with what it says unless that is what the caller is after."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("TF_")}
        environment |= {f"TF_VAR_{k}": v for k, v in self.given.items()} | self.providers
        environment |= {"TF_DATA_DIR": str(self.data / "data"), "TF_IN_AUTOMATION": "1", "CHECKPOINT_DISABLE": "1"}
        environment["TF_CLI_CONFIG_FILE"] = os.devnull
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

    @property
    def state(self) -> str:
        """The file of the state, outside of the module."""
        return f"-state={self.data}/terraform.tfstate"

    def apply(self, *arguments: str) -> str:
        """Applies, and tells what Terraform said."""
        return self.terraform("apply", "-auto-approve", "-no-color", self.state, *arguments).stdout

    def plan(self, *arguments: str) -> dict[str, Any]:
        """A plan, in Terraform's JSON."""
        self.terraform("plan", "-no-color", self.state, f"-out={self.data}/plan", *arguments)
        return json.loads(self.terraform("show", "-json", f"{self.data}/plan").stdout)

    def shown(self) -> dict[str, Any]:
        """The state, in Terraform's JSON."""
        return json.loads(self.terraform("show", "-json", f"{self.data}/terraform.tfstate").stdout)


def resources(module: dict[str, Any]) -> list[Resource]:
    """All resources of a module, and of those in it; not the data sources."""
    found = [
        Resource(r["address"], r["type"], r["values"]) for r in module.get("resources", []) if r["mode"] == "managed"
    ]
    return found + [r for inner in module.get("child_modules", []) for r in resources(inner)]


def copy(to: Path) -> Path:
    """A copy of the module, to be spoilt."""
    ignore = shutil.ignore_patterns("tests", ".terraform", "*.tfstate*", "*.tfvars", "backend.tf")
    shutil.copytree(ROOT, to / "terraform", ignore=ignore)
    shutil.copytree(REPOSITORY / "training/statemachine", to / "training/statemachine")
    return to / "terraform"
