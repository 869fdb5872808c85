"""Shared fixtures: one synthetic training run for all tests."""

from pathlib import Path

import pytest

from training import onnxd
from training.config import Config
from training.data.days import Day
from training.data.synthetic import make_day
from training.errors import PipelineError
from training.train import Run, train

ROOT = Path(__file__).resolve().parents[2]
CREATED_AT = "2026-01-01T00:00:00Z"


@pytest.fixture(scope="session")
def config() -> Config:
    """The default parameters."""
    return Config()


@pytest.fixture(scope="session")
def days(config: Config) -> dict[str, Day]:
    """Small synthetic days under the names of the real ones."""
    names = (config.train_day, *config.holdout_days)
    return {name: make_day(name, config, pods=4, minutes=600) for name in names}


@pytest.fixture(scope="session")
def run(days: dict[str, Day], config: Config) -> Run:
    """A training run on the synthetic days."""
    return train(days, config, CREATED_AT)


@pytest.fixture(scope="session")
def program() -> Path:
    """The server's program; tests that run it are skipped where it was not built."""
    try:
        return onnxd.find()
    except PipelineError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def models() -> Path:
    """The committed model repository."""
    return ROOT / "models"


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The real data; tests that need it are skipped where it is not."""
    folder = ROOT.parent / "shared" / "data" / "nezha"
    if not folder.is_dir():
        pytest.skip("no data folder ../shared/data/nezha")
    return folder
