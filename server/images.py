"""Requests for images: from a body to the pictures, whole or as they come."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable
from functools import partial
from typing import Any, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from .. import PitstopError
from .answer import HEADERS, answer, refusal, told
from .asked import Asked, Limits, about, parse_body, read_asked
from .batcher import Batcher
from .body import read_body
from .engine import Engine
from .guard import IMAGES
from .inbox import Inbox
from .job import Drawn, Job, Moved
from .kept import KeptImages
from .metrics import Metrics
from .refused import refusal_of

GONE = 499  # the status in the metrics of a client that went

T = TypeVar("T")
Fields = dict[str, Any]


class Images:
    """Draws what bodies ask for."""

    def __init__(
        self, engine: Engine, batcher: Batcher, kept: KeptImages, metrics: Metrics, limits: Limits
    ) -> None:
        self._engine, self._batcher, self._kept = engine, batcher, kept
        self._metrics, self._limits = metrics, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request: it is an ASGI application, since a client may go at any time."""
        started = time.perf_counter()
        status, images = GONE, 0
        try:
            status, images = await self._answer(Request(scope, receive), scope, receive, send)
        except PitstopError as error:
            refused = refusal_of(error)
            status = refused.status
            await refusal(refused)(scope, receive, send)
        finally:
            self._metrics.answered(status, time.perf_counter() - started, images)

    async def _answer(
        self, request: Request, scope: Scope, receive: Receive, send: Send
    ) -> tuple[int, int]:
        """Send the answer, and say its status and how many images it had."""
        fields = parse_body(await read_body(request))
        inbox = Inbox()
        asked, job = await run_in_threadpool(self._read, fields, inbox)
        self._batcher.submit(job)
        drawing = Drawing(self._engine, self._kept, asked, inbox, str(request.base_url))
        try:
            if asked.previews is not None:
                sent = await watched(drawing.stream(scope, receive, send), receive)
            else:
                response = await watched(drawing.whole(), receive)
                sent = None if response is None else len(asked.seeds)
                if response is not None:
                    await response(scope, receive, send)
        finally:
            job.cancelled = True
        return (GONE, 0) if sent is None else (200, sent)

    def _read(self, fields: Fields, inbox: Inbox) -> tuple[Asked, Job]:
        asked = read_asked(fields, self._engine, self._limits)
        make = partial(self._engine.requests, asked.label, asked.seeds, asked.settings)
        requests = about(fields, make)
        return asked, Job(requests, inbox.tell, asked.watched)


class Drawing:
    """One request on its way, and how its images are told."""

    def __init__(
        self, engine: Engine, kept: KeptImages, asked: Asked, inbox: Inbox, base: str
    ) -> None:
        self._engine, self._kept, self._asked = engine, kept, asked
        self._inbox, self._base = inbox, base

    async def whole(self) -> Response:
        """All images in one answer, in the order of their seeds."""
        images: list[Fields] = [{} for _ in self._asked.seeds]
        for _ in images:
            event = await self._next()
            if isinstance(event, Drawn):
                images[event.image] = await run_in_threadpool(self._image, event)
        return answer({"created": int(time.time()), "data": images, **self._shared()})

    async def stream(self, scope: Scope, receive: Receive, send: Send) -> int:
        """Previews and images as server-sent events; the number of images that were sent."""
        headers = {**HEADERS, "Content-Type": "text/event-stream"}
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw})
        sent = 0
        with contextlib.suppress(_Ended):
            async for name, content in self._events():
                sent += name == "image_generation.completed"
                await send(_event(name, content))
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        return sent

    async def _events(self) -> AsyncIterator[tuple[str, Fields]]:
        left = len(self._asked.seeds)
        while left:
            try:
                event = await self._next()
                make = self._image if isinstance(event, Drawn) else self._preview
                content = await run_in_threadpool(make, event)
            except PitstopError as error:
                yield "error", {"error": told(refusal_of(error))}
                raise _Ended from None
            left -= isinstance(event, Drawn)
            kind = "completed" if isinstance(event, Drawn) else "partial_image"
            yield f"image_generation.{kind}", {"type": f"image_generation.{kind}", **content}

    async def _next(self) -> Drawn | Moved:
        """What comes next.

        Raises:
            PitstopError: Nothing more comes.
        """
        event = await self._inbox.next()
        if isinstance(event, Drawn | Moved):
            return event
        raise event.error

    def _preview(self, event: Drawn | Moved) -> Fields:
        assert isinstance(event, Moved)
        png = self._engine.preview(event.latent)
        return {
            "index": event.image,
            "partial_image_index": sorted(self._asked.watched).index(event.step),
            "step": event.step,
            "steps": self._asked.settings.steps,
            "b64_json": base64.b64encode(png).decode(),
        }

    def _image(self, event: Drawn | Moved) -> Fields:
        asked, seed = self._asked, self._asked.seeds[event.image]
        png = self._engine.png(event.latent, asked.label, seed, asked.settings)
        if asked.by_url:
            there = f"{self._base.rstrip('/')}{IMAGES}{self._kept.add(png)}"
            return {"index": event.image, "seed": seed, "url": there}
        return {"index": event.image, "seed": seed, "b64_json": base64.b64encode(png).decode()}

    def _shared(self) -> Fields:
        manifest = self._engine.manifest
        name = manifest.label.called(self._asked.label)
        return {
            "model": manifest.model.name,
            "label": self._asked.label,
            "label_name": name,
            "settings": self._asked.settings.as_dict(),
        }


class _Ended(Exception):
    """The stream has told its error."""


def _event(name: str, content: Fields) -> Message:
    text = f"event: {name}\ndata: {json.dumps(content)}\n\n"
    return {"type": "http.response.body", "body": text.encode(), "more_body": True}


async def watched(work: Awaitable[T], receive: Receive) -> T | None:
    """What ``work`` gives, or None where the client goes before."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
