from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pitstop import EngineError
from pitstop.runtime.bundle.engine_key import EngineKey

KEY = EngineKey(
    graph="denoiser.int8",
    graph_sha256="a" * 64,
    weights_sha256="b" * 64,
    precision="int8",
    calibration_sha256="c" * 64,
    builder="tensorrt",
    builder_version="10.3.0",
    cuda_major="12",
    recipe=2,
    platform="Linux aarch64",
    compute_capability="8.7",
    gpu="Orin",
    flags=("optimization-level=4",),
)
CHANGES = {
    "graph_sha256": ("d" * 64, "its graph is aaaaaaaaaaaa…, here it is dddddddddddd…"),
    "weights_sha256": ("", "its weights is bbbbbbbbbbbb…, here it is none"),
    "precision": ("fp16", "its precision is int8, here it is fp16"),
    "calibration_sha256": ("e" * 64, "its calibration is cccccccccccc…, here it is eeeeeeeeeeee…"),
    "builder": ("tensorrt-rtx", "its builder is tensorrt, here it is tensorrt-rtx"),
    "builder_version": ("10.13.2", "its builder's version is 10.3.0, here it is 10.13.2"),
    "cuda_major": ("13", "its CUDA is 12, here it is 13"),
    "recipe": (3, "its build recipe is 2, here it is 3"),
    "platform": ("Linux x86_64", "its platform is Linux aarch64, here it is Linux x86_64"),
    "compute_capability": ("8.6", "its compute capability is 8.7, here it is 8.6"),
    "gpu": ("NVIDIA Thor", "its GPU is Orin, here it is NVIDIA Thor"),
    "flags": (
        ("workspace=64MiB",),
        "its flags is optimization-level=4, here it is workspace=64MiB",
    ),
}


@pytest.mark.parametrize("field", CHANGES)
def test_each_field_that_differs_is_named_with_both_values(field: str) -> None:
    value, said = CHANGES[field]
    here = dataclasses.replace(KEY, **{field: value})

    assert KEY.differences(here) == [said]
    assert KEY.misfits(here) == [said]
    assert KEY.digest != here.digest


def test_equal_keys_have_one_address_and_no_difference() -> None:
    again = EngineKey.from_json(json.loads(json.dumps(dataclasses.asdict(KEY))))

    assert again == KEY
    assert again.digest == KEY.digest
    assert KEY.differences(again) == []


def test_flags_matter_to_whoever_asks_for_some() -> None:
    assert KEY.misfits(dataclasses.replace(KEY, flags=())) == []
    assert KEY.differences(dataclasses.replace(KEY, flags=())) != []


def test_an_engine_for_several_gpus_fits_each_of_them() -> None:
    several = dataclasses.replace(KEY, compute_capability="8.6,8.9,12.0")

    for capability, fits in {"8.6": True, "12.0": True, "8.7": False, "1.2": False}.items():
        here = dataclasses.replace(several, compute_capability=capability)
        assert (several.misfits(here) == []) == fits


@pytest.mark.parametrize(("capability", "fits"), [("8.0", True), ("12.0", True), ("7.5", False)])
def test_a_hardware_compatible_engine_fits_all_models_from_ampere_on(
    capability: str, fits: bool
) -> None:
    compatible = dataclasses.replace(KEY, flags=("hardware-compatible",))
    here = dataclasses.replace(KEY, flags=(), compute_capability=capability, gpu="NVIDIA A2")

    assert (compatible.misfits(here) == []) == fits


def test_hardware_compatibility_is_of_no_use_on_a_jetson() -> None:
    """NVIDIA's guide leaves JetPack out."""
    jetson = dataclasses.replace(KEY, platform="Linux aarch64 Jetson")
    compatible = dataclasses.replace(jetson, flags=("hardware-compatible",), gpu="NVIDIA Thor")

    assert compatible.misfits(dataclasses.replace(jetson, flags=())) == [
        "its GPU is NVIDIA Thor, here it is Orin"
    ]


def test_an_engine_whose_kernels_were_not_timed_fits_every_model() -> None:
    """As TensorRT-RTX builds them, without a GPU: its kernels are made where the engine runs."""
    untimed = dataclasses.replace(KEY, gpu="")

    assert untimed.misfits(KEY) == []
    assert KEY.misfits(untimed) == ["its GPU is Orin, here it is none"]


def test_a_key_of_an_older_pitstop_keeps_its_name_and_says_what_it_does_not_know() -> None:
    content = {**dataclasses.asdict(KEY), "flags": [*KEY.flags]}
    older = {name: content[name] for name in content if name not in {"cuda_major", "recipe", "gpu"}}

    read = EngineKey.from_json(older)

    assert read.digest == "c4020836a0a0b705"
    assert read.misfits(KEY) == [
        "its CUDA is none, here it is 12",
        "its build recipe is an older pitstop's, here it is 2",
    ]


@pytest.mark.parametrize(
    ("version", "fits"), [("10.3.0", True), ("10.13.2", True), ("10.2.9", False), ("11.0", False)]
)
def test_a_version_compatible_engine_fits_later_ones_of_its_major_version(
    version: str, fits: bool
) -> None:
    compatible = dataclasses.replace(KEY, flags=("version-compatible",))
    here = dataclasses.replace(KEY, flags=(), builder_version=version)

    assert (compatible.misfits(here) == []) == fits


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(st.sampled_from([field.name for field in dataclasses.fields(EngineKey)]), json_values)
def test_a_key_with_anything_in_a_field_is_read_or_refused(field: str, value: object) -> None:
    content = {**dataclasses.asdict(KEY), "flags": [*KEY.flags], field: value}
    wanted = {"flags": list, "recipe": int}.get(field, str)
    fits = type(value) is wanted and (
        not isinstance(value, list) or all(isinstance(flag, str) for flag in value)
    )

    if fits:
        read = EngineKey.from_json(content)
        assert json.loads(json.dumps(dataclasses.asdict(read)))[field] == value
    else:
        with pytest.raises(EngineError, match="Build the engine again"):
            EngineKey.from_json(content)
