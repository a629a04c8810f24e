"""Loops whose latents stay on the device draw what the host's loop draws."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from bundle_helpers import FakeSession, toy_manifest, write_bundle
from device_helpers import DEVICES, bundle_with_step, on_onnxruntime, open_on
from made_up_cuda import MadeUpCudart

from pitstop import BackendUnavailable, NonFiniteError
from pitstop.evaluation.accuracy.compare import compare
from pitstop.export.goldens import draw_goldens
from pitstop.runtime.bundle.folder import Bundle
from pitstop.runtime.bundle.manifest import Manifest
from pitstop.runtime.devices.engine_loop import EngineLoop
from pitstop.runtime.devices.onnx_device import DeviceOnnxSession
from pitstop.runtime.distance import relative_l2
from pitstop.runtime.jobs import draw_images
from pitstop.runtime.jobs.plan import plan_images
from pitstop.runtime.pipeline import Pipeline
from pitstop.runtime.sampling.device_first import DeviceFirst
from pitstop.runtime.sampling.request import Request
from pitstop.runtime.sampling.sampler import Latent, Memory, Prediction
from pitstop.runtime.sampling.samplers import make_sampler
from pitstop.runtime.sampling.schedule import Schedule
from pitstop.runtime.sampling.settings import Settings

TOLERANCE = 2e-6  # relative L2 of the last latent: each step promises 1e-6


def pipelines(device: str, folder: Path, manifest: Manifest) -> tuple[Pipeline, Pipeline]:
    """One that keeps the latents where the graphs run, and one that fetches them every step."""
    bundle = bundle_with_step(folder / "bundle", manifest)
    keeping = Pipeline.of(open_on(device, bundle))
    assert keeping.loop.keeps_latents
    return keeping, Pipeline.from_bundle(folder / "bundle", backend="onnxruntime")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpmpp_2m"])
@pytest.mark.parametrize("cfg_scale", [1.0, 3.0])
def test_a_device_draws_what_the_host_draws(
    tmp_path: Path, device: str, split: bool, sampler: str, cfg_scale: float
) -> None:
    keeping, fetching = pipelines(device, tmp_path, toy_manifest(batch=4, split=split))

    for seeds in ([5, 6, 7], [1, 2, 3]):  # a second run on the same loop
        found, wanted = (
            pipeline([0, 2, 1], seeds=seeds, steps=9, sampler=sampler, cfg_scale=cfg_scale).latents
            for pipeline in (keeping, fetching)
        )
        assert relative_l2(wanted, found) <= TOLERANCE


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpmpp_2m"])
def test_who_looks_sees_the_same_latents_after_every_step(
    tmp_path: Path, device: str, sampler: str
) -> None:
    keeping, fetching = pipelines(device, tmp_path, toy_manifest(batch=4))
    settings = Settings(6, sampler, cfg_scale=2.0)

    found, wanted = (
        pipeline.trajectories(pipeline.manifest.examples(3), [4, 5, 6], settings)
        for pipeline in (keeping, fetching)
    )

    for step in range(6):
        assert relative_l2(wanted[step], found[step]) <= TOLERANCE


def mixed(manifest: Manifest) -> list[Request]:
    """Requests that are alike in nothing, and come and go at different times."""
    rules = [("ddim", 7, 3.0, 0.0, 0), ("ddpm", 5, 1.0, 0.0, 2), ("dpmpp_2m", 6, 2.0, 0.0, 1)]
    rules += [("ddim", 3, 1.0, 0.7, 4)]
    return [
        Request(
            [10 * k, 10 * k + 1],
            [manifest.label.told(k % 3), manifest.label.told(2)],
            make_sampler(name, manifest.schedule, steps, eta=eta),
            cfg_scale,
            manifest.untold,
            start,
        )
        for k, (name, steps, cfg_scale, eta, start) in enumerate(rules)
    ]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("split", [False, True])
def test_rows_at_different_steps_share_the_devices_calls(
    tmp_path: Path, device: str, split: bool
) -> None:
    keeping, fetching = pipelines(device, tmp_path, toy_manifest(batch=14, split=split))
    requests = mixed(keeping.manifest)
    assert isinstance(keeping.loop, DeviceFirst)
    assert keeping.loop.why_not(requests) is None

    found, wanted = (
        pipeline.loop.draw(requests, lambda latents: None) for pipeline in (keeping, fetching)
    )

    for one, other in zip(wanted, found, strict=True):
        assert relative_l2(one, other) <= TOLERANCE


@pytest.mark.parametrize("device", DEVICES)
def test_every_step_is_told(tmp_path: Path, device: str) -> None:
    keeping, _ = pipelines(device, tmp_path, toy_manifest(batch=4))
    told: list[int] = []

    keeping([0, 2, 1], steps=5, on_step=told.append)

    assert told == [2] * 5 + [1] * 5


@pytest.mark.parametrize("device", DEVICES)
def test_the_same_run_twice_gives_the_same_bytes(tmp_path: Path, device: str) -> None:
    keeping, _ = pipelines(device, tmp_path, toy_manifest(batch=4, split=True))

    first, between, second = (
        keeping([0, 1], seeds=seeds, steps=4, sampler="dpmpp_2m").latents.tobytes()
        for seeds in ([1, 2], [3, 4], [1, 2])
    )

    assert first == second != between


@pytest.mark.parametrize("device", DEVICES)
def test_a_longer_run_after_a_short_one_is_right(tmp_path: Path, device: str) -> None:
    keeping, fetching = pipelines(device, tmp_path, toy_manifest(batch=4, split=True))
    keeping([0], steps=2)

    found, wanted = (pipeline([1], seeds=[3], steps=50).latents for pipeline in (keeping, fetching))

    assert relative_l2(wanted, found) <= TOLERANCE


def test_after_a_short_run_a_long_ones_tables_are_filled_once(tmp_path: Path) -> None:
    bundle = bundle_with_step(tmp_path / "bundle", toy_manifest(batch=4, split=True))
    cudart = MadeUpCudart()
    pipeline = Pipeline.of(open_on("engines", bundle, cudart=cudart))
    pipeline([0], steps=2)
    cudart.calls.clear()

    pipeline([0], steps=50)

    launches = [index for index, name in enumerate(cudart.calls) if name == "cudaGraphLaunch"]
    assert len(launches) == 50
    assert "cudaMalloc" in cudart.calls[: launches[0]]
    assert "cudaMalloc" not in cudart.calls[launches[0] :]


def test_a_gpu_that_is_full_when_the_tables_grow_leaves_a_loop_that_draws(tmp_path: Path) -> None:
    bundle = bundle_with_step(tmp_path / "bundle", toy_manifest(batch=4, split=True))
    cudart = MadeUpCudart()
    keeping = Pipeline.of(open_on("engines", bundle, cudart=cudart))
    fetching = Pipeline.from_bundle(tmp_path / "bundle", backend="onnxruntime")
    keeping([0], steps=2)
    room, cudart.room = cudart.room, 100
    with pytest.raises(BackendUnavailable, match="The GPU's memory is not enough"):
        keeping([0], steps=50)
    cudart.room = room

    for steps in (2, 50):
        found, wanted = (
            pipeline([1], seeds=[3], steps=steps).latents for pipeline in (keeping, fetching)
        )
        assert relative_l2(wanted, found) <= TOLERANCE
    keeping.close()
    assert cudart.memory == {}


def test_tables_that_hold_no_whole_run_are_filled_on_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pitstop.runtime.devices.engine_loop.TABLE_BYTES", 1000)
    keeping, fetching = pipelines("engines", tmp_path, toy_manifest(batch=4, split=True))

    found, wanted = (pipeline([1], seeds=[3], steps=20).latents for pipeline in (keeping, fetching))

    assert relative_l2(wanted, found) <= TOLERANCE


@pytest.mark.parametrize("device", DEVICES)
def test_rows_for_more_than_one_call_go_through_the_host(tmp_path: Path, device: str) -> None:
    keeping, fetching = pipelines(device, tmp_path, toy_manifest(batch=1))
    [request] = keeping.requests(keeping.manifest.examples(1), [0], Settings(steps=3))
    assert isinstance(keeping.loop, DeviceFirst)

    found, wanted = (pipeline([0], steps=3).latents for pipeline in (keeping, fetching))

    why = str(keeping.loop.why_not([request]))
    assert why == "its 2 rows do not fit into one call of 1"
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@dataclasses.dataclass(frozen=True)
class Clipped:
    """Goes straight to the image that is found, which it clips: no table can say that."""

    schedule: Schedule
    stochastic: bool = False

    def step(
        self, index: int, latent: Latent, prediction: Prediction, noise: object, memory: Memory
    ) -> tuple[Latent, Memory]:
        return np.clip(latent - prediction.output, -0.3, 0.3), memory


@pytest.mark.parametrize("device", DEVICES)
def test_a_sampler_that_clips_is_drawn_on_the_host_and_told(tmp_path: Path, device: str) -> None:
    keeping, fetching = pipelines(device, tmp_path, toy_manifest(batch=4))
    manifest = keeping.manifest
    sampler = Clipped(make_sampler("ddim", manifest.schedule, 4).schedule)  # type: ignore[arg-type]
    request = Request([3], manifest.examples(1), sampler)
    assert isinstance(keeping.loop, DeviceFirst)

    [found], [wanted] = (
        pipeline.loop.draw([request], lambda latents: None) for pipeline in (keeping, fetching)
    )

    assert str(keeping.loop.why_not([request])).startswith("the sampler is not linear: its step")
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@dataclasses.dataclass(frozen=True)
class EverySecond:
    """Every second step goes on with what the denoiser said before."""

    schedule: Schedule
    stochastic: bool = False

    def step(
        self, index: int, latent: Latent, prediction: Prediction, noise: object, memory: Memory
    ) -> tuple[Latent, Memory]:
        said = memory[0] if index % 2 else prediction.output
        return latent - 0.1 * said, (said,)


@pytest.mark.parametrize("device", DEVICES)
def test_a_step_that_makes_nothing_of_the_denoiser_does_not_ask_it(
    tmp_path: Path, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cudart, calls = MadeUpCudart(), []
    call = DeviceOnnxSession.call
    monkeypatch.setattr(DeviceOnnxSession, "call", lambda self: calls.append(1) or call(self))
    bundle = bundle_with_step(tmp_path / "bundle", toy_manifest(batch=4))
    keeping = Pipeline.of(open_on(device, bundle, cudart=cudart))
    fetching = Pipeline.from_bundle(tmp_path / "bundle", backend="onnxruntime")
    manifest = keeping.manifest
    sampler = EverySecond(make_sampler("ddim", manifest.schedule, 6).schedule)  # type: ignore[arg-type]
    request = Request([3], manifest.examples(1), sampler, 2.0, manifest.untold)

    [found], [wanted] = (
        pipeline.loop.draw([request], lambda latents: None) for pipeline in (keeping, fetching)
    )

    assert relative_l2(wanted, found) <= TOLERANCE
    if device == "onnxruntime":
        assert len(calls) == 3
    else:  # a graph with the denoiser, and one without
        assert cudart.calls.count("cudaGraphInstantiate") == 2


@pytest.mark.parametrize("device", DEVICES)
def test_a_run_that_leaves_the_finite_numbers_names_the_step(tmp_path: Path, device: str) -> None:
    keeping, _ = pipelines(device, tmp_path, toy_manifest(batch=4))

    with pytest.raises(NonFiniteError, match="Step 1 of 3"):
        keeping([0], steps=3, cfg_scale=3e38)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m"])
def test_the_run_after_one_that_left_the_finite_numbers_is_right(
    tmp_path: Path, device: str, sampler: str
) -> None:
    keeping, fetching = pipelines(device, tmp_path, toy_manifest(batch=4))
    with pytest.raises(NonFiniteError):
        keeping([0], steps=3, cfg_scale=3e38, sampler=sampler)

    found, wanted = (
        pipeline([1], seeds=[3], steps=6, sampler=sampler).latents
        for pipeline in (keeping, fetching)
    )

    assert relative_l2(wanted, found) <= TOLERANCE


def test_a_bundle_without_a_step_is_drawn_on_the_host(tmp_path: Path) -> None:
    manifest = toy_manifest(batch=4)
    bundle = Bundle(write_bundle(tmp_path / "bundle", manifest), manifest)

    assert not open_on("onnxruntime", bundle).loop.keeps_latents


def test_a_session_that_cannot_keep_latents_is_drawn_on_the_host(tmp_path: Path) -> None:
    bundle_with_step(tmp_path / "bundle", toy_manifest(batch=4))

    fetching = Pipeline.from_bundle(tmp_path / "bundle", backend="onnxruntime")

    assert not fetching.loop.keeps_latents
    assert not Pipeline(toy_manifest(), FakeSession(), "fp32").loop.keeps_latents


@pytest.mark.parametrize("device", DEVICES)
def test_static_addresses_answer_as_fresh_ones(tmp_path: Path, device: str) -> None:
    bundle = bundle_with_step(tmp_path / "bundle", toy_manifest(batch=2))
    fetching = Pipeline.from_bundle(tmp_path / "bundle", backend="onnxruntime")
    feeds = {
        "latent": np.ones((2, 1, 8, 8), dtype=np.float64)[..., ::-1],
        "timestep": np.array([500, 500]),
        "label": np.array([0, 3], dtype=np.int32),
    }

    session = open_on(device, bundle).denoiser
    found = session.run(feeds)["prediction"]
    kept = found.copy()
    session.run({**feeds, "timestep": np.array([1, 1])})

    np.testing.assert_array_equal(found, kept)
    np.testing.assert_array_equal(found, fetching.session.run(feeds)["prediction"])


def test_compare_fails_where_the_devices_loop_draws_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeping, fetching = pipelines("engines", tmp_path, toy_manifest(batch=4))
    goldens = draw_goldens(fetching, Settings(8, "ddim", cfg_scale=2.0), 2)
    right = compare(keeping, goldens, reference="the host's loop")

    feed = EngineLoop._feed
    monkeypatch.setattr(  # the noise that a run starts from does not come through
        EngineLoop,
        "_feed",
        lambda self, feeds: feed(self, {**feeds, "latent": 0 * feeds["latent"]}),
    )
    wrong = compare(keeping, goldens, reference="the host's loop")

    assert right.passed
    assert wrong.relative_l2_max <= 1e-5  # single calls are as they were: only the loop is wrong
    assert not wrong.passed


def test_requests_for_an_old_bundles_step_must_be_alike(tmp_path: Path) -> None:
    """Before schema version 3 the step took the factors of all rows at once."""
    bundle = bundle_with_step(tmp_path / "bundle", toy_manifest(batch=14))
    loop = open_on("onnxruntime", as_before(bundle)).loop
    requests = mixed(bundle.manifest)

    assert isinstance(loop, DeviceFirst)
    assert loop.why_not(requests[:1]) is None
    assert "made for rows that are all alike" in str(loop.why_not(requests))


def as_before(bundle: Bundle) -> Bundle:
    step = bundle.manifest.graphs["step"]
    shapes = {"move": (3, 5), "scale": (1, 1, 1, 1)}
    inputs = tuple(
        dataclasses.replace(tensor, shape=shapes.get(tensor.name, tensor.shape))
        for tensor in step.inputs
    )
    graphs = {**bundle.manifest.graphs, "step": dataclasses.replace(step, inputs=inputs)}
    return Bundle(bundle.folder, dataclasses.replace(bundle.manifest, graphs=graphs))


def test_a_watcher_that_raises_leaves_the_loop_usable(tmp_path: Path) -> None:
    keeping, fetching = pipelines("engines", tmp_path, toy_manifest(batch=4))
    [request] = keeping.requests(keeping.manifest.examples(1), [0], Settings(steps=6))

    def cancel(latents: Sequence[Latent]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        keeping.loop.draw([request], cancel)

    found, wanted = (pipeline([1], seeds=[3], steps=6).latents for pipeline in (keeping, fetching))
    assert relative_l2(wanted, found) <= TOLERANCE


def test_device_sessions_close_with_the_bundle(tmp_path: Path) -> None:
    bundle = bundle_with_step(tmp_path / "bundle", toy_manifest(batch=4))
    cudart = MadeUpCudart()
    with open_on("engines", bundle, cudart=cudart) as opened:
        Pipeline.of(opened)([0], steps=2)

    assert cudart.memory == {}
    on_onnxruntime(bundle.graph("denoiser.fp32")).close()


def test_a_run_says_why_its_latents_came_back_to_the_host(tmp_path: Path) -> None:
    keeping, fetching = pipelines("onnxruntime", tmp_path, toy_manifest(batch=1))
    plan = plan_images(keeping.manifest, [], 2, 0)
    told = [
        draw_images(pipeline, plan, Settings(2, cfg_scale=scale), tmp_path / str(place)).why_on_host
        for place, (pipeline, scale) in enumerate([(keeping, 2.0), (keeping, 1.0), (fetching, 2.0)])
    ]
    assert told == ["its 2 rows do not fit into one call of 1", "", ""]
