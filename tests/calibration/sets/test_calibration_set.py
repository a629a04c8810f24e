from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_helpers import LABELS, NULL_CLASS, some_latent, toy_manifest, zero_goldens
from bundle_helpers import one_line as whole_line

from pitstop import CalibrationError
from pitstop.calibration.sets.calibration_set import (
    ARRAYS,
    MAX_SEED,
    REMEDY,
    CalibrationSet,
    read_set,
    write_set,
)
from pitstop.runtime.bundle.goldens import write_goldens
from pitstop.runtime.bundle.manifest import ModelSpec
from pitstop.runtime.sampling.settings import Settings

ROWS = 6
MANIFEST = toy_manifest()


def some_set(**fields: Any) -> CalibrationSet:
    drawn = CalibrationSet(
        latents=some_latent(ROWS),
        timesteps=np.array([999, 800, 600, 400, 200, 0]),
        conditions={"label": np.array([0, NULL_CLASS, 1, NULL_CLASS, 2, 0])},
        model=MANIFEST.model.config,
        settings=Settings(steps=6, cfg_scale=1.5),
        seed=7,
    )
    return dataclasses.replace(drawn, **fields)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_set(some_set(), tmp_path / "set.npz")
    return tmp_path / "set.npz"


def refused(path: Path) -> str:
    """The problem that reading a file is refused with."""
    with pytest.raises(CalibrationError) as caught:
        read_set(path, MANIFEST)
    assert caught.value.remedy == REMEDY
    whole_line(caught.value)
    return caught.value.problem.removeprefix(f"{path} ")


def test_what_is_written_is_what_is_read(path: Path) -> None:
    read, written = read_set(path, MANIFEST), some_set()

    assert_same_arrays(read, written)
    assert (read.model, read.settings, read.seed) == ({"arch": "toy"}, written.settings, 7)


def assert_same_arrays(read: CalibrationSet, written: CalibrationSet) -> None:
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(read, name), getattr(written, name), strict=True)
    assert read.conditions.keys() == written.conditions.keys() == {"label"}
    found, wanted = read.conditions["label"], written.conditions["label"]
    np.testing.assert_array_equal(found, wanted, strict=True)


def test_a_set_from_before_conditions_had_names_is_read(path: Path) -> None:
    with np.load(path) as archive:
        arrays = dict(archive)
    arrays["labels"] = arrays.pop("conditions.label")
    np.savez(path, **arrays)

    assert_same_arrays(read_set(path, MANIFEST), some_set())


def test_another_condition_is_told_with_the_one_that_is_expected(path: Path) -> None:
    with np.load(path) as archive:
        arrays = dict(archive)
    arrays["conditions.prompt"] = arrays.pop("conditions.label")
    np.savez(path, **arrays)

    assert refused(path) == "has the conditions prompt, expected label"


def test_the_same_set_gives_the_same_bytes(path: Path, tmp_path: Path) -> None:
    write_set(read_set(path, MANIFEST), tmp_path / "again.npz")

    assert (tmp_path / "again.npz").read_bytes() == path.read_bytes()


def test_the_first_rows_are_a_set_too() -> None:
    part = some_set().first(2)

    assert len(part) == 2
    assert part.conditions["label"].tolist() == [0, NULL_CLASS]
    assert part.latents.shape == (2, 1, 8, 8)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def put_text(path: Path) -> None:
    path.write_text("this is no set\nat all")


def put_goldens(path: Path) -> None:
    write_goldens(zero_goldens(MANIFEST), path.parent)
    (path.parent / "goldens.npz").rename(path)


def put_one_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, some_latent(2))


def put_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def put_objects(path: Path) -> None:
    change(path, latents=np.array([{}], dtype=object))


def change(path: Path, **arrays: np.ndarray) -> None:
    with np.load(path) as archive:
        np.savez(path, **{**archive, **arrays})


def put_facts(facts: object) -> Callable[[Path], None]:
    def put(path: Path) -> None:
        change(path, facts=np.array(json.dumps(facts)))

    put.__name__ = f"facts_{facts}"
    return put


@pytest.mark.parametrize(
    "breaks",
    [
        empty,
        cut,
        put_text,
        put_goldens,
        put_one_array,
        put_folder,
        put_objects,
        Path.unlink,
        put_facts(3),
        put_facts({}),
        put_facts({"model": 3, "settings": {}, "seed": 0}),
        put_facts({"model": {}, "settings": {"walks": 3}, "seed": 0}),
        put_facts({"model": {}, "settings": {}, "seed": "seven"}),
    ],
    ids=lambda breaks: breaks.__name__,
)
def test_a_file_that_holds_no_set_is_told_in_one_line(
    path: Path, breaks: Callable[[Path], None]
) -> None:
    breaks(path)

    assert refused(path).startswith("holds no calibration set (")


