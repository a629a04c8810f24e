"""A forecast is fitted on the model's own trajectories, and chosen by the image at their end."""

from __future__ import annotations

import dataclasses
import itertools
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from bundle_helpers import FakeSession, one_line, toy_manifest, with_label, write_bundle
from cli_helpers import refused, run
from router_helpers import write_router

from pitstop import OptionError
from pitstop.forecast import trajectories
from pitstop.forecast.fit import fit_plan, mean_variances
from pitstop.forecast.gains import measure_gains, places
from pitstop.forecast.gram import gram
from pitstop.forecast.judge import judge_plan
from pitstop.forecast.pipeline import _draw, fit_forecast
from pitstop.forecast.recipe import Recipe, all_calls
from pitstop.forecast.search import choose_called, expected_error
from pitstop.forecast.trajectories import Walked, walk_all
from pitstop.runtime.bundle.folder import open_bundle
from pitstop.runtime.bundle.forecasts import read_forecasts
from pitstop.runtime.pipeline import Pipeline
from pitstop.runtime.sampling.forecast.taylor import taylor_plan
from pitstop.runtime.sampling.schedule.flow import LinearFlow
from pitstop.runtime.sampling.settings import Settings
from pitstop.runtime.stage import unheard

SETTINGS = Settings(12, "ddim")
HERE = ("--backend", "onnxruntime")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle", toy_manifest(batch=4))


def opened(bundle: Path) -> Pipeline:
    return Pipeline.from_bundle(bundle, backend="onnxruntime")


def some_products(steps: int = 10) -> np.ndarray:  # type: ignore[type-arg]
    """Of predictions that go along smooth ways."""
    generator = np.random.default_rng(0)
    times = np.linspace(0, 1, steps)
    said = sum(
        generator.standard_normal((1, 40)) / (k + 1) * np.cos(3 * k * times[:, None])
        for k in range(5)
    )
    said = said + 0.01 * generator.standard_normal((steps, 40))
    return np.asarray(said @ said.T / 40)


def error_of(products: np.ndarray, gains: np.ndarray, called: tuple[int, ...]) -> float:  # type: ignore[type-arg]
    """What the sums between calls leave, each run between two calls by itself."""
    plan = fit_plan(products, called, ())
    total = 0.0
    for start, end in itertools.pairwise((*called, len(gains))):
        left = np.zeros(len(gains))
        for step in range(start + 1, end):
            left[step] -= gains[step]
            before = [call for call in sorted(called, reverse=True) if call < step]
            for factor, call in zip(plan.factors[step], before, strict=False):
                left[call] += gains[step] * factor
        total += float(left @ products @ left)
    return total


@pytest.mark.parametrize("calls", [3, 4, 6, 9])
def test_no_other_choice_of_steps_leaves_less(calls: int) -> None:
    products, gains = some_products(), np.linspace(1.0, 0.2, 10)

    called, error = choose_called(products, gains, calls)
    assert expected_error(products, gains, called) == pytest.approx(error)

    others = [(0, *rest) for rest in itertools.combinations(range(1, 10), calls - 1)]
    errors = [error_of(products, gains, other) for other in others]
    assert error == pytest.approx(min(errors), rel=1e-3)
    assert error_of(products, gains, called) == pytest.approx(error, rel=1e-3)


