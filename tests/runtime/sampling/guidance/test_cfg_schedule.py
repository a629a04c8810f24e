"""The guidance scale of each step, and the channels that it acts on."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from bundle_helpers import NULL_CLASS, FakeSession, one_line, toy_manifest, toy_prediction

from pitstop import OptionError
from pitstop.runtime.pipeline import Pipeline
from pitstop.runtime.sampling.guidance.cfg_schedule import CfgSchedule
from pitstop.runtime.sampling.guidance.scales import scales_of
from pitstop.runtime.sampling.samplers import make_sampler
from pitstop.runtime.sampling.schedule.betas import Betas
from pitstop.runtime.sampling.schedule.flow import LinearFlow
from pitstop.runtime.sampling.settings import Settings
from pitstop.runtime.session import Array

BETAS = Betas()
VISITS = make_sampler("ddim", BETAS, 50).schedule


@pytest.mark.parametrize(("text", "power"), [("power-cosine", 4.0), ("power-cosine:1.5", 1.5)])
def test_power_cosine_is_mdts(text: str, power: float) -> None:
    """MDT's ``forward_with_cfg``, of ``diffusion_steps`` 1000."""
    found = CfgSchedule.parse(text).scales(3.8, VISITS, BETAS)

    for scale, timestep in zip(found, VISITS.timesteps, strict=True):
        step = (1 - math.cos((1 - timestep / 1000) ** power * math.pi)) / 2
        assert scale == pytest.approx((3.8 - 1) * step + 1, rel=1e-12)


def test_linear_grows_from_one_at_the_noise_to_the_scale_at_the_data() -> None:
    flow = LinearFlow(data_at=1)
    found = CfgSchedule.parse("linear").scales(3.0, flow.visit(4), flow)
    np.testing.assert_allclose(found, [1.0, 1.5, 2.0, 2.5])


def test_where_the_scale_is_one_the_unguided_half_is_not_computed() -> None:
    session = FakeSession()
    manifest = dataclasses.replace(
        toy_manifest(batch=1), schedule=LinearFlow(), prediction_type="velocity"
    )
    Pipeline(manifest, session, "fp32")([0], steps=4, cfg_schedule="linear")
    assert NULL_CLASS not in session.calls[0]["label"]
    assert len(session.calls) == 1 + 3 * 2


def test_an_interval_cuts_the_schedule() -> None:
    settings = Settings(cfg_scale=3.0, cfg_schedule="linear", cfg_interval="0:500")
    found = scales_of(settings, VISITS, BETAS)
    plain = CfgSchedule.parse("linear").scales(3.0, VISITS, BETAS)
    assert found == tuple(np.where(VISITS.timesteps <= 500, plain, 1.0))


@pytest.mark.parametrize(
    "text",
    [
        "cosine",
        "linear:2",
        "power-cosine:",
        "power-cosine:0",
        "power-cosine:1_0",
        "power-cosine:nan",
        4,
    ],
)
def test_another_schedule_is_refused_with_those_that_there_are(text: object) -> None:
    with pytest.raises(OptionError) as told:
        Settings(cfg_schedule=text)  # type: ignore[arg-type]
    assert "The schedule of the guidance scale is" in one_line(told.value)
    assert "power-cosine:POWER" in told.value.remedy


class TwoChannels(FakeSession):
    """Says two channels, the second twice the first."""

    def run(self, feeds):  # type: ignore[no-untyped-def]
        [timestep] = set(feeds["timestep"].tolist())
        said = toy_prediction(feeds["latent"][:, :1], timestep, feeds["label"].tolist())
        return {"prediction": np.concatenate([said, 2 * said], axis=1)}


def one_step(channels: int | str | None) -> tuple[Array, Array, Array]:
    """A last latent's move, and those of the label and of none."""
    manifest = dataclasses.replace(toy_manifest(), latent_shape=(2, 8, 8))
    pipeline = Pipeline(manifest, TwoChannels(), "fp32")
    found, told, untold = (
        pipeline.draw(manifest.examples(1), [3], Settings(1, "ddim", scale, cfg_channels=said))
        for scale, said in ((3.0, channels), (1.0, None), (0.0, "all"))
    )
    return found, told, untold


@pytest.mark.parametrize(("channels", "guided"), [(None, 1), (1, 1), (2, 2), ("2", 2), ("all", 2)])
def test_so_many_leading_channels_are_guided(channels: int | str | None, guided: int) -> None:
    found, told, untold = one_step(channels)
    wanted = told.copy()  # a step is linear in what the denoiser says
    wanted[:, :guided] = (untold + 3.0 * (told - untold))[:, :guided]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("channels", "said"), [(3, "a latent has 2"), ("3", "a latent has 2")])
def test_more_channels_than_a_latent_has_are_refused(channels: int | str, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        one_step(channels)


@pytest.mark.parametrize("channels", [0, -1, "0", "some", "²", "12345678901", 1.5, True])
def test_what_is_no_number_of_channels_is_refused(channels: object) -> None:
    with pytest.raises(OptionError) as told:
        Settings(cfg_channels=channels)  # type: ignore[arg-type]
    assert str(channels) in one_line(told.value)


def test_a_schedule_that_begins_unguided_packs_no_rows_for_its_first_step_alone() -> None:
    manifest = dataclasses.replace(
        toy_manifest(batch=4), schedule=LinearFlow(), prediction_type="velocity"
    )
    pipeline = Pipeline(manifest, FakeSession(), "fp32")
    assert pipeline.groups(4, Settings(4, cfg_schedule="linear")) == [slice(0, 2), slice(2, 4)]
