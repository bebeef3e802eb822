"""RecordIO framing: where the records of a run of bytes start and end."""

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seqwright.errors import ClientError

MAGIC = 0xCED7230A
HEADER = struct.Struct("<II")
"""A frame starts with the magic number and the size of its payload. Zeros fill it to a multiple of four."""

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Chunk:
    """Some of the bytes of a file, starting with a frame.

    Attributes:
        data: the bytes.
        origin: what to call the file in messages.
        base: the byte of the file at which `data` starts.
        number: the number of the first record, counted from 1.
        is_last: whether the file ends with `data`.
    """

    data: bytes
    origin: str
    base: int
    number: int
    is_last: bool

    def place(self, index: int, start: int) -> str:
        """Name record `index` of the chunk, whose frame is at byte `start` of it."""
        return f"{self.origin}: record {self.number + index:,} (byte {self.base + start:,})"


@dataclass(frozen=True)
class Frames:
    """The whole frames of a chunk.

    Attributes:
        starts: where the payloads start in the chunk, `[N]`.
        ends: where they end, `[N]`.
        stop: where the first incomplete frame starts.
        needed: the size of that frame without padding; only of its header, where that is incomplete too.
    """

    starts: Ints
    ends: Ints
    stop: int
    needed: int


def split_frames(chunk: Chunk, size: int) -> Frames:
    """Find the whole frames of a chunk of a file of `size` bytes.

    The padding of the very last frame may be missing: the original does not miss it either.

    Raises:
        ClientError: a frame does not start with the magic number, or the file ends before it does.
    """
    known = _chained_frames(chunk.data)
    starts: list[int] = []
    ends: list[int] = []
    start = 0 if not len(known) else _padded(int(known[-1, 1]))
    available, needed = len(chunk.data), HEADER.size
    while start + HEADER.size <= available:
        magic, length = HEADER.unpack_from(chunk.data, start)
        if magic != MAGIC:
            raise ClientError(
                f"{chunk.place(len(known) + len(starts), start)}: {chunk.data[start : start + 4].hex(' ')} "
                "where 0a 23 d7 ce, the mark of a RecordIO frame, should be. This is not a RecordIO-Protobuf "
                "file, or it was damaged: prepare it again"
            )
        end = start + HEADER.size + length
        if end > available or (_padded(end) > available and not chunk.is_last):
            needed = HEADER.size + length
            break
        starts.append(start + HEADER.size)
        ends.append(end)
        start = _padded(end)
    left = size - chunk.base - start
    if 0 < left < needed:
        of = f"{needed:,} bytes" if left >= HEADER.size else f"the {HEADER.size} bytes of a frame's header"
        raise ClientError(
            f"{chunk.place(len(known) + len(starts), start)}: cut short, {left:,} of {of} are there. "
            "Copy or prepare the file again"
        )
    found = np.array([starts, ends], dtype=np.int64).T
    both = np.concatenate((known, found))
    return Frames(both[:, 0], both[:, 1], start, needed)


def _chained_frames(data: bytes) -> Ints:
    """The payloads of the first frames of a chunk, those that are followed by the next magic number in it.

    A magic number inside a payload ends the chain early; the frames from there on are found one by one.

    Returns:
        Starts and ends, `[N, 2]`.
    """
    words = np.frombuffer(data, dtype="<u4", count=len(data) // 4)
    marks = np.flatnonzero(words[:-1] == MAGIC)
    lengths = words[marks + 1].astype(np.int64)
    starts = 4 * marks + HEADER.size
    frames = np.stack((starts, starts + lengths), axis=1)
    expected = np.concatenate(([0], (frames[:, 1] + 3) // 4))
    unexpected = np.flatnonzero(marks != expected[:-1])
    count = int(unexpected[0]) if len(unexpected) else len(marks)
    return frames[: max(count - 1, 0)]


def _padded(end: int) -> int:
    return (end + 3) & ~3
