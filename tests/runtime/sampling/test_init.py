"""Runs that begin with an image, held against diffusers' img2img and inpainting, re-stated here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from bundle_helpers import SHAPE, one_line, toy_manifest
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from diffusers.schedulers.scheduling_flow_match_heun_discrete import FlowMatchHeunDiscreteScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from sampler_helpers import relative_l2

from pitstop import OptionError
from pitstop.runtime.pipeline import Pipeline
from pitstop.runtime.sampling import request
from pitstop.runtime.sampling.init import Init
from pitstop.runtime.sampling.noise import START, draw_noise
from pitstop.runtime.sampling.sampler import Latent
from pitstop.runtime.sampling.samplers import make_sampler
from pitstop.runtime.sampling.schedule.betas import Betas
from pitstop.runtime.sampling.schedule.flow import LinearFlow
from pitstop.runtime.sampling.settings import Settings
from pitstop.runtime.session import Array

# diffusers copies a tensor into an array in a way that NumPy 2 tells torch to mend.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept:DeprecationWarning"
)

SEEDS = (3, 4)
IMAGE = draw_noise([9], START, SHAPE)[0]
MASK = (np.add.outer(np.arange(8), np.arange(8)) % 3 == 0).astype(np.float32)
EPSILON, FLOW = (
    toy_manifest(),
    dataclasses.replace(
        toy_manifest(), prediction_type="velocity", schedule=LinearFlow(0, unit=1000.0, least=0.001)
    ),
)
DPM = DPMSolverMultistepScheduler
RULES: dict[str, tuple[str, Any]] = {
    "ddim": ("leading", lambda: DDIMScheduler(clip_sample=False, set_alpha_to_one=True)),
    "ddpm": ("leading", lambda: DDPMScheduler(clip_sample=False)),
    "dpmpp_2m": ("linspace", DPM),
    "dpmpp_2m_sde": ("linspace", lambda: DPM(algorithm_type="sde-dpmsolver++")),
    "unipc": ("linspace", UniPCMultistepScheduler),
    "unipc_3": ("linspace", lambda: UniPCMultistepScheduler(solver_order=3)),
    "euler": ("trailing", lambda: EulerDiscreteScheduler(timestep_spacing="trailing")),
}
FLOW_RULES = {"euler": FlowMatchEulerDiscreteScheduler, "heun": FlowMatchHeunDiscreteScheduler}


def toy(latent: Latent, timestep: float) -> Latent:
    """Smooth, and not linear."""
    share = np.float32(timestep / 1000)
    found: Latent = share * latent + 0.2 * np.sin(3 * latent + np.roll(latent, 1, axis=-1) + share)
    return found


class Toy:
    """The denoiser that says what `toy` does."""

    device = "fake"

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        [timestep] = set(feeds["timestep"].tolist())
        return {"prediction": toy(np.asarray(feeds["latent"], dtype=np.float32), timestep)}

    def close(self) -> None:
        """Nothing is held."""


def skipped_by_diffusers(steps: int, strength: float, *, flow: bool) -> int:
    """``get_timesteps`` of Stable Diffusion's pipelines, and of Stable Diffusion 3's and Flux's."""
    if flow:
        return int(max(steps - min(steps * strength, steps), 0))
    return max(steps - min(int(steps * strength), steps), 0)


def drawn_by_diffusers(
    scheduler: Any, steps: int, strength: float, mask: Latent | None, patch: pytest.MonkeyPatch
) -> Latent:
    """The loop of its img2img pipelines, and of its inpainting ones with a plain denoiser."""
    scheduler.set_timesteps(steps)
    start = skipped_by_diffusers(steps, strength, flow=not hasattr(scheduler, "add_noise"))
    timesteps = scheduler.timesteps[start * scheduler.order :]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(start * scheduler.order)
    image = torch.from_numpy(np.stack([IMAGE] * len(SEEDS)))
    noise = torch.from_numpy(draw_noise(SEEDS, START, SHAPE))
    latent = _noised(scheduler, image, noise, timesteps[:1])
    if mask is not None and strength == 1:
        latent = noise * getattr(scheduler, "init_noise_sigma", 1.0)
    for index, timestep in enumerate(timesteps):
        fresh = torch.from_numpy(draw_noise(SEEDS, index + 1, SHAPE))
        name = f"{type(scheduler).__module__}.randn_tensor"
        patch.setattr(name, lambda *_, fresh=fresh, **__: fresh, raising=False)
        scale = getattr(scheduler, "scale_model_input", lambda x, _: x)
        said = torch.from_numpy(toy(scale(latent, timestep).numpy(), float(timestep)))
        latent = scheduler.step(said, timestep, latent, return_dict=False)[0]
        if mask is not None:
            kept = image
            if index < len(timesteps) - 1:
                kept = _noised(scheduler, image, noise, timesteps[index + 1].reshape(1))
            share = torch.from_numpy(mask)
            latent = (1 - share) * kept + share * latent
    return latent.numpy()


