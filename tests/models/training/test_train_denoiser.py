from __future__ import annotations

from pathlib import Path

import pytest
import torch
from model_helpers import tiny_pit
from torch import Tensor

from pitstop.models.training import train_denoiser
from pitstop.models.training.fashion_mnist import LabelledImages
from pitstop.models.training.train_denoiser import Recipe, Training

CONFIG = tiny_pit(depth=2, learn_sigma=False)
RECIPE = Recipe(steps=6, batch=4, warmup=2, seed=5)


def images() -> LabelledImages:
    generator = torch.Generator().manual_seed(0)
    return LabelledImages(
        torch.rand(12, 3, 16, 16, generator=generator) * 2 - 1, torch.arange(12) % 5
    )


def trained(recipe: Recipe = RECIPE) -> tuple[Training, list[float]]:
    training = train_denoiser.start(CONFIG, recipe)
    return training, list(train_denoiser.run(training, recipe, images()))


def everything(training: Training) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": tensor
        for name, model in (("model", training.model), ("ema", training.ema))
        for key, tensor in model.state_dict().items()
    }


def assert_same(first: Training, second: Training) -> None:
    assert everything(first).keys() == everything(second).keys()
    for name, tensor in everything(first).items():
        assert torch.equal(tensor, everything(second)[name]), name


def test_a_training_that_went_on_after_a_stop_equals_one_that_never_stopped(
    tmp_path: Path,
) -> None:
    whole, losses = trained()

    stopped = train_denoiser.start(CONFIG, RECIPE)
    run = train_denoiser.run(stopped, RECIPE, images())
    before = [next(run) for _ in range(3)]
    stopped.save(tmp_path / "state.pt")
    torch.manual_seed(99)  # what else draws numbers must not matter
    resumed = train_denoiser.start(CONFIG, Recipe(steps=6, batch=4, warmup=2, seed=5))
    resumed.restore(tmp_path / "state.pt")
    after = list(train_denoiser.run(resumed, RECIPE, images()))

    assert resumed.step == 6
    assert before + after == losses
    assert_same(whole, resumed)


def test_a_training_is_the_same_from_the_same_seed_and_another_from_another() -> None:
    first, losses = trained()
    again, losses_again = trained()
    _, other = trained(Recipe(steps=6, batch=4, warmup=2, seed=6))
    assert losses == losses_again
    assert losses != other
    assert_same(first, again)


def test_a_finished_training_does_not_go_on() -> None:
    training, _ = trained()
    before = {name: tensor.clone() for name, tensor in everything(training).items()}
    assert list(train_denoiser.run(training, RECIPE, images())) == []
    assert all(torch.equal(tensor, before[name]) for name, tensor in everything(training).items())


def test_training_moves_every_weight_but_the_fixed_positions() -> None:
    fresh = train_denoiser.start(CONFIG, RECIPE).model.state_dict()
    training, _ = trained(Recipe(steps=12, batch=4, warmup=2, seed=5))
    still = {
        name
        for name, tensor in training.model.state_dict().items()
        if torch.equal(tensor, fresh[name])
    }
    assert still == {"pos_embed"}


def test_the_average_lags_behind_the_weights() -> None:
    training, _ = trained()
    fresh = train_denoiser.start(CONFIG, RECIPE).model.state_dict()
    name = "final_layer.linear.weight"  # starts at 0
    weights, average = training.model.state_dict()[name], training.ema.state_dict()[name]
    assert 0 < average.norm() < weights.norm()
    assert torch.equal(training.ema.state_dict()["pos_embed"], fresh["pos_embed"])


def test_a_save_that_fails_leaves_the_last_state_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = train_denoiser.start(CONFIG, RECIPE)
    training.save(tmp_path / "state.pt")
    before = (tmp_path / "state.pt").read_bytes()

    def killed(state: object, path: Path) -> None:
        path.write_bytes(b"half a file")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        training.save(tmp_path / "state.pt")

    assert (tmp_path / "state.pt").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]


def test_the_rate_rises_then_stays_then_falls_to_zero() -> None:
    recipe = Recipe(steps=1000, learning_rate=2.0, warmup=100, decay=0.25)
    rates = [recipe.rate(step) for step in range(1001)]

    assert rates[0] == pytest.approx(2.0 / 100)
    assert rates[49] == pytest.approx(1.0)
    assert rates[99:751] == [2.0] * 652
    assert rates[875] == pytest.approx(1.0)
    assert rates[1000] == 0.0
    assert rates[:100] == sorted(rates[:100])
    assert rates[750:] == sorted(rates[750:], reverse=True)