def test_a_set_of_another_model_names_the_first_field_that_differs(path: Path) -> None:
    config = {"arch": "toy", "depth": 3}
    other = dataclasses.replace(
        MANIFEST, model=ModelSpec("other", config, parameters=5, flops_per_call=1)
    )

    with pytest.raises(CalibrationError) as caught:
        read_set(path, other)

    assert whole_line(caught.value).startswith(
        f"{path} was drawn from a model with depth None, the bundle's has 3. "
    )


def test_a_config_is_compared_as_files_have_it(tmp_path: Path) -> None:
    """A manifest that was just made has tuples where one that was read has lists."""
    config = {"input_size": (8, 8)}
    manifest = dataclasses.replace(
        MANIFEST, model=ModelSpec("toy", config, parameters=5, flops_per_call=1)
    )
    write_set(some_set(model=config), tmp_path / "set.npz")

    assert read_set(tmp_path / "set.npz", manifest).model == {"input_size": [8, 8]}


def test_a_latent_that_is_not_finite_names_its_row(path: Path) -> None:
    latents = some_latent(ROWS)
    latents[4, 0, 3, 3] = np.nan
    latents[5] = np.inf
    change(path, latents=latents)

    assert refused(path) == "has a latent that is not finite, in row 4"


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"latents": some_latent(0)}, "is empty"),
        ({"latents": np.float32(3)}, "is empty"),
        (
            {"latents": some_latent(ROWS)[:, :, :4]},
            "has latents float32 [6, 1, 4, 8], the bundle's are float32 [6, 1, 8, 8]",
        ),
        (
            {"latents": some_latent(ROWS).astype(np.float64)},
            "has latents float64 [6, 1, 8, 8], the bundle's are float32 [6, 1, 8, 8]",
        ),
        ({"conditions.label": np.zeros(5, np.int64)}, "has labels int64 [5], expected int64 [6]"),
        (
            {"conditions.label": np.zeros(6, np.float32)},
            "has labels float32 [6], expected int64 [6]",
        ),
        ({"conditions.label": np.arange(6)}, "has labels from 0 to 5, expected 0 to 3"),
        ({"conditions.label": np.arange(6) - 3}, "has labels from -3 to 2, expected 0 to 3"),
        ({"timesteps": np.full(6, 1000)}, "has timesteps from 1000 to 1000, expected 0 to 999"),
        ({"timesteps": np.zeros((6, 1), int)}, "has timesteps int64 [6, 1], expected int64 [6]"),
    ],
)
def test_an_array_that_cannot_be_is_told_with_what_is_expected(
    path: Path, arrays: dict[str, np.ndarray], problem: str
) -> None:
    change(path, **arrays)

    assert refused(path) == problem


def test_without_a_null_class_its_label_does_not_exist(path: Path) -> None:
    with pytest.raises(CalibrationError, match=f"from 0 to {NULL_CLASS}, expected 0 to 2"):
        read_set(path, toy_manifest(null_class=False))

    assert len(LABELS) == NULL_CLASS


@pytest.mark.parametrize("seed", [-1, MAX_SEED])
def test_a_seed_that_no_set_has_is_told(path: Path, seed: int) -> None:
    write_set(some_set(seed=seed), path)

    assert refused(path) == f"has seed {seed}, expected 0 to {MAX_SEED - 1}"


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"eta": "a"}, "has settings that cannot be: eta is 'a'"),
        ({"cfg_scale": True}, "has settings that cannot be: The guidance scale is True"),
        ({"sampler": ["ddim"]}, "has settings that cannot be: sampler is ['ddim']"),
        ({"cfg_scale": -1.0}, "has settings that cannot be: The guidance scale is -1.0"),
        ({"steps": "ten"}, "has settings that cannot be: steps is 'ten'"),
        ({"steps": 2.5}, "has settings that cannot be: steps is 2.5"),
        ({"steps": True}, "has settings that cannot be: steps is True"),
        (
            {"sampler": "bogus"},
            "has settings that cannot be: There is no sampler called 'bogus'",
        ),
        ({"eta": float("nan")}, "has settings that cannot be: eta is nan"),
    ],
)
def test_a_setting_that_no_sampler_takes_is_told_with_its_name(
    path: Path, fields: dict[str, Any], problem: str
) -> None:
    drawn = some_set()
    for name, value in fields.items():  # as a file may have them, which no `Settings` takes
        object.__setattr__(drawn.settings, name, value)
    write_set(drawn, path)

    assert refused(path) == problem


@pytest.mark.parametrize("steps", [0, 1001])
def test_a_number_of_steps_that_the_model_has_not_is_told(path: Path, steps: int) -> None:
    write_set(some_set(settings=Settings(steps, cfg_scale=1.5)), path)

    assert refused(path) == f"was drawn in {steps} steps, expected 1 to 1000"
