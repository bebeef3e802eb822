"""What /openapi.json says of the routes that translate."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from seqwright.serving.negotiation import JSON, JSON_LINES, RECORDIO
from seqwright.serving.schemas import ErrorBody, Line, Prediction, Request, Response

_REFERENCE = "#/components/schemas/{model}"

_SCHEMAS: dict[str, Any] = models_json_schema(
    [(model, "validation") for model in (Request, Line, Response, Prediction, ErrorBody)], ref_template=_REFERENCE
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
        JSON: _refer("Request"),
        JSON_LINES: _lines("Line", '{"source": "P R O N O U N C E"}'),
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
            }
        },
        "content": {
            JSON: _refer("Response"),
            JSON_LINES: _lines("Prediction", '{"target": "P R AH0 N AW1 N S"}'),
            RECORDIO: _records("target"),
        },
    },
    "400": _error("The body is damaged, not of its format, or asks for what there is not, or for too much."),
    "406": _error("The Accept header allows none of the three formats."),
    "408": _error("The body did not arrive in time."),
    "413": _error("The body is larger than 6 MB."),
    "415": _error("The Content-Type is none of the three formats."),
    "431": _error("The request's line and headers are larger than 64 KB."),
    "500": _error("The model failed."),
    "503": {
        **_error("The endpoint is at its limit or shutting down."),
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
    """The OpenAPI document of `app`, with the routes that are not FastAPI's own."""
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    document["paths"].update(_PATHS)
    document.setdefault("components", {}).setdefault("schemas", {}).update(_SCHEMAS)
    return document
