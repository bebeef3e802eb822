"""Locks: one holder at a time, none after its death."""

import subprocess
import sys
from pathlib import Path

import pytest

from seqwright import locks
from seqwright.errors import ClientError
from seqwright.locks import TemporaryFolder, locked

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


MAKE = """
import sys, time
from pathlib import Path
from seqwright.locks import TemporaryFolder
folder = TemporaryFolder(Path(sys.argv[1]))
(folder.path / "content").touch()
print(folder.path, flush=True)
time.sleep(600)
"""


def test_a_temporary_folder_of_a_killed_process_is_removed_by_the_next_one(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", MAKE, tmp_path], stdout=subprocess.PIPE, text=True) as maker:
        assert maker.stdout is not None
        left = Path(maker.stdout.readline().strip())
        with TemporaryFolder(tmp_path) as mine:
            assert left.exists()
            maker.kill()
            maker.wait()
            with TemporaryFolder(tmp_path):
                assert mine.exists()
                assert not left.exists()
    assert list(tmp_path.iterdir()) == []


def test_a_temporary_folder_that_is_kept_stays(tmp_path: Path) -> None:
    folder = TemporaryFolder(tmp_path)
    (folder.path / "content").touch()
    folder.keep()
    with TemporaryFolder(tmp_path):
        pass
    assert [path.name for path in folder.path.iterdir()] == ["content"]
