"""Tests for machines with CUDA: `make test-gpu`. Elsewhere none of them is collected."""

import pytest

from pitstop.runtime.bundle.folder import Bundle, open_bundle
from pitstop.runtime.machine.driver import why_no_gpu

collect_ignore_glob = ["test_*.py"] if why_no_gpu() else []


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The shipped model in fp32 and fp16."""
    from pitstop.export.pipeline import export_bundle

    folder = tmp_path_factory.mktemp("demo") / "fashion.bundle"
    assert export_bundle("fashion", folder, precisions=("fp32", "fp16")).passed
    return open_bundle(folder)
