"""Data that many tests of training share."""

from pathlib import Path

import pytest

from seqwright.training.job import Channels
from tests.toy import prepared


@pytest.fixture
def channels(tmp_path: Path) -> Channels:
    """The channels of the toy task."""
    return Channels.under(prepared(tmp_path))
