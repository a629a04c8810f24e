"""What ONNX Runtime leaves behind on a machine (nothing), and how it is set up."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from bundle_helpers import toy_manifest, write_bundle
from onnxruntime import GraphOptimizationLevel

from pitstop.runtime.backend import SessionOptions
from pitstop.runtime.backends.onnxruntime import _session_options
from pitstop.runtime.machine import cpu

TESTS = Path(__file__).parents[2]
WATCH = """
import sys
from pathlib import Path
from pitstop.runtime.pipeline import Pipeline

Pipeline.from_bundle(Path(sys.argv[1]), backend="onnxruntime")([0], steps=2, cfg_scale=1.0)
"""


def test_nothing_is_printed_or_left_in_the_home_and_temporary_folders(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "toy", toy_manifest())
    places = {name: tmp_path / name for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME")}
    for place in places.values():
        place.mkdir()
    # It is quiet in a pipeline of CI, and where somebody has said so.
    left_out = {"CI", "ORT_DISABLE_TELEMETRY"}
    kept = {name: value for name, value in os.environ.items() if name not in left_out}

    done = subprocess.run(
        [sys.executable, "-c", WATCH, str(bundle)],
        env={**kept, **{name: str(place) for name, place in places.items()}},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [path for place in places.values() for path in place.rglob("*")] == []


@pytest.mark.parametrize(
    ("features", "exact_int8", "fuses"),
    [
        ("avx2", True, False),
        ("avx2", False, True),
        ("avx2 avx512_vnni", True, True),
    ],
)
def test_int8_that_must_be_exact_is_not_fused_where_the_cpu_cuts_its_sums_off(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    features: str,
    exact_int8: bool,
    fuses: bool,
) -> None:
    told = tmp_path / "cpuinfo"
    told.write_text(f"flags : {features}")
    monkeypatch.setattr(cpu, "CPUINFO", told)

    settings = _session_options(SessionOptions(exact_int8=exact_int8))

    levels = GraphOptimizationLevel
    wanted = levels.ORT_ENABLE_ALL if fuses else levels.ORT_ENABLE_BASIC
    assert settings.graph_optimization_level == wanted
