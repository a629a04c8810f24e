"""How a bundle is opened where not everything works."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from bundle_helpers import toy_manifest, write_bundle

from pitstop import BackendUnavailable, OptionError, PitstopError
from pitstop.runtime import opened
from pitstop.runtime.backends import Choice, import_backend
from pitstop.runtime.bundle.folder import Bundle, open_bundle
from pitstop.runtime.opened import open_denoiser


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return open_bundle(write_bundle(tmp_path / "toy", toy_manifest(split=True)))


def refuse(*arguments: object) -> Any:
    raise BackendUnavailable("TensorRT cannot load it: serialization failed", "Build it again")


BROKEN: Any = SimpleNamespace(NEEDS_ENGINE=True, open_graph=refuse)
HERE = Choice("onnxruntime", import_backend("onnxruntime"), "nothing that goes before it runs here")


def with_candidates(monkeypatch: pytest.MonkeyPatch, *choices: Choice) -> None:
    monkeypatch.setattr(opened, "candidates", lambda options, engines: list(choices))


def test_auto_goes_on_where_an_engine_does_not_load_and_says_so(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_candidates(monkeypatch, Choice("tensorrt", BROKEN, "the bundle has its engine"), HERE)

    with open_denoiser(bundle) as graphs:
        assert graphs.chosen.name == "onnxruntime"
        assert graphs.chosen.why == (
            "the engine of tensorrt does not load (TensorRT cannot load it: serialization failed); "
            "nothing that goes before it runs here"
        )


def test_where_no_engine_loads_and_nothing_else_is_there_the_last_refusal_is_told(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_candidates(monkeypatch, Choice("tensorrt", BROKEN, ""), Choice("tensorrt-rtx", BROKEN, ""))

    with pytest.raises(BackendUnavailable, match="serialization failed"):
        open_denoiser(bundle)


def test_a_graph_that_a_backend_without_engines_refuses_is_refused(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one would hide a broken bundle."""
    broken: Any = SimpleNamespace(NEEDS_ENGINE=False, open_graph=refuse)
    with_candidates(monkeypatch, Choice("openvino", broken, ""), HERE)

    with pytest.raises(PitstopError, match="serialization failed"):
        open_denoiser(bundle)


def test_a_precision_that_is_not_there_is_told_before_a_backend_is_looked_for(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_candidates(monkeypatch)

    with pytest.raises(OptionError, match="no bf16 denoiser"):
        open_denoiser(bundle, "bf16")


def test_a_denoiser_whose_loop_does_not_open_is_closed(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = []
    session = SimpleNamespace(device="test", close=lambda: closed.append(1))
    backend: Any = SimpleNamespace(NEEDS_ENGINE=False, open_graph=lambda graph, options: session)
    monkeypatch.setattr(opened, "HostLoop", refuse)

    with pytest.raises(BackendUnavailable):
        opened.open_chosen(bundle, "fp32", Choice("test", backend), opened.SessionOptions())

    assert closed == [1]
