"""Every hyperparameter, once: all that the program knows about one stands on its field.

That is its name, type, default, range, choices and meaning, and the traits that `_field` lists. Error messages, the
JSON schema, a tuner's search space, `docs/hyperparameters.md`, and what a resumed or tuned model may change are read
from there.
"""

import math
import reprlib
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, NotRequired, Self, TypedDict, TypeVar, cast, get_args

from annotated_types import Ge, Gt, Le, Lt, Predicate
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ModelWrapValidatorHandler, ValidationError, ValidationInfo
from pydantic.config import JsonDict
from pydantic.functional_validators import field_validator, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from seqwright.errors import ClientError
from seqwright.hyperparameters.parsing import read_value, type_and_range, unknown_name

_T = TypeVar("_T")


class Traits(TypedDict):
    """What a field carries beside its type, default and range; part of the JSON schema.

    Attributes:
        group: the section of the documentation.
        maximum: the largest value that is accepted: more than anybody can mean, so that a slip of the keyboard is
            refused and does not fill the memory. The documentation gives the ranges of the original, which have none.
        tunable: the documented range for a tuner.
        network: the kind of encoder or decoder that reads it; None for every kind.
        fixes_shape: whether it shapes the parameters of the networks that read it, or decides what they mean, so that
            a trained model cannot change it; or the hyperparameters and values with which it does.
        may_change_on_resume: whether a run that goes on may set it anew: it bounds or watches training, but does not
            shape it.
    """

    group: str
    maximum: NotRequired[float]
    tunable: NotRequired[JsonDict]
    network: str | None
    fixes_shape: bool | dict[str, str]
    may_change_on_resume: bool


def _field(
    default: _T,
    group: str,
    tunable: JsonDict | None = None,
    *,
    maximum: float | None = None,
    network: str | None = None,
    fixes_shape: bool | dict[str, str] = False,
    may_change_on_resume: bool = False,
) -> _T:
    """A pydantic field that carries its traits; see `Traits` for the arguments."""
    traits: dict[str, object] = {
        "group": group,
        "network": network,
        "fixes_shape": fixes_shape,
        "may_change_on_resume": may_change_on_resume,
    }
    if maximum is not None:
        traits["maximum"] = maximum
    if tunable is not None:
        traits["tunable"] = tunable
    field: _T = Field(default, json_schema_extra=cast(JsonDict, traits))
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


_MAX_LAYERS = 1_000
_MAX_SIZE = 1_000_000
"""Widths, tokens of a sequence, sentences of a batch."""
_MAX_COUNT = 10**12
"""Updates, epochs, checkpoints or sentence pairs: a computer that makes 1,000 a second needs 30 years for them."""
_MAX_FACTOR = 1e30
"""Learning rate, weight decay, clipping, scale of initial weights: arithmetic in 32 bits overflows beyond 3e38."""

_Count = Annotated[int, Ge(1)]
_Probability = Annotated[float, Ge(0), Le(1)]
_Initializer = Literal["uniform", "xavier"]
_Optimizer = Literal["adam", "sgd", "rmsprop"]
_Schedule = Literal["plateau_reduce", "fixed_rate_inv_t", "fixed_rate_inv_sqrt_t"]


