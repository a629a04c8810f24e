import itertools

import pytest
import torch
from model_helpers import call, inputs

from pitstop import CheckpointError
from pitstop.models.amm import AmmConfig
from pitstop.models.checkpoint import load_classifier
from pitstop.models.dit import DitConfig
from pitstop.models.edt import EdtConfig
from pitstop.models.pit import PitConfig
from pitstop.models.presets import CLASSIFIER, FASHION, PRESETS, load_preset
from pitstop.models.training.fashion_mnist import CLASSES


def test_the_presets_are_those_that_the_message_lists() -> None:
    sizes = ["s", "b", "l", "xl"]
    listed = {"fashion"}
    for suffix, patch in itertools.product(("", "-512"), (2, 4, 8)):
        listed |= {f"pit-{size}-{patch}{suffix}" for size in ["ti", *sizes]}
        listed |= {f"dit-{size}-{patch}{suffix}" for size in sizes}
        listed |= {f"edt-{size}-2{suffix}" for size in ("s", "b", "xl")}
    assert set(PRESETS) == listed


def test_a_preset_is_what_its_name_says() -> None:
    pit, dit = PRESETS["pit-xl-2-512"], PRESETS["dit-l-4"]
    assert isinstance(pit, PitConfig)
    assert isinstance(dit, DitConfig)
    assert (pit.hidden_size, pit.depth, pit.num_heads, pit.head_dim) == (1152, 28, 16, 72)
    assert (pit.input_size, pit.patch_size, pit.tokens) == ((64, 64), 2, 1024)
    assert (dit.hidden_size, dit.depth, dit.num_heads, dit.head_dim) == (1024, 24, 16, 64)
    assert (dit.input_size, dit.patch_size, dit.tokens) == ((32, 32), 4, 64)


def test_an_edt_is_modulated_as_its_authors_do() -> None:
    small, large = PRESETS["edt-s-2"], PRESETS["edt-xl-2"]
    assert small == EdtConfig(amm=AmmConfig((8,)))
    assert isinstance(large, EdtConfig)
    assert (large.hidden_size, large.depth, large.head_dim) == (936, 28, 52)
    assert (large.stage_depths, large.amm) == ((6, 4, 4, 7, 7), AmmConfig((23, 25)))
    assert PRESETS["edt-s-2-512"] == EdtConfig(input_size=(64, 64), amm=AmmConfig((10,), "cos"))


@pytest.mark.parametrize("name", ["pit-ti-8", "pit-ti-4"])
def test_a_preset_without_training_says_so_and_is_not_idle(name: str) -> None:
    found = load_preset(name, seed=3)

    assert found.provenance == "random weights from seed 3, not trained"
    assert found.labels == ()
    assert not found.model.training
    output = call(found.model)
    assert torch.isfinite(output).all()
    assert output.std() > 0.1


def test_a_preset_has_the_same_weights_from_the_same_seed() -> None:
    first, again, other = (load_preset("pit-ti-8", seed=seed).model for seed in (3, 3, 4))
    assert torch.equal(call(first), call(again))
    assert not torch.equal(call(first), call(other))


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("pit-xl2", "pit-xl-2"),
        ("DIT-S-2", "dit-s-2"),
        ("fasion", "fashion"),
        ("edt-l-2", "edt-xl-2"),
    ],
)
def test_an_unknown_preset_gets_a_suggestion(name: str, meant: str) -> None:
    with pytest.raises(CheckpointError) as raised:
        load_preset(name)
    assert f"There is no checkpoint or preset called {name!r}" in str(raised.value)
    assert f"Did you mean {meant}?" in str(raised.value)


def test_a_name_like_no_preset_gets_the_list_alone() -> None:
    with pytest.raises(
        CheckpointError, match=r"called 'zzz'\. The presets are: fashion, pit-"
    ) as raised:
        load_preset("zzz")
    assert "Did you mean" not in str(raised.value)


def test_the_shipped_denoiser_is_the_trained_one() -> None:
    found = load_preset("fashion")

    assert found.config == FASHION
    assert found.labels == CLASSES
    assert found.provenance.startswith("trained on Fashion-MNIST")


def test_the_shipped_denoiser_finds_noise() -> None:
    """At the noisiest timestep the latent is nearly all noise, and the noise is the answer."""
    model = load_preset("fashion").model
    latent, _, label = inputs(model.config)
    with torch.inference_mode():
        epsilon = model(latent, torch.tensor([999, 999]), label)
    assert (epsilon - latent).square().mean() < 0.05


def test_the_shipped_classifier_reads_images_of_the_demo() -> None:
    logits = load_classifier(CLASSIFIER)(torch.zeros(2, 1, 32, 32))
    assert logits.shape == (2, len(CLASSES))
