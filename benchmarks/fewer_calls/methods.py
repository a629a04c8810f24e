"""The methods of the study: how each draws images with fewer calls than steps."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from baselines.block_cache import BLOCKS, TOKENS, CachedSession, fresh
from baselines.schedules import Schedule, at_least, fora, taylorseer
from fewer_calls.cells import STEPS, Cell

from pitstop.evaluation.accuracy.reference import load_model, open_reference
from pitstop.evaluation.demo import SOURCE
from pitstop.models.denoiser import Denoiser
from pitstop.runtime.backend import SessionOptions
from pitstop.runtime.bundle.manifest import Manifest
from pitstop.runtime.pipeline import Pipeline
from pitstop.runtime.sampling.condition import Condition
from pitstop.runtime.sampling.sampler import Latent
from pitstop.runtime.sampling.settings import Settings

GROUP = 16  # images of one call
SEEDS = 100_000  # the first: far from those that a forecast or a calibration is fitted on

FORECAST, TAYLOR, ALL = "forecast", "taylor", "all calls"
SOLVERS = ("ddim", "dpmpp_2m", "unipc", "unipc_3")


@dataclass(frozen=True)
class Cache:
    """A method that keeps features in PyTorch.

    Attributes:
        schedule: Of whole calls.
        order: Of its Taylor series.
        grain: Whose outputs are kept.
    """

    schedule: Schedule
    order: int
    grain: str


CACHES: Mapping[str, Cache] = {
    "FORA": Cache(fora, 0, BLOCKS),
    "TaylorSeer, order 2": Cache(taylorseer, 2, BLOCKS),
    "TaylorSeer, order 4": Cache(taylorseer, 4, BLOCKS),  # its code's default
    "Taylor on tokens, order 2": Cache(taylorseer, 2, TOKENS),
}
BASELINES = (*SOLVERS, *CACHES, TAYLOR)
METHODS = (FORECAST, *BASELINES)


@dataclass(frozen=True)
class Drawn:
    """Images of a cell, float32 [image, channel, row, column], and the calls that each took."""

    latents: Latent
    calls: int


class Drawer:
    """Draws cells, with everything opened once."""

    def __init__(
        self,
        plain: Path,
        fitted: Path,
        images: int,
        backend: str,
        options: SessionOptions,
        group: int = GROUP,
    ) -> None:
        """Take two bundles of one model, which differ in the forecasts in them.

        Args:
            plain: Without forecasts, so that Taylor's series stands in.
            fitted: With those that are judged.
            images: Of a cell.
            backend: Of the graphs.
            options: Of their sessions.
            group: Images of one call in PyTorch.
        """
        self._plain, self._fitted = plain, fitted
        self._images, self._backend, self._options = images, backend, options
        self._group = group
        self._open: dict[tuple[Path, str], Pipeline] = {}

    @functools.cached_property
    def told(self) -> list[Condition]:
        """What each image is told."""
        return self.pipeline(TAYLOR, "fp32").manifest.examples(self._images)

    @property
    def seeds(self) -> range:
        return range(SEEDS, SEEDS + self._images)

    def pipeline(self, method: str, precision: str) -> Pipeline:
        """The bundle's, for methods that it can draw."""
        fitted = method == FORECAST or precision != "fp32"  # the others are in that bundle alone
        key = self._fitted if fitted else self._plain, precision
        if key not in self._open:
            self._open[key] = Pipeline.from_bundle(
                key[0], backend=self._backend, precision=precision, options=self._options
            )
        return self._open[key]

    def way(self, cell: Cell) -> tuple[Pipeline, Settings, int]:
        """What draws a cell, how, and with how many calls."""
        settings = Settings(STEPS, "ddim", cell.cfg_scale)
        if cell.method in CACHES:
            pipeline, calls = self._cached(CACHES[cell.method], cell.calls)
            return pipeline, settings, calls
        pipeline = self.pipeline(cell.method, cell.precision)
        if cell.method in SOLVERS:
            settings = Settings(cell.calls, cell.method, cell.cfg_scale)
        elif cell.method != ALL:
            settings = dataclasses.replace(settings, calls=cell.calls)
        return pipeline, settings, cell.calls

    def draw(self, cell: Cell, on_step: Callable[[int], None] | None = None) -> Drawn:
        pipeline, settings, calls = self.way(cell)
        return Drawn(pipeline.draw(self.told, list(self.seeds), settings, on_step), calls)

    def draw_with_torch(self, images: int, cfg_scale: float) -> Latent:
        """The first images with all calls, by PyTorch."""
        reference = open_reference(SOURCE, self._wide)
        settings = Settings(STEPS, "ddim", cfg_scale)
        return reference.draw(self.told[:images], list(self.seeds)[:images], settings)

    @functools.cached_property
    def _model(self) -> Denoiser:
        return load_model(SOURCE, self.pipeline(TAYLOR, "fp32").manifest)

    def _cached(self, cache: Cache, calls: int) -> tuple[Pipeline, int]:
        """PyTorch with a cache, whose groups are of one call each."""
        called: Sequence[int] = at_least(cache.schedule, STEPS, calls)
        session = CachedSession(fresh(self._model), STEPS, called, cache.order, cache.grain)
        return Pipeline(self._wide, session, "fp32"), len(called)

    @property
    def _wide(self) -> Manifest:
        """With a group of images in a call, as PyTorch takes them, whatever the bundle's batch."""
        return dataclasses.replace(self.pipeline(TAYLOR, "fp32").manifest, batch=2 * self._group)
