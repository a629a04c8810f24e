"""Serve a bundle until the process is told to leave."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from .. import OptionError
from .app import make_app
from .asked import Limits
from .batcher import STEP, Batcher
from .engine import Engine
from .guard import is_local
from .metrics import Metrics
from .protocol import BoundedProtocol

LINGER = 2.0  # seconds after the last answer, for clients to take it
BACKLOG = 128  # connections that the system holds until they are taken
LEAST_TOKEN = 16  # bytes


@dataclass(frozen=True)
class Serving:
    """How a bundle is served.

    Attributes:
        host: That is listened at.
        port: 0 for any that is free.
        queue: Jobs that may wait.
        batching: ``step`` or ``request``.
        token: That clients must send, or None.
        grace: Seconds for what was taken when the server is told to leave.
        limits: Of one request.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    queue: int = 64
    batching: str = STEP
    token: bytes | None = None
    grace: float = 30.0
    limits: Limits = field(default_factory=Limits)


class Server(uvicorn.Server):
    """uvicorn, without its hands on the signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Service:
    """A bundle behind a port, from `run` until `leave`."""

    def __init__(self, engine: Engine, serving: Serving) -> None:
        """Listen, so that a port that cannot be had is told at once.

        Args:
            engine: What draws; it is not closed here.
            serving: How.

        Raises:
            OptionError: The port cannot be had.
        """
        self._serving, metrics = serving, Metrics()
        self._listener = listen(serving.host, serving.port)
        self.address: tuple[str, int] = self._listener.getsockname()[:2]
        self.batcher = Batcher(
            engine.loop,
            engine.manifest.batch,
            batching=serving.batching,
            queue=serving.queue,
            on_call=metrics.called,
        )
        metrics.watch(self.batcher)
        app = make_app(
            engine,
            self.batcher,
            metrics,
            limits=serving.limits,
            token=serving.token,
            local=is_local(serving.host),
        )
        self._server = Server(_config(app, serving.grace + LINGER))

    async def run(self, on_ready: Callable[[], None], *, signals: bool = True) -> None:
        """Serve; what was taken is finished before this returns.

        Args:
            on_ready: Called when clients may come.
            signals: Whether SIGTERM and SIGINT call `leave`.
        """
        loop = asyncio.get_running_loop()
        for one in (signal.SIGTERM, signal.SIGINT) if signals else ():
            loop.add_signal_handler(one, self.leave)
        self.batcher.start()
        try:
            self._listener.listen(BACKLOG)  # who comes from now on is served
            on_ready()
            await self._server.serve([self._listener])
        finally:
            self._listener.close()
            await loop.run_in_executor(None, self.batcher.close)

    def leave(self) -> None:
        """Take no more, and go when what was taken is done, or after the grace; in `run`'s loop.

        Who asks twice does not want to wait.
        """
        if self._server.should_exit:
            self.batcher.abandon()
        self.batcher.leave()
        self._server.should_exit = True
        asyncio.get_running_loop().call_later(self._serving.grace, self.batcher.abandon)


def _config(app: ASGIApp, seconds: float) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=BoundedProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="critical",
        access_log=False,
        proxy_headers=False,
        backlog=BACKLOG,
        server_header=False,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=max(1, round(seconds)),
    )


def listen(host: str, port: int) -> socket.socket:
    """A socket that clients can connect to.

    Raises:
        OptionError: The address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OptionError(
            f"{host} port {port} cannot be listened at ({error.strerror or error})",
            "Choose another with `--host` and `--port`; port 0 takes any that is free",
        ) from error
    return listener


def read_token(path: Path) -> bytes:
    """The token in a file, without the white space around it.

    Raises:
        OptionError: The file cannot be read, or holds no token.
    """
    try:
        token = path.read_bytes()[:4096].strip()
    except OSError as error:
        raise OptionError(
            f"{path} cannot be read ({error.strerror or error})", "Choose another with `--token`"
        ) from error
    if len(token) < LEAST_TOKEN or not token.isascii() or len(token.split()) != 1:
        raise OptionError(
            f"{path} holds no token of {LEAST_TOKEN} letters or more in one word",
            f"Make one with: openssl rand -hex 32 > {path}",
        )
    return token
