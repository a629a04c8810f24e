"""Where what the drawing thread tells of a job is read, in the server's own loop."""

from __future__ import annotations

import asyncio
from collections import deque

from .job import Drawn, Event, Moved


class Inbox:
    """The events of one job; of the previews of an image that nobody read, the newest alone."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._previews: dict[int, Moved] = {}
        self._ends: deque[Event] = deque()
        self._awake = asyncio.Event()

    def tell(self, event: Event) -> None:
        """Put an event in, from any thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._put, event)

    async def next(self) -> Event:
        """The next event, as soon as there is one."""
        while not self._previews and not self._ends:
            self._awake.clear()
            await self._awake.wait()
        if self._previews:
            return self._previews.pop(next(iter(self._previews)))
        return self._ends.popleft()

    def _put(self, event: Event) -> None:
        if isinstance(event, Moved):
            self._previews[event.image] = event
        else:
            if isinstance(event, Drawn):
                self._previews.pop(event.image, None)
            self._ends.append(event)
        self._awake.set()
