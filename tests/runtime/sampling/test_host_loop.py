from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from bundle_helpers import SHAPE, FakeSession, one_line, toy_manifest, write_bundle

from pitstop import NonFiniteError
from pitstop.runtime.bundle.manifest import Manifest
from pitstop.runtime.pipeline import Pipeline
from pitstop.runtime.sampling.host_loop import HostLoop
from pitstop.runtime.sampling.noise import START, draw_noise
from pitstop.runtime.sampling.request import Request
from pitstop.runtime.sampling.sampler import Latent, Memory, Prediction, Sampler
from pitstop.runtime.sampling.samplers import make_sampler
from pitstop.runtime.sampling.schedule import Schedule
from pitstop.runtime.sampling.schedule.betas import Betas
from pitstop.runtime.sampling.settings import Settings
from pitstop.runtime.session import Array

BETAS = Betas()
MANIFEST = dataclasses.replace(toy_manifest(batch=2), learn_sigma=True, cfg_channels=1)


class Nothing:
    """A denoiser that finds no noise, and keeps what it was asked; ``bad`` at one timestep."""

    device = "fake"

    def __init__(self, bad: float = 0.0, at: float = -1.0) -> None:
        self.asked: list[tuple[float, Latent]] = []
        self.bad, self.at = bad, at

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        [timestep] = set(feeds["timestep"].tolist())
        latent = np.array(feeds["latent"], dtype=np.float32)
        self.asked.append((timestep, latent))
        said = np.zeros_like(latent)
        if timestep == self.at:
            said[1, 0, 3, 3] = self.bad
        return {"prediction": np.concatenate([said, np.zeros_like(said)], axis=1)}

    def close(self) -> None:
        """Nothing is held."""


def request(sampler: Sampler, seeds: Sequence[int]) -> Request:
    return Request(seeds, MANIFEST.examples(len(seeds)), sampler)


def walk(session: Nothing, sampler: Sampler, seeds: Sequence[int]) -> list[Latent]:
    """The latents after every step."""
    seen: list[Latent] = []
    loop = HostLoop(MANIFEST, session)
    [last] = loop.draw([request(sampler, seeds)], seen.extend, look=True)
    np.testing.assert_array_equal(seen[-1], last)
    return seen


@pytest.mark.parametrize("name", ["ddim", "ddpm", "dpmpp_2m"])
def test_the_latent_is_given_after_every_step(name: str) -> None:
    latents = walk(Nothing(), make_sampler(name, BETAS, 5), [1, 2])
    assert [latent.shape for latent in latents] == 5 * [(2, *SHAPE)]
    assert {latent.dtype.name for latent in latents} == {"float32"}


def test_who_does_not_look_is_told_of_every_step_and_sees_nothing() -> None:
    told: list[Sequence[Latent]] = []
    loop = HostLoop(MANIFEST, Nothing())
    loop.draw([request(make_sampler("ddim", BETAS, 3), [1, 2])], told.append)
    assert told == [(), (), ()]


def test_the_denoiser_is_asked_at_each_timestep_from_the_seeds_noise_on() -> None:
    session = Nothing()

    latents = walk(session, make_sampler("ddim", BETAS, 4), [5, 6])

    assert [timestep for timestep, _ in session.asked] == [750, 500, 250, 0]
    np.testing.assert_array_equal(session.asked[0][1], draw_noise([5, 6], START, SHAPE))
    for (_, fed), given in zip(session.asked[1:], latents, strict=False):
        np.testing.assert_array_equal(fed, given)


def test_each_step_of_ddpm_takes_its_own_draw() -> None:
    sampler = make_sampler("ddpm", BETAS, 3)
    first, second, _ = walk(Nothing(), sampler, [5, 6])
    nothing = Prediction(np.zeros_like(first), np.zeros_like(first))
    wanted, _ = sampler.step(1, first, nothing, draw_noise([5, 6], 2, SHAPE), ())
    np.testing.assert_array_equal(second, wanted)


