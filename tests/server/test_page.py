"""The page at ``/``: what it loads and asks for, and in a browser what a person does with it."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser_helpers import CHROMIUM, Page, browser
from bundle_helpers import toy_manifest, with_label, write_bundle
from server_helpers import Client, serving_bundle

from pitstop.server.app import PAGE
from pitstop.server.asked import FIELDS

TEXT = PAGE.read_text()
HOSTILE = "<img src=x onerror=\"document.title='broken'\">"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    manifest = with_label(toy_manifest(batch=4), names=("sneaker", "bag", HOSTILE))
    bundle = write_bundle(tmp_path_factory.mktemp("page") / "toy", manifest)
    with serving_bundle(bundle) as client:
        yield client


def test_the_page_is_one_file_that_loads_nothing_from_elsewhere(client: Client) -> None:
    status, headers, body = client.ask("GET", "/")

    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert body.decode() == TEXT
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert not re.search(r"https?://|<script src|<link rel=.stylesheet|@import", TEXT)


def test_the_page_asks_for_fields_that_there_are() -> None:
    [start] = re.findall(r"const fields = \{(.*?)\};", TEXT)
    asked = {part.split(":")[0].strip() for part in re.sub(r"\(.*?\)", "", start).split(",")}
    asked |= set(re.findall(r"fields\.(\w+) = ", TEXT))
    assert asked == {
        "label", "seed", "steps", "stream", "partial_images", "cfg_scale", "calls",
    }  # fmt: skip
    assert asked <= set(FIELDS)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


def opened(page: Page, client: Client, width: int = 1000, *, dark: bool = False) -> None:
    page.open(f"http://127.0.0.1:{client.port}/", width, dark=dark)
    page.wait_for("document.querySelectorAll('#classes button').length == 3")


@pytest.mark.slow
def test_a_person_draws_a_sneaker_and_keeps_it(page: Page, client: Client, tmp_path: Path) -> None:
    opened(page, client)
    page.value("at('steps').value = 12; at('calls').value = 5; told(); at('seed').value = 3")
    page.value("at('form').requestSubmit()")
    page.wait_for("!at('save').hidden")

    drawn = page.value("at('picture').querySelector('img').src")
    again = {"label": "sneaker", "seed": 3, "steps": 12, "calls": 5, "cfg_scale": 2.0}
    [png] = client.pngs(again)
    assert base64.b64decode(drawn.split(",")[1]) == png
    assert page.value("at('save').download") == "000003-sneaker.png"
    assert page.value("at('history').children.length") == 1
    page.value("at('seed').value = 9; at('history').children[0].click()")
    assert page.value("at('seed').value") == "3"
    assert page.value("at('calls').value") == "5"


@pytest.mark.slow
def test_all_calls_stay_all_calls_when_the_steps_change(page: Page, client: Client) -> None:
    opened(page, client)
    for steps in (80, 20, 60):
        page.value(f"at('steps').value = {steps}; told()")
        assert page.value("at('calls-said').textContent") == "all"
        assert page.value("'calls' in asked()") is False


@pytest.mark.slow
def test_escape_cancels(page: Page, client: Client) -> None:
    opened(page, client)
    page.value("at('steps').max = 250; at('steps').value = 250; told()")
    page.value("at('form').requestSubmit(); 0")
    page.press("Escape")
    page.wait_for("at('said').textContent == 'cancelled' && !at('draw').disabled")
    client.wait_for("pitstop_in_flight", 0)


@pytest.mark.slow
def test_a_name_of_a_class_is_never_markup(page: Page, client: Client) -> None:
    opened(page, client)
    assert page.value("document.querySelectorAll('#classes button')[2].textContent") == HOSTILE
    page.value("document.querySelectorAll('#classes button')[2].click()")
    page.value("at('form').requestSubmit()")
    page.wait_for("!at('save').hidden")
    assert page.value("document.title") == "pitstop"


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_fits_a_narrow_screen_in_light_and_dark(
    page: Page, client: Client, dark: bool
) -> None:
    opened(page, client, 420, dark=dark)
    assert page.value("document.documentElement.scrollWidth") <= 420
    ground = page.value("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(20, 23, 27)" if dark else "rgb(255, 255, 255)")
