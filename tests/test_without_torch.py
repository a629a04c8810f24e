"""What a device runs, in fresh interpreters where PyTorch and ONNX cannot be imported.

A calibration needs ONNX to write a graph, but nothing of what made the bundle.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from bundle_helpers import toy_manifest, with_decoder, write_bundle
from cli_helpers import without_stages
from PIL import Image

EXPORT = ["torch", "onnxscript", "onnxsim", "safetensors", "diffusers", "scipy"]
HEAVY = [*EXPORT, "onnx", "onnx_ir"]
RUN = """
import sys
sys.modules.update(dict.fromkeys({banned}))
from pitstop.cli import main
main(sys.argv[1:], prog_name="pitstop")
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("device") / "bundle", toy_manifest(split=True))


def pitstop(*arguments: object, banned: Sequence[str] = HEAVY) -> subprocess.CompletedProcess[str]:
    asked = [sys.executable, "-c", RUN.format(banned=[*banned]), *map(str, arguments)]
    return subprocess.run(asked, capture_output=True, text=True, check=False)


def test_generate_draws_images(bundle: Path, tmp_path: Path) -> None:
    done = pitstop(
        "generate", bundle, "--label", "shoe", "--num", 3, "--steps", 4, "--out", tmp_path
    )

    assert done.returncode == 0, done.stderr
    pictures = [f"00000{seed}-shoe.png" for seed in range(3)]
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [*pictures, "grid.png", "pitstop-run.json"]


def test_generate_decodes_latents(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle", with_decoder(toy_manifest(), tile=5))

    done = pitstop("generate", bundle, "--label", "shoe", "--steps", 4, "--out", tmp_path / "out")

    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "out" / "000000-shoe.png") as picture:
        assert picture.size == (16, 16)


def test_compare_judges_by_the_goldens(bundle: Path, tmp_path: Path) -> None:
    done = pitstop("compare", bundle, "--json", tmp_path / "figures.json")

    assert done.returncode == 1, done.stderr  # the toy's goldens are zeros: it must not pass
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert (figures["passed"], figures["images"], figures["steps"]) == (False, 2, 4)
    assert "FAILED" in done.stdout


def test_compare_writes_a_page_with_what_the_goldens_show(bundle: Path, tmp_path: Path) -> None:
    done = pitstop("compare", bundle, "--report", tmp_path / "page.html")

    assert done.returncode == 1, done.stderr
    page = (tmp_path / "page.html").read_text()
    assert "failed against PyTorch</title>" in page
    assert "SSIM: scikit-image is not installed" in page  # it stands on scipy
    assert "it runs with <code>--checkpoint</code>" in page


def test_bench_times_the_bundle_and_says_what_it_lacks(bundle: Path, tmp_path: Path) -> None:
    done = pitstop("bench", bundle, "--steps", 2, "--rounds", 1, "--json", tmp_path / "f.json")

    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "f.json").read_text())
    assert figures["rows"][0]["ms_per_call_median"] > 0
    assert "The package torch is not installed" in figures["not_measured"][0]


def test_inspect_tells_what_a_bundle_holds(bundle: Path) -> None:
    done = pitstop("inspect", bundle)

    assert done.returncode == 0, done.stderr
    assert "conditioner" in done.stdout
    assert "modulation float32 [2, 2, 1]" in done.stdout


@pytest.mark.parametrize("method", ["mse", pytest.param("entropy", marks=pytest.mark.slow)])
def test_calibrate_adds_an_int8_denoiser(tiny_bundle: Path, tmp_path: Path, method: str) -> None:
    calibrated = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    banned = [*EXPORT, "pitstop.models", "pitstop.export", "pitstop.evaluation"]

    done = pitstop("calibrate", calibrated, "--num", 1, "--steps", 4, "--smooth", "--budget", 1,
                   "--method", method, banned=banned)  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert (calibrated / "graphs" / "denoiser.int8.onnx").exists()


def test_doctor_says_that_the_backend_works() -> None:
    done = pitstop("doctor")

    assert done.returncode == 0, done.stderr
    assert "backend onnxruntime works" in " ".join(done.stdout.split())


def test_a_command_that_needs_torch_names_the_extra(tmp_path: Path) -> None:
    done = pitstop("export", "fashion", "--out", tmp_path / "bundle")

    assert done.returncode == 2
    [line] = without_stages(done.stderr)
    assert line.startswith("pitstop: ")
    assert "pip install 'pitstop[export]'" in line


def test_importing_the_runtime_loads_nothing_heavy() -> None:
    code = "import sys, pitstop.runtime; print(*sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert "pitstop" in loaded
    assert loaded.isdisjoint({*HEAVY, "onnxruntime", "numpy", "PIL"})
