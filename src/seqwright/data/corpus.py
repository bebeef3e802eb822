"""A channel of RecordIO files as a parallel corpus: arrays in a cache, mapped into memory.

The first load decodes the files and writes the ids of both sides as plain `.npy` arrays to a cache folder whose name
is a digest of the channel's file names, sizes and times; later loads only map those. So memory does not grow with the
corpus, and all processes that train on it share the same pages.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqwright.data.padding import PaddingCount
from seqwright.data.recordio import read_records
from seqwright.data.sequences import Sequences
from seqwright.data.vocabulary import Vocabulary, count_special_tokens, describe_special_tokens
from seqwright.errors import ClientError
from seqwright.files import StrPath, describe_os_errors, new_folder
from seqwright.interrupts import StopRequested

logger = logging.getLogger(__name__)

SIDES = ("source", "target")

_FORMAT = 2
"""Raised when the content of a cache entry changes, so that an entry of an earlier format is never used."""


@dataclass(frozen=True)
class ParallelCorpus:
    """N pairs of sequences.

    Attributes:
        source: the ids of the source side, without BOS and EOS.
        target: the ids of the target side, the same number of sequences.
        digest: the same for every corpus with these pairs in this order, and for no other.
    """

    source: Sequences
    target: Sequences
    digest: str

    def __len__(self) -> int:
        return len(self.source)


def load_vocabularies(folder: StrPath) -> tuple[Vocabulary, Vocabulary]:
    """Read the `vocab` channel.

    Args:
        folder: the channel, with `vocab.src.json` and `vocab.trg.json`.

    Returns:
        The vocabularies of the source and the target.

    Raises:
        ClientError: the folder or a file is missing, or not a vocabulary.
    """
    folder = Path(folder)
    _require_folder(folder)
    paths = folder / "vocab.src.json", folder / "vocab.trg.json"
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise ClientError(f"the vocabulary channel {folder} has no {' and no '.join(missing)}: `prepare` writes both")
    return Vocabulary.load(paths[0]), Vocabulary.load(paths[1])


def load_channel(
    folder: StrPath,
    *,
    source_vocab_size: int,
    target_vocab_size: int,
    cache: StrPath,
    stop_requested: Callable[[], bool] = lambda: False,
) -> ParallelCorpus:
    """Map the pairs of a channel into memory; decode them first if the cache does not have them.

    Padding and special tokens in the data are counted and give one warning each.

    Args:
        folder: the channel. Every file in it and in its subfolders is RecordIO-Protobuf, read in the order of paths.
            Hidden files and folders are skipped, and so are empty files with names that start with `_`, which mark
            a finished job of Spark.
        source_vocab_size: ids of the source must be below.
        target_vocab_size: ids of the target must be below.
        cache: a folder for the decoded arrays, made if need be.
        stop_requested: asked while files are decoded, which may take minutes.

    Raises:
        StopRequested: `stop_requested` returned true; nothing is kept of what was decoded.
        ClientError: the channel is missing or holds no record; a file is damaged (see `read_records`); a pair has an
            empty side or an id outside the vocabulary; the cache cannot be written.
    """
    folder = Path(folder)
    files = _list_files(folder)
    path = Path(cache) / _name_entry(folder, files)
    entry = _open_entry(path)
    if entry is None:
        _build_entry(path, files, stop_requested)
        entry = _open_entry(path)
    if entry is None:
        raise ClientError(f"cannot read back what was written to {path}: check the disk that holds it")
    _check_ids("source", entry.corpus.source, entry.largest[0], source_vocab_size, files, entry.records)
    _check_ids("target", entry.corpus.target, entry.largest[1], target_vocab_size, files, entry.records)
    entry.padding.warn(f"the channel {folder}")
    if special_tokens := describe_special_tokens(*entry.special_tokens):
        logger.warning(
            "the channel %s has %s: training and translation add these tokens themselves, so they come twice. Remove "
            "them from the text and run `prepare` again",
            folder, special_tokens,
        )  # fmt: skip
    return entry.corpus


@dataclass(frozen=True)
class _Entry:
    """A channel in the cache.

    Attributes:
        corpus: its pairs.
        records: how many records every file has.
        largest: the largest id of each side.
        special_tokens: how often each special token is among the ids of each side, by id.
        padding: the padding that was cut off.
    """

    corpus: ParallelCorpus
    records: list[int]
    largest: tuple[int, int]
    special_tokens: tuple[list[int], list[int]]
    padding: PaddingCount


def _require_folder(folder: Path) -> None:
    with describe_os_errors(f"cannot read the channel {folder}"):
        if folder.is_dir():
            return
        if not folder.exists() and not folder.parent.is_dir():
            problem = "is a file, not a folder" if folder.parent.exists() else "does not exist"
            raise ClientError(
                f"the channel {folder} does not exist: {folder.parent} {problem}; name the folder that `prepare` wrote "
                "with the channels train, validation and vocab"
            )
        problem = "is not a folder" if folder.exists() else "does not exist"
    advice = "a channel is a folder of data files"
    if folder.name == "validation":
        advice = "prepare the data again with validation text, or with --val-fraction 0.02"
    raise ClientError(f"the channel {folder} {problem}: {advice}")


def _list_files(folder: Path) -> list[Path]:
    """The data files of a channel and its subfolders, by path."""
    _require_folder(folder)
    with describe_os_errors(f"cannot read the channel {folder}"):
        files = sorted(path for path in folder.rglob("*") if path.is_file() and not _is_skipped(path, folder))
    if not files:
        raise ClientError(f"the channel {folder} is empty: put RecordIO-Protobuf files there")
    return files


def _is_skipped(path: Path, folder: Path) -> bool:
    """Whether a file of a channel is hidden, itself or by a folder, or an empty marker such as Spark's `_SUCCESS`."""
    is_hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return is_hidden or (path.name.startswith("_") and not path.stat().st_size)


