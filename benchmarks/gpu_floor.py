"""What the kernels of measured engines were estimated to take, beside what they took.

So the first GPU judges the estimate of `pitstop.export.device_floor`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pitstop.cli.engine_kernels import kernels_in
from pitstop.export.device_floor import Floor, device_called, floor
from pitstop.runtime.bundle.engines import list_engines, read_engine
from pitstop.runtime.bundle.folder import open_bundle


def estimates(bundle: Path, card: str) -> dict[tuple[str, str], Floor]:
    """Of each denoiser's engine with a list of kernels, by its builder and precision.

    Args:
        bundle: With its engines.
        card: As the driver calls it; of one that is not known nothing is estimated.
    """
    device = device_called(card)
    if device is None or not bundle.exists():
        return {}
    opened, found = open_bundle(bundle), {}
    for folder in list_engines(bundle):
        engine = read_engine(folder)
        graph, _, precision = engine.key.graph.partition(".")
        if graph == "denoiser" and engine.layers.is_file():
            found[engine.key.builder, precision] = floor(kernels_in(opened, engine), device)
    return found


def judge(rows: Iterable[Any], bundle: Path, card: str) -> Iterator[str]:
    """Put the estimate beside what was measured, for each row of engines, and say both.

    Args:
        rows: Each with ``name``, ``precision`` and ``figures``.
        bundle: As `estimates` has it.
        card: As `estimates` has it.
    """
    found = estimates(bundle, card)
    for row in rows:
        one = found.get((row.name, row.precision))
        if one is None or "ms_per_step_median" not in row.figures:
            continue
        row.figures["ms_per_step_estimated"] = 1e3 * one.seconds
        yield (
            f"{row.name} {row.precision}: at least {1e3 * one.seconds:.2f} ms a step as estimated, "
            f"{row.figures['ms_per_step_median']:.2f} measured; kernels bound by {dict(one.bound)}"
        )
