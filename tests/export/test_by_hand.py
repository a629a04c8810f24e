"""What a user says of a schedule is taken, or refused with what can be said."""

from __future__ import annotations

import dataclasses

import pytest
from bundle_helpers import one_line, toy_manifest

from pitstop import OptionError
from pitstop.export.by_hand import ByHand, read_betas
from pitstop.runtime.sampling.schedule.betas import Betas
from pitstop.runtime.sampling.schedule.flow import LinearFlow

FLOW = dataclasses.replace(
    toy_manifest(), prediction_type="velocity", schedule=LinearFlow(data_at=1)
)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("linear", Betas()),
        ("linear:0.0005:0.01:500", Betas(500, 0.0005, 0.01)),
        ("scaled_linear::0.012", Betas(1000, 1e-4, 0.012, "scaled_linear")),
        ("squaredcos_cap_v2", Betas(rule="squaredcos_cap_v2")),
        ("squaredcos_cap_v2:::300", Betas(300, rule="squaredcos_cap_v2")),
    ],
)
def test_betas_are_read_with_dits_where_nothing_is_said(text: str, wanted: Betas) -> None:
    assert read_betas(text) == wanted


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "no beta schedule called ''"),
        ("cosine:0.1", "Choose one of: linear, scaled_linear, squaredcos_cap_v2"),
        ("linear:a", "has a part that is no number"),
        ("linear:::3.5", "has a part that is no number"),
        ("linear:nan", "Choose a start and an end in (0, 1)"),
        ("linear:0.1:0.01", "rises from 0.1 to 0.01"),
        ("linear:0.1:2", "rises from 0.1 to 2"),
        ("linear:::0", "has 0 steps"),
        ("linear:::-3", "has -3 steps"),
        ("linear:0.1:0.2:10:3", "has 5 parts"),
        ("squaredcos_cap_v2:0.1", "has none"),
    ],
)
def test_other_betas_are_refused_with_what_can_be_said(text: str, found: str) -> None:
    with pytest.raises(OptionError) as told:
        read_betas(text)
    assert found in one_line(told.value)


@pytest.mark.parametrize("name", ["sample", "v_prediction", "epsilon"])
def test_a_prediction_is_taken(name: str) -> None:
    assert ByHand(prediction=name).onto(toy_manifest()).prediction_type == name


def test_a_shift_is_taken_for_a_flow() -> None:
    assert ByHand(shift=3.0).onto(FLOW).schedule == LinearFlow(1, shift=3.0)


def test_nothing_said_is_nothing() -> None:
    assert not ByHand()
    assert ByHand(shift=0.0)


@pytest.mark.parametrize(
    ("said", "flow", "found"),
    [
        (ByHand(prediction="flow"), False, "Choose one of: epsilon, v_prediction, sample"),
        (ByHand(shift=3.0), False, "`--shift 3` is for a flow"),
        (ByHand(prediction="sample"), True, "this one is a flow"),
        (ByHand(betas="linear"), True, "this one is a flow"),
        (ByHand(shift=0.0), True, "The shift is 0. Choose a number above 0"),
        (ByHand(shift=float("nan")), True, "The shift is nan"),
    ],
)
def test_what_does_not_go_with_the_model_is_refused(said: ByHand, flow: bool, found: str) -> None:
    with pytest.raises(OptionError) as told:
        said.onto(FLOW if flow else toy_manifest())
    assert found in one_line(told.value)
