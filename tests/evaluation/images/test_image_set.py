"""A set is read part by part, from an .npz or a folder, and what cannot be read is told."""

from __future__ import annotations

import contextlib
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pitstop import OptionError
from pitstop.evaluation.images.image_set import open_set


def noise(count: int, side: int = 6) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)


def read(path: Path, size: int = 2) -> np.ndarray:
    return np.concatenate(list(open_set(path).parts(size)))


def refusal(path: Path) -> str:
    with pytest.raises(OptionError) as raised:
        read(path)
    assert len(str(raised.value).splitlines()) == 1
    return str(raised.value)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_is_read_in_its_order(tmp_path: Path, save: object) -> None:
    images = noise(5)
    save(tmp_path / "a.npz", images, np.arange(5))  # ADM's has labels as arr_1

    found = open_set(tmp_path / "a.npz")

    assert (found.count, found.size, found.has_statistics) == (5, (6, 6), False)
    np.testing.assert_array_equal(read(tmp_path / "a.npz"), images, strict=True)


def test_a_reference_with_statistics_is_known(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", arr_0=noise(2), mu=np.zeros(3), sigma=np.eye(3))

    assert open_set(tmp_path / "a.npz").has_statistics


def test_a_folder_is_read_whole_in_an_order_of_its_own_and_always_the_same(tmp_path: Path) -> None:
    images = noise(9)
    for index, image in enumerate(images):
        (tmp_path / str(index % 3)).mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / str(index % 3) / f"{index}.png")

    found = read(tmp_path)

    np.testing.assert_array_equal(found, read(tmp_path, 4))
    assert sorted(map(bytes, found)) == sorted(map(bytes, images))


def test_the_grid_of_a_drawn_folder_is_left_out_and_grey_has_three_channels(tmp_path: Path) -> None:
    (tmp_path / "pitstop-run.json").write_text("{}")
    Image.new("L", (4, 4), 9).save(tmp_path / "000000-shoe.png")
    Image.new("L", (40, 40)).save(tmp_path / "grid.png")

    np.testing.assert_array_equal(read(tmp_path), np.full((1, 4, 4, 3), 9, np.uint8), strict=True)


def test_a_png_is_read_however_its_ending_is_written(tmp_path: Path) -> None:
    for index, ending in enumerate(("png", "PNG", "Png")):
        Image.new("L", (4, 4)).save(tmp_path / f"{index}.{ending}", "PNG")

    assert open_set(tmp_path).count == 3


def test_the_grids_of_folders_inside_are_left_out_too(tmp_path: Path) -> None:
    for index in range(3):
        shard = tmp_path / f"shard-{index}"
        shard.mkdir()
        (shard / "pitstop-run.json").write_text("{}")
        Image.new("L", (4, 4), index).save(shard / f"{index:06}-shoe.png")
        Image.new("L", (4, 4), index).save(shard / "grid.png")
    (tmp_path / "others").mkdir()
    Image.new("L", (4, 4), 9).save(tmp_path / "others" / "a.png")

    assert sorted(int(image[0, 0, 0]) for image in read(tmp_path)) == [0, 1, 2, 9]


def test_a_large_set_is_never_in_memory(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", np.zeros((2000, 64, 64, 3), np.uint8))

    tracemalloc.start()
    seen = sum(len(part) for part in open_set(tmp_path / "a.npz").parts(16))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert seen == 2000
    assert peak < 2_000_000


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((2, 4, 4, 3), np.float32), "float32 [2, 4, 4, 3]"),
        (np.zeros((2, 3, 4, 4), np.uint8), "uint8 [2, 3, 4, 4]"),
        (np.zeros((0, 4, 4, 3), np.uint8), "uint8 [0, 4, 4, 3]"),
        (np.array([{"a": 1}], dtype=object), "object [1]"),
        (np.asfortranarray(np.zeros((2, 4, 4, 3), np.uint8)), "[2, 4, 4, 3] in Fortran's order"),
    ],
)
def test_an_array_of_another_kind_is_told(tmp_path: Path, array: np.ndarray, said: str) -> None:
    np.savez(tmp_path / "a.npz", array)

    assert said in refusal(tmp_path / "a.npz")