@pytest.mark.parametrize("calls", [25, 17, 13, 8])
def test_calls_stay_nearly_even_wherever_errors_count(calls: int) -> None:
    """What comes late counts a thousandth, and would be left without a call."""
    late = np.where(np.arange(50) < 10, 1.0, 0.001)

    called, _ = choose_called(some_products(50), late, calls)

    gaps = np.diff([*called, 50])
    assert gaps.max() == -(-50 // calls) + 1
    assert gaps.min() < gaps.max()


def test_calls_that_are_too_far_apart_are_refused() -> None:
    with pytest.raises(OptionError) as refusal:
        choose_called(some_products(200), np.ones(200), 3)
    assert "3 calls in 200 steps are more than 32 steps apart" in one_line(refusal.value)


def test_factors_are_the_least_squares_of_what_was_said(bundle: Path, tmp_path: Path) -> None:
    walked = walked_on(bundle, tmp_path)
    said = np.concatenate([one.said.reshape(12, -1) for one in walked], axis=1).astype(np.float64)

    plan = fit_plan(gram(walked), (0, 3, 5, 11), mean_variances(walked))

    wanted, *_ = np.linalg.lstsq(said[[5, 3, 0]].T, said[8], rcond=None)
    told = np.dot(plan.factors[8], said[[5, 3, 0]])
    np.testing.assert_allclose(told, np.dot(wanted, said[[5, 3, 0]]), atol=1e-3)


def walked_on(bundle: Path, folder: Path, num: int = 6) -> list[Walked]:
    return walk_all(opened(bundle), SETTINGS, range(num), folder, lambda steps: None)


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m", "ddpm"])
def test_an_error_that_is_replayed_is_followed_to_the_image(
    bundle: Path, tmp_path: Path, sampler: str
) -> None:
    pipeline = opened(bundle)
    walked = walk_all(pipeline, Settings(8, sampler), range(2), tmp_path, lambda steps: None)

    gains = measure_gains(pipeline, walked, lambda steps: None)

    assert gains.shape == (8,)
    assert (gains[:-1] >= gains[1:]).all()
    assert gains[0] > 0
    assert set(places(50)) >= {0, 48, 49}


def test_a_plan_with_every_call_draws_what_was_walked(bundle: Path, tmp_path: Path) -> None:
    walked = walked_on(bundle, tmp_path)

    decibels = judge_plan(opened(bundle), walked, taylor_plan(12, 12), lambda images: None)

    assert decibels == [float("inf")] * 6


@pytest.mark.parametrize(
    ("sampler", "flow"),
    [("ddim", False), ("dpmpp_2m", False), ("ddpm", False), ("euler", True), ("heun", True)],
)
def test_every_rule_is_nearer_with_a_fit_than_without(
    tmp_path: Path, sampler: str, flow: bool
) -> None:
    kind = {"schedule": LinearFlow(), "prediction_type": "velocity"} if flow else {}
    manifest = dataclasses.replace(toy_manifest(batch=4), **kind)  # type: ignore[arg-type]
    pipeline = Pipeline(manifest, FakeSession(), "fp32")
    settings = Settings(16, sampler, 2.0)
    walked = walk_all(pipeline, settings, range(8), tmp_path, lambda steps: None)
    fit_on, others = walked[:2], walked[2:]
    gains = measure_gains(pipeline, fit_on, lambda steps: None)

    called, _ = choose_called(gram(fit_on), gains, 6)
    fitted, taylor = (
        np.median(judge_plan(pipeline, others, plan, lambda images: None))
        for plan in (fit_plan(gram(fit_on), called, ()), taylor_plan(16, 6))
    )

    assert fitted > taylor


def test_a_learned_variance_is_forecast_by_its_mean() -> None:
    variance = np.random.default_rng(0).uniform(-1, 1, (2, 3, 4, 1, 2, 2)).astype(np.float32)
    walked = [Walked(None, one, one, one[-1]) for one in variance]  # type: ignore[arg-type]

    means = mean_variances(walked)

    np.testing.assert_allclose(means, variance.mean(axis=(0, 2, 3, 4, 5)), rtol=1e-5)


def recipe(**changes: object) -> Recipe:
    return Recipe(SETTINGS, **({"scales": (2.0,), "calls": (5,), "num": 8} | changes))  # type: ignore[arg-type]


def fit(bundle: Path, recipe: Recipe) -> Path:
    with opened(bundle) as pipeline:
        return fit_forecast(open_bundle(bundle), pipeline, recipe)[1]


def test_the_same_fit_gives_the_same_bytes_and_leaves_nothing_else(bundle: Path) -> None:
    first = fit(bundle, recipe()).read_bytes()
    second = fit(bundle, recipe()).read_bytes()

    assert first == second
    assert [path.name for path in (bundle / "forecasts").iterdir()] == ["ddim-leading-12-cfg2.json"]


def test_it_is_nearer_than_taylors_on_images_that_it_was_not_fitted_on(bundle: Path) -> None:
    fit(bundle, recipe())
    fitted = opened(bundle)
    plain = Pipeline(fitted.manifest, fitted.session, "fp32")

    far, near = (
        np.square(
            pipeline([0, 1, 2], steps=12, sampler="ddim", cfg_scale=2.0, calls=5).latents
            - fitted([0, 1, 2], steps=12, sampler="ddim", cfg_scale=2.0).latents
        ).mean()
        for pipeline in (plain, fitted)
    )

    assert near < far


def test_other_numbers_of_calls_are_added_to_those_that_were_fitted_alike(bundle: Path) -> None:
    fit(bundle, recipe(calls=(5,)))
    fit(bundle, recipe(calls=(8, 6)))
    [forecast] = read_forecasts(open_bundle(bundle))
    assert [one.plan.calls for one in forecast.plans] == [5, 6, 8]

    fit(bundle, recipe(calls=(7,), num=10))
    [forecast] = read_forecasts(open_bundle(bundle))
    assert [one.plan.calls for one in forecast.plans] == [7]


def test_a_fit_that_was_stopped_goes_on_with_what_it_has_drawn(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    walks: list[int] = []
    walk = trajectories._walk

    def stopping(pipeline: Pipeline, request: object) -> Walked:
        walks.append(1)
        if len(walks) == 3:
            raise KeyboardInterrupt
        return walk(pipeline, request)  # type: ignore[arg-type]

    monkeypatch.setattr(trajectories, "_walk", stopping)
    with pytest.raises(KeyboardInterrupt):
        fit(bundle, recipe())
    fit(bundle, recipe())

    assert len(walks) == 1 + (8 + 4) // 2  # two images a call, and the one that was stopped


def test_fits_at_once_wait_for_each_other_and_keep_the_plans_of_both(bundle: Path) -> None:
    started = threading.Barrier(3)

    def fit_of(calls: int) -> Path:
        with opened(bundle) as pipeline:
            started.wait()
            return fit_forecast(open_bundle(bundle), pipeline, recipe(calls=(calls,)))[1]

    with ThreadPoolExecutor(3) as pool:
        paths = set(pool.map(fit_of, (5, 6, 7)))

    [forecast] = read_forecasts(open_bundle(bundle))
    assert [one.plan.calls for one in forecast.plans] == [5, 6, 7]
    assert list((bundle / "forecasts").iterdir()) == list(paths)


def test_trajectories_of_every_part_are_of_classes_from_the_first_to_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bundle_helpers.GAINS", [1.0] * 1001)
    manifest = with_label(toy_manifest(batch=4), classes=1000, null=1000, names=())
    pipeline = Pipeline(manifest, FakeSession(), "fp32")

    drawn = _draw(pipeline, recipe(scales=(1.5, 4.0), num=16), tmp_path, unheard)

    for part, share in ((drawn.fitted_on, 8), (drawn.held_out, 4)):
        for scale in (1.5, 4.0):
            told = [
                int(condition.arrays["label"])
                for one in part
                if one.request.cfg_scale == scale
                for condition in one.request.conditions
            ]
            assert told == [1000 * place // share for place in range(share)]


def stop_at(monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    """Let the walk of so many calls fail, once."""
    walks: list[int] = []
    walk = trajectories._walk

    def stopping(pipeline: Pipeline, request: object) -> Walked:
        walks.append(1)
        if len(walks) == call:
            raise KeyboardInterrupt
        return walk(pipeline, request)  # type: ignore[arg-type]

    monkeypatch.setattr(trajectories, "_walk", stopping)


@pytest.mark.parametrize("batch", [6, 12])
def test_what_a_stopped_fit_of_other_guidance_scales_has_drawn_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    manifest = toy_manifest(batch=batch)
    plain, resumed = (write_bundle(tmp_path / name, manifest) for name in ("plain", "resumed"))
    wanted = recipe(scales=(1.5, 2.0, 4.0), num=12)
    stop_at(monkeypatch, 4)
    with pytest.raises(KeyboardInterrupt):
        fit(resumed, recipe(scales=(1.5, 4.0), num=12))

    assert fit(resumed, wanted).read_bytes() == fit(plain, wanted).read_bytes()


@pytest.mark.parametrize("other", ["seeds", "told.label", "said", "drawn"])
def test_a_kept_trajectory_of_something_else_is_drawn_again(
    bundle: Path, tmp_path: Path, other: str
) -> None:
    [wanted] = walked_on(bundle, tmp_path, num=2)
    [path] = tmp_path.glob("*.npz")
    with np.load(path) as kept:
        arrays = dict(kept)
    arrays["said"] = arrays["said"] + 1
    arrays[other] = arrays[other][:1] if other in ("said", "drawn") else arrays[other] + 1
    np.savez(path, **arrays)

    [found] = walked_on(bundle, tmp_path, num=2)

    np.testing.assert_array_equal(found.said, wanted.said)
    np.testing.assert_array_equal(found.drawn, wanted.drawn)


def test_a_range_of_guidance_is_fitted_together(bundle: Path) -> None:
    path = fit(bundle, recipe(scales=(1.0, 1.5, 4.0), num=12))

    assert path.name == "ddim-leading-12-cfg1to4.json"
    assert json.loads(path.read_text())["guidance"] == [1.0, 4.0]


def test_a_budget_finds_the_fewest_calls_that_keep_it(bundle: Path) -> None:
    fit(bundle, recipe(calls=(), budget_db=45.0))
    [forecast] = read_forecasts(open_bundle(bundle))
    keeps = [one.plan.calls for one in forecast.plans if one.held_out_db >= 45.0]
    fails = [one.plan.calls for one in forecast.plans if one.held_out_db < 45.0]
    assert keeps
    assert not fails or max(fails) + 1 == min(keeps)

    with pytest.raises(OptionError) as refusal:
        fit(bundle, recipe(calls=(), budget_db=500.0))
    assert "No fewer calls than 12 keep 500 dB" in one_line(refusal.value)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"calls": ()}, "Nothing says how many calls"),
        ({"budget_db": 40.0}, "several options do"),
        ({"num": 3}, "3 trajectories are too few"),
        ({"num": 2**20 + 1}, "Choose at most 1048576 with `--num`"),
        ({"calls": (), "budget_db": float("nan")}, "The budget is nan"),
        ({"calls": (), "budget_db": float("inf")}, "The budget is inf"),
        ({"calls": (12,)}, "12 calls are all 12 steps"),
        ({"calls": (13,)}, "13 calls were asked for in 12 steps"),
        ({"calls": (2,)}, "a forecast is made of 3"),
        ({"scales": (float("nan"),)}, "guidance scale is nan"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(changes: dict[str, object], problem: str) -> None:
    with pytest.raises(OptionError) as refusal:
        recipe(**changes)
    assert problem in one_line(refusal.value)


def test_all_is_from_a_sixth_of_the_steps_to_most_of_them() -> None:
    assert all_calls(50) == (8, 10, 13, 14, 17, 20, 25, 33, 40)


def test_the_command_fits_what_generate_draws_by_and_inspect_shows(
    bundle: Path, tmp_path: Path
) -> None:
    figures = tmp_path / "figures.json"
    sampling = ("--steps", 12, "--cfg-scale", 2)
    draw = ("generate", bundle, *HERE, *sampling, "--calls", 5, "--num", 1)
    before = run(*draw, "--out", tmp_path / "before")
    assert "note: no forecast was fitted for ddim, 12 steps" in " ".join(before.stderr.split())

    done = run("forecast", bundle, *HERE, *sampling, "--calls", 5, "--num", 8, "--json", figures)
    after = run(*draw, "--out", tmp_path / "after")
    shown = run("inspect", bundle)

    assert done.exit_code == after.exit_code == 0, done.output
    assert json.loads(figures.read_text())["plans"][0]["calls"] == 5
    assert "note" not in after.stderr
    assert "forecast ddim-leading-12-cfg2" in shown.output
    assert "5 of 12" in shown.output


def test_inspect_says_why_a_forecast_is_not_used(bundle: Path) -> None:
    (bundle / "forecasts").mkdir()
    (bundle / "forecasts" / "x.json").write_text("{}")

    shown = run("inspect", bundle)

    assert shown.exit_code == 0
    assert "forecast x is not used" in shown.output
    assert "holds no forecast" in refused(
        "generate", bundle, *HERE, "--steps", 5, "--calls", 4, "--out", bundle.parent / "out"
    )


@pytest.mark.parametrize("name", ["forecasts", "forecasts/ddim-leading-12-cfg2.json"])
def test_a_place_that_cannot_be_written_is_refused_before_anything_is_drawn(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(trajectories, "_walk", lambda *given: pytest.fail("it was drawn"))
    place = bundle / name
    place.parent.mkdir(exist_ok=True)
    place.write_text("") if name == "forecasts" else place.mkdir()
    asked = ("--steps", 12, "--cfg-scale", 2, "--calls", 5)

    told = refused("forecast", bundle, *HERE, *asked, "--num", 8)
    again = refused("generate", bundle, *HERE, *asked, "--out", bundle.parent / "out")
    shown = run("inspect", bundle)

    for message in (told, again):
        assert f"{name} is " in "".join(message.splitlines())
        assert "Remove it" in message
    assert shown.exit_code == 0
    assert "is not used" in shown.output


def test_a_router_says_which_steps_are_called(bundle: Path, tmp_path: Path) -> None:
    few, all_of_them = [3.0, -5.0, -5.0], [3.0, 3.0, 3.0]
    router = write_router(tmp_path / "router.pt", [*[all_of_them] * 6, *[few] * 6])
    asked = ("forecast", bundle, "--cfg-scale", "2", "--num", "8", *HERE)

    run(*asked, "--steps", 12, "--router", router)

    [forecast] = read_forecasts(open_bundle(bundle))
    assert [one.plan.called for one in forecast.plans] == [(0, 2, 4, 6, 7, 8, 9, 10, 11)]
    assert "is for 12 steps, and 50 were asked for" in refused(*asked, "--router", router)
    both = refused(*asked, "--steps", 12, "--router", router, "--calls", 6)
    assert "The router says which steps are called, and so do `--calls`" in both


@pytest.mark.parametrize(("steps", "calls"), [(12, 12), (4, 2)])
def test_a_router_of_all_calls_or_of_too_few_is_not_said_to_be_mended_by_calls(
    bundle: Path, tmp_path: Path, steps: int, calls: int
) -> None:
    scores = [[3.0] if calls == steps else [-5.0]] * steps
    router = write_router(tmp_path / "router.pt", scores)

    message = refused("forecast", bundle, *HERE, "--steps", steps, "--router", router)

    assert f"calls {calls} of {steps} steps, expected at least 3 and not all" in message
    assert "Name another router" in message
