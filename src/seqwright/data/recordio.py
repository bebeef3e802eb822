"""RecordIO-Protobuf: framed `Record` messages in bytes, token ids in arrays.

A file is a run of frames (see `frames`) with the bytes of `Record` messages (see `record`), whose ids are under
`features[name].int32_tensor.values`. Nearly every record has the layout that the original's writer and ours use;
those are decoded with numpy, all records of a chunk in step (see `wire`). Records of any other layout go through the
protobuf library, which alone decides what is an error.
"""

import io
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import starmap
from pathlib import Path
from typing import BinaryIO

import numpy as np
from google.protobuf.message import DecodeError

from seqwright.data.frames import HEADER, MAGIC, MAX_PAYLOAD, Chunk, Frames, split_frames
from seqwright.data.padding import PaddingCount, count_padding, inner_padding, shorten
from seqwright.data.record import parse_record
from seqwright.data.sequences import Sequences
from seqwright.data.vocabulary import PAD
from seqwright.data.wire import Column, Ints, starts_of, unpack_records
from seqwright.errors import ClientError
from seqwright.files import StrPath, describe_os_errors

CHUNK = 1 << 20
"""Bytes decoded together: enough to keep numpy busy, few enough for the processor's cache."""


def encode_records(features: Mapping[str, Sequences]) -> bytes:
    """Write N records in frames, record `i` holding sequence `i` of every feature.

    Args:
        features: the sequences of every feature, N of each; the features of a record come in this order.

    Returns:
        The bytes the protobuf library would make of the same records, framed and padded.

    Raises:
        ValueError: an id is negative, two features have different numbers of sequences, or a record is longer than
            `MAX_PAYLOAD`.
    """
    columns = [Column(name.encode(), sequences) for name, sequences in features.items()]
    if len({len(column.packed) for column in columns}) != 1:
        raise ValueError("every feature needs the same number of sequences, and there must be a feature")
    payload: Ints = np.add.reduce([column.size for column in columns])
    if payload.max(initial=0) > MAX_PAYLOAD:
        raise ValueError(f"a record of {payload.max():,} bytes: a frame holds at most {MAX_PAYLOAD:,}")
    starts = starts_of(HEADER.size + payload + -payload % 4)
    out = np.zeros(int(starts[-1]), dtype=np.uint8)
    cursor = starts[:-1]
    headers = np.empty((len(cursor), 2), dtype="<u4")
    headers[:, 0] = MAGIC
    headers[:, 1] = payload
    out[cursor[:, None] + np.arange(HEADER.size)] = headers.view(np.uint8)
    cursor = cursor + HEADER.size
    for column in columns:
        cursor = column.write(out, cursor)
    return out.tobytes()


def decode_records(data: bytes | memoryview, names: Sequence[str], origin: str) -> tuple[Sequences, ...]:
    """Read every record of a buffer, ids as they are.

    Args:
        data: complete records; none gives N = 0.
        names: the features to read from every record; others are skipped.
        origin: what to call the buffer in messages.

    Returns:
        For every name, the sequences of the N records. A feature without values gives an empty sequence.

    Raises:
        ClientError: see `read_records`; padding is allowed anywhere.
    """
    chunks = [columns for *_, columns in _decode_stream(io.BytesIO(data), len(data), names, origin)]
    return tuple(concatenate([chunk[column] for chunk in chunks]) for column in range(len(names)))


def read_records(
    path: StrPath, names: Sequence[str], padding: PaddingCount | None = None
) -> Iterator[tuple[Sequences, ...]]:
    """Read a file, a chunk of records at a time, so that memory does not grow with the file.

    Zeros at the end of a sequence are padding and are cut off.

    Args:
        path: the file; any name will do.
        names: the features to read from every record; others are skipped.
        padding: counts the padding that was cut off, for the caller to warn about; without it, one warning is logged
            at the end of the file.

    Yields:
        For the records of one chunk, the sequences of every name. A feature without values gives an empty
        sequence.

    Raises:
        ClientError: the file cannot be read, is cut short, or has bytes where a frame should start; or a
            record is not a `Record`, lacks a feature, or has something other than ids from 0 up, or a 0 before
            another id. The message names the record, counted from 1, and the byte at which its frame starts,
            counted from 0.
    """
    path = Path(path)
    counted = PaddingCount() if padding is None else padding
    with describe_os_errors(f"cannot read {path}"), path.open("rb") as stream:
        size = path.stat().st_size if path.is_file() else sys.maxsize  # a pipe's is not known before its end
        for chunk, frames, columns in _decode_stream(stream, size, names, str(path)):
            if all(ids.values.all() for ids in columns):
                yield columns
            else:
                yield _without_padding(chunk, frames, names, columns, counted)
    if padding is None:
        counted.warn(str(path))


