"""Minutes of clients that draw, go away, and ask wrongly, and how the server's memory grows.

A server of the demo as a process of its own. Its memory is read from /proc after a warm-up and at
the end; at the end it must be idle, answer, and have had no answer of 500.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import re
import socket
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import click
from record import record
from serve import server

from pitstop.export.pipeline import export_bundle

CLIENTS = 4
MOST_GROWTH = 0.02
WRONG = (
    b"",
    b"{",
    b"[]",
    b'{"label": 99}',
    b'{"label": 1, "steps": 1e9}',
    b"\xff" * 99,
    b"[" * 9999,
)


@click.command()
@click.option("--minutes", default=10.0, show_default=True)
@click.option("--bundle", type=click.Path(path_type=Path), help="Exported before; else the demo.")
@click.option("--backend", default="auto", show_default=True)
@click.option("--keep", is_flag=True, help="Write the figures to results/serve_soak.json.")
def main(minutes: float, bundle: Path | None, backend: str, keep: bool) -> None:
    """Serve, ask, print."""
    with tempfile.TemporaryDirectory() as folder:
        if bundle is None:
            bundle = Path(folder) / "bundle"
            assert export_bundle("fashion", bundle, batch=8).passed
        with server(bundle, "step", ["--backend", backend, "--threads", "1"]) as (port, process):
            soak(port, minutes * 60 * 0.2)
            before = memory(process)
            asked = soak(port, minutes * 60 * 0.8)
            after, metrics = memory(process), idle(port)
    figures: dict[str, Any] = {
        "minutes": minutes,
        "requests": asked,
        "memory_bytes_before": before,
        "memory_bytes_after": after,
        "growth": after / before - 1,
        "answers": dict(re.findall(r'answers_total{status="(\d+)"} ([\d.]+)', metrics)),
    }
    good = figures["growth"] <= MOST_GROWTH and "500" not in figures["answers"]
    click.echo(json.dumps(figures, indent=2))
    click.echo(f"memory grows by at most {MOST_GROWTH:.0%}, no 500: {'met' if good else 'NOT MET'}")
    if keep:
        click.echo(record("serve_soak", figures))


def soak(port: int, seconds: float) -> int:
    """Ask from several threads; how many requests there were."""
    until, counts = time.monotonic() + seconds, [0] * CLIENTS

    def one(index: int) -> None:
        chance = random.Random(index)
        while time.monotonic() < until:
            counts[index] += 1
            with contextlib.suppress(OSError, http.client.HTTPException):
                ask_somehow(port, chance)

    threads = [threading.Thread(target=one, args=(index,)) for index in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts)


def ask_somehow(port: int, chance: random.Random) -> None:
    """Draw, draw and go away on the way, or ask wrongly."""
    kind = chance.choice(("draw", "go", "wrong"))
    fields = {"label": chance.randrange(10), "steps": chance.randrange(4, 20)}
    fields |= {"stream": chance.random() < 0.5, "cfg_scale": chance.choice((1, 2, 3.5))}
    body = chance.choice(WRONG) if kind == "wrong" else json.dumps(fields).encode()
    head = (
        "POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", port), timeout=120) as connection:
        connection.sendall(head.encode() + body)
        if kind == "go":
            time.sleep(chance.random() * 0.3)
            return
        while connection.recv(1 << 16):
            pass


def idle(port: int) -> str:
    """The metrics, once nothing is in flight."""
    until = time.monotonic() + 60
    while True:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
        if "pitstop_in_flight 0.0" in text and "pitstop_queue 0.0" in text:
            return text
        assert time.monotonic() < until, "the server does not come to rest"
        time.sleep(0.2)


def memory(process: int) -> int:
    """Resident bytes."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
