"""Images that start from latents of a file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bundle_helpers import SHAPE, FakeSession, one_line, some_latent, toy_manifest, write_bundle
from cli_helpers import refused, run
from device_helpers import DEVICES, bundle_with_step, open_on

from pitstop import OptionError
from pitstop.runtime.image import read_parameters
from pitstop.runtime.jobs.start_latents import read_latents
from pitstop.runtime.pipeline import Pipeline
from pitstop.runtime.sampling.noise import START, draw_noise

FEW = ("--steps", 2, "--backend", "onnxruntime")


def saved(path: Path, array: Any) -> Path:
    np.save(path, array)
    return path


def test_the_latents_of_the_seeds_draw_the_images_of_the_seeds() -> None:
    pipeline = Pipeline(toy_manifest(batch=4), FakeSession(), "fp32")
    by_seed = pipeline([0, 1, 2], seeds=[7, 8, 9], steps=4).latents

    by_latents = pipeline(
        [0, 1, 2], seeds=[0, 0, 0], steps=4, latents=draw_noise([7, 8, 9], START, SHAPE)
    ).latents

    assert by_latents.tobytes() == by_seed.tobytes()


@pytest.mark.parametrize("device", DEVICES)
def test_a_device_starts_from_them_too(tmp_path: Path, device: str) -> None:
    bundle = bundle_with_step(tmp_path / "bundle", toy_manifest(batch=4))
    pipeline = Pipeline.of(open_on(device, bundle))
    by_seed, by_latents = (
        pipeline([0, 1, 2], steps=4, **start).latents  # type: ignore[arg-type]
        for start in ({"seeds": [7, 8, 9]}, {"latents": draw_noise([7, 8, 9], START, SHAPE)})
    )
    assert by_latents.tobytes() == by_seed.tobytes()


def test_they_are_scaled_as_diffusers_scales_them() -> None:
    """By the scheduler's ``init_noise_sigma``, which Euler's first noise has too."""
    pipeline = Pipeline(toy_manifest(), FakeSession(), "fp32")
    start = draw_noise([3], START, SHAPE)
    by_seed, by_latents = (
        pipeline([0], steps=9, sampler="euler", spacing="leading", **one).latents
        for one in ({"seeds": [3]}, {"latents": start})
    )
    np.testing.assert_array_equal(by_seed, by_latents)


def test_pytorchs_tensors_are_taken_on_the_cpu() -> None:
    pipeline = Pipeline(toy_manifest(), FakeSession(), "fp32")
    start = draw_noise([3], START, SHAPE)
    found = pipeline([0], steps=2, latents=torch.from_numpy(start)).latents  # type: ignore[arg-type]
    np.testing.assert_array_equal(found, pipeline([0], steps=2, latents=start).latents)


@pytest.mark.parametrize(
    ("latents", "found"),
    [
        (some_latent(3), "The latents are 3 x 1 x 8 x 8 in float32"),
        (some_latent(2)[:, 0], "The latents are 2 x 8 x 8 in float32"),
        (some_latent(2).astype(np.float64), "The latents are 2 x 1 x 8 x 8 in float64"),
        (some_latent(2) * np.float32(np.nan), "numbers that are not finite"),
        (np.float32(1), "The latents are one number in float32"),
        ([[1], [2, 3]], "The latents are no array"),
        ("noise", "The latents are one number in <U5"),
        (torch.zeros(2, *SHAPE, requires_grad=True), "The latents are no array"),
    ],
)
def test_others_are_refused_with_what_is_expected(latents: Any, found: str) -> None:
    pipeline = Pipeline(toy_manifest(), FakeSession(), "fp32")
    with pytest.raises(OptionError) as told:
        pipeline([0, 1], steps=2, latents=latents)
    assert found in one_line(told.value)
    assert "2 x 1 x 8 x 8 in float32" in told.value.remedy


def an_archive(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, a=some_latent(2))


def a_cut_file(path: Path) -> None:
    np.save(path, some_latent(2))
    path.write_bytes(path.read_bytes()[:-40])


def a_cut_archive(path: Path) -> None:
    an_archive(path)
    path.write_bytes(path.read_bytes()[:-40])


def of_a_huge_shape(path: Path) -> None:
    np.save(path, some_latent(2))
    head = path.read_bytes().replace(b"(2, 1, 8, 8), }   ", b"(99999999999999999")
    path.write_bytes(head)


NO_LATENTS: list[tuple[Callable[[Path], object], str]] = [
    (lambda path: None, "is no file"),
    (os.mkfifo, "is no file"),
    (lambda path: path.mkdir(), "is no file"),
    (lambda path: path.write_bytes(b""), "holds no whole array"),
    (lambda path: path.write_text("latents"), "holds no whole array"),
    (a_cut_file, "holds no whole array"),
    (a_cut_archive, "holds several arrays"),
    (of_a_huge_shape, "holds no whole array"),
    (lambda path: np.save(path, np.array([{}])), "holds no whole array"),
    (an_archive, "holds several arrays"),
    (lambda path: np.save(path, np.float32(3)), "The latents are one number"),
    (lambda path: np.save(path, some_latent(2)[:0]), "The latents are 0 x 1 x 8 x 8"),
    (lambda path: np.save(path, some_latent(2) * np.inf), "not finite"),
    (lambda path: np.save(path, some_latent(2).astype(">f4")), "in >f4"),
]


@pytest.mark.parametrize(("write", "found"), NO_LATENTS)
def test_a_file_of_something_else_is_refused(
    tmp_path: Path, write: Callable[[Path], object], found: str
) -> None:
    path = tmp_path / "latents.npy"
    write(path)
    with pytest.raises(OptionError) as told:
        read_latents(path, SHAPE)
    assert found in one_line(told.value)
    assert str(path) in told.value.problem


def test_a_files_axes_may_lie_in_any_order(tmp_path: Path) -> None:
    path = saved(tmp_path / "latents.npy", np.asfortranarray(some_latent(2)))
    np.testing.assert_array_equal(read_latents(path, SHAPE), some_latent(2))


def test_a_folder_goes_on_with_the_same_latents_and_refuses_others(tmp_path: Path) -> None:
    toy = write_bundle(tmp_path / "toy", toy_manifest())
    one, other = (saved(tmp_path / f"{k}.npy", some_latent(2, seed=k)) for k in (0, 1))
    out = tmp_path / "out"

    first = run("generate", toy, "--latents", one, "--out", out, *FEW)
    assert first.exit_code == 0, first.output
    pictures = sorted(out.glob("0*.png"))
    assert len(pictures) == 2  # as many as latents, where no number is said
    pictures[0].unlink()

    again = run("generate", toy, "--latents", one, "--out", out, *FEW)

    assert "1 drawn, 1 kept" in again.output
    assert len(read_parameters(pictures[0])["latent_sha256"]) == 64
    assert "latent_sha256" in refused("generate", toy, "--latents", other, "--out", out, *FEW)
    assert "latent_sha256" in refused("generate", toy, "--num", 2, "--out", out, *FEW)


def test_as_many_latents_as_images_are_needed(tmp_path: Path) -> None:
    toy = write_bundle(tmp_path / "toy", toy_manifest())
    path = saved(tmp_path / "latents.npy", some_latent(2))
    line = refused("generate", toy, "--latents", path, "--num", 3, "--out", tmp_path / "o", *FEW)
    assert "There are 2 latents for 3 images" in line


def test_noise_of_torch_is_in_a_folders_settings(tmp_path: Path) -> None:
    toy, out = write_bundle(tmp_path / "toy", toy_manifest()), tmp_path / "out"
    done = run("generate", toy, "--num", 1, "--noise", "torch", "--out", out, *FEW)
    assert done.exit_code == 0, done.output
    [picture] = out.glob("0*.png")
    assert read_parameters(picture)["noise"] == "torch"
    assert "noise" in refused("generate", toy, "--num", 1, "--out", out, *FEW)
