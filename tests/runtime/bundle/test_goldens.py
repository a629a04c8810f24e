import dataclasses
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bundle_helpers import one_line, toy_manifest, zero_goldens

from pitstop import BundleError
from pitstop.runtime.bundle.goldens import ARRAYS, NAMED, Goldens, read_goldens, write_goldens
from pitstop.runtime.sampling.settings import Settings

FILED = ["settings", *ARRAYS, "conditions.label", "told.label"]  # as they stand in the file


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_goldens(zero_goldens(toy_manifest()), tmp_path)
    return tmp_path / "goldens.npz"


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    written = zero_goldens(toy_manifest())
    written.latents[:] = np.random.default_rng(0).standard_normal(written.latents.shape)

    write_goldens(written, tmp_path)
    read = read_goldens(tmp_path / "goldens.npz")

    assert_same(read, written)


def assert_same(read: Goldens, written: Goldens) -> None:
    assert read.settings == written.settings
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(read, name), getattr(written, name), strict=True)
    for group in NAMED:
        found, wanted = getattr(read, group), getattr(written, group)
        assert found.keys() == wanted.keys()
        for name in wanted:
            np.testing.assert_array_equal(found[name], wanted[name], strict=True)


def test_goldens_from_before_conditions_had_names_are_read(path: Path) -> None:
    with np.load(path) as archive:
        arrays = dict(archive)
    arrays["labels"] = arrays.pop("conditions.label")
    arrays["classes"] = arrays.pop("told.label")
    np.savez(path, **arrays)

    assert_same(read_goldens(path), zero_goldens(toy_manifest()))


def test_calls_are_the_goldens_one_by_one() -> None:
    goldens = zero_goldens(toy_manifest())

    first, second = goldens.calls

    assert (first.timestep, second.timestep) == (0.0, 999.0)
    np.testing.assert_array_equal(second.conditions["label"], goldens.conditions["label"][1])
    np.testing.assert_array_equal(second.prediction, goldens.predictions[1])


def add_an_array(path: Path) -> None:
    with np.load(path) as archive:
        np.savez(path, **archive, colours=np.zeros(3))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def change_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def put_text(path: Path) -> None:
    path.write_text("these are no goldens\nat all")


def put_one_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def put_pickle(path: Path) -> None:
    np.savez(path, settings=np.array({"a": 1}, dtype=object))


def claim_a_shape(path: Path) -> None:
    """An array whose header says that it is larger than any memory."""
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (100000000000000000000,), }"
    array = b"\x93NUMPY\x01\x00" + (128 - 10).to_bytes(2, "little") + header.ljust(117).encode()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("latents.npy", array + b"\n")


def leave_out(name: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with np.load(path) as archive:
            arrays = {key: archive[key] for key in archive.files if key != name}
        np.savez(path, **arrays)

    change.__name__ = f"leave_out_{name}"
    return change


def set_settings(text: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with np.load(path) as archive:
            arrays = {**archive, "settings": np.array(text)}
        np.savez(path, **arrays)

    change.__name__ = f"settings_{text}"
    return change


@pytest.mark.parametrize(
    "breaks",
    [
        cut,
        empty,
        change_a_byte,
        put_text,
        put_one_array,
        put_pickle,
        Path.unlink,
        add_an_array,
        *map(leave_out, FILED),
        claim_a_shape,
        *map(set_settings, ["{", "3", json.dumps({"walks": 3})]),
        *(
            set_settings(json.dumps({**dataclasses.asdict(Settings()), **wrong}))
            for wrong in ({"sampler": {"a": 1}}, {"steps": 5.5}, {"cfg_scale": "4"})
        ),
    ],
    ids=lambda change: change.__name__,
)
def test_a_broken_file_is_told_in_one_line(path: Path, breaks: Callable[[Path], None]) -> None:
    breaks(path)
    with pytest.raises(BundleError) as told:
        read_goldens(path)
    assert one_line(told.value).startswith(f"{path} holds no goldens (")
    assert told.value.remedy == "Copy the bundle again, or export it again"
