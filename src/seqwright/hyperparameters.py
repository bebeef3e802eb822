"""Every hyperparameter, once: its name, type, default, range, choices, tuning range and meaning.

[`Hyperparameters`][] is the only place that states them. Validation errors, the JSON schema, a tuner's search
space and the page written by `python -m seqwright.hyperparameters > docs/hyperparameters.md` come out of it.
"""

import difflib
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from types import NoneType
from typing import Annotated, Any, Literal, Self, TypeVar, cast, get_args

from annotated_types import Ge, Gt, Le, Lt, Predicate
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, ValidationInfo
from pydantic.config import JsonDict
from pydantic.fields import FieldInfo
from pydantic.functional_validators import field_validator, model_validator

from seqwright.errors import ClientError

_T = TypeVar("_T")


def _field(default: _T, group: str, tunable: JsonDict | None = None) -> _T:
    """A pydantic field that carries its group, and its documented tuning range if there is one, as data."""
    extra: JsonDict = {"group": group, "tunable": tunable} if tunable else {"group": group}
    field: _T = Field(default, json_schema_extra=extra)
    return field


def _continuous(low: float, high: float) -> JsonDict:
    return {"type": "continuous", "min": low, "max": high}


def _integers(low: int, high: int) -> JsonDict:
    return {"type": "integer", "min": low, "max": high}


def _categories(*values: JsonValue) -> JsonDict:
    return {"type": "categorical", "values": list(values)}


def _by(name: str, **cases: JsonDict) -> JsonDict:
    """A tuning range that depends on the value of another hyperparameter."""
    return {"depends_on": name, "cases": cast(JsonDict, cases)}


def _even(number: int) -> bool:
    return number % 2 == 0


def _odd(number: int) -> bool:
    return number % 2 == 1


def _not_zero(number: int) -> bool:
    return number != 0


_Count = Annotated[int, Ge(1)]
_Probability = Annotated[float, Ge(0), Le(1)]
_Initializer = Literal["uniform", "xavier"]
_Optimizer = Literal["adam", "sgd", "rmsprop"]
_Schedule = Literal["plateau_reduce", "fixed_rate_inv_t", "fixed_rate_inv_sqrt_t"]


