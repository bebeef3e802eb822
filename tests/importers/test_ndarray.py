"""NDArray list files, written here byte by byte from the format's description."""

import contextlib
import struct
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from seqwright.errors import ClientError
from seqwright.importers.ndarray import Arrays, parse_ndarrays

KINDS = {"float32": 0, "float64": 1, "float16": 2, "uint8": 3, "int32": 4, "int8": 5, "int64": 6}
Array = NDArray[np.generic]


def body(array: Array) -> bytes:
    return struct.pack("<iii", 1, 0, KINDS[str(array.dtype)]) + array.tobytes()


def legacy(array: Array) -> bytes:
    return struct.pack(f"<I{array.ndim}I", array.ndim, *array.shape) + body(array)


def version_1(array: Array) -> bytes:
    return struct.pack(f"<Ii{array.ndim}q", 0xF993FAC8, array.ndim, *array.shape) + body(array)


def version_2(array: Array, magic: int = 0xF993FAC9, storage: int = 0) -> bytes:
    return struct.pack(f"<Iii{array.ndim}q", magic, storage, array.ndim, *array.shape) + body(array)


def version_3(array: Array) -> bytes:
    return version_2(array, 0xF993FACA)


WRITERS = [legacy, version_1, version_2, version_3]


def listed(records: list[bytes], names: list[bytes]) -> bytes:
    texts = [struct.pack("<Q", len(name)) + name for name in names]
    head = struct.pack("<QQQ", 0x112, 0, len(records))
    return b"".join([head, *records, struct.pack("<Q", len(names)), *texts])


def sample(kind: str = "float32") -> Array:
    return np.arange(6).reshape(2, 3).astype(kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("write", WRITERS)
def test_every_format_and_type_is_read(write: Callable[[Array], bytes], kind: str) -> None:
    array = sample(kind)
    arrays = parse_ndarrays(listed([write(array), write(array[0])], [b"arg:a", "arg:größe".encode()]), "params")
    assert list(arrays) == ["arg:a", "arg:größe"]
    np.testing.assert_array_equal(arrays["arg:a"], array)
    np.testing.assert_array_equal(arrays["arg:größe"], array[0])
    assert arrays["arg:a"].dtype == np.dtype(kind)


def test_a_file_with_several_formats_is_read() -> None:
    arrays = parse_ndarrays(listed([write(sample()) for write in WRITERS], [b"0", b"1", b"2", b"3"]), "params")
    assert all(np.array_equal(array, sample()) for array in arrays.values())


def test_a_numpy_scalar_is_read() -> None:
    assert parse_ndarrays(listed([version_3(np.array(2.5, np.float32))], [b"a"]), "params")["a"] == 2.5


def test_an_empty_list_is_read() -> None:
    assert parse_ndarrays(listed([], []), "params") == {}


GOOD = version_2(sample())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"params is damaged \(byte 0\): the file's header takes 16 bytes, but the file ends after 0"),
        (b"\x80\x02}q\x00." + bytes(20), "params is not an MXNet parameter file: it starts with"),
        (struct.pack("<QQQ", 0x112, 0, 1 << 60), r"\(byte 16\): the number of arrays is 1,152,921,504,606,846,976"),
        (listed([version_2(sample(), storage=1)], [b"a"]), r"array 1 at byte 24\): its storage type is row_sparse"),
        (listed([version_2(sample(), storage=2)], [b"a"]), "its storage type is csr"),
        (listed([version_2(sample(), storage=-1)], [b"a"]), "its storage type is number -1"),
        (listed([GOOD, b"\xff\xff\xff\xff"], [b"a", b"b"]), r"array 2 at byte 88\): 0xffffffff stands for a number of"),
        (listed([struct.pack("<Iii", 0xF993FAC9, 0, 99)], [b"a"]), r"\(array 1 at byte 32\): 0x63 stands for"),
        (listed([version_2(np.array(1.0, np.float32))], [b"a"]), "it has no shape: it was never given a value"),
        (listed([struct.pack("<Iiiq", 0xF993FAC9, 0, 1, 0) + bytes(12)], [b"a"]), r"its shape is \[0\]"),
        (listed([struct.pack("<Iiiq", 0xF993FAC9, 0, 1, -5) + bytes(12)], [b"a"]), r"its shape is \[-5\]"),
        (
            listed([struct.pack("<Iii2qiii", 0xF993FAC9, 0, 2, 1 << 62, 1 << 62, 1, 0, 0)], [b"a"]),
            r"float32 of shape \[4611686018427387904, 4611686018427387904\] takes",
        ),
        (listed([struct.pack("<Iiiqiii", 0xF993FAC9, 0, 1, 1, 1, 0, 7)], [b"a"]), "its element type is number 7, not"),
        (listed([GOOD], []), r"\(byte 88\): 0 names for 1 arrays"),
        (listed([GOOD], [b"a", b"b"]), "2 names for 1 arrays"),
        (listed([GOOD, GOOD], [b"a", b"a"]), r"name 2 at byte 169\): 'a' names an earlier array too"),
        (listed([GOOD], [b"\xff"]), r"name 1 at byte 96\): it is not UTF-8"),
        (listed([GOOD], [b"a"]) + b"more", "4 bytes follow its end at byte 105"),
    ],
)
def test_damage_is_refused_with_array_and_byte(content: bytes, message: str) -> None:
    with pytest.raises(ClientError, match=message):
        parse_ndarrays(content, "params")


def test_a_file_cut_at_any_byte_is_refused() -> None:
    content = listed([write(sample()) for write in WRITERS], [b"one", b"two", b"three", b"four"])
    for end in range(len(content)):
        with pytest.raises(ClientError, match="params is"):
            parse_ndarrays(content[:end], "params")


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=4))
@settings(max_examples=500, deadline=None)
def test_changed_bytes_give_arrays_or_an_error(changes: list[tuple[int, int]]) -> None:
    content = bytearray(listed([write(sample()) for write in WRITERS], [b"one", b"two", b"three", b"four"]))
    for place, value in changes:
        content[place % len(content)] = value
    result: Arrays = {}
    with contextlib.suppress(ClientError):
        result = parse_ndarrays(bytes(content), "params")
    assert sum(array.nbytes for array in result.values()) <= len(content)


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_bytes_after_the_header_give_arrays_or_an_error(noise: bytes) -> None:
    with contextlib.suppress(ClientError):
        parse_ndarrays(struct.pack("<QQ", 0x112, 0) + noise, "params")
