"""Files with several sets of weights, and with what training wrapped around them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from format_helpers import HEADS, dit_weights, refusal, write_dit, write_training
from safetensors.torch import save_file
from torch import Tensor, nn

from pitstop.models.checkpoint import Checkpoint, load_checkpoint
from pitstop.models.format import Hints

KEY = "blocks.0.attn.qkv.weight"
AVERAGED, TRAINED = dit_weights(), dit_weights(seed=1)
Weights = dict[str, Tensor]


def asked(name: str) -> Hints:
    return Hints(num_heads=HEADS.num_heads, weights=name)


def written(path: Path, **content: Any) -> Path:
    torch.save(content, path)
    return path


def behind(word: str, weights: Weights) -> Weights:
    return {f"{word}.{key}": tensor for key, tensor in weights.items()}


def wrapped(weights: Weights, word: str) -> Weights:
    """A word in front of all keys, and one before the last part of each block's."""
    return {
        f"module.{key}".replace("blocks.0.", f"blocks.0.{word}.")
        if key.startswith("blocks")
        else f"{word}.{key}": tensor
        for key, tensor in weights.items()
    }


def is_averaged(found: Checkpoint) -> bool:
    """Whether a checkpoint has the averaged weights; it must have one of both."""
    weights = found.model.state_dict()
    assert weights.keys() == AVERAGED.keys()
    averaged = torch.equal(weights[KEY], AVERAGED[KEY])
    chosen = AVERAGED if averaged else TRAINED
    assert all(torch.equal(weights[key], chosen[key]) for key in chosen)
    return averaged


WORDS = ["module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"]


@pytest.mark.parametrize("word", WORDS)
def test_wrappers_are_taken_off_wherever_they_stand(word: str, tmp_path: Path) -> None:
    assert is_averaged(
        load_checkpoint(write_dit(tmp_path / "a.pt", wrapped(AVERAGED, word)), HEADS)
    )
    save_file(wrapped(AVERAGED, word), tmp_path / "a.safetensors")
    assert is_averaged(load_checkpoint(tmp_path / "a.safetensors", HEADS))


def test_two_keys_that_become_one_are_refused_by_name(tmp_path: Path) -> None:
    weights = {**AVERAGED, KEY.replace("attn", "_orig_mod.attn"): AVERAGED[KEY]}
    message = refusal(write_dit(tmp_path / "a.pt", weights))
    assert f"has {KEY} and blocks.0._orig_mod.attn.qkv.weight, which are one key" in message
    assert "Save the weights of one of them alone" in message


def test_an_average_of_torchs_is_read_without_its_count(tmp_path: Path) -> None:
    weights = {"n_averaged": torch.tensor(9), **behind("module", AVERAGED)}
    found = load_checkpoint(write_dit(tmp_path / "a.pt", weights), HEADS)
    assert is_averaged(found)
    assert "not read: n_averaged" in found.notes


def test_a_count_without_an_average_is_a_key_too_many(tmp_path: Path) -> None:
    weights = {"n_averaged": torch.tensor(9), **AVERAGED}
    assert "n_averaged" in refusal(write_dit(tmp_path / "a.pt", weights))


@pytest.mark.parametrize("entry", ["ema", "ema_model"])
@pytest.mark.parametrize("told", [None, "ema", "model"])
def test_averaged_weights_are_read_unless_others_are_asked_for(
    entry: str, told: str | None, tmp_path: Path
) -> None:
    path = written(tmp_path / "a.pt", model=TRAINED, **{entry: AVERAGED})
    found = load_checkpoint(path, HEADS if told is None else asked(told))
    assert is_averaged(found) is (told != "model")
    notes = " ".join(found.notes)
    assert (f"those of '{entry}'; `--weights model` reads others" in notes) is (told is None)
    assert found.weights == (told or "")


@pytest.mark.parametrize("word", ["ema", "ema_model", "ema.ema_model", "ema.module"])
def test_lightnings_prefixes_are_sets(word: str, tmp_path: Path) -> None:
    weights = {**behind("model", TRAINED), **behind(word, AVERAGED), "loss.scale": torch.ones(1)}
    path = written(tmp_path / "a.ckpt", state_dict=weights, epoch=3)
    default = load_checkpoint(path, HEADS)
    assert is_averaged(default)
    assert "`--weights model` reads others" in " ".join(default.notes)
    assert "loss" in " ".join(default.notes)
    assert is_averaged(load_checkpoint(path, asked("ema")))
    assert not is_averaged(load_checkpoint(path, asked("model")))


def test_any_name_in_a_file_can_be_asked_for(tmp_path: Path) -> None:
    path = written(tmp_path / "a.pt", ema=AVERAGED, teacher=TRAINED)
    assert not is_averaged(load_checkpoint(path, asked("teacher")))
    path = written(tmp_path / "b.ckpt", state_dict=behind("net", TRAINED))
    assert not is_averaged(load_checkpoint(path, asked("net")))