def concatenate(parts: Sequence[Sequences]) -> Sequences:
    """Put the sequences of all parts one after another."""
    values = [part.values for part in parts]
    lengths = [part.lengths for part in parts]
    return Sequences(
        np.concatenate(values) if values else np.zeros(0, dtype=np.int32),
        starts_of(np.concatenate(lengths) if lengths else np.zeros(0, dtype=np.int64)),
    )


def _decode_stream(
    stream: BinaryIO, size: int, names: Sequence[str], origin: str
) -> Iterator[tuple[Chunk, Frames, tuple[Sequences, ...]]]:
    """Decode the records of a stream of `size` bytes, about a chunk at a time."""
    rest, offset, first_record, wanted = b"", 0, 1, CHUNK
    while offset < size:
        block = stream.read(wanted)
        data = rest + block
        if len(block) < wanted:
            size = offset + len(data)
        chunk = Chunk(data, origin, offset, first_record, is_last=offset + len(data) >= size)
        frames = split_frames(chunk, size)
        if len(frames.starts):
            yield chunk, frames, _decode_chunk(chunk, frames, names)
        rest, offset, first_record = data[frames.stop :], offset + frames.stop, first_record + len(frames.starts)
        # Doubled for a record of many parts, whose length is only known at its end.
        wanted = max(CHUNK, frames.needed + 4 - len(rest), len(rest))


def _decode_chunk(chunk: Chunk, frames: Frames, names: Sequence[str]) -> tuple[Sequences, ...]:
    """Decode complete records: the plain ones in step, the others one by one."""
    keys = [np.frombuffer(name.encode(), dtype=np.uint8) for name in names]
    plain, columns = unpack_records(frames.data, frames.starts, frames.ends, keys)
    if plain.all():
        return columns
    others = np.flatnonzero(~plain)
    decoded: list[list[Sequence[int]]] = []
    for index in others.tolist():
        place = chunk.describe_record(index, int(frames.heads[index]))
        decoded.append(_parse(frames.data[frames.starts[index] : frames.ends[index]], names, place))
    return tuple(
        _merge(ids, others, Sequences.of([row[column] for row in decoded])) for column, ids in enumerate(columns)
    )


def _without_padding(
    chunk: Chunk, frames: Frames, names: Sequence[str], columns: tuple[Sequences, ...], count: PaddingCount
) -> tuple[Sequences, ...]:
    """Cut off the padding of decoded records and count it."""
    cut = [count_padding(ids) for ids in columns]
    shortened = tuple(starmap(shorten, zip(columns, cut, strict=True)))
    for name, ids in zip(names, shortened, strict=True):
        if not ids.values.all():
            position = int(np.argmin(ids.values != PAD))
            index = int(np.searchsorted(ids.offsets, position, side="right")) - 1
            problem = inner_padding(position - int(ids.offsets[index]))
            raise ClientError(
                f"{chunk.describe_record(index, int(frames.heads[index]))}: feature {name!r} has the {problem}"
            )
    count.records += int(np.count_nonzero(np.any(cut, axis=0)))
    count.ids += int(np.sum(cut))
    return shortened


def _parse(payload: bytes, names: Sequence[str], place: str) -> list[Sequence[int]]:
    """Decode one record, of any layout, with the protobuf library."""
    try:
        record = parse_record(payload)
    except DecodeError as error:
        raise ClientError(f"{place}: its {len(payload):,} bytes are not a Record message ({error})") from error
    ids: list[Sequence[int]] = []
    for name in names:
        if name not in record.features:
            has = ", ".join(sorted(map(repr, record.features))) or "none"
            raise ClientError(f"{place}: no feature {name!r}; its features: {has}")
        value = record.features[name]
        kind = value.WhichOneof("value")
        if kind not in ("int32_tensor", None):
            raise ClientError(f"{place}: feature {name!r} is a {kind}; token ids are an int32_tensor")
        values = list(value.int32_tensor.values)
        if values and min(values) < 0:
            raise ClientError(f"{place}: feature {name!r} has the negative id {min(values)}; ids count from 0")
        ids.append(values)
    return ids


def _merge(ids: Sequences, others: Ints, read: Sequences) -> Sequences:
    """Put the sequences of `read` in the places `others` of `ids`, which are empty there."""
    lengths = ids.lengths
    lengths[others] = read.lengths
    is_other = np.zeros(len(lengths), dtype=bool)
    is_other[others] = True
    from_others = np.repeat(is_other, lengths)
    values = np.empty(len(from_others), dtype=np.int32)
    values[from_others] = read.values
    values[~from_others] = ids.values
    return Sequences(values, starts_of(lengths))
