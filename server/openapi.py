"""The OpenAPI document, made of the fields that are checked."""

from __future__ import annotations

from typing import Any

from .. import __version__
from .asked import FIELDS, Limits
from .engine import Engine
from .guard import IMAGES

ANSWERS = {
    "400": "Something in the body is wrong; the message says what, `param` which field.",
    "401": "The token is missing or wrong.",
    "404": "There is no such model.",
    "408": "The body did not come in time.",
    "413": "The body is too large.",
    "415": "The body is not said to be JSON.",
    "422": "The image left the finite numbers.",
    "429": "The queue is full; Retry-After says for about how many seconds.",
    "503": "The server is stopping, or too many clients are connected.",
}


def openapi(engine: Engine, limits: Limits) -> dict[str, Any]:
    """What a client may ask of a server with this model."""
    return {
        "openapi": "3.1.0",
        "info": {"title": f"pitstop, {engine.manifest.model.name}", "version": __version__},
        "paths": {
            "/v1/images/generations": {"post": _generations(engine, limits)},
            IMAGES + "{id}": {"get": _fetch()},
            "/v1/models": {"get": _get("The model and its classes", "application/json")},
            "/health": {"get": _get("The loop is alive", "application/json")},
            "/ready": {"get": _get("Requests are taken", "application/json")},
            "/metrics": {"get": _get("Figures for Prometheus", "text/plain")},
        },
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
    }


def _generations(engine: Engine, limits: Limits) -> dict[str, Any]:
    width, height = engine.size
    fields = {name: dict(schema) for name, schema in FIELDS.items()}
    fields["n"]["maximum"], fields["steps"]["maximum"] = limits.images, limits.steps
    fields["size"]["enum"] = [f"{width}x{height}", "auto"]
    fields["model"]["enum"] = [engine.manifest.model.name]
    body = {"type": "object", "properties": fields, "additionalProperties": False}
    image = {"application/json": {"schema": {"type": "object"}}, "text/event-stream": {}}
    return {
        "summary": "Draw images of a class",
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {
            "200": {"description": "The images", "content": image},
            **{status: {"description": said} for status, said in ANSWERS.items()},
        },
        "security": [{}, {"token": []}],
    }


def _fetch() -> dict[str, Any]:
    name = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
    return {**_get("An image of an answer with urls", "image/png"), "parameters": [name]}


def _get(summary: str, kind: str) -> dict[str, Any]:
    return {
        "summary": summary,
        "responses": {"200": {"description": summary, "content": {kind: {}}}},
    }