def test_what_is_asked_for_is_taken_behind_every_word(tmp_path: Path) -> None:
    both = {**behind("model", TRAINED), **behind("ema", AVERAGED)}
    path = written(tmp_path / "a.pt", model=both)
    assert is_averaged(load_checkpoint(path, HEADS))
    assert not is_averaged(load_checkpoint(path, asked("model")))
    deep = {**behind("model.net", TRAINED), **behind("model.old", AVERAGED)}
    path = written(tmp_path / "b.ckpt", state_dict=deep)
    assert not is_averaged(load_checkpoint(path, asked("model.net")))


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (behind("net", TRAINED), "net"),
        ({"state_dict": behind("net", TRAINED)}, "net"),
        ({"state_dict": behind("model.diffusion_model", TRAINED)}, "model.diffusion_model"),
        ({"ema": behind("net", TRAINED), "model": behind("net", AVERAGED)}, "ema.net"),
    ],
)
def test_a_model_behind_a_word_that_is_not_known_is_told_with_how_to_read_it(
    content: dict[str, Any], name: str, tmp_path: Path
) -> None:
    path = written(tmp_path / "a.ckpt", **content)
    word = name.rpartition(".")[2]
    message = refusal(path)
    assert f"has a model behind '{word}' in its keys. Read it with `--weights {name}`" in message
    assert not is_averaged(load_checkpoint(path, asked(name)))


def test_numbers_behind_a_word_are_no_set(tmp_path: Path) -> None:
    weights = {**behind("model", TRAINED), "ema.decay": torch.ones(1)}
    found = load_checkpoint(written(tmp_path / "a.ckpt", state_dict=weights), HEADS)
    assert not is_averaged(found)
    assert "not read: ema" in found.notes
    message = refusal(write_dit(tmp_path / "b.pt", {**AVERAGED, "ema.decay": torch.ones(1)}))
    assert "has, against its config, ema.decay. Take them out" in message


def test_a_set_of_lightnings_alone_needs_no_choice(tmp_path: Path) -> None:
    path = written(tmp_path / "a.ckpt", state_dict=behind("model", TRAINED))
    found = load_checkpoint(path, HEADS)
    assert not is_averaged(found)
    assert not any("--weights" in note for note in found.notes)


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (
            {"model": TRAINED},
            "ema",
            "no weights called 'ema' (found: model). Say `--weights model`",
        ),
        (TRAINED, "model", "(found: one set without a name). Name a file that has them, or leave"),
        ({"ema": AVERAGED, "model": TRAINED}, "emma", "(found: ema, model). Say `--weights ema`"),
    ],
)
def test_a_set_that_is_not_there_is_refused_with_those_that_are(
    content: dict[str, Any], name: str, message: str, tmp_path: Path
) -> None:
    assert message in refusal(written(tmp_path / "a.pt", **content), asked(name))


def test_entries_without_a_name_in_words_are_no_sets(tmp_path: Path) -> None:
    torch.save({None: TRAINED, 1: TRAINED, "": TRAINED, "model": TRAINED}, tmp_path / "a.pt")
    message = refusal(tmp_path / "a.pt", asked("ema"))
    assert "(found: model). Say `--weights model`" in message


class Tower(nn.Module):
    """DiT's keys as modules, so that PyTorch says the order of the parameters."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        for key, tensor in weights.items():
            *path, name = key.split(".")
            owner: nn.Module = self
            for part in path:
                if part not in dict(owner.named_children()):
                    owner.add_module(part, nn.Module())
                owner = owner.get_submodule(part)
            owner.register_parameter(name, nn.Parameter(tensor.clone(), requires_grad=False))


def shadows_of(weights: Weights) -> dict[str, Any]:
    """What diffusers' EMAModel saves of a model."""
    from diffusers.training_utils import EMAModel

    state: dict[str, Any] = EMAModel(Tower(weights).parameters()).state_dict()
    return state


@pytest.mark.parametrize("word", ["", "module."])
def test_an_average_without_names_is_named_by_the_model_beside_it(
    word: str, tmp_path: Path
) -> None:
    trained = {word + key: value for key, value in Tower(TRAINED).state_dict().items()}
    path = written(tmp_path / "a.pt", model=trained, ema=shadows_of(AVERAGED))
    assert is_averaged(load_checkpoint(path, HEADS))
    assert not is_averaged(load_checkpoint(path, asked("model")))


def test_an_average_that_the_model_beside_it_does_not_name_is_refused(tmp_path: Path) -> None:
    shadows = shadows_of(AVERAGED)
    assert "Save `model.state_dict()` beside" in refusal(written(tmp_path / "a.pt", ema=shadows))
    trained = Tower(TRAINED).state_dict()
    swapped = dict(reversed(trained.items()))
    for model in ({**trained, "more": torch.ones(1)}, swapped):
        message = refusal(written(tmp_path / "b.pt", model=model, ema=shadows))
        assert f"has {len(AVERAGED)} averaged weights without names (shadow_params)" in message
        assert "`--weights model`" in message


def test_what_a_training_run_leaves_out_is_told(tmp_path: Path) -> None:
    found = load_checkpoint(write_training(tmp_path / "a.pt", AVERAGED), HEADS)
    assert "not read: model, opt" in found.notes


def test_weights_at_the_top_are_the_models_where_averages_are_beside_them(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    torch.save({**TRAINED, "ema": AVERAGED}, path)

    found = load_checkpoint(path, hints=HEADS)

    assert is_averaged(found)
    assert any("model" in note for note in found.notes)
    assert not is_averaged(load_checkpoint(path, hints=asked("model")))


def test_an_entry_of_numbers_is_no_set(tmp_path: Path) -> None:
    counts = {"decay": torch.tensor(0.999), "step": torch.tensor(5)}
    path = written(tmp_path / "last.pt", ema=counts, model=TRAINED)

    assert not is_averaged(load_checkpoint(path, hints=HEADS))
