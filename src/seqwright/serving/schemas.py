"""The JSON of requests and answers: these classes validate requests and describe both in /openapi.json."""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool

MAX_BEAM_SIZE = 64
MAX_OUTPUT_LENGTH = 1000
MAX_INSTANCES = 5000
MAX_WITH_ATTENTION = 1000  # instances of a request: attention matrices grow with the square of the length

Switch = StrictBool | Literal["true", "false"]
SourceText = Annotated[
    str,
    Field(
        strict=True,
        description="Tokens separated by white space; an empty text has an empty translation. A token that the model "
        "does not know counts as <unk>, and the header X-Seqwright-Unknown counts these. A sequence longer than the "
        "model's max_seq_len_source is cut, and the header X-Seqwright-Truncated says so.",
        json_schema_extra={"examples": ["P R O N O U N C E"]},
    ),
]


def _whole(value: object) -> object:
    """5 for 5.0: JSON has one kind of number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


BeamSize = Annotated[int, Field(strict=True, ge=1, le=MAX_BEAM_SIZE), BeforeValidator(_whole)]
OutputLength = Annotated[int, Field(strict=True, ge=1, le=MAX_OUTPUT_LENGTH), BeforeValidator(_whole)]


class Configuration(BaseModel):
    """What is wanted for one instance. A name that is not listed here is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    attention_matrix: Switch = Field(False, description="Answer with `matrix`.")
    beam_size: BeamSize | None = Field(None, description="Hypotheses that are kept; the model's beam_size by default.")
    nbest: BeamSize | None = Field(None, description="Answer with `nbest`, so many; a narrower beam is widened to it.")
    max_output_length: OutputLength | None = Field(
        None, description="Tokens after which a translation is cut off; by default a limit that grows with the source."
    )
    scores: Switch = Field(False, description="Answer with `score`.")
    tokens: Switch = Field(False, description="Answer with `tokens`, the short form of `matrix`.")


class JsonInstance(BaseModel):
    """One sequence to translate."""

    data: SourceText
    configuration: Configuration | None = None


class JsonLine(BaseModel):
    """One line of application/jsonlines."""

    source: SourceText
    configuration: Configuration | None = None


class JsonRequest(BaseModel):
    """The body of application/json."""

    instances: list[JsonInstance] = Field(json_schema_extra={"minItems": 1, "maxItems": MAX_INSTANCES})


class Alternative(BaseModel):
    """One of the best translations."""

    target: str
    score: float


class Alignment(BaseModel):
    """A target token and the source token that the model looked at most when it wrote it."""

    token: str = Field(description="The target token.")
    source: str = Field(description="The source token.")
    position: int = Field(ge=0, description="Its position in the source, counted from 0.")
    weight: float = Field(description="The attention on it, 0 to 1.")


class Prediction(BaseModel):
    """The translation of one instance; all but `target` only where asked for."""

    target: str = Field(description="Tokens separated by spaces.")
    matrix: list[list[float]] = Field([], description="Attention: one row a target token, one column a source token.")
    score: float = Field(0.0, description="Negative log probability over the number of tokens: lower is better.")
    nbest: list[Alternative] = Field([], description="The best translations, best first.")
    tokens: list[Alignment] = Field([], description="One entry a target token.")


class JsonAnswer(BaseModel):
    """The answer to application/json."""

    predictions: list[Prediction]


class ErrorDetail(BaseModel):
    """What was wrong."""

    code: str = Field(description="The kind of error, a fixed word.")
    message: str = Field(description="What was wrong and what to do.")
    instance: int | None = Field(description="The instance at fault, counted from 0; null if there is none.")


class ErrorBody(BaseModel):
    """The body of every answer that is not a success."""

    error: ErrorDetail
