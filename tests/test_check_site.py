from __future__ import annotations

from pathlib import Path

import pytest
from check_site import broken_links

WHOLE = '<html><body><h1 id="top">T</h1>{}</body></html>'


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "docs").mkdir()
    (tmp_path / "index.html").write_text(WHOLE.format('<a href="docs/other.html#top">o</a>'))
    (tmp_path / "docs" / "other.html").write_text(
        WHOLE.format('<a href="../index.html">i</a><a href="https://arxiv.org/">a</a>')
    )
    return tmp_path


def test_a_whole_site_has_no_broken_link(site: Path) -> None:
    assert list(broken_links(site)) == []


@pytest.mark.parametrize(
    ("element", "said"),
    [
        ('<a href="gone.html">x</a>', "page.html links to gone.html, which is not there"),
        ('<a href="index.html#no">x</a>', "links to index.html#no, which has no such anchor"),
        ('<a href="#no">x</a>', "links to #no, which has no such anchor"),
        ('<img src="no.png">', "links to no.png, which is not there"),
        ('<script src="https://cdn.example/x.js"></script>', "x.js from the web"),
        ('<link rel="stylesheet" href="//fonts.example/x.css">', "x.css from the web"),
    ],
)
def test_what_leads_nowhere_or_to_the_web_is_named(site: Path, element: str, said: str) -> None:
    (site / "page.html").write_text(WHOLE.format(element))

    [line] = broken_links(site)

    assert said in line
