from __future__ import annotations

import numpy as np
import pytest
from bundle_helpers import NULL_CLASS, SHAPE, one_line, toy_manifest
from model_helpers import tiny_pit
from pass_helpers import feeds_for, traced

from pitstop import OptionError
from pitstop.export import optimize as folding
from pitstop.export.optimize import STEP_NAMES, choose_steps, example_feeds, optimize
from pitstop.export.passes import PASSES
from pitstop.export.split import NoSplit
from pitstop.export.target import TARGETS

PIT = tiny_pit(depth=1)


@pytest.mark.parametrize("target", TARGETS)
def test_the_steps_of_a_target_are_all_but_those_that_are_off(target: str) -> None:
    off = TARGETS[target].off

    steps = choose_steps(target, ())

    assert set(off) <= set(STEP_NAMES)
    assert steps == [name for name in STEP_NAMES if name not in off]
    assert steps[-1] == "split"


def test_a_pass_left_out_does_not_run() -> None:
    assert "fold_bridge" not in choose_steps("portable", ["fold_bridge"])


@pytest.mark.parametrize(("target", "left_out"), [("jetson", []), ("portable", ["fold"])])
def test_an_unknown_target_or_pass_lists_those_there_are(target: str, left_out: list[str]) -> None:
    with pytest.raises(OptionError) as caught:
        choose_steps(target, left_out)

    assert ", ".join(STEP_NAMES if left_out else TARGETS) in one_line(caught.value)


def test_no_step_leaves_the_graph_as_it_was_traced() -> None:
    folded = optimize(traced(PIT), feeds_for(PIT), [])

    assert dict(folded.graphs) == {"denoiser.fp32": traced(PIT)}
    assert folded.reports == ()


def test_the_stages_are_the_passes_and_the_split() -> None:
    stages: list[str] = []

    optimize(traced(PIT), feeds_for(PIT), [PASSES[0].name, "split"], stages.append)

    assert stages == [f"pass {PASSES[0].name}", "splitting off the conditioner"]


def test_a_graph_that_cannot_be_split_stays_whole_and_the_report_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(model: object) -> None:
        raise NoSplit("the modulations come from 2 vectors, not from one")

    monkeypatch.setattr(folding, "split", refuse)

    folded = optimize(traced(PIT), feeds_for(PIT), ["split"])

    [report] = folded.reports
    assert list(folded.graphs) == ["denoiser.fp32"]
    assert report.rewritten == ()
    assert report.skipped == {"denoiser.fp32": "the modulations come from 2 vectors, not from one"}


def test_the_checks_see_classes_the_null_class_and_all_timesteps() -> None:
    feeds = example_feeds(toy_manifest(batch=5))

    assert feeds["label"].tolist() == [0, NULL_CLASS, 2, NULL_CLASS, 1]
    assert feeds["timestep"][[0, -1]].tolist() == [0, 999]
    assert feeds["latent"].shape == (5, *SHAPE)
    assert [feeds[name].dtype for name in ("latent", "timestep", "label")] == [
        np.dtype("float32"),
        np.dtype("float32"),
        np.dtype("int64"),
    ]


def test_without_a_null_class_the_checks_see_only_classes() -> None:
    feeds = example_feeds(toy_manifest(batch=5, null_class=False))

    assert feeds["label"].tolist() == [0, 1, 2, 0, 1]
