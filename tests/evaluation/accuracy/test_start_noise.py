from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from bundle_helpers import FakeSession, toy_manifest

from pitstop.evaluation.accuracy.start_noise import why_other_noise
from pitstop.export.goldens import draw_goldens
from pitstop.runtime.bundle.goldens import Goldens
from pitstop.runtime.pipeline import Pipeline
from pitstop.runtime.sampling.noise import NUMPY, PORTABLE
from pitstop.runtime.sampling.settings import Settings

MANIFEST = toy_manifest(batch=4)


@pytest.fixture(params=[1, 8])
def goldens(request: pytest.FixtureRequest) -> Goldens:
    """Of one image, as older exports drew them, or of more images than a call has rows."""
    reference = Pipeline(MANIFEST, FakeSession(), "fp32")
    return draw_goldens(reference, Settings(steps=6, cfg_scale=2.0), request.param)


def test_the_noise_of_this_machine_is_the_goldens(goldens: Goldens) -> None:
    assert why_other_noise(goldens, MANIFEST) is None


@pytest.mark.parametrize(("rule", "same"), [(NUMPY, True), (PORTABLE, False)])
def test_the_last_bit_is_another_c_librarys_where_that_is_asked(rule: str, same: bool) -> None:
    manifest = dataclasses.replace(MANIFEST, noise=rule)
    reference = Pipeline(manifest, FakeSession(), "fp32")
    drawn = draw_goldens(reference, Settings(steps=6, cfg_scale=2.0), 2)
    assert why_other_noise(drawn, manifest) is None

    rounded = np.nextafter(drawn.latents, np.float32(np.inf))
    said = why_other_noise(dataclasses.replace(drawn, latents=rounded), manifest)

    assert (said is None) is same


@pytest.mark.parametrize("value", [2e-6, np.nan])
def test_other_noise_is_told_with_its_seed(goldens: Goldens, value: float) -> None:
    latents = goldens.latents.copy()
    latents[0, 0, 0, 3, 3] += np.float32(value)

    said = why_other_noise(dataclasses.replace(goldens, latents=latents), MANIFEST)

    assert said is not None
    assert said.startswith("seed 0 gives other start noise here than in the goldens")
    assert "`--checkpoint`" in said
