"""What the tests share: the providers, and the whole of `terraform/` applied to them once."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from provider import Running, serve
from stack import Resource, Stack, copy, resources


def pytest_collection_modifyitems(items):
    if shutil.which("terraform") is None:
        reason = "terraform is not installed: get 1.11 or newer from https://developer.hashicorp.com/terraform/install"
        for item in items:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def providers() -> Iterator[Running]:
    with serve() as running:
        yield running


@pytest.fixture(scope="session")
def initialised(providers, tmp_path_factory) -> Stack:
    """The module, ready for `validate` and `plan`; nothing is applied."""
    stack = Stack(providers, copy(tmp_path_factory.mktemp("initialised")))
    stack.terraform("init", "-backend=false")
    return stack


@pytest.fixture(scope="session")
def applied(providers, tmp_path_factory) -> Stack:
    """The module, applied."""
    stack = Stack(providers, copy(tmp_path_factory.mktemp("applied")))
    stack.terraform("init", "-backend=false")
    stack.apply()
    return stack


@pytest.fixture(scope="session")
def made(applied) -> list[Resource]:
    """All that was made."""
    return resources(applied.shown()["values"]["root_module"])


@pytest.fixture
def spoilt(providers, tmp_path) -> Stack:
    """A copy of its own, to change."""
    return Stack(providers, copy(tmp_path))
