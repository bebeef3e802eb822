"""RecordIO-Protobuf: framed `Record` messages in bytes, token ids in arrays.

A file is a run of frames (see `frames`), each with the bytes of one `Record` (see `record.proto`), whose ids
are under `features[name].int32_tensor.values`. Nearly every record is laid out as the original's writer and
ours lay it out; those are decoded with numpy, all records of a chunk in step (see `wire`). Whatever looks
different in any way goes through the protobuf library, which alone decides what is an error.
"""

import io
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from google.protobuf.message import DecodeError

from seqwright.data.frames import HEADER, MAGIC, Chunk, Frames, split_frames
from seqwright.data.record_pb2 import Record
from seqwright.data.sequences import Sequences
from seqwright.data.wire import Column, Ints, starts_of, unpack_records
from seqwright.errors import ClientError
from seqwright.files import describe_os_errors

CHUNK = 1 << 20
"""Bytes of frames decoded together: enough to keep numpy busy, few enough for the processor's cache."""


def encode_records(features: Mapping[str, Sequences]) -> bytes:
    """Write N records in frames, record `i` holding sequence `i` of every feature.

    Args:
        features: the sequences of every feature, N of each; the features of a record come in this order.

    Returns:
        The bytes the protobuf library would make of the same records, framed and padded.

    Raises:
        ValueError: an id is negative, or two features have different numbers of sequences.
    """
    columns = [Column(name.encode(), sequences) for name, sequences in features.items()]
    if len({len(column.packed) for column in columns}) != 1:
        raise ValueError("every feature needs the same number of sequences, and there must be a feature")
    payload: Ints = np.add.reduce([column.size for column in columns])
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
    """Read every record of a buffer.

    Args:
        data: whole frames; none gives sequences of length 0.
        names: the features wanted of every record; others are passed over.
        origin: what to call the buffer in messages.

    Returns:
        The sequences of every name, one of each a record. A feature without values gives an empty sequence.

    Raises:
        ClientError: see `read_records`.
    """
    chunks = list(_decode_stream(io.BytesIO(data), len(data), names, origin))
    return tuple(concatenate([chunk[column] for chunk in chunks]) for column in range(len(names)))


def read_records(path: Path, names: Sequence[str]) -> Iterator[tuple[Sequences, ...]]:
    """Read a file, a chunk of records at a time, so that memory does not grow with the file.

    Args:
        path: the file; any name will do.
        names: the features wanted of every record; others are passed over.

    Yields:
        For the records of one chunk, the sequences of every name. A feature without values gives an empty
        sequence.

    Raises:
        ClientError: the file cannot be read, is cut short, or has bytes where a frame should start; or a
            record is not a `Record`, lacks a feature, or holds something other than ids from 0 up. The
            message names the record, counted from 1, and the byte at which its frame starts, counted from 0.
    """
    with describe_os_errors(f"cannot read {path}"), path.open("rb") as stream:
        size = path.stat().st_size if path.is_file() else sys.maxsize  # a pipe's is not known before its end
        yield from _decode_stream(stream, size, names, str(path))


def concatenate(parts: Sequence[Sequences]) -> Sequences:
    """Put the sequences of all parts one after another."""
    values = [part.values for part in parts]
    lengths = [part.lengths for part in parts]
    return Sequences(
        np.concatenate(values) if values else np.zeros(0, dtype=np.int32),
        starts_of(np.concatenate(lengths) if lengths else np.zeros(0, dtype=np.int64)),
    )


def _decode_stream(stream: BinaryIO, size: int, names: Sequence[str], origin: str) -> Iterator[tuple[Sequences, ...]]:
    """Decode the frames of a stream of `size` bytes, about a chunk at a time."""
    rest, base, number, wanted = b"", 0, 1, CHUNK
    while base < size:
        block = stream.read(wanted)
        data = rest + block
        if len(block) < wanted:
            size = base + len(data)
        chunk = Chunk(data, origin, base, number, is_last=base + len(data) >= size)
        frames = split_frames(chunk, size)
        if len(frames.starts):
            yield _decode_chunk(chunk, frames, names)
        rest, base, number = data[frames.stop :], base + frames.stop, number + len(frames.starts)
        wanted = max(CHUNK, frames.needed + 4 - len(rest))


def _decode_chunk(chunk: Chunk, frames: Frames, names: Sequence[str]) -> tuple[Sequences, ...]:
    """Decode whole frames: the plain ones in step, the others one by one."""
    keys = [np.frombuffer(name.encode(), dtype=np.uint8) for name in names]
    plain, columns = unpack_records(chunk.data, frames.starts, frames.ends, keys)
    if plain.all():
        return columns
    others = np.flatnonzero(~plain)
    read: list[list[Sequence[int]]] = []
    for index in others.tolist():
        start, end = int(frames.starts[index]), int(frames.ends[index])
        place = chunk.place(index, start - HEADER.size)
        read.append(_parse(chunk.data[start:end], names, place))
    return tuple(_merge(ids, others, Sequences.of([row[column] for row in read])) for column, ids in enumerate(columns))


def _parse(payload: bytes, names: Sequence[str], place: str) -> list[Sequence[int]]:
    """Decode one record, of any layout, with the protobuf library."""
    try:
        record = Record.FromString(payload)
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