def test_a_shape_below_0_and_a_long_header_are_told_in_pitstops_words(tmp_path: Path) -> None:
    for name, shape in (("below", "(-2, -4, 4, 3)"), ("long", f"(2, 4, 4, {' ' * 20_000}3)")):
        header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}\n".encode()
        with zipfile.ZipFile(tmp_path / f"{name}.npz", "w") as archive:
            size = len(header).to_bytes(2, "little")
            archive.writestr("arr_0.npy", b"\x93NUMPY\x01\x00" + size + header + bytes(96))

    assert "uint8 [-2, -4, 4, 3]" in refusal(tmp_path / "below.npz")
    assert "allow_pickle" not in refusal(tmp_path / "long.npz")


def test_a_damaged_or_missing_set_is_told(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", noise(4))
    whole = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[:-200])
    changed = bytearray(whole)
    changed[400] ^= 1
    (tmp_path / "changed.npz").write_bytes(changed)
    (tmp_path / "empty.npz").write_bytes(b"")
    np.savez(tmp_path / "other.npz", images=noise(4))
    (tmp_path / "folder").mkdir()
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        array = archive.read("arr_0.npy")
    with zipfile.ZipFile(tmp_path / "short.npz", "w") as archive:
        archive.writestr("arr_0.npy", array[:-9])

    for name in ("cut", "changed", "empty", "short"):
        refusal(tmp_path / f"{name}.npz")
    assert "has no array arr_0" in refusal(tmp_path / "other.npz")
    assert "There is no" in refusal(tmp_path / "none.npz")
    assert "has no PNGs" in refusal(tmp_path / "folder")


def test_no_damage_to_an_npz_is_a_traceback(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    random = np.random.default_rng(0)
    for save in (np.savez, np.savez_compressed):
        save(path, noise(4))
        whole = path.read_bytes()
        for _ in range(300):
            changed = bytearray(whole)
            for place in random.integers(0, 200, 2):
                changed[int(place)] = int(random.integers(256))
            path.write_bytes(changed)
            with contextlib.suppress(OptionError):
                read(path)


def put_another_size(folder: Path) -> None:
    Image.new("RGB", (5, 4)).save(folder / "b.png")


def put_alpha(folder: Path) -> None:
    Image.new("RGBA", (4, 4)).save(folder / "b.png")


def put_sixteen_bits(folder: Path) -> None:
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(folder / "b.png")


def put_a_wide_ppm(folder: Path) -> None:
    (folder / "b.png").write_bytes(b"P6\n4 4\n65535\n" + bytes(4 * 4 * 6))


def put_a_colour_that_is_clear(folder: Path) -> None:
    Image.new("RGB", (4, 4)).save(folder / "b.png", transparency=(0, 0, 0))


def put_frames(folder: Path) -> None:
    first, second = Image.new("RGB", (4, 4)), Image.new("RGB", (4, 4), 9)
    first.save(folder / "b.png", save_all=True, append_images=[second])


def put_a_gif(folder: Path) -> None:
    Image.new("L", (4, 4)).save(folder / "b.gif")


def put_text(folder: Path) -> None:
    (folder / "b.png").write_text("no picture")


def put_a_jpeg(folder: Path) -> None:
    Image.new("RGB", (4, 4)).save(folder / "b.jpg")


@pytest.mark.parametrize(
    ("put", "said"),
    [
        (put_another_size, "images of one size"),
        (put_alpha, "pixels of RGBA"),
        (put_sixteen_bits, "pixels of I;16"),
        (put_a_wide_ppm, "pixels of RGB of 16 bits"),
        (put_a_colour_that_is_clear, "transparent in places"),
        (put_frames, "several frames"),
        (put_a_gif, "1 images beside its PNGs"),
        (put_text, "no whole picture"),
        (put_a_jpeg, "1 images beside its PNGs"),
    ],
)
def test_a_folder_with_something_else_in_it_is_told(tmp_path: Path, put: object, said: str) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    put(tmp_path)

    assert said in refusal(tmp_path)
