"""What the tensors of a graph hold while it is fed a calibration set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ... import NonFiniteError
from ...graphs.graph_file import opened, with_outputs
from ...graphs.weights import dims
from ...runtime.backend import SessionOptions
from ...runtime.session import Array
from ..sets.feeds import Batch
from .histogram import Histogram

GROUP_BYTES = 1 << 30  # of tensors that one call hands out


@dataclass(frozen=True)
class Observation:
    """The absolute values of one tensor over a set.

    Attributes:
        histogram: Of all of them.
        amax_by_row: float32 [row], the largest in each row of the set.
        amax_by_channel: float32 [channel], the largest in each channel.
    """

    histogram: Histogram
    amax_by_row: npt.NDArray[np.float32]
    amax_by_channel: npt.NDArray[np.float32]


def observe(
    model: ir.Model,
    channel_axes: Mapping[str, int],
    batches: Callable[[], Iterable[Batch]],
    options: SessionOptions,
) -> dict[str, Observation]:
    """Run a graph over a set and watch some of its tensors.

    Args:
        model: The graph.
        channel_axes: The tensors' names, and the axis of their channels.
        batches: Gives the set; asked again for each group of tensors that fits in memory.
        options: How the graph is run.

    Raises:
        NonFiniteError: A tensor left the finite numbers; the message names it.
    """
    observed: dict[str, Observation] = {}
    inside = tokens_inside(model.graph)
    for names in groups(model, list(channel_axes)):
        watched = {name: _Watched(channel_axes[name], inside) for name in names}
        with opened(with_outputs(model, names), options) as session:
            for batch in batches():
                for name, array in session.run(batch.feeds).items():
                    watched[name].look(name, array, batch)
        observed |= {name: one.seen() for name, one in watched.items()}
    return observed


class _Watched:
    """The observation of one tensor as it grows."""

    def __init__(self, channel_axis: int, inside: int) -> None:
        self._axis, self._inside = channel_axis, inside
        self._histogram = Histogram.empty()
        self._rows: list[npt.NDArray[np.float32]] = []
        self._channels = np.zeros(1, np.float32)

    def look(self, name: str, array: Array, batch: Batch) -> None:
        rows = len(next(iter(batch.feeds.values())))
        absolute = np.abs(array.astype(np.float32, copy=False))
        if absolute.ndim == 2:  # the tokens of all rows in one axis, places before rows
            apart = absolute.reshape(self._inside, rows, -1, absolute.shape[1])
            absolute = apart.transpose(1, 2, 0, 3).reshape(-1, absolute.shape[1])
        # A window attention's tensors have several windows for each row, and those whose windows
        # are heads one axis of rows and heads behind a first one of length 1.
        axis = 0 if len(absolute) >= rows else 1
        filled = len(batch.rows) * (absolute.shape[axis] // rows)
        absolute = absolute[:filled] if axis == 0 else absolute[:, :filled]
        by_row = absolute.reshape(len(batch.rows), -1).max(axis=1)
        if not np.isfinite(by_row).all():
            row = batch.rows[int(np.argmin(np.isfinite(by_row)))]
            raise NonFiniteError(
                f"{name} is not finite in row {row} of the calibration set",
                "Export the bundle again from a checkpoint whose fp32 images are sound",
            )
        self._histogram = self._histogram.add(absolute)
        self._rows.append(by_row)
        axis = self._axis % absolute.ndim
        others = tuple(other for other in range(absolute.ndim) if other != axis)
        self._channels = np.maximum(self._channels, absolute.max(axis=others))

    def seen(self) -> Observation:
        return Observation(self._histogram, np.concatenate(self._rows), self._channels)


def tokens_inside(graph: ir.Graph) -> int:
    """Tokens of the shortest sequence that a graph attends to; 1 without an attention."""
    softmaxes = [node for node in graph if node.op_type == "Softmax"]
    return min((dims(node.outputs[0])[-1] for node in softmaxes), default=1)


def groups(model: ir.Model, names: Sequence[str]) -> Iterator[list[str]]:
    """The tensors in groups whose sizes add up to what one call may hand out."""
    values = {value.name: value for node in model.graph for value in node.outputs}
    group: list[str] = []
    held = 0
    for name in names:
        shape = values[name].shape
        assert shape is not None
        size = 4 * int(np.prod(shape.numpy()))
        if group and held + size > GROUP_BYTES:
            yield group
            group, held = [], 0
        group.append(name)
        held += size
    if group:
        yield group
