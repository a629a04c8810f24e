from __future__ import annotations

import errno
import json
import os
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from model_helpers import call, filled, relative_l2, tiny_dit, tiny_pit
from safetensors.torch import load_file, save_file
from torch import Tensor

from pitstop import CheckpointError
from pitstop.models import checkpoint as checkpoint_module
from pitstop.models.checkpoint import (
    Checkpoint,
    build_model,
    load_checkpoint,
    load_classifier,
    save_checkpoint,
    save_classifier,
    with_input_size,
)
from pitstop.models.classifier import Classifier
from pitstop.models.config import config_from_dict, config_to_dict
from pitstop.models.pit import BridgeConfig, PswaConfig

LABELS = ("one", "two", "three", "four", "five")
CONFIG = tiny_pit(pswa=PswaConfig(4, bridge=BridgeConfig(norm="bn")))
MODEL = filled(build_model(CONFIG))
QKV = "blocks.0.attn.qkv.weight"  # [48, 16]
Write = Callable[..., Path]


def weights() -> dict[str, Tensor]:
    return dict(MODEL.state_dict())


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a checkpoint of this format, but for what the caller changes."""

    def write(changed: dict[str, Tensor] | None = None, **metadata: str) -> Path:
        path = tmp_path / "model.safetensors"
        described = {
            "format_version": "1",
            "config": json.dumps(config_to_dict(CONFIG)),
            "labels": json.dumps(LABELS),
            "provenance": "made up",
            **metadata,
        }
        save_file({**weights(), **(changed or {})}, path, described)
        return path

    return write


@pytest.fixture
def write_pt(tmp_path: Path) -> Write:
    def write_pt(**content: Any) -> Path:
        path = tmp_path / "model.pt"
        torch.save(content, path)
        return path

    return write_pt


def refusal(path: Path) -> str:
    """The message with which a file is refused: one line, a problem and a remedy."""
    with pytest.raises(CheckpointError) as raised:
        load_checkpoint(path)
    error = raised.value
    assert str(error) == f"{error.problem}. {error.remedy}.".replace("\n", " ")
    assert len(str(error).splitlines()) == 1
    assert error.remedy.strip()
    return str(error)


@pytest.mark.parametrize("config", [CONFIG, tiny_dit()], ids=["pit", "dit"])
def test_a_checkpoint_comes_back_as_it_was_saved(config: Any, tmp_path: Path) -> None:
    model = filled(build_model(config))
    save_checkpoint(Checkpoint(model, LABELS, "trained here"), tmp_path / "a.safetensors")

    found = load_checkpoint(str(tmp_path / "a.safetensors"))

    assert found.config == config
    assert (found.labels, found.provenance) == (LABELS, "trained here")
    assert not found.model.training
    assert torch.equal(call(found.model), call(model))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_on_disk_is_float32_in_memory(dtype: torch.dtype, tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    save_checkpoint(Checkpoint(MODEL), path, dtype=dtype)

    found = load_checkpoint(path).model.state_dict()

    assert load_file(path)[QKV].dtype == dtype
    assert torch.equal(found[QKV], weights()[QKV].to(dtype).float())
    assert {name: tensor.dtype for name, tensor in found.items()} == {
        name: tensor.dtype for name, tensor in weights().items()
    }


def test_an_integer_is_not_stored_as_a_half(tmp_path: Path) -> None:
    save_checkpoint(Checkpoint(MODEL), tmp_path / "a.safetensors", dtype=torch.float16)
    stored = load_file(tmp_path / "a.safetensors")
    assert stored["blocks.0.attn.bridge.norm.num_batches_tracked"].dtype == torch.int64


def test_a_save_that_fails_leaves_the_old_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    save_checkpoint(Checkpoint(MODEL), path)
    before = path.read_bytes()

    def disk_full(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half a file")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint_module, "save_file", disk_full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(Checkpoint(filled(build_model(CONFIG), seed=1)), path)

    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_classifier_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    model = filled(Classifier(7))
    images = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    save_classifier(model, tmp_path / "judge.safetensors")

    found = load_classifier(tmp_path / "judge.safetensors")

    assert not found.training
    assert torch.equal(found(images), model(images))
    assert found(images).shape == (2, 7)


def test_another_latent_size_keeps_the_weights_and_computes_the_positions() -> None:
    small = Checkpoint(MODEL, LABELS, "made up")

    large = with_input_size(small, (16, 32))

    assert large.config.input_size == (16, 32)
    assert (large.labels, large.provenance) == (LABELS, "made up")
    assert large.model.pos_embed.shape == (1, 128, 32)
    assert torch.equal(large.model.state_dict()[QKV], weights()[QKV])
    assert call(large.model).shape == (2, 6, 16, 32)
    assert torch.equal(call(with_input_size(large, (16, 16)).model), call(MODEL))


def test_another_latent_size_is_refused_where_a_weight_depends_on_it() -> None:
    config = tiny_pit(pswa=PswaConfig(4, rel_pos_bias=True), global_layers=(1,))
    with pytest.raises(CheckpointError, match=r"blocks\.1\.attn\.rel_pos_bias\.table .*\[225, 4\]"):
        with_input_size(Checkpoint(filled(build_model(config))), (16, 32))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert f"There is no checkpoint at {tmp_path / 'no.safetensors'}" in refusal(
        tmp_path / "no.safetensors"
    )
    assert f"There is no checkpoint at {tmp_path}." in refusal(tmp_path)


@pytest.mark.parametrize("kept", [0, 4, 100, 20_000])
def test_a_truncated_file_is_refused(write: Write, kept: int) -> None:
    path = write()
    path.write_bytes(path.read_bytes()[:kept])
    assert "is not a whole safetensors file" in refusal(path)
    assert "Copy or download it again" in refusal(path)


def test_a_text_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pointer.safetensors"
    path.write_text("version 1\noid sha256:0123456789\nsize 123456789\n")
    assert "is not a whole safetensors file" in refusal(path)


def test_a_pit_without_its_config_is_refused(tmp_path: Path) -> None:
    save_file(weights(), tmp_path / "bare.safetensors")
    message = refusal(tmp_path / "bare.safetensors")
    assert "holds a PiT without its config" in message
    assert "pitstop.models.save_checkpoint" in message


def test_a_newer_format_is_refused(write: Write) -> None:
    message = refusal(write(format_version="2"))
    assert "has format_version 2, this pitstop reads 1" in message
    assert "Install the version of pitstop that wrote it" in message


@pytest.mark.parametrize("config", ["{", "", "[" * 100_000, '{"depth": ' + "9" * 5000 + "}"])
def test_a_config_that_is_no_json_is_refused(write: Write, config: str) -> None:
    assert "has no readable config in its metadata" in refusal(write(config=config))


def test_metadata_without_a_config_is_refused(tmp_path: Path) -> None:
    save_file(weights(), tmp_path / "a.safetensors", {"format_version": "1"})
    assert "has no readable config in its metadata ('config')" in refusal(
        tmp_path / "a.safetensors"
    )


def test_a_config_that_no_model_has_is_refused_by_its_field(write: Write) -> None:
    values = {**config_to_dict(CONFIG), "hiden_size": 32}
    assert "unknown field hiden_size" in refusal(write(config=json.dumps(values)))


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("hidden_size", 64, "hidden_size"),
        ("input_size", [32, 32], "input_size"),
        ("patch_size", 1, "patch_size"),
        ("in_channels", 4, "in_channels"),
        ("learn_sigma", False, "learn_sigma"),
        ("num_classes", 1000, "num_classes"),
        ("class_dropout_prob", 0.0, "class_dropout_prob"),
        ("mlp_ratio", 2.0, "mlp_ratio"),
        ("num_heads", 8, "num_heads"),
        ("pcca", {"ratios": [0.75]}, "pcca.ratios"),
    ],
)
def test_tensors_that_do_not_fit_the_config_name_the_field(
    write: Write, field: str, value: object, named: str
) -> None:
    values = {**config_to_dict(CONFIG), field: value}
    with torch.device("meta"):
        expected = build_model(config_from_dict(values)).state_dict()

    message = refusal(write(config=json.dumps(values)))

    found = re.match(r"(\S+) in .* has shape (\[.*\]), but its config expects (\[.*\])\.", message)
    assert found, message
    key, *shapes = found.groups()
    assert [json.loads(shape) for shape in shapes] == [
        list(weights()[key].shape),
        list(expected[key].shape),
    ]
    assert named in message.split(". Change ")[1]


def test_a_kernel_of_another_size_names_both_shapes_and_the_field(write: Write) -> None:
    key = "blocks.2.attn.bridge.dw.weight"
    message = refusal(write({key: torch.zeros(8, 1, 5, 5)}))
    assert message.startswith(f"{key} in ")
    assert "has shape [8, 1, 5, 5], but its config expects [8, 1, 3, 3]" in message
    assert "Change pswa.bridge.kernel" in message


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    rest = {name: tensor for name, tensor in weights().items() if name != QKV}
    torch.save({"config": config_to_dict(CONFIG), "model": rest}, path)
    message = refusal(path)
    assert f"lacks {QKV}." in message
    assert "Check pcca.ratios" in message


def test_of_many_tensors_too_many_the_first_ten_are_named(write: Write) -> None:
    message = refusal(write({f"extra.{index:02}": torch.zeros(1) for index in range(13)}))
    assert "extra.00, extra.01" in message
    assert "extra.09 and 3 more" in message
    assert "extra.10" not in message


def test_a_key_with_a_line_break_leaves_the_message_on_one_line(write: Write) -> None:
    assert "two lines" in refusal(write({"two\nlines": torch.zeros(1)}))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_weight_that_is_not_finite_is_named(write: Write, value: float) -> None:
    broken = weights()[QKV].clone()
    broken[3, 4] = value
    assert f"{QKV} in " in refusal(write({QKV: broken}))
    assert "holds NaN or infinity" in refusal(write({QKV: broken}))


def test_a_weight_that_float32_cannot_hold_is_named(write: Write) -> None:
    doubled = {key: tensor.double() for key, tensor in weights().items()}
    huge = torch.full((48, 16), 1e300, dtype=torch.float64)
    assert "holds NaN or infinity" in refusal(write({**doubled, QKV: huge}))


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64])
def test_weights_that_are_no_floats_are_refused(write_pt: Write, dtype: torch.dtype) -> None:
    """Copied as they are, quantised weights would load in silence, without their scales."""
    model = {**weights(), QKV: torch.zeros(48, 16, dtype=dtype)}
    message = refusal(write_pt(config=config_to_dict(CONFIG), model=model))
    assert f"{QKV} in " in message
    assert f"{dtype}, not dense floating-point numbers" in message


def test_sparse_weights_are_refused(write_pt: Write) -> None:
    model = {**weights(), QKV: weights()[QKV].to_sparse()}
    message = refusal(write_pt(config=config_to_dict(CONFIG), model=model))
    assert "torch.sparse_coo torch.float32, not dense" in message


@pytest.mark.parametrize("labels", ["null", "3", '"abcde"', "[1, 2, 3, 4, 5]"])
def test_labels_that_are_no_texts_are_refused(write: Write, labels: str) -> None:
    assert "Save it again with a list of texts" in refusal(write(labels=labels))


def test_too_few_labels_are_refused(write: Write) -> None:
    assert "names 2 labels, but its config has 5 classes" in refusal(write(labels='["a", "b"]'))


def test_a_pt_file_loads_with_its_averaged_weights_before_the_others(write_pt: Write) -> None:
    average = filled(build_model(CONFIG), seed=9).state_dict()
    path = write_pt(
        config=config_to_dict(CONFIG), model=weights(), ema=average, labels=LABELS, step=7
    )

    found = load_checkpoint(path)

    assert found.labels == LABELS
    assert torch.equal(found.model.state_dict()[QKV], average[QKV])
    assert relative_l2(weights()[QKV], average[QKV]) > 0.1


def test_a_pt_file_of_the_old_kind_loads(tmp_path: Path) -> None:
    content = {"config": config_to_dict(CONFIG), "model": weights()}
    torch.save(content, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert torch.equal(call(load_checkpoint(tmp_path / "old.pt").model), call(MODEL))


class Trap:
    """What unpickles by running code."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_pt_file_that_would_run_code_is_refused_and_does_not(
    write_pt: Write, tmp_path: Path
) -> None:
    sprung = tmp_path / "sprung"
    path = write_pt(config=config_to_dict(CONFIG), model=weights(), args=Trap(sprung))

    message = refusal(path)

    assert "mkdir, not tensors alone, and could run code when opened" in message
    assert not sprung.exists()
    torch.load(path, weights_only=False)
    assert sprung.exists()  # the trap was live


