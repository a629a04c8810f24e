from __future__ import annotations

import math
from typing import Any

import pytest
from bundle_helpers import one_line, toy_manifest

from pitstop import OptionError
from pitstop.calibration.recipe import Recipe


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"num": 0}, "0 trajectories were asked for. Choose 1 to 1048576 with `--num`."),
        ({"num": 2**20 + 1}, "1048577 trajectories were asked for. Choose 1 to 1048576"),
        ({"seed": -1}, "The seed is -1. Choose one from 0 to 1048575."),
        ({"seed": 2**20}, "The seed is 1048576. Choose one from 0 to 1048575."),
        ({"method": "max"}, "There is no method called 'max'. Choose one of: minmax, percentile,"),
        ({"base": "bf16"}, "There is no base called 'bf16'. Choose one of: fp16, fp32."),
        ({"budget_db": math.nan}, "The budget is nan dB. Choose a number, such as 45."),
        ({"budget_db": math.inf}, "The budget is inf dB. Choose a number, such as 45."),
    ],
)
def test_what_cannot_be_asked_for_is_told(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(OptionError) as caught:
        Recipe(**fields)

    assert one_line(caught.value).startswith(told)


@pytest.mark.parametrize(
    ("asked", "null_class", "cfg_scale"),
    [(None, True, 4.0), (None, False, 1.0), (2.5, True, 2.5), (1.0, True, 1.0)],
)
def test_trajectories_are_guided_where_the_model_can_be(
    asked: float | None, null_class: bool, cfg_scale: float
) -> None:
    settings = Recipe(steps=7, cfg_scale=asked).settings(toy_manifest(null_class=null_class))

    assert (settings.steps, settings.cfg_scale) == (7, cfg_scale)
