"""The hyperparameters as text: Markdown for `docs/hyperparameters.md`, and a list for the terminal."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from rich.padding import Padding
from rich.text import Text

from seqwright.errors import ClientError
from seqwright.hyperparameters.fields import Hyperparameters
from seqwright.hyperparameters.parsing import type_and_range, unknown_name

_INTRODUCTION = """\
# Hyperparameters

Give any of these to `seqwright train -H name=value`, in a JSON file, or as the container's hyperparameters.
The rest keep their defaults. `seqwright hyperparameters` prints this list, `seqwright hyperparameters NAME` one entry.

"""
_TABLE_HEAD = "| Name | Type | Default | Valid values | Tuning range | Meaning |\n|---|---|---|---|---|---|\n"


def documentation_page() -> str:
    """The text of `docs/hyperparameters.md`: a Markdown section for each group, a table row for each hyperparameter."""
    sections = (f"## {group}\n\n{_TABLE_HEAD}{''.join(map(_row, names))}" for group, names in _groups())
    return _INTRODUCTION + "\n".join(sections)


def terminal_list() -> Iterator[Text | Padding]:
    """All hyperparameters for a terminal, by group, as renderables of rich."""
    for group, names in _groups():
        yield Text(f"\n{group}", style="bold underline")
        for name in names:
            yield from terminal_entry(name)


def terminal_entry(name: str) -> Iterator[Text | Padding]:
    """One hyperparameter for a terminal, as renderables of rich.

    Raises:
        ClientError: there is no hyperparameter of this name.
    """
    if name not in Hyperparameters.model_fields:
        raise ClientError(f"hyperparameter {unknown_name(name, Hyperparameters.model_fields)}")
    kind, valid, default, tuning, meaning = _columns(name)
    yield Text.assemble((name, "bold"), f" = {default}")
    facts = f"{kind}: {valid}" + (f"; tuning range: {tuning}" if tuning else "")
    for line in (meaning, facts):
        yield Padding(Text(line), (0, 0, 0, 4), expand=False)


def _groups() -> Iterator[tuple[str, list[str]]]:
    """The groups in the order of their fields, each with the names of its hyperparameters."""
    for group, names in itertools.groupby(
        Hyperparameters.model_fields, lambda name: Hyperparameters.traits(name)["group"]
    ):
        yield group, list(names)


def _row(name: str) -> str:
    kind, valid, default, tuning, meaning = _columns(name)
    return f"| `{name}` | {kind} | {default} | {valid} | {tuning} | {meaning} |\n"


def _columns(name: str) -> tuple[str, str, str, str, str]:
    """The type, valid values, default, tuning range and meaning of a hyperparameter, in words."""
    field = Hyperparameters.model_fields[name]
    kind, valid = type_and_range(field)
    return (
        kind,
        valid,
        _typed(field.default),
        _tuning(Hyperparameters.traits(name).get("tunable")),
        str(field.description),
    )


def _typed(value: object) -> str:
    """A value as a user would type it."""
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def _tuning(tunable: Mapping[str, Any] | None) -> str:
    """A tuning range in words, with each case of one that depends on another hyperparameter."""
    match tunable:
        case None:
            return ""
        case {"cases": cases}:
            return "; ".join(f"{_tuning(cases[value])} for {value}" for value in sorted(cases))
        case {"values": values}:
            return ", ".join(map(str, values))
    return f"{tunable['min']} to {tunable['max']}"
