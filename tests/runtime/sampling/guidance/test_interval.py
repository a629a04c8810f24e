"""A run is guided inside of its interval alone, and pays for it there alone."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from bundle_helpers import NULL_CLASS, SHAPE, FakeSession, one_line, toy_manifest, toy_prediction
from device_helpers import DEVICES, bundle_with_step, open_on

from pitstop import OptionError
from pitstop.runtime.bundle.manifest import Manifest
from pitstop.runtime.distance import relative_l2
from pitstop.runtime.pipeline import Pipeline
from pitstop.runtime.sampling.guidance.interval import Interval
from pitstop.runtime.sampling.init import Init
from pitstop.runtime.sampling.noise import START, draw_noise
from pitstop.runtime.sampling.sampler import Latent, Prediction
from pitstop.runtime.sampling.samplers import make_sampler
from pitstop.runtime.sampling.schedule import Schedule
from pitstop.runtime.sampling.schedule.betas import Betas
from pitstop.runtime.sampling.schedule.flow import LinearFlow
from pitstop.runtime.sampling.settings import Settings
from pitstop.runtime.session import Array

BETAS, REPA, SIT = Betas(), LinearFlow(data_at=0), LinearFlow(data_at=1)
LABELS, SEEDS, SCALE = [2, 0, 1], [5, 6, 7], 2.5


def flow_manifest(flow: LinearFlow, batch: int = 6) -> Manifest:
    return dataclasses.replace(toy_manifest(batch=batch), schedule=flow, prediction_type="velocity")


def drawn(flow: LinearFlow, sampler: str, steps: int, interval: str) -> Latent:
    pipeline = Pipeline(flow_manifest(flow), FakeSession(), "fp32")
    return pipeline(
        LABELS, seeds=SEEDS, steps=steps, sampler=sampler, cfg_scale=SCALE, cfg_interval=interval
    ).latents


def guided(latent: Latent, time: float, *, inside: bool) -> Latent:
    told = toy_prediction(latent, time, LABELS)
    untold = toy_prediction(latent, time, len(LABELS) * [NULL_CLASS])
    return untold + np.float32(SCALE) * (told - untold) if inside else told


@pytest.mark.parametrize("heun", [False, True])
@pytest.mark.parametrize(("low", "high"), [(0.0, 0.7), (0.2, 0.6), (0.5, 0.5)])
def test_both_ends_and_the_corrector_are_as_repa_has_them(
    low: float, high: float, heun: bool
) -> None:
    """REPA's ``euler_sampler``: guided where ``low <= t_cur <= high``, its corrector too."""
    intervals = 10
    latent = draw_noise(SEEDS, START, SHAPE)
    times = np.linspace(1, 0, intervals + 1)
    for index, (now, after) in enumerate(itertools.pairwise(times)):
        inside = low - 1e-12 <= now <= high + 1e-12
        velocity = guided(latent, now, inside=inside)
        moved = latent + np.float32(after - now) * velocity
        if heun and index < intervals - 1:
            second = guided(moved, after, inside=inside)
            moved = latent + np.float32(after - now) * (0.5 * velocity + 0.5 * second)
        latent = moved.astype(np.float32)

    steps = 2 * intervals - 1 if heun else intervals
    found = drawn(REPA, "heun" if heun else "euler", steps, f"{low}:{high}")

    assert relative_l2(latent, found) <= 1e-6


def test_the_low_end_is_lightningdits_cfg_interval_start() -> None:
    """LightningDiT's ``forward_with_cfg``: not guided where ``t < cfg_interval_start``."""
    latent, start = draw_noise(SEEDS, START, SHAPE), 0.125
    times = np.linspace(0, 1, 9)  # 0.125 is one of them
    for now, after in itertools.pairwise(times):
        velocity = guided(latent, now, inside=not now < start)
        latent = (latent + np.float32(after - now) * velocity).astype(np.float32)

    assert relative_l2(latent, drawn(SIT, "euler", 8, "0.125:1")) <= 1e-6


