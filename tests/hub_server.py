"""A small hub on the loopback address: the few answers that huggingface_hub asks for."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LISTS = re.compile(r"/api/models/([^/]+/[^/]+)/revision/([^/?]+)")
FILES = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
TERMS = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to this model is restricted"}


@dataclass
class Hub:
    """What it serves, and what it was asked for.

    Attributes:
        url: Where it is.
        repositories: The folder of each, by name.
        gated: Names whose files nobody may have.
        asked: Method and path of every request.
        answer: A status for all requests, or None.
        listing: What it says instead of a repository's list, or None.
        headers: Of files, in the place of its own; one of None is left out.
        files: A status for all files, or None.
    """

    url: str = ""
    repositories: dict[str, Path] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    asked: list[tuple[str, str]] = field(default_factory=list)
    answer: int | None = None
    listing: bytes | None = None
    headers: dict[str, str | None] = field(default_factory=dict)
    files: int | None = None

    def fetched(self) -> set[str]:
        """The names of the files that were sent."""
        matches = (FILES.fullmatch(path) for method, path in self.asked if method == "GET")
        return {match[3] for match in matches if match}


def _answer_of(hub: Hub, path: str) -> tuple[int, dict[str, str], bytes]:
    if hub.answer is not None:
        return hub.answer, {}, b""
    match = LISTS.fullmatch(path) or FILES.fullmatch(path)
    if match is None:
        return 404, {}, b""
    folder = hub.repositories.get(match[1])
    if folder is None:
        return 401, {"X-Error-Code": "RepoNotFound"}, b""
    if match[2] not in {"main", "v1", COMMIT}:
        return 404, {"X-Error-Code": "RevisionNotFound"}, b""
    if match.re is LISTS and hub.listing is not None:
        return 200, {"Content-Type": "text/html"}, hub.listing
    if match.re is LISTS:
        names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
        told: dict[str, Any] = {"id": match[1], "modelId": match[1], "sha": COMMIT, "tags": []}
        told |= {"private": False, "downloads": 0, "siblings": [{"rfilename": n} for n in names]}
        return 200, {"Content-Type": "application/json"}, json.dumps(told).encode()
    if hub.files is not None:
        return hub.files, {}, b""
    if match[1] in hub.gated:
        return 403, TERMS, b""
    if not (folder / match[3]).is_file():
        return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, b""
    content = (folder / match[3]).read_bytes()
    etag = f'"{hashlib.sha1(content).hexdigest()}"'
    own = {"ETag": etag, "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
    headers = {k: v for k, v in {**own, **hub.headers}.items() if v is not None}
    return 200, headers, content


@contextlib.contextmanager
def served(*, token: str | None = None) -> Iterator[Hub]:
    """Run a hub; a request with another ``token`` than this one is not let in."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            hub.asked.append((self.command, self.path))
            status, headers, content = _answer_of(hub, self.path)
            given = self.headers.get("Authorization")
            if given is not None and given != f"Bearer {token}":
                status, content = 401, b""
                headers = {"X-Error-Message": "Invalid credentials in Authorization header"}
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET

        def log_message(self, *said: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def use(monkeypatch: pytest.MonkeyPatch, hub: Hub, cache: Path) -> None:
    """Let huggingface_hub, which reads the environment once, go to a hub and have a cache."""
    from huggingface_hub import constants, utils

    utils.close_session()
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "no-token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
