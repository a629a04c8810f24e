"""A builder of engines is one file of ``runtime/backends/``: a made-up third one is such a file."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from bundle_helpers import toy_manifest, write_bundle

from pitstop import BackendUnavailable, EngineError, OptionError
from pitstop.export.engines import build as build_file
from pitstop.export.engines.build import BuildOptions, build_engines
from pitstop.runtime import backends
from pitstop.runtime.backend import SessionOptions
from pitstop.runtime.backends import builder_names, candidates, import_builder
from pitstop.runtime.builder import BuildRequest
from pitstop.runtime.bundle import engines
from pitstop.runtime.bundle.folder import open_bundle, sha256
from pitstop.runtime.devices import engine_backend, engine_check
from pitstop.runtime.devices.engine_check import engines_here, why_not_here
from pitstop.runtime.machine.driver import Driver, Gpu
from pitstop.runtime.pipeline import Pipeline

# An engine of it is the graph itself, which ONNX Runtime runs.
ABACUS = '''
"""An abacus."""

import types
from pathlib import Path

from pitstop.runtime.backend import Place
from pitstop.runtime.backends import import_backend
from pitstop.runtime.bundle.engines import find_engine
from pitstop.runtime.bundle.folder import GraphFile
from pitstop.runtime.devices.engine_backend import key_here

NEEDS_ENGINE = True
MEASURES = False
RECIPE = 3


def why_not():
    return None


def rank(options, engines):
    return (Place.ENGINE, "its beads are ready") if "abacus" in engines else None


def why_no_library():
    return None


def import_library():
    return types.SimpleNamespace(__version__="2.5")


def cuda_major():
    return ""


def compatibility():
    return ()


def build(request, on_phase):
    on_phase("beads", 1, 1)
    Path(request.plan).write_bytes(Path(request.graph).read_bytes())


def open_graph(graph, options):
    here = key_here(graph.bundle, graph.name, "abacus", compute_capability="1.0", gpu="wood")
    engine = find_engine(graph.bundle, here)
    plan = GraphFile(engine.plan, graph.spec)
    return import_backend("onnxruntime").open_graph(plan, options)
'''


@pytest.fixture
def abacus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The file beside the others, on a machine with the GPU that it is for."""
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "abacus.py").write_text(ABACUS)
    monkeypatch.setattr(backends, "__path__", [*backends.__path__, str(tmp_path / "more")])
    driver = Driver("13.0", (Gpu("wood", "1.0", 1 << 30, integrated=False),), None)
    for file in (engine_backend, engine_check, build_file):
        monkeypatch.setattr(file, "read_driver", lambda: driver)
    monkeypatch.setattr(build_file, "build_apart", build_here)
    yield
    sys.modules.pop("pitstop.runtime.backends.abacus", None)


def build_here(request: BuildRequest, on_phase: object) -> None:
    """As the child process does, which does not know of the abacus."""
    again = BuildRequest.from_json(request.to_json())
    assert again == request
    import_builder(again.builder).build(again, lambda name, done, steps: True)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle", toy_manifest(split=True))


@pytest.mark.usefixtures("abacus")
def test_the_file_is_all_that_a_third_builder_needs(bundle: Path) -> None:
    [built] = build_engines(bundle, BuildOptions("abacus"))

    assert builder_names() == ["abacus", "tensorrt", "tensorrt-rtx"]
    assert (built.engine.key.builder, built.engine.key.builder_version) == ("abacus", "2.5")
    assert built.engine.key.recipe == 3
    opened = open_bundle(bundle)
    assert engines_here(opened, "fp32") == {"abacus"}
    assert candidates(SessionOptions(), engines=["abacus"])[0].why == "its beads are ready"
    found, wanted = (
        Pipeline.from_bundle(bundle, backend=name)([0, 2], steps=4).latents
        for name in ("abacus", "onnxruntime")
    )
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.usefixtures("abacus")
def test_auto_hashes_a_plan_once(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [built] = build_engines(bundle, BuildOptions("abacus"))
    hashed: list[Path] = []

    def told(path: Path) -> str:
        hashed.append(path)
        return sha256(path)

    monkeypatch.setattr(engines, "sha256", told)
    pipeline = Pipeline.from_bundle(bundle)

    assert pipeline.chosen is not None
    assert pipeline.chosen.name == "abacus"
    assert hashed == [built.engine.plan]


@pytest.mark.usefixtures("abacus")
def test_auto_leaves_a_plan_that_has_changed_and_says_so(bundle: Path) -> None:
    [built] = build_engines(bundle, BuildOptions("abacus"))
    content = bytearray(built.engine.plan.read_bytes())
    content[-1] ^= 1
    built.engine.plan.write_bytes(content)

    pipeline = Pipeline.from_bundle(bundle)

    assert pipeline.chosen is not None
    assert pipeline.chosen.name != "abacus"
    assert "the engine of abacus does not load" in pipeline.chosen.why
    assert "has changed since it was built" in pipeline.chosen.why
    assert "has changed" in (why_not_here(open_bundle(bundle), built.engine) or "")


@pytest.mark.usefixtures("abacus")
def test_an_engine_of_another_recipe_is_built_again(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_engines(bundle, BuildOptions("abacus"))
    monkeypatch.setattr(import_builder("abacus"), "RECIPE", 4)

    with pytest.raises(EngineError) as told:
        Pipeline.from_bundle(bundle, backend="abacus")

    assert "its build recipe is 3, here it is 4" in told.value.problem
    assert f"`pitstop build {bundle} --backend abacus --precision fp32`" in told.value.remedy
    [again] = build_engines(bundle, BuildOptions("abacus"))
    assert again.is_new


@pytest.mark.usefixtures("abacus")
def test_an_engine_of_a_builder_that_only_others_have_is_told_of(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [built] = build_engines(bundle, BuildOptions("abacus"))
    monkeypatch.setattr(backends, "__path__", backends.__path__[:1])
    opened = open_bundle(bundle)

    assert why_not_here(opened, built.engine) == "this pitstop has no backend abacus"
    assert engines_here(opened, "fp32") == set()


@pytest.mark.usefixtures("abacus")
def test_a_builder_that_measures_nothing_is_for_every_model(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [here] = build_engines(bundle, BuildOptions("abacus"))
    [ahead] = build_engines(bundle, BuildOptions("abacus", compute_capabilities=("1.0",)))

    assert here.engine.key.gpu == ""
    assert (ahead.is_new, ahead.engine) == (False, here.engine)
    monkeypatch.setattr(import_builder("abacus"), "MEASURES", True)
    [measured] = build_engines(bundle, BuildOptions("abacus"))
    assert measured.engine.key == dataclasses.replace(here.engine.key, gpu="wood")


def test_a_backend_without_engines_is_no_builder() -> None:
    with pytest.raises(OptionError) as told:
        import_builder("onnxruntime")

    assert told.value.problem == "There is no builder of engines called 'onnxruntime'"
    assert told.value.remedy == "Choose one of: tensorrt, tensorrt-rtx"


@pytest.mark.parametrize("name", builder_names())
def test_every_builder_says_what_an_engine_depends_on(name: str) -> None:
    builder = import_builder(name)

    assert isinstance(builder.RECIPE, int)
    assert isinstance(builder.MEASURES, bool)
    assert builder.cuda_major().isdecimal() or not builder.cuda_major()
    assert set(builder.compatibility()) <= {"hardware-compatible", "version-compatible"}
    if why := builder.why_no_library():
        assert "\n" not in why
        with pytest.raises(BackendUnavailable):
            build_engines(Path("no-bundle"), BuildOptions(name))
    else:
        assert builder.import_library().__version__
