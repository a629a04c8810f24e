"""Engines of the shipped model, built and run on a GPU, beside ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from gpu_helpers import TOLERANCE, on_cpu, some_feeds

from pitstop.export.engines.build import BuildOptions, Built, build_engines
from pitstop.runtime.backend import SessionOptions
from pitstop.runtime.backends import builder_names, import_builder
from pitstop.runtime.bundle.folder import Bundle
from pitstop.runtime.devices.cuda import Cuda, as_fed, import_cudart
from pitstop.runtime.devices.engine_check import why_not_here
from pitstop.runtime.devices.engine_session import EngineSession, load_engine
from pitstop.runtime.distance import relative_l2
from pitstop.runtime.machine.driver import read_driver

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module", params=builder_names())
def name(request: pytest.FixtureRequest) -> str:
    if why := import_builder(request.param).why_not():
        pytest.skip(why)
    return str(request.param)


@pytest.fixture(scope="module", params=list(TOLERANCE))
def built(request: pytest.FixtureRequest, demo: Bundle, name: str) -> Built:
    """The denoiser's engine."""
    return build_engines(demo.folder, BuildOptions(name, request.param))[0]


@pytest.fixture
def session(demo: Bundle, name: str, built: Built) -> Iterator[EngineSession]:
    """The engine alone on a stream of its own."""
    engine = load_engine(import_builder(name).import_library(), built.engine.plan)
    spec = demo.manifest.graphs[built.engine.key.graph]
    opened = EngineSession(engine, spec, Cuda(import_cudart()), name)
    yield opened
    opened.close()


def test_the_key_says_what_this_machine_is(demo: Bundle, name: str, built: Built) -> None:
    [gpu, *_] = read_driver().gpus

    assert built.engine.key.compute_capability == gpu.compute_capability
    assert built.engine.key.gpu == (gpu.name if import_builder(name).MEASURES else "")
    assert why_not_here(demo, built.engine) is None


def test_an_engine_predicts_what_the_cpu_does(
    demo: Bundle, built: Built, session: EngineSession
) -> None:
    feeds = some_feeds(session.spec)

    found = session.run(feeds)["prediction"]

    wanted = on_cpu(demo, session.spec, feeds)
    assert relative_l2(wanted, found) <= TOLERANCE[built.engine.key.precision]


def test_the_same_feeds_give_the_same_bytes(session: EngineSession) -> None:
    feeds = some_feeds(session.spec)

    first, second = (session.run(feeds)["prediction"].tobytes() for _ in range(2))

    assert first == second


def test_a_captured_call_predicts_what_a_plain_one_does(session: EngineSession) -> None:
    cuda = session._cuda
    wanted = session.run(some_feeds(session.spec, seed=1))["prediction"]
    assert session.is_capturable()

    graph = cuda.capture(session.enqueue)
    session.run(some_feeds(session.spec))  # the last call before is of other feeds
    for tensor in session.spec.inputs:
        fed = as_fed(some_feeds(session.spec, seed=1)[tensor.name], tensor.dtype)
        cuda.upload(session.places[tensor.name], fed)
    cuda.launch(graph)
    found = np.empty_like(wanted)
    cuda.download(found, session.places["prediction"])
    cuda.wait()

    np.testing.assert_array_equal(found, wanted)


def test_the_backend_finds_what_was_built(demo: Bundle, name: str, built: Built) -> None:
    graph = demo.graph(built.engine.key.graph)
    spec = graph.spec
    opened = import_builder(name).open_graph(graph, SessionOptions())

    found = opened.run(some_feeds(spec))["prediction"]
    opened.close()

    wanted = on_cpu(demo, spec, some_feeds(spec))
    assert relative_l2(wanted, found) <= TOLERANCE[built.engine.key.precision]
    assert read_driver().gpus[0].name in opened.device
