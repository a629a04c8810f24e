"""Runs that begin with an image on a device's loop; those with a mask go through the host, said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bundle_helpers import SHAPE, toy_manifest
from device_helpers import DEVICES, bundle_with_step, open_on

from pitstop.runtime.distance import relative_l2
from pitstop.runtime.jobs import draw_images
from pitstop.runtime.jobs.plan import plan_images
from pitstop.runtime.pipeline import Pipeline
from pitstop.runtime.sampling.init import Init
from pitstop.runtime.sampling.noise import START, draw_noise
from pitstop.runtime.sampling.settings import Settings

IMAGE = draw_noise([9], START, SHAPE)[0]
MASK = np.eye(8, dtype=np.float32)
TOLERANCE = 2e-6  # as of whole runs


def pipelines(device: str, folder: Path) -> tuple[Pipeline, Pipeline]:
    bundle = bundle_with_step(folder / "bundle", toy_manifest(batch=4))
    return Pipeline.of(open_on(device, bundle)), Pipeline.from_bundle(
        folder / "bundle", backend="onnxruntime"
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpmpp_2m", "unipc_3"])
@pytest.mark.parametrize("calls", [None, 4])
def test_a_device_begins_with_an_image_as_the_host_does(
    tmp_path: Path, device: str, sampler: str, calls: int | None
) -> None:
    keeping, fetching = pipelines(device, tmp_path)
    settings = Settings(12, sampler, cfg_scale=2.0, calls=calls)
    told, init = keeping.manifest.examples(2), Init(IMAGE, 0.6)
    requests = keeping.requests(told, [1, 2], settings, init=init)
    assert keeping.loop.why_not(requests) is None

    found, wanted = (
        pipeline.draw(told, [1, 2], settings, init=init) for pipeline in (keeping, fetching)
    )

    assert relative_l2(wanted, found) <= TOLERANCE


@pytest.mark.parametrize("device", DEVICES)
def test_a_mask_is_drawn_through_the_host_and_the_run_says_why(tmp_path: Path, device: str) -> None:
    keeping, fetching = pipelines(device, tmp_path)
    settings, init = Settings(6, cfg_scale=2.0), Init(IMAGE, 1.0, MASK)
    plan = plan_images(keeping.manifest, [0], 2, 0)

    done = draw_images(keeping, plan, settings, tmp_path / "out", init=init)

    assert "a mask keeps a part of the image at every step" in done.why_on_host
    told = keeping.manifest.examples(2)
    found, wanted = (
        pipeline.draw(told, [1, 2], settings, init=init) for pipeline in (keeping, fetching)
    )
    np.testing.assert_array_equal(wanted, found)
