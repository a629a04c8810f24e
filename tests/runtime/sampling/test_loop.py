import numpy as np
import pytest
from bundle_helpers import SHAPE, one_line

from pitstop import NonFiniteError
from pitstop.runtime.sampling.loop import walk
from pitstop.runtime.sampling.noise import START, draw_noise
from pitstop.runtime.sampling.sampler import Latent, Prediction
from pitstop.runtime.sampling.samplers import make_sampler
from pitstop.runtime.sampling.schedule import LinearBetas

BETAS = LinearBetas()


def nothing(latent: Latent, timestep: int) -> Prediction:
    return Prediction(np.zeros_like(latent), np.zeros_like(latent))


@pytest.mark.parametrize("name", ["ddim", "ddpm", "dpmpp_2m"])
def test_the_latent_is_given_after_every_step(name: str) -> None:
    latents = list(walk(nothing, make_sampler(name, BETAS, 5), [1, 2], SHAPE))
    assert [latent.shape for latent in latents] == 5 * [(2, *SHAPE)]
    assert {latent.dtype.name for latent in latents} == {"float32"}


def test_the_denoiser_is_asked_at_each_timestep_from_the_seeds_noise_on() -> None:
    asked: list[tuple[int, Latent]] = []

    def denoise(latent: Latent, timestep: int) -> Prediction:
        asked.append((timestep, latent.copy()))
        return nothing(latent, timestep)

    latents = list(walk(denoise, make_sampler("ddim", BETAS, 4), [5], SHAPE))

    assert [timestep for timestep, _ in asked] == [750, 500, 250, 0]
    np.testing.assert_array_equal(asked[0][1], draw_noise([5], START, SHAPE))
    for (_, fed), given in zip(asked[1:], latents, strict=False):
        np.testing.assert_array_equal(fed, given)


def test_each_step_of_ddpm_takes_its_own_draw() -> None:
    sampler = make_sampler("ddpm", BETAS, 3)
    first, second, _ = walk(nothing, sampler, [5], SHAPE)
    memory: tuple[()] = ()
    wanted, _ = sampler.step(1, first, nothing(first, 0), draw_noise([5], 2, SHAPE), memory)
    np.testing.assert_array_equal(second, wanted)


@pytest.mark.parametrize("name", ["ddim", "ddpm", "dpmpp_2m"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_latent_that_is_not_finite_is_told_with_its_step_and_timestep(
    bad: float, name: str
) -> None:
    sampler = make_sampler(name, BETAS, 4)
    third = sampler.schedule.timesteps[2]

    def denoise(latent: Latent, timestep: int) -> Prediction:
        prediction = nothing(latent, timestep)
        if timestep == third:
            prediction.output[1, 0, 3, 3] = bad
        return prediction

    steps = walk(denoise, sampler, [1, 2], SHAPE)

    next(steps)
    next(steps)
    with pytest.raises(NonFiniteError) as told:
        next(steps)
    assert told.value.problem == f"Step 3 of 4 (timestep {third}) gave a latent that is not finite"
    assert "`--precision fp32`" in one_line(told.value)
