"""Text files as blocks of lines."""

import os
import threading
from pathlib import Path

from seqwright.data.text import read_blocks


def test_blocks_and_the_bytes_read_for_them(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"a\nb\nc\n")
    told: list[int] = []
    assert list(read_blocks(tmp_path / "text", 2, told.append)) == [["a", "b"], ["c"]]
    assert sum(told) == 6


def test_a_pipe_is_read_though_it_does_not_say_where_it_is(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=("a\nb\nc\n",))
    writer.start()
    told: list[int] = []
    assert list(read_blocks(tmp_path / "pipe", 2, told.append)) == [["a", "b"], ["c"]]
    writer.join()
    assert told == []
