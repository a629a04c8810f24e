from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from bundle_helpers import one_line, toy_manifest, zero_goldens

from pitstop import BundleError
from pitstop.evaluation.accuracy.same_model import check_same_model, different_field
from pitstop.runtime.bundle import goldens
from pitstop.runtime.bundle.folder import Bundle, open_bundle, write_manifest
from pitstop.runtime.bundle.manifest import Manifest


def bundle(folder: Path, manifest: Manifest, answer: float = 1.0) -> Bundle:
    """A bundle without graphs, which nobody opens here."""
    folder.mkdir()
    known = zero_goldens(manifest)
    predictions = np.full_like(known.predictions, answer)
    goldens.write_goldens(dataclasses.replace(known, predictions=predictions), folder)
    write_manifest(folder, dataclasses.replace(manifest, graphs={}))
    return Bundle(folder, manifest)


def test_bundles_of_one_model_and_another_batch_may_be_compared(tmp_path: Path) -> None:
    batches = [bundle(tmp_path / f"b{rows}", toy_manifest(batch=rows)) for rows in (1, 2, 4)]

    check_same_model(batches)


def test_another_config_is_refused_with_the_field_and_both_values(tmp_path: Path) -> None:
    manifest = toy_manifest()
    wide = dataclasses.replace(manifest.model, config={"arch": "toy", "hidden_size": 64})
    narrow = dataclasses.replace(manifest.model, config={"arch": "toy", "hidden_size": 32})
    bundles = [
        bundle(tmp_path / name, dataclasses.replace(manifest, model=model))
        for name, model in (("a", wide), ("b", narrow))
    ]

    with pytest.raises(BundleError) as caught:
        check_same_model(bundles)

    message = one_line(caught.value)
    assert f"{tmp_path / 'a'} and {tmp_path / 'b'}" in message
    assert "hidden_size is 64 and 32" in message


def test_the_same_config_with_other_weights_is_refused(tmp_path: Path) -> None:
    bundles = [bundle(tmp_path / str(a), toy_manifest(), a) for a in (1.0, 1.5)]

    with pytest.raises(BundleError) as caught:
        check_same_model(bundles)

    assert "different weights" in one_line(caught.value)
    assert "5.0e-01" in one_line(caught.value)


def test_a_config_read_back_from_json_is_the_same() -> None:
    assert different_field({"size": (1, 2), "sub": {"k": (3,)}}, {"size": [1, 2]}) is None
    assert different_field({"size": (1, 3)}, {"size": [1, 2]}) == "size"


def test_an_exported_bundle_is_like_itself(exported: Path) -> None:
    check_same_model([open_bundle(exported)] * 2)
