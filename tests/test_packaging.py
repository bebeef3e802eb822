"""What can be installed with the package."""

import re
import tomllib
from pathlib import Path

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
HEAVY = {"all", "dev", "fuzz"}
"""Extras for developers only, and `all` itself."""


def test_the_extra_all_installs_every_extra_that_users_need() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    [requirement] = extras["all"]
    match = re.fullmatch(r"seqwright\[([\w,]+)\]", requirement)
    assert match
    assert set(match[1].split(",")) == extras.keys() - HEAVY
