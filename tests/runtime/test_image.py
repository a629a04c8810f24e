import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from bundle_helpers import one_line
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pitstop import OptionError
from pitstop.runtime.image import make_grid, read_parameters, save_png, to_images, written_whole

PARAMETERS = {"label_name": "Übergröße", "seed": 2**64 - 1, "cfg_scale": 0.1, "grid": None}


def flat(level: int, size: tuple[int, int] = (3, 2)) -> Image.Image:
    return Image.new("L", size, level)


def test_pixels_become_the_nearest_of_256_levels() -> None:
    pixels = np.array([-1.0, 1.0, -3.0, 3.0, 0.25, -0.25, 0.004, 0.99], dtype=np.float32)

    [image] = to_images(pixels.reshape(1, 1, 2, 4))

    # (x + 1) 127.5: 0, 255, clipped, clipped, 159.375, 95.625, 128.01, 253.725
    assert image.mode == "L"
    assert np.asarray(image).tolist() == [[0, 255, 0, 255], [159, 96, 128, 254]]


def test_three_channels_are_red_green_and_blue() -> None:
    pixels = np.full((1, 3, 2, 4), -1.0, dtype=np.float32)
    pixels[0, 0, 0, 1], pixels[0, 2, 1, 3] = 1.0, 1.0

    [image] = to_images(pixels)

    assert (image.mode, image.size) == ("RGB", (4, 2))
    assert image.getpixel((1, 0)) == (255, 0, 0)
    assert image.getpixel((3, 1)) == (0, 0, 255)


def test_a_grid_goes_row_by_row_and_the_rest_is_black() -> None:
    grid = make_grid([flat(10), flat(20), flat(30)], columns=2)

    assert grid.size == (6, 4)
    corners = {(0, 0): 10, (2, 1): 10, (3, 0): 20, (5, 1): 20, (0, 2): 30, (3, 2): 0, (5, 3): 0}
    assert {place: grid.getpixel(place) for place in corners} == corners


def test_a_zoomed_grid_repeats_each_pixel() -> None:
    image = flat(0)
    image.putpixel((1, 1), 200)

    grid = np.asarray(make_grid([image], columns=1, zoom=2))

    assert grid.shape == (4, 6)
    assert np.argwhere(grid == 200).tolist() == [[2, 2], [2, 3], [3, 2], [3, 3]]


def test_the_parameters_and_the_pixels_are_read_back(tmp_path: Path) -> None:
    save_png(flat(7), tmp_path / "a" / "b.png", PARAMETERS)

    assert read_parameters(tmp_path / "a" / "b.png") == PARAMETERS
    with Image.open(tmp_path / "a" / "b.png") as image:
        assert np.asarray(image).tolist() == np.asarray(flat(7)).tolist()
        assert json.loads(image.info["pitstop"]) == PARAMETERS
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.png"]


def test_a_png_of_somebody_else_has_no_parameters(tmp_path: Path) -> None:
    save_png(flat(7), tmp_path / "a.png")
    assert read_parameters(tmp_path / "a.png") is None


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_a_stopped_write_leaves_the_old_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: BaseException | type[BaseException]
) -> None:
    save_png(flat(7), tmp_path / "a.png", PARAMETERS)

    def half(self: Image.Image, path: Path, **options: object) -> None:
        path.write_bytes(b"\x89PNG")
        raise stop

    monkeypatch.setattr(Image.Image, "save", half)
    with pytest.raises((KeyboardInterrupt, OptionError)):
        save_png(flat(8), tmp_path / "a.png")

    assert read_parameters(tmp_path / "a.png") == PARAMETERS
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("place", ["file/a.png", "file/b/a.png", "folder", f"{300 * 'n'}.png"])
def test_a_place_that_cannot_be_written_is_told(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder").mkdir()

    with pytest.raises(OptionError) as told:
        save_png(flat(7), tmp_path / place)

    assert one_line(told.value).startswith(f"{tmp_path / place} cannot be written (")
    assert told.value.remedy == "Choose another place with `--out`"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_a_picture_whose_pixels_have_changed_is_not_taken_for_the_one_that_was_drawn(
    tmp_path: Path,
) -> None:
    path = tmp_path / "picture.png"
    save_png(Image.new("L", (4, 4), 10), path, {"seed": 1})
    assert read_parameters(path) == {"seed": 1}
    with Image.open(path) as drawn:
        kept = PngInfo()
        for name, text in drawn.info.items():
            kept.add_text(name, text)
    Image.new("L", (4, 4), 11).save(path, pnginfo=kept)

    with pytest.raises(OSError, match="have changed"):
        read_parameters(path)


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.EROFS, "Choose another place with `--out`"),
        (errno.EACCES, "Choose another place with `--out`"),
        (errno.ENOSPC, "Free some space there, or choose another place with `--out`"),
        (errno.EDQUOT, "Free some space there, or choose another place with `--out`"),
    ],
)
def test_space_is_asked_for_only_where_there_is_none(
    tmp_path: Path, number: int, remedy: str
) -> None:
    with pytest.raises(OptionError) as told, written_whole(tmp_path / "a"):
        raise OSError(number, os.strerror(number))

    assert told.value.remedy == remedy
