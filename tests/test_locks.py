"""Locks: one holder at a time, none after its death."""

import subprocess
import sys
from pathlib import Path

import pytest

from seqwright import locks
from seqwright.errors import ClientError
from seqwright.locks import locked

HOLD = """
import sys, time
from pathlib import Path
from seqwright.locks import locked
with locked(Path(sys.argv[1]), "taken"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_lock_ends_with_the_process_that_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "LOCK_TIMEOUT", 0.5)
    path = tmp_path / "lock"
    with subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ClientError, match="taken"), locked(path, "taken"):
            pass
        holder.kill()
    assert path.exists()
    with locked(path, "taken"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_made_for_a_lock_stays_only_with_what_came_into_it(tmp_path: Path) -> None:
    made, used, found = tmp_path / "made", tmp_path / "used", tmp_path / "found"
    found.mkdir()
    for folder in (made, used, found):
        with locked(folder / "lock", "taken"):
            if folder == used:
                (used / "content").touch()
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == [
        "found",
        "used",
        "used/content",
    ]


def test_where_the_file_cannot_be_made_there_is_no_lock(tmp_path: Path) -> None:
    with locked(tmp_path, "taken"), locked(tmp_path, "taken"):
        pass
    assert tmp_path.is_dir()


def test_a_lock_is_handed_on(tmp_path: Path) -> None:
    """Processes that wait for each other, each with a file of its own that it must find alone."""
    take = """
import sys
from pathlib import Path
from seqwright.locks import locked
folder = Path(sys.argv[1])
for _ in range(20):
    with locked(folder / "lock", "taken"):
        (folder / "alone").mkdir()
        (folder / "alone").rmdir()
"""
    takers = [subprocess.Popen([sys.executable, "-c", take, tmp_path]) for _ in range(3)]
    assert [taker.wait(timeout=120) for taker in takers] == [0, 0, 0]
