"""Word vectors: three formats land in the right rows; what is wrong with a file is named by its line."""

import gzip
import re
from pathlib import Path

import pytest

from seqwright.data.vectors import read_vectors
from seqwright.data.vocabulary import SPECIAL_TOKENS, Vocabulary
from seqwright.errors import ClientError

VOCABULARY = Vocabulary([*SPECIAL_TOKENS, "the", "cat", "Ω\u00a0x", "sat"])
GLOVE = "cat 0.5 -1 2e-1\nunseen 7 7 7\n. . . 1 2 3\nΩ\u00a0x 4 5 6\n</s> 0 0 1\n"
EXPECTED: dict[int, list[float]] = {5: [0.5, -1, 0.2], 6: [4, 5, 6], 3: [0, 0, 1]}
HEADED = "4 3\n" + GLOVE.replace(". . . 1 2 3\n", "")


def found(path: Path) -> dict[int, list[float]]:
    ids, vectors = read_vectors(path, VOCABULARY, width=3, hyperparameter="num_embed_source")
    assert [str(ids.dtype), str(vectors.dtype)] == ["int64", "float32"]
    return dict(zip(ids.tolist(), vectors.tolist(), strict=True))


def assert_equal(rows: dict[int, list[float]], expected: dict[int, list[float]]) -> None:
    assert list(rows) == list(expected)
    for index, row in expected.items():
        assert rows[index] == pytest.approx(row)


@pytest.mark.parametrize(
    "text",
    [
        *(GLOVE, HEADED, HEADED.replace("\n", " \n"), GLOVE.replace("\n", "\r\n"), GLOVE.removesuffix("\n")),
        *(GLOVE + "\n", "\ufeff" + GLOVE, "\ufeff" + HEADED),
    ],
    ids=[
        *("glove", "word2vec", "fasttext", "crlf", "no last line feed"),
        *("blank line", "byte order mark", "byte order mark and header"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_every_format_gives_the_vectors_of_known_words(text: str, packed: bool, tmp_path: Path) -> None:
    path = tmp_path / ("vectors.gz" if packed else "vectors.txt")
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    assert_equal(found(path), EXPECTED)


def test_the_first_of_several_rows_of_a_word_is_used(tmp_path: Path) -> None:
    (tmp_path / "v").write_text("cat 1 2 3\nsat 4 5 6\ncat 7 8 9\n")
    assert_equal(found(tmp_path / "v"), {5: [1, 2, 3], 7: [4, 5, 6]})


def test_lines_are_counted_across_blocks(tmp_path: Path) -> None:
    rows = "".join(f"w{i} 1 2 3\n" for i in range(5000))
    (tmp_path / "v").write_text("cat 1 2 3\n" + rows)
    assert_equal(found(tmp_path / "v"), {5: [1, 2, 3]})
    (tmp_path / "v").write_text("cat 1 2 3\n" + rows + "sat 1 2\n")
    with pytest.raises(ClientError, match="line 5,002 "):
        found(tmp_path / "v")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (b"2 4\ncat 1 2 3 4\n", "line 1: these are vectors of 4 numbers, but num_embed_source is 3: set"),
        (b"cat 1 2\n", "line 1: these are vectors of 2 numbers"),
        (b"cat 1 2 3 4\n", "line 1: these are vectors of 4 numbers"),
        (b"cat 1 2 3\nsat 1 2\n", "line 2 is not a word and 3 numbers, but 3 fields, the first 'sat'"),
        (b"cat 1 2 3\nsat 1 2 3 4\n", "line 2 is not a word and 3 numbers, but 5 fields"),
        (b"2 3\ncat 1 2 3\na b 1 2 3\n", "line 3 is not a word and 3 numbers"),
        (b"the cat\nsat\n", "line 1 is not a word and 3 numbers, but 2 fields"),
        (b"other 1 2 3\ncat 1 two 3\n", "line 2: 'cat' has 'two' in its vector"),
        (b"other 1 2 3\ncat 1 nan 3\n", "line 2: 'cat' has 'nan' in its vector, which is not a finite"),
        (b"cat 1 2 3\nsat inf 2 3\n", "line 2: 'sat' has 'inf'"),
        (b"cat 1 2 3\nsat 1 2 -1e39\n", "line 2: 'sat' has '-1e39'"),
        (b"cat 1 2 3\n\xff 1 2 3\n", "line 2 is not UTF-8"),
        (b"Cat 1 2 3\nthat 1 2 3\n", "has no word of the vocabulary"),
        (b"1 3\n</s> 1 2 3\n", "has no word of the vocabulary"),
        (b"4 3\n", "has no word of the vocabulary"),
    ],
)
def test_a_damaged_row_is_refused_with_its_line(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "vectors.txt"
    path.write_bytes(content)
    with pytest.raises(ClientError, match=re.escape(message)) as caught:
        found(path)
    assert str(path) in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ClientError, match=r"cannot read .*none\.txt"):
        found(tmp_path / "none.txt")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(GLOVE.encode() * 999)[:-20])
    with pytest.raises(ClientError, match="damaged or cut short"):
        found(tmp_path / "cut.gz")
