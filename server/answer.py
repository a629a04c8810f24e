"""Answers of the server: JSON in ASCII, and refusals in the form of OpenAI's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from .refused import Refused

HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def answer(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """JSON, whose texts of others are escaped."""
    return Response(json.dumps(content), status, {**HEADERS, **(headers or {})}, "application/json")


def refusal(error: Refused) -> Response:
    """One sentence on what is wrong and one on what to do."""
    return answer({"error": told(error)}, error.status, error.headers)


def told(error: Refused) -> dict[str, Any]:
    """A refusal as OpenAI's clients read it."""
    mine = error.status >= 500
    return {
        "message": str(error),
        "type": "server_error" if mine else "invalid_request_error",
        "param": error.param,
        "code": None,
    }
