"""Clients that are wrong, slow, many or gone: each gets a sentence, and the loop goes on."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from bundle_helpers import FakeSession, toy_manifest, write_bundle
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from server_helpers import ONE_THREAD, Client, serving, serving_bundle

from pitstop.runtime.session import Array
from pitstop.server.asked import FIELDS
from pitstop.server.engine import Engine
from pitstop.server.kept import KeptImages
from pitstop.server.protocol import BoundedProtocol

SMALL = {"label": 1, "seed": 7, "steps": 3}
WENT = 'pitstop_answers_total{status="499"}'
TOKEN = b"0123456789abcdef"
LEAKS = ("Traceback", "site-packages", " object at ", "pitstop/")


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("abuse") / "toy", toy_manifest(batch=4))


@pytest.fixture(scope="module")
def client(toy: Path) -> Iterator[Client]:
    with serving_bundle(toy) as client:
        yield client


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**40), 10**40)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["shoe", "ddim", "auto", "8x8", "url", "0:500", "toy"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)
fields = st.dictionaries(st.sampled_from([*FIELDS, "quality", "", "__class__"]), values, max_size=8)
bodies = st.one_of(
    st.binary(max_size=200),
    values.map(lambda value: json.dumps(value).encode()),
    fields.map(lambda some: json.dumps(some).encode()),
    fields.map(lambda some: json.dumps({**SMALL, **some, "steps": 2}).encode()[:-1]),
    st.integers(1, 2000).map(lambda depth: b"[" * depth),
    st.integers(4000, 6000).map(lambda digits: b'{"n": ' + b"9" * digits + b"}"),
)


def is_answered_well(client: Client, body: bytes) -> None:
    status, _, content = client.post(body)
    assert status == 200 or 400 <= status < 500, (body, content)
    if status != 200:
        error = json.loads(content)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert "\n" not in error["message"]
        assert len(error["message"]) < 600
        assert error["message"].endswith(".")
        assert not any(leak in error["message"] for leak in LEAKS)


@given(body=bodies)
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_malformed_requests_get_a_sentence(client: Client, body: bytes) -> None:
    is_answered_well(client, body)


@pytest.mark.slow
@given(body=bodies)
@settings(max_examples=3000, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_thousands_of_malformed_requests_get_a_sentence(client: Client, body: bytes) -> None:
    is_answered_well(client, body)


@given(path=st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=40))
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_path_leads_to_a_file(client: Client, path: str) -> None:
    quoted = re.sub(r"[^\w./%-]", "_", path)
    assert client.ask("GET", f"/v1/images/by-id/{quoted}")[0] == 404


@pytest.mark.parametrize(
    "path",
    [
        "/v1/images/by-id/../../../etc/passwd",
        "/v1/images/by-id/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/v1/images/by-id/",
        "/v1/images/by-id/a/",
        "/health/",
        "/v1/images/by-id/" + "a" * 5000,
        "//etc/passwd",
        "/nothing",
    ],
)
def test_tricks_with_paths_find_nothing(client: Client, path: str) -> None:
    status, _, body = client.ask("GET", path)
    assert status == 404
    assert json.loads(body)["error"]["message"].endswith(".")


def test_another_method_says_which_there_is(client: Client) -> None:
    status, headers, _ = client.ask("GET", "/v1/images/generations")
    assert (status, headers["allow"]) == (405, "POST")


def test_a_large_body_is_refused_before_it_is_read(client: Client) -> None:
    head = b"POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\n"
    sized = head + b"Content-Type: application/json\r\nContent-Length: 1000000000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", client.port), timeout=30) as connection:
        connection.sendall(sized)
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_a_large_body_that_does_not_say_its_size_is_refused(client: Client) -> None:
    headers = {"Content-Type": "application/json", "Transfer-Encoding": "chunked"}
    chunks = b"".join(b"4000\r\n" + b" " * 0x4000 + b"\r\n" for _ in range(5)) + b"0\r\n\r\n"
    assert client.ask("POST", "/v1/images/generations", chunks, headers)[0] == 413


def test_a_page_of_another_site_cannot_ask(client: Client) -> None:
    """A form sends no JSON, and a name that was bent to this machine is not localhost."""
    assert client.refused(SMALL, 415, **{"Content-Type": "text/plain"})
    assert client.refused(SMALL, 421, Host="evil.example:80")
    assert client.ask("GET", "/health", headers={"Host": "localhost:1"})[0] == 200


@pytest.mark.parametrize("given", ["", "Bearer ", "Bearer wrong", "Basic 0123456789abcdef", "\xff"])
def test_without_the_token_nothing_is_drawn_or_told(toy: Path, given: str) -> None:
    with serving_bundle(toy, token=TOKEN) as client:
        error = client.refused(SMALL, 401, Authorization=given)
        assert "Authorization: Bearer TOKEN" in error["message"]
        for path in ("/metrics", "/v1/models", "/openapi.json", "/nothing"):
            assert client.ask("GET", path)[0] == 401
        assert client.ask("GET", "/health")[0] == 200
        status, _, _ = client.post(SMALL, Authorization=f"Bearer {TOKEN.decode()}")
        assert status == 200


class SlowSession(FakeSession):
    """A denoiser that waits until it may answer."""

    def __init__(self) -> None:
        super().__init__()
        self.may = threading.Event()

    def run(self, feeds: dict[str, Array]) -> dict[str, Array]:  # type: ignore[override]
        assert self.may.wait(30)
        self.calls.append(feeds)
        gain = (1 + feeds["label"].reshape(-1, 1, 1, 1)) * np.float32(0.2)
        return {"prediction": (feeds["latent"] * gain).astype(np.float32)}


@contextlib.contextmanager
def slow(toy: Path, **how: object) -> Iterator[tuple[Client, SlowSession]]:
    """A server whose denoiser waits."""
    with Engine.open(toy, backend="onnxruntime", options=ONE_THREAD) as engine:
        session = SlowSession()
        engine.loop._session = session  # type: ignore[assignment]
        try:
            with serving(engine, **how) as client:
                yield client, session
                session.may.set()
        finally:
            session.may.set()


def in_background(client: Client, fields: object) -> socket.socket:
    """A request whose answer nobody waits for yet."""
    body = json.dumps(fields).encode()
    connection = socket.create_connection(("127.0.0.1", client.port), timeout=30)
    connection.sendall(
        b"POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    return connection


def test_a_full_queue_says_when_to_ask_again(toy: Path) -> None:
    with slow(toy, queue=2) as (client, session), contextlib.ExitStack() as held:
        held.enter_context(in_background(client, {**SMALL, "n": 4, "cfg_scale": 1}))
        client.wait_for("pitstop_in_flight", 4)
        for waiting in (1, 2):
            held.enter_context(in_background(client, SMALL))
            client.wait_for("pitstop_queue", waiting)

        status, headers, body = client.post(SMALL)

        assert (status, headers["retry-after"].isdecimal()) == (429, True)
        assert json.loads(body)["error"]["message"].startswith("The queue is full. Ask again in")
        session.may.set()
        client.wait_for("pitstop_in_flight", 0)
        assert client.post(SMALL)[0] == 200


def test_the_rows_of_a_client_that_goes_leave(toy: Path) -> None:
    with slow(toy) as (client, session):
        gone = in_background(client, {**SMALL, "steps": 200, "n": 4})
        client.wait_for("pitstop_in_flight", 2)
        gone.close()
        client.wait_for(WENT, 1)
        session.may.set()
        client.wait_for("pitstop_in_flight", 0)

        assert client.figure("pitstop_queue") == 0
        assert len(session.calls) < 150


def test_the_rows_of_a_stream_that_is_cut_leave(toy: Path) -> None:
    with slow(toy) as (client, session):
        gone = in_background(client, {**SMALL, "steps": 200, "stream": True})
        assert gone.recv(20).startswith(b"HTTP/1.1 200")
        gone.close()
        client.wait_for(WENT, 1)
        session.may.set()
        client.wait_for("pitstop_in_flight", 0)
        assert len(session.calls) < 150


def test_an_image_that_leaves_the_finite_numbers_ends_its_request_alone(toy: Path) -> None:
    with slow(toy) as (client, session), ThreadPoolExecutor(2) as clients:
        good = clients.submit(client.pngs, {**SMALL, "cfg_scale": 1, "steps": 20})
        client.wait_for("pitstop_in_flight", 1)
        bad = clients.submit(client.refused, {**SMALL, "cfg_scale": 1e38, "steps": 20}, 422)
        client.wait_for("pitstop_queue", 1)
        session.may.set()
        company = good.result()

        assert "left the finite numbers" in bad.result()["message"]
        assert company == client.pngs({**SMALL, "cfg_scale": 1, "steps": 20})


def test_a_denoiser_that_fails_ends_its_requests_and_not_the_loop(
    toy: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with slow(toy) as (client, session):
        session.may.set()
        run = session.run
        session.run = lambda feeds: 1 / 0  # type: ignore[assignment]
        error = client.refused(SMALL, 500)
        session.run = run  # type: ignore[method-assign]

        assert error["message"] == "The server failed at this request. Its log says at what."
        assert error["type"] == "server_error"
        assert client.post(SMALL)[0] == 200
        assert client.ask("GET", "/health")[0] == 200
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_what_was_taken_is_finished_when_the_server_leaves(toy: Path) -> None:
    with slow(toy) as (client, session):
        taken = in_background(client, SMALL)
        client.wait_for("pitstop_in_flight", 1)
        later = threading.Timer(0.5, session.may.set)
        later.start()
    assert taken.recv(20).startswith(b"HTTP/1.1 200")
    taken.close()
    later.join()


def test_what_outlasts_the_grace_is_told_so(toy: Path) -> None:
    with Engine.open(toy, backend="onnxruntime", options=ONE_THREAD) as engine:
        session = SlowSession()
        engine.loop._session = session  # type: ignore[assignment]
        with serving(engine, grace=0.2) as client:
            taken = in_background(client, SMALL)
            client.wait_for("pitstop_in_flight", 1)
            threading.Timer(1.0, session.may.set).start()
    assert taken.recv(20).startswith(b"HTTP/1.1 503")
    taken.close()


def test_who_does_not_finish_asking_is_let_go(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BoundedProtocol, "seconds", 0.3)
    for sent in (b"", b"GET /health HT", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", client.port), timeout=10) as connection:
            connection.sendall(sent)
            if sent.endswith(b"\r\n\r\n"):  # and then begins with another request
                assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")
                connection.sendall(b"GET ")
            with contextlib.suppress(ConnectionResetError):
                while connection.recv(4096):
                    pass
    assert client.ask("GET", "/health")[0] == 200


def test_who_does_not_finish_a_body_is_told_so(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pitstop.server.body.SECONDS", 0.3)
    with socket.create_connection(("127.0.0.1", client.port), timeout=10) as connection:
        connection.sendall(
            b"POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: 50\r\n\r\n{"
        )
        assert connection.recv(4096).startswith(b"HTTP/1.1 408 ")


def test_a_connection_too_many_is_told_so(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BoundedProtocol, "most", 20)
    with contextlib.ExitStack() as open_ones:
        for _ in range(60):
            open_ones.enter_context(socket.create_connection(("127.0.0.1", client.port)))
        last = open_ones.enter_context(socket.create_connection(("127.0.0.1", client.port), 10))
        assert last.recv(4096).startswith(b"HTTP/1.1 503 ")
    until = time.monotonic() + 10
    while time.monotonic() < until:
        with contextlib.suppress(OSError):
            if client.ask("GET", "/health")[0] == 200:
                return
    pytest.fail("the server does not answer any more")


def test_garbage_instead_of_http_is_refused(client: Client) -> None:
    with socket.create_connection(("127.0.0.1", client.port), timeout=10) as connection:
        connection.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 400 ")


def test_images_are_kept_for_a_while_and_within_bounds() -> None:
    clock = [0.0]
    kept = KeptImages(seconds=10, most_bytes=100, now=lambda: clock[0])
    first, second = kept.add(b"x" * 60), kept.add(b"y" * 40)
    assert kept.find(first) == b"x" * 60

    third = kept.add(b"z")
    assert [kept.find(name) for name in (first, second, third)] == [None, b"y" * 40, b"z"]

    clock[0] = 10.0
    assert kept.find(second) is kept.find(third) is None
    assert len(first) == 43
