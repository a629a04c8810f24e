import dataclasses

import numpy as np
import pytest
from bundle_helpers import one_line, toy_manifest

from pitstop import OptionError
from pitstop.runtime.sampling.samplers import (
    FLOW_SAMPLERS,
    SAMPLERS,
    make_sampler,
    sampler_for,
    settled,
)
from pitstop.runtime.sampling.samplers.ddim import Ddim
from pitstop.runtime.sampling.samplers.ddpm import Ddpm
from pitstop.runtime.sampling.samplers.dpmpp_2m import Dpmpp2m
from pitstop.runtime.sampling.samplers.dpmpp_2m_sde import Dpmpp2mSde
from pitstop.runtime.sampling.samplers.euler import Euler
from pitstop.runtime.sampling.samplers.heun import Heun
from pitstop.runtime.sampling.samplers.unipc import UniPc
from pitstop.runtime.sampling.schedule.betas import Betas
from pitstop.runtime.sampling.schedule.flow import LinearFlow
from pitstop.runtime.sampling.schedule.scheduler import AUTO, Scheduler
from pitstop.runtime.sampling.schedule.spacing import LEADING, LINSPACE, OFFICIAL, TRAILING
from pitstop.runtime.sampling.settings import Settings
from pitstop.runtime.sampling.step_table import step_table

BETAS = Betas()


@pytest.mark.parametrize(
    ("name", "kind", "timesteps"),
    [
        ("ddpm", Ddpm, [999, 749, 500, 250, 0]),  # 749.25, 499.5, 249.75 rounded
        ("ddim", Ddim, [800, 600, 400, 200, 0]),
        ("dpmpp_2m", Dpmpp2m, [999, 799, 599, 400, 200]),  # 799.2, 599.4, 399.6, 199.8 rounded
        ("dpmpp_2m_sde", Dpmpp2mSde, [999, 799, 599, 400, 200]),
        ("unipc", UniPc, [999, 799, 599, 400, 200]),
        ("unipc_3", UniPc, [999, 799, 599, 400, 200]),
    ],
)
def test_each_name_is_its_sampler_on_its_own_timesteps(
    name: str, kind: type[object], timesteps: list[int]
) -> None:
    sampler = make_sampler(name, BETAS, 5)
    assert type(sampler) is kind
    assert sampler.schedule.timesteps.tolist() == timesteps
    assert sampler.schedule.alpha_bar.tolist() == BETAS.alpha_bar()[timesteps].tolist()


def test_eta_reaches_ddim() -> None:
    sampler = make_sampler("ddim", BETAS, 5, eta=0.5)
    assert isinstance(sampler, Ddim)
    assert sampler.eta == 0.5


@pytest.mark.parametrize("name", ["ddmi", ""])
def test_an_unknown_name_is_told_with_the_known_ones(name: str) -> None:
    with pytest.raises(OptionError) as told:
        make_sampler(name, BETAS, 5)
    assert told.value.problem == f"There is no sampler called {name!r}"
    assert (
        told.value.remedy
        == "Choose one of: ddpm, ddim, dpmpp_2m, dpmpp_2m_sde, unipc, unipc_3, euler"
    )


@pytest.mark.parametrize("eta", [-0.1, 1.5, float("nan")])
@pytest.mark.parametrize("name", SAMPLERS)
def test_an_eta_out_of_range_is_told_with_the_range(name: str, eta: float) -> None:
    with pytest.raises(OptionError) as told:
        make_sampler(name, BETAS, 5, eta=eta)
    assert told.value.problem == f"eta is {eta}"
    assert told.value.remedy.startswith("Choose 0 (no fresh noise) to 1 ")


@pytest.mark.parametrize("name", sorted(SAMPLERS.keys() - {"ddim"}))
def test_an_eta_that_the_sampler_does_not_know_is_told(name: str) -> None:
    with pytest.raises(OptionError) as told:
        make_sampler(name, BETAS, 5, eta=0.5)
    assert told.value.problem == f"eta is 0.5, but the sampler {name} has no eta"
    assert told.value.remedy == "Leave eta at 0, or choose the sampler ddim"


@pytest.mark.parametrize("steps", [0, 1001, -3])
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_step_count_that_does_not_fit_is_told_with_both_numbers(name: str, steps: int) -> None:
    with pytest.raises(OptionError) as told:
        make_sampler(name, BETAS, steps)
    assert told.value.problem == f"{steps} sampling steps were asked for"
    assert "1 to 1000 steps" in told.value.remedy


@pytest.mark.parametrize(
    ("name", "kind", "timesteps"),
    [("euler", Euler, [0, 0.25, 0.5, 0.75]), ("heun", Heun, [0, 0.5, 0.5, 1])],
)
@pytest.mark.parametrize("data_at", [0, 1])
def test_a_flow_has_samplers_of_its_own(
    name: str, kind: type[object], timesteps: list[float], data_at: int
) -> None:
    sampler = make_sampler(name, LinearFlow(data_at), 4)
    assert type(sampler) is kind
    wanted = np.array(timesteps) if data_at else 1 - np.array(timesteps)
    assert sampler.schedule.timesteps.tolist() == wanted.tolist()


@pytest.mark.parametrize(("training", "kind"), [(BETAS, Ddim), (LinearFlow(1), Euler)])
def test_auto_is_the_models_own(training: Betas | LinearFlow, kind: type[object]) -> None:
    manifest = dataclasses.replace(toy_manifest(), schedule=training)
    assert type(sampler_for(manifest, Settings(5))) is kind
    assert sampler_for(manifest, Settings(5)) is sampler_for(manifest, Settings(5, cfg_scale=2.0))
    settings = settled(manifest, Settings(5))
    assert AUTO not in (settings.sampler, settings.spacing if kind is Ddim else "")
    assert sampler_for(manifest, settings).schedule.timesteps.tolist() == (
        sampler_for(manifest, Settings(5)).schedule.timesteps.tolist()
    )


