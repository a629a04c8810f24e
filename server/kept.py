"""Images that wait to be fetched: in memory, for a while, under ids that nobody guesses."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable

ID_BYTES = 32


class KeptImages:
    """The newest images, each for a bounded time and all within bounded memory."""

    def __init__(
        self,
        seconds: float = 600.0,
        most_bytes: int = 128 << 20,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Keep nothing yet.

        Args:
            seconds: That an image is kept.
            most_bytes: Of all images together; the oldest go first.
            now: The time in seconds.
        """
        self.seconds, self._most_bytes, self._now = seconds, most_bytes, now
        self._images: OrderedDict[str, tuple[float, bytes]] = OrderedDict()
        self._bytes = 0

    def add(self, png: bytes) -> str:
        """Keep an image, and say its id."""
        name = secrets.token_urlsafe(ID_BYTES)
        self._images[name] = self._now() + self.seconds, png
        self._bytes += len(png)
        self._drop()
        return name

    def find(self, name: str) -> bytes | None:
        """The image of an id, where there is one."""
        self._drop()
        found = self._images.get(name)
        return None if found is None else found[1]

    def _drop(self) -> None:
        while self._images:
            until, png = next(iter(self._images.values()))
            if until > self._now() and self._bytes <= self._most_bytes:
                return
            self._images.popitem(last=False)
            self._bytes -= len(png)
