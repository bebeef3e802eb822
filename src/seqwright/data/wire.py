"""Write and read the bytes of many records at once, in the layout that nearly every record has.

A plain record has the wanted features, in any order, and nothing else. Each feature is

    0a <size> 0a <size> name 12 <size> 3a <size> 0a <size> ids

that is an entry of a map with its key and its `Value`, which holds an `Int32Tensor`, which holds packed varints;
for an empty sequence the tensor is empty. Sizes and ids are varints: seven bits a byte, lowest first, the top
bit set in all bytes but the last.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from seqwright.data.sequences import Sequences

_LONGEST_VARINT = 5
"""Bytes of the longest varint of an int32 that is not negative."""

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


class Column:
    """One feature of N records to be written.

    Attributes:
        values: the ids of all records.
        key: the bytes of the key field.
        counts: ids of every record, `[N]`.
        widths: bytes of the varint of every id.
        at: where the varint of every id starts, if all are written one after another.
        packed: bytes of the ids of every record, `[N]`; `tensor`, `value` and `entry` are the bytes of the messages
            around them, from the inside out, and `size` is that of the whole feature.
        first: where the first id of every record starts, `[N]`, as in `at`.
    """

    def __init__(self, key: bytes, sequences: Sequences) -> None:
        self.values = sequences.values.astype(np.int64)
        if len(self.values) and self.values.min() < 0:
            raise ValueError("ids cannot be negative")
        self.key = np.frombuffer(b"\x0a" + _varint(len(key)) + key, dtype=np.uint8)
        self.counts = sequences.lengths
        self.widths = _varint_widths(self.values)
        self.at = starts_of(self.widths)
        self.packed: Ints = np.diff(self.at[sequences.offsets])
        self.tensor = np.where(self.packed > 0, _field_size(self.packed), 0)
        self.value = _field_size(self.tensor)
        self.entry = len(self.key) + _field_size(self.value)
        self.size = _field_size(self.entry)
        self.first = self.at[sequences.offsets[:-1]]

    def write(self, out: Bytes, cursor: Ints) -> Ints:
        """Write the feature of record `i` at `cursor[i]`; return the positions behind it, `[N]`."""
        cursor = _write_tag(out, cursor, 0x0A, self.entry)
        out[cursor[:, None] + np.arange(len(self.key))] = self.key
        cursor = _write_tag(out, cursor + len(self.key), 0x12, self.value)
        cursor = _write_tag(out, cursor, 0x3A, self.tensor)
        filled = self.packed > 0
        cursor[filled] = _write_tag(out, cursor[filled], 0x0A, self.packed[filled])
        _write_varints(out, self.at[:-1] + np.repeat(cursor - self.first, self.counts), self.values, self.widths)
        return cursor + self.packed


def _write_tag(out: Bytes, cursor: Ints, tag: int, sizes: Ints) -> Ints:
    """Write the tag and the size of a length-delimited field at every cursor; return the positions behind them."""
    out[cursor] = tag
    widths = _varint_widths(sizes)
    _write_varints(out, cursor + 1, sizes, widths)
    return cursor + 1 + widths


def _write_varints(out: Bytes, cursor: Ints, values: Ints, widths: Ints) -> None:
    """Write `values` as varints of `widths` bytes at the positions `cursor`."""
    out[cursor] = (values & 0x7F) | ((widths > 1) << 7)
    longer = np.flatnonzero(widths > 1)
    position = 1
    while len(longer):
        rest = values[longer] >> (7 * position)
        more = widths[longer] > position + 1
        out[cursor[longer] + position] = (rest & 0x7F) | (more << 7)
        longer = longer[more]
        position += 1


def _varint_widths(values: Ints) -> Ints:
    """The number of bytes in the varint of every value, for values that are not negative."""
    widths = np.ones(len(values), dtype=np.int64)
    top = int(values.max(initial=0))
    limit = 1 << 7
    while limit <= top:
        widths += values >= limit
        limit <<= 7
    return widths


def _field_size(sizes: Ints) -> Ints:
    """The number of bytes of a length-delimited field with contents of `sizes`: tag, size and contents."""
    return 1 + _varint_widths(sizes) + sizes


def _varint(value: int) -> bytes:
    groups = [value & 0x7F]
    while value := value >> 7:
        groups[-1] |= 0x80
        groups.append(value & 0x7F)
    return bytes(groups)


def starts_of(lengths: Ints) -> Ints:
    """Where consecutive runs of `lengths` `[N]` start, and where the last one ends, `[N + 1]`."""
    starts = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=starts[1:])
    return starts


# Reading


def unpack_records(data: bytes, first: Ints, last: Ints, keys: Sequence[Bytes]) -> tuple[Mask, tuple[Sequences, ...]]:
    """Decode all plain records of a chunk.

    Args:
        data: the chunk.
        first: where every record starts in it, `[N]`.
        last: where every record ends, `[N]`.
        keys: the names of the wanted features, as bytes.

    Returns:
        Which records are plain, `[N]`, and for every feature N sequences, empty for records that are not plain.
        If an id is negative, or is written in more bytes than necessary, no record of the chunk counts as plain.
    """
    lookahead = bytes(16 + max(len(key) for key in keys))
    buffer = np.frombuffer(data + lookahead, dtype=np.uint8)
    plain, starts, ends = _find_ids(buffer, first, last, keys)
    columns = [_unpack(buffer, starts[column], ends[column]) for column in range(len(keys))]
    if any(ids.values.min(initial=0) < 0 for ids in columns):
        plain[:] = False
        columns = [Sequences(ids.values[:0], np.zeros_like(ids.offsets)) for ids in columns]
    return plain, tuple(columns)


def _find_ids(buffer: Bytes, first: Ints, last: Ints, keys: Sequence[Bytes]) -> tuple[Mask, Ints, Ints]:
    """Step through the headers of all records at once.

    Returns:
        Which records are plain, `[N]`, and where the packed ids of every feature start and end, `[names, N]` each; 0
        and 0 for records that are not plain.
    """
    plain = np.ones(len(first), dtype=bool)
    found = np.zeros((len(keys), len(first)), dtype=bool)
    starts = np.zeros(found.shape, dtype=np.int64)
    ends = np.zeros(found.shape, dtype=np.int64)
    cursor = first
    for _ in keys:
        cursor, size = _read_tag(buffer, cursor, 0x0A, plain)
        end = cursor + size
        plain &= end <= last
        name, name_size = _read_tag(buffer, cursor, 0x0A, plain)
        plain &= name + name_size <= end
        cursor, size = _read_tag(buffer, name + name_size, 0x12, plain)
        plain &= cursor + size == end
        tensor, size = _read_tag(buffer, cursor, 0x3A, plain)
        plain &= tensor + size == end
        filled = plain & (tensor < end)
        ids, size = _read_tag(buffer, tensor, 0x0A, filled)
        filled &= ids + size == end
        filled[filled] = buffer[end[filled] - 1] < 0x80
        plain &= filled | (tensor == end)
        name[~plain] = 0
        known = np.zeros(len(plain), dtype=bool)
        for column, key in enumerate(keys):
            matches = plain & (name_size == len(key)) & ~found[column]
            matches &= (buffer[name[:, None] + np.arange(len(key))] == key).all(axis=1)
            np.copyto(starts[column], ids, where=matches & filled)
            np.copyto(ends[column], end, where=matches & filled)
            found[column] |= matches
            known |= matches
        plain &= known
        cursor = end
    plain &= cursor == last
    starts[:, ~plain] = 0
    ends[:, ~plain] = 0
    return plain, starts, ends


def _read_tag(buffer: Bytes, cursor: Ints, tag: int, plain: Mask) -> tuple[Ints, Ints]:
    """Read the tag and the size of a length-delimited field at every cursor.

    Clears `plain` for records with another tag or a size of more than five bytes.

    Returns:
        The positions behind the size, and the sizes, `[N]` each; arbitrary valid positions where `plain` is false.
    """
    cursor = np.where(plain, cursor, 0)
    plain &= buffer[cursor] == tag
    size = buffer[cursor + 1].astype(np.int64)
    cursor += 2
    longer = np.flatnonzero(size & 0x80)
    for position in range(1, _LONGEST_VARINT):
        if not len(longer):
            break
        group = buffer[cursor[longer]].astype(np.int64)
        size[longer] += (group - 1) << (7 * position)
        cursor[longer] += 1
        longer = longer[group >= 0x80]
    plain[longer] = False
    return cursor, size


def _unpack(buffer: Bytes, starts: Ints, ends: Ints) -> Sequences:
    """Decode the packed varints between every start and end; one of more than five bytes becomes -1."""
    at = starts_of(ends - starts)
    groups = buffer[np.repeat(starts - at[:-1], np.diff(at)) + np.arange(at[-1])]
    is_last = groups < 0x80
    if is_last.all():
        return Sequences(groups.astype(np.int32), at)
    lasts = np.flatnonzero(is_last)
    firsts = np.concatenate(([0], lasts[:-1] + 1))
    widths = lasts - firsts + 1
    values = (groups[firsts] & 0x7F).astype(np.uint32)
    longer = np.flatnonzero(widths > 1)
    for position in range(1, _LONGEST_VARINT):
        group = groups[firsts[longer] + position].astype(np.uint32)
        values[longer] |= (group & 0x7F) << (7 * position)
        longer = longer[group >= 0x80]
    values[widths > _LONGEST_VARINT] = 0xFFFFFFFF
    return Sequences(values.view(np.int32), np.searchsorted(lasts, at))
