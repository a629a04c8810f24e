"""From the traced graph to the graphs of a bundle: the target's passes in order, then the split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from .. import one_of
from ..graphs.graph_file import CPU, opened, run_graph, spec_of
from ..graphs.interface import LATENT, MODULATION, TIMESTEP
from ..runtime.bundle.goldens import Goldens
from ..runtime.bundle.manifest import CONDITIONER, Manifest, PassReport
from ..runtime.distance import relative_l2
from ..runtime.sampling.condition import stack
from ..runtime.sampling.conditioner import ask_conditioner
from ..runtime.sampling.noise import START, draw_noise
from ..runtime.session import Array
from ..runtime.stage import OnStage, unheard
from .graph_pass import Feeds, PassBroken, apply_all, report_change
from .passes import PASSES
from .split import NoSplit, split
from .target import find_target

DENOISER = "denoiser.fp32"
SPLIT = "split"
SPLIT_TOLERANCE = 1e-5
STEP_NAMES = (*(graph_pass.name for graph_pass in PASSES), SPLIT)


@dataclass(frozen=True)
class Optimized:
    """The graphs of a bundle, by name, and what each step did."""

    graphs: Mapping[str, ir.Model]
    reports: tuple[PassReport, ...]


def choose_steps(target: str, left_out: Sequence[str], put_in: Sequence[str] = ()) -> list[str]:
    """The names of the passes that run, in order, and of the split.

    Args:
        target: A name in `export.target.TARGETS`.
        left_out: Steps that are not to run.
        put_in: Steps that run although they are off for the target.

    Raises:
        OptionError: There is no such target or pass; the message says which there are.
    """
    for name in (*left_out, *put_in):
        if name not in STEP_NAMES:
            raise one_of("pass", name, STEP_NAMES)
    off = ({*find_target(target).off} - {*put_in}) | {*left_out}
    return [name for name in STEP_NAMES if name not in off]


def optimize(
    model: ir.Model,
    feeds: Feeds,
    steps: Sequence[str],
    on_stage: OnStage = unheard,
) -> Optimized:
    """Run the steps, each held against the graph before it on ``feeds``.

    Raises:
        PassBroken: A step changed what the graph computes.
    """
    chosen = [graph_pass for graph_pass in PASSES if graph_pass.name in steps]
    model, done = apply_all(chosen, model, feeds, on_stage)
    reports = list(done)
    if SPLIT not in steps:
        return Optimized({DENOISER: model}, tuple(reports))
    on_stage("splitting off the conditioner")
    try:
        conditioner, denoiser = split(model)
    except NoSplit as error:
        reports.append(report_change(SPLIT, model, model, (), {DENOISER: str(error)}, 0.0))
        return Optimized({DENOISER: model}, tuple(reports))
    change = _check_split(model, conditioner, denoiser, feeds)
    reports.append(report_change(SPLIT, model, denoiser, (MODULATION,), {}, change))
    return Optimized({CONDITIONER: conditioner, DENOISER: denoiser}, tuple(reports))


def example_feeds(manifest: Manifest) -> Feeds:
    """Inputs for the checks: noise, timesteps from first to last, rows told and untold in turn."""
    return {
        LATENT: draw_noise(range(manifest.batch), START, manifest.latent_shape),
        TIMESTEP: manifest.schedule.spread(manifest.batch).astype(np.float32),
        **stack(manifest.both_branches(manifest.batch)),
    }


def denoiser_calls(graphs: Mapping[str, ir.Model], goldens: Goldens) -> list[Feeds]:
    """What the denoiser's own graph is fed in each call of the goldens."""
    told = {name: np.concatenate(list(rows)) for name, rows in goldens.conditions.items()}
    timesteps = np.repeat(goldens.timesteps.astype(np.float32), goldens.latents.shape[1])
    asked: Feeds = {TIMESTEP: timesteps, **told}
    if CONDITIONER in graphs:
        asked = {MODULATION: modulations(graphs[CONDITIONER], asked)}
    parts = {name: np.split(rows, len(goldens.timesteps)) for name, rows in asked.items()}
    return [
        {LATENT: latent, **{name: part[index] for name, part in parts.items()}}
        for index, latent in enumerate(goldens.latents)
    ]


def modulations(conditioner: ir.Model, feeds: Feeds) -> Array:
    """What a conditioner makes of all rows of ``feeds``, in as many calls as it needs."""
    with opened(conditioner, CPU) as session:
        return ask_conditioner(session, spec_of(conditioner), feeds)[MODULATION]


def _check_split(model: ir.Model, conditioner: ir.Model, denoiser: ir.Model, feeds: Feeds) -> float:
    """How far the pair is from the graph that it was."""
    modulation = modulations(conditioner, feeds)
    split_feeds = {LATENT: feeds[LATENT], MODULATION: modulation}
    [expected], [found] = (
        run_graph(model, feeds).values(),
        run_graph(denoiser, split_feeds).values(),
    )
    change = relative_l2(expected, found)
    if not change <= SPLIT_TOLERANCE:
        raise PassBroken(
            f"The split changed the graph's output by {change:.1e} relative L2, it promises at "
            f"most {SPLIT_TOLERANCE:.0e}"
        )
    return change
