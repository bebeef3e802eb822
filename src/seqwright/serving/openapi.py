"""The OpenAPI document of the endpoint."""

from importlib.metadata import version
from typing import Any

from pydantic.json_schema import models_json_schema

from seqwright.serving.negotiation import JSON, JSON_LINES, RECORDIO
from seqwright.serving.schemas import ErrorBody, JsonAnswer, JsonLine, JsonRequest, Prediction

_REFERENCE = "#/components/schemas/{model}"
_MODELS = (JsonRequest, JsonLine, JsonAnswer, Prediction, ErrorBody)
_SCHEMAS: dict[str, Any] = models_json_schema([(each, "validation") for each in _MODELS], ref_template=_REFERENCE)[1]


def _formats(model: str, line: str, example: str, feature: str) -> dict[str, Any]:
    """The three formats of a request or an answer."""
    lines = f"One {line} a line, as JSON: {example}"
    records = f'RecordIO-Protobuf: one Record an instance, its ids in features["{feature}"].'
    return {
        JSON: {"schema": {"$ref": _REFERENCE.format(model=model)}},
        JSON_LINES: {"schema": {"type": "string", "description": lines}},
        RECORDIO: {"schema": {"type": "string", "format": "binary", "description": records}},
    }


def _header(description: str, kind: str = "string") -> dict[str, Any]:
    return {"description": description, "schema": {"type": kind}}


_ERRORS = {
    "400": "The body is damaged, not of its format, not valid, or asks for too much.",
    "406": "The Accept header allows none of the three formats.",
    "408": "The body did not arrive in time.",
    "413": "The body is larger than 6 MB, or the answer could be larger than 64 MB.",
    "415": "The Content-Type is none of the three formats.",
    "421": "The Host header names another server.",
    "431": "The request's line and headers are larger than 64 KB.",
    "500": "The model failed.",
    "503": "The endpoint is at its limit, shutting down, or cannot search.",
    "504": "The translations were not done in time.",
    "default": "Any other error.",
}

_RESPONSES: dict[str, dict[str, Any]] = {
    "200": {
        "description": "The translations, in the order of the instances.",
        "headers": {
            "X-Seqwright-Truncated": _header("Instances, counted from 0, that were cut to the model's maximum."),
            "X-Seqwright-Unknown": _header("instance=count for instances with tokens that the model does not know."),
        },
        "content": _formats("JsonAnswer", "Prediction", '{"target": "P R AH0 N AW1 N S"}', "target"),
    },
    **{
        status: {
            "description": description,
            "content": {JSON: {"schema": {"$ref": _REFERENCE.format(model="ErrorBody")}}},
        }
        for status, description in _ERRORS.items()
    },
}
_RESPONSES["503"]["headers"] = {"Retry-After": _header("Seconds to wait.", "integer")}


def _operation(name: str, description: str, *parameters: dict[str, Any]) -> dict[str, Any]:
    content = _formats("JsonRequest", "JsonLine", '{"source": "P R O N O U N C E"}', "source")
    return {
        "operationId": name,
        "summary": "Translate",
        "description": description,
        "parameters": list(parameters),
        "requestBody": {"required": True, "content": content},
        "responses": _RESPONSES,
    }


_NAME = {"name": "name", "in": "path", "required": True, **_header("Any name will do.")}


def _page(name: str, description: str, media_type: str, schema: dict[str, Any], **others: str) -> dict[str, Any]:
    """A route that is read; `others` are descriptions of answers by status."""
    content = {"content": {media_type: {"schema": schema}}}
    descriptions = {"200": "The answer.", **{status.removeprefix("_"): text for status, text in others.items()}}
    responses = {status: {"description": text, **content} for status, text in descriptions.items()}
    return {"get": {"operationId": name, "description": description, "responses": responses}}


_STATUS = {"type": "object", "required": ["status"], "properties": {"status": {"type": "string"}}}

DOCUMENT: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {
        "title": "seqwright",
        "version": version("seqwright"),
        "description": "Translates token sequences: one endpoint of the formats of Amazon SageMaker's Seq2Seq.",
    },
    "paths": {
        "/invocations": {"post": _operation("invocations", "Translate every instance of the request.")},
        "/endpoints/{name}/invocations": {
            "post": _operation("endpoint_invocations", "The same for clients of the platform's runtime API.", _NAME)
        },
        "/ping": _page("ping", "Whether the endpoint is ready.", JSON, _STATUS, _503="Stopping, or it cannot search."),
        "/execution-parameters": _page("execution_parameters", "How much to send at once.", JSON, {"type": "object"}),
        "/metrics": _page("metrics", "Metrics for Prometheus.", "text/plain", {"type": "string"}),
    },
    "components": {"schemas": _SCHEMAS["$defs"]},
}