def _name_entry(folder: Path, files: list[Path]) -> str:
    """A name that changes whenever the files of the channel do."""
    with describe_os_errors(f"cannot read the channel {folder}"):
        stats = [(path.relative_to(folder).as_posix(), path.stat()) for path in files]
        facts = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
        described = json.dumps([_FORMAT, str(folder.resolve()), facts])
    return hashlib.blake2b(described.encode(), digest_size=16).hexdigest()


def _open_entry(path: Path) -> _Entry | None:
    """Map a cache entry; `None` if there is none or it is damaged."""
    try:
        facts = json.loads((path / "entry.json").read_text())
        source, target = (_open_side(path, side, sum(facts["records"])) for side in SIDES)
        corpus = ParallelCorpus(source, target, facts["digest"])
        padding = PaddingCount(**facts["padding"])
        return _Entry(corpus, facts["records"], tuple(facts["largest"]), tuple(facts["special_tokens"]), padding)
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return None


def _open_side(path: Path, side: str, count: int) -> Sequences:
    values, offsets = (np.load(path / f"{side}.{name}.npy", mmap_mode="r") for name in ("values", "offsets"))
    if values.dtype != np.int32 or offsets.dtype != np.int64 or offsets.shape != (count + 1,):
        raise ValueError(f"the arrays of the {side} side have a wrong type or shape")
    if offsets[0] != 0 or values.shape != (offsets[-1],):
        raise ValueError(f"the arrays of the {side} side are cut short")
    return Sequences(np.asarray(values), np.asarray(offsets))


def _build_entry(path: Path, files: list[Path], stop_requested: Callable[[], bool]) -> None:
    """Decode the files of a channel into a cache entry."""
    with describe_os_errors(f"cannot replace {path}"):
        if path.exists():
            shutil.rmtree(path)
    try:
        with new_folder(path) as folder:
            _decode_files(files, folder, stop_requested)
    except ClientError:
        # Another process may have built the same entry meanwhile.
        if _open_entry(path) is None:
            raise


