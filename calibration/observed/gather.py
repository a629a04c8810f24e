"""The ranges of an fp32 denoiser's activations, and how far they can be trusted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from ...runtime.backend import SessionOptions
from ...runtime.bundle.folder import Bundle
from ...runtime.bundle.precision import Precision
from ...runtime.stage import OnStage
from ..methods import find_threshold
from ..qdq.channels import find_scalable
from ..qdq.placement import Site
from ..qdq.smoothing import Factors, apply_smoothing, choose_factors, smooth
from ..sets.calibration_set import CalibrationSet
from ..sets.feeds import Batch, feed
from .coverage import Coverage, cover
from .observe import Observation, groups, observe
from .ranges import ActivationRange, Ranges


@dataclass(frozen=True)
class Watcher:
    """A bundle's denoiser, ready to be watched over one set or another.

    Attributes:
        bundle: With the conditioner.
        sites: Whose activations are watched.
        options: How the graphs are run.
        on_stage: Told of each set that is run, a denoiser call at a time.
    """

    bundle: Bundle
    sites: Sequence[Site]
    options: SessionOptions
    on_stage: OnStage

    def over_sites(
        self, model: ir.Model, drawn: CalibrationSet, what: str
    ) -> dict[str, Observation]:
        """What the sites' activations hold over a set."""
        axes = {site.tensor: site.channel_axis for site in self.sites}
        return self.over(model, drawn, axes, what)

    def over(
        self, model: ir.Model, drawn: CalibrationSet, channel_axes: Mapping[str, int], what: str
    ) -> dict[str, Observation]:
        """What tensors, given with the axis of their channels, hold over a set."""
        calls = -(-len(drawn) // self.bundle.manifest.batch)
        moved = self.on_stage(what, calls * len(list(groups(model, list(channel_axes)))))

        def batches() -> Iterator[Batch]:
            for batch in feed(self.bundle, drawn, self.options):
                yield batch
                moved(1)

        return observe(model, channel_axes, batches, self.options)


def take_ranges(
    watcher: Watcher,
    model: ir.Model,
    drawn: CalibrationSet,
    held_out: CalibrationSet,
    *,
    method: str,
    precision: Precision,
    smoothed: bool,
    graph_sha256: str,
) -> tuple[Ranges, Coverage]:
    """Watch a denoiser over a set, and check its ranges on trajectories that it did not see."""
    factors: Factors = {}
    if smoothed:
        factors = _find_factors(watcher, model, drawn)
        model = apply_smoothing(model, smooth(model.graph, factors))
    gathering = f"gathering the ranges of {len(watcher.sites)} activations"
    observed = watcher.over_sites(model, drawn, gathering)
    by_tensor = {
        name: ActivationRange(
            threshold=find_threshold(method, one.histogram, precision),
            amax=one.histogram.amax,
            samples=one.histogram.samples,
        )
        for name, one in observed.items()
    }
    unseen = watcher.over_sites(model, held_out, "checking the ranges")
    second = {
        name: find_threshold(method, one.histogram, precision) for name, one in unseen.items()
    }
    coverage = cover(
        drawn, watcher.bundle.manifest, watcher.sites, observed, by_tensor, unseen, second
    )
    return Ranges(graph_sha256, method, by_tensor, factors), coverage


def _find_factors(watcher: Watcher, model: ir.Model, drawn: CalibrationSet) -> Factors:
    """Divisors for the tensors that a quantized layer reads."""
    weights = {site.weight for site in watcher.sites}
    tensors = [
        found.tensor
        for found in find_scalable(model.graph)
        if weights & {span.weight for span in found.readers}
    ]
    seen = watcher.over(model, drawn, dict.fromkeys(tensors, -1), "looking for loud channels")
    return choose_factors(model.graph, {name: seen[name].amax_by_channel for name in tensors})
