import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqwright.data.vocabulary import BOS, EOS, MAX_VOCABULARY_BYTES, PAD, SPECIAL_TOKENS, UNK, Vocabulary
from seqwright.errors import ClientError

GOLDEN = Path(__file__).parents[1] / "golden" / "prepare"
SPECIAL = {token: index for index, token in enumerate(SPECIAL_TOKENS)}


def test_special_tokens_have_the_ids_of_the_original() -> None:
    assert (PAD, UNK, BOS, EOS) == (0, 1, 2, 3)
    assert SPECIAL_TOKENS == ("<pad>", "<unk>", "<s>", "</s>")


def test_words_are_ordered_by_count_and_code_point() -> None:
    counts = {"a": 2, "b": 5, "z": 2, "é": 2, "😀": 2, "once": 1, "<s>": 9, "</s>": 9, "<unk>": 9, "<pad>": 9}
    assert Vocabulary.from_counts(counts, None, 1).tokens == (*SPECIAL_TOKENS, "b", "😀", "é", "z", "a", "once")
    assert Vocabulary.from_counts(counts, 3, 1).tokens == (*SPECIAL_TOKENS, "b", "😀", "é")
    assert Vocabulary.from_counts(counts, 10, 2).tokens == (*SPECIAL_TOKENS, "b", "😀", "é", "z", "a")


def test_words_become_ids_and_ids_words() -> None:
    vocabulary = Vocabulary((*SPECIAL_TOKENS, "haus", "baum"))
    assert vocabulary.ids(["haus", "<s>", "wald", "baum", "<unk>"]) == [4, BOS, UNK, 5, UNK]
    assert vocabulary.words([5, 4, EOS]) == ["baum", "haus", "</s>"]
    assert len(vocabulary) == 6
    assert "baum" in vocabulary
    assert "wald" not in vocabulary
    assert vocabulary == Vocabulary((*SPECIAL_TOKENS, "haus", "baum"))
    assert hash(vocabulary) == hash(Vocabulary((*SPECIAL_TOKENS, "haus", "baum")))
    assert vocabulary != Vocabulary((*SPECIAL_TOKENS, "baum", "haus"))
    assert vocabulary != "haus"


@pytest.mark.parametrize("tokens", [("a", "b"), SPECIAL_TOKENS[:3], (*SPECIAL_TOKENS, "a", "a")])
def test_wrong_or_repeated_tokens_are_refused(tokens: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="vocabulary"):
        Vocabulary(tokens)


@pytest.mark.parametrize("name", ["vocab.src.json", "single/vocab.trg.json", "min2/vocab.trg.json"])
def test_files_of_the_original_are_saved_unchanged(name: str, tmp_path: Path) -> None:
    vocabulary = Vocabulary.load(GOLDEN / name)
    vocabulary.save(tmp_path / "vocab.json")
    assert (tmp_path / "vocab.json").read_bytes() == (GOLDEN / name).read_bytes()


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), unique=True))
def test_any_tokens_survive_json_in_any_order(words: list[str]) -> None:
    vocabulary = Vocabulary((*SPECIAL_TOKENS, *(word for word in words if word not in SPECIAL_TOKENS)))
    document = {token: index for index, token in reversed(list(enumerate(vocabulary.tokens)))}
    for ascii_only in (True, False):
        text = json.dumps(document, ensure_ascii=ascii_only)
        assert Vocabulary.from_json(text, "here") == vocabulary
        assert Vocabulary.from_json(text.encode(), "here") == vocabulary


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not JSON .line 1"),
        (b'{"<pad>": 0,\n oops', "not JSON .line 2"),
        (b'{"\xff": 0}', "not UTF-8 text .byte 2"),
        (b"[]", "not a JSON object"),
        (b"[" * 100_000, "not usable JSON"),
        (json.dumps(["<pad>"]), "not a JSON object"),
        (json.dumps({**SPECIAL, "a": "4"}), "the id of 'a' is \"4\", not a whole number"),
        (json.dumps({**SPECIAL, "a": 4.0}), "the id of 'a' is 4.0"),
        (json.dumps({**SPECIAL, "a": True}), "the id of 'a' is true"),
        (json.dumps({**SPECIAL, "a": [4]}), "the id of 'a' is "),
        (json.dumps({**SPECIAL, "a": {"b": 4}}), "the id of 'a' is "),
        (json.dumps({**SPECIAL, "a": -1}), "the id of 'a' is -1"),
        (json.dumps({**SPECIAL, "a": 5}), "the id of 'a' is 5, but 5 tokens take the ids 0 to 4"),
        (json.dumps({**SPECIAL, "a": 4, "b": 4}), "'a' and 'b' both have the id 4"),
        (json.dumps({**SPECIAL, "a": 4})[:-1] + ', "a": 5}', "'a' appears twice"),
        (json.dumps({"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3}), "the id 1 belongs to '<unk>', not to '<s>'"),
        (json.dumps({"<pad>": 0}), "the id 1 belongs to '<unk>'"),
        (json.dumps({**SPECIAL, "\ud800": 4}), "unpaired surrogate"),
    ],
)
def test_other_content_is_refused_with_the_reason(text: str | bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "vocab.src.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ClientError, match=message) as error:
        Vocabulary.load(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("kind", [str, Path])
def test_a_byte_order_mark_before_a_vocabulary_is_skipped(kind: type, tmp_path: Path) -> None:
    path = tmp_path / "vocab.src.json"
    path.write_text(json.dumps({**SPECIAL, "a": 4}), encoding="utf-8-sig")
    assert Vocabulary.load(kind(path)).tokens[4:] == ("a",)
    assert Vocabulary.from_json(path.read_text(), "here").tokens[4:] == ("a",)


def test_a_vocabulary_larger_than_the_bound_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "vocab.src.json"
    with path.open("wb") as stream:
        stream.truncate(MAX_VOCABULARY_BYTES + 1)
    with pytest.raises(ClientError, match=r"the vocabulary .*vocab\.src\.json has 134,217,729 bytes, where at most"):
        Vocabulary.load(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ClientError, match="no such file"):
        Vocabulary.load(tmp_path / "vocab.src.json")


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ClientError, match="cannot write"):
        Vocabulary(SPECIAL_TOKENS).save(tmp_path / "file" / "vocab.json")
