from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bundle_helpers import DRIFT, GAINS, NULL_CLASS, some_latent, toy_manifest, write_bundle
from calibration_helpers import ONE_THREAD

from pitstop.calibration.sets.calibration_set import CalibrationSet
from pitstop.calibration.sets.feeds import feed
from pitstop.runtime.bundle.folder import Bundle, open_bundle
from pitstop.runtime.sampling.settings import Settings

TIMESTEPS = [999, 700, 400, 100, 0]
LABELS = [0, NULL_CLASS, 1, 2, 0]


def bundle(folder: Path, *, batch: int, split: bool) -> Bundle:
    return open_bundle(write_bundle(folder / "bundle", toy_manifest(batch=batch, split=split)))


def some_set() -> CalibrationSet:
    return CalibrationSet(
        some_latent(5), np.array(TIMESTEPS), {"label": np.array(LABELS)}, {}, Settings(5), seed=0
    )


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("batch", [1, 2, 3, 8])
def test_every_row_is_fed_once_in_order_and_the_last_call_is_filled_up(
    tmp_path: Path, batch: int, split: bool
) -> None:
    drawn = some_set()

    batches = list(feed(bundle(tmp_path, batch=batch, split=split), drawn, ONE_THREAD))

    assert [row for one in batches for row in one.rows] == [0, 1, 2, 3, 4]
    for one in batches:
        assert {len(array) for array in one.feeds.values()} == {batch}
        known = one.feeds["latent"][: len(one.rows)]
        np.testing.assert_array_equal(known, drawn.latents[list(one.rows)])


def test_a_whole_denoiser_is_fed_timesteps_and_labels(tmp_path: Path) -> None:
    batches = feed(bundle(tmp_path, batch=2, split=False), some_set(), ONE_THREAD)

    fed = [one.feeds for one in batches]
    assert [one["timestep"].tolist() for one in fed] == [[999, 700], [400, 100], [0, 0]]
    assert [one["label"].tolist() for one in fed] == [[0, NULL_CLASS], [1, 2], [0, 0]]


def test_a_split_denoiser_is_fed_the_modulations_of_its_conditioner(tmp_path: Path) -> None:
    batches = list(feed(bundle(tmp_path, batch=2, split=True), some_set(), ONE_THREAD))

    modulation = np.concatenate([one.feeds["modulation"] for one in batches])[:5, :, 0]
    expected = np.stack([np.array(GAINS)[LABELS], DRIFT * np.array(TIMESTEPS)], axis=1)
    np.testing.assert_allclose(modulation, expected, rtol=1e-6)