def _decode_files(files: list[Path], folder: Path, stop_requested: Callable[[], bool]) -> None:
    """Write the arrays of all files, and last the facts about them."""
    records = []
    padding = PaddingCount()
    with ExitStack() as stack:
        sides = [_SideWriter(stack, folder, side) for side in SIDES]
        for file in files:
            count = 0
            for chunk in read_records(file, SIDES, padding):
                if stop_requested():
                    raise StopRequested
                for side, sequences in zip(sides, chunk, strict=True):
                    side.append(sequences, file, count)
                count += len(chunk[0])
            records.append(count)
        largest = [side.finish() for side in sides]
    if not sum(records):
        raise ClientError(f"the channel {files[0].parent} holds no record in {len(files)} files: prepare it again")
    facts = {
        "records": records,
        "digest": hashlib.blake2b(b"".join(side.digest() for side in sides), digest_size=16).hexdigest(),
        "largest": largest,
        "special_tokens": [side.special_tokens.tolist() for side in sides],
        "padding": asdict(padding),
    }
    (folder / "entry.json").write_text(json.dumps(facts))


class _SideWriter:
    """Writes the two arrays of one side to disk and counts what is in them."""

    def __init__(self, stack: ExitStack, folder: Path, side: str) -> None:
        self.side = side
        self.values = _ArrayWriter(stack, folder / f"{side}.values.npy", np.dtype(np.int32))
        self.offsets = _ArrayWriter(stack, folder / f"{side}.offsets.npy", np.dtype(np.int64))
        self.offsets.append(np.zeros(1, dtype=np.int64))
        self.largest = -1
        self.special_tokens: NDArray[np.int64] = count_special_tokens(np.zeros(0, dtype=np.int32))
        self.hashes = hashlib.blake2b(), hashlib.blake2b()

    def append(self, sequences: Sequences, file: Path, before: int) -> None:
        """Write the sequences of a chunk that has `before` records before it in `file`."""
        lengths = sequences.lengths
        empty = np.flatnonzero(lengths == 0)
        if len(empty):
            raise ClientError(
                f"{file}: record {before + int(empty[0]) + 1:,} has no ids on the {self.side} side. Prepare the data "
                "again, without pairs that have an empty side"
            )
        self.offsets.append(sequences.offsets[1:] + self.values.length)
        self.values.append(sequences.values)
        self.largest = max(self.largest, int(sequences.values.max()))
        self.special_tokens += count_special_tokens(sequences.values)
        self.hashes[0].update(sequences.values.tobytes())
        self.hashes[1].update(lengths.tobytes())

    def finish(self) -> int:
        """Complete both files; returns the largest id."""
        self.values.finish()
        self.offsets.finish()
        return self.largest

    def digest(self) -> bytes:
        """The same for the same sequences in the same order."""
        return b"".join(each.digest() for each in self.hashes)


class _ArrayWriter:
    """Writes a one-dimensional `.npy` file of unknown length; `finish` writes the header again, with the length."""

    def __init__(self, stack: ExitStack, path: Path, dtype: np.dtype[Any]) -> None:
        self.stream = stack.enter_context(path.open("wb"))
        self.dtype = dtype
        self.length = 0
        self._write_header()

    def append(self, array: NDArray[Any]) -> None:
        self.stream.write(np.ascontiguousarray(array, dtype=self.dtype).data)
        self.length += len(array)

    def finish(self) -> None:
        self.stream.seek(0)
        self._write_header()
        self.stream.flush()
        os.fsync(self.stream.fileno())

    def _write_header(self) -> None:
        header = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.length,)}
        np.lib.format.write_array_header_1_0(self.stream, header)


def _check_ids(side: str, sequences: Sequences, largest: int, size: int, files: list[Path], records: list[int]) -> None:
    """Check that all ids of a side are below the size of its vocabulary."""
    if largest < size:
        return
    position = _find_first(sequences.values, size)
    pair = int(np.searchsorted(sequences.offsets, position, side="right")) - 1
    ends = np.cumsum(records)
    file = int(np.searchsorted(ends, pair, side="right"))
    number = pair - int(ends[file]) + records[file] + 1
    raise ClientError(
        f"{files[file]}: record {number:,} has the {side} id {sequences.values[position]}, but the {side} vocabulary "
        f"ends at {size - 1}. Take the vocab channel and the data from the same run of `prepare`"
    )


def _find_first(values: NDArray[np.int32], bound: int, step: int = 1 << 20) -> int:
    """The position of the first value that is not below `bound`; there is one."""
    starts = range(0, len(values), step)
    return next(
        start + int(np.argmax(part >= bound))
        for start in starts
        if (part := values[start : start + step]).max() >= bound
    )
