import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bundle_helpers import FakeSession, one_line, toy_manifest, with_label, write_bundle
from PIL import Image
from stage_helpers import Heard

from pitstop import OptionError
from pitstop.runtime.image import read_parameters
from pitstop.runtime.jobs import draw_images
from pitstop.runtime.jobs.plan import PlannedImage, plan_images
from pitstop.runtime.pipeline import Pipeline
from pitstop.runtime.sampling.settings import Settings

SETTINGS = Settings(steps=3, cfg_scale=2.0)


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    return Pipeline.from_bundle(write_bundle(tmp_path / "bundle", toy_manifest(split=True)))


def fake_pipeline(*labels: str, latent_space: str = "pixel") -> Pipeline:
    manifest = dataclasses.replace(
        with_label(toy_manifest(), names=labels),
        latent_space=latent_space,
        files={"denoiser.fp32.onnx": 64 * "0"},
    )
    return Pipeline(manifest, FakeSession(), "fp32")


def cut_the_body(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def change_a_byte_of_the_pixels(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)


def put_text(path: Path) -> None:
    path.write_text("no picture")


def leave_the_parameters_out(path: Path) -> None:
    Image.new("L", (8, 8)).save(path)


def put_other_parameters(path: Path) -> None:
    put_metadata(path, json.dumps({"seed": 0}))


def put_no_json(path: Path) -> None:
    put_metadata(path, "{")


def put_a_list(path: Path) -> None:
    put_metadata(path, "[1, 2]")


def put_metadata(path: Path, text: str) -> None:
    from PIL.PngImagePlugin import PngInfo

    metadata = PngInfo()
    metadata.add_text("pitstop", text)
    Image.new("L", (8, 8)).save(path, pnginfo=metadata)


@pytest.mark.parametrize(
    "breaks",
    [
        cut_the_body,
        empty,
        change_a_byte_of_the_pixels,
        put_text,
        leave_the_parameters_out,
        put_other_parameters,
        put_no_json,
        put_a_list,
        Path.unlink,
    ],
)
def test_a_broken_picture_is_drawn_again(
    pipeline: Pipeline, tmp_path: Path, breaks: Callable[[Path], None]
) -> None:
    out = tmp_path / "out"
    plan = plan_images(pipeline.manifest, [], 3, 0)
    draw_images(pipeline, plan, SETTINGS, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    breaks(out / "000001-shoe.png")

    done = draw_images(pipeline, plan, SETTINGS, out)

    assert (done.drawn, done.kept) == (1, 2)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_run_that_is_done_draws_nothing_and_tells_no_time(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    plan = plan_images(pipeline.manifest, [], 3, 0)
    draw_images(pipeline, plan, SETTINGS, tmp_path / "out")

    done = draw_images(pipeline, plan, SETTINGS, tmp_path / "out")

    assert (done.drawn, done.kept, done.steps, done.ms_per_step) == (0, 3, 0, None)
    assert done.figures()["images"] == 3


def test_a_longer_run_draws_only_what_is_new(pipeline: Pipeline, tmp_path: Path) -> None:
    draw_images(pipeline, plan_images(pipeline.manifest, ["bag"], 2, 5), SETTINGS, tmp_path / "out")

    longer = plan_images(pipeline.manifest, ["bag"], 5, 5)
    done = draw_images(pipeline, longer, SETTINGS, tmp_path / "out")

    assert (done.drawn, done.kept) == (3, 2)


def test_progress_is_told_for_what_is_left_alone(pipeline: Pipeline, tmp_path: Path) -> None:
    plan = plan_images(pipeline.manifest, [], 3, 0)
    draw_images(pipeline, plan[:1], SETTINGS, tmp_path / "out")
    heard = Heard()

    draw_images(pipeline, plan, SETTINGS, tmp_path / "out", on_stage=heard)

    assert heard.stages == ["drawing 2 images"]
    assert heard.moved == heard.all_steps == [2 * SETTINGS.steps]


def test_the_label_of_a_picture_is_the_one_of_its_number_where_names_are_numbers(
    tmp_path: Path,
) -> None:
    pipeline = fake_pipeline("2", "1", "0")

    draw_images(pipeline, plan_images(pipeline.manifest, ["2"], 1, 0), SETTINGS, tmp_path / "out")

    parameters = read_parameters(tmp_path / "out" / "000000-2.png")
    assert parameters is not None
    assert (parameters["label"], parameters["label_name"]) == (0, "2")
    session = pipeline.session
    assert isinstance(session, FakeSession)
    assert session.calls[0]["label"].tolist() == [0, 3]


@pytest.mark.parametrize("latent_space", ["pixel", "vae"])
@pytest.mark.parametrize("name", ["../../out", "/etc/passwd", "T-shirt/top", "a\0b", 300 * "é"])
def test_no_name_of_a_class_leads_out_of_the_folder(
    tmp_path: Path, name: str, latent_space: str
) -> None:
    pipeline = fake_pipeline(name, "b", "c", latent_space=latent_space)

    draw_images(pipeline, plan_images(pipeline.manifest, [0], 1, 0), SETTINGS, tmp_path / "out")

    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    others = {"grid.png", "pitstop-run.json"}
    files = [path for path in (tmp_path / "out").iterdir() if path.name not in others]
    [drawn] = [path for path in files if path.suffix != ".json"]
    assert [path.stem for path in files] == len(files) * [drawn.stem]
    assert drawn.is_file()
    assert drawn.name.startswith("000000-")


def test_an_ordinary_name_stays_as_it_is() -> None:
    assert PlannedImage(4, "ankle-boot", 12).stem == "000012-ankle-boot"
    assert PlannedImage(4, "tench, Tinca (fish)", 12).stem == "000012-tench, Tinca (fish)"


def test_a_full_disk_is_told_for_latents_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: object, array: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    pipeline = fake_pipeline("a", "b", "c", latent_space="vae")

    with pytest.raises(OptionError) as told:
        draw_images(pipeline, plan_images(pipeline.manifest, [0], 1, 0), SETTINGS, tmp_path / "out")

    assert "000000-a.npy cannot be written (No space left on device)" in one_line(told.value)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["pitstop-run.json"]
