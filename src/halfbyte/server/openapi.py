"""The OpenAPI document, made from the table of endpoints and the bodies' models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from halfbyte.server.schema.answers import ErrorBody

_REFERENCE = "#/components/schemas/{model}"
REASONS = {
    400: "The request is wrong; the message says how.",
    401: "No valid API key.",
    403: "A Host this server does not answer to.",
    404: "No such model.",
    408: "The request or its body took too long.",
    413: "The body is too large.",
    415: "The body is not application/json.",
    429: "The queue is full; Retry-After says when to try again.",
    503: "The server is draining.",
}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One path and method: what it takes, what it returns, which function answers."""

    method: str
    path: str
    summary: str
    handler: Any  # async (Request) -> Response or ASGI response
    body: type[BaseModel] | None = None
    answer: type[BaseModel] | None = None
    media_type: str = "application/json"
    streams: bool = False
    errors: tuple[int, ...] = ()
    public: bool = False  # answered without a key
    unwell: type[BaseModel] | None = None  # what a 503 says, where that is no error object


def document(endpoints: Sequence[Endpoint], *, version: str, keys: bool) -> dict[str, Any]:
    """OpenAPI 3.1."""
    models: list[tuple[type[BaseModel], Any]] = [(ErrorBody, "serialization")]
    for endpoint in endpoints:
        if endpoint.body is not None:
            models.append((endpoint.body, "validation"))
        if endpoint.answer is not None:
            models.append((endpoint.answer, "serialization"))
        if endpoint.unwell is not None:
            models.append((endpoint.unwell, "serialization"))
    references, definitions = models_json_schema(models, ref_template=_REFERENCE)
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        operation = _operation(endpoint, references, keys=keys)
        paths.setdefault(endpoint.path.replace(":path", ""), {})[endpoint.method.lower()] = (
            operation
        )
    components: dict[str, Any] = {"schemas": definitions["$defs"]}
    if keys:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Halfbyte", "version": version},
        "paths": paths,
        "components": components,
    }


def _operation(endpoint: Endpoint, references: Any, *, keys: bool) -> dict[str, Any]:
    content: dict[str, Any] = {endpoint.media_type: {}}
    if endpoint.answer is not None:
        content[endpoint.media_type] = {"schema": references[(endpoint.answer, "serialization")]}
    if endpoint.streams:
        content["text/event-stream"] = {}
    responses: dict[str, Any] = {}
    if endpoint.answer is not None or endpoint.media_type != "application/json":
        responses["200"] = {"description": "Done.", "content": content}
    fault = {"application/json": {"schema": references[(ErrorBody, "serialization")]}}
    statuses = {*endpoint.errors, 403}
    if endpoint.body is not None:
        statuses |= {400, 408, 413, 415}
    if keys and not endpoint.public:
        statuses.add(401)
    for status in sorted(statuses):
        responses[str(status)] = {"description": REASONS[status], "content": fault}
    if endpoint.unwell is not None:
        schema = {"schema": references[(endpoint.unwell, "serialization")]}
        responses["503"] = {"description": REASONS[503], "content": {endpoint.media_type: schema}}
    operation: dict[str, Any] = {
        "operationId": endpoint.handler.__name__,
        "summary": endpoint.summary,
        "responses": responses,
    }
    names = [part[1:-1].partition(":")[0] for part in endpoint.path.split("/") if part[:1] == "{"]
    if names:
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in names
        ]
    if endpoint.body is not None:
        schema = {"schema": references[(endpoint.body, "validation")]}
        operation["requestBody"] = {"required": True, "content": {"application/json": schema}}
    if keys and not endpoint.public:
        operation["security"] = [{"key": []}]
    return operation