def test_auto_is_the_sampler_that_came_with_the_model() -> None:
    manifest = dataclasses.replace(toy_manifest(), scheduler=Scheduler("dpmpp_2m", TRAILING))

    sampler = sampler_for(manifest, Settings(4))

    assert type(sampler) is Dpmpp2m
    assert sampler.schedule.timesteps.tolist() == [999, 749, 499, 249]
    asked = sampler_for(manifest, Settings(4, "ddim", spacing=LEADING))
    assert asked.schedule.timesteps.tolist() == [750, 500, 250, 0]


@pytest.mark.parametrize(
    ("name", "spacing", "timesteps"),
    [
        ("ddim", LEADING, [750, 500, 250, 0]),
        ("ddim", LINSPACE, [999, 666, 333, 0]),
        ("ddim", TRAILING, [999, 749, 499, 249]),
        ("ddim", OFFICIAL, [999, 666, 333, 0]),
        ("ddpm", LEADING, [750, 500, 250, 0]),
        ("dpmpp_2m", LEADING, [800, 600, 400, 200]),
        ("unipc", LEADING, [800, 600, 400, 200]),
        ("euler", "auto", [999, 666, 333, 0]),
        ("euler", LEADING, [750, 500, 250, 0]),
    ],
)
def test_a_spacing_says_which_timesteps_are_visited(
    name: str, spacing: str, timesteps: list[float]
) -> None:
    assert make_sampler(name, BETAS, 4, spacing=spacing).schedule.timesteps.tolist() == timesteps


def test_euler_visits_timesteps_between_whole_ones() -> None:
    assert make_sampler("euler", BETAS, 5).schedule.timesteps.tolist() == [
        999, 749.25, 499.5, 249.75, 0
    ]  # fmt: skip


def test_an_unknown_spacing_is_told_with_the_known_ones() -> None:
    with pytest.raises(OptionError) as told:
        make_sampler("ddim", BETAS, 5, spacing="karras")
    assert one_line(told.value) == (
        "There is no spacing called 'karras'. Choose one of: leading, linspace, trailing, official."
    )


def test_a_spacing_for_a_flow_is_told() -> None:
    with pytest.raises(OptionError, match="trailing is for models with timesteps"):
        make_sampler("euler", LinearFlow(1), 5, spacing=TRAILING)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [501, 600, 749])
def test_many_leading_steps_that_would_begin_far_from_the_noise_are_told(
    name: str, steps: int
) -> None:
    with pytest.raises(OptionError) as told:
        make_sampler(name, BETAS, steps, spacing=LEADING)
    assert f"{steps} leading steps of 1000 begin at timestep " in one_line(told.value)
    assert told.value.remedy == "Choose at most 500 steps, or the spacing trailing"


@pytest.mark.parametrize("steps", [1, 2, 500, 751, 1000])
def test_leading_steps_that_begin_near_the_noise_are_taken(steps: int) -> None:
    assert make_sampler("ddim", BETAS, steps).schedule.steps == steps


def test_an_offset_beyond_training_is_told() -> None:
    with pytest.raises(OptionError, match="do not go into so many steps"):
        make_sampler("ddim", BETAS, 1000, scheduler=Scheduler(steps_offset=1))


@pytest.mark.parametrize("spacing", [LINSPACE, TRAILING, OFFICIAL])
def test_euler_is_finite_beside_a_timestep_of_less_signal_than_the_last(spacing: str) -> None:
    euler = make_sampler(
        "euler", Betas(zero_snr=True), 300, predicts="v_prediction", spacing=spacing
    )
    table = step_table(euler, learned_variance=False)
    assert np.isfinite(table.moves).all()


@pytest.mark.parametrize("name", ["ddim", "ddpm"])
def test_epsilon_of_noise_alone_is_told(name: str) -> None:
    with pytest.raises(OptionError) as told:
        make_sampler(name, Betas(zero_snr=True), 5, spacing=TRAILING)
    assert "begins at timestep 999, which holds noise alone" in told.value.problem
    assert make_sampler(name, Betas(zero_snr=True), 5, spacing=LEADING)


@pytest.mark.parametrize(
    ("training", "name", "predicts", "fitting"),
    [
        (LinearFlow(1), "ddim", "a velocity", "euler, heun, euler_maruyama"),
        (BETAS, "heun", "the noise", "ddpm, ddim, dpmpp_2m, dpmpp_2m_sde, unipc, unipc_3, euler"),
    ],
)
def test_a_sampler_of_another_kind_of_model_is_told_with_those_that_fit(
    training: Betas | LinearFlow, name: str, predicts: str, fitting: str
) -> None:
    with pytest.raises(OptionError) as told:
        make_sampler(name, training, 5)
    assert told.value.problem == (
        f"The sampler {name} is not for this model, which predicts {predicts}"
    )
    assert told.value.remedy == f"Choose one of: {fitting}"


@pytest.mark.parametrize("steps", [0, -3, 10_001])
@pytest.mark.parametrize("name", FLOW_SAMPLERS)
def test_a_flow_takes_up_to_ten_thousand_steps(name: str, steps: int) -> None:
    with pytest.raises(OptionError) as told:
        make_sampler(name, LinearFlow(1), steps)
    assert told.value.remedy == "Choose 1 to 10000 steps"