def _noised(
    scheduler: Any, image: torch.Tensor, noise: torch.Tensor, timestep: torch.Tensor
) -> torch.Tensor:
    if hasattr(scheduler, "add_noise"):
        return scheduler.add_noise(image, noise, timestep)
    sigma = scheduler.sigmas[list(scheduler.timesteps).index(timestep[0])]  # scale_noise
    return sigma * noise + (1 - sigma) * image


def drawn_here(flow: bool, sampler: str, steps: int, init: Init) -> Latent:
    manifest = FLOW if flow else EPSILON
    spacing = "auto" if flow else RULES[sampler][0]
    settings = Settings(steps, sampler, cfg_scale=1.0, spacing=spacing)
    pipeline = Pipeline(manifest, Toy(), "fp32")
    return pipeline.draw(manifest.examples(len(SEEDS)), SEEDS, settings, init=init)


@pytest.mark.parametrize("strength", [0.3, 0.75, 1.0])
@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "masked"])
@pytest.mark.parametrize("sampler", RULES)
def test_a_run_from_an_image_ends_where_diffusers_does(
    sampler: str, mask: Latent | None, strength: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = drawn_by_diffusers(RULES[sampler][1](), 20, strength, mask, monkeypatch)

    found = drawn_here(False, sampler, 20, Init(IMAGE, strength, mask))

    assert found.dtype == np.float32
    assert relative_l2(wanted, found) <= 1e-5


@pytest.mark.parametrize("strength", [0.02, 0.3, 0.75, 1.0])
@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "masked"])
@pytest.mark.parametrize("sampler", FLOW_RULES)
def test_a_flow_from_an_image_ends_where_diffusers_does(
    sampler: str, mask: Latent | None, strength: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 19 if sampler == "heun" else 10  # of ten intervals
    wanted = drawn_by_diffusers(FLOW_RULES[sampler](), 10, strength, mask, monkeypatch)

    found = drawn_here(True, sampler, calls, Init(IMAGE, strength, mask))

    assert relative_l2(wanted, found) <= 1e-5


@pytest.mark.parametrize("data_at", [0, 1])
@pytest.mark.parametrize("steps", [1, 2, 7, 8])
def test_image_and_noise_share_a_flows_latent_as_far_as_it_has_come(
    data_at: int, steps: int
) -> None:
    flow = LinearFlow(data_at, unit=500.0, shift=3.0)
    for schedule in (flow.visit(steps), flow.visit_twice(steps)):
        noise = [schedule.amplitudes(index)[1] for index in range(steps)]
        np.testing.assert_allclose(noise, flow.noise_level(schedule.timesteps), atol=1e-12)
        assert schedule.amplitudes(0) == (0, 1)


@pytest.mark.parametrize(
    ("sampler", "steps", "strength", "left"),
    [("euler", 50, 0.3, 15), ("euler", 10, 0.99, 10), ("heun", 20, 0.5, 10), ("heun", 19, 0.5, 9)],
)
def test_a_flows_run_is_cut_at_an_interval(
    sampler: str, steps: int, strength: float, left: int
) -> None:
    whole = make_sampler(sampler, LinearFlow(1), steps).schedule
    part = make_sampler(sampler, LinearFlow(1), steps, strength=strength).schedule

    assert part.steps == left
    np.testing.assert_array_equal(part.timesteps, whole.timesteps[-left:])


@pytest.mark.parametrize(("steps", "strength"), [(10, 0.75), (28, 0.6), (50, 0.33), (7, 0.001)])
def test_a_flows_last_steps_are_as_many_as_those_of_diffusers(steps: int, strength: float) -> None:
    skipped = skipped_by_diffusers(steps, strength, flow=True)
    for sampler, whole in (("euler", steps), ("heun", 2 * steps)):
        part = make_sampler(sampler, LinearFlow(0), whole, strength=strength).schedule
        assert part.steps == (steps - skipped) * (whole // steps)


def test_a_strength_that_leaves_no_step_is_refused() -> None:
    with pytest.raises(OptionError) as caught:
        make_sampler("ddim", Betas(), 20, strength=0.04)

    message = one_line(caught.value)
    assert "A strength of 0.04 leaves none of 20 steps" in message
    assert "at least 0.05" in message
    assert make_sampler("ddim", Betas(), 20, strength=0.05).schedule.steps == 1


def test_a_mask_of_all_is_the_run_without_one_where_not_all_steps_are_taken() -> None:
    everything = np.ones((8, 8), np.float32)
    whole, masked = (
        drawn_here(False, "ddim", 20, Init(IMAGE, 0.5, mask)) for mask in (None, everything)
    )
    np.testing.assert_allclose(whole, masked, atol=1e-6)


def test_what_a_mask_keeps_is_the_image_itself() -> None:
    drawn = drawn_here(False, "ddim", 6, Init(IMAGE, 1.0, MASK))

    for latent in drawn:
        np.testing.assert_array_equal(latent[:, MASK == 0], IMAGE[:, MASK == 0])
        assert not np.isclose(latent[:, MASK == 1], IMAGE[:, MASK == 1]).any()


def test_seeds_share_the_image_and_differ_in_noise_whatever_the_batch() -> None:
    init = Init(IMAGE, 0.5, MASK)
    both = drawn_here(False, "ddpm", 8, init)
    pipeline = Pipeline(dataclasses.replace(EPSILON, batch=1), Toy(), "fp32")
    settings = Settings(8, "ddpm", cfg_scale=1.0, spacing="leading")

    for seed, latent in zip(SEEDS, both, strict=True):
        alone = pipeline.draw(EPSILON.examples(1), [seed], settings, init=init)
        np.testing.assert_array_equal(alone[0], latent)
    assert not np.allclose(both[0], both[1])


def test_the_noise_that_a_mask_keeps_an_image_with_is_drawn_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draws: list[int] = []

    def counting(seeds: Sequence[int], draw: int, *rest: Any) -> Latent:
        draws.append(draw)
        return draw_noise(seeds, draw, *rest)

    monkeypatch.setattr(request, "draw_noise", counting)
    drawn_here(False, "ddim", 6, Init(IMAGE, 1.0, MASK))
    assert draws == [START]


def test_what_was_made_by_hand_is_told_apart_by_its_latent_and_its_mask() -> None:
    hashes = [
        tuple(init.facts.items())
        for init in (Init(IMAGE, 0.5), Init(IMAGE + 1, 0.5), Init(IMAGE, 0.5, MASK))
    ]
    assert len(set(hashes)) == 3
    assert [name for name, _ in hashes[2]] == ["init_sha256", "mask_sha256"]
    assert Init(IMAGE.copy(), 0.9).facts == Init(IMAGE, 0.5).facts
    assert Init(IMAGE, 0.5, facts={"init_sha256": "its picture's"}).facts == {
        "init_sha256": "its picture's"
    }


def test_calls_are_counted_among_the_steps_that_are_left() -> None:
    init = Init(IMAGE, 0.5)
    pipeline = Pipeline(EPSILON, Toy(), "fp32")

    chosen = pipeline.forecast(Settings(20, calls=4), init)

    assert chosen is not None
    assert (chosen.plan.steps, chosen.plan.calls) == (10, 4)
    assert "forecasts are fitted for whole runs, and of this one the last 10 of 20" in chosen.note
    assert pipeline.forecast(Settings(20, calls=10), init) is None
    with pytest.raises(OptionError, match=r"12 calls .* leaves 10 of 20 steps"):
        pipeline.forecast(Settings(20, calls=12), init)
    drawn = pipeline.draw(EPSILON.examples(1), [1], Settings(20, cfg_scale=1.0, calls=4), init=init)
    assert np.isfinite(drawn).all()
