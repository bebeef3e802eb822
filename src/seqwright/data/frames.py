"""RecordIO framing: where the records of a run of bytes start and end.

A frame is two little-endian 32-bit words, the magic number and a length word, then the payload, then zeros up to a
multiple of four bytes. The lower 29 bits of the length word are the bytes of the payload, the upper three say which
part of a record it is: 0 a whole record, 1 the first part, 2 a middle part, 3 the last part. MXNet's writer ends a part
where a payload has the magic number at a multiple of four bytes, leaves those four bytes out, and its reader puts them
back between the parts.

Our writer and the original's script never split a record. MXNet's reader finds the next frame by the length, so it
reads such files; only a reader that starts in the middle of a file looks for the magic number.
"""

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seqwright.errors import ClientError

MAGIC = 0xCED7230A
HEADER = struct.Struct("<II")
"""The magic number and the length word."""

LENGTH_BITS = 29
MAX_PAYLOAD = (1 << LENGTH_BITS) - 1
"""Bytes of the longest payload that a length word can state."""

WHOLE, FIRST, MIDDLE, LAST = range(4)

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Chunk:
    """Some of the bytes of a file, starting with a record.

    Attributes:
        data: the bytes.
        origin: what to call the file in messages.
        offset: the byte of the file at which `data` starts.
        first_record: the number of the first record, counted from 1.
        is_last: whether the file ends with `data`.
    """

    data: bytes
    origin: str
    offset: int
    first_record: int
    is_last: bool

    def describe_record(self, index: int, start: int) -> str:
        """Name record `index` of the chunk, whose first frame is at byte `start` of it, for a message."""
        return f"{self.origin}: record {self.first_record + index:,} (byte {self.offset + start:,})"


@dataclass(frozen=True)
class Frames:
    """The N complete records of a chunk.

    Attributes:
        data: the bytes of the chunk; behind them the payloads of records that were joined from parts.
        heads: where the first frame of every record starts in the chunk, `[N]`.
        starts: where the payloads start in `data`, `[N]`.
        ends: where they end, `[N]`.
        stop: where the first incomplete record starts in the chunk.
        needed: bytes of that record that are known to be necessary, padding not counted.
    """

    data: bytes
    heads: Ints
    starts: Ints
    ends: Ints
    stop: int
    needed: int


def split_payloads(data: bytes, origin: str) -> list[bytes]:
    """The payloads of all records of a buffer, joined where they are in parts.

    Args:
        data: complete records.
        origin: what to call the buffer in messages.

    Raises:
        ClientError: see `split_frames`.
    """
    frames = split_frames(Chunk(data, origin, 0, 1, is_last=True), len(data))
    return [frames.data[start:end] for start, end in zip(frames.starts.tolist(), frames.ends.tolist(), strict=True)]


def split_frames(chunk: Chunk, size: int) -> Frames:
    """Find the complete records of a chunk of a file of `size` bytes.

    The padding of the very last frame may be missing: the original accepts that too.

    Raises:
        ClientError: a frame does not start with the magic number, parts of a record are out of order, or the file ends
            inside a record.
    """
    frames, stop, needed = _find_frames(chunk)
    starts, ends, parts = np.ascontiguousarray(frames.T)
    if parts.any():
        result = _join_parts(chunk, frames, stop, needed)
    else:
        result = Frames(chunk.data, starts - HEADER.size, starts, ends, stop, needed)
    left = size - chunk.offset - result.stop
    if 0 < left < result.needed:
        expected = f"{result.needed:,} bytes" if left >= HEADER.size else f"the {HEADER.size} bytes of a frame's header"
        raise ClientError(
            f"{chunk.describe_record(len(result.starts), result.stop)}: cut short, {left:,} of {expected} are there. "
            "Copy or prepare the file again"
        )
    return result


