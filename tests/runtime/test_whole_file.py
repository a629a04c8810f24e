from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from pitstop.models.whole_file import whole_file as whole_file_of_models
from pitstop.runtime.whole_file import whole_file

WholeFile = Callable[[Path], AbstractContextManager[Path]]
BOTH = pytest.mark.parametrize("write", [whole_file, whole_file_of_models])


@BOTH
def test_a_file_is_in_its_place_when_it_is_whole(tmp_path: Path, write: WholeFile) -> None:
    place = tmp_path / "figures.json"
    place.write_text("old")

    with write(place) as beside:
        beside.write_text("new")
        assert place.read_text() == "old"

    assert place.read_text() == "new"
    assert list(tmp_path.iterdir()) == [place]


@BOTH
@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError])
def test_one_that_is_not_whole_leaves_nothing(
    tmp_path: Path, write: WholeFile, stop: type[BaseException]
) -> None:
    place = tmp_path / "figures.json"
    place.write_text("old")

    with pytest.raises(stop), write(place) as beside:  # noqa: PT012
        beside.write_text("ne")
        raise stop

    assert place.read_text() == "old"
    assert list(tmp_path.iterdir()) == [place]


@BOTH
@pytest.mark.parametrize(
    ("name", "why"), [("none/figures.json", "No such file"), (300 * "n", "too long")]
)
def test_a_place_that_cannot_be_written_is_the_systems_error(
    tmp_path: Path, write: WholeFile, name: str, why: str
) -> None:
    with pytest.raises(OSError, match=why), write(tmp_path / name) as beside:
        beside.write_text("new")

    assert list(tmp_path.iterdir()) == []
