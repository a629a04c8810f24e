"""``pitstop serve`` as a process."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from bundle_helpers import toy_manifest, with_decoder, write_bundle
from cli_helpers import refused
from server_helpers import Client

PITSTOP = [sys.executable, "-c", "from pitstop.cli import main; main(prog_name='pitstop')"]
WITHOUT = """
import sys
class Without:
    def find_spec(self, name, path=None, target=None):
        if name == missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Without())
"""


@contextlib.contextmanager
def started(*arguments: object) -> Iterator[tuple[subprocess.Popen[str], Client]]:
    """The command, once it says where it listens."""
    command = [*PITSTOP, "serve", *map(str, arguments), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout, process.stderr:
        try:
            found = re.search(r"http://127\.0\.0\.1:(\d+)/", process.stdout.readline())
            assert found is not None, process.stderr.read()
            yield process, Client(int(found[1]))
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "toy", toy_manifest(split=True))


@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_until_it_is_told_to_leave(toy: Path, asked: signal.Signals) -> None:
    with started(toy, "--threads", 1) as (process, client):
        assert client.ask("GET", "/ready")[0] == 200
        assert client.pngs({"label": "shoe", "steps": 2})[0].startswith(b"\x89PNG")

        process.send_signal(asked)

        assert process.wait(30) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_a_token_is_read_from_a_file(toy: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("0123456789abcdef\n")
    with started(toy, "--token", tmp_path / "token") as (_, client):
        assert client.post({"label": 0, "steps": 2})[0] == 401
        token = {"Authorization": "Bearer 0123456789abcdef"}
        assert client.post({"label": 0, "steps": 2}, **token)[0] == 200


@pytest.mark.parametrize("content", ["", "short", "two words that are long enough", None])
def test_a_file_without_a_token_is_refused(toy: Path, tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "token").write_text(content)
    line = refused("serve", toy, "--token", tmp_path / "token")
    assert "openssl rand -hex 32" in line or "cannot be read" in line


def test_a_port_that_is_taken_is_refused(toy: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = refused("serve", toy, "--port", port)
    assert f"127.0.0.1 port {port} cannot be listened at" in line
    assert "port 0 takes any that is free" in line


def test_a_bundle_whose_images_cannot_be_shown_is_refused(tmp_path: Path) -> None:
    manifest = with_decoder(toy_manifest())
    del manifest.graphs["decoder.fp32"]  # type: ignore[attr-defined]
    line = refused("serve", write_bundle(tmp_path / "latents", manifest))
    assert "has no decoder" in line
    assert "--vae DIR" in line


@pytest.mark.parametrize("missing", ["starlette", "uvicorn", "prometheus_client"])
def test_without_its_packages_it_says_what_to_install(toy: Path, missing: str) -> None:
    code = f"missing = {missing!r}\n{WITHOUT}\n{PITSTOP[2]}"
    command = [sys.executable, "-c", code, "serve", str(toy)]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert f"needs the package {missing}" in done.stderr
    assert "pip install 'pitstop[serve]'" in done.stderr
