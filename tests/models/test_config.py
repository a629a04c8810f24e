from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from model_helpers import pit_configs, tiny_dit, tiny_pit

from pitstop import ConfigError
from pitstop.models.config import config_from_dict, config_to_dict
from pitstop.models.denoiser import DenoiserConfig
from pitstop.models.dit import DitConfig
from pitstop.models.pit import PitConfig
from pitstop.models.presets import PRESETS


def through_json(config: DenoiserConfig) -> DenoiserConfig:
    return config_from_dict(json.loads(json.dumps(config_to_dict(config))))


def refusal(values: object) -> str:
    with pytest.raises(ConfigError) as raised:
        config_from_dict(values)
    assert len(str(raised.value).splitlines()) == 1
    return str(raised.value)


@given(pit_configs())
def test_a_pit_config_comes_back_from_json_as_it_was(config: PitConfig) -> None:
    assert through_json(config) == config


@pytest.mark.parametrize("config", [*PRESETS.values(), tiny_dit(mlp_ratio=2.5)])
def test_every_presets_config_comes_back_from_json_as_it_was(config: DenoiserConfig) -> None:
    assert through_json(config) == config


def test_the_architecture_is_written_down() -> None:
    assert config_to_dict(PitConfig())["arch"] == "pit"
    assert config_to_dict(DitConfig())["arch"] == "dit"


def test_fields_that_are_left_out_have_their_defaults() -> None:
    assert config_from_dict({"arch": "pit", "depth": 24}) == PitConfig(depth=24)


def test_a_whole_number_is_good_enough_for_a_float() -> None:
    config = config_from_dict({"arch": "dit", "mlp_ratio": 4, "class_dropout_prob": 0})
    assert config == DitConfig(class_dropout_prob=0.0)
    assert isinstance(config.mlp_ratio, float)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (3, "The config is 3. It must be an object with fields."),
        ([], "The config is []. It must be an object with fields."),
        ({}, "The config's arch is None. It must be one of: pit, dit, edt."),
        ({"arch": "vit"}, "The config's arch is 'vit'. It must be one of: pit, dit, edt."),
        ({"arch": ["pit"]}, "The config's arch is ['pit']. It must be one of: pit, dit, edt."),
        ({"arch": "pit", "depth": "4"}, "The config's depth is '4'. It must be of type int."),
        ({"arch": "pit", "depth": True}, "The config's depth is True. It must be of type int."),
        ({"arch": "pit", "depth": 4.0}, "The config's depth is 4.0. It must be of type int."),
        ({"arch": "pit", "learn_sigma": 1}, "learn_sigma is 1. It must be of type bool."),
        ({"arch": "pit", "mlp_ratio": True}, "mlp_ratio is True. It must be of type float."),
        ({"arch": "pit", "mlp_ratio": 10**400}, "mlp_ratio is a number of 1329 bits"),
        ({"arch": "pit", "input_size": 32}, "input_size is 32. It must be of type list of int."),
        ({"arch": "pit", "input_size": [32, "32"]}, "input_size is '32'. It must be of type int."),
        ({"arch": "pit", "prediction_type": 1}, "prediction_type is 1. It must be of type text."),
        ({"arch": "pit", "pswa": None}, "The config's pswa is None. It must be an object"),
        ({"arch": "pit", "pcca": {"ratios": 0.5}}, "pcca.ratios is 0.5. It must be of type list"),
    ],
    ids=str,
)
def test_a_value_of_the_wrong_type_is_named_with_the_right_one(values: Any, message: str) -> None:
    assert message in refusal(values)


@pytest.mark.parametrize(
    ("values", "field", "known"),
    [
        ({"hiden_size": 3}, "hiden_size", "hidden_size"),
        ({"pswa": {"window": 8}}, "pswa.window", "window_size"),
        ({"pswa": {"bridge": {"kernels": 3}}}, "pswa.bridge.kernels", "kernel"),
        ({1: 2, "unknown": 3}, "1", "hidden_size"),
    ],
)
def test_a_field_that_no_config_has_is_named_with_those_there_are(
    values: dict[Any, Any], field: str, known: str
) -> None:
    message = refusal({"arch": "pit", **values})
    assert f"unknown field {field}." in message
    assert known in message.split("The fields there are: ")[1]


