"""What an image is told beside its noise: a value with names, one for each input that takes it.

A label is one such value, ``{"label": 207}``. Nothing here knows what the names mean; the bundle's
manifest says what users call them and which value stands for nothing said.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..session import Array


@dataclass(frozen=True, eq=False)
class Condition:
    """What one image is told. Two that tell the same are equal.

    Attributes:
        arrays: By the name of the graph's input, without the axis of rows.
    """

    arrays: Mapping[str, Array]

    @functools.cached_property
    def key(self) -> tuple[object, ...]:
        """What it tells, to compare and to look up."""
        return tuple(
            (name, array.dtype.str, array.shape, array.tobytes())
            for name, array in sorted(self.arrays.items())
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Condition) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


def stack(conditions: Sequence[Condition]) -> dict[str, Array]:
    """Rows for a graph, by name: [row, ...] of what each condition tells."""
    return {
        name: np.stack([condition.arrays[name] for condition in conditions])
        for name in conditions[0].arrays
    }


def unstack(arrays: Mapping[str, Array]) -> list[Condition]:
    """The conditions of the rows of ``arrays``, each [row, ...]."""
    [rows] = {len(array) for array in arrays.values()}
    return [Condition({name: array[row] for name, array in arrays.items()}) for row in range(rows)]


def merge(conditions: Sequence[Condition | None]) -> Condition | None:
    """One condition that tells all of them, or None where one of them is none."""
    told = [condition for condition in conditions if condition is not None]
    if len(told) < len(conditions):
        return None
    return Condition({name: array for each in told for name, array in each.arrays.items()})
