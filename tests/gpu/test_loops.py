"""Every loop that keeps the latents on a GPU draws what the host's loop draws on the CPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pitstop.export.engines.build import BuildOptions, build_engines
from pitstop.runtime.backend import SessionOptions
from pitstop.runtime.backends import builder_names, import_backend
from pitstop.runtime.backends import onnxruntime as onnxruntime_backend
from pitstop.runtime.bundle.folder import Bundle
from pitstop.runtime.distance import relative_l2
from pitstop.runtime.opened import open_denoiser
from pitstop.runtime.pipeline import Pipeline
from pitstop.runtime.sampling.request import Request
from pitstop.runtime.sampling.samplers import make_sampler
from pitstop.runtime.sampling.settings import Settings

pytestmark = pytest.mark.gpu

CPU = SessionOptions(provider=onnxruntime_backend.CPU)
CUDA = SessionOptions(provider=onnxruntime_backend.CUDA)
TOLERANCE = {"fp32": 1e-4, "fp16": 5e-2}  # relative L2 of the last latent, after eight steps


@pytest.fixture(scope="module", params=["onnxruntime", *builder_names()])
def where(request: pytest.FixtureRequest, demo: Bundle) -> str:
    """A backend that runs here, with the engines that it needs."""
    name = str(request.param)
    why = (
        onnxruntime_backend.why_not_provider(onnxruntime_backend.CUDA)
        if name == "onnxruntime"
        else import_backend(name).why_not()
    )
    if why:
        pytest.skip(why)
    if import_backend(name).NEEDS_ENGINE:
        for precision in TOLERANCE:
            build_engines(demo.folder, BuildOptions(name, precision))
    return name


@pytest.fixture(params=list(TOLERANCE))
def both(request: pytest.FixtureRequest, demo: Bundle, where: str) -> Iterator[list[Pipeline]]:
    """A pipeline on the GPU, and one on the CPU."""
    options = CUDA if where == "onnxruntime" else SessionOptions()
    with (
        open_denoiser(demo, request.param, where, options) as on_gpu,
        open_denoiser(demo, request.param, "onnxruntime", CPU) as on_cpu,
    ):
        yield [Pipeline.of(on_gpu), Pipeline.of(on_cpu)]


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpmpp_2m"])
@pytest.mark.parametrize("cfg_scale", [1.0, 2.0])
def test_a_gpu_draws_what_the_host_draws(
    both: list[Pipeline], sampler: str, cfg_scale: float
) -> None:
    on_gpu, on_cpu = both
    assert on_gpu.loop.keeps_latents

    for seeds in ([1], [2]):  # the second run replays what the first captured
        found, wanted = (
            pipeline([8], seeds=seeds, steps=8, sampler=sampler, cfg_scale=cfg_scale).latents
            for pipeline in (on_gpu, on_cpu)
        )
        assert relative_l2(wanted, found) <= TOLERANCE[on_gpu.precision]


def test_who_looks_sees_what_the_host_sees(both: list[Pipeline]) -> None:
    found, wanted = (
        pipeline.trajectories(pipeline.manifest.examples(1), [3], Settings(8, cfg_scale=2.0))
        for pipeline in both
    )

    for one, other in zip(wanted, found, strict=True):
        assert relative_l2(one, other) <= TOLERANCE[both[0].precision]


def test_rows_at_different_steps_share_calls(both: list[Pipeline]) -> None:
    manifest = both[0].manifest
    requests = [
        Request([seed], manifest.examples(1), sampler, start=start)
        for seed, start, sampler in (
            (1, 0, make_sampler("ddim", manifest.schedule, 8)),
            (2, 3, make_sampler("ddpm", manifest.schedule, 6)),
        )
    ]

    found, wanted = (pipeline.loop.draw(requests, lambda latents: None) for pipeline in both)

    for one, other in zip(wanted, found, strict=True):
        assert relative_l2(one, other) <= TOLERANCE[both[0].precision]


def test_the_same_run_twice_gives_the_same_bytes(both: list[Pipeline]) -> None:
    first, second = (both[0]([5], seeds=[7], steps=6).latents.tobytes() for _ in range(2))

    assert first == second
