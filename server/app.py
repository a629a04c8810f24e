"""The server's routes."""

from __future__ import annotations

import traceback
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from .answer import HEADERS, answer, refusal
from .asked import Limits
from .batcher import Batcher
from .engine import Engine
from .guard import IMAGES, Guard
from .images import Images
from .kept import KeptImages
from .metrics import Metrics
from .openapi import openapi
from .refused import Fault, Leaving, Refused

PAGE = Path(__file__).parent / "page.html"
PAGE_HEADERS = {  # it loads nothing from elsewhere, and no other page shows it
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; img-src data:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}


def make_app(
    engine: Engine,
    batcher: Batcher,
    metrics: Metrics,
    *,
    limits: Limits | None = None,
    token: bytes | None = None,
    local: bool = True,
) -> ASGIApp:
    """All routes, guarded.

    Args:
        engine: What draws.
        batcher: Its loop.
        metrics: What is told of it.
        limits: Of one request.
        token: That clients must send, or None.
        local: Whether only this machine is served.
    """
    limits, kept = limits or Limits(), KeptImages()
    fixed = _Fixed(engine, batcher, metrics, kept, limits)
    draw = Images(engine, batcher, kept, metrics, limits)
    routes = [
        Route("/", fixed.page),
        Route("/v1/images/generations", draw, methods=["POST"]),
        Route(IMAGES + "{name}", fixed.image),
        Route("/v1/models", fixed.models),
        Route("/health", fixed.health),
        Route("/ready", fixed.ready),
        Route("/metrics", fixed.metrics),
        Route("/openapi.json", fixed.openapi),
    ]
    handlers = {HTTPException: _no_route, Refused: _refused, Exception: _fault}
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.router.redirect_slashes = False
    return Guard(app, token, local)


class _Fixed:
    """What is asked for without drawing."""

    def __init__(
        self, engine: Engine, batcher: Batcher, metrics: Metrics, kept: KeptImages, limits: Limits
    ) -> None:
        self._batcher, self._metrics, self._kept = batcher, metrics, kept
        self._engine, self._document = engine, openapi(engine, limits)
        self._page = PAGE.read_bytes()

    async def page(self, request: Request) -> Response:
        return Response(self._page, 200, {**HEADERS, **PAGE_HEADERS}, "text/html")

    async def image(self, request: Request) -> Response:
        png = self._kept.find(request.path_params["name"])
        if png is None:
            raise Refused(404, "There is no such image", "Images are kept for ten minutes")
        return Response(png, 200, HEADERS, "image/png")

    async def models(self, request: Request) -> Response:
        manifest, opened = self._engine.manifest, self._engine.opened
        width, height = self._engine.size
        model = {
            "id": manifest.model.name,
            "object": "model",
            "owned_by": "pitstop",
            "precision": opened.precision,
            "backend": opened.denoiser.device,
            "size": f"{width}x{height}",
            "classes": manifest.label.classes,
            "labels": list(manifest.label.names),
            "guidable": manifest.guidable,
        }
        return answer({"object": "list", "data": [model]})

    async def health(self, request: Request) -> Response:
        if not self._batcher.alive:
            raise Fault
        return answer({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        if self._batcher.leaving:
            raise Leaving
        return answer({"status": "ready"})

    async def metrics(self, request: Request) -> Response:
        return Response(self._metrics.text(), 200, HEADERS, "text/plain; version=0.0.4")

    async def openapi(self, request: Request) -> Response:
        return answer(self._document)


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        problem = f"There is no {request.method} of this path"
        return refusal(
            Refused(405, problem, f"Choose one of: {allowed}", headers={"Allow": allowed})
        )
    return refusal(
        Refused(
            error.status_code, "There is no such path", "GET /openapi.json lists those there are"
        )
    )


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return refusal(error)


async def _fault(request: Request, error: Exception) -> Response:
    traceback.print_exception(error)
    return refusal(Fault())
