"""A bundle's files are hashed when they are opened, and once."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from bundle_helpers import one_line, toy_manifest, write_bundle

from pitstop import BundleError
from pitstop.runtime.bundle import folder as folder_file
from pitstop.runtime.bundle.folder import Bundle, open_bundle, sha256
from pitstop.runtime.pipeline import Pipeline


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "toy", toy_manifest(split=True))


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were hashed, in order."""
    names: list[str] = []

    def told(path: Path) -> str:
        names.append(path.name)
        return sha256(path)

    monkeypatch.setattr(folder_file, "sha256", told)
    return names


def draw(toy: Path) -> Pipeline:
    pipeline = Pipeline.from_bundle(toy, backend="onnxruntime")
    for seed in (0, 1):
        pipeline([0], seeds=[seed], steps=2, cfg_scale=1.0)
    return pipeline


def test_drawing_hashes_what_it_opens_and_each_once(toy: Path, hashed: list[str]) -> None:
    draw(toy)

    manifest = open_bundle(toy, every_file=False).manifest
    graphs = ("denoiser.fp32", "conditioner")
    assert sorted(hashed) == sorted(Path(manifest.graphs[name].path).name for name in graphs)
    assert len(manifest.files) > len(hashed)


def test_opening_a_bundle_hashes_every_file_and_none_again(toy: Path, hashed: list[str]) -> None:
    bundle = open_bundle(toy)
    for name in bundle.manifest.files:
        bundle.path(name)

    assert sorted(hashed) == sorted(Path(name).name for name in bundle.manifest.files)


@pytest.mark.parametrize("graph", ["denoiser.fp32", "conditioner"])
def test_a_graph_that_has_changed_is_told_as_it_is_opened(toy: Path, graph: str) -> None:
    path = toy / open_bundle(toy).manifest.graphs[graph].path
    flip_last_byte(path)

    with pytest.raises(BundleError, match="has changed: its sha256 is") as told:
        draw(toy)
    assert str(path) in one_line(told.value)


def test_weights_beside_a_graph_are_checked_with_it(tmp_path: Path) -> None:
    names = ("big.onnx", "big.onnx.data")
    for name in names:
        (tmp_path / name).write_text(name)
    files = {name: sha256(tmp_path / name) for name in names}
    manifest = dataclasses.replace(toy_manifest(), files=files)
    (tmp_path / "big.onnx.data").write_text("other weights")

    with pytest.raises(BundleError, match=r"big\.onnx\.data has changed"):
        Bundle(tmp_path, manifest, set(names)).path("big.onnx")


def test_a_file_that_was_refused_once_is_refused_again(toy: Path) -> None:
    flip_last_byte(toy / "goldens.npz")
    bundle = open_bundle(toy, every_file=False)

    for _ in range(2):
        with pytest.raises(BundleError, match="has changed"):
            bundle.path("goldens.npz")


def test_what_nobody_opens_is_not_looked_at_but_by_who_checks_all(toy: Path) -> None:
    flip_last_byte(toy / "goldens.npz")

    draw(toy)

    with pytest.raises(BundleError, match=r"goldens\.npz has changed"):
        open_bundle(toy)


def test_what_nobody_opens_must_be_there(toy: Path) -> None:
    (toy / "goldens.npz").unlink()

    with pytest.raises(BundleError, match=r"goldens\.npz is missing"):
        draw(toy)


def flip_last_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
