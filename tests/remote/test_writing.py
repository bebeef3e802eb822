"""Sending files, folders and mirrors to an S3 API on loopback, one that can be told to fail."""

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import fsspec
import pytest

from seqwright import remote
from seqwright.errors import ClientError
from seqwright.remote import LocalCopies
from seqwright.remote import copies as copies_module
from seqwright.remote.cache import cache_folder
from tests.s3 import S3, Environ, failing, objects, put


def write(content: bytes, error: type[Exception] | None = None) -> None:
    """Write to `s3://bucket/out`, and fail then."""
    with LocalCopies() as copies:
        copies.write_file("s3://bucket/out").write_bytes(content)
        if error:
            raise error


def test_a_file_that_cannot_be_sent_is_kept_here_and_the_old_one_there(s3: S3) -> None:
    put(s3, "out", b"before")
    s3.fault = failing(10_000, "500 Internal Server Error", "PUT")
    with pytest.raises(ClientError, match=r"cannot write s3://bucket/out: .* is kept\)$"):
        write(b"after")
    assert [path.read_bytes() for path in cache_folder().rglob("out")] == [b"after"]
    s3.fault = lambda environ, start: None
    assert objects(s3) == {"out": b"before"}


def test_a_failed_command_sends_nothing(s3: S3) -> None:
    with pytest.raises(ZeroDivisionError):
        write(b"half", ZeroDivisionError)
    assert objects(s3) == {}


def test_other_file_systems_of_fsspec_are_read_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEQWRIGHT_CACHE", str(tmp_path / "cache"))
    memory = fsspec.filesystem("memory")
    with LocalCopies() as copies:
        copies.write_file("memory://place/file").write_bytes(b"content")
        folder = copies.write_folder("memory://place/folder")
        (folder / "inner").mkdir(parents=True)
        (folder / "inner" / "x").write_bytes(b"x")
    with LocalCopies() as copies:
        assert copies.read("memory://place/file").read_bytes() == b"content"
        assert (copies.read("memory://place/folder") / "inner" / "x").read_bytes() == b"x"
        with pytest.raises(ClientError, match="already exists and is not empty"):
            copies.write_folder("memory://place/folder")
    assert not memory.exists("place/.file.tmp")


