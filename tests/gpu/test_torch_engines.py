"""The engines' loop on real CUDA memory, its engines played by PyTorch: captured, and not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from device_helpers import engines_in

from pitstop.runtime.backend import SessionOptions
from pitstop.runtime.backends import Choice, import_backend
from pitstop.runtime.backends import onnxruntime as onnxruntime_backend
from pitstop.runtime.bundle.folder import Bundle
from pitstop.runtime.devices.cuda import Cuda, import_cudart, why_no_cudart
from pitstop.runtime.distance import relative_l2
from pitstop.runtime.opened import OpenedBundle
from pitstop.runtime.pipeline import Pipeline
from pitstop.runtime.sampling.settings import Settings

pytestmark = pytest.mark.gpu

CPU = SessionOptions(provider=onnxruntime_backend.CPU)
TOLERANCE = {"fp32": 1e-4, "fp16": 5e-2}  # relative L2 of the last latent, after eight steps


class Opened:
    """A pipeline on engines that PyTorch plays, and what was captured for it."""

    def __init__(self, bundle: Bundle, precision: str, capturable: bool | None) -> None:
        from torch_engines import TorchEngine

        self.cuda = Cuda(import_cudart())
        self.launches = 0
        self.cuda.launch = self._launch  # type: ignore[method-assign]

        denoiser = engines_in(
            self.cuda,
            bundle.graph(f"denoiser.{precision}"),
            lambda graph: TorchEngine(graph, capturable=capturable),
        )
        chosen = Choice("onnxruntime", import_backend("onnxruntime"))
        self.pipeline = Pipeline.of(OpenedBundle(bundle, precision, denoiser, chosen, CPU))

    def _launch(self, graph: object) -> None:
        self.launches += 1
        Cuda.launch(self.cuda, graph)


@pytest.fixture(scope="module", params=list(TOLERANCE))
def precision(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=[None, False], ids=["captured", "call by call"])
def opened(request: pytest.FixtureRequest, demo: Bundle, precision: str) -> Iterator[Opened]:
    torch = pytest.importorskip("torch")
    pytest.importorskip("cupy")
    if why := why_no_cudart():
        pytest.skip(why)
    torch.backends.cudnn.allow_tf32 = False
    torch.zeros(1, device="cuda")  # PyTorch's own start is not for a capture
    found = Opened(demo, precision, request.param)
    assert found.pipeline.loop.keeps_latents
    yield found
    found.pipeline.close()


@pytest.fixture(scope="module")
def on_cpu(demo: Bundle, precision: str) -> Pipeline:
    return Pipeline.from_bundle(
        demo.folder, backend="onnxruntime", precision=precision, options=CPU
    )


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpmpp_2m"])
@pytest.mark.parametrize("cfg_scale", [1.0, 2.0])
def test_the_loop_draws_what_the_host_draws(
    opened: Opened, on_cpu: Pipeline, precision: str, sampler: str, cfg_scale: float
) -> None:
    for seeds in ([1], [2]):  # the second run replays what the first captured
        found, wanted = (
            pipeline([8], seeds=seeds, steps=8, sampler=sampler, cfg_scale=cfg_scale).latents
            for pipeline in (opened.pipeline, on_cpu)
        )
        assert relative_l2(wanted, found) <= TOLERANCE[precision]


def test_who_looks_sees_what_the_host_sees(
    opened: Opened, on_cpu: Pipeline, precision: str
) -> None:
    found, wanted = (
        pipeline.trajectories(pipeline.manifest.examples(1), [3], Settings(8, cfg_scale=2.0))
        for pipeline in (opened.pipeline, on_cpu)
    )

    for one, other in zip(wanted, found, strict=True):
        assert relative_l2(one, other) <= TOLERANCE[precision]


def test_steps_are_replayed_where_they_can_be_captured(
    opened: Opened, request: pytest.FixtureRequest
) -> None:
    before = opened.launches

    opened.pipeline([8], seeds=[1], steps=8)

    captured = "captured" in request.node.callspec.id
    assert opened.launches - before == (8 if captured else 0)
