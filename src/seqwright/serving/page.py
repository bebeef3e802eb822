"""The OpenAPI document as a page to read, without scripts and without anything from other servers."""

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

# A browser must load nothing for the page.
HEADERS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}

_STYLE = """
body { font: 16px/1.5 sans-serif; margin: 2em auto; max-width: 60em; padding: 0 1em; color-scheme: light dark }
table { border-collapse: collapse; margin: .5em 0 1.5em }
th, td { border-bottom: 1px solid #8886; padding: .3em 1em .3em 0; text-align: left; vertical-align: top }
h2, h3 { margin-top: 2em }
"""


def render(document: Mapping[str, Any]) -> str:
    """An OpenAPI document in HTML."""
    info = document["info"]
    title = f"{escape(info['title'])} {escape(info['version'])}"
    operations = "".join(
        _operation(f"{method.upper()} {path}", operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    )
    schemas = "".join(_schema(name, schema) for name, schema in document["components"]["schemas"].items())
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        f'<h1>{title}</h1><p>{escape(info["description"])} For programs: <a href="openapi.json">openapi.json</a>.'
        f"{operations}<h2>Schemas</h2>{schemas}</html>"
    )


def _operation(heading: str, operation: Mapping[str, Any]) -> str:
    parameters = [(f"<code>{each['name']}</code>", each["description"]) for each in operation.get("parameters", ())]
    answers = [
        (status, escape(answer["description"]), "<br>".join(": ".join(each) for each in _contents(answer)))
        for status, answer in operation["responses"].items()
    ]
    return (
        f"<h2><code>{escape(heading)}</code></h2><p>{escape(operation.get('description', ''))}"
        + _table(("parameter", ""), parameters)
        + _table(("request", "body"), _contents(operation.get("requestBody", {})))
        + _table(("status", "when", "body"), answers)
    )


def _contents(body: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The media types of a request or an answer, and what each contains."""
    schemas = {media_type: content["schema"] for media_type, content in body.get("content", {}).items()}
    return [
        (f"<code>{media_type}</code>", escape(schema.get("description", "")) or _type(schema))
        for media_type, schema in schemas.items()
    ]


def _schema(name: str, schema: Mapping[str, Any]) -> str:
    required = schema.get("required", ())
    rows = [
        (f"<code>{key}</code>", _type(each), "required" if key in required else "", escape(each.get("description", "")))
        for key, each in schema["properties"].items()
    ]
    heading = f'<h3 id="{name}">{name}</h3><p>{escape(schema.get("description", ""))}'
    return heading + _table(("name", "type", "", ""), rows)


def _type(schema: Mapping[str, Any]) -> str:
    """What values a schema allows, in words; other schemas as links."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        return f'<a href="#{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(map(_type, schema["anyOf"]))
    if "enum" in schema:
        return " or ".join(f"<code>{escape(repr(value))}</code>" for value in schema["enum"])
    if "items" in schema:
        return f"list of {_type(schema['items'])}"
    bounds = f" {schema['minimum']} to {schema['maximum']}" if {"minimum", "maximum"} <= schema.keys() else ""
    return f"{schema.get('type', 'anything')}{bounds}"


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table; nothing if it has no rows."""
    body = "".join(f"<tr>{''.join(f'<td>{cell}' for cell in row)}" for row in rows)
    return f"<table><tr>{''.join(f'<th>{cell}' for cell in header)}{body}</table>" if body else ""