@pytest.mark.parametrize("name", ["ddim", "ddpm", "dpmpp_2m"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_latent_that_is_not_finite_is_told_with_its_step_and_timestep(
    bad: float, name: str
) -> None:
    sampler = make_sampler(name, BETAS, 4)
    third = sampler.schedule.timesteps[2]
    seen: list[Sequence[Latent]] = []
    loop = HostLoop(MANIFEST, Nothing(bad, float(third)))

    with pytest.raises(NonFiniteError) as told:
        loop.draw([request(sampler, [1, 2])], seen.append)

    assert len(seen) == 2
    assert told.value.problem == f"Step 3 of 4 (timestep {third}) gave a latent that is not finite"
    assert "`--precision fp32`" in one_line(told.value)


MIXED = [  # sampler, steps, guidance scale, eta, step that it joins at, labels
    ("ddim", 7, 3.0, 0.0, 0, [1]),
    ("ddpm", 5, 1.0, 0.0, 2, [0]),
    ("dpmpp_2m", 9, 2.0, 0.0, 1, [2, 0]),
    ("ddim", 3, 1.0, 0.7, 4, [1]),
    ("ddim", 1, 4.0, 0.0, 9, [2]),
]


def mixed(manifest: Manifest) -> list[Request]:
    """Requests that are alike in nothing, and come and go at different times."""
    return [
        Request(
            [10 * k + image for image in range(len(labels))],
            [manifest.label.told(label) for label in labels],
            make_sampler(name, manifest.schedule, steps, eta=eta),
            cfg_scale,
            manifest.untold,
            start,
        )
        for k, (name, steps, cfg_scale, eta, start, labels) in enumerate(MIXED)
    ]


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("split", [False, True])
def test_images_that_share_calls_are_those_drawn_alone_byte_for_byte(
    tmp_path: Path, split: bool, backend: str
) -> None:
    bundle = write_bundle(tmp_path / "toy", toy_manifest(batch=4, split=split))
    with Pipeline.from_bundle(bundle, backend=backend) as pipeline:
        requests = mixed(pipeline.manifest)

        together = pipeline.loop.draw(requests, lambda latents: None)

        for drawn, asked in zip(together, requests, strict=True):
            alone = dataclasses.replace(asked, start=0)
            [wanted] = pipeline.loop.draw([alone], lambda latents: None)
            assert drawn.tobytes() == wanted.tobytes()


def test_sharing_takes_fewer_calls_than_drawing_alone() -> None:
    manifest = toy_manifest(batch=9)
    together, alone = Mixing(), Mixing()

    HostLoop(manifest, together).draw(mixed(manifest), lambda latents: None)
    for each in mixed(manifest):
        HostLoop(manifest, alone).draw([each], lambda latents: None)

    assert len(together.calls) == 10
    assert len(alone.calls) == sum(steps for _, steps, *_ in MIXED)


class Mixing(FakeSession):
    """The toy denoiser for rows at different timesteps."""

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        self.calls.append(feeds)
        return {"prediction": np.asarray(feeds["latent"] * np.float32(0.5))}


@dataclass(frozen=True)
class EverySecond:
    """Euler-like, and every second step goes on with what the denoiser said before."""

    schedule: Schedule
    stochastic: bool = False

    def step(
        self, index: int, latent: Latent, prediction: Prediction, noise: object, memory: Memory
    ) -> tuple[Latent, Memory]:
        said = memory[0] if index % 2 else prediction.output
        return latent - np.float32(0.1) * said, (said,)


def test_a_step_whose_rule_makes_nothing_of_the_denoiser_does_not_ask_it() -> None:
    session = Mixing()
    manifest = toy_manifest(batch=2)
    schedule = make_sampler("ddim", BETAS, 6).schedule
    rule = EverySecond(schedule)  # type: ignore[arg-type]

    [found] = HostLoop(manifest, session).draw(
        [Request([3], manifest.examples(1), rule)], lambda latents: None
    )

    wanted, memory = draw_noise([3], START, SHAPE), ()
    for index in range(6):
        wanted, memory = rule.step(
            index, wanted, Prediction(wanted * np.float32(0.5)), None, memory
        )
    assert len(session.calls) == 3
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_a_run_whose_watcher_raises_ends_there() -> None:
    session, manifest = Mixing(), toy_manifest(batch=2)
    pipeline = Pipeline(manifest, session, "fp32")
    requests = pipeline.requests(manifest.examples(1), [0], Settings(steps=5))

    def cancel(latents: Sequence[Latent]) -> None:
        if len(session.calls) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.loop.draw(requests, cancel)

    assert len(session.calls) == 2
