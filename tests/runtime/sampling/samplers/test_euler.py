import numpy as np
import pytest
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
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
from pitstop.runtime.sampling.samplers.euler import Euler
from pitstop.runtime.sampling.schedule.flow import LinearFlow


def walk_diffusers(steps: int) -> list[Latent]:
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps).tolist())

    def step(index: int, latent: Latent, prediction: Prediction, _noise: Latent) -> Latent:
        velocity, sample = to_torch(prediction.output), to_torch(latent)
        after: Latent = scheduler.step(velocity, scheduler.timesteps[index], sample)[0].numpy()
        return after

    return walk(scheduler.sigmas[:-1].tolist(), step, toy_velocity, start_latent())


@pytest.mark.parametrize("steps", [1, 2, 5, 20, 50, 250])
def test_every_latent_on_the_way_is_that_of_diffusers(steps: int) -> None:
    ours = walk_ours(Euler(TO_NOISE.visit(steps)), toy_velocity)
    for found, wanted in zip(ours, walk_diffusers(steps), strict=True):
        assert relative_l2(wanted, found) <= 1e-5


@pytest.mark.parametrize("flow", [TO_DATA, TO_NOISE])
@pytest.mark.parametrize("steps", [1, 10, 50])
def test_the_true_velocity_gives_the_image_back(flow: LinearFlow, steps: int) -> None:
    image, noise = image_and_noise()
    velocity = velocity_between(flow, image, noise)

    found = walk_ours(Euler(flow.visit(steps)), lambda _x, _t: Prediction(velocity), noise)[-1]

    assert relative_l2(image, found) <= 1e-5


@pytest.mark.parametrize("flow", [TO_DATA, TO_NOISE])
def test_twice_the_steps_halve_the_error(flow: LinearFlow) -> None:
    coarse, fine = (error_on_a_known_path(Euler(flow.visit(n)), flow) for n in (100, 200))
    assert coarse / fine == pytest.approx(2, rel=0.05)


@given(steps=st.integers(1, 1000), place=st.floats(0, 1), data_at=st.integers(0, 1))
def test_any_step_is_finite_and_stays_float32(steps: int, place: float, data_at: int) -> None:
    sampler = Euler(LinearFlow(data_at).visit(steps))
    latent = start_latent()
    moved, memory = sampler.step(
        round(place * (steps - 1)), latent, toy_velocity(latent, 0.5), None, ()
    )
    assert not sampler.stochastic
    assert moved.dtype == np.float32
    assert moved.shape == latent.shape
    assert np.isfinite(moved).all()
    assert memory == ()