def _find_frames(chunk: Chunk) -> tuple[Ints, int, int]:
    """Find the complete frames of a chunk, each of which is a record or a part of one.

    Returns:
        Where the payloads start and end, and which part of a record each is, `[frames, 3]`; where the first incomplete
        frame starts; and the size of that frame, without padding, or of its header if that is incomplete too.
    """
    known = _chained_frames(chunk.data)
    found: list[tuple[int, int, int]] = []
    start = _padded(int(known[-1, 1])) if len(known) else 0
    available, needed = len(chunk.data), HEADER.size
    while start + HEADER.size <= available:
        magic, length_word = HEADER.unpack_from(chunk.data, start)
        part, length = length_word >> LENGTH_BITS, length_word & MAX_PAYLOAD
        if magic != MAGIC or part > LAST:
            frames = np.concatenate((known, np.array(found, dtype=np.int64).reshape(-1, 3)))
            place = _describe_frame(chunk, frames, len(frames), start)
            raise ClientError(
                f"{place}: {chunk.data[start : start + HEADER.size].hex(' ')} where 0a 23 d7 ce, the mark of a "
                "RecordIO frame, and a length should be. This is not a RecordIO-Protobuf file, or it was damaged: "
                "prepare it again"
            )
        end = start + HEADER.size + length
        if end > available or (_padded(end) > available and not chunk.is_last):
            needed = HEADER.size + length
            break
        found.append((start + HEADER.size, end, part))
        start = _padded(end)
    if found:
        known = np.concatenate((known, np.array(found, dtype=np.int64)))
    return known, start, needed


def _chained_frames(data: bytes) -> Ints:
    """The first frames of a chunk, as `_find_frames` returns them, as long as the next magic number follows each.

    A magic number inside a payload ends the chain early; `_find_frames` finds the frames from there on one by one.
    """
    words = np.frombuffer(data, dtype="<u4", count=len(data) // 4)
    marks = np.flatnonzero(words[:-1] == MAGIC)
    length_words = words[marks + 1].astype(np.int64)
    starts = 4 * marks + HEADER.size
    frames = np.stack((starts, starts + (length_words & MAX_PAYLOAD), length_words >> LENGTH_BITS), axis=1)
    expected = np.concatenate(([0], (frames[:, 1] + 3) // 4))
    unexpected = np.flatnonzero((marks != expected[:-1]) | (frames[:, 2] > LAST))
    count = int(unexpected[0]) if len(unexpected) else len(marks)
    return frames[: max(count - 1, 0)]


def _join_parts(chunk: Chunk, frames: Ints, stop: int, needed: int) -> Frames:
    """Make records of frames that are not all whole records; the arguments are what `_find_frames` returns."""
    starts, ends, parts = frames.T
    continues = parts >= MIDDLE
    was_open = np.zeros(len(parts), dtype=bool)
    was_open[1:] = ((parts == FIRST) | (parts == MIDDLE))[:-1]
    wrong = np.flatnonzero(continues != was_open)
    if len(wrong):
        index = int(wrong[0])
        missing = "the first part of it" if continues[index] else "the last part of the record before it"
        place = _describe_frame(chunk, frames, index, int(starts[index]) - HEADER.size)
        raise ClientError(f"{place}: {missing} is missing. The file was damaged: copy or prepare it again")
    firsts = np.flatnonzero(~continues)
    lasts = np.append(firsts[1:], len(parts)) - 1
    if parts[-1] in (FIRST, MIDDLE):  # the next chunk starts with this record, and needs all of it
        head = int(starts[firsts[-1]]) - HEADER.size
        stop, needed = head, stop + needed - head
        firsts, lasts = firsts[:-1], lasts[:-1]
    record_starts, record_ends = starts[firsts], ends[lasts]
    pieces, length = [chunk.data], len(chunk.data)
    for index in np.flatnonzero(firsts != lasts).tolist():
        rows = frames[firsts[index] : lasts[index] + 1].tolist()
        payload = MAGIC.to_bytes(4, "little").join(chunk.data[start:end] for start, end, _ in rows)
        pieces.append(payload)
        record_starts[index], record_ends[index] = length, length + len(payload)
        length += len(payload)
    return Frames(b"".join(pieces), starts[firsts] - HEADER.size, record_starts, record_ends, stop, needed)


def _describe_frame(chunk: Chunk, frames: Ints, index: int, start: int) -> str:
    """Name the record of frame `index`, at byte `start`, by the number of records that start in the frames before."""
    return chunk.describe_record(int(np.count_nonzero(frames[:index, 2] < MIDDLE)), start)


def _padded(end: int) -> int:
    return (end + 3) & ~3