class Hyperparameters(BaseModel):
    """A complete, checked, immutable set of hyperparameters.

    Use [`parse`][seqwright.hyperparameters.Hyperparameters.parse] for values that come from a user: it raises
    `ClientError` with advice. The constructor takes the same values and raises pydantic's `ValidationError`.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    encoder_type: Literal["rnn", "cnn"] = _field("rnn", "architecture")
    """Network for the source: recurrent (Bahdanau et al., 2015) or convolutional (Gehring et al., 2017)."""
    decoder_type: Literal["rnn", "cnn"] = _field("rnn", "architecture")
    """Network for the target; either kind works with either encoder."""
    num_layers_encoder: _Count = _field(1, "architecture", _integers(1, 10))
    """Layers of the encoder."""
    num_layers_decoder: _Count = _field(1, "architecture", _integers(1, 10))
    """Layers of the decoder."""
    num_embed_source: _Count = _field(512, "architecture", _integers(256, 512))
    """Width of a source token's embedding."""
    num_embed_target: _Count = _field(512, "architecture", _integers(256, 512))
    """Width of a target token's embedding."""
    embed_dropout_source: _Probability = _field(0.0, "architecture", _continuous(0, 0.5))
    """Dropout probability of source embeddings."""
    embed_dropout_target: _Probability = _field(0.0, "architecture", _continuous(0, 0.5))
    """Dropout probability of target embeddings."""

    rnn_cell_type: Literal["lstm", "gru"] = _field("lstm", "rnn")
    """Recurrent cell of encoder and decoder."""
    rnn_num_hidden: Annotated[int, Ge(2), Predicate(_even)] = _field(
        1024, "rnn", _categories(128, 256, 512, 1024, 2048)
    )
    """Width of a recurrent layer. Even: each direction of the first encoder layer has half."""
    rnn_residual_connections: bool = _field(False, "rnn")
    """Add a layer's input to its output, from rnn_first_residual_layer upwards."""
    rnn_first_residual_layer: Annotated[int, Ge(2)] = _field(2, "rnn")
    """Lowest layer, counted from 1, that gets a residual connection."""
    rnn_decoder_state_init: Literal["last", "avg", "zero"] = _field("last", "rnn")
    """Where the decoder starts: from the encoder's final state, its mean state, or zeros."""
    rnn_decoder_hidden_dropout: _Probability = _field(0.0, "rnn", _continuous(0, 0.5))
    """Dropout probability of the state that combines decoder output and attention context."""
    rnn_attention_type: Literal["dot", "fixed", "mlp", "bilinear"] = _field("mlp", "rnn")
    """How attention scores a source position; fixed always looks at the encoder's final state."""
    rnn_attention_num_hidden: Annotated[int | None, Ge(1)] = _field(None, "rnn")
    """Width of the attention network; none means the same as rnn_num_hidden."""
    rnn_attention_in_upper_layers: bool = _field(True, "rnn")
    """Give the attention context to the decoder's upper layers too (Wu et al., 2016)."""

    cnn_num_hidden: _Count = _field(512, "cnn", _categories(128, 256, 512, 1024, 2048))
    """Width of a convolution layer."""
    cnn_kernel_width_encoder: Annotated[int, Ge(1), Predicate(_odd)] = _field(3, "cnn")
    """Source positions that one encoder convolution sees; odd, so that one is in the middle."""
    cnn_kernel_width_decoder: _Count = _field(5, "cnn")
    """Target positions that one decoder convolution sees, none of them in the future."""
    cnn_activation_type: Literal["glu", "relu", "softrelu", "sigmoid", "tanh"] = _field("glu", "cnn")
    """Nonlinearity after each convolution."""
    cnn_hidden_dropout: _Probability = _field(0.0, "cnn", _continuous(0, 0.5))
    """Dropout probability between convolution layers."""

    weight_init_type: _Initializer = _field("xavier", "initialization", _categories(*get_args(_Initializer)))
    """Distribution that initial weights are drawn from."""
    # The documented range for uniform begins below the least valid value; it is recorded as documented.
    weight_init_scale: Annotated[float, Ge(0)] = _field(
        2.34, "initialization", _by("weight_init_type", xavier=_continuous(2, 3), uniform=_continuous(-1, 1))
    )
    """Magnitude of the initial weights."""
    xavier_factor_type: Literal["in", "out", "avg"] = _field("in", "initialization")
    """What xavier scales by: a matrix's inputs, its outputs, or the mean of both."""

    max_seq_len_source: _Count = _field(100, "data")
    """Tokens kept of a source sequence; the rest is cut off."""
    max_seq_len_target: _Count = _field(100, "data")
    """Tokens kept of a target sequence; the rest is cut off."""
    bucketing_enabled: bool = _field(True, "data")
    """Batch sequences of like lengths together; false pads every batch to the maximum lengths."""
    bucket_width: _Count = _field(10, "data")
    """Step between buckets on the longer side; the mean length ratio gives the shorter side's step."""
    batch_size: _Count = _field(64, "data", _categories(16, 32, 64, 128, 256, 512, 1024, 2048))
    """Sentence pairs in one update, summed over all devices."""

    loss_type: Literal["cross-entropy"] = _field("cross-entropy", "training")
    """Quantity that training minimises."""
    training_metric: Literal["perplexity", "accuracy"] = _field("perplexity", "training")
    """Metric reported on the training data."""
    max_num_epochs: Annotated[int | None, Ge(1)] = _field(None, "training")
    """Most passes over the data; when given, a metric that stalls does not end training earlier."""
    max_num_batches: Annotated[int, Ge(-1), Predicate(_not_zero)] = _field(-1, "training")
    """Most updates; -1 sets no bound."""

    optimizer_type: _Optimizer = _field("adam", "optimizer", _categories(*get_args(_Optimizer)))
    """Rule that turns gradients into updates."""
    learning_rate: Annotated[float, Gt(0)] = _field(0.0003, "optimizer", _continuous(0.00005, 0.2))
    """Learning rate that the schedule starts from."""
    momentum: Annotated[float | None, Ge(0), Le(1)] = _field(None, "optimizer", _continuous(0.5, 0.9))
    """Momentum of sgd; the other optimizers take none."""
    weight_decay: Annotated[float, Ge(0)] = _field(0.0, "optimizer", _continuous(0, 0.1))
    """Strength of the pull of every weight towards zero."""
    clip_gradient: float = _field(1.0, "optimizer", _continuous(1, 5))
    """Bound on each gradient element's absolute value; a negative one switches clipping off."""

    lr_scheduler_type: _Schedule = _field("plateau_reduce", "schedule", _categories(*get_args(_Schedule)))
    """How the learning rate falls: when the metric stalls, with 1/t, or with 1/sqrt(t)."""
    plateau_reduce_lr_factor: Annotated[float, Gt(0), Lt(1)] = _field(0.5, "schedule", _continuous(0.1, 0.5))
    """What plateau_reduce multiplies the learning rate by."""
    plateau_reduce_lr_threshold: _Count = _field(3, "schedule", _integers(1, 5))
    """Checkpoints in a row without improvement that make plateau_reduce act."""
    fixed_rate_lr_half_life: _Count = _field(10, "schedule", _integers(10, 30))
    """Checkpoints after which a fixed_rate schedule has halved the learning rate."""

    checkpoint_frequency_num_batches: _Count = _field(1000, "stopping")
    """Updates between two checkpoints, each with an evaluation."""
    checkpoint_threshold: _Count = _field(3, "stopping")
    """Checkpoints in a row without improvement that end training."""
    optimized_metric: Literal["perplexity", "accuracy", "bleu"] = _field("perplexity", "stopping")
    """Validation metric that picks the best model and decides when to stop."""
    min_num_epochs: Annotated[int, Ge(0)] = _field(0, "stopping")
    """Epochs that early stopping cannot cut short; at most max_num_epochs."""
    bleu_sample_size: Annotated[int, Ge(-1)] = _field(0, "stopping")
    """Validation pairs translated for BLEU at a checkpoint: -1 all; 0 none, all for optimized_metric=bleu."""

    beam_size: _Count = _field(5, "inference")
    """Hypotheses that the search keeps, in BLEU evaluations and in service."""

    label_smoothing: Annotated[float, Ge(0), Lt(1)] = _field(0.0, "extensions", _continuous(0, 0.3))
    """Share of the training target spread evenly over the vocabulary (Szegedy et al., 2016); not in validation."""
    lr_cooldown_num_batches: Annotated[int, Ge(0)] = _field(0, "extensions")
    """Last updates before max_num_batches over which the learning rate falls linearly to 0 (Hu et al., 2024)."""

    @field_validator("*", mode="before")
    @classmethod
    def _read_text(cls, value: object, info: ValidationInfo) -> object:
        """Turn a container's or command line's strings into the field's type; leave what does not fit."""
        kind, optional = _kind(cls.model_fields[cast(str, info.field_name)])
        if isinstance(value, str):
            value = value.strip()
            if optional and value.lower() in ("", "none"):
                return None
            if kind is bool:
                return {"true": True, "false": False}.get(value.lower(), value)
            if kind is not str:
                value = _number(value)
        if kind is int and isinstance(value, float) and value.is_integer():
            return int(value)
        return value

    @model_validator(mode="after")
    def _agree(self, info: ValidationInfo) -> Self:
        refused: frozenset[str] = (info.context or {}).get("refused", frozenset())
        if problems := [text for names, text in self._conflicts() if refused.isdisjoint(names)]:
            raise ValueError("\n".join(problems))
        return self

    def _conflicts(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """Yield what valid values get wrong together: the hyperparameters concerned, and what to do."""
        if self.momentum is not None and self.optimizer_type != "sgd":
            problem = f"momentum: {self.optimizer_type} takes none; remove momentum or set optimizer_type=sgd"
            yield ("momentum", "optimizer_type"), problem
        if self.lr_cooldown_num_batches and self.lr_cooldown_num_batches > self.max_num_batches:
            problem = f"lr_cooldown_num_batches: {self.lr_cooldown_num_batches} is more than max_num_batches"
            advice = "set max_num_batches to where training ends"
            yield ("lr_cooldown_num_batches", "max_num_batches"), f"{problem}; {advice}"
        if self.max_num_epochs is not None and self.min_num_epochs > self.max_num_epochs:
            problem = f"min_num_epochs: {self.min_num_epochs} is more than max_num_epochs"
            advice = f"lower it to at most {self.max_num_epochs}, or raise max_num_epochs"
            yield ("min_num_epochs", "max_num_epochs"), f"{problem}; {advice}"

    @classmethod
    def parse(cls, values: Mapping[str, object]) -> Self:
        """Check values by name, as strings or as what they are; what is absent takes its default.

        Raises:
            ClientError: Names every problem, one to a line, each with what would be valid.
        """
        given = {str(name): value for name, value in values.items()}
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            problems = cls._explain(error, given)
            refused = frozenset(str(detail["loc"][0]) for detail in error.errors() if detail["loc"])
        if refused:
            # Pydantic checks how values agree only once each is valid alone; check it here for the others.
            try:
                others = {name: value for name, value in given.items() if name not in refused}
                cls.model_validate(others, context={"refused": refused})
            except ValidationError as error:
                problems += cls._explain(error, given)
        raise ClientError("\n".join(f"hyperparameter {problem}" for problem in problems))

    @classmethod
    def _explain(cls, error: ValidationError, given: Mapping[str, object]) -> list[str]:
        """Put pydantic's findings in this project's words, a line for each problem."""
        lines: list[str] = []
        for detail in error.errors():
            if not detail["loc"]:
                lines += str(detail["ctx"]["error"]).split("\n")
                continue
            name = str(detail["loc"][0])
            if name in cls.model_fields:
                kind, valid = _type_and_range(cls.model_fields[name])
                shown = reprlib.repr(given[name])
                lines.append(f"{name}: {shown} is not valid; valid values ({kind}): {valid}")
            else:
                near = difflib.get_close_matches(name.lower().replace("-", "_"), cls.model_fields, n=1)
                advice = f"did you mean {near[0]}?" if near else "docs/hyperparameters.md lists the names"
                lines.append(f"{name}: unknown; {advice}")
        return lines

    @property
    def attention_num_hidden(self) -> int:
        """Width of the attention network: its own if given, else that of the recurrent layers."""
        return self.rnn_attention_num_hidden or self.rnn_num_hidden

    def to_json_dict(self) -> dict[str, JsonValue]:
        """Every value by name, as plain JSON; `parse` reads it back to an equal object."""
        return self.model_dump(mode="json")

    @classmethod
    def documentation_table(cls) -> str:
        """Return a Markdown section for each group, with a table that has a row for each hyperparameter."""
        groups: dict[str, str] = {}
        for name, schema in cls.model_json_schema()["properties"].items():
            row = _row(name, cls.model_fields[name], schema.get("tunable"))
            groups[schema["group"]] = groups.get(schema["group"], _TABLE_HEAD) + row
        return "\n".join(f"## {group}\n\n{table}" for group, table in groups.items())


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


def documentation_page() -> str:
    """Return the text of `docs/hyperparameters.md`."""
    return _INTRODUCTION + Hyperparameters.documentation_table()


_TABLE_HEAD = "| Name | Type | Default | Valid values | Tuning range | Meaning |\n|---|---|---|---|---|---|\n"
_INTRODUCTION = """\
# Hyperparameters

Give any of these to `seqwright train -H name=value`, in a JSON file, or as the container's hyperparameters.
The rest keep their defaults.

"""


def _number(text: str) -> int | float | str:
    """Return the number that a text spells, or the text itself."""
    for read in (int, float):
        with suppress(ValueError):
            return read(text)
    return text


def _kind(field: FieldInfo) -> tuple[type, bool]:
    """Return a field's plain type (`str` for choices), and whether None is one of its values."""
    members = get_args(field.annotation)
    if members and isinstance(members[0], str):
        return str, False
    optional = NoneType in members
    return cast(type, members[0] if optional else field.annotation), optional


def _type_and_range(field: FieldInfo) -> tuple[str, str]:
    """Return the name of a field's type, and its range or choices in words."""
    kind, optional = _kind(field)
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


def _shown(value: object) -> str:
    """Write a value as a user would type it."""
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def _tuning(tunable: Mapping[str, Any] | None) -> str:
    """Write a tuning range in words, with each case of one that depends on another hyperparameter."""
    match tunable:
        case None:
            return ""
        case {"cases": cases}:
            return "; ".join(f"{_tuning(case)} for {value}" for value, case in cases.items())
        case {"values": values}:
            return ", ".join(map(str, values))
    return f"{tunable['min']} to {tunable['max']}"


def _row(name: str, field: FieldInfo, tunable: Mapping[str, Any] | None) -> str:
    kind, valid = _type_and_range(field)
    default, tuning = _shown(field.default), _tuning(tunable)
    return f"| `{name}` | {kind} | {default} | {valid} | {tuning} | {field.description} |\n"


if __name__ == "__main__":
    print(documentation_page(), end="")
