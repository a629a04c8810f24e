"""Learning-to-Cache's router is read as called steps, and what is none is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bundle_helpers import one_line
from router_helpers import write_router

from pitstop import CheckpointError
from pitstop.models.router import read_router

SURE, NEVER = 3.0, -5.0  # before the sigmoid


def test_odd_steps_are_called_and_even_ones_where_half_of_the_sub_layers_are(
    tmp_path: Path,
) -> None:
    few, half = [SURE, NEVER, NEVER, NEVER], [SURE, NEVER, SURE, NEVER]
    routers = [half, few, few, few, [NEVER] * 4, half]  # counted down to 0

    steps, called = read_router(write_router(tmp_path / "router.pt", routers))

    assert steps == 6
    assert called == (0, 2, 4, 5)  # 5, 3 and 1 counted down, and 0 with its half


def test_a_score_is_a_tenth_after_the_sigmoid(tmp_path: Path) -> None:
    below, above = -2.3, -2.1  # 0.091 and 0.109
    router = write_router(tmp_path / "router.pt", [[below], [SURE], [above], [SURE]])
    assert read_router(router)[1] == (0, 1, 2)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ([1], "it holds no table 'routers'"),
        ({"model": {}}, "it holds no table 'routers'"),
        ({"routers": {}}, "it has scores of 0 steps"),
        ({"routers": {"0.weight": torch.ones(4)}}, "0.weight is no list of a step's scores"),
        ({"routers": {"0.prob": 3}}, "0.prob is no list"),
        ({"routers": {"0.prob": torch.ones(2, 2)}}, "0.prob is no list"),
        ({"routers": {"0.prob": torch.full((4,), torch.nan)}}, "0.prob holds a number that is not"),
        ({"routers": {"1.prob": torch.ones(4)}}, "it has scores of 1 steps, which are not 0, 1"),
        (
            {"routers": {"0.prob": torch.ones(4), "1.prob": torch.ones(6)}},
            "its steps have different numbers of sub-layers",
        ),
    ],
)
def test_what_is_no_router_is_refused_by_what_is_wrong(
    tmp_path: Path, content: Any, why: str
) -> None:
    torch.save(content, tmp_path / "router.pt")

    with pytest.raises(CheckpointError) as told:
        read_router(tmp_path / "router.pt")

    assert f"router.pt is no router of Learning-to-Cache: {why}" in one_line(told.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.ones(4).to(torch.float8_e4m3fn),
        lambda: torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8),
        lambda: torch.ones(4).to_sparse(),
        lambda: torch.ones(4, device="meta"),
        lambda: torch.ones(4, dtype=torch.complex64),
        lambda: torch.ones(4, dtype=torch.bool),
        lambda: torch.ones(4, dtype=torch.int64),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_scores_that_are_no_plain_floats_are_refused(
    tmp_path: Path, make: Callable[[], torch.Tensor]
) -> None:
    torch.save({"routers": {"0.prob": make()}}, tmp_path / "router.pt")

    with pytest.raises(CheckpointError) as told:
        read_router(tmp_path / "router.pt")

    one_line(told.value)


@pytest.mark.parametrize(
    "name", ["00.prob", "-0.prob", "\u0660.prob", "9" * 5000 + ".prob", "0\n.prob", 1]
)
def test_a_key_that_is_no_step_is_refused(tmp_path: Path, name: object) -> None:
    content = {"routers": {"0.prob": torch.ones(4), name: -torch.ones(4)}}
    torch.save(content, tmp_path / "router.pt")

    with pytest.raises(CheckpointError) as told:
        read_router(tmp_path / "router.pt")

    assert "is no router of Learning-to-Cache" in one_line(told.value)
    assert len(one_line(told.value)) < 400


def test_a_file_that_is_missing_broken_or_runs_code_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="There is no router at"):
        read_router(tmp_path / "router.pt")
    (tmp_path / "broken.pt").write_bytes(b"PK\3\4")
    with pytest.raises(CheckpointError, match=r"broken\.pt"):
        read_router(tmp_path / "broken.pt")
    torch.save({"routers": {}, "args": print}, tmp_path / "code.pt")
    with pytest.raises(CheckpointError, match="could run code when opened"):
        read_router(tmp_path / "code.pt")
