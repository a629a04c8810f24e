"""Runs whose latents stay where the graphs run, on ONNX Runtime's memory of the CPU."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from bundle_helpers import toy_manifest, write_bundle

from pitstop import NonFiniteError
from pitstop.export.step_graph import step_graph
from pitstop.graphs.graph_file import write_graph
from pitstop.runtime.backend import Session
from pitstop.runtime.bundle.folder import Bundle
from pitstop.runtime.bundle.manifest import CONDITIONER, STEP, Manifest
from pitstop.runtime.devices.onnx_device import DeviceOnnxSession
from pitstop.runtime.distance import relative_l2
from pitstop.runtime.pipeline import Pipeline
from pitstop.runtime.sampling.conditioning import ConditionedSession
from pitstop.runtime.sampling.device_run import open_loop

TOLERANCE = 2e-6  # relative L2 of the last latent: each step promises 1e-6


def open_here(path: Path) -> Any:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def bundle_with_step(folder: Path, manifest: Manifest) -> Bundle:
    write_bundle(folder, manifest)
    step = write_graph(step_graph(manifest), folder, STEP)
    return Bundle(folder, dataclasses.replace(manifest, graphs={**manifest.graphs, STEP: step}))


def device_session(bundle: Bundle) -> Session:
    """The denoiser on static addresses, as it is opened for a GPU."""
    graphs = bundle.manifest.graphs
    denoiser = DeviceOnnxSession(
        open_here(bundle.path(graphs["denoiser.fp32"].path)),
        graphs["denoiser.fp32"],
        "cpu",
        lambda opened, step: open_here(opened.path(step.path)),
    )
    spec = graphs.get(CONDITIONER)
    if spec is None:
        return denoiser

    def open_conditioner() -> Session:
        return DeviceOnnxSession(open_here(bundle.path(spec.path)), spec, "cpu", pytest.fail)

    return ConditionedSession(open_conditioner, spec, denoiser)


def pipelines(folder: Path, manifest: Manifest) -> tuple[Pipeline, Pipeline]:
    """One that keeps the latents where the graphs run, and one that fetches them every step."""
    bundle = bundle_with_step(folder / "bundle", manifest)
    session = device_session(bundle)
    loop = open_loop(bundle, session)
    assert loop is not None
    fetching = Pipeline.from_bundle(folder / "bundle", backend="onnxruntime")
    return Pipeline(bundle.manifest, session, "fp32", loop=loop), fetching


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpmpp_2m"])
@pytest.mark.parametrize("cfg_scale", [1.0, 3.0])
def test_a_resident_run_draws_what_the_other_draws(
    tmp_path: Path, split: bool, sampler: str, cfg_scale: float
) -> None:
    keeping, fetching = pipelines(tmp_path, toy_manifest(batch=4, split=split))

    found, wanted = (
        pipeline([0, 2, 1], seeds=[5, 6, 7], steps=9, sampler=sampler, cfg_scale=cfg_scale).latents
        for pipeline in (keeping, fetching)
    )

    assert relative_l2(wanted, found) <= TOLERANCE


def test_every_step_is_told(tmp_path: Path) -> None:
    keeping, _ = pipelines(tmp_path, toy_manifest(batch=4))
    told: list[int] = []

    keeping([0, 2, 1], steps=5, on_step=told.append)

    assert told == [2] * 5 + [1] * 5


def test_the_same_run_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    keeping, _ = pipelines(tmp_path, toy_manifest(batch=4, split=True))

    first, between, second = (
        keeping([0, 1], seeds=seeds, steps=4, sampler="dpmpp_2m").latents.tobytes()
        for seeds in ([1, 2], [3, 4], [1, 2])
    )

    assert first == second != between


def test_rows_for_more_than_one_call_go_through_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeping, fetching = pipelines(tmp_path, toy_manifest(batch=1))
    monkeypatch.setattr(keeping.loop, "sample", pytest.fail)

    found, wanted = (pipeline([0], steps=3).latents for pipeline in (keeping, fetching))

    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_a_run_that_leaves_the_finite_numbers_names_the_step(tmp_path: Path) -> None:
    keeping, _ = pipelines(tmp_path, toy_manifest(batch=4))

    with pytest.raises(NonFiniteError, match="Step 1 of 3"):
        keeping([0], steps=3, cfg_scale=3e38)


def test_a_bundle_without_a_step_has_no_loop(tmp_path: Path) -> None:
    manifest = toy_manifest(batch=4)
    bundle = Bundle(write_bundle(tmp_path / "bundle", manifest), manifest)

    assert open_loop(bundle, device_session(bundle)) is None


def test_a_session_that_cannot_keep_latents_has_no_loop(tmp_path: Path) -> None:
    bundle = bundle_with_step(tmp_path / "bundle", toy_manifest(batch=4))
    fetching = Pipeline.from_bundle(tmp_path / "bundle", backend="onnxruntime")

    assert open_loop(bundle, fetching.session) is None


def test_static_addresses_answer_as_fresh_ones(tmp_path: Path) -> None:
    bundle = bundle_with_step(tmp_path / "bundle", toy_manifest(batch=2))
    fetching = Pipeline.from_bundle(tmp_path / "bundle", backend="onnxruntime")
    feeds = {
        "latent": np.ones((2, 1, 8, 8), dtype=np.float64)[..., ::-1],
        "timestep": np.array([500, 500]),
        "label": np.array([0, 3], dtype=np.int32),
    }

    session = device_session(bundle)
    found = session.run(feeds)["prediction"]
    kept = found.copy()
    session.run({**feeds, "timestep": np.array([1, 1])})

    np.testing.assert_array_equal(found, kept)
    np.testing.assert_array_equal(found, fetching.session.run(feeds)["prediction"])
