"""What a folder of images takes in, what it refuses, and what is drawn anew in it."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_helpers import FakeSession, one_line, toy_manifest, write_bundle
from PIL import Image

from pitstop import OptionError
from pitstop.runtime.bundle.manifest import CONDITIONER
from pitstop.runtime.image import read_parameters, save_png
from pitstop.runtime.jobs import RunReport, draw_images
from pitstop.runtime.jobs.parameters import shared_settings
from pitstop.runtime.jobs.plan import plan_images
from pitstop.runtime.pipeline import Pipeline
from pitstop.runtime.sampling.noise import NUMPY
from pitstop.runtime.sampling.schedule.scheduler import Scheduler
from pitstop.runtime.sampling.settings import Settings

SETTINGS = Settings(steps=3, cfg_scale=2.0)
INDEX = "pitstop-run.json"


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    return Pipeline.from_bundle(write_bundle(tmp_path / "bundle", toy_manifest(split=True)))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def draw(
    pipeline: Pipeline,
    out: Path,
    num: int = 2,
    *,
    labels: tuple[str, ...] = (),
    seed: int = 0,
    settings: Settings = SETTINGS,
    overwrite: bool = False,
    strict: bool = False,
) -> RunReport:
    plan = plan_images(pipeline.manifest, labels, num, seed)
    return draw_images(pipeline, plan, settings, out, overwrite=overwrite, strict=strict)


def refused(pipeline: Pipeline, out: Path, num: int = 2, **asked: object) -> str:
    """The message of a run that must change nothing."""
    before = files(out)
    with pytest.raises(OptionError) as told:
        draw(pipeline, out, num, **asked)  # type: ignore[arg-type]
    assert files(out) == before
    return one_line(told.value)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def elsewhere(pipeline: Pipeline, device: str = "other") -> Pipeline:
    """The same bundle on another backend."""
    session = FakeSession()
    session.device = device
    return Pipeline(pipeline.manifest, session, pipeline.precision)


def latents_of_a_vae() -> Pipeline:
    manifest = dataclasses.replace(
        toy_manifest(), latent_space="vae", files={"denoiser.fp32.onnx": 64 * "0"}
    )
    return Pipeline(manifest, FakeSession(), "fp32")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"steps": 4}, "was drawn with steps 3, this run has steps 4"),
        ({"sampler": "ddpm"}, "was drawn with sampler 'ddim', this run has sampler 'ddpm'"),
        ({"cfg_scale": 3.0}, "was drawn with cfg_scale 2.0, this run has cfg_scale 3.0"),
        ({"eta": 0.5}, "was drawn with eta 0.0, this run has eta 0.5"),
    ],
)
def test_other_settings_are_refused_by_the_first_that_differs(
    pipeline: Pipeline, out: Path, changed: dict[str, object], said: str
) -> None:
    draw(pipeline, out)

    line = refused(pipeline, out, settings=dataclasses.replace(SETTINGS, **changed))  # type: ignore[arg-type]

    assert f"{out} {said}" in line
    assert "`--out`" in line
    assert "`--overwrite`" in line


@pytest.mark.parametrize("graph", ["denoiser.fp32", CONDITIONER])
def test_other_weights_are_refused(pipeline: Pipeline, out: Path, graph: str) -> None:
    draw(pipeline, out)
    manifest = pipeline.manifest
    changed = {**manifest.files, manifest.graphs[graph].path: 64 * "0"}
    other = Pipeline(
        dataclasses.replace(manifest, files=changed),
        pipeline.session,
        "fp32",
        conditioner=pipeline.conditioner,
    )

    assert f"{graph.removesuffix('.fp32')}_sha256" in refused(other, out)


def test_other_settings_are_refused_for_other_seeds_too(pipeline: Pipeline, out: Path) -> None:
    draw(pipeline, out)

    assert "steps 3" in refused(pipeline, out, seed=100, settings=Settings(steps=4, cfg_scale=2.0))


def test_a_seed_does_not_get_a_second_label(pipeline: Pipeline, out: Path) -> None:
    draw(pipeline, out, labels=("shirt",))

    line = refused(pipeline, out, labels=("bag",))

    assert "000000-shirt.png was drawn with label 'shirt', this run has label 'bag'" in line
    assert "`--seed`" in line


def test_more_images_fewer_and_other_seeds_go_on_in_the_folder(
    pipeline: Pipeline, out: Path
) -> None:
    draw(pipeline, out, 2)

    longer, shorter = draw(pipeline, out, 5), draw(pipeline, out, 1)
    shard = draw(pipeline, out, 3, seed=6)

    assert [(done.drawn, done.kept) for done in (longer, shorter, shard)] == [
        (3, 2),
        (0, 1),
        (3, 0),
    ]


def test_overwrite_draws_anew_and_leaves_nothing_of_other_settings(
    pipeline: Pipeline, out: Path
) -> None:
    draw(pipeline, out, 3)
    (out / "mine.txt").write_text("mine")
    Image.new("L", (8, 8)).save(out / "000002-mine.png")

    done = draw(pipeline, out, 1, settings=Settings(steps=4, cfg_scale=2.0), overwrite=True)

    assert (done.drawn, done.kept) == (1, 0)
    names = ["000000-shirt.png", "000002-mine.png", "grid.png", "mine.txt", INDEX]
    assert sorted(files(out)) == names
    parameters = read_parameters(out / "000000-shirt.png")
    assert parameters is not None
    assert parameters["steps"] == 4
    assert draw(pipeline, out, 3, settings=Settings(steps=4, cfg_scale=2.0)).kept == 1


def test_overwrite_keeps_other_seeds_of_the_same_settings(pipeline: Pipeline, out: Path) -> None:
    draw(pipeline, out, 3)

    assert draw(pipeline, out, 1, overwrite=True).drawn == 1
    assert draw(pipeline, out, 3).kept == 3


def test_overwrite_draws_a_seed_with_another_label(pipeline: Pipeline, out: Path) -> None:
    draw(pipeline, out, 1, labels=("shirt",))

    draw(pipeline, out, 1, labels=("bag",), overwrite=True)

    assert sorted(files(out)) == ["000000-bag.png", "grid.png", INDEX]


def test_nothing_is_removed_for_a_run_that_cannot_be(pipeline: Pipeline, out: Path) -> None:
    draw(pipeline, out)

    refused(pipeline, out, settings=Settings(sampler="heun"), overwrite=True)
    refused(pipeline, out, seed=-1, overwrite=True)


def test_an_image_of_another_backend_counts_as_drawn_unless_strict(
    pipeline: Pipeline, out: Path
) -> None:
    draw(pipeline, out)
    other = elsewhere(pipeline)

    assert draw(other, out).kept == 2
    assert draw(other, out, strict=True).drawn == 2
    assert draw(other, out, strict=True).kept == 2
    parameters = read_parameters(out / "000000-shirt.png")
    assert parameters is not None
    assert parameters["backend"] == "other"


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


def put_no_table(path: Path) -> None:
    path.write_text("[1]")


def put_deep_json(path: Path) -> None:
    path.write_text(100_000 * "[")


@pytest.mark.parametrize("breaks", [Path.unlink, damage, put_no_table, put_deep_json])
def test_an_index_that_is_lost_is_made_again_from_the_pictures(
    pipeline: Pipeline, out: Path, breaks: Callable[[Path], None]
) -> None:
    draw(pipeline, out)
    before = files(out)
    breaks(out / INDEX)

    line = refused(pipeline, out, settings=Settings(steps=4, cfg_scale=2.0))
    assert "000000-shirt.png was drawn with steps 3, this run has steps 4" in line
    assert draw(pipeline, out).kept == 2
    assert files(out) == before


def test_an_index_of_another_version_is_refused(pipeline: Pipeline, out: Path) -> None:
    draw(pipeline, out)
    (out / INDEX).write_text(json.dumps({"version": 2, "settings": {}}))

    assert "has version 2, this pitstop reads 1" in refused(pipeline, out)


def test_an_index_that_is_a_folder_is_refused(pipeline: Pipeline, out: Path) -> None:
    (out / INDEX).mkdir(parents=True)

    with pytest.raises(OptionError, match=r"pitstop-run.json cannot be read .*`--out`"):
        draw(pipeline, out)


def test_pipes_in_the_places_of_its_files_are_not_waited_for(pipeline: Pipeline, out: Path) -> None:
    out.mkdir()
    os.mkfifo(out / "000000-shirt.png")
    assert draw(pipeline, out).drawn == 2

    (out / INDEX).unlink()
    os.mkfifo(out / INDEX)
    assert "cannot be read (it is no file)" in refused(pipeline, out)


def test_a_pipe_in_the_place_of_what_a_latent_says_is_not_waited_for(out: Path) -> None:
    vae = latents_of_a_vae()
    draw(vae, out)
    [first, *_] = sorted(out.glob("*.npy"))
    first.with_suffix(".json").unlink()
    os.mkfifo(first.with_suffix(".json"))

    assert "Nothing says what" in refused(vae, out)


def test_a_picture_that_lacks_a_setting_was_drawn_by_another_pitstop(
    pipeline: Pipeline, out: Path
) -> None:
    draw(pipeline, out)
    (out / INDEX).unlink()
    path = out / "000000-shirt.png"
    parameters = read_parameters(path)
    assert parameters is not None
    del parameters["schedule_sha256"]
    with Image.open(path) as picture:
        picture.load()
        save_png(picture, path, parameters)

    assert "was drawn with no schedule_sha256, this run has" in refused(pipeline, out)


def test_a_picture_from_another_folder_is_not_drawn_over(pipeline: Pipeline, out: Path) -> None:
    draw(pipeline, out)
    draw(pipeline, out.parent / "other", settings=Settings(steps=4, cfg_scale=2.0))
    (out.parent / "other" / "000001-shoe.png").replace(out / "000001-shoe.png")

    assert "000001-shoe.png was drawn with steps 4, this run has steps 3" in refused(pipeline, out)


def test_latents_that_are_whole_are_not_drawn_again(out: Path) -> None:
    pipeline = latents_of_a_vae()
    draw(pipeline, out, 3)
    before = files(out)
    content = bytearray(before["000000-shirt.npy"])
    content[-1] ^= 1
    (out / "000000-shirt.npy").write_bytes(content)

    done = draw(pipeline, out, 3)

    assert (done.drawn, done.kept) == (1, 2)
    assert files(out) == before
    assert np.load(out / "000002-bag.npy").shape == (1, 8, 8)


def test_latents_of_other_settings_are_refused_and_overwritten(out: Path) -> None:
    pipeline, other = latents_of_a_vae(), Settings(steps=4, cfg_scale=2.0)
    draw(pipeline, out, 3)

    assert "steps 3, this run has steps 4" in refused(pipeline, out, settings=other)
    draw(pipeline, out, 1, settings=other, overwrite=True)

    assert sorted(files(out)) == ["000000-shirt.json", "000000-shirt.npy", INDEX]


def test_latents_that_do_not_say_what_drew_them_are_not_drawn_over(out: Path) -> None:
    pipeline = latents_of_a_vae()
    out.mkdir()
    np.save(out / "000001-shoe.npy", np.zeros(3))

    assert "Nothing says what" in refused(pipeline, out)
    assert "Nothing says what" in refused(pipeline, out, 1, overwrite=True)
    assert draw(pipeline, out, 2, overwrite=True).drawn == 2


def test_a_run_whose_folder_is_taken_over_writes_nothing_more(
    pipeline: Pipeline, out: Path
) -> None:
    plan = plan_images(pipeline.manifest, [], 3, 0)
    told = []

    def take_over(moved: int) -> None:
        told.append(moved)
        if len(told) == 5:  # in the second image
            draw(pipeline, out, 1, settings=Settings(steps=4, cfg_scale=2.0), overwrite=True)

    with pytest.raises(OptionError, match=r"was taken over.*`--out`"):
        draw_images(
            pipeline, plan, SETTINGS, out, on_stage=lambda what, parts=0, steps=1: take_over
        )

    assert sorted(files(out)) == ["000000-shirt.png", "grid.png", INDEX]
    assert draw(pipeline, out, 1, settings=Settings(steps=4, cfg_scale=2.0)).kept == 1


def test_runs_that_begin_at_once_share_a_folder(pipeline: Pipeline, out: Path) -> None:
    failed: list[BaseException] = []

    def run(seed: int) -> None:
        try:
            draw(elsewhere(pipeline, f"device {seed}"), out, 3, seed=3 * (seed % 4))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failed == []
    assert draw(pipeline, out, 12).kept == 12


def test_of_processes_with_other_settings_that_begin_at_once_one_draws(
    tmp_path: Path, out: Path
) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    code = (
        "import sys\nfrom pitstop.cli import main\n"
        "main(['generate', sys.argv[1], '--out', sys.argv[2], '--steps', sys.argv[3]])"
    )
    asked = [
        subprocess.Popen(
            [sys.executable, "-c", code, bundle, out, str(steps)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for steps in (3, 4)
    ]
    said = [process.communicate()[1] for process in asked]

    assert sorted(process.returncode for process in asked) == [0, 2]
    [line] = [text for text in said if text]
    assert "was drawn with steps" in line
    drawn = [read_parameters(path) for path in out.glob("0*.png")]
    assert len({parameters["steps"] for parameters in drawn if parameters}) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"learn_sigma": True},
        {"cfg_channels": 2},
        {"latent_space": "vae"},
        {"noise": NUMPY},
        {"scheduler": Scheduler(clip_sample_range=1.0)},
    ],
)
def test_all_that_an_image_is_made_by_is_among_what_its_folder_shares(
    pipeline: Pipeline, changes: dict[str, Any]
) -> None:
    before = shared_settings(pipeline, SETTINGS)
    pipeline.manifest = dataclasses.replace(pipeline.manifest, **changes)
    assert shared_settings(pipeline, SETTINGS) != before


def test_a_sampler_and_spacing_that_are_said_are_those_that_are_taken(
    pipeline: Pipeline, out: Path
) -> None:
    draw(pipeline, out)
    said = Settings(steps=3, sampler="ddim", cfg_scale=2.0, spacing="leading")

    assert draw(pipeline, out, settings=said).kept == 2


def test_a_run_that_drew_nothing_does_not_bind_its_folder(pipeline: Pipeline, out: Path) -> None:
    def stop(moved: int) -> None:
        raise KeyboardInterrupt

    plan = plan_images(pipeline.manifest, [], 2, 0)
    with pytest.raises(KeyboardInterrupt):
        draw_images(pipeline, plan, SETTINGS, out, on_stage=lambda what, parts=0, steps=1: stop)

    assert sorted(files(out)) == [INDEX]
    assert draw(pipeline, out, settings=Settings(steps=4, cfg_scale=2.0)).drawn == 2


def test_a_run_that_has_not_drawn_its_first_image_keeps_its_folder(
    pipeline: Pipeline, out: Path
) -> None:
    lines = []

    def try_another(moved: int) -> None:
        if not lines:
            lines.append(refused(pipeline, out, settings=Settings(steps=4, cfg_scale=2.0)))

    plan = plan_images(pipeline.manifest, [], 2, 0)
    draw_images(pipeline, plan, SETTINGS, out, on_stage=lambda what, parts=0, steps=1: try_another)

    assert "was drawn with steps 3, this run has steps 4" in lines[0]


def test_a_folder_that_is_removed_while_images_are_drawn_is_told(
    pipeline: Pipeline, out: Path
) -> None:
    plan = plan_images(pipeline.manifest, [], 2, 0)

    def remove(moved: int) -> None:
        shutil.rmtree(out, ignore_errors=True)

    with pytest.raises(OptionError, match=r"is gone: it was removed .*Start the run again"):
        draw_images(pipeline, plan, SETTINGS, out, on_stage=lambda what, parts=0, steps=1: remove)
