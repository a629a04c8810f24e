"""Noise as PyTorch's CPU generator draws it, beside PyTorch."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from bundle_helpers import SHAPE, FakeSession, one_line, toy_manifest
from device_helpers import bundle_with_step, open_on
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.utils.torch_utils import randn_tensor

from pitstop import OptionError
from pitstop.runtime.distance import relative_l2
from pitstop.runtime.pipeline import Pipeline
from pitstop.runtime.sampling.noise import TORCH, draw_noise
from pitstop.runtime.sampling.noise.torch_normal import torch_normal
from pitstop.runtime.sampling.sampler import Latent
from pitstop.runtime.sampling.settings import Settings

SEEDS = [0, 1, 42, 2**31 + 5, 2**32 - 1, 2**32 + 7, 2**63 - 1, 2**64 - 1]
SIZES = [1, 2, 3, 7, 14, 15, 16, 17, 18, 31, 32, 33, 47, 48, 100, 1023, 1024, 4096]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_draws_of_a_seed_are_those_of_torch_randn(seed: int, size: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for draw in range(4):
        wanted = torch.randn(size, generator=generator).numpy()
        np.testing.assert_allclose(torch_normal(seed, draw, size), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("dtype", "bits"), [(torch.float16, 10), (torch.bfloat16, 7)])
def test_smaller_types_have_the_same_numbers_rounded(dtype: torch.dtype, bits: int) -> None:
    """So a picture of a pipeline in half precision starts from the same noise, but for rounding."""
    for size in (9, 16, 48, 784, 4096):
        wanted = torch.randn(size, generator=torch.Generator().manual_seed(5), dtype=dtype).float()
        np.testing.assert_allclose(torch_normal(5, 0, size), wanted, rtol=2.0**-bits, atol=1e-6)


def test_a_latent_is_drawn_in_the_order_of_its_axes() -> None:
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    wanted = randn_tensor((2, 4, 6, 5), generator=generators)
    np.testing.assert_allclose(draw_noise([3, 4], 0, (4, 6, 5), TORCH), wanted, atol=1e-6)


SCHEDULERS = {
    "ddpm": (DDPMScheduler(clip_sample=False), {}),
    "ddim": (DDIMScheduler(clip_sample=False), {"eta": 0.6}),
    "dpmpp_2m_sde": (
        DPMSolverMultistepScheduler(
            algorithm_type="sde-dpmsolver++", beta_schedule="linear", timestep_spacing="leading"
        ),
        {},
    ),
}


def drawn_by_diffusers(
    name: str, labels: list[int], seeds: list[int], *, handed_on: bool = True
) -> Latent:
    """A pipeline's loop with a list of generators, one for each image.

    DiTPipeline draws its latents from them, and hands them on to no step.
    """
    scheduler, options = SCHEDULERS[name]
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    latent = randn_tensor((len(seeds), *SHAPE), generator=generators)
    scheduler.set_timesteps(8)
    session = FakeSession()
    for timestep in scheduler.timesteps:
        feeds = {
            "latent": latent.numpy(),
            "timestep": np.full(len(seeds), float(timestep), np.float32),
            "label": np.array(labels),
        }
        said = torch.from_numpy(session.run(feeds)["prediction"])
        step = {**options, "generator": generators} if handed_on else {}
        latent = scheduler.step(said, timestep, latent, **step).prev_sample
    return latent.numpy()


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn.t accept:DeprecationWarning")
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_picture_of_generators_that_are_handed_on_to_each_step_is_drawn_again(
    name: str, tmp_path: Path
) -> None:
    """The latents first, then each step's noise, from the one generator of each image."""
    wanted = drawn_by_diffusers(name, [2, 0], [7, 8])
    settings = Settings(
        8, name, 1.0, spacing="leading", noise="torch", eta=0.6 if name == "ddim" else 0.0
    )
    bundle = bundle_with_step(tmp_path / "bundle", toy_manifest(batch=2))
    manifest = bundle.manifest
    told = [manifest.label.told(label) for label in (2, 0)]

    for pipeline in (
        Pipeline(manifest, FakeSession(), "fp32"),
        Pipeline.of(open_on("onnxruntime", bundle)),
    ):
        assert relative_l2(wanted, pipeline.draw(told, [7, 8], settings)) <= 1e-5


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn.t accept:DeprecationWarning")
@pytest.mark.parametrize("name", ["ddim", "ddpm"])
def test_a_picture_of_ditpipelines_loop_is_drawn_again_where_its_steps_add_no_noise(
    name: str,
) -> None:
    torch.manual_seed(0)
    wanted = drawn_by_diffusers(name, [2, 0], [7, 8], handed_on=False)
    manifest = toy_manifest(batch=2)
    told = [manifest.label.told(label) for label in (2, 0)]
    settings = Settings(8, name, 1.0, spacing="leading", noise="torch")

    found = Pipeline(manifest, FakeSession(), "fp32").draw(told, [7, 8], settings)

    assert (relative_l2(wanted, found) <= 1e-5) is (name == "ddim")


def test_a_generator_that_drew_no_latents_begins_with_the_first_steps_noise() -> None:
    """As in diffusers, where latents are handed in beside a generator."""
    manifest = toy_manifest(batch=2)
    pipeline, told = Pipeline(manifest, FakeSession(), "fp32"), manifest.examples(1)
    start = draw_noise([5], 0, SHAPE)
    settings = Settings(2, "ddpm", 1.0, noise="torch")
    [request] = pipeline.requests(told, [9], settings, start)

    np.testing.assert_array_equal(request.begin(SHAPE, manifest.noise), start)
    generator = torch.Generator().manual_seed(9)
    for step in range(3):
        wanted = torch.randn(SHAPE, generator=generator)
        found = request.fresh_noise(step, SHAPE, manifest.noise)
        np.testing.assert_allclose(found[0], wanted, atol=1e-6)


def test_an_image_is_the_same_whatever_the_batch() -> None:
    settings = Settings(5, "ddpm", 2.0, noise="torch")
    found = [
        Pipeline(toy_manifest(batch=batch), FakeSession(), "fp32").draw(
            toy_manifest().examples(3), [1, 2, 3], settings
        )
        for batch in (1, 8)
    ]
    np.testing.assert_array_equal(*found)


def test_noise_is_in_the_settings_where_it_is_asked_for() -> None:
    assert "noise" not in Settings().as_dict()
    assert Settings(noise="torch").as_dict()["noise"] == "torch"
    assert dataclasses.replace(Settings(), noise=None) == Settings()


@pytest.mark.parametrize("noise", ["numpy", "", 3])
def test_other_noise_is_refused(noise: object) -> None:
    with pytest.raises(OptionError) as told:
        Settings(noise=noise)  # type: ignore[arg-type]
    assert "The noise is" in one_line(told.value)
