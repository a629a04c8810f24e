"""What a session is: a graph that is open on a device, arrays in and arrays out."""

from __future__ import annotations

import contextlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from .. import OptionError

Array = npt.NDArray[np.generic]


class Session(Protocol):
    """An opened graph on one device."""

    @property
    def device(self) -> str:
        """What runs it, for people: ``CPUExecutionProvider``."""

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run the graph once: input names to arrays in, output names to arrays out."""

    def close(self) -> None:
        """Give the device memory back."""


Self = TypeVar("Self", bound="Closing")


class Closing(ABC):
    """What is closed at the end of a ``with`` block."""

    @abstractmethod
    def close(self) -> None:
        """Give everything back; a second time does nothing."""

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


def was_closed() -> OptionError:
    """The error for who asks what was closed."""
    return OptionError("This bundle was closed", "Open it again to draw from it")


class SharedSession:
    """A session that threads take turns on: it has one place for what it is fed and what it gives.

    Closing waits for who is using it; whoever comes after is refused.
    """

    def __init__(self, session: Session) -> None:
        self._session: Session | None = session
        self._using = threading.RLock()
        self.device = session.device

    @contextlib.contextmanager
    def used(self) -> Iterator[Session]:
        """The session itself, for nobody else until the block ends.

        Raises:
            OptionError: It was closed.
        """
        with self._using:
            if self._session is None:
                raise was_closed()
            yield self._session

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        with self.used() as session:
            return session.run(feeds)

    def close(self) -> None:
        with self._using:
            session, self._session = self._session, None
            if session is not None:
                session.close()
