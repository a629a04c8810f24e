"""Which backend ``auto`` takes, and what it says of it."""

from __future__ import annotations

import platform
from collections.abc import Iterable

import pytest
from bundle_helpers import one_line

from pitstop import BackendUnavailable
from pitstop.runtime import backends
from pitstop.runtime.backend import SessionOptions
from pitstop.runtime.backends import (
    backend_names,
    candidates,
    choose_backend,
    import_backend,
    load_backend,
    onnxruntime,
)

ALL = ["onnxruntime", "openvino", "tensorrt", "tensorrt-rtx"]


class Installed:
    """A backend that can run here, or not: no machine has all of them, with and without a GPU."""

    def __init__(self, name: str, reason: str | None) -> None:
        self.reason = reason
        self.rank = import_backend(name).rank

    def why_not(self) -> str | None:
        return self.reason


def machine(
    patch: pytest.MonkeyPatch, able: Iterable[str], *, processor: str = "x86_64", gpu: bool = False
) -> None:
    """Make this a machine where the backends in ``able`` can run."""
    found = {name: Installed(name, None if name in able else "not installed") for name in ALL}
    patch.setattr(backends, "backend_names", lambda: ALL)
    patch.setattr(backends, "import_backend", lambda name: found[name])
    patch.setattr(onnxruntime, "runs_on_gpu", lambda: gpu)
    patch.setattr(platform, "machine", lambda: processor)


@pytest.mark.parametrize(
    ("able", "processor", "gpu", "engines", "taken"),
    [
        (["onnxruntime", "openvino"], "x86_64", False, [], "openvino"),
        (["onnxruntime", "openvino"], "AMD64", False, [], "openvino"),
        (["onnxruntime"], "x86_64", False, [], "onnxruntime"),
        (["onnxruntime", "openvino"], "aarch64", False, [], "onnxruntime"),
        (["openvino"], "aarch64", False, [], "openvino"),
        (["onnxruntime", "openvino"], "x86_64", True, [], "onnxruntime"),
        (ALL, "x86_64", True, ["tensorrt-rtx"], "tensorrt-rtx"),
        (ALL, "aarch64", True, ["tensorrt-rtx", "tensorrt"], "tensorrt"),
        (ALL, "x86_64", False, [], "openvino"),
        (["onnxruntime", "openvino"], "x86_64", True, ["tensorrt"], "onnxruntime"),
    ],
)
def test_auto_takes_the_fastest_that_can_run(
    monkeypatch: pytest.MonkeyPatch,
    able: list[str],
    processor: str,
    gpu: bool,
    engines: list[str],
    taken: str,
) -> None:
    machine(monkeypatch, able, processor=processor, gpu=gpu)

    chosen = choose_backend("auto", engines=engines)

    assert chosen.name == taken
    assert chosen.backend.why_not() is None
    assert chosen.why


def test_an_execution_provider_settles_it() -> None:
    chosen = choose_backend("auto", SessionOptions("CPUExecutionProvider"))

    assert chosen.name == "onnxruntime"
    assert chosen.why == "CPUExecutionProvider is one of its execution providers"


def test_what_was_asked_for_by_name_needs_no_reason() -> None:
    chosen = choose_backend("onnxruntime")

    assert (chosen.name, chosen.why) == ("onnxruntime", "")
    assert chosen.backend is load_backend("onnxruntime") is import_backend("onnxruntime")


def test_where_none_can_run_each_says_why_once(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, [])

    with pytest.raises(BackendUnavailable) as told:
        choose_backend("auto")

    for name in ("onnxruntime", "openvino"):
        assert one_line(told.value).count(f"The {name} backend cannot run here") == 1


@pytest.mark.parametrize("name", backend_names())
def test_every_backend_says_where_it_stands_and_why(name: str) -> None:
    rank = import_backend(name).rank(SessionOptions(), [name])

    assert rank is not None
    place, why = rank
    assert isinstance(place, int)
    assert why
    assert "\n" not in why


def test_the_others_follow_in_order_so_that_one_can_go_on_to_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine(monkeypatch, ALL, gpu=True)

    choices = candidates(SessionOptions(), engines=["tensorrt-rtx", "tensorrt"])

    assert [choice.name for choice in choices] == [
        "tensorrt",
        "tensorrt-rtx",
        "onnxruntime",
        "openvino",
    ]
    assert choices[0].why == choices[1].why == "the bundle has its engine for this GPU"
    assert choices[2].why == "it has CUDA here, and a GPU goes before a CPU"
    assert choices[3].why == "it goes before onnxruntime on x86 CPUs"


def test_an_execution_provider_leaves_no_other_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, ALL, gpu=True)

    [choice] = candidates(SessionOptions("CUDAExecutionProvider"), engines=["tensorrt"])

    assert choice.name == "onnxruntime"