class Hyperparameters(BaseModel):
    """A complete, checked, immutable set of hyperparameters.

    The constructor, [`parse`][seqwright.hyperparameters.Hyperparameters.parse] and pydantic's `model_validate` take the
    same values, as what they are or as text, and check them alike.

    Raises:
        ClientError: A value is not valid; the message names every problem, one to a line, each with what would be.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    encoder_type: Literal["rnn", "cnn"] = _field("rnn", "architecture", fixes_shape=True)
    """Network for the source: recurrent (Bahdanau et al., 2015) or convolutional (Gehring et al., 2017)."""
    decoder_type: Literal["rnn", "cnn"] = _field("rnn", "architecture", fixes_shape=True)
    """Network for the target; either kind works with either encoder."""
    num_layers_encoder: _Count = _field(1, "architecture", _integers(1, 10), fixes_shape=True, maximum=_MAX_LAYERS)
    """Layers of the encoder."""
    num_layers_decoder: _Count = _field(1, "architecture", _integers(1, 10), fixes_shape=True, maximum=_MAX_LAYERS)
    """Layers of the decoder."""
    num_embed_source: _Count = _field(512, "architecture", _integers(256, 512), fixes_shape=True, maximum=_MAX_SIZE)
    """Width of a source token's embedding."""
    num_embed_target: _Count = _field(512, "architecture", _integers(256, 512), fixes_shape=True, maximum=_MAX_SIZE)
    """Width of a target token's embedding."""
    embed_dropout_source: _Probability = _field(0.0, "architecture", _continuous(0, 0.5))
    """Dropout probability of source embeddings."""
    embed_dropout_target: _Probability = _field(0.0, "architecture", _continuous(0, 0.5))
    """Dropout probability of target embeddings."""

    rnn_cell_type: Literal["lstm", "gru"] = _field("lstm", "rnn", network="rnn", fixes_shape=True)
    """Recurrent cell of encoder and decoder."""
    rnn_num_hidden: Annotated[int, Ge(2), Predicate(_even)] = _field(
        1024, "rnn", _categories(128, 256, 512, 1024, 2048), maximum=_MAX_SIZE, network="rnn", fixes_shape=True
    )
    """Width of a recurrent layer. Even: each direction of the first encoder layer has half."""
    rnn_residual_connections: bool = _field(False, "rnn", network="rnn", fixes_shape=True)
    """Add a layer's input to its output, from rnn_first_residual_layer upwards."""
    rnn_first_residual_layer: Annotated[int, Ge(2)] = _field(
        2, "rnn", network="rnn", fixes_shape=True, maximum=_MAX_LAYERS
    )
    """Lowest layer, counted from 1, that gets a residual connection."""
    rnn_decoder_state_init: Literal["last", "avg", "zero"] = _field("last", "rnn", network="rnn", fixes_shape=True)
    """Where the decoder starts: from the encoder's final state, its mean state, or zeros."""
    rnn_decoder_hidden_dropout: _Probability = _field(0.0, "rnn", _continuous(0, 0.5), network="rnn")
    """Dropout probability of the state that combines decoder output and attention context."""
    rnn_attention_type: Literal["dot", "fixed", "mlp", "bilinear"] = _field(
        "mlp", "rnn", network="rnn", fixes_shape=True
    )
    """How attention scores a source position; fixed always looks at the encoder's final state."""
    rnn_attention_num_hidden: Annotated[int | None, Ge(1)] = _field(
        None, "rnn", maximum=_MAX_SIZE, network="rnn", fixes_shape=True
    )
    """Width of the attention network; none means the same as rnn_num_hidden."""
    rnn_attention_in_upper_layers: bool = _field(True, "rnn", network="rnn", fixes_shape=True)
    """Give the attention context to the decoder's upper layers too (Wu et al., 2016)."""

    cnn_num_hidden: _Count = _field(
        512, "cnn", _categories(128, 256, 512, 1024, 2048), maximum=_MAX_SIZE, network="cnn", fixes_shape=True
    )
    """Width of a convolution layer."""
    cnn_kernel_width_encoder: Annotated[int, Ge(1), Predicate(_odd)] = _field(
        3, "cnn", network="cnn", fixes_shape=True, maximum=_MAX_SIZE
    )
    """Source positions that one encoder convolution sees; odd, so that one is in the middle."""
    cnn_kernel_width_decoder: _Count = _field(5, "cnn", network="cnn", fixes_shape=True, maximum=_MAX_SIZE)
    """Target positions that one decoder convolution sees, none of them in the future."""
    cnn_activation_type: Literal["glu", "relu", "softrelu", "sigmoid", "tanh"] = _field(
        "glu", "cnn", network="cnn", fixes_shape=True
    )
    """Nonlinearity after each convolution."""
    cnn_hidden_dropout: _Probability = _field(0.0, "cnn", _continuous(0, 0.5), network="cnn")
    """Dropout probability between convolution layers."""

    weight_init_type: _Initializer = _field("xavier", "initialization", _categories(*get_args(_Initializer)))
    """Distribution that initial weights are drawn from."""
    # The documented range for uniform begins below the least valid value; it is recorded as documented.
    weight_init_scale: Annotated[float, Ge(0)] = _field(
        2.34,
        "initialization",
        _by("weight_init_type", xavier=_continuous(2, 3), uniform=_continuous(-1, 1)),
        maximum=_MAX_FACTOR,
    )
    """Magnitude of the initial weights."""
    xavier_factor_type: Literal["in", "out", "avg"] = _field("in", "initialization")
    """What xavier scales by: a matrix's inputs, its outputs, or the mean of both."""

    max_seq_len_source: _Count = _field(100, "data", maximum=_MAX_SIZE, fixes_shape={"encoder_type": "cnn"})
    """Tokens kept of a source sequence; the rest is cut off."""
    max_seq_len_target: _Count = _field(100, "data", maximum=_MAX_SIZE, fixes_shape={"decoder_type": "cnn"})
    """Tokens kept of a target sequence; the rest is cut off."""
    bucketing_enabled: bool = _field(True, "data")
    """Batch sequences of like lengths together; false pads every batch to the maximum lengths."""
    bucket_width: _Count = _field(10, "data", maximum=_MAX_SIZE)
    """Step between buckets on the longer side; the mean length ratio gives the shorter side's step."""
    batch_size: _Count = _field(64, "data", _categories(16, 32, 64, 128, 256, 512, 1024, 2048), maximum=_MAX_SIZE)
    """Sentence pairs in one update, summed over all devices."""

    loss_type: Literal["cross-entropy"] = _field("cross-entropy", "training")
    """Quantity that training minimises."""
    training_metric: Literal["perplexity", "accuracy"] = _field("perplexity", "training")
    """Metric reported on the training data."""
    max_num_epochs: Annotated[int | None, Ge(1)] = _field(
        None, "training", maximum=_MAX_COUNT, may_change_on_resume=True
    )
    """Most passes over the data; when given, a metric that stalls does not end training earlier."""
    max_num_batches: Annotated[int, Ge(-1), Predicate(_not_zero)] = _field(
        -1, "training", maximum=_MAX_COUNT, may_change_on_resume=True
    )
    """Most updates; -1 sets no bound."""

    optimizer_type: _Optimizer = _field("adam", "optimizer", _categories(*get_args(_Optimizer)))
    """Rule that turns gradients into updates."""
    learning_rate: Annotated[float, Gt(0)] = _field(0.0003, "optimizer", _continuous(0.00005, 0.2), maximum=_MAX_FACTOR)
    """Learning rate that the schedule starts from."""
    momentum: Annotated[float | None, Ge(0), Le(1)] = _field(None, "optimizer", _continuous(0.5, 0.9))
    """Momentum of sgd; the other optimizers take none."""
    weight_decay: Annotated[float, Ge(0)] = _field(0.0, "optimizer", _continuous(0, 0.1), maximum=_MAX_FACTOR)
    """Strength of the pull of every weight towards zero."""
    clip_gradient: float = _field(1.0, "optimizer", _continuous(1, 5), maximum=_MAX_FACTOR)
    """Bound on each gradient element's absolute value; a negative one switches clipping off."""

    lr_scheduler_type: _Schedule = _field("plateau_reduce", "schedule", _categories(*get_args(_Schedule)))
    """How the learning rate falls: when the metric stalls, with 1/t, or with 1/sqrt(t)."""
    plateau_reduce_lr_factor: Annotated[float, Gt(0), Lt(1)] = _field(0.5, "schedule", _continuous(0.1, 0.5))
    """What plateau_reduce multiplies the learning rate by."""
    plateau_reduce_lr_threshold: _Count = _field(3, "schedule", _integers(1, 5), maximum=_MAX_COUNT)
    """Checkpoints in a row without improvement that make plateau_reduce act."""
    fixed_rate_lr_half_life: _Count = _field(10, "schedule", _integers(10, 30), maximum=_MAX_COUNT)
    """Checkpoints after which a fixed_rate schedule has halved the learning rate."""

    checkpoint_frequency_num_batches: _Count = _field(1000, "stopping", maximum=_MAX_COUNT)
    """Updates between two checkpoints, each with an evaluation."""
    checkpoint_threshold: _Count = _field(3, "stopping", maximum=_MAX_COUNT, may_change_on_resume=True)
    """Checkpoints in a row without improvement that end training."""
    optimized_metric: Literal["perplexity", "accuracy", "bleu"] = _field("perplexity", "stopping")
    """Validation metric that picks the best model and decides when to stop."""
    min_num_epochs: Annotated[int, Ge(0)] = _field(0, "stopping", maximum=_MAX_COUNT, may_change_on_resume=True)
    """Epochs that early stopping cannot cut short; at most max_num_epochs."""
    bleu_sample_size: Annotated[int, Ge(-1)] = _field(0, "stopping", maximum=_MAX_COUNT, may_change_on_resume=True)
    """Validation pairs translated for BLEU at a checkpoint: -1 all; 0 none, all for optimized_metric=bleu."""

    beam_size: _Count = _field(5, "inference", maximum=10_000, may_change_on_resume=True)
    """Hypotheses that the search keeps, in BLEU evaluations and in service."""

    label_smoothing: Annotated[float, Ge(0), Lt(1)] = _field(0.0, "extensions", _continuous(0, 0.3))
    """Share of the training target spread evenly over the vocabulary (Szegedy et al., 2016); not in validation."""
    lr_cooldown_num_batches: Annotated[int, Ge(0)] = _field(0, "extensions", maximum=_MAX_COUNT)
    """Last updates before max_num_batches over which the learning rate falls linearly to 0 (Hu et al., 2024)."""

    @field_validator("*", mode="before")
    @classmethod
    def _read(cls, value: object, info: ValidationInfo) -> object:
        """Turn the strings of a container or a command line into the field's type, and refuse vast numbers."""
        name = cast(str, info.field_name)
        read = read_value(cls.model_fields[name], value)
        maximum = cls.traits(name).get("maximum")
        if maximum is not None and isinstance(read, (int, float)) and read > maximum and not _is_infinite(read):
            raise PydanticCustomError("too_large", "more than {maximum}", {"maximum": maximum})
        return read

    @model_validator(mode="wrap")
    @classmethod
    def _check(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:  # noqa: ANN401 - as pydantic has it
        """Check each value, then how they agree, and report everything that is wrong in one error."""
        problems, refused = [], set()
        try:
            checked = handler(values)
        except ValidationError as error:
            if not isinstance(values, Mapping):
                raise ClientError(f"hyperparameters must be names with values, not {_shown(values)}") from None
            problems = [cls._describe(detail, values) for detail in error.errors()]
            refused = {str(detail["loc"][0]) for detail in error.errors()}
            # The values that are valid alone are checked for agreement all the same, so that one error says it all.
            checked = handler({name: value for name, value in values.items() if name not in refused})
        # A refused value has become its default here, which must not be blamed for disagreeing with others.
        problems += [text for names, text in checked._conflicts() if refused.isdisjoint(names)]
        if problems:
            raise ClientError("\n".join(f"hyperparameter {problem}" for problem in problems)) from None
        return checked

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
    def _describe(cls, detail: ErrorDetails, values: Mapping[str, object]) -> str:
        """One of pydantic's findings in this project's words."""
        name = str(detail["loc"][0])
        if name not in cls.model_fields:
            return unknown_name(name, cls.model_fields)
        shown = _shown(values[name])
        if detail["type"] == "too_large":
            return f"{name}: {shown} is too large: the largest value that is accepted is {detail['ctx']['maximum']:,}"
        kind, valid = type_and_range(cls.model_fields[name])
        return f"{name}: {shown} is not valid; valid values ({kind}): {valid}"

    @classmethod
    def parse(cls, values: Mapping[str, object]) -> Self:
        """Check values by name, as strings or as what they are; what is absent takes its default.

        Raises:
            ClientError: Names every problem, one to a line, each with what would be valid.
        """
        named = {str(name): value for name, value in values.items()} if isinstance(values, Mapping) else values
        return cls.model_validate(named)

    @classmethod
    def traits(cls, name: str) -> Traits:
        """What the field `name` says about itself."""
        return cast(Traits, cls.model_fields[name].json_schema_extra)

    @classmethod
    def names_that_may_change_on_resume(cls) -> frozenset[str]:
        """The hyperparameters that a run which goes on may set anew."""
        return frozenset(name for name in cls.model_fields if cls.traits(name)["may_change_on_resume"])

    def names_that_fix_shapes(self) -> list[str]:
        """The hyperparameters that a model trained with these cannot change, for the kinds of network that it has."""
        return [name for name in type(self).model_fields if self._fixes_shape(self.traits(name))]

    def _fixes_shape(self, traits: Traits) -> bool:
        fixes_shape = traits["fixes_shape"]
        if isinstance(fixes_shape, dict):
            return all(getattr(self, name) == value for name, value in fixes_shape.items())
        return fixes_shape and traits["network"] in (None, self.encoder_type, self.decoder_type)

    @property
    def attention_num_hidden(self) -> int:
        """Width of the attention network: its own if given, else that of the recurrent layers."""
        return self.rnn_attention_num_hidden or self.rnn_num_hidden

    def to_json_dict(self) -> dict[str, JsonValue]:
        """Every value by name, as plain JSON; `parse` reads it back to an equal object."""
        return self.model_dump(mode="json")


def _is_infinite(number: float) -> bool:
    return isinstance(number, float) and math.isinf(number)


def _shown(value: object) -> str:
    """A value as messages show it: shortened if it is long."""
    try:
        return reprlib.repr(value)
    except ValueError:  # Python writes no integer of thousands of digits
        return "an integer of thousands of digits"
