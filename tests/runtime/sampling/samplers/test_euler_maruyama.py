import dataclasses

import numpy as np
import pytest
import torch
from bundle_helpers import SHAPE as SMALL
from bundle_helpers import FakeSession, toy_manifest
from flow_helpers import TO_DATA, TO_NOISE, to_torch, toy_velocity
from sampler_helpers import SHAPE, relative_l2, start_latent, walk_ours

from pitstop.runtime.pipeline import Pipeline
from pitstop.runtime.sampling.noise import START, draw_noise
from pitstop.runtime.sampling.sampler import Latent, Prediction
from pitstop.runtime.sampling.samplers import make_sampler
from pitstop.runtime.sampling.samplers.euler_maruyama import LAST
from pitstop.runtime.sampling.schedule.flow import LinearFlow
from pitstop.runtime.sampling.settings import Settings
from pitstop.runtime.sampling.step_table import step_table


def fresh(step: int) -> torch.Tensor:
    """What `sampler_helpers.walk` gives a step."""
    return to_torch(draw_noise([0, 1], step + 1, SHAPE)).double()


def velocity(latent: torch.Tensor, time: float) -> torch.Tensor:
    return to_torch(toy_velocity(latent.float().numpy(), time).output).double()


def walk_repa(steps: int) -> Latent:
    """REPA's ``euler_maruyama_sampler``: diffusion 2 t, drift v - diffusion / 2 * score."""
    times = torch.cat([
        torch.linspace(1, 0.04, steps, dtype=torch.float64),
        torch.zeros(1).double(),
    ])
    latent = to_torch(start_latent()).double()
    for step in range(steps):
        now, change = times[step], times[step + 1] - times[step]
        v = velocity(latent, float(now))
        score = (-(1 - now) * v - latent) / (now**2 + (1 - now) * now)
        drift = v - 0.5 * (2 * now) * score
        latent = latent + drift * change
        if step < steps - 1:
            latent = latent + torch.sqrt(2 * now) * torch.sqrt(change.abs()) * fresh(step)
    return latent.float().numpy()


def walk_sit(steps: int) -> Latent:
    """SiT's ``sample_sde``: Euler, diffusion_form sigma, last_step Mean of size 0.04."""
    times = torch.linspace(0, 1 - 0.04, steps)
    change = times[1] - times[0]
    latent = to_torch(start_latent()).double()

    def drift(now: torch.Tensor) -> torch.Tensor:
        v, alpha, sigma = velocity(latent, float(now)), now, 1 - now
        ratio = alpha / 1.0  # alpha over its derivative; sigma's is -1
        score = (ratio * v - latent) / (sigma**2 - ratio * -1 * sigma)
        return v + sigma * score

    for step in range(steps - 1):
        now = times[step]
        mean = latent + drift(now) * change
        latent = mean + torch.sqrt(2 * (1 - now)) * torch.sqrt(change) * fresh(step)
    return (latent + drift(times[-1]) * 0.04).float().numpy()


@pytest.mark.parametrize("steps", [2, 3, 10, 50])
def test_a_run_is_repas_on_the_same_noise(steps: int) -> None:
    found = walk_ours(make_sampler("euler_maruyama", TO_NOISE, steps), toy_velocity)
    assert len(found) == steps
    assert relative_l2(walk_repa(steps), found[-1]) <= 1e-5


@pytest.mark.parametrize("steps", [2, 3, 10, 50])
def test_a_run_is_sits_on_the_same_noise(steps: int) -> None:
    found = walk_ours(make_sampler("euler_maruyama", TO_DATA, steps), toy_velocity)
    assert len(found) == steps
    assert relative_l2(walk_sit(steps), found[-1]) <= 1e-5


def test_guidance_of_the_velocity_is_repas_guidance_of_the_drift() -> None:
    """The drift is linear in velocity and latent, and both halves have the same latent."""
    sampler = make_sampler("euler_maruyama", TO_NOISE, 10)
    latent, noise = start_latent(), draw_noise([3, 4], 1, SHAPE)
    told, untold = (toy_velocity(latent, time).output for time in (0.3, 0.8))
    one, other, both = (
        sampler.step(4, latent, Prediction(output), noise, ())[0]
        for output in (told, untold, untold + np.float32(2.5) * (told - untold))
    )
    np.testing.assert_allclose(both, other + 2.5 * (one - other), atol=1e-5)


@pytest.mark.parametrize("flow", [TO_DATA, TO_NOISE])
def test_a_known_image_comes_back_but_for_the_last_shares_noise(flow: LinearFlow) -> None:
    image = draw_noise([1, 2], START, SHAPE)

    def denoise(latent: Latent, time: float) -> Prediction:
        share = abs(time - flow.data_at)
        towards_noise = (latent - image) / share
        return Prediction((towards_noise * (-1 if flow.data_at else 1)).astype(np.float32))

    *_, before, last = walk_ours(make_sampler("euler_maruyama", flow, 30), denoise)

    noise = (before - (1 - LAST) * image) / LAST
    np.testing.assert_allclose(last, image - LAST * noise, atol=1e-4)


@pytest.mark.parametrize("steps", [1, 2, 20])
def test_its_steps_are_a_table_for_a_devices_loop(steps: int) -> None:
    table = step_table(make_sampler("euler_maruyama", TO_DATA, steps), learned_variance=False)
    assert table.stochastic
    assert table.moves[-1, 0, -1] == 0  # the last takes no noise


def test_images_differ_by_their_seeds_alone() -> None:
    manifest = dataclasses.replace(
        toy_manifest(batch=4), schedule=LinearFlow(), prediction_type="velocity"
    )
    pipeline, settings = Pipeline(manifest, FakeSession(), "fp32"), Settings(6, "euler_maruyama")

    found = pipeline.draw(manifest.examples(2), [5, 6], settings)
    again = pipeline.draw(manifest.examples(2)[:1], [5], settings)

    assert found.shape == (2, *SMALL)
    np.testing.assert_array_equal(found[:1], again)
