"""An .npz of pictures is what NumPy and ADM's evaluator read, and never in memory as a whole."""

import fcntl
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pitstop.runtime.jobs.npz_file import is_whole, read_npz_parameters, write_npz


def pictures(count: int, *, mode: str = "RGB", side: int = 4) -> list[Image.Image]:
    shape = (count, side, side, 3) if mode == "RGB" else (count, side, side)
    noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return [Image.fromarray(pixels) for pixels in noise]


def adm_reads(path: Path) -> np.ndarray:
    """What guided-diffusion's evaluations/evaluator.py streams: header first, then one batch."""
    with path.open("rb") as file, zipfile.ZipFile(file, "r") as archive:
        assert "arr_0.npy" in archive.namelist()
        with archive.open("arr_0.npy", "r") as member:
            assert np.lib.format.read_magic(member) == (1, 0)
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(member)
            assert not fortran
            assert not dtype.hasobject
            parts = []
            for _ in range(shape[0]):
                size = int(np.prod(shape[1:])) * dtype.itemsize
                parts.append(np.frombuffer(member.read(size), dtype).reshape(shape[1:]))
            assert member.read() == b""
    return np.stack(parts)


def test_numpy_and_adms_evaluator_read_the_pictures(tmp_path: Path) -> None:
    drawn = pictures(5)

    write_npz(tmp_path / "a.npz", iter(drawn), 5, {"steps": 2})

    expected = np.stack([np.asarray(picture) for picture in drawn])
    with np.load(tmp_path / "a.npz") as loaded:
        assert loaded.files == ["arr_0"]
        np.testing.assert_array_equal(loaded["arr_0"], expected, strict=True)
    np.testing.assert_array_equal(adm_reads(tmp_path / "a.npz"), expected, strict=True)
    assert read_npz_parameters(tmp_path / "a.npz") == {"steps": 2}


def test_a_grey_picture_has_three_equal_channels(tmp_path: Path) -> None:
    drawn = pictures(2, mode="L")

    write_npz(tmp_path / "a.npz", iter(drawn), 2, {})

    read = adm_reads(tmp_path / "a.npz")
    for channel in range(3):
        np.testing.assert_array_equal(read[..., channel], np.stack(list(map(np.asarray, drawn))))


@pytest.mark.parametrize("found", [1, 3])
def test_another_number_of_pictures_leaves_no_file(tmp_path: Path, found: int) -> None:
    with pytest.raises(ValueError, match=f"there are {found} pictures, not 2"):
        write_npz(tmp_path / "a.npz", iter(pictures(found)), 2, {})

    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed_and_what_another_one_writes_is_not(
    tmp_path: Path,
) -> None:
    left, written = (tmp_path / f".a.npz.{token}.partial" for token in ("0123abcd", "4567cdef"))
    for path in (left, written, tmp_path / ".b.npz.0123abcd.partial"):
        path.write_text("a part")

    with written.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write_npz(tmp_path / "a.npz", iter(pictures(2)), 2, {})

    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [written.name, ".b.npz.0123abcd.partial", "a.npz"]


def test_twenty_thousand_pictures_take_no_more_memory_than_a_few(tmp_path: Path) -> None:
    def stream(count: int) -> Iterator[Image.Image]:
        for index in range(count):
            yield Image.new("RGB", (16, 16), (index % 256, 0, 0))

    tracemalloc.start()
    write_npz(tmp_path / "a.npz", stream(20_000), 20_000, {})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert (tmp_path / "a.npz").stat().st_size > 20_000 * 16 * 16 * 3
    assert peak < 1_000_000


def test_a_damaged_file_says_nothing_of_what_drew_it(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write_npz(path, iter(pictures(2)), 2, {"steps": 3})
    whole = path.read_bytes()
    directory = whole.index(b"PK\x01\x02")
    for place in range(directory, len(whole)):
        for value in (0, 99, 255):
            path.write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
            assert read_npz_parameters(path) in (None, {"steps": 3}) or place > len(whole) - 20


def test_a_file_of_others_says_nothing_of_what_drew_it(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", np.zeros((1, 2, 2, 3), np.uint8))
    (tmp_path / "b.npz").write_text("no archive")

    assert read_npz_parameters(tmp_path / "a.npz") is None
    assert read_npz_parameters(tmp_path / "b.npz") is None


@pytest.mark.parametrize("at", [0.2, 0.5, 0.9])
def test_a_file_with_a_changed_pixel_is_not_whole(tmp_path: Path, at: float) -> None:
    path = tmp_path / "a.npz"
    write_npz(path, iter(pictures(9, side=16)), 9, {})
    content = bytearray(path.read_bytes())

    assert is_whole(path, 9)
    assert not is_whole(path, 8)
    content[int(at * len(content))] ^= 1
    path.write_bytes(content)
    assert not is_whole(path, 9)


def test_an_archive_without_pictures_or_of_packed_ones_is_not_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w"):
        pass
    assert not is_whole(path, 2)
    np.savez_compressed(path, np.zeros((2, 4, 4, 3), np.uint8))
    assert not is_whole(path, 2)
    np.savez(path, np.zeros((2, 4, 4, 3), np.float32))
    assert not is_whole(path, 2)
