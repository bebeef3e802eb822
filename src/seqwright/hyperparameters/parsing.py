"""Reading hyperparameters as users, containers and tuners write them, and saying what a field takes instead."""

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from types import NoneType
from typing import cast, get_args

from annotated_types import Ge, Gt, Le, Lt, Predicate
from pydantic.fields import FieldInfo

from seqwright.errors import ClientError

TUNING_OBJECTIVE = "_tuning_objective_metric"
"""The setting in which the platform's tuner names the metric that it optimises."""

_WORDS_FOR_NONE = ("", "none", "null")
_MOST_DIGITS = 4000
"""Python refuses to convert between text and integers with more digits than some 4,300, as that takes long."""


def parse_assignments(assignments: Sequence[str]) -> dict[str, str]:
    """Read a command line's `name=value` arguments; the values stay strings, for `Hyperparameters.parse`.

    Raises:
        ClientError: An argument has no name or no `=`, or a name comes twice.
    """
    values: dict[str, str] = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        name = name.strip()
        if not equals or not name:
            raise ClientError(f"hyperparameter {assignment!r}: write it as name=value, such as batch_size=64")
        if name in values:
            raise ClientError(f"hyperparameter {name}: given twice; keep one")
        values[name] = value
    return values


def with_tuning_objective(values: Mapping[str, object]) -> dict[str, object]:
    """The hyperparameters of a container's job, with BLEU computed where the platform's tuner optimises it.

    A tuner that optimises `validation:bleu` says so in `_tuning_objective_metric`. By default `bleu_sample_size` is 0
    and there is no such metric, so it becomes -1, which translates all validation pairs.

    Args:
        values: hyperparameters and the platform's own settings by name, as text.

    Returns:
        All of `values`, with another `bleu_sample_size` where it was absent or 0 and the tuner optimises BLEU.
    """
    chosen = dict(values)
    objective, sample_size = (_unquoted(chosen.get(name)) for name in (TUNING_OBJECTIVE, "bleu_sample_size"))
    is_zero = sample_size is None or sample_size == 0 or (isinstance(sample_size, str) and _number(sample_size) == 0)
    if objective == "validation:bleu" and is_zero:
        chosen["bleu_sample_size"] = "-1"
    return chosen


def read_value(field: FieldInfo, value: object) -> object:
    """Turn a text into the type of a field, and a float without a fraction into an integer where that is the type.

    Texts may be quoted as JSON, once more than the file that they come from, as the platform's toolkit does. What does
    not fit the field is returned as it is, for validation to refuse it.
    """
    kind, optional = kind_of(field)
    value = _unquoted(value)
    if isinstance(value, str):
        if optional and value.lower() in _WORDS_FOR_NONE:
            return None
        if kind is bool:
            return {"true": True, "false": False}.get(value.lower(), value)
        if kind is not str:
            value = _number(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _unquoted(value: object) -> object:
    """A text without white space around it and without the quotes of JSON; anything else as it is."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text.startswith('"'):
        with suppress(ValueError):
            quoted = json.loads(text)
            return quoted.strip() if isinstance(quoted, str) else value
    return text


def _number(text: str) -> int | float | str:
    """The number that a text spells, or the text itself."""
    if len(text) > _MOST_DIGITS and re.fullmatch(r"[+-]?\d+", text):
        vast: int = 10**_MOST_DIGITS  # beyond any bound, as the number in the text is
        return -vast if text.startswith("-") else vast
    for read in (int, float):
        with suppress(ValueError):
            return read(text)
    return text


def kind_of(field: FieldInfo) -> tuple[type, bool]:
    """A field's plain type (`str` for choices), and whether None is one of its values."""
    members = get_args(field.annotation)
    if members and isinstance(members[0], str):
        return str, False
    optional = NoneType in members
    return cast(type, members[0] if optional else field.annotation), optional


def type_and_range(field: FieldInfo) -> tuple[str, str]:
    """The name of a field's type, and its valid values in words."""
    kind, optional = kind_of(field)
    if kind is bool:
        return "bool", "true, false"
    if kind is str:
        return "str", ", ".join(get_args(field.annotation))
    parts = []
    for rule in field.metadata:
        match rule:
            case Ge(bound):
                parts.append(f">= {bound}")
            case Gt(bound):
                parts.append(f"> {bound}")
            case Le(bound):
                parts.append(f"<= {bound}")
            case Lt(bound):
                parts.append(f"< {bound}")
            case Predicate(test):
                parts.append(test.__name__.strip("_").replace("_", " "))
    return kind.__name__, (" and ".join(parts) or "any finite number") + (", or none" if optional else "")


def unknown_name(name: str, known: Iterable[str]) -> str:
    """What to say of a name that is none of those that are known: the nearest of them, or where they are listed."""
    near = difflib.get_close_matches(name.lower().replace("-", "_"), known, n=1)
    return f"{name}: unknown; " + (
        f"did you mean {near[0]}?" if near else "`seqwright hyperparameters` lists the names"
    )
