from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_helpers import refused, run
from tensorrt_helpers import import_trt

from pitstop import EngineError
from pitstop.calibration.pipeline import calibrate_bundle
from pitstop.calibration.recipe import Recipe
from pitstop.cli.engine_kernels import find_engine, kernels_in
from pitstop.export.pipeline import export_bundle
from pitstop.runtime.bundle.folder import open_bundle

PITSTOP = [sys.executable, "-c", "from pitstop.cli import main; main(prog_name='pitstop')"]
ADA = ("--backend", "tensorrt-rtx", "--compute-capability", "8.9")


@pytest.fixture(autouse=True, scope="module")
def _library() -> None:
    import_trt()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's bundle in three precisions; the ranges are of few trajectories."""
    folder = tmp_path_factory.mktemp("demo") / "fashion.bundle"
    assert export_bundle("fashion", folder, precisions=("fp32", "fp16")).passed
    calibrate_bundle(folder, Recipe(num=2, steps=4))
    return folder


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_demo_is_built_without_a_gpu(demo: Path, tmp_path: Path, precision: str) -> None:
    result = run("build", demo, *ADA, "--precision", precision, "--json", tmp_path / "figures.json")

    assert result.exit_code == 0, result.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert Path(figures["engine"]).stat().st_size == figures["bytes"]
    assert figures["graph"] == f"denoiser.{precision}"
    assert figures["key"] in result.stdout
    assert figures["seconds"] > 0
    assert not figures["kept"]


def test_an_engine_that_is_there_is_kept_unless_something_differs(
    bundle: Path, tmp_path: Path
) -> None:
    keys = []
    for asked, kept in [
        ((), False),
        ((), True),
        (("--force",), False),
        (("--optimization-level", 1), False),
    ]:
        figures = tmp_path / "figures.json"
        assert run("build", bundle, *ADA, *asked, "--json", figures).exit_code == 0
        content = json.loads(figures.read_text())
        keys.append(content["key"])
        assert content["kept"] == kept

    assert len(set(keys)) == 2


def test_inspect_lists_engines_and_why_they_would_not_load_here(
    bundle: Path, tmp_path: Path
) -> None:
    assert run("build", bundle, *ADA).exit_code == 0
    built = run("inspect", bundle, "--json", tmp_path / "figures.json")
    [engine] = [
        engine
        for engine in json.loads((tmp_path / "figures.json").read_text())["engines"]
        if engine["graph"] == "denoiser.fp32"
    ]

    assert engine["key"] in built.stdout
    assert engine["builder"] == "tensorrt-rtx"
    assert engine["compute_capability"] == "8.9"
    (bundle / "engines" / engine["key"] / "engine.plan").write_bytes(b"cut")
    assert "has 3 bytes, but" in " ".join(run("inspect", bundle).stdout.split())
    (bundle / "engines" / engine["key"] / "metadata.json").unlink()
    assert "metadata.json cannot be read" in " ".join(run("inspect", bundle).stdout.split())


def test_calibrating_again_keeps_the_engines_and_does_not_trust_them(
    bundle: Path, tmp_path: Path
) -> None:
    calibrate_bundle(bundle, Recipe(num=2, steps=4))
    assert run("build", bundle, *ADA, "--precision", "int8").exit_code == 0
    calibrate_bundle(bundle, Recipe(num=2, steps=4, seed=1))

    shown = " ".join(run("inspect", bundle).stdout.split())

    assert "would not load here: its graph is" in shown
    assert "its calibration is" in shown


def test_what_does_not_fit_is_one_line(bundle: Path, tmp_path: Path) -> None:
    assert "no builder of engines called 'cuda'" in refused("build", bundle, "--backend", "cuda")
    assert "has no bf16 denoiser" in refused("build", bundle, *ADA, "--precision", "bf16")
    assert "is not a bundle" in refused("build", tmp_path, *ADA)
    assert not (bundle / "engines").exists()


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_build_leaves_nothing_and_releases_its_lock(
    bundle: Path, sent: signal.Signals
) -> None:
    def heed_sigint() -> None:
        os.setsid()
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    build = subprocess.Popen(
        [*PITSTOP, "build", str(bundle), *ADA],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_sigint,
    )
    while not list(bundle.glob("engines/.*.partial")):
        assert build.poll() is None
        time.sleep(0.01)

    os.killpg(build.pid, sent)  # as a terminal does: the builder's process gets it too
    _, stderr = build.communicate()

    assert build.returncode != 0
    assert "Traceback" not in stderr
    assert list((bundle / "engines").iterdir()) == []
    assert run("build", bundle, *ADA).exit_code == 0


def test_the_kernels_of_an_engine_are_listed_above_an_estimate_for_its_cards(
    bundle: Path, tmp_path: Path
) -> None:
    run("build", bundle, *ADA, "--precision", "fp16", "--json", tmp_path / "figures.json")
    key = json.loads((tmp_path / "figures.json").read_text())["key"]

    shown = run("inspect", bundle, "--engine", key[:6], "--json", tmp_path / "kernels.json")

    assert shown.exit_code == 0, shown.output
    figures = json.loads((tmp_path / "kernels.json").read_text())
    kernels = figures["kernels"]
    assert "blocks.1" in shown.stdout
    assert f"{len(kernels)} kernels, " in shown.stdout
    assert "not measured" in " ".join(shown.stdout.split())
    assert {kernel["block"] for kernel in kernels} == {"", "blocks.0", "blocks.1"}

    floors = {floor["device"]: floor for floor in figures["floors"]}
    assert floors.keys() == {"NVIDIA GeForce RTX 4060", "NVIDIA GeForce RTX 4090"}
    for name, floor in floors.items():
        assert name in shown.stdout
        assert sum(floor["bound"].values()) == len(kernels)
        assert floor["estimated_ms"] >= 0.003 * len(kernels)
    assert "an assumed 3 us a kernel (6 on a Jetson); not measured" in " ".join(
        shown.stdout.split()
    )


def test_kernels_that_cannot_be_listed_are_one_line(bundle: Path, tmp_path: Path) -> None:
    assert "has 0 engines whose key begins with 'ab'. Build one" in refused(
        "inspect", bundle, "--engine", "ab"
    )
    assert "is no bundle" in refused("inspect", "pit-s-2", "--engine", "ab")

    run("build", bundle, *ADA, "--json", tmp_path / "figures.json")
    key = json.loads((tmp_path / "figures.json").read_text())["key"]
    layers = bundle / "engines" / key / "layers.txt"
    assert "2 engines whose key begins with ''. Choose one of: " in refused(
        "inspect", bundle, "--engine", ""
    )
    listed = layers.read_text(encoding="utf-8")
    layers.write_text(re.sub(r"Dimensions: \[\d+", "Dimensions: [" + 400 * "9", listed, count=1))
    assert "has a side that no tensor has. Build it again" in refused(
        "inspect", bundle, "--engine", key
    )
    engine = find_engine(open_bundle(bundle), key)
    older = dataclasses.replace(engine.key, graph_sha256="0" * 64)
    with pytest.raises(EngineError, match="was built of another denoiser"):
        kernels_in(open_bundle(bundle), dataclasses.replace(engine, key=older))
    layers.write_text("Kernels: 3")
    assert "cannot be read: the list of kernels does not begin" in refused(
        "inspect", bundle, "--engine", key
    )
    layers.unlink()
    assert "has no list of its kernels. Build it again" in refused(
        "inspect", bundle, "--engine", key
    )
