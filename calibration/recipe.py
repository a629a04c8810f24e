"""What a calibration is asked for, and what it made."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .. import OptionError, one_of
from ..runtime.bundle.manifest import Manifest
from ..runtime.bundle.precision import INT8, Precision
from ..runtime.sampling.settings import Settings
from .methods import METHODS
from .observed.coverage import Coverage
from .qdq.placement import Placement
from .search.budget import Search
from .sets.calibration_set import MAX_SEED
from .sets.trajectories import SEED_STRIDE

WEIGHT_BITS = (8, 7)


@dataclass(frozen=True)
class Recipe:
    """How a quantized denoiser is made.

    Attributes:
        num: Trajectories of the calibration set, in [1, 2**20].
        steps: Denoiser calls of a trajectory.
        cfg_scale: Guidance scale; None is 4, or 1 where the model cannot be guided.
        seed: Of the set, in [0, 2**20); the next one is that of the held-out trajectories.
        method: How ranges are found, a name in `calibration.methods.METHODS`.
        precision: What it is quantized to.
        weight_bits: Of the weights, 8 or 7. With 7 two products of a weight and an unsigned 8-bit
            activation fit in 16 bits, where CPUs without VNNI and AMX sum them.
        base: The precision of what is not quantized, one of the precision's bases, or None for what
            pays on the bundle's target.
        smooth: Whether loud channels are moved into the weights.
        placement: What is quantized beside the linears.
        budget_db: The PSNR that trajectories must keep against the fp32 graph, or None.
    """

    num: int = 64
    steps: int = 50
    cfg_scale: float | None = None
    seed: int = 0
    method: str = "mse"
    precision: Precision = INT8
    weight_bits: int = 8
    base: str | None = None
    smooth: bool = True
    placement: Placement = field(default_factory=Placement)
    budget_db: float | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise one_of("method", self.method, METHODS)
        if self.base not in {None, *self.precision.bases}:
            raise one_of("base", self.base, self.precision.bases)
        self._check_weight_bits()
        if not 1 <= self.num <= SEED_STRIDE:
            raise OptionError(
                f"{self.num} trajectories were asked for", f"Choose 1 to {SEED_STRIDE} with `--num`"
            )
        if not 0 <= self.seed < MAX_SEED:
            raise OptionError(f"The seed is {self.seed}", f"Choose one from 0 to {MAX_SEED - 1}")
        if self.budget_db is not None and not math.isfinite(self.budget_db):
            raise OptionError(f"The budget is {self.budget_db} dB", "Choose a number, such as 45")

    def _check_weight_bits(self) -> None:
        if self.weight_bits not in WEIGHT_BITS:
            raise OptionError(f"The weights' bits are {self.weight_bits}", "Choose 8 or 7")
        if self.weight_bits < 8 and self.placement.attention:
            raise OptionError(
                "`--weight-bits 7` has no weights to act on in attention's two matmuls, which "
                "`--attention` quantizes",
                "Leave out one of the two",
            )

    @property
    def weight_precision(self) -> Precision:
        """What the weights are quantized to."""
        return dataclasses.replace(self.precision, largest=2 ** (self.weight_bits - 1) - 1)

    def settings(self, manifest: Manifest) -> Settings:
        """How trajectories of this model are sampled."""
        if self.cfg_scale is not None:
            return Settings(self.steps, cfg_scale=self.cfg_scale)
        return Settings(self.steps) if manifest.guidable else Settings(self.steps, cfg_scale=1.0)


@dataclass(frozen=True)
class CalibrationReport:
    """A quantized denoiser.

    Attributes:
        bundle: Where it was written.
        precision: Its name.
        weight_bits: Of its weights.
        base: The precision of what is not quantized.
        sites: The operands that were quantized.
        kept: The sites that stayed in the base's precision for the budget.
        skipped: The layers that are never quantized, and why.
        ranges_sha256: Of ranges.json.
        relative_l2: The largest of the bundle's golden calls, against PyTorch in fp32.
        coverage: Of the calibration set; None where ranges were given.
        search: What the budget's search found; None without a budget.
    """

    bundle: Path
    precision: str
    weight_bits: int
    base: str
    sites: tuple[str, ...]
    kept: tuple[str, ...]
    skipped: Mapping[str, str]
    ranges_sha256: str
    relative_l2: float
    coverage: Coverage | None
    search: Search | None

    @property
    def passed(self) -> bool:
        return self.search is None or self.search.passed
