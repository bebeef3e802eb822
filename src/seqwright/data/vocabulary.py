"""Tokens and their ids: the vocabulary of one side, as the original's JSON files hold it."""

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from seqwright.errors import ClientError
from seqwright.files import StrPath, read_bytes, writing

MAX_VOCABULARY_BYTES = 128 << 20
"""Bytes of the largest vocabulary file that is read: room for some millions of tokens."""

PAD, UNK, BOS, EOS = range(4)
SPECIAL_TOKENS = ("<pad>", "<unk>", "<s>", "</s>")
"""The tokens whose ids are `PAD`, `UNK`, `BOS` and `EOS`, in every vocabulary."""


class Vocabulary:
    """An immutable, one-to-one mapping between tokens and the ids `0 … len - 1`.

    Args:
        tokens: the token of every id, in order of ids, the four special tokens first.

    Attributes:
        tokens: the same.

    Raises:
        ValueError: the special tokens do not come first, or a token appears twice.
    """

    __slots__ = ("_ids", "tokens")

    tokens: tuple[str, ...]

    def __init__(self, tokens: Iterable[str]) -> None:
        self.tokens = tuple(tokens)
        self._ids = {token: index for index, token in enumerate(self.tokens)}
        if self.tokens[: len(SPECIAL_TOKENS)] != SPECIAL_TOKENS:
            raise ValueError(f"a vocabulary starts with {' '.join(SPECIAL_TOKENS)}")
        if len(self._ids) != len(self.tokens):
            raise ValueError("a vocabulary holds every token once")

    @classmethod
    def from_counts(cls, counts: Mapping[str, int], max_words: int | None, min_count: int) -> Self:
        """Make the vocabulary that the original's preparation makes of word counts.

        Words are sorted by falling count, words of the same count in reverse code-point order. Special tokens in
        `counts` are ignored: they have their ids already.

        Args:
            counts: how often every word occurs.
            max_words: keep at most this many words, the special tokens not counted; `None` keeps all.
            min_count: leave out words that occur less often.
        """
        words = ((count, word) for word, count in counts.items() if count >= min_count and word not in SPECIAL_TOKENS)
        ordered = (word for _, word in sorted(words, reverse=True))
        return cls((*SPECIAL_TOKENS, *islice(ordered, max_words)))

    @classmethod
    def from_json(cls, text: str | bytes, origin: str) -> Self:
        """Parse a JSON object of token to id.

        Args:
            text: the document; bytes are UTF-8. A byte order mark is skipped.
            origin: what to call it in messages, its file name for one.

        Raises:
            ClientError: it is not JSON, not such an object, the special tokens do not have the ids 0 to 3, an
                id or a token appears twice, or an id is missing.
        """
        pairs = _parse_pairs(text, origin)
        tokens: dict[int, str] = {}
        seen: set[str] = set()
        for token, index in pairs:
            if type(index) is not int:
                raise _invalid(origin, f"the id of {token!r} is {json.dumps(index)}, not a whole number")
            if not 0 <= index < len(pairs):
                last = len(pairs) - 1
                raise _invalid(
                    origin, f"the id of {token!r} is {index}, but {last + 1} tokens take the ids 0 to {last}"
                )
            if index in tokens:
                raise _invalid(origin, f"{tokens[index]!r} and {token!r} both have the id {index}")
            if token in seen:
                raise _invalid(origin, f"{token!r} appears twice")
            tokens[index] = token
            seen.add(token)
        for index, special in enumerate(SPECIAL_TOKENS):
            if tokens.get(index) != special:
                raise _invalid(origin, f"the id {index} belongs to {special!r}, not to {tokens.get(index)!r}")
        return cls(tokens[index] for index in range(len(tokens)))

    @classmethod
    def load(cls, path: StrPath) -> Self:
        """Read a vocabulary file.

        Raises:
            ClientError: the file cannot be read, has more than `MAX_VOCABULARY_BYTES`, or is not a vocabulary; see
                `from_json`.
        """
        return cls.from_json(read_bytes(Path(path), MAX_VOCABULARY_BYTES, f"the vocabulary {path}"), str(path))

    def save(self, path: StrPath) -> None:
        """Write the file that `load` and the original read.

        Raises:
            ClientError: the file cannot be written.
        """
        text = json.dumps(self._ids, indent=4, ensure_ascii=False)
        with writing(Path(path)) as stream:
            stream.write(text.encode())

    def ids(self, tokens: Iterable[str]) -> list[int]:
        """The id of every token, `UNK` for those not in the vocabulary."""
        find = self._ids.get
        return [find(token, UNK) for token in tokens]

    def words(self, ids: Iterable[int]) -> list[str]:
        """The token of every id.

        Raises:
            IndexError: an id is not below `len(self)`.
        """
        return [self.tokens[index] for index in ids]

    def __len__(self) -> int:
        return len(self.tokens)

    def __contains__(self, token: object) -> bool:
        return token in self._ids

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.tokens == other.tokens

    def __hash__(self) -> int:
        return hash(self.tokens)

    def __repr__(self) -> str:
        return f"Vocabulary({len(self)} tokens)"


def count_special_tokens(ids: NDArray[np.int32]) -> NDArray[np.int64]:
    """How often each special token is among `ids` `[N]`; by id, `[4]`."""
    return np.bincount(ids[ids < len(SPECIAL_TOKENS)], minlength=len(SPECIAL_TOKENS))


def describe_special_tokens(source: Sequence[int], target: Sequence[int]) -> str:
    """How many special tokens are in data that should have none; empty if there are none.

    `<unk>` is not counted: some corpora have it in place of rare words, where it means the same.

    Args:
        source: how often each occurs on the source side, by id.
        target: how often each occurs on the target side, by id.
    """
    sides = []
    for side, counts in (("source", source), ("target", target)):
        found = [f"{counts[token]:,} {SPECIAL_TOKENS[token]}" for token in (PAD, BOS, EOS) if counts[token]]
        if found:
            sides.append(f"{' and '.join(found)} on the {side} side")
    return ", ".join(sides)


def _parse_pairs(text: str | bytes, origin: str) -> list[tuple[str, Any]]:
    """The members of the JSON object in `text`, repeated names included."""
    try:
        document = text.decode("utf-8") if isinstance(text, bytes) else text
        pairs = json.loads(document.removeprefix("\ufeff"), object_pairs_hook=_Members)
    except UnicodeDecodeError as error:
        raise _invalid(origin, f"it is not UTF-8 text (byte {error.start})") from error
    except json.JSONDecodeError as error:
        raise _invalid(origin, f"it is not JSON (line {error.lineno}, column {error.colno}: {error.msg})") from error
    except (ValueError, RecursionError) as error:
        raise _invalid(origin, f"it is not usable JSON ({error})") from error
    if not isinstance(pairs, _Members):
        raise _invalid(origin, "it is not a JSON object of token to id")
    for token, _ in pairs:
        if any("\ud800" <= character <= "\udfff" for character in token):
            raise _invalid(origin, f"the token {token!r} holds half a character (an unpaired surrogate)")
    return pairs


class _Members(list[tuple[str, Any]]):
    """The members of a JSON object, a type of its own to distinguish it from a JSON array."""


def _invalid(origin: str, reason: str) -> ClientError:
    return ClientError(
        f"{origin} is not a vocabulary: {reason}. A vocabulary is a JSON object of token to id, "
        f"{', '.join(f'{token} {index}' for index, token in enumerate(SPECIAL_TOKENS))}, then every id once"
    )
