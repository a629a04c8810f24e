"""``pitstop serve``: a bundle behind HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .inputs import check_input
from .options import backend_option, precision_option, session_options
from .printing import console, messages

if TYPE_CHECKING:
    from ..runtime.backend import SessionOptions
    from ..server.engine import Engine


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path), callback=check_input)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 for any."
)
@click.option(
    "--queue",
    type=click.IntRange(1, 10_000),
    default=64,
    show_default=True,
    help="Requests that may wait; the next gets 429 with Retry-After.",
)
@click.option(
    "--token",
    "token_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    callback=check_input,
    help="Serve those alone who send the token in FILE.",
)
@click.option(
    "--grace",
    type=click.FloatRange(0, 3600),
    default=30.0,
    show_default=True,
    help="Seconds for what was taken, after SIGTERM.",
)
@click.option(
    "--batching",
    type=click.Choice(["step", "request"]),
    default="step",
    show_default=True,
    help="step: an image joins at any step; request: when all before it are drawn.",
)
@click.option(
    "--max-images",
    type=click.IntRange(1, 1024),
    default=16,
    show_default=True,
    help="Of one request.",
)
@click.option(
    "--max-steps",
    type=click.IntRange(1, 100_000),
    default=250,
    show_default=True,
    help="Of one image.",
)
@precision_option
@backend_option
@session_options
def serve(
    bundle: Path,
    host: str,
    port: int,
    queue: int,
    token_file: Path | None,
    grace: float,
    batching: str,
    max_images: int,
    max_steps: int,
    precision: str | None,
    backend: str,
    options: SessionOptions,
) -> None:
    """Draw images with BUNDLE for clients of OpenAI's images API.

    The images of all requests share the denoiser's calls, whatever their steps, samplers and
    guidance, and each is what `pitstop generate` draws.

    Example: pitstop serve fashion.bundle --port 8000
    """
    import asyncio

    from ..server.asked import Limits
    from ..server.engine import Engine
    from ..server.guard import is_local
    from ..server.serve import Service, Serving, read_token

    token = None if token_file is None else read_token(token_file)
    if token is None and not is_local(host):
        messages.print(f"note: anyone who reaches {host} is served; --token FILE asks for a token")
    serving = Serving(host, port, queue, batching, token, grace, Limits(max_images, max_steps))
    with Engine.open(bundle, backend=backend, precision=precision, options=options) as engine:
        service = Service(engine, serving)
        asyncio.run(service.run(lambda: _print(engine, *service.address)))


def _print(engine: Engine, host: str, port: int) -> None:
    opened = engine.opened
    name = f"[{host}]" if ":" in host else host
    drawn_by = f"{engine.manifest.model.name}, {opened.precision}, {opened.chosen.name}"
    console.print(f"{drawn_by}: http://{name}:{port}/")
