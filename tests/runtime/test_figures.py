from __future__ import annotations

import json
import math

import numpy as np

from pitstop.runtime.figures import as_json


def test_a_number_that_is_not_finite_becomes_null_wherever_it_stands() -> None:
    figures = {"a": [1.5, math.inf, {"b": (-math.inf, math.nan)}], "c": np.float64("nan"), "d": 2}

    text = as_json(figures, indent=2)

    assert json.loads(text) == {"a": [1.5, None, {"b": [None, None]}], "c": None, "d": 2}
    assert text.startswith('{\n  "a"')
    assert text.endswith("}\n")
