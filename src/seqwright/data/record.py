"""The protobuf message `Record`: an example of training data, or a request or answer of the endpoint.

In the notation of protobuf, where only the numbers and types matter to the bytes:

    message Float32Tensor { repeated float values = 1 [packed]; repeated uint64 keys = 2 [packed], shape = 3 [packed]; }
    message Float64Tensor { the same of double }
    message Int32Tensor   { the same of int32 }
    message Bytes         { repeated bytes value = 1; optional string content_type = 2; }
    message Value         { oneof value { Float32Tensor float32_tensor = 2; Float64Tensor float64_tensor = 3;
                                          Int32Tensor int32_tensor = 7; Bytes bytes = 9; } }
    message Record        { map<string, Value> features = 1, label = 2;
                            optional string uid = 3, metadata = 4, configuration = 5; }

The description is built here and not generated: what a protobuf compiler generates runs under few versions of the
library, and the platform's SDK and the original's scripts need older ones than the newest. It lives in a pool of its
own, so that a program may import this module and the SDK's `record_pb2`, which has the same names, together.
"""

from collections.abc import MutableMapping, MutableSequence
from typing import Protocol, cast

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

_PACKAGE = "aialgs.data"
_Field = descriptor_pb2.FieldDescriptorProto


class Int32Tensor(Protocol):
    """The ids of a feature."""

    values: MutableSequence[int]


class Value(Protocol):
    """The value of a feature: a tensor or bytes."""

    int32_tensor: Int32Tensor

    def WhichOneof(self, oneof_group: str) -> str | None:  # noqa: N802 - the protobuf library's name
        """The name of the field that is set, None where none is."""


class Record(Protocol):
    """The message, as far as this project uses it."""

    features: MutableMapping[str, Value]
    metadata: str
    configuration: str

    def SerializeToString(self, *, deterministic: bool = ...) -> bytes:  # noqa: N802 - the protobuf library's name
        """The bytes of the message."""


def new_record() -> Record:
    """An empty record."""
    return cast(Record, _RECORD())


def parse_record(payload: bytes) -> Record:
    """Decode a record.

    Raises:
        google.protobuf.message.DecodeError: the payload is not a `Record` message.
    """
    return cast(Record, _RECORD.FromString(payload))


def _describe() -> descriptor_pb2.FileDescriptorProto:
    """The description of all messages."""
    file = descriptor_pb2.FileDescriptorProto(name="record.proto", package=_PACKAGE, syntax="proto2")
    for name, element_type in (
        ("Float32Tensor", _Field.TYPE_FLOAT),
        ("Float64Tensor", _Field.TYPE_DOUBLE),
        ("Int32Tensor", _Field.TYPE_INT32),
    ):
        tensor = file.message_type.add(name=name)
        for number, field, kind in (
            (1, "values", element_type),
            (2, "keys", _Field.TYPE_UINT64),
            (3, "shape", _Field.TYPE_UINT64),
        ):
            repeated = tensor.field.add(name=field, number=number, type=kind, label=_Field.LABEL_REPEATED)
            repeated.options.packed = True
    blob = file.message_type.add(name="Bytes")
    blob.field.add(name="value", number=1, type=_Field.TYPE_BYTES, label=_Field.LABEL_REPEATED)
    _add_string(blob, "content_type", 2)
    value = file.message_type.add(name="Value")
    value.oneof_decl.add(name="value")
    for number, field, message in (
        (2, "float32_tensor", "Float32Tensor"),
        (3, "float64_tensor", "Float64Tensor"),
        (7, "int32_tensor", "Int32Tensor"),
        (9, "bytes", "Bytes"),
    ):
        _add_message(value, field, number, message, _Field.LABEL_OPTIONAL).oneof_index = 0
    record = file.message_type.add(name="Record")
    for number, field in ((1, "features"), (2, "label")):
        entry = record.nested_type.add(name=f"{field.capitalize()}Entry")
        entry.options.map_entry = True
        _add_string(entry, "key", 1)
        _add_message(entry, "value", 2, "Value", _Field.LABEL_OPTIONAL)
        _add_message(record, field, number, f"Record.{entry.name}", _Field.LABEL_REPEATED)
    for number, field in ((3, "uid"), (4, "metadata"), (5, "configuration")):
        _add_string(record, field, number)
    return file


def _add_string(message: descriptor_pb2.DescriptorProto, name: str, number: int) -> None:
    message.field.add(name=name, number=number, type=_Field.TYPE_STRING, label=_Field.LABEL_OPTIONAL)


def _add_message(
    message: descriptor_pb2.DescriptorProto, name: str, number: int, kind: str, label: _Field.Label.ValueType
) -> descriptor_pb2.FieldDescriptorProto:
    return message.field.add(
        name=name, number=number, type=_Field.TYPE_MESSAGE, label=label, type_name=f".{_PACKAGE}.{kind}"
    )


def _build_class() -> type[Message]:
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(_describe().SerializeToString())
    descriptor = pool.FindMessageTypeByName(f"{_PACKAGE}.Record")
    if hasattr(message_factory, "GetMessageClass"):  # from protobuf 4.22 on
        return message_factory.GetMessageClass(descriptor)
    return message_factory.MessageFactory(pool).GetPrototype(descriptor)  # type: ignore[attr-defined, no-any-return]


_RECORD = _build_class()