def test_a_pickled_module_is_refused(tmp_path: Path) -> None:
    torch.save(MODEL, tmp_path / "module.pt")
    assert "pickles pitstop.models.pit.Pit, not tensors alone" in refusal(tmp_path / "module.pt")


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"blocks.0": 1},
        {"model": {}},
        {"ema": None},
        {"model": [1, 2]},
        {"model": {"a": 1}},
        {"model": {1: torch.zeros(1)}},
    ],
    ids=str,
)
def test_a_pt_file_without_weights_says_what_it_found(
    write_pt: Write, content: dict[str, Any]
) -> None:
    message = refusal(write_pt(config=config_to_dict(CONFIG), **content))
    assert "has no weights, by themselves or under 'ema' or 'model'" in message
    assert f"found: {', '.join(['config', *content])}" in message


@pytest.mark.parametrize("kept", [0, 1, 10, 1000, 60_000])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_truncated_pt_file_is_refused(tmp_path: Path, kept: int, zipped: bool) -> None:
    path = tmp_path / "cut.pt"
    content = {"config": config_to_dict(CONFIG), "model": weights()}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[:kept])
    assert "is not a whole PyTorch file. Copy or download it again" in refusal(path)


@pytest.mark.parametrize("kept", range(12))
def test_a_pt_file_that_is_cut_off_in_the_name_of_a_class_is_not_called_dangerous(
    kept: int, tmp_path: Path
) -> None:
    path = tmp_path / "cut.pt"
    torch.save(OrderedDict(weights()), path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"OrderedDict") + kept])
    assert "is not a whole PyTorch file" in refusal(path)


@pytest.mark.parametrize("text", ["hello", "{}", "version 1\noid sha256:01"])
def test_a_text_file_with_the_name_of_a_pt_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "text.pt").write_text(text)
    assert "is not a whole PyTorch file" in refusal(tmp_path / "text.pt")


@pytest.mark.parametrize("kind", ["safetensors", "pt"])
def test_no_damaged_byte_gets_past_as_another_error(tmp_path: Path, kind: str) -> None:
    """Each file is read, or refused with a remedy; nothing else may be raised."""
    path = tmp_path / f"damaged.{kind}"
    if kind == "pt":
        torch.save({"config": config_to_dict(CONFIG), "model": weights()}, path)
    else:
        save_checkpoint(Checkpoint(MODEL), path)
    whole = path.read_bytes()
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        damaged = bytearray(whole)
        position, value = torch.randint(2**31, (2,), generator=generator).tolist()
        damaged[position % 4000] = value % 256
        path.write_bytes(damaged)
        try:
            load_checkpoint(path)
        except CheckpointError as error:
            assert len(str(error).splitlines()) == 1  # noqa: PT017
