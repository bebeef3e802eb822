"""The OpenAPI document, with the routes that translate."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from seqwright.serving.negotiation import JSON, JSON_LINES, RECORDIO
from seqwright.serving.schemas import ErrorBody, JsonAnswer, JsonLine, JsonRequest, Prediction

_REFERENCE = "#/components/schemas/{model}"

_SCHEMAS: dict[str, Any] = models_json_schema(
    [(model, "validation") for model in (JsonRequest, JsonLine, JsonAnswer, Prediction, ErrorBody)],
    ref_template=_REFERENCE,
)[1]["$defs"]


def _refer(name: str) -> dict[str, Any]:
    return {"schema": {"$ref": _REFERENCE.format(model=name)}}


def _lines(of: str, example: str) -> dict[str, Any]:
    return {"schema": {"type": "string", "description": f"One {of} a line, as JSON: {example}"}}


def _records(feature: str) -> dict[str, Any]:
    description = f'RecordIO-Protobuf: one Record an instance, its ids in features["{feature}"].'
    return {"schema": {"type": "string", "format": "binary", "description": description}}


def _error(description: str) -> dict[str, Any]:
    return {"description": description, "content": {JSON: _refer("ErrorBody")}}


_REQUEST_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        JSON: _refer("JsonRequest"),
        JSON_LINES: _lines("JsonLine", '{"source": "P R O N O U N C E"}'),
        RECORDIO: _records("source"),
    },
}

_RESPONSES: dict[str, dict[str, Any]] = {
    "200": {
        "description": "The translations, in the order of the instances.",
        "headers": {
            "X-Seqwright-Truncated": {
                "description": "The instances, counted from 0, whose source was cut to the model's maximum.",
                "schema": {"type": "string"},
            },
            "X-Seqwright-Unknown": {
                "description": "instance=count for the instances with tokens that the model does not know.",
                "schema": {"type": "string"},
            },
        },
        "content": {
            JSON: _refer("JsonAnswer"),
            JSON_LINES: _lines("Prediction", '{"target": "P R AH0 N AW1 N S"}'),
            RECORDIO: _records("target"),
        },
    },
    "400": _error("The body is damaged, not of its format, not valid, or asks for too much."),
    "406": _error("The Accept header allows none of the three formats."),
    "408": _error("The body did not arrive in time."),
    "413": _error("The body is larger than 6 MB, or the answer could be larger than 64 MB."),
    "415": _error("The Content-Type is none of the three formats."),
    "421": _error("The Host header names another server."),
    "431": _error("The request's line and headers are larger than 64 KB."),
    "500": _error("The model failed."),
    "503": {
        **_error("The endpoint is at its limit, shutting down, or cannot search."),
        "headers": {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}},
    },
    "504": _error("The translations were not done in time."),
    "default": _error("Any other error."),
}


def _operation(name: str, description: str) -> dict[str, Any]:
    return {
        "operationId": name,
        "summary": "Translate",
        "description": description,
        "requestBody": _REQUEST_BODY,
        "responses": _RESPONSES,
    }


_PATHS: dict[str, Any] = {
    "/invocations": {"post": _operation("invocations", "Translate every instance of the request.")},
    "/endpoints/{name}/invocations": {
        "post": {
            **_operation("endpoint_invocations", "The same for clients of the platform's runtime API."),
            "parameters": [
                {
                    "name": "name",
                    "in": "path",
                    "required": True,
                    "description": "Any name will do.",
                    "schema": {"type": "string"},
                }
            ],
        }
    },
}


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of `app`, with the routes that FastAPI does not know in detail."""
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    document["paths"].update(_PATHS)
    document.setdefault("components", {}).setdefault("schemas", {}).update(_SCHEMAS)
    return document
