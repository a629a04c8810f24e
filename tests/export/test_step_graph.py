"""The step's graph on ONNX Runtime against guidance and samplers in Python."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import numpy as np
import pytest
from bundle_helpers import NULL_CLASS, SHAPE, toy_manifest
from tensorrt_helpers import complaints_and_plan, import_trt

from pitstop.export.step_graph import step_graph
from pitstop.graphs.graph_file import run_graph, write_graph
from pitstop.runtime.bundle.manifest import Manifest
from pitstop.runtime.distance import relative_l2
from pitstop.runtime.sampling.device_run import DeviceRun
from pitstop.runtime.sampling.forecast.forecasting import Forecasting
from pitstop.runtime.sampling.forecast.taylor import taylor_plan
from pitstop.runtime.sampling.guidance.guide import guide
from pitstop.runtime.sampling.noise import draw_noise
from pitstop.runtime.sampling.request import Request
from pitstop.runtime.sampling.sampler import Latent, Sampler
from pitstop.runtime.sampling.samplers import FLOW_SAMPLERS, make_sampler
from pitstop.runtime.sampling.samplers.ddpm import Ddpm
from pitstop.runtime.sampling.schedule.betas import Betas
from pitstop.runtime.sampling.schedule.flow import LinearFlow
from pitstop.runtime.sampling.step_table import MEMORIES, given
from pitstop.runtime.session import Array

TOLERANCE = 1e-6  # relative L2 of one step
CHANNELS = 4
SEEDS = [3, 4]

RULES: dict[str, tuple[str, float]] = {
    "ddim": ("ddim", 0.0),
    "noisy ddim": ("ddim", 0.7),
    "ddpm": ("ddpm", 0.0),
    "dpmpp_2m": ("dpmpp_2m", 0.0),
    "dpmpp_2m_sde": ("dpmpp_2m_sde", 0.0),
    "unipc": ("unipc", 0.0),
    "unipc_3": ("unipc_3", 0.0),
    "euler": ("euler", 0.0),
    "heun": ("heun", 0.0),
    "euler_maruyama": ("euler_maruyama", 0.0),
}


def manifest_for(*, flow: bool = False, learn_sigma: bool = False, batch: int = 4) -> Manifest:
    """A model of four channels, guided on three of them, as official DiT is."""
    toy = toy_manifest(batch=batch)
    spec = toy.denoiser("fp32")
    latent = dataclasses.replace(spec.inputs[0], shape=(batch, CHANNELS, *SHAPE[1:]))
    outputs = CHANNELS * (2 if learn_sigma else 1)
    prediction = dataclasses.replace(spec.outputs[0], shape=(batch, outputs, *SHAPE[1:]))
    graph = dataclasses.replace(spec, inputs=(latent, *spec.inputs[1:]), outputs=(prediction,))
    return dataclasses.replace(
        toy,
        graphs={"denoiser.fp32": graph},
        latent_shape=(CHANNELS, *SHAPE[1:]),
        learn_sigma=learn_sigma,
        cfg_channels=3,
        schedule=LinearFlow() if flow else Betas(),
        prediction_type="velocity" if flow else "epsilon",
    )


class Answers:
    """A denoiser that says something else in every row, and keeps its last answer."""

    device = "test"

    def __init__(self, manifest: Manifest) -> None:
        self.channels = manifest.denoiser("fp32").outputs[0].shape[1]
        self.answer = np.empty(0, dtype=np.float32)

    def run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        latent = np.asarray(feeds["latent"], dtype=np.float32)
        shift = feeds["label"].astype(np.float32).reshape(-1, 1, 1, 1)
        time = np.float32(feeds["timestep"][0] / 1000)
        output = np.tile(latent, (1, self.channels // CHANNELS, 1, 1))
        self.answer = np.sin(output * 1.3 + 0.37 * shift + time).astype(np.float32)
        return {"prediction": self.answer.copy()}

    def close(self) -> None:
        """Nothing is held."""


def request_for(
    sampler: Sampler, manifest: Manifest, cfg_scale: float, seeds: list[int]
) -> Request:
    told = [manifest.label.told(one) for one in [0, 2, 1, 0][: len(seeds)]]
    return Request(seeds, told, sampler, cfg_scale, manifest.untold)


def run_for(request: Request, manifest: Manifest) -> DeviceRun:
    model = step_graph(manifest)
    with tempfile.TemporaryDirectory() as folder:
        return DeviceRun([request], manifest, write_graph(model, Path(folder), "step"))


def both_ways(
    sampler: Sampler, manifest: Manifest, cfg_scale: float, seeds: list[int]
) -> list[tuple[Latent, Latent]]:
    """After each step, the graph's latent and the sampler's, both from where the sampler was."""
    model = step_graph(manifest)
    session = Answers(manifest)
    request = request_for(sampler, manifest, cfg_scale, seeds)
    run = run_for(request, manifest)
    images, rows = len(seeds), run.latent.shape
    carried = {name: np.zeros(rows, dtype=np.float32) for name in given(MEMORIES)}
    latent, memory = run.latent[:images], ()
    pairs = []
    for step in range(sampler.schedule.steps):
        said = session.run({"latent": np.resize(latent, rows), **run.feeds(step)})["prediction"]
        used = len(request.told)
        prediction = guide(said[:used].copy(), manifest, cfg_scale)
        noise = draw_noise(seeds, step + 1, manifest.latent_shape) if sampler.stochastic else None
        feeds = {
            **carried,
            **run.constants,
            **run.tables(step),
            "latent": np.resize(latent, rows),
            "prediction": session.answer,
            "noise": run.noise(step),
        }
        names = {value.name for value in model.graph.inputs}
        found = run_graph(model, {name: feeds[name] for name in feeds if name in names})
        latent, memory = sampler.step(step, latent, prediction, noise, memory)
        carried = {name: found[f"next_{name}"] for name in carried}
        np.testing.assert_array_equal(found["kept_latent"], found["next_latent"])
        pairs.append((found["next_latent"][:images], latent))
    return pairs


@pytest.mark.parametrize("cfg_scale", [1.0, 4.0])
@pytest.mark.parametrize("rule", RULES)
def test_a_step_is_the_samplers(rule: str, cfg_scale: float) -> None:
    name, eta = RULES[rule]
    manifest = manifest_for(flow=name in FLOW_SAMPLERS)
    sampler = make_sampler(name, manifest.schedule, 7, eta=eta)

    for found, wanted in both_ways(sampler, manifest, cfg_scale, SEEDS):
        assert relative_l2(wanted, found) <= TOLERANCE


@pytest.mark.parametrize("rule", ["ddim", "ddpm", "dpmpp_2m_sde", "unipc"])
def test_a_learned_variance_sizes_the_noise(rule: str) -> None:
    manifest = manifest_for(learn_sigma=True)
    sampler = make_sampler(rule, manifest.schedule, 7)

    for found, wanted in both_ways(sampler, manifest, 4.0, SEEDS):
        assert relative_l2(wanted, found) <= TOLERANCE


@pytest.mark.parametrize("learn_sigma", [False, True])
@pytest.mark.parametrize("rule", RULES)
def test_a_step_that_is_forecast_is_the_samplers(rule: str, learn_sigma: bool) -> None:
    name, eta = RULES[rule]
    manifest = manifest_for(flow=name in FLOW_SAMPLERS, learn_sigma=learn_sigma)
    sampler = make_sampler(name, manifest.schedule, 9, eta=eta)

    pairs = both_ways(Forecasting(sampler, taylor_plan(9, 4)), manifest, 4.0, SEEDS)

    assert len(pairs) == 9
    for found, wanted in pairs:
        assert relative_l2(wanted, found) <= 2 * TOLERANCE


def test_a_large_fixed_variance_sizes_the_noise() -> None:
    manifest = manifest_for()
    schedule = make_sampler("ddpm", manifest.schedule, 5).schedule
    sampler = Ddpm(schedule, "fixed_large")  # type: ignore[arg-type]

    for found, wanted in both_ways(sampler, manifest, 1.0, SEEDS):
        assert relative_l2(wanted, found) <= TOLERANCE


@pytest.mark.parametrize(("images", "cfg_scale"), [(1, 4.0), (1, 1.0), (3, 1.0), (2, 4.0)])
def test_rows_that_nobody_asked_for_do_not_matter(images: int, cfg_scale: float) -> None:
    manifest = manifest_for(batch=5)
    sampler = make_sampler("dpmpp_2m", manifest.schedule, 4)

    for found, wanted in both_ways(sampler, manifest, cfg_scale, [5, 6, 7][:images]):
        assert found.shape == wanted.shape
        assert relative_l2(wanted, found) <= TOLERANCE


def test_the_null_class_is_the_one_that_guides() -> None:
    manifest = manifest_for()
    sampler = make_sampler("ddim", manifest.schedule, 2)
    request = Request(SEEDS, manifest.examples(2), sampler, 4.0, manifest.untold)
    run = run_for(request, manifest)

    assert run.feeds(0)["label"].tolist() == [0, 1, NULL_CLASS, NULL_CLASS]
    assert run.constants["rows_with"].tolist() == [0, 1, 0, 1]
    assert run.constants["rows_against"].tolist() == [2, 3, 2, 3]
    assert run.tables(0)["scale"][:, :, 0, 0].tolist() == [[4, 4, 4, 1]] * 4


@pytest.mark.slow
@pytest.mark.parametrize("learn_sigma", [False, True])
def test_the_graph_parses_and_builds_without_a_gpu(learn_sigma: bool) -> None:
    model = step_graph(manifest_for(learn_sigma=learn_sigma))

    complaints, plan = complaints_and_plan(import_trt(), model)

    assert complaints == []
    assert len(plan) > 0
