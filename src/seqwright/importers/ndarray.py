"""Read MXNet NDArray list files, the `params` of an MXNet model, with numpy alone.

All numbers are little-endian. A file is

    uint64 0x112 · uint64 reserved · uint64 count · count records · uint64 count · count × (uint64 bytes · UTF-8 name)

and a record, in the four formats that MXNet has written:

    V3      uint32 0xF993faca · the rest as in V2; an empty shape means a scalar
    V2      uint32 0xF993fac9 · int32 storage · shape · context · int32 type · elements
    V1      uint32 0xF993fac8 · shape · context · int32 type · elements
    legacy  uint32 ndim · ndim × uint32 · context · int32 type · elements

with `shape` an int32 ndim and as many int64, `context` two int32 (the device it was on), and `elements` in C order.
Every length is compared with the bytes that are left before memory is allocated for it.
"""

import math
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqwright.errors import ClientError

LIST_MAGIC = 0x112
V1_MAGIC, V2_MAGIC, V3_MAGIC = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
DTYPES = {0: "<f4", 1: "<f8", 2: "<f2", 3: "<u1", 4: "<i4", 5: "<i1", 6: "<i8"}
"""NumPy's name of an element type, by MXNet's number."""
STORAGE = {0: "dense", 1: "row_sparse", 2: "csr"}
MAX_DIMENSIONS = 32

Arrays = dict[str, NDArray[Any]]


def parse_ndarrays(content: bytes, origin: str) -> Arrays:
    """Read an NDArray list from memory.

    Args:
        content: the file's bytes.
        origin: what to call the file in messages.

    Returns:
        The arrays by name, in the file's order; read-only views of `content`.

    Raises:
        ClientError: the content is not such a list, is cut short, or has bytes behind its end; an array is sparse or
            has a type that is not in `DTYPES`; a name is not UTF-8 or appears twice. The message gives the record or
            name, counted from 1, and the byte.
    """
    reader = _Reader(content, origin)
    magic, _ = reader.take("<QQ", "the file's header")
    if magic != LIST_MAGIC:
        raise ClientError(
            f"{origin} is not an MXNet parameter file: it starts with {magic:#x} instead of {LIST_MAGIC:#x}"
        )
    arrays = []
    for number in range(1, reader.count("the number of arrays", _SMALLEST_RECORD) + 1):
        reader.item = f"array {number}"
        arrays.append(_record(reader))
    reader.item = ""
    at = reader.position
    count = reader.count("the number of names", _SMALLEST_NAME)
    if count != len(arrays):
        raise reader.damaged(at, f"{count:,} names for {len(arrays):,} arrays")
    named: Arrays = {}
    for number, array in enumerate(arrays, start=1):
        reader.item = f"name {number}"
        named[_name(reader, named)] = array
    if reader.left:
        raise ClientError(f"{origin} is damaged: {reader.left:,} bytes follow its end at byte {reader.position:,}")
    return named


_SMALLEST_RECORD = 4
_SMALLEST_NAME = 8


class _Reader:
    """Reads the file from front to back; `item` names what is being read, for messages."""

    def __init__(self, content: bytes, origin: str) -> None:
        self.content = content
        self.origin = origin
        self.position = 0
        self.item = ""

    @property
    def left(self) -> int:
        return len(self.content) - self.position

    def damaged(self, at: int, problem: str) -> ClientError:
        place = f"{self.item} at byte {at:,}" if self.item else f"byte {at:,}"
        return ClientError(f"{self.origin} is damaged ({place}): {problem}; copy the file again")

    def take(self, layout: str, what: str) -> tuple[int, ...]:
        """The numbers that `layout` describes, in the notation of `struct`."""
        return struct.unpack(layout, self.bytes(struct.calcsize(layout), what))

    def bytes(self, size: int, what: str) -> memoryview:
        """The next `size` bytes, without copying them."""
        if size > self.left:
            raise self.damaged(self.position, f"{what} takes {size:,} bytes, but the file ends after {self.left:,}")
        start = self.position
        self.position += size
        return memoryview(self.content)[start : self.position]

    def count(self, what: str, smallest: int) -> int:
        """A number of items that take at least `smallest` bytes each."""
        at = self.position
        (count,) = self.take("<Q", what)
        if count * smallest > self.left:
            raise self.damaged(at, f"{what} is {count:,}, more than fit in the {self.left:,} bytes that follow")
        return count


def _record(reader: _Reader) -> NDArray[Any]:
    start = reader.position
    (magic,) = reader.take("<I", "its first number")
    scalar_allowed = magic == V3_MAGIC
    if magic in (V2_MAGIC, V3_MAGIC):
        (storage,) = reader.take("<i", "its storage type")
        if storage != 0:
            name = STORAGE.get(storage, f"number {storage}")
            raise reader.damaged(start, f"its storage type is {name}, where only dense arrays can be read")
    if magic in (V1_MAGIC, V2_MAGIC, V3_MAGIC):
        at = reader.position
        (dimensions,) = reader.take("<i", "its number of dimensions")
        size = "q"
    else:
        at, dimensions, size = start, magic, "I"
    if not 0 <= dimensions <= MAX_DIMENSIONS:
        expected = f"a number of dimensions from 0 to {MAX_DIMENSIONS}" + (" or a known format" if at == start else "")
        raise reader.damaged(at, f"{dimensions:#x} stands for {expected}")
    if dimensions == 0 and not scalar_allowed:
        raise reader.damaged(at, "it has no shape: it was never given a value")
    at = reader.position
    shape = reader.take(f"<{dimensions}{size}", "its shape")
    if any(extent < 1 for extent in shape):
        raise reader.damaged(at, f"its shape is {list(shape)}, with a side shorter than 1")
    reader.take("<ii", "its device")
    at = reader.position
    (kind,) = reader.take("<i", "its element type")
    if kind not in DTYPES:
        known = ", ".join(str(np.dtype(name)) for name in DTYPES.values())
        raise reader.damaged(at, f"its element type is number {kind}, not one of {known}")
    dtype = np.dtype(DTYPES[kind])
    elements = reader.bytes(math.prod(shape) * dtype.itemsize, f"{dtype} of shape {list(shape)}")
    return np.frombuffer(elements, dtype).reshape(shape)


def _name(reader: _Reader, known: Arrays) -> str:
    at = reader.position
    length = reader.count("its length", 1)
    try:
        name = str(reader.bytes(length, "its text"), "utf-8")
    except UnicodeDecodeError as error:
        raise reader.damaged(at, f"it is not UTF-8 ({error.reason})") from error
    if name in known:
        raise reader.damaged(at, f"{name!r} names an earlier array too")
    return name
