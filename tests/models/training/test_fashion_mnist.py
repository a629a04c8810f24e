from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from idx_helpers import write_part

from pitstop import CheckpointError
from pitstop.models.training.fashion_mnist import read_test, read_train


def test_images_are_read_in_their_range_and_padded_with_background(tmp_path: Path) -> None:
    pixels = np.zeros((3, 28, 28))
    pixels[1, 0, 0], pixels[1, 27, 5] = 255, 51
    write_part(tmp_path, "train", pixels, np.array([4, 0, 9]))

    found = read_train(tmp_path)

    assert found.images.shape == (3, 1, 32, 32)
    assert found.images.dtype == torch.float32
    assert found.images[1, 0, 2, 2] == 1.0
    assert found.images[1, 0, 29, 7].item() == pytest.approx(-0.6)
    assert (found.images[0] == -1).all()
    assert (found.images[1, 0, :2] == -1).all()
    assert found.labels.tolist() == [4, 0, 9]
    assert found.labels.dtype == torch.int64


def test_the_test_set_is_another_part(tmp_path: Path) -> None:
    write_part(tmp_path, "train", np.zeros((1, 28, 28)), np.array([1]))
    write_part(tmp_path, "t10k", np.full((2, 28, 28), 255), np.array([2, 3]))
    assert read_test(tmp_path).labels.tolist() == [2, 3]
    assert read_test(tmp_path).images.max() == 1.0


def test_a_missing_data_set_names_the_package_that_has_it(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as raised:
        read_train(tmp_path)
    assert f"There is no Fashion-MNIST at {tmp_path}" in str(raised.value)
    assert "Install the Debian package dataset-fashion-mnist" in str(raised.value)
    assert "`--data`" in str(raised.value)