@pytest.mark.parametrize("steps", [10, 20, 40])
@pytest.mark.parametrize("high", [0.15, 0.3, 0.35, 0.7])
def test_an_end_that_a_time_meets_but_for_rounding_is_inside(steps: int, high: float) -> None:
    visits = REPA.visit(steps)
    inside = Interval.parse(f"0:{high}").holds(visits, REPA)
    assert inside == [steps - step <= round(high * steps, 6) for step in range(steps)]


def test_in_sigma_the_low_end_is_outside_and_the_high_end_inside() -> None:
    visits = make_sampler("ddim", BETAS, 50).schedule
    sigmas = np.sqrt(1 / visits.alpha_bar - 1)  # type: ignore[attr-defined]
    low, high = float(sigmas[30]), float(sigmas[10])

    inside = Interval.parse(f"sigma:{low}:{high}").holds(visits, BETAS)

    assert inside == [10 <= step < 30 for step in range(50)]


def test_an_interval_in_sigma_is_that_of_its_paper() -> None:
    """``--guidance_interval="[17, 22]"`` of its code, in EDM's 32 steps: sigma in (0.19, 1.61]."""
    sigmas = (80 ** (1 / 7) + np.arange(32) / 31 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    bars = 1 / (1 + sigmas**2)
    visits = Schedule(np.arange(32)[::-1].copy(), bars, np.append(bars[1:], 1.0))

    inside = Interval.parse("sigma:0.19:1.61").holds(visits, BETAS)

    assert [step for step in range(32) if inside[step]] == list(range(17, 23))


def test_sigma_of_a_flow_is_its_share_of_noise_over_that_of_data() -> None:
    for flow in (REPA, SIT):
        visits = flow.visit(4)  # shares of noise 1, 3/4, 1/2, 1/4: sigma inf, 3, 1, 1/3
        assert Interval.parse("sigma:0.9:3").holds(visits, flow) == [False, True, True, False]


def test_timesteps_are_those_that_the_denoiser_is_fed() -> None:
    visits = make_sampler("ddim", BETAS, 4).schedule  # 750, 500, 250, 0
    assert Interval.parse("250:500").holds(visits, BETAS) == [False, True, True, False]
    of_thousand = LinearFlow(unit=1000.0)
    assert Interval.parse("0:600").holds(of_thousand.visit(4), of_thousand) == [
        False,
        False,
        True,
        True,
    ]


@pytest.mark.parametrize(
    "text",
    [
        "0.7",
        "0:1_0",
        "0: 1",
        "0:\u0661",
        "0:1:2",
        "a:b",
        "sigma:1",
        "nan:1",
        "0:inf",
        "",
        ":",
        0.7,
        None,
    ],
)
def test_what_is_no_interval_is_refused_with_an_example(text: object) -> None:
    with pytest.raises(OptionError) as told:
        Interval.parse(text)
    assert "The guidance interval is" in one_line(told.value)
    assert "sigma:0.28:5.42" in told.value.remedy


@pytest.mark.parametrize("text", ["0.7:0.2", "-1:2"])
def test_an_interval_goes_from_low_to_high(text: str) -> None:
    with pytest.raises(OptionError, match="is not from low to high"):
        Settings(cfg_interval=text)


def test_an_interval_of_another_models_times_is_refused_before_it_draws_unguided() -> None:
    pipeline = Pipeline(toy_manifest(), FakeSession(), "fp32")
    with pytest.raises(OptionError) as told:
        pipeline([0], steps=4, cfg_interval="0.2:0.7")
    assert "holds no step of the run, which visits 0 to 750" in one_line(told.value)


@pytest.mark.parametrize("interval", ["5000:6000", "sigma:5000:6000", "0.2:0.7"])
@pytest.mark.parametrize("steps", [1, 2, 4, 25])
def test_the_example_of_an_interval_is_one_of_the_run(steps: int, interval: str) -> None:
    pipeline = Pipeline(toy_manifest(), FakeSession(), "fp32")
    with pytest.raises(OptionError) as told:
        pipeline([0], steps=steps, cfg_interval=interval if steps > 1 else "5000:6000")

    example = told.value.remedy.rpartition(" ")[2]
    assert example.startswith("sigma:") == (steps > 1 and interval.startswith("sigma:"))
    pipeline([0], steps=steps, cfg_interval=example)


def test_a_run_from_noise_alone_has_no_sigma_for_an_example() -> None:
    with pytest.raises(OptionError, match=r"visits inf to inf\. Give LOW:HIGH"):
        drawn(REPA, "euler", 1, "sigma:0:5")


def test_an_interval_of_no_guidance_is_refused() -> None:
    with pytest.raises(OptionError, match="a guidance scale of 1 is no guidance"):
        Settings(cfg_scale=1.0, cfg_interval="0:1")


@pytest.mark.parametrize("batch", [1, 2, 4, 8])
def test_outside_of_the_interval_an_image_takes_half_of_the_rows(batch: int) -> None:
    session = FakeSession()
    pipeline = Pipeline(toy_manifest(batch=batch), session, "fp32")

    pipeline([0, 1, 2, 0, 1, 2, 0, 1], steps=10, cfg_interval="0:400", sampler="ddim")

    guided_steps, plain_steps = 5, 5  # 400 to 0, and 900 to 500
    rows = 8 * (2 * guided_steps + plain_steps)
    assert len(session.calls) == math.ceil(rows / batch)


def test_an_image_in_an_interval_is_the_same_whatever_the_batch() -> None:
    found = [
        Pipeline(toy_manifest(batch=batch), FakeSession(), "fp32")(
            [0, 1, 2], steps=8, cfg_interval="200:600", sampler="ddpm"
        ).latents
        for batch in (1, 2, 8)
    ]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_an_interval_that_holds_all_steps_draws_the_same_bytes_as_none() -> None:
    with_it, without = (
        Pipeline(toy_manifest(batch=4), FakeSession(), "fp32")([0, 1, 2], steps=6, cfg_interval=one)
        for one in ("0:1000", None)
    )
    assert with_it.latents.tobytes() == without.latents.tobytes()


class AnyTimes(FakeSession):
    """The toy denoiser for rows at different timesteps."""

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        self.calls.append(feeds)
        rows = zip(feeds["latent"], feeds["timestep"], feeds["label"], strict=True)
        said = [toy_prediction(one[None], float(t), [int(label)])[0] for one, t, label in rows]
        return {"prediction": np.stack(said)}


def test_rows_of_requests_inside_and_outside_share_calls() -> None:
    manifest, settings = toy_manifest(batch=6), Settings(6, "ddim", 3.0, cfg_interval="300:600")
    session = AnyTimes()
    pipeline = Pipeline(manifest, session, "fp32")
    first, second = (
        pipeline.requests(manifest.examples(2), seeds, settings)[0] for seeds in ([1, 2], [3, 4])
    )
    late = dataclasses.replace(second, start=2)

    together = pipeline.loop.draw([first, late], lambda latents: None)

    for found, asked in zip(together, (first, second), strict=True):
        [alone] = pipeline.loop.draw([asked], lambda latents: None)
        np.testing.assert_array_equal(found, alone)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("options", [{"cfg_interval": "200:600"}, {"cfg_schedule": "power-cosine"}])
def test_a_device_draws_one_calls_rows_itself(
    tmp_path: Path, device: str, options: dict[str, str]
) -> None:
    bundle = bundle_with_step(tmp_path / "bundle", toy_manifest(batch=4, split=True))
    keeping = Pipeline.of(open_on(device, bundle))
    fetching = Pipeline.from_bundle(bundle.folder, backend="onnxruntime")
    settings = Settings(9, "ddpm", 3.0, **options)  # type: ignore[arg-type]
    requests = keeping.requests(keeping.manifest.examples(2), [5, 6], settings)
    assert keeping.loop.why_not(requests) is None

    found, wanted = (
        pipeline.draw(pipeline.manifest.examples(2), [5, 6], settings)
        for pipeline in (keeping, fetching)
    )

    assert relative_l2(wanted, found) <= 2e-6
    plain = keeping.draw(keeping.manifest.examples(2), [5, 6], Settings(9, "ddpm", 3.0))
    assert relative_l2(plain, found) > 1e-3


def test_a_device_keeps_a_run_whose_interval_would_save_next_to_nothing(tmp_path: Path) -> None:
    bundle = bundle_with_step(tmp_path / "bundle", toy_manifest(batch=4))
    keeping = Pipeline.of(open_on("onnxruntime", bundle))
    fetching = Pipeline(bundle.manifest, FakeSession(), "fp32")
    settings = Settings(10, "ddim", 3.0, cfg_interval="0:850")  # all steps but the first

    asked = keeping.requests(keeping.manifest.examples(4), range(4), settings)

    assert [request.images for request in asked] == [2, 2]
    assert keeping.loop.why_not(asked[:1]) is None
    assert fetching.groups(4, settings) == [slice(0, 4)]
    assert keeping.groups(4, dataclasses.replace(settings, cfg_interval="0:700")) == [slice(0, 4)]


def test_a_device_leaves_packed_rows_to_the_host_and_says_so(tmp_path: Path) -> None:
    bundle = bundle_with_step(tmp_path / "bundle", toy_manifest(batch=4))
    keeping = Pipeline.of(open_on("onnxruntime", bundle))
    settings = Settings(9, "ddim", 3.0, cfg_interval="200:600")

    [request] = keeping.requests(keeping.manifest.examples(4), range(4), settings)

    assert "rows go into fewer calls" in str(keeping.loop.why_not([request]))


@pytest.mark.parametrize("strength", [None, 0.8])
def test_a_run_of_an_interval_is_forecast_from_what_is_guided_alike_and_says_so(
    strength: float | None,
) -> None:
    manifest, image = toy_manifest(batch=4), draw_noise([9], START, SHAPE)[0]
    pipeline = Pipeline(manifest, FakeSession(), "fp32")
    init = None if strength is None else Init(image, strength)
    settings = Settings(20, "ddim", SCALE, calls=7, cfg_interval="200:700")
    rule = make_sampler("ddim", BETAS, 20, strength=strength or 1.0)
    [request] = pipeline.requests([manifest.label.told(2)], [5], settings, init=init)
    guided_at = [200 <= timestep <= 700 for timestep in rule.schedule.timesteps]

    chosen = pipeline.forecast(settings, init)

    assert chosen is not None
    latent, said, before = request.begin(SHAPE, manifest.noise), [], guided_at[0]
    for step, factors in enumerate(chosen.plan.factors):
        if guided_at[step] != before:
            said, before = [], guided_at[step]
        if factors:
            found = sum(factor * one for factor, one in zip(factors, said, strict=False))
            assert len(factors) <= len(said)
        else:
            time = float(rule.schedule.timesteps[step])
            told, untold = (toy_prediction(latent, time, [one]) for one in (2, NULL_CLASS))
            found = untold + np.float32(SCALE) * (told - untold) if guided_at[step] else told
            said = [found, *said]
        latent, _ = rule.step(step, latent, Prediction(found.astype(np.float32)), None, ())
    drawn = pipeline.draw([manifest.label.told(2)], [5], settings, init=init)
    assert relative_l2(latent, drawn) <= 1e-5
    assert ("fitted without `--cfg-interval`" if init is None else "whole runs") in chosen.note


def test_settings_that_are_not_given_are_in_no_file() -> None:
    assert not {"cfg_interval", "cfg_schedule", "cfg_channels"} & Settings().as_dict().keys()
    told = Settings(cfg_interval="0:.7", cfg_schedule="power-cosine", cfg_channels="2").as_dict()
    assert (told["cfg_interval"], told["cfg_schedule"], told["cfg_channels"]) == (
        "0.0:0.7",
        "power-cosine:4.0",
        2,
    )
    assert Settings(**told) == Settings(
        cfg_interval="0.0:0.7", cfg_schedule="power-cosine:4", cfg_channels=2
    )
    assert Settings(cfg_schedule="constant") == Settings()
