"""Framed records by another way than the project's: the protobuf library's messages from a description made here."""

import struct
from collections.abc import Sequence
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_FIELD = descriptor_pb2.FieldDescriptorProto


def _field(message: Any, name: str, number: int, kind: int, *, many: bool = False, of: str | None = None) -> Any:
    label = _FIELD.LABEL_REPEATED if many else _FIELD.LABEL_OPTIONAL
    return message.field.add(name=name, number=number, type=kind, label=label, type_name=of)


def _record_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="aialgs.proto", package="aialgs.data", syntax="proto2")
    for name, kind in (("Float32Tensor", _FIELD.TYPE_FLOAT), ("Int32Tensor", _FIELD.TYPE_INT32)):
        tensor = file.message_type.add(name=name)
        _field(tensor, "values", 1, kind, many=True).options.packed = True
        _field(tensor, "shape", 3, _FIELD.TYPE_UINT64, many=True).options.packed = True
    value = file.message_type.add(name="Value")
    value.oneof_decl.add(name="value")
    for name, number in (("float32_tensor", 2), ("int32_tensor", 7)):
        of = ".aialgs.data." + name.title().replace("_", "")
        _field(value, name, number, _FIELD.TYPE_MESSAGE, of=of).oneof_index = 0
    record = file.message_type.add(name="Record")
    entry = record.nested_type.add(name="FeaturesEntry")
    entry.options.map_entry = True
    _field(entry, "key", 1, _FIELD.TYPE_STRING)
    _field(entry, "value", 2, _FIELD.TYPE_MESSAGE, of=".aialgs.data.Value")
    _field(record, "features", 1, _FIELD.TYPE_MESSAGE, many=True, of=".aialgs.data.Record.FeaturesEntry")
    _field(record, "metadata", 4, _FIELD.TYPE_STRING)
    _field(record, "configuration", 5, _FIELD.TYPE_STRING)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("aialgs.data.Record"))


Record = _record_class()


def framed(payload: bytes) -> bytes:
    """A RecordIO frame."""
    return struct.pack("<II", 0xCED7230A, len(payload)) + payload + b"\0" * (-len(payload) % 4)


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
