"""Steps that do not call the denoiser: what stands in, and what is asked."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_helpers import SHAPE, FakeSession, one_line, toy_manifest, write_bundle
from device_helpers import DEVICES, bundle_with_step, open_on

from pitstop import BundleError, OptionError
from pitstop.runtime.bundle.folder import open_bundle
from pitstop.runtime.bundle.forecasts import graphs_fitted, read_forecasts, write_forecast
from pitstop.runtime.bundle.schedule_hash import schedule_sha256
from pitstop.runtime.distance import relative_l2
from pitstop.runtime.jobs import draw_images
from pitstop.runtime.jobs.plan import plan_images
from pitstop.runtime.pipeline import Pipeline
from pitstop.runtime.sampling.device_first import DeviceFirst
from pitstop.runtime.sampling.device_run import why_not_on_device
from pitstop.runtime.sampling.forecast.fitted import FittedPlan, Forecast
from pitstop.runtime.sampling.forecast.forecasting import Forecasting
from pitstop.runtime.sampling.forecast.plan import Plan, evenly
from pitstop.runtime.sampling.forecast.taylor import taylor_factors, taylor_plan
from pitstop.runtime.sampling.init import Init
from pitstop.runtime.sampling.sampler import Prediction
from pitstop.runtime.sampling.samplers import make_sampler
from pitstop.runtime.sampling.settings import Settings
from pitstop.runtime.sampling.step_table import step_table

PLAN = Plan(((), (), (1.5, -0.5), (), (0.9,), ()))


def fitted(folder: Path, *, guidance: tuple[float, float] = (2.0, 2.0)) -> Forecast:
    manifest = open_bundle(folder).manifest
    plans = (FittedPlan(PLAN, 50.0, 49.0, 40.0),)
    graphs = graphs_fitted(manifest, "fp32")
    schedule = schedule_sha256(manifest)
    return Forecast("ddim", 6, "leading", 0.0, guidance, graphs, schedule, 4, 2, plans)


def test_the_first_and_the_last_step_call() -> None:
    for steps in (3, 8, 50):
        for calls in range(3, steps + 1):
            called = evenly(steps, calls)
            assert (called[0], called[-1], len(set(called))) == (0, steps - 1, calls)


@pytest.mark.parametrize("called", [[4], [4, 3], [6, 3, 2], [9, 5, 0]])
def test_taylors_series_goes_on_along_a_line(called: list[int]) -> None:
    line = [2.0 - 0.3 * call for call in called]
    slope = 0.0 if len(called) == 1 else -0.3

    told = sum(f * v for f, v in zip(taylor_factors(11, called), line, strict=True))

    assert told == pytest.approx(line[0] + slope * (11 - called[0]))


def test_taylors_differences_are_those_of_taylorseer() -> None:
    first, second, third = 7.0, 3.0, 2.0  # newest first, at steps 6, 4, 1
    slope, before = (first - second) / 2, (second - third) / 3
    wanted = first + 2 * slope + 2**2 / 2 * (slope - before) / 2

    factors = taylor_factors(8, [6, 4, 1])

    assert np.dot(factors, [first, second, third]) == pytest.approx(wanted)


def test_a_forecast_is_the_sum_of_what_was_said_last() -> None:
    rule = make_sampler("ddim", toy_manifest().schedule, 6)
    sampler = Forecasting(rule, PLAN)
    latent, first, second, ignored = np.random.default_rng(0).random((4, 1, 1, 2, 2), np.float32)

    _, memory = sampler.step(0, latent, Prediction(first), None, ())
    _, memory = sampler.step(1, latent, Prediction(second), None, memory)
    found, _ = sampler.step(2, latent, Prediction(ignored), None, memory)

    said = Prediction(1.5 * second - 0.5 * first)
    np.testing.assert_allclose(found, rule.step(2, latent, said, None, ())[0], rtol=1e-6)


@pytest.mark.parametrize("name", ["ddim", "dpmpp_2m", "ddpm"])
def test_only_the_steps_that_are_called_ask_the_denoiser(name: str) -> None:
    session = FakeSession()
    pipeline = Pipeline(toy_manifest(), session, "fp32")

    pipeline([0], steps=20, sampler=name, calls=6)

    called = np.array(evenly(20, 6))
    timesteps = pipeline.sampler(Settings(20, name)).schedule.timesteps[called]
    assert [feeds["timestep"][0] for feeds in session.calls] == timesteps.tolist()


def test_a_rule_that_clips_asks_only_where_it_is_called() -> None:
    session, manifest = FakeSession(), toy_manifest()
    clipping = make_sampler("ddim", manifest.schedule, 8)
    object.__setattr__(clipping, "clip", 0.1)
    [request] = Pipeline(manifest, session, "fp32").requests(
        manifest.examples(1), [0], Settings(8, cfg_scale=1.0)
    )
    object.__setattr__(request, "sampler", Forecasting(clipping, taylor_plan(8, 3)))

    Pipeline(manifest, session, "fp32").loop.draw([request], lambda latents: None)

    assert len(session.calls) == 3


def test_as_many_calls_as_steps_are_todays_run() -> None:
    pipeline = Pipeline(toy_manifest(), FakeSession(), "fp32")

    assert Settings(9, calls=9) == Settings(9)
    assert "calls" not in Settings(9, calls=9).as_dict()
    assert (
        pipeline([0], steps=9, calls=9).latents.tobytes()
        == pipeline([0], steps=9).latents.tobytes()
    )


@pytest.mark.parametrize(
    ("calls", "problem", "remedy"),
    [
        (51, "51 calls were asked for in 50 steps", "at most 50 calls"),
        (2, "2 calls were asked for, and a forecast is made of 3", "at least 3 calls"),
        (1.5, "calls is 1.5", "whole number"),
    ],
)
def test_numbers_of_calls_that_cannot_be_are_refused(calls: int, problem: str, remedy: str) -> None:
    with pytest.raises(OptionError) as refused:
        Settings(50, calls=calls)
    assert problem in one_line(refused.value)
    assert remedy in refused.value.remedy


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["ddim", "ddpm", "dpmpp_2m"])
def test_a_device_draws_a_forecast_as_the_host_does(tmp_path: Path, device: str, name: str) -> None:
    bundle = bundle_with_step(tmp_path / "bundle", toy_manifest(batch=4, split=True))
    keeping = Pipeline.of(open_on(device, bundle))
    fetching = Pipeline.from_bundle(tmp_path / "bundle", backend="onnxruntime")

    found, wanted = (
        pipeline([0, 2], seeds=[3, 4], steps=12, sampler=name, calls=5).latents
        for pipeline in (keeping, fetching)
    )

    assert isinstance(keeping.loop, DeviceFirst)
    [request] = keeping.requests(keeping.manifest.examples(2), [0, 1], Settings(12, name, calls=5))
    assert keeping.loop.why_not([request]) is None
    assert relative_l2(wanted, found) <= 5e-6


def test_a_learned_variance_is_a_number_where_it_is_not_asked() -> None:
    rule = make_sampler("ddpm", toy_manifest().schedule, 6)
    plan = Plan(PLAN.factors, (0.0, 0.0, -0.5, 0.0, 0.5, 0.0))

    table = step_table(Forecasting(rule, plan), learned_variance=True)

    assert table.asks == [True, True, False, True, False, True]
    asked = step_table(rule, learned_variance=True).deviations
    expected = asked[2, 0] * -0.5 + asked[2, 1]
    np.testing.assert_allclose(table.deviations[2], [0, expected], atol=1e-6)


def test_a_step_that_remembers_too_little_leaves_the_forecast_to_the_host(tmp_path: Path) -> None:
    bundle = bundle_with_step(tmp_path / "bundle", toy_manifest(batch=4))
    step = bundle.manifest.graphs["step"]
    old = type(step)(
        step.path,
        tuple(t for t in step.inputs if t.name not in {f"memory_{n}" for n in range(2, 9)}),
        step.outputs,
        step.opset,
        step.nodes,
        step.weight_bytes,
    )
    pipeline = Pipeline.from_bundle(tmp_path / "bundle", backend="onnxruntime")
    [request] = pipeline.requests(pipeline.manifest.examples(1), [0], Settings(12, calls=5))

    why = why_not_on_device([request], bundle.manifest, old)

    assert why == "the run remembers 3 latents and the bundle's step 2; export it again"


def test_a_fitted_forecast_is_drawn_by_and_without_one_taylors(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle", toy_manifest())
    taylor = Pipeline.from_bundle(folder, backend="onnxruntime")
    settings = Settings(6, "ddim", 2.0, calls=4)
    chosen = taylor.forecast(settings)
    assert chosen is not None
    assert chosen.plan == taylor_plan(6, 4)
    assert "no forecast was fitted for ddim, 6 steps, spacing leading with 4 calls" in chosen.note

    write_forecast(open_bundle(folder), fitted(folder))
    pipeline = Pipeline.from_bundle(folder, backend="onnxruntime")

    chosen = pipeline.forecast(settings)
    assert chosen is not None
    assert (chosen.plan, chosen.note) == (PLAN, "")
    assert isinstance(pipeline.sampler(settings), Forecasting)
    assert pipeline.sampler(settings) is pipeline.sampler(settings)
    other = pipeline.forecast(Settings(7, "ddim", 2.0, calls=4))
    assert other is not None
    assert "(but for ddim, 6 steps, spacing leading with 4)" in other.note


def test_a_guidance_that_was_not_fitted_is_said_with_the_range(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle", toy_manifest())
    write_forecast(open_bundle(folder), fitted(folder, guidance=(1.5, 4.0)))
    pipeline = Pipeline.from_bundle(folder, backend="onnxruntime")

    inside, outside = (
        pipeline.forecast(Settings(6, "ddim", scale, calls=4)) for scale in (2.5, 6.0)
    )

    assert inside is not None
    assert outside is not None
    assert inside.note == ""
    assert "fitted at guidance 1.5 to 4, and this run has 6" in outside.note


def test_the_file_gives_back_what_was_written(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle", toy_manifest())
    forecast = fitted(folder)

    path = write_forecast(open_bundle(folder), forecast)

    assert path.name == "ddim-leading-6-cfg2.json"
    assert read_forecasts(open_bundle(folder)) == [forecast]


def in_plan(content: dict[str, Any], **changes: object) -> dict[str, Any]:
    [plan] = content["plans"]
    return content | {"plans": [plan | changes]}


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda c: c | {"steps": 7}, "expected 7"),
        (lambda c: c | {"eta": float("nan")}, "eta has nan"),
        (lambda c: c | {"guidance": [4, 2]}, "guidance is"),
        (lambda c: c | {"version": 9}, "version is 9"),
        (lambda c: c | {"graphs": {"denoiser.fp32": "0"}}, "fitted with another denoiser.fp32"),
        (lambda c: c | {"plans": [c["plans"][0] | {"called": [0]}]}, "not those that are called"),
        (
            lambda c: in_plan(c, factors=[[], [], [1001, 0], [], [0.9], []]),
            "factors has 1001 where",
        ),
        (lambda c: in_plan(c, variances=[0, 0, -11, 0, 0, 0]), "variances has -11 where -10 to 10"),
        (lambda c: in_plan(c, calls=5), "a plan has calls 5, and calls 4 steps"),
        (lambda c: c | {"plans": []}, "plans are of no calls"),
        (lambda c: c | {"plans": c["plans"] * 2}, "plans are of [4, 4] calls"),
        (lambda c: c | {"eta": 1.5}, "eta has 1.5 where 0 to 1 is expected"),
        (lambda c: c | {"version": "9" * 9999}, "999…, this pitstop reads"),
        (lambda c: c | {"guidance": [0] * 9999}, "…, expected the least and the largest"),
        (lambda c: c | {"graphs": {"x" * 9999: "0"}}, "xxx…, expected one of the bundle's"),
        (lambda c: c | {"graphs": {}}, "names the graphs none, expected a denoiser"),
        (lambda c: c | {"schedule_sha256": "0"}, "another schedule or prediction type"),
        (lambda c: {"version": 2}, "None"),
        (lambda c: [], "table"),
    ],
)
def test_a_file_that_is_no_forecast_of_this_bundle_is_refused(
    tmp_path: Path, damage: object, why: str
) -> None:
    folder = write_bundle(tmp_path / "bundle", toy_manifest())
    path = write_forecast(open_bundle(folder), fitted(folder))
    path.write_text(json.dumps(damage(json.loads(path.read_text()))))  # type: ignore[operator]

    with pytest.raises(BundleError) as refused:
        Pipeline.from_bundle(folder, backend="onnxruntime").forecast(Settings(6, calls=4))

    assert why in one_line(refused.value)
    assert len(one_line(refused.value)) < 500
    assert "pitstop forecast" in refused.value.remedy


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("nothing")])
def test_what_is_no_file_is_refused_and_not_waited_for(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    bundle = open_bundle(write_bundle(tmp_path / "bundle", toy_manifest()))
    forecast = fitted(bundle.folder)
    (bundle.folder / "forecasts").mkdir()
    make(bundle.folder / "forecasts" / "ddim-leading-6-cfg2.json")

    for use in (read_forecasts, lambda bundle: write_forecast(bundle, forecast)):
        with pytest.raises(BundleError) as refused:
            use(bundle)
        assert "is a folder, a pipe or a link to nothing" in one_line(refused.value)
        assert "Remove it" in refused.value.remedy


def test_a_forecast_that_does_not_name_the_conditioner_is_refused(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle", toy_manifest(split=True))
    forecast = fitted(folder)
    write_forecast(open_bundle(folder), forecast)
    assert read_forecasts(open_bundle(folder)) == [forecast]

    denoiser = {"denoiser.fp32": forecast.graphs["denoiser.fp32"]}
    write_forecast(open_bundle(folder), dataclasses.replace(forecast, graphs=denoiser))

    with pytest.raises(BundleError, match="expected a denoiser and all that feeds it"):
        read_forecasts(open_bundle(folder))


def test_a_forecast_of_the_same_graphs_with_another_schedule_is_refused(tmp_path: Path) -> None:
    manifest = toy_manifest()
    one, other = (
        write_bundle(tmp_path / kind, dataclasses.replace(manifest, prediction_type=kind))
        for kind in ("epsilon", "v_prediction")
    )
    write_forecast(open_bundle(other), fitted(one))

    with pytest.raises(BundleError, match="another schedule or prediction type"):
        read_forecasts(open_bundle(other))


def test_of_several_forecasts_for_a_guidance_the_narrowest_is_taken(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle", toy_manifest())
    narrow, plan = fitted(folder), Plan(((), (), (1.0,), (), (0.8,), ()))
    wide = dataclasses.replace(
        narrow, guidance=(1.0, 4.0), plans=(FittedPlan(plan, 50.0, 49.0, 40.0),)
    )
    for forecast in (wide, narrow):
        write_forecast(open_bundle(folder), forecast)
    pipeline = Pipeline.from_bundle(folder, backend="onnxruntime")

    at, beside = (pipeline.forecast(Settings(6, "ddim", s, calls=4)) for s in (2.0, 2.5))

    assert at is not None
    assert beside is not None
    assert (at.plan, beside.plan) == (PLAN, plan)


def test_a_factor_that_is_no_number_is_refused(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle", toy_manifest())
    path = write_forecast(open_bundle(folder), fitted(folder))
    path.write_text(path.read_text().replace("1.5", "NaN"))

    with pytest.raises(BundleError, match="factors has nan where a finite number is expected"):
        read_forecasts(open_bundle(folder))


def test_images_of_fewer_calls_say_so_and_go_into_a_folder_of_their_own(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle", toy_manifest())
    pipeline = Pipeline.from_bundle(folder, backend="onnxruntime")
    plan = plan_images(pipeline.manifest, ["0"], 1, 0)

    done = draw_images(pipeline, plan, Settings(6, calls=4), tmp_path / "out")

    told = json.loads((tmp_path / "out" / "pitstop-run.json").read_text())["settings"]
    assert done.figures()["calls"] == told["calls"] == 4
    assert len(told["forecast_sha256"]) == 64
    with pytest.raises(OptionError, match="calls"):
        draw_images(pipeline, plan, Settings(6), tmp_path / "out")


def test_a_plan_calls_where_guidance_changes_and_sums_nothing_over_it() -> None:
    plain, minding = taylor_plan(20, 7), taylor_plan(20, 7, [5, 12])

    assert plain.called == (0, 3, 6, 10, 13, 16, 19)
    assert minding.called == (0, 3, 5, 10, 12, 16, 19)
    assert [len(minding.factors[step]) for step in (4, 6, 11, 13, 17)] == [2, 1, 2, 1, 2]


@pytest.mark.parametrize("changes", [[1], [2, 9], [18], [3, 4, 5, 6, 7, 8]])
@pytest.mark.parametrize("calls", [3, 4, 20])
def test_a_plan_of_few_calls_keeps_their_number(calls: int, changes: list[int]) -> None:
    plan = taylor_plan(20, calls, changes)
    assert plan.calls == calls
    assert {0, 19} <= set(plan.called)


def test_a_run_calls_where_its_interval_begins_and_ends() -> None:
    pipeline = Pipeline(toy_manifest(), FakeSession(), "fp32")
    chosen = pipeline.forecast(Settings(20, "ddim", calls=7, cfg_interval="200:700"))
    assert chosen is not None
    assert {5, 16} <= set(chosen.plan.called)  # 950, 900, ... 700 is the sixth, 150 the 17th
    assert pipeline.forecast(Settings(20, "ddim", calls=7, cfg_schedule="linear")) is not None


def test_the_part_of_a_run_after_a_picture_calls_where_its_interval_begins_and_ends() -> None:
    pipeline = Pipeline(toy_manifest(), FakeSession(), "fp32")
    settings = Settings(20, "ddim", calls=6, cfg_interval="200:500")
    init = Init(np.zeros(SHAPE, np.float32), strength=0.95)

    chosen = pipeline.forecast(settings, init)

    assert chosen is not None
    plan, begins, ends = chosen.plan, 8, 15  # of 900, 850, ...: 500, and the first below 200
    assert {begins, ends} <= set(plan.called)
    for step, factors in enumerate(plan.factors):
        since = max(change for change in (0, begins, ends) if change <= step)
        assert len(factors) <= sum(since <= call < step for call in plan.called)
