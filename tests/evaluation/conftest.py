"""A tiny PiT and its bundle in fp32 and fp16, exported once for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from checkpoint_helpers import tiny_checkpoint

from pitstop.export.pipeline import export_bundle


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors")


@pytest.fixture(scope="session")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tests must not change it."""
    folder = tmp_path_factory.mktemp("exported") / "tiny.bundle"
    assert export_bundle(str(checkpoint), folder, batch=4, precisions=("fp32", "fp16")).passed
    return folder
