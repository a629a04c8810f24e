from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bundle_helpers import LABELS, FakeSession, toy_manifest, write_bundle

from pitstop import OptionError
from pitstop.runtime.image import read_parameters
from pitstop.runtime.jobs import draw_images
from pitstop.runtime.jobs.plan import plan_images
from pitstop.runtime.pipeline import Pipeline
from pitstop.runtime.sampling.settings import Settings

SETTINGS = Settings(steps=4, cfg_scale=2.0)


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    return Pipeline.from_bundle(write_bundle(tmp_path / "bundle", toy_manifest(batch=4)))


def pictures(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_plan_gives_the_labels_in_turn_and_each_image_a_seed() -> None:
    plan = plan_images(toy_manifest(), ["bag", 0], 3, seed=40)

    assert [(image.label, image.name, image.seed) for image in plan] == [
        (2, "bag", 40),
        (0, "shirt", 41),
        (2, "bag", 42),
    ]


def test_a_plan_without_labels_has_one_image_of_each_class() -> None:
    assert [image.name for image in plan_images(toy_manifest(), [], None, 0)] == list(LABELS)


def test_a_run_writes_every_image_with_its_parameters_and_a_grid(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    done = draw_images(
        pipeline, plan_images(pipeline.manifest, [], 3, 5), SETTINGS, tmp_path / "out"
    )

    names = [
        "000005-shirt.png",
        "000006-shoe.png",
        "000007-bag.png",
        "grid.png",
        "pitstop-run.json",
    ]
    assert sorted(pictures(tmp_path / "out")) == names
    parameters = read_parameters(tmp_path / "out" / names[1])
    assert parameters is not None
    assert (parameters["label"], parameters["seed"], parameters["steps"]) == (1, 6, 4)
    assert (done.drawn, done.kept, done.steps) == (3, 0, 8)
    assert done.grid == tmp_path / "out" / "grid.png"


def test_the_grid_says_what_drew_it_and_which_images_it_shows(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    plan = plan_images(pipeline.manifest, [], 3, 5)

    done = draw_images(pipeline, plan, SETTINGS, tmp_path / "out")

    one = read_parameters(tmp_path / "out" / f"{plan[0].stem}.png")
    told = read_parameters(done.grid)
    alone = {"label", "label_name", "seed", "backend", "step_sha256"}
    shared = {name: value for name, value in one.items() if name not in alone}
    assert shared.items() <= told.items()
    assert told["label_names"] == ["shirt", "shoe", "bag"]
    assert (told["labels"], told["seeds"], told["columns"]) == ([0, 1, 2], [5, 6, 7], 2)


def test_a_second_run_keeps_what_was_drawn_and_draws_again_what_was_not(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    plan = plan_images(pipeline.manifest, [], 3, 0)
    draw_images(pipeline, plan, SETTINGS, tmp_path / "out")
    before = pictures(tmp_path / "out")
    first, second, _ = (tmp_path / "out" / f"{image.stem}.png" for image in plan)
    first.unlink()
    second.write_bytes(before[second.name][:60])

    done = draw_images(pipeline, plan, SETTINGS, tmp_path / "out")

    assert (done.drawn, done.kept) == (2, 1)
    assert pictures(tmp_path / "out") == before


def test_a_run_that_was_killed_goes_on_to_the_same_files(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    code = (
        "import sys\nfrom pathlib import Path\nfrom pitstop.runtime.jobs import *\n"
        "from pitstop.runtime.jobs.plan import *\n"
        "pipeline = Pipeline.from_bundle(sys.argv[1])\n"
        "plan = plan_images(pipeline.manifest, [], 60, 0)\n"
        "draw_images(pipeline, plan, Settings(steps=200), Path(sys.argv[2]))\n"
    )
    asked = [sys.executable, "-c", code, str(bundle)]
    broken = subprocess.Popen([*asked, str(tmp_path / "broken")])
    while not (tmp_path / "broken" / "000005-bag.png").exists():
        assert broken.poll() is None
        time.sleep(0.005)
    broken.send_signal(signal.SIGKILL)
    broken.wait()
    drawn_before = len(list((tmp_path / "broken").glob("0*.png")))

    for name in ("broken", "whole"):
        subprocess.run([*asked, str(tmp_path / name)], check=True)

    assert drawn_before < 60
    broken_files = pictures(tmp_path / "broken")
    kept = {name: content for name, content in broken_files.items() if "partial" not in name}
    assert kept == pictures(tmp_path / "whole")


def test_latents_of_a_vae_are_saved_as_arrays_and_the_report_says_so(tmp_path: Path) -> None:
    manifest = dataclasses.replace(
        toy_manifest(), latent_space="vae", files={"denoiser.fp32.onnx": "0" * 64}
    )
    pipeline = Pipeline(manifest, FakeSession(), "fp32")

    done = draw_images(pipeline, plan_images(manifest, [], 2, 0), SETTINGS, tmp_path / "out")

    assert sorted(pictures(tmp_path / "out")) == [
        "000000-shirt.json",
        "000000-shirt.npy",
        "000001-shoe.json",
        "000001-shoe.npy",
        "pitstop-run.json",
    ]
    assert done.grid is None
    assert ".npy" in done.why_no_grid


def test_a_folder_that_cannot_be_made_is_named(pipeline: Pipeline, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")

    with pytest.raises(OptionError, match=r"file/out cannot be made.*--out"):
        draw_images(
            pipeline, plan_images(pipeline.manifest, [], 1, 0), SETTINGS, tmp_path / "file" / "out"
        )
