"""A flow's times shifted towards the noise, by a number or by the image's size."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from bundle_helpers import FakeSession, one_line, toy_manifest
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)

from pitstop import OptionError
from pitstop.runtime.bundle.manifest import Manifest
from pitstop.runtime.pipeline import Pipeline
from pitstop.runtime.sampling.samplers import sampler_for
from pitstop.runtime.sampling.schedule.flow import LinearFlow
from pitstop.runtime.sampling.schedule.shift import DynamicShift
from pitstop.runtime.sampling.settings import Settings

OF_DIFFUSERS = LinearFlow(0, 1000.0, 1.0, 1 / 1000)  # what a bundle keeps of its scheduler
OF_SCHEDULERS = {
    "none": OF_DIFFUSERS,
    "by a number": LinearFlow(0, 1000.0, 5.0, 5 / 1000 / (1 + 4 / 1000)),
    "dynamic": LinearFlow(0, 1000.0, 3.16, 1 / 1000),
}
STEPS = 19


def manifest_of(flow: LinearFlow, **config: object) -> Manifest:
    toy = toy_manifest()
    model = dataclasses.replace(toy.model, config=config)
    return dataclasses.replace(toy, schedule=flow, prediction_type="velocity", model=model)


@pytest.mark.parametrize("own", OF_SCHEDULERS)
@pytest.mark.parametrize("shift", [0.3, 1.0, 3.0])
def test_a_shift_is_that_of_diffusers_whatever_the_models_own(shift: float, own: str) -> None:
    """As ``from_config(config, shift=shift)``: not as ``set_shift``, which keeps the last step."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(STEPS)

    found = sampler_for(manifest_of(OF_SCHEDULERS[own]), Settings(STEPS, shift=shift)).schedule

    np.testing.assert_allclose(found.timesteps, scheduler.timesteps, rtol=1e-6)
    np.testing.assert_allclose(found.grid, scheduler.sigmas, rtol=1e-6)  # type: ignore[attr-defined]


@pytest.mark.parametrize("own", OF_SCHEDULERS)
@pytest.mark.parametrize(("text", "base", "most"), [("dynamic", 0.5, 1.15), ("dynamic:1:3", 1, 3)])
def test_a_dynamic_shift_is_that_of_diffusers_for_the_images_tokens(
    text: str, base: float, most: float, own: str
) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    slope = (most - base) / (4096 - 256)  # Flux's calculate_shift
    scheduler.set_timesteps(STEPS, mu=16 * slope + base - slope * 256)

    manifest = manifest_of(OF_SCHEDULERS[own], patch_size=2)  # 8 x 8 latents: 16 tokens
    found = sampler_for(manifest, Settings(STEPS, shift=text)).schedule

    np.testing.assert_allclose(found.timesteps, scheduler.timesteps, rtol=1e-6)
    np.testing.assert_allclose(found.grid, scheduler.sigmas, rtol=1e-6)  # type: ignore[attr-defined]


@pytest.mark.parametrize("data_at", [0, 1])
@pytest.mark.parametrize("shift", [0.1, 0.3, 0.7, 3.0])
def test_a_shifted_run_begins_at_the_noise_itself(shift: float, data_at: int) -> None:
    """Rounding must not take it beyond, where a power of what is gone is no number."""
    flow = LinearFlow(data_at, shift=shift)
    for schedule in (flow.visit(7), flow.visit_twice(7)):
        assert [schedule.grid[0], schedule.grid[-1]] == [1 - data_at, data_at]
    pipeline = Pipeline(manifest_of(flow), FakeSession(), "fp32")
    settings = Settings(7, cfg_schedule="power-cosine:2.5")
    [request] = pipeline.requests(pipeline.manifest.examples(1), [0], settings)
    assert request.scale(0) == 1.0
    assert np.isfinite(pipeline.draw(pipeline.manifest.examples(1), [0], settings)).all()


def test_lightningdits_shift_is_the_inverse_since_its_time_runs_from_the_noise() -> None:
    """Its ``timestep_shift`` s makes ``s t / (1 + (s - 1) t)`` of the time t."""
    times, s = np.linspace(0, 1, STEPS + 1), 0.3
    found = sampler_for(manifest_of(LinearFlow(data_at=1)), Settings(STEPS, shift=1 / s)).schedule
    np.testing.assert_allclose(found.grid, s * times / (1 + (s - 1) * times), atol=1e-12)  # type: ignore[attr-defined]


def test_an_image_of_another_shift_is_another_and_the_same_where_it_is_the_models() -> None:
    manifest = manifest_of(LinearFlow(shift=2.0))
    own, said, other = (
        Pipeline(manifest, FakeSession(), "fp32")([0], steps=5, shift=one).latents
        for one in (None, 2.0, 3.0)
    )
    assert own.tobytes() == said.tobytes()
    assert own.tobytes() != other.tobytes()


@pytest.mark.parametrize(
    "said",
    [
        "0",
        -1,
        "1_0",
        " 3",
        "dynamic:1_0:2",
        "dynamic:1",
        "dynamic:a:b",
        "dynamic:nan:1",
        "static",
        "",
        1e9,
        1e-17,
        "9e-4",
    ],
)
def test_what_is_no_shift_is_refused(said: object) -> None:
    with pytest.raises(OptionError) as told:
        Settings(shift=said)  # type: ignore[arg-type]
    assert "The shift is" in one_line(told.value)
    assert "dynamic" in told.value.remedy


@pytest.mark.parametrize("said", [True, np.nan, [3]])
def test_a_shift_of_another_type_is_refused(said: object) -> None:
    with pytest.raises(OptionError, match="The shift is"):
        Settings(shift=said)  # type: ignore[arg-type]


def test_a_model_with_timesteps_has_no_shift() -> None:
    with pytest.raises(OptionError, match="is for a flow, and this model has timesteps"):
        sampler_for(toy_manifest(), Settings(5, shift=3.0))


def test_an_unknown_number_of_tokens_is_refused() -> None:
    with pytest.raises(OptionError) as told:
        sampler_for(manifest_of(OF_DIFFUSERS), Settings(5, shift="dynamic"))
    assert told.value.remedy == "Give the shift as a number"


def test_a_dynamic_shift_beyond_reason_is_refused() -> None:
    with pytest.raises(OptionError, match="The dynamic shift of 4096 tokens is"):
        DynamicShift(0.5, 900.0).of(4096)


def test_a_shift_is_in_the_settings_as_it_was_said() -> None:
    assert "shift" not in Settings().as_dict()
    assert Settings(shift="3").as_dict()["shift"] == 3.0
    assert Settings(shift="dynamic").as_dict()["shift"] == "dynamic"
