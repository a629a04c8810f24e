"""What stands before every route: who may ask, and from where."""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

from .answer import refusal
from .refused import Refused

OPEN = ("/", "/health", "/ready")  # no token is asked for
IMAGES = "/v1/images/by-id/"  # nor here, where the id is the secret
LOOPBACK = "localhost"
PORT = re.compile(r":[0-9]*$")


@dataclass(frozen=True)
class Guard:
    """Refuses who may not ask.

    Attributes:
        app: What is guarded.
        token: That must come with a request, or None where anyone may ask.
        local: Whether only this machine is served: a page of another site, which has its name
            point here, is refused then.
    """

    app: ASGIApp
    token: bytes | None = None
    local: bool = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        wrong = self._wrong_host(headers) or self._wrong_token(scope["path"], headers)
        if wrong is not None:
            await refusal(wrong)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _wrong_host(self, headers: Mapping[bytes, bytes]) -> Refused | None:
        if not self.local or is_local(headers.get(b"host", b"").decode("latin-1")):
            return None
        return Refused(421, "This server is for this machine alone", "Ask for it as localhost")

    def _wrong_token(self, path: str, headers: Mapping[bytes, bytes]) -> Refused | None:
        if self.token is None or path in OPEN or path.startswith(IMAGES):
            return None
        kind, _, given = headers.get(b"authorization", b"").partition(b" ")
        right = hmac.compare_digest(given.strip(), self.token)
        if kind.lower() == b"bearer" and right:
            return None
        return Refused(
            401,
            "The token is missing or wrong",
            "Send the header Authorization: Bearer TOKEN",
            headers={"WWW-Authenticate": "Bearer"},
        )


def is_local(host: str) -> bool:
    """Whether a host, maybe with a port, names this machine."""
    bare = host.count(":") > 1 and not host.startswith("[")  # IPv6 without a port
    name = host if bare else PORT.sub("", host).strip("[]")
    if name == LOOPBACK:
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
