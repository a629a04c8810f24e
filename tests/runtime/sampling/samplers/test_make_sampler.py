import numpy as np
import pytest

from pitstop import OptionError
from pitstop.runtime.sampling.samplers import FLOW_SAMPLERS, SAMPLERS, make_sampler
from pitstop.runtime.sampling.samplers.ddim import Ddim
from pitstop.runtime.sampling.samplers.ddpm import Ddpm
from pitstop.runtime.sampling.samplers.dpmpp_2m import Dpmpp2m
from pitstop.runtime.sampling.samplers.euler import Euler
from pitstop.runtime.sampling.samplers.heun import Heun
from pitstop.runtime.sampling.schedule import Betas, LinearFlow

BETAS = Betas()


@pytest.mark.parametrize(
    ("name", "kind", "timesteps"),
    [
        ("ddpm", Ddpm, [999, 749, 500, 250, 0]),  # 749.25, 499.5, 249.75 rounded
        ("ddim", Ddim, [800, 600, 400, 200, 0]),
        ("dpmpp_2m", Dpmpp2m, [999, 799, 599, 400, 200]),  # 799.2, 599.4, 399.6, 199.8 rounded
    ],
)
def test_each_name_is_its_sampler_on_its_own_timesteps(
    name: str, kind: type[object], timesteps: list[int]
) -> None:
    sampler = make_sampler(name, BETAS, 5)
    assert type(sampler) is kind
    assert sampler.schedule.timesteps.tolist() == timesteps
    assert sampler.schedule.alpha_bar[:-1].tolist() == BETAS.alpha_bar()[timesteps].tolist()


def test_eta_reaches_ddim() -> None:
    sampler = make_sampler("ddim", BETAS, 5, eta=0.5)
    assert isinstance(sampler, Ddim)
    assert sampler.eta == 0.5


@pytest.mark.parametrize("name", ["ddmi", ""])
def test_an_unknown_name_is_told_with_the_known_ones(name: str) -> None:
    with pytest.raises(OptionError) as told:
        make_sampler(name, BETAS, 5)
    assert told.value.problem == f"There is no sampler called {name!r}"
    assert told.value.remedy == "Choose one of: ddpm, ddim, dpmpp_2m"


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
    assert type(make_sampler("auto", training, 5)) is kind


@pytest.mark.parametrize(
    ("training", "name", "predicts", "fitting"),
    [
        (LinearFlow(1), "ddim", "a velocity", "euler, heun"),
        (BETAS, "heun", "the noise", "ddpm, ddim, dpmpp_2m"),
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
