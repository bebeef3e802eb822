"""Framed records by another way than the project's: the protobuf library's messages from a description of our own."""

import struct
from collections.abc import Sequence
from typing import Any

from tests.data.originals import OriginalRecord as Record
from tests.data.originals import frame as framed

__all__ = ["Record", "framed", "parsed", "record", "targets"]


def record(ids: Sequence[int], configuration: str | None = None) -> bytes:
    """A request of one instance."""
    message = Record()
    message.features["source"].int32_tensor.values.extend(ids)
    if configuration is not None:
        message.configuration = configuration
    return framed(message.SerializeToString())


def parsed(body: bytes) -> list[Any]:
    """The records of a response."""
    records = []
    while body:
        magic, length = struct.unpack("<II", body[:8])
        assert magic == 0xCED7230A
        records.append(Record.FromString(body[8 : 8 + length]))
        body = body[8 + length + -length % 4 :]
    return records


def targets(body: bytes) -> list[list[int]]:
    """The target ids of a response."""
    return [list(each.features["target"].int32_tensor.values) for each in parsed(body)]
