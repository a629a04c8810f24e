"""The ranges of activations: small, portable, and tied to the graph that they were taken from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ... import CalibrationError

FORMAT = "pitstop ranges 1"
BROKEN = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    RecursionError,
)
LARGEST = 2.0**127  # about the largest float32
REMEDY = "Take ranges with `pitstop calibrate`, without `--ranges`"


@dataclass(frozen=True)
class ActivationRange:
    """What int8 holds of one tensor: symmetric, with zero point 0.

    Attributes:
        threshold: The absolute value that becomes 127.
        amax: The largest that was seen; above the threshold, it is clipped.
        samples: How many values were seen.
    """

    threshold: float
    amax: float
    samples: int


@dataclass(frozen=True)
class Ranges:
    """The ranges of a denoiser's sites.

    Attributes:
        graph_sha256: Of the fp32 graph.
        method: How thresholds were found.
        by_tensor: By the tensor's name in that graph.
        smoothing: For each smoothed tensor the divisor of each of its channels.
    """

    graph_sha256: str
    method: str
    by_tensor: Mapping[str, ActivationRange]
    smoothing: Mapping[str, tuple[float, ...]]

    @property
    def sha256(self) -> str:
        """Of `to_json`."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        content = {"format": FORMAT, **dataclasses.asdict(self)}
        return json.dumps(content, indent=1, sort_keys=True) + "\n"


def read_ranges(path: Path, graph_sha256: str) -> Ranges:
    """Read what `Ranges.to_json` gave, for the graph with this hash.

    Raises:
        CalibrationError: No file of ranges, ranges of another graph, or one that is not a number.
    """
    try:
        ranges = _parse(json.loads(path.read_text(encoding="utf-8")))
    except BROKEN as error:
        raise CalibrationError(f"{path} holds no ranges ({error})", REMEDY) from error
    if ranges.graph_sha256 != graph_sha256:
        raise CalibrationError(
            f"{path} was taken from a graph with sha256 {ranges.graph_sha256[:12]}…, this "
            f"bundle's fp32 denoiser has {graph_sha256[:12]}…",
            REMEDY,
        )
    if why := _why_not(ranges):
        raise CalibrationError(f"{path} has {why}", REMEDY)
    return ranges


def _why_not(ranges: Ranges) -> str | None:
    """Say which number cannot be, or None where all can."""
    for name, one in ranges.by_tensor.items():
        for what in ("threshold", "amax"):
            number = getattr(one, what)
            if not 0 <= number <= LARGEST:
                return f"the {what} {number} for {name}"
    for name, factors in ranges.smoothing.items():
        if not all(math.isfinite(factor) and factor > 0 for factor in factors):
            return f"a smoothing factor for {name} that is not a positive number"
    return None


def _parse(content: dict[str, Any]) -> Ranges:
    if content.get("format") != FORMAT:
        raise ValueError(f"its format is {content.get('format')!r}, not {FORMAT!r}")
    by_tensor = {
        name: ActivationRange(float(one["threshold"]), float(one["amax"]), int(one["samples"]))
        for name, one in content["by_tensor"].items()
    }
    smoothing = {name: tuple(map(float, factors)) for name, factors in content["smoothing"].items()}
    return Ranges(str(content["graph_sha256"]), str(content["method"]), by_tensor, smoothing)
