"""Files and folders that appear whole or not at all."""

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from seqwright.errors import ClientError
from seqwright.files import new_folder, remove_folder, remove_leftovers, replacing, writing


@pytest.fixture
def umask() -> Iterator[int]:
    """A umask that takes from others what the usual one leaves them."""
    before = os.umask(0o027)
    yield 0o027
    os.umask(before)


@pytest.fixture
def short_turns() -> Iterator[None]:
    """Threads of Python take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def write_file(path: Path) -> None:
    with writing(path) as stream:
        stream.write(b"content")


def write_folder(path: Path) -> None:
    with new_folder(path) as folder:
        (folder / "file").write_bytes(b"content")


def test_files_and_folders_get_the_mode_that_the_umask_leaves(umask: int, tmp_path: Path) -> None:
    write_file(tmp_path / "file")
    write_folder(tmp_path / "folder")
    assert mode(tmp_path / "file") == 0o666 & ~umask
    assert mode(tmp_path / "folder") == 0o777 & ~umask


def test_writing_in_several_threads_never_changes_the_umask(umask: int, short_turns: None, tmp_path: Path) -> None:
    done = threading.Event()

    def write(name: str) -> None:
        number = 0
        while not done.is_set():
            write_file(tmp_path / name)
            write_folder(tmp_path / f"{name}-{number}")
            number += 1

    writers = [threading.Thread(target=write, args=(f"writer{i}",)) for i in range(4)]
    for writer in writers:
        writer.start()
    modes = set()
    for number in range(2000):
        os.close(os.open(tmp_path / f"plain-{number}", os.O_CREAT | os.O_WRONLY, 0o666))
        modes.add(mode(tmp_path / f"plain-{number}"))
    done.set()
    for writer in writers:
        writer.join()
    assert modes == {0o666 & ~umask}
    assert os.umask(umask) == umask


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    write_file(tmp_path / "file")

    def fail() -> None:
        with writing(tmp_path / "file") as stream:
            stream.write(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"content"]


def test_a_failed_folder_vanishes(tmp_path: Path) -> None:
    def fail() -> None:
        with new_folder(tmp_path / "folder") as folder:
            (folder / "file").write_bytes(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not list(tmp_path.iterdir())


def test_a_folder_is_on_the_disk_before_it_appears_under_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: set[int] = set()
    fsync, replace = os.fsync, os.replace

    def note(descriptor: int) -> None:
        flushed.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def check(old: Path, new: Path) -> None:
        everything = {path.stat().st_ino for path in (old, *old.rglob("*"))}
        assert everything <= flushed
        replace(old, new)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(os, "replace", check)
    with new_folder(tmp_path / "folder") as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "file").write_bytes(b"content")
    assert (tmp_path / "folder" / "inner" / "file").read_bytes() == b"content"


@pytest.mark.parametrize("write", [write_file, write_folder])
def test_a_name_that_is_too_long_is_a_users_mistake(write: Callable[[Path], None], tmp_path: Path) -> None:
    with pytest.raises(ClientError, match=r"cannot write .*: file name too long"):
        write(tmp_path / ("n" * 300))
    with pytest.raises(ClientError, match=r"cannot write .*: file name too long"):
        write(tmp_path / "/".join(["folder"] * 1000))
    assert not list(tmp_path.iterdir())


def test_the_current_folder_is_filled_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_folder(Path())
    assert Path("file").read_bytes() == b"content"
    with pytest.raises(ClientError, match="already exists and is not empty"):
        write_folder(Path())


def test_leftovers_of_one_name_are_removed_and_no_others(tmp_path: Path) -> None:
    for name in (".a[1].0.tmp", ".b.0.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    (tmp_path / ".a[1].1.tmp").touch()
    (tmp_path / "a[1]").mkdir()
    (tmp_path / "a[1]" / ".config.json.0.tmp").touch()
    (tmp_path / "a[1]" / "config.json").touch()
    remove_leftovers(tmp_path / "a[1]")
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")} == {
        *(".b.0.tmp", ".b.0.tmp/file"),
        *("a[1]", "a[1]/config.json"),
    }


KILLED = """
import os, pathlib, shutil, signal, sys
from seqwright.files import remove_folder
os.unlink = shutil.os.rmdir = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
remove_folder(pathlib.Path(sys.argv[1]))
"""


def test_a_folder_whose_removal_was_killed_is_gone_from_its_name(tmp_path: Path) -> None:
    write_folder(tmp_path / "folder")
    assert subprocess.run([sys.executable, "-c", KILLED, tmp_path / "folder"], check=False).returncode == -9
    (left,) = tmp_path.iterdir()
    assert left.name != "folder"
    remove_leftovers(tmp_path / "folder")
    assert not list(tmp_path.iterdir())
    write_folder(tmp_path / "folder")
    remove_folder(tmp_path / "folder")
    assert not list(tmp_path.iterdir())


def test_what_a_block_replaces_can_be_opened_by_name(tmp_path: Path) -> None:
    with replacing(tmp_path / "file") as temporary:
        assert temporary.read_bytes() == b""
        temporary.write_bytes(b"new")
        assert not (tmp_path / "file").exists()
    assert (tmp_path / "file").read_bytes() == b"new"
