import itertools

import numpy as np
import pytest
from diffusers.schedulers.scheduling_flow_match_heun_discrete import FlowMatchHeunDiscreteScheduler
from flow_helpers import (
    TO_DATA,
    TO_NOISE,
    error_on_a_known_path,
    image_and_noise,
    to_torch,
    toy_velocity,
    velocity_between,
)
from hypothesis import given
from hypothesis import strategies as st
from sampler_helpers import relative_l2, start_latent, walk, walk_ours

from pitstop.runtime.sampling.sampler import Latent, Prediction
from pitstop.runtime.sampling.samplers.heun import Heun
from pitstop.runtime.sampling.schedule import FlowSchedule
from pitstop.runtime.sampling.schedule.flow import LinearFlow


def walk_diffusers(intervals: int) -> tuple[list[Latent], Heun]:
    """The latents after each call, and our sampler on the same grid, which is not even."""
    scheduler = FlowMatchHeunDiscreteScheduler()
    scheduler.set_timesteps(intervals)
    times = (scheduler.timesteps / 1000).tolist()

    def step(index: int, latent: Latent, prediction: Prediction, _noise: Latent) -> Latent:
        velocity, sample = to_torch(prediction.output), to_torch(latent)
        after: Latent = scheduler.step(velocity, scheduler.timesteps[index], sample)[0].numpy()
        return after

    grid = np.array(sorted(set(scheduler.sigmas.tolist()), reverse=True))
    ours = Heun(FlowSchedule(np.array(times), grid))
    return walk(times, step, toy_velocity, start_latent()), ours


# Of two intervals, diffusers divides the first by the last one's sigma of 1/1000, and rounds.
@pytest.mark.parametrize("intervals", [3, 10, 50])
def test_every_latent_on_the_way_is_that_of_diffusers(intervals: int) -> None:
    theirs, sampler = walk_diffusers(intervals)
    assert len(theirs) == 2 * intervals - 1
    for found, wanted in zip(walk_ours(sampler, toy_velocity), theirs, strict=True):
        assert relative_l2(wanted, found) <= 1e-5


@pytest.mark.parametrize("flow", [TO_DATA, TO_NOISE])
@pytest.mark.parametrize("intervals", [1, 4, 25])
def test_an_odd_run_is_repas_rule(flow: LinearFlow, intervals: int) -> None:
    """In float64: Euler's step, corrected but in the last interval."""
    times = np.linspace(1 - flow.data_at, flow.data_at, intervals + 1)
    latent = start_latent().astype(np.float64)
    for now, after in itertools.pairwise(times):
        velocity = toy_velocity(latent, now).output.astype(np.float64)
        moved = latent + (after - now) * velocity
        if after != times[-1]:
            corrected = 0.5 * velocity + 0.5 * toy_velocity(moved, after).output
            moved = latent + (after - now) * corrected
        latent = moved

    found = walk_ours(Heun(flow.visit_twice(2 * intervals - 1)), toy_velocity)[-1]

    assert relative_l2(latent, found) <= 1e-5


@pytest.mark.parametrize(
    ("steps", "times"),
    [
        (1, [0.0]),
        (2, [0.0, 1.0]),
        (3, [0.0, 0.5, 0.5]),
        (4, [0.0, 0.5, 0.5, 1.0]),
        (5, [0.0, 1 / 3, 1 / 3, 2 / 3, 2 / 3]),
    ],
)
def test_each_call_counts_as_a_step(steps: int, times: list[float]) -> None:
    schedule = TO_DATA.visit_twice(steps)
    assert schedule.steps == steps
    np.testing.assert_allclose(schedule.timesteps, times)
    np.testing.assert_allclose(TO_NOISE.visit_twice(steps).timesteps, 1 - np.array(times))


@pytest.mark.parametrize("flow", [TO_DATA, TO_NOISE])
@pytest.mark.parametrize("steps", [1, 2, 9, 50])
def test_the_true_velocity_gives_the_image_back(flow: LinearFlow, steps: int) -> None:
    image, noise = image_and_noise()
    velocity = velocity_between(flow, image, noise)

    found = walk_ours(Heun(flow.visit_twice(steps)), lambda _x, _t: Prediction(velocity), noise)

    assert relative_l2(image, found[-1]) <= 1e-5


@pytest.mark.parametrize("flow", [TO_DATA, TO_NOISE])
def test_twice_the_steps_divide_the_error_by_four(flow: LinearFlow) -> None:
    coarse, fine = (error_on_a_known_path(Heun(flow.visit_twice(n)), flow) for n in (60, 120))
    assert coarse / fine == pytest.approx(4, rel=0.15)


@given(steps=st.integers(1, 1000), place=st.floats(0, 1), data_at=st.integers(0, 1))
def test_any_step_is_finite_and_stays_float32(steps: int, place: float, data_at: int) -> None:
    sampler = Heun(LinearFlow(data_at).visit_twice(steps))
    latent = start_latent()
    index = round(place * (steps - 1))
    memory = (latent[::-1], latent) if index % 2 else ()
    moved, kept = sampler.step(index, latent, toy_velocity(latent, 0.5), None, memory)
    assert not sampler.stochastic
    assert moved.dtype == np.float32
    assert moved.shape == latent.shape
    assert np.isfinite(moved).all()
    assert len(kept) == (0 if index % 2 else 2)