def test_the_fields_of_pit_are_unknown_to_dit() -> None:
    assert "unknown field pswa" in refusal({"arch": "dit", "pswa": {}})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": 30}, "hidden_size is 30. It must be a multiple of 4"),
        ({"num_heads": 5}, "hidden_size is 32. It must be a multiple of num_heads 5"),
        ({"num_heads": 0}, "num_heads is 0. It must be 1 to 1048576"),
        ({"depth": 0}, "depth is 0. It must be 1 to 4096"),
        ({"num_classes": 10**30}, "num_classes is 1000000000000000000000000000000. It must be 1"),
        ({"input_size": (16, 15)}, "input_size is (16, 15). It must be a multiple of patch_size 2"),
        ({"input_size": (0, 16)}, "input_size is (0, 16)"),
        ({"input_size": (16,)}, "input_size is (16,). It must be two numbers"),
        (
            {"mlp_ratio": 0.0},
            "mlp_ratio is 0.0. It must be at least one of hidden_size",
        ),
        ({"mlp_ratio": float("inf")}, "mlp_ratio is inf"),
        ({"mlp_ratio": float("nan")}, "mlp_ratio is nan"),
        ({"mlp_ratio": 1e300}, "mlp_ratio is 1e+300"),
        ({"depth": 1_000_000}, "depth is 1000000. It must be 1 to 4096"),
        ({"input_size": (10**30, 10**30)}, "on both sides, 16384 at most"),
        ({"class_dropout_prob": 1.0}, "class_dropout_prob is 1.0. It must be in [0, 1)"),
        ({"prediction_type": "x0"}, "is 'x0'. It must be one of: epsilon, velocity"),
        ({"cfg_channels": 4}, "cfg_channels is 4. It must be 1 to in_channels 3"),
    ],
    ids=str,
)
def test_a_config_that_no_denoiser_has_says_what_would_do(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        tiny_dit(**fields)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pswa": {"window_size": 0}}, "pswa.window_size is 0. It must be at least 1"),
        ({"pswa": {"split": "both"}}, "pswa.split is 'both'. It must be one of: input, projected"),
        ({"pswa": {"merge": "sum"}}, "pswa.merge is 'sum'. It must be one of: concat_proj,"),
        ({"pswa": {"bridge": {"kernel": 4}}}, "pswa.bridge.kernel is 4. It must be one of: 3, 5,"),
        ({"pswa": {"bridge": {"kind": "x"}}}, "pswa.bridge.kind is 'x'. It must be one of: dw, "),
        ({"pswa": {"bridge": {"norm": "x"}}}, "pswa.bridge.norm is 'x'. It must be one of: none"),
        ({"pswa": {"bridge": {"act": "x"}}}, "pswa.bridge.act is 'x'. It must be one of: none"),
        ({"pswa": {"merge": "add_proj"}}, "It must be (1.0,) where pswa.merge is 'add_proj'"),
        ({"pcca": {"mode": "x"}}, "pcca.mode is 'x'. It must be one of: nested, rotate, const"),
        ({"pcca": {"mode": "rotate"}}, "It must be one number where pcca.mode is 'rotate'"),
        ({"pcca": {"ratios": []}}, "pcca.ratios is (). It must be one or more numbers in (0, 1]"),
        ({"pcca": {"ratios": [0]}}, "pcca.ratios is (0.0,). It must be one or more numbers in"),
        ({"pcca": {"ratios": [0.5, 0.4]}}, "pcca.ratios is (0.5, 0.4). It must be in rising order"),
        ({"global_layers": [12]}, "global_layers is (12,). It must be block indices from 0 to 11"),
        ({"input_size": [24, 32]}, "window of 8 tokens does not divide the grid of 12 x 16 tokens"),
    ],
    ids=str,
)
def test_a_config_that_no_pit_has_says_what_would_do(values: dict[str, Any], message: str) -> None:
    assert message in refusal({"arch": "pit", **values})


def test_a_config_is_checked_again_when_a_field_is_replaced() -> None:
    with pytest.raises(ConfigError, match="window of 4 tokens does not divide"):
        replace(tiny_pit(), input_size=(12, 16))
