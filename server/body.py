"""A request's body: of bounded size, in bounded time."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect, Request

from .refused import Refused

MOST_BYTES = 64 << 10
SECONDS = 10.0
TYPE = "application/json"  # a page of another site cannot send it without being asked


async def read_body(request: Request) -> bytes:
    """All of it.

    Raises:
        Refused: It is too large, no JSON by its header, or does not come in time.
    """
    sent_as = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if sent_as != TYPE:
        raise Refused(
            415, "The body is not said to be JSON", f"Send the header Content-Type: {TYPE}"
        )
    try:
        return await asyncio.wait_for(_read(request), SECONDS)
    except (TimeoutError, asyncio.TimeoutError):
        raise Refused(408, "The body did not come in time", "Send it at once") from None
    except ClientDisconnect:
        raise Refused(400, "The body ended before its end", "Send it whole") from None


async def _read(request: Request) -> bytes:
    said = request.headers.get("content-length", "0")
    if not said.isdecimal() or int(said[:20]) > MOST_BYTES:
        raise _too_large()
    parts, count = [], 0
    async for part in request.stream():
        count += len(part)
        if count > MOST_BYTES:
            raise _too_large()
        parts.append(part)
    return b"".join(parts)


def _too_large() -> Refused:
    return Refused(413, "The body is too large", f"Send at most {MOST_BYTES} bytes")
