"""A run into one .npz: whole or not there, the same bytes however it was stopped."""

import dataclasses
import hashlib
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bundle_helpers import FakeSession, toy_manifest, write_bundle
from cli_helpers import refused, run
from PIL import Image

from pitstop import OptionError
from pitstop.runtime.jobs import RunReport, draw_images
from pitstop.runtime.jobs.draw_npz import _told, draw_npz
from pitstop.runtime.jobs.npz_file import read_npz_parameters
from pitstop.runtime.jobs.plan import plan_images
from pitstop.runtime.pipeline import Pipeline
from pitstop.runtime.sampling.noise import START, draw_noise
from pitstop.runtime.sampling.settings import Settings
from pitstop.runtime.stage import Moved

SETTINGS = Settings(steps=3, cfg_scale=2.0)


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    return Pipeline.from_bundle(write_bundle(tmp_path / "bundle", toy_manifest(batch=4)))


def draw(pipeline: Pipeline, npz: Path, num: int = 5, **how: object) -> RunReport:
    plan = plan_images(pipeline.manifest, ["bag", 0], num, 7)
    return draw_npz(pipeline, plan, how.pop("settings", SETTINGS), npz=npz, **how)


def stop_after(count: int, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """Let Ctrl-C come at the call of a number."""
    import pitstop.runtime.jobs as jobs
    from pitstop.runtime.jobs import npz_file

    module = {"save_png": jobs, "_pixels": npz_file}[where]
    called, left = getattr(module, where), [count]

    def call(*arguments: object) -> object:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return called(*arguments)

    monkeypatch.setattr(module, where, call)


def test_the_file_holds_the_images_of_a_folder_in_the_order_of_the_labels(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    done = draw(pipeline, tmp_path / "a.npz", out=tmp_path / "out")

    names = [f"{7 + k:06d}-{('bag', 'shirt')[k % 2]}.png" for k in range(5)]
    assert (done.drawn, done.npz) == (5, tmp_path / "a.npz")
    assert sorted(path.name for path in (tmp_path / "out").glob("0*")) == names

    expected = np.stack([
        np.asarray(Image.open(tmp_path / "out" / n).convert("RGB")) for n in names
    ])
    np.testing.assert_array_equal(np.load(tmp_path / "a.npz")["arr_0"], expected, strict=True)


def test_without_a_folder_the_file_is_all_that_is_left(pipeline: Pipeline, tmp_path: Path) -> None:
    done = draw(pipeline, tmp_path / "a.npz")
    draw(pipeline, tmp_path / "b.npz", out=tmp_path / "out")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "b.npz", "bundle", "out"]
    assert done.grid is None
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@pytest.mark.parametrize("where", ["save_png", "_pixels"])
def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    with monkeypatch.context() as patch:
        stop_after(2, patch, where)
        with pytest.raises(KeyboardInterrupt):
            draw(pipeline, tmp_path / "a.npz")
    left = sorted(path.name for path in tmp_path.iterdir())

    done = draw(pipeline, tmp_path / "a.npz")

    draw(pipeline, tmp_path / "whole.npz")
    assert left == ["a.npz.images", "bundle"]
    assert done.kept == (2 if where == "save_png" else 5)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()
    assert not (tmp_path / "a.npz.images").exists()


def test_a_file_of_the_same_images_is_kept_and_one_of_others_refused(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    draw(pipeline, tmp_path / "a.npz")
    before = (tmp_path / "a.npz").stat().st_ino

    again = draw(pipeline, tmp_path / "a.npz")

    assert (again.drawn, again.kept) == (0, 5)
    assert (tmp_path / "a.npz").stat().st_ino == before
    other = dataclasses.replace(SETTINGS, steps=4)
    with pytest.raises(OptionError, match=r"drawn with steps 3, this run has steps 4.*--npz"):
        draw(pipeline, tmp_path / "a.npz", settings=other)
    with pytest.raises(OptionError, match=r"drawn with images 5, this run has images 6"):
        draw(pipeline, tmp_path / "a.npz", 6)
    done = draw(pipeline, tmp_path / "a.npz", settings=other, overwrite=True)
    assert done.drawn == 5


def test_a_stopped_overwrite_goes_on_once_the_old_file_is_removed(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    npz = tmp_path / "a.npz"
    draw(pipeline, npz)
    others = dataclasses.replace(SETTINGS, steps=4)
    with pytest.MonkeyPatch.context() as monkeypatch:
        stop_after(2, monkeypatch, "save_png")
        with pytest.raises(KeyboardInterrupt):
            draw(pipeline, npz, settings=others, overwrite=True)
    with pytest.raises(OptionError, match="remove this one"):
        draw(pipeline, npz, settings=others)
    npz.unlink()

    done = draw(pipeline, npz, settings=others)

    assert (done.drawn, done.kept) == (3, 2)


def test_a_file_of_somebody_elses_is_not_written_over(pipeline: Pipeline, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", np.zeros(3))

    with pytest.raises(OptionError, match=r"does not say what drew it.*--overwrite"):
        draw(pipeline, tmp_path / "a.npz")


def test_what_others_put_into_the_folder_beside_the_file_stays(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    (tmp_path / "a.npz.images").mkdir()
    (tmp_path / "a.npz.images" / "notes.txt").write_text("mine")

    draw(pipeline, tmp_path / "a.npz")

    assert [path.name for path in (tmp_path / "a.npz.images").iterdir()] == ["notes.txt"]


def test_latents_without_a_decoder_are_refused_before_anything_is_drawn(tmp_path: Path) -> None:
    manifest = dataclasses.replace(toy_manifest(), latent_space="vae")

    with pytest.raises(OptionError, match=r"no decoder.*--vae DIR"):
        draw(Pipeline(manifest, FakeSession(), "fp32"), tmp_path / "a.npz")

    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_images_becomes_a_file_without_drawing(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    plan = plan_images(pipeline.manifest, ["bag", 0], 5, 7)
    draw_images(pipeline, plan, SETTINGS, tmp_path / "out")

    done = draw(pipeline, tmp_path / "a.npz", out=tmp_path / "out")

    assert (done.drawn, done.kept) == (0, 5)
    assert np.load(tmp_path / "a.npz")["arr_0"].shape == (5, 8, 8, 3)


def test_the_command_writes_a_file_and_asks_for_a_place(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle", toy_manifest())
    asked = ("generate", bundle, "--steps", 2, "--num", 3, "--backend", "onnxruntime")

    done = run(*asked, "--npz", tmp_path / "a.npz", "--json", tmp_path / "a.json")
    nowhere = run(*asked)

    assert done.exit_code == 0, done.output
    assert "a.npz" in done.stdout
    assert '"npz"' in (tmp_path / "a.json").read_text()
    assert np.load(tmp_path / "a.npz")["arr_0"].dtype == np.uint8
    assert nowhere.exit_code == 2
    assert "--out FOLDER or --npz FILE" in nowhere.stderr
    assert "--npz" in refused(*asked, "--npz", tmp_path / "none" / "a.npz")
    assert "seed" in refused(*asked, "--npz", tmp_path / "b.npz", "--seed", -1)


def test_a_file_keeps_the_hash_of_all_that_its_images_start_from(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    latents = draw_noise(range(3), START, pipeline.manifest.latent_shape)
    plan = plan_images(pipeline.manifest, [0], None, 7, latents)

    draw_npz(pipeline, plan, SETTINGS, npz=tmp_path / "a.npz")

    told = read_npz_parameters(tmp_path / "a.npz")
    assert told is not None
    assert told["latents_sha256"] == hashlib.sha256(latents.tobytes()).hexdigest()


def test_the_images_of_a_longer_run_stay_beside_the_file(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    beside = tmp_path / "a.npz.images"
    draw_images(pipeline, plan_images(pipeline.manifest, ["bag", 0], 9, 7), SETTINGS, beside)

    done = draw(pipeline, tmp_path / "a.npz", 2)

    assert done.left == beside
    assert len(list(beside.glob("0*.png"))) == 9
    assert draw(pipeline, tmp_path / "a.npz", 9, overwrite=True).left is None


def test_a_file_that_is_kept_leaves_images_of_other_options(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    draw(pipeline, tmp_path / "a.npz")
    other, beside = dataclasses.replace(SETTINGS, steps=4), tmp_path / "a.npz.images"
    draw_images(pipeline, plan_images(pipeline.manifest, ["bag", 0], 5, 7), other, beside)

    done = draw(pipeline, tmp_path / "a.npz")

    assert (done.kept, done.left) == (5, beside)
    assert len(list(beside.glob("0*.png"))) == 5


def test_a_run_that_ends_first_leaves_the_images_to_the_one_that_draws_them_too(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    ended: list[RunReport] = []

    def end_first(what: str, parts: int = 0, steps: int = 1) -> Moved:
        if what.startswith("writing") and not ended:
            ended.append(draw(pipeline, tmp_path / "a.npz"))
        return lambda moved: None

    done = draw(pipeline, tmp_path / "a.npz", on_stage=end_first)

    assert [report.kept for report in ended] == [5]
    assert done.left is None
    assert np.load(tmp_path / "a.npz")["arr_0"].shape == (5, 8, 8, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "bundle"]


@pytest.mark.parametrize("theirs", ["somebody's", "another run's"])
def test_a_file_that_appears_while_images_are_drawn_is_not_written_over(
    pipeline: Pipeline, tmp_path: Path, theirs: str
) -> None:
    npz = tmp_path / "a.npz"

    def appear(what: str, parts: int = 0, steps: int = 1) -> Moved:
        if what.startswith("writing") and not npz.exists():
            if theirs == "somebody's":
                npz.write_text("precious")
            else:
                other = dataclasses.replace(SETTINGS, steps=4)
                draw(pipeline, npz, settings=other, out=tmp_path / "other")
        return lambda moved: None

    with pytest.raises(OptionError, match=r"does not say what drew it|drawn with steps 4"):
        draw(pipeline, npz, out=tmp_path / "out", on_stage=appear)

    assert len(list((tmp_path / "out").glob("0*.png"))) == 5
    if theirs == "somebody's":
        assert npz.read_text() == "precious"
    assert not list(tmp_path.glob(".*.partial"))


def test_a_file_that_is_damaged_is_drawn_again(pipeline: Pipeline, tmp_path: Path) -> None:
    draw(pipeline, tmp_path / "a.npz")
    before = (tmp_path / "a.npz").read_bytes()
    damaged = bytearray(before)
    damaged[len(before) // 2] ^= 1
    (tmp_path / "a.npz").write_bytes(damaged)

    assert draw(pipeline, tmp_path / "a.npz").drawn == 5
    assert (tmp_path / "a.npz").read_bytes() == before


def test_what_a_killed_run_left_half_written_goes_with_its_images(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    beside = tmp_path / "a.npz.images"
    beside.mkdir()
    (beside / ".000007-bag.png.0123abcd.partial").write_text("half")
    (beside / ".mine").write_text("mine")

    assert draw(pipeline, tmp_path / "a.npz").left == beside
    assert [path.name for path in beside.iterdir()] == [".mine"]


def test_a_file_that_is_in_the_way_of_a_stopped_run_may_be_removed(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(pipeline, tmp_path / "a.npz")
    other = dataclasses.replace(SETTINGS, steps=4)
    with monkeypatch.context() as patch:
        stop_after(2, patch, "save_png")
        with pytest.raises(KeyboardInterrupt):
            draw(pipeline, tmp_path / "a.npz", settings=other, overwrite=True)

    with pytest.raises(OptionError, match=r"remove this one .*drawn already are kept"):
        draw(pipeline, tmp_path / "a.npz", settings=other)
    (tmp_path / "a.npz").unlink()
    assert draw(pipeline, tmp_path / "a.npz", settings=other).kept == 2


def test_the_latents_of_a_run_are_not_copied_to_be_hashed(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    latents = np.zeros((4096, *pipeline.manifest.latent_shape), np.float32)
    plan = plan_images(pipeline.manifest, [], None, 0, latents)

    tracemalloc.start()
    told = _told(pipeline, plan, SETTINGS, None)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert told["latents_sha256"] == hashlib.sha256(latents.tobytes()).hexdigest()
    assert peak < latents.nbytes


def test_the_command_says_that_the_folder_beside_the_file_stays(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle", toy_manifest())
    (tmp_path / "a.npz.images").mkdir()
    (tmp_path / "a.npz.images" / "notes.txt").write_text("mine")

    done = run("generate", bundle, "--steps", 2, "--num", 1, "--npz", tmp_path / "a.npz")

    assert done.exit_code == 0, done.output
    assert "itholdsmore,oranotherrundrawsthere" in "".join(done.stdout.split())  # folded


def put_a_file(beside: Path) -> None:
    beside.write_text("mine")


def put_images_of_other_options(beside: Path) -> None:
    pipeline = Pipeline.from_bundle(beside.parent / "bundle")
    other = dataclasses.replace(SETTINGS, steps=4)
    draw_images(pipeline, plan_images(pipeline.manifest, ["bag", 0], 5, 7), other, beside)


@pytest.mark.parametrize(
    ("put", "said", "anew"),
    [
        (put_a_file, "a.npz.images cannot be made", False),
        (put_images_of_other_options, "a.npz.images was drawn with steps 4", True),
    ],
)
def test_a_folder_that_is_in_the_way_is_told_as_the_one_beside_the_file(
    pipeline: Pipeline, tmp_path: Path, put: Callable[[Path], None], said: str, anew: bool
) -> None:
    put(tmp_path / "a.npz.images")

    with pytest.raises(OptionError) as told:
        draw(pipeline, tmp_path / "a.npz")

    line = str(told.value)
    assert "a.npz are kept beside it until it is whole" in line
    assert said in line
    assert "another file with `--npz`" in line
    assert ("draw anew with `--overwrite`" in line) is anew
