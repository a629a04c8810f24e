"""A server of a toy bundle on a thread of this process, and a client of the standard library."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pitstop.runtime.backend import SessionOptions
from pitstop.server.engine import Engine
from pitstop.server.serve import Service, Serving

ONE_THREAD = SessionOptions(threads=1)


@dataclass
class Client:
    """Asks a server.

    Attributes:
        port: Of this machine.
        service: Where the server is in this process.
    """

    port: int
    service: Service | None = None

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | str | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of one answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()

    def post(self, fields: Any, **headers: str) -> tuple[int, dict[str, str], bytes]:
        """Ask for images."""
        body = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
        there = {"Content-Type": "application/json", **headers}
        return self.ask("POST", "/v1/images/generations", body, there)

    def pngs(self, fields: Any) -> list[bytes]:
        """The files of the images that are asked for."""
        status, _, body = self.post(fields)
        assert status == 200, body
        return [base64.b64decode(one["b64_json"]) for one in json.loads(body)["data"]]

    def refused(self, fields: Any, status: int = 400, **headers: str) -> dict[str, Any]:
        """The error of a request that must not be served."""
        found, _, body = self.post(fields, **headers)
        assert found == status, body
        error: dict[str, Any] = json.loads(body)["error"]
        return error

    def metrics(self) -> str:
        return self.ask("GET", "/metrics")[2].decode()

    def figure(self, name: str) -> float:
        """One of the metrics; 0 where nothing was counted yet."""
        lines = [line.split() for line in self.metrics().splitlines()]
        return sum(float(line[1]) for line in lines if line[0] == name)

    def wait_for(self, name: str, value: float) -> None:
        """Wait until one of the metrics is what it must become."""
        until = time.monotonic() + 30
        while (found := self.figure(name)) != value:
            assert time.monotonic() < until, f"{name} is {found}"
            time.sleep(0.01)


@contextlib.contextmanager
def serving(engine: Engine, **how: Any) -> Iterator[Client]:
    """A server of an engine, for the length of the block."""
    service = Service(engine, Serving(port=0, **{"grace": 5.0, **how}))
    ready = threading.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def run() -> None:
        loops.append(asyncio.get_running_loop())
        await service.run(ready.set, signals=False)

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    try:
        assert ready.wait(30)
        yield Client(service.address[1], service)
    finally:
        if not loops[0].is_closed():
            with contextlib.suppress(RuntimeError):
                loops[0].call_soon_threadsafe(service.leave)
        thread.join(30)
        assert not thread.is_alive()


@contextlib.contextmanager
def serving_bundle(
    bundle: Path, *, backend: str = "onnxruntime", precision: str | None = None, **how: Any
) -> Iterator[Client]:
    """A server of a bundle, for the length of the block."""
    with (
        Engine.open(bundle, backend=backend, precision=precision, options=ONE_THREAD) as engine,
        serving(engine, **how) as client,
    ):
        yield client
