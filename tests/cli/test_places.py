"""A file that a command writes is none that it reads: refused before anything is drawn."""

from pathlib import Path

import numpy as np
import pytest
from bundle_helpers import toy_manifest, write_bundle
from cli_helpers import refused, run


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_bundle(tmp_path / "toy", toy_manifest())
    (tmp_path / "l.npy").write_bytes(b"precious")
    (tmp_path / "g.png").write_bytes(b"precious")
    (tmp_path / "link").symlink_to("l.npy")
    (tmp_path / "o").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("--json x --npz x", "is both `--npz` and `--json`"),
        ("--npz x --json o/../x", "is both `--npz` and `--json`"),
        ("--out o --latents l.npy --json l.npy", "is both `--latents` and `--json`"),
        ("--out o --latents l.npy --json link", "is both `--latents` and `--json`"),
        ("--overwrite --npz l.npy --latents l.npy", "is both `--latents` and `--npz`"),
        ("--overwrite --npz g.png --init g.png", "is both `--init` and `--npz`"),
        ("--overwrite --npz g.png --init l.npy --mask g.png", "is both `--mask` and `--npz`"),
        ("--overwrite --npz toy/denoiser.fp32.onnx", "lies in the bundle toy"),
        ("--out o --json toy/manifest.json", "lies in the bundle toy"),
        ("--out o --npz o/pitstop-run.json", "is named as a file of `--out` is"),
        ("--out o --npz o/000000-shirt.png", "is named as a file of `--out` is"),
        ("--out o --json o/000000-shirt.json", "is named as a file of `--out` is"),
        ("--out new --npz new", "`--out` is a folder there"),
        ("--out s.npz/x --npz s.npz", "`--out` is a folder there"),
    ],
)
def test_a_file_that_would_be_lost_is_refused(here: Path, asked: str, said: str) -> None:
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}

    line = refused("generate", "toy", "--num", 1, "--steps", 2, *asked.split())

    assert said in line
    assert "Choose another file with `--" in line
    assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before


def test_figures_and_a_file_of_another_name_may_lie_beside_the_images(here: Path) -> None:
    done = run("generate", "toy", "--num", 1, "--steps", 2, "--out", "o", "--npz", "o/all.npz",
               "--json", "o/figures.json")  # fmt: skip

    assert done.exit_code == 0, done.output
    assert np.load("o/all.npz")["arr_0"].shape == (1, 8, 8, 3)


@pytest.mark.parametrize("asked", ["a.npz --json a.npz", "g.png a.npz --json ./a.npz"])
def test_a_set_is_not_written_over_by_its_figures(here: Path, asked: str) -> None:
    np.savez("a.npz", np.zeros((2, 8, 8, 3), np.uint8))
    before = Path("a.npz").read_bytes()

    assert "and `--json`" in refused("evaluate", *asked.split())
    assert Path("a.npz").read_bytes() == before
