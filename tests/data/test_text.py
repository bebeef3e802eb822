"""Text files as blocks of lines."""

import gzip
import os
import threading
from pathlib import Path

import pytest

from seqwright.data import text
from seqwright.data.text import read_blocks
from seqwright.errors import ClientError
from seqwright.files import read_json_object

BOM = b"\xef\xbb\xbf"


def test_blocks_have_the_asked_lines_and_report_the_bytes_read(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"a\nb\nc\n")
    reported: list[int] = []
    assert list(read_blocks(str(tmp_path / "text"), 2, reported.append)) == [["a", "b"], ["c"]]
    assert sum(reported) == 6


def test_a_pipe_is_read_without_reports_of_bytes(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=("a\nb\nc\n",))
    writer.start()
    reported: list[int] = []
    assert list(read_blocks(tmp_path / "pipe", 2, reported.append)) == [["a", "b"], ["c"]]
    writer.join()
    assert reported == []


@pytest.mark.parametrize("name", ["text", "text.gz"])
@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (BOM + b"a\nb\n", ["a", "b"]),
        (BOM + b"\nb\n", ["", "b"]),
        (BOM, []),
        (b"", []),
        (b"a\n" + BOM + b"b\n", ["a", "\ufeffb"]),  # not at the start: a character of the text
    ],
)
def test_a_byte_order_mark_at_the_start_is_skipped(name: str, content: bytes, lines: list[str], tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    assert [line for block in read_blocks(tmp_path / name, 1) for line in block] == lines
    assert [line for block in read_blocks(tmp_path / name) for line in block] == lines


@pytest.mark.parametrize("name", ["text", "text.gz"])
def test_a_line_longer_than_the_bound_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "MAX_LINE_BYTES", 1000)
    content = b"a\n" * 1500 + b"x" * 999 + b"\n" + b"x" * 1000 + b"\n"
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    with pytest.raises(ClientError, match="line 1,502 is too long"):
        list(read_blocks(tmp_path / name))


def test_many_long_lines_in_a_row_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "MAX_BLOCK_BYTES", 5000)
    (tmp_path / "text").write_bytes((b"x" * 999 + b"\n") * 10)
    with pytest.raises(ClientError, match="line 6 is too long"):
        list(read_blocks(tmp_path / "text"))
    assert len(list(read_blocks(tmp_path / "text", 5))) == 2


def test_a_path_that_is_too_long_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(ClientError, match="file name too long"):
        list(read_blocks(tmp_path / ("x" * 300)))


def test_a_byte_order_mark_before_a_json_object_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "hyperparameters.json").write_bytes(BOM + b'{"batch_size": 8}')
    assert read_json_object(tmp_path / "hyperparameters.json") == {"batch_size": 8}