LEAVES_A_MODEL = """
import os, signal
from seqwright.remote import LocalCopies

with LocalCopies() as copies:
    folder = copies.write_folder("memory://place/model")
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"large")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_folders_that_killed_runs_have_left_are_removed_by_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEQWRIGHT_CACHE", str(tmp_path))
    with LocalCopies() as living:
        mine = living.write_folder("memory://place/mine")
        mine.mkdir()
        assert subprocess.run([sys.executable, "-c", LEAVES_A_MODEL], check=False).returncode == -signal.SIGKILL
        assert list(tmp_path.rglob("model.safetensors"))
        with LocalCopies() as copies:
            copies.write_folder("memory://place/another")
            assert not list(tmp_path.rglob("model.safetensors"))
            assert mine.exists()
    assert not list((tmp_path / "outgoing").rglob("seqwright-*"))


def test_a_folder_that_could_not_be_sent_is_kept(s3: S3) -> None:
    s3.fault = failing(10_000, "403 Forbidden", "PUT")

    def write() -> None:
        with LocalCopies() as copies:
            folder = copies.write_folder("s3://bucket/folder")
            folder.mkdir()
            (folder / "x").write_bytes(b"x")

    for _ in range(2):
        with pytest.raises(ClientError, match=r"is kept\)$"):
            write()
    assert [path.read_bytes() for path in cache_folder().rglob("x")] == [b"x", b"x"]


def test_a_mirror_is_fetched_first_and_sent_then(s3: S3) -> None:
    url = "s3://bucket/run"
    with LocalCopies() as copies:
        folder = copies.mirror(url)
        (folder / "checkpoint-1").mkdir()
        (folder / "checkpoint-1" / "state.json").write_bytes(b"1")
        (folder / "corpus").mkdir()
        (folder / "corpus" / "ids").write_bytes(b"large")
        remote.push(url)
        assert objects(s3) == {"run/checkpoint-1/state.json": b"1"}
        (folder / "checkpoint-1" / "state.json").unlink()
        (folder / "checkpoint-2").mkdir()
        (folder / "checkpoint-2" / "state.json").write_bytes(b"2")
    assert objects(s3) == {"run/checkpoint-2/state.json": b"2"}
    put(s3, "run/checkpoint-3/state.json", b"3")
    put(s3, "run/checkpoint-2/state.json", b"4")
    with LocalCopies() as copies:
        assert copies.mirror(url) == folder
        assert (folder / "checkpoint-3" / "state.json").read_bytes() == b"3"
        assert (folder / "checkpoint-2" / "state.json").read_bytes() == b"4"
        assert not (folder / "checkpoint-1").exists()
        assert (folder / "corpus" / "ids").exists()


def test_a_push_that_failed_is_made_up_for_by_the_next(s3: S3, caplog: pytest.LogCaptureFixture) -> None:
    with LocalCopies() as copies:
        folder = copies.mirror("s3://bucket/run")
        (folder / "x").write_bytes(b"x")
        s3.fault = failing(10_000, "500 Internal Server Error", "PUT")
        remote.try_to_push("s3://bucket/run")
        assert "stays as it was until the next checkpoint" in caplog.text
        s3.fault = lambda environ, start: None
    assert objects(s3) == {"run/x": b"x"}


def test_files_not_sent_before_a_stop_are_sent_by_the_next_run(
    s3: S3, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies_module, "GRACE", 0.5)
    put(s3, "run/old", b"old")
    released, stop = threading.Event(), threading.Event()

    def fault(environ: Environ, start: Callable[..., Any]) -> Iterable[bytes] | None:
        if environ["REQUEST_METHOD"] == "PUT" and environ["PATH_INFO"].endswith("/state.json"):
            stop.set()
            released.wait(60)
            start("403 Forbidden", [("Content-Length", "0")])
            return [b""]
        return None

    s3.fault = fault
    with LocalCopies(stop_requested=stop.is_set) as first:
        folder = first.mirror("s3://bucket/run")
        (folder / "checkpoint-1").mkdir()
        for name in ("state.json", "state.safetensors"):
            (folder / "checkpoint-1" / name).write_bytes(b"1")
    assert "stopped before everything was sent to s3://bucket/run" in caplog.text
    assert "run/checkpoint-1/state.json" not in objects(s3)
    released.set()
    with copies_module._PUSHING:  # the thread that was left has failed
        s3.fault = lambda environ, start: None
    with LocalCopies() as second:
        assert second.mirror("s3://bucket/run") == folder
        assert (folder / "checkpoint-1" / "state.json").read_bytes() == b"1"
    assert objects(s3) == {
        "run/old": b"old",
        **{f"run/checkpoint-1/{n}": b"1" for n in ("state.json", "state.safetensors")},
    }


def test_unsent_files_are_removed_if_another_machine_has_changed_the_folder(
    s3: S3, caplog: pytest.LogCaptureFixture
) -> None:
    with LocalCopies() as first:
        folder = first.mirror("s3://bucket/run")
        (folder / "state").write_bytes(b"1")
    (folder / "unsent").write_bytes(b"2")
    put(s3, "run/state", b"3")
    with LocalCopies() as second:
        second.mirror("s3://bucket/run")
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"state": b"3"}
    assert "s3://bucket/run was changed elsewhere" in caplog.text


def test_errors_about_written_files_name_their_url_and_local_path(s3: S3) -> None:
    def fail() -> None:
        with LocalCopies() as copies:
            raise ClientError(f"{copies.mirror('s3://bucket/run')}/run.json: it is another")

    with pytest.raises(
        ClientError, match=r"^s3://bucket/run/run.json: it is another \(s3://bucket/run is /.*/run until"
    ):
        fail()
