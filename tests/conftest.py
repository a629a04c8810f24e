"""Hypothesis without a deadline: a busy machine must not fail a test; and one exported bundle."""

from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("pitstop", deadline=None)
settings.load_profile("pitstop")


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PiT of two blocks in fp32 and fp16, exported once for all tests: they must copy it."""
    from checkpoint_helpers import tiny_checkpoint

    from pitstop.export.pipeline import export_bundle

    folder = tmp_path_factory.mktemp("tiny")
    checkpoint = tiny_checkpoint(folder / "tiny.safetensors")
    report = export_bundle(str(checkpoint), folder / "bundle", precisions=("fp32", "fp16"))
    assert report.passed
    return folder / "bundle"
