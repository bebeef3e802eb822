"""A model to import and a place for the result."""

import shutil
from pathlib import Path

import pytest

from tests.importers.models import GOLDEN, SMALL


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of a small model, to be changed."""
    return Path(shutil.copytree(GOLDEN / SMALL, tmp_path / "sockeye"))


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "imported"
