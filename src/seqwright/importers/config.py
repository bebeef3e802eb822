"""Sockeye's `config`: YAML whose tags name Python classes, read as data.

A mapping tagged `!RNNConfig` becomes a [`Section`][] that keeps the name of the tag. No class is looked up, and no code
of the file runs.
"""

import reprlib
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass
from typing import cast

import yaml

from seqwright.errors import ClientError

LIMIT = 1 << 31
MAX_NUMBER_LENGTH = 100
"""Characters of a number; PyYAML takes quadratic time for the longest ones in base 60, `1:1:1:…`."""
TUPLE_TAG = "tag:yaml.org,2002:python/tuple"
KINDS = frozenset(
    {
        "AttentionConfig",
        "BucketBatchSize",
        "ConvolutionConfig",
        "ConvolutionalDecoderConfig",
        "ConvolutionalEmbeddingConfig",
        "ConvolutionalEncoderConfig",
        "CoverageConfig",
        "DataConfig",
        "DataInfo",
        "DataStatistics",
        "EmbeddingConfig",
        "EmptyEncoderConfig",
        "FactorConfig",
        "LengthRatioConfig",
        "LengthStatistics",
        "LossConfig",
        "ModelConfig",
        "PassThroughEmbeddingConfig",
        "RNNConfig",
        "RecurrentDecoderConfig",
        "RecurrentEncoderConfig",
        "TransformerConfig",
    }
)
"""The tags that Sockeye 1 writes, without their `!`."""


@dataclass(frozen=True, eq=False)
class Section:
    """A mapping of the configuration, with typed access to its values.

    Attributes:
        kind: its tag without `!`; empty for a plain mapping.
        values: values by name: numbers, texts, lists, further sections.
        path: where it is in the file, for messages: `file: `, or `file: name.name.`.

    Every accessor treats a null like an absent value. It raises `ClientError` with the path of the value if the value
    has another type than the accessor's, or is absent and has no default.
    """

    kind: str
    values: Mapping[str, object]
    path: str = ""

    def get(self, name: str) -> object:
        """The value, None if it is absent."""
        return self.values.get(name)

    def active(self, name: str) -> bool:
        """Whether the value is present and switches something on: it is not null, false, zero or empty."""
        return bool(self.get(name))

    def section(self, name: str) -> "Section":
        """The section of that name; an empty one if it is absent."""
        value = self.get(name)
        if value is None:
            return Section("", {}, f"{self.path}{name}.")
        if not isinstance(value, Section):
            raise self.wrong(name, "a mapping")
        return Section(value.kind, value.values, f"{self.path}{name}.")

    def integer(self, name: str, default: int | None = None) -> int:
        """A whole number, below `LIMIT` in size."""
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not -LIMIT < value < LIMIT:
            raise self.wrong(name, "a whole number of usual size")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A finite number, below `LIMIT` in size."""
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not -LIMIT < value < LIMIT:
            raise self.wrong(name, "a number of usual size")
        return float(value)

    def text(self, name: str, default: str | None = None) -> str:
        """A text."""
        value = self._value(name, default)
        if not isinstance(value, str):
            raise self.wrong(name, "a text")
        return value

    def flag(self, name: str) -> bool:
        """A boolean; false if it is absent."""
        value = self._value(name, False)
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return value

    def unknown(self, known: Collection[str]) -> list[str]:
        """Names that are not in `known` and whose values are active."""
        return sorted(name for name in self.values if name not in known and self.active(name))

    def wrong(self, name: str, expected: str) -> ClientError:
        """The error for a value that is not what is expected."""
        shown = "missing" if self.get(name) is None else f"{_shown(self.get(name))}, not {expected}"
        return ClientError(f"{self.path}{name} is {shown}")

    def _value(self, name: str, default: object) -> object:
        value = self.get(name)
        return default if value is None else value


def parse_config(content: bytes, origin: str) -> Section:
    """Read a configuration.

    Args:
        content: the file's bytes, YAML in UTF-8.
        origin: what to call the file in messages.

    Raises:
        ClientError: it is not YAML, has no mapping at its top, or has a tag that is not in `KINDS`, a merge key or a
            number of more than `MAX_NUMBER_LENGTH` characters.
    """
    try:
        document = yaml.load(content, _Loader)  # noqa: S506 - a SafeLoader that builds data alone
    except _UnknownTagError as error:
        raise ClientError(f"{origin}, {error}: not in a Sockeye 1 configuration; no code was run") from error
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        # PyYAML lets Python's own errors through where a scalar does not fit its tag.
        raise ClientError(f"{origin} is not a readable YAML file: {' '.join(str(error).split())}") from error
    if not isinstance(document, Section):
        raise ClientError(f"{origin} is not a Sockeye configuration: it has no mapping at its top")
    return Section(document.kind, document.values, f"{origin}: ")


class _UnknownTagError(Exception):
    """A tag that is not one of Sockeye's."""

    def __init__(self, node: yaml.Node) -> None:
        super().__init__(f"line {node.start_mark.line + 1}: the tag {node.tag.replace(_YAML, '!!')}")


_YAML = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, with sections for tagged mappings and lists for tuples, and without merge keys."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Refuse `<<`, which Sockeye never writes and which multiplies what it refers to."""
        for key, _ in node.value:
            if key.tag == f"{_YAML}merge":
                raise _UnknownTagError(key)


def _section(loader: _Loader, kind: str, node: yaml.Node) -> Section:
    if kind not in KINDS or not isinstance(node, yaml.MappingNode):
        raise _UnknownTagError(node)
    return _mapping(loader, node, kind)


def _mapping(loader: _Loader, node: yaml.Node, kind: str = "") -> Section:
    values: dict[Hashable, object] = loader.construct_mapping(cast(yaml.MappingNode, node), deep=True)
    return Section(kind, {str(name): value for name, value in values.items()})


def _sequence(loader: _Loader, node: yaml.Node) -> list[object]:
    if not isinstance(node, yaml.SequenceNode):
        raise _UnknownTagError(node)
    return cast(list[object], loader.construct_sequence(node, deep=True))


def _refuse(_: _Loader, node: yaml.Node) -> object:
    raise _UnknownTagError(node)


def _short_number(construct: Callable[[_Loader, yaml.ScalarNode], object]) -> Callable[[_Loader, yaml.Node], object]:
    """A constructor that refuses numbers of more than `MAX_NUMBER_LENGTH` characters."""

    def construct_short(loader: _Loader, node: yaml.Node) -> object:
        if len(node.value) > MAX_NUMBER_LENGTH:
            raise ValueError(f"line {node.start_mark.line + 1}: a number of {len(node.value):,} characters")
        return construct(loader, cast(yaml.ScalarNode, node))

    return construct_short


_Loader.add_constructor(f"{_YAML}int", _short_number(yaml.SafeLoader.construct_yaml_int))
_Loader.add_constructor(f"{_YAML}float", _short_number(yaml.SafeLoader.construct_yaml_float))
_Loader.add_multi_constructor("!", _section)
_Loader.add_constructor(f"{_YAML}map", _mapping)
_Loader.add_constructor(TUPLE_TAG, _sequence)
_Loader.add_constructor(None, _refuse)


def _shown(value: object) -> str:
    return f"a {value.kind or 'mapping'}" if isinstance(value, Section) else reprlib.repr(value)[:60]
