from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from bundle_helpers import FakeSession, one_line, toy_manifest

from pitstop import OptionError, Pipeline
from pitstop.runtime.sampling.device_run import why_not_on_device
from pitstop.runtime.sampling.samplers import make_sampler
from pitstop.runtime.sampling.schedule import Schedule


@dataclass(frozen=True)
class Halving:
    """Goes nowhere in particular, and keeps its shape so that nothing else may ask it."""

    schedule: Any
    stochastic: Any = False
    answer: Any = None

    def step(self, index: int, latent: Any, prediction: Any, noise: Any, memory: Any) -> Any:
        assert latent.shape[1:] == prediction.output.shape[1:] == (1, 8, 8)
        return ((latent - prediction.output) / 2, ()) if self.answer is None else self.answer


VISITS = Schedule(np.array([800, 300]), alpha_bar=np.array([0.1, 0.6]), after=np.array([0.6, 1.0]))


@pytest.fixture
def fake() -> Pipeline:
    return Pipeline(toy_manifest(batch=2), FakeSession(), "fp32")


def test_an_own_sampler_draws_what_it_draws_by_name(fake: Pipeline) -> None:
    training = fake.manifest.schedule
    for name in ("ddim", "ddpm", "dpmpp_2m"):
        own = make_sampler(name, training, 5)

        drawn = fake([0, 1], seeds=[3, 4], sampler=own)

        named = fake([0, 1], seeds=[3, 4], sampler=name, steps=5)
        np.testing.assert_allclose(drawn.latents, named.latents, rtol=0, atol=1e-6)


def test_the_steps_are_those_of_its_schedule(fake: Pipeline) -> None:
    drawn = fake([0], sampler=Halving(VISITS), callback=lambda step: step.count != 2)

    assert drawn.stopped_after is None
    assert drawn.settings is not None
    assert (drawn.settings.steps, drawn.settings.sampler) == (2, "Halving")


def test_it_is_guided_in_an_interval_of_its_own_times(fake: Pipeline) -> None:
    session = fake.session
    assert isinstance(session, FakeSession)

    fake([0], sampler=Halving(VISITS), cfg_scale=2.0, cfg_interval="0:500")
    fake([0], sampler=Halving(VISITS), cfg_scale=2.0)

    assert len(session.calls) == 4


def test_a_devices_loop_leaves_it_to_the_host_and_says_so(fake: Pipeline) -> None:
    manifest = fake.manifest
    own = fake.requests(manifest.examples(1), [0], _settings(), own=_own(Halving(VISITS), fake))

    why = why_not_on_device(own, manifest, manifest.denoiser("fp32"))

    assert why == "the sampler Halving is an object of the user's"


@pytest.mark.parametrize(
    ("sampler", "found", "remedy"),
    [
        (3, "sampler is 3, which has no schedule, no stochastic, no step", "Sampler"),
        (Halving, "no schedule", "Sampler"),
        (Halving(None), "has no timesteps, no steps, no start", "Schedule"),
        (Halving(VISITS, stochastic="no"), "stochastic", "Sampler"),
        (Halving(replace(VISITS, timesteps=np.array([2000, 3]))), "not trained", "0 to 999"),
        (Halving(replace(VISITS, timesteps=np.array([[3.0]]))), "shape [1, 1]", "each step"),
        (Halving(replace(VISITS, timesteps=np.array([np.nan, 3]))), "not trained", "0 to 999"),
        (Halving(replace(VISITS, start=0.0)), "0.0", "above 0"),
        (Halving(VISITS, answer=3), "returned 3", "tuple"),
        (Halving(VISITS, answer=(np.zeros(3), ())), "[3] in float64", "float32"),
    ],
)
def test_what_is_no_sampler_is_refused_with_what_it_lacks(
    fake: Pipeline, sampler: Any, found: str, remedy: str
) -> None:
    with pytest.raises(OptionError) as raised:
        fake([0], sampler=sampler)

    assert found in one_line(raised.value)
    assert remedy in one_line(raised.value)


@pytest.mark.parametrize(
    ("beside", "found"),
    [
        ({"steps": 3}, "3 steps were asked for, and the sampler Halving visits 2"),
        ({"eta": 0.5}, "eta was given"),
        ({"spacing": "trailing"}, "spacing was given"),
        ({"calls": 3}, "calls was given"),
        ({"shift": 2.0}, "shift was given"),
        ({"init": "dog.png"}, "init was given"),
    ],
)
def test_what_its_schedule_says_is_not_said_again(
    fake: Pipeline, beside: dict[str, Any], found: str
) -> None:
    with pytest.raises(OptionError) as raised:
        fake([0], sampler=Halving(VISITS), **beside)

    assert found in one_line(raised.value)


def _settings() -> Any:
    from pitstop import Settings

    return Settings(2, "Halving")


def _own(sampler: Any, pipeline: Pipeline) -> Any:
    from pitstop.runtime.sampling.own_sampler import own_sampler

    return own_sampler(sampler, pipeline.manifest.schedule)
