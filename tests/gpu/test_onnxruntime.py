"""ONNX Runtime's providers for NVIDIA's GPUs, where they start, beside its CPU."""

from __future__ import annotations

import pytest
from gpu_helpers import TOLERANCE, on_cpu, some_feeds

from pitstop.runtime.backend import Place, SessionOptions
from pitstop.runtime.backends import onnxruntime as backend
from pitstop.runtime.bundle.folder import Bundle
from pitstop.runtime.distance import relative_l2

pytestmark = pytest.mark.gpu

TF32 = 5e-3  # of the providers that build engines, which have no option against it


@pytest.fixture(params=list(backend.GRAPH_OPTION))
def provider(request: pytest.FixtureRequest) -> str:
    if why := backend.why_not() or backend.why_not_provider(request.param):
        pytest.skip(why)
    return str(request.param)


@pytest.mark.parametrize("precision", list(TOLERANCE))
def test_a_provider_that_is_said_to_work_predicts_what_the_cpu_does(
    demo: Bundle, provider: str, precision: str
) -> None:
    graph = demo.graph(f"denoiser.{precision}")
    spec = graph.spec
    session = backend.open_graph(graph, SessionOptions(provider=provider))
    feeds = some_feeds(spec)

    found = [session.run(feeds)["prediction"] for _ in range(3)]  # plain, captured, replayed

    assert session.device == provider
    wanted = on_cpu(demo, spec, feeds)
    tolerance = TOLERANCE[precision] if provider == backend.CUDA else TF32
    assert all(relative_l2(wanted, each) <= tolerance for each in found)


def test_auto_ranks_cuda_before_a_cpu_where_it_runs() -> None:
    if why := backend.why_not() or backend.why_not_provider(backend.CUDA):
        pytest.skip(why)

    rank = backend.rank(SessionOptions(), [])

    assert rank is not None
    assert rank[0] == Place.GPU
