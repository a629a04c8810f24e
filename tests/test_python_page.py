"""The examples of docs/python.md, run one after the other as a reader would."""

from __future__ import annotations

import re
from pathlib import Path

import bundle_helpers
import pytest
from bundle_helpers import toy_manifest, write_bundle

PAGE = Path(__file__).parent.parent / "docs" / "python.md"
EXAMPLE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAMES = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot",
)  # fmt: skip


def test_every_example_of_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bundle_helpers, "LABELS", NAMES)
    monkeypatch.setattr(bundle_helpers, "NULL_CLASS", len(NAMES))
    gains = ", ".join(f"{0.05 * index:.2f}" for index in range(len(NAMES) + 1))
    weights = f"<float[{len(NAMES) + 1}] gains = {{{gains}}}, float[1] drift = {{3e-4}}"
    body = bundle_helpers.CONDITIONER_BODY.replace(f"<{bundle_helpers._WEIGHTS}", weights)
    monkeypatch.setattr(bundle_helpers, "CONDITIONER_BODY", body)
    monkeypatch.chdir(tmp_path)
    write_bundle(tmp_path / "fashion.bundle", toy_manifest(split=True))
    examples = EXAMPLE.findall(PAGE.read_text())
    names: dict[str, object] = {"__name__": "examples"}

    for example in examples:
        exec(compile(example, PAGE.name, "exec", dont_inherit=True), names)

    assert len(examples) >= 9
    assert (tmp_path / "sneaker.png").exists()
    said = capsys.readouterr().out
    assert "Pipeline: toy, fp32" in said
    assert "(0, 1) ('sneaker', 'bag') ddim (2, 1, 8, 8)" in said
    assert "generator is diffusers' word | Give `seeds=[0]`" in said
    assert "10 of 20 500.0 (1, 1, 8, 8) range(0, 1)\n" in said
    assert "11 of 20" not in said
