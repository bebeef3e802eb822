"""The original's `Record` message under its own name, and frames written field by field: the tests' second opinion."""

import struct
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_TYPES = descriptor_pb2.FieldDescriptorProto


def _make_record() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="record.proto", package="aialgs.data", syntax="proto2")
    for name, kind in (("Float32Tensor", _TYPES.TYPE_FLOAT), ("Int32Tensor", _TYPES.TYPE_INT32)):
        tensor = file.message_type.add(name=name)
        for number, (field, field_kind) in enumerate(
            (("values", kind), ("keys", _TYPES.TYPE_UINT64), ("shape", _TYPES.TYPE_UINT64)), start=1
        ):
            added = tensor.field.add(name=field, number=number, type=field_kind, label=_TYPES.LABEL_REPEATED)
            added.options.packed = True
    value = file.message_type.add(name="Value")
    value.oneof_decl.add(name="value")
    for number, field in ((2, "float32_tensor"), (7, "int32_tensor")):
        kind_name = f".aialgs.data.{'Float32Tensor' if number == 2 else 'Int32Tensor'}"
        value.field.add(
            name=field, number=number, type=_TYPES.TYPE_MESSAGE, type_name=kind_name, label=1, oneof_index=0
        )
    record = file.message_type.add(name="Record")
    for number, field in ((1, "features"), (2, "label")):
        entry = record.nested_type.add(name=f"{field.capitalize()}Entry")
        entry.options.map_entry = True
        entry.field.add(name="key", number=1, type=_TYPES.TYPE_STRING, label=1)
        entry.field.add(name="value", number=2, type=_TYPES.TYPE_MESSAGE, type_name=".aialgs.data.Value", label=1)
        record.field.add(
            name=field, number=number, type=_TYPES.TYPE_MESSAGE, label=3, type_name=f".aialgs.data.Record.{entry.name}"
        )
    for number, field in ((3, "uid"), (4, "metadata"), (5, "configuration")):
        record.field.add(name=field, number=number, type=_TYPES.TYPE_STRING, label=1)
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("aialgs.data.Record"))


OriginalRecord = _make_record()
"""What a program of the original's users has in the same process."""


def pair(source: list[int], target: list[int]) -> bytes:
    """The payload that the original's script makes of a pair."""
    record = OriginalRecord()
    record.features["source"].int32_tensor.values.extend(source)
    record.features["target"].int32_tensor.values.extend(target)
    return bytes(record.SerializeToString(deterministic=True))


def frame(payload: bytes) -> bytes:
    """A RecordIO frame."""
    return struct.pack("<II", 0xCED7230A, len(payload)) + payload + bytes(-len(payload) % 4)


def field(tag: int, content: bytes) -> bytes:
    """A length-delimited protobuf field."""
    return varint(tag << 3 | 2) + varint(len(content)) + content


def varint(value: int, extra: int = 0) -> bytes:
    """A varint, with `extra` bytes that it does not need."""
    value &= (1 << 64) - 1
    groups = []
    while value >= 0x80:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    if extra:
        return bytes([*groups, value | 0x80, *[0x80] * (extra - 1), 0])
    return bytes([*groups, value])
