"""The whole export in order: a checkpoint or preset in, a bundle out, or nothing at all."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .. import CheckpointError, NonFiniteError, OptionError
from ..graphs.graph_file import write_graph
from ..runtime.backend import SessionOptions
from ..runtime.bundle.folder import Bundle, new_bundle, write_manifest
from ..runtime.bundle.goldens import Goldens, write_goldens
from ..runtime.bundle.manifest import STEP, Manifest, PassReport
from ..runtime.bundle.precision import Precision
from ..runtime.distance import relative_l2
from ..runtime.opened import open_denoiser
from ..runtime.pipeline import Pipeline
from ..runtime.sampling.samplers import sampler_for
from ..runtime.sampling.settings import Settings
from ..runtime.stage import Moved, OnStage, unheard
from .by_hand import ByHand
from .found import find_model, find_vae
from .goldens import draw_goldens, golden_settings
from .lowering.kept_fp32 import RULES, Rule, rules_for
from .lowering.lower import LOW, choose_precisions, lower
from .optimize import DENOISER, Optimized, choose_steps, denoiser_calls, example_feeds, optimize
from .parity import FP32_TOLERANCE, Parity, check_parity
from .pipeline_folder import SAID_NOTHING, with_pipeline
from .step_graph import step_graph
from .target import check_precisions, find_target
from .trace import Hints, ImageSize, TorchSession, load_source, manifest_for, trace
from .vae.add import ONE_TILE, VaeParity, VaeShape, add_decoders, manifest_with
from .vae.add_encoder import add_encoder
from .vae.trace import Vae, read_vae

MAX_BATCH = 256
RGB = 3  # channels
GOLDEN_IMAGES = 8  # at least, whatever the batch
MAX_SEED = 2**63 - 1  # of PyTorch's generator


@dataclass(frozen=True)
class ExportReport:
    """What an export made.

    Attributes:
        bundle: Where the bundle is, if the gates were met.
        parities: Each precision's graphs against PyTorch; no other where fp32's gate is not met.
        passes: What each pass did, and what was left in fp32 in the other precisions.
        vae: The VAE's graphs against PyTorch, where there is one; its encoder's too.
        notes: What a user should know of how the checkpoint was read.
    """

    bundle: Path
    parities: Mapping[str, Parity]
    passes: tuple[PassReport, ...]
    vae: Mapping[str, VaeParity] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def parity(self) -> Parity:
        """The fp32 graphs'."""
        return self.parities["fp32"]

    @property
    def passed(self) -> bool:
        held = [parity.passed for parity in self.parities.values()]
        return all(held + [parity.passed for parity in self.vae.values()])


def export_bundle(
    source: str,
    out: Path,
    *,
    batch: int = 2,
    image_size: ImageSize | None = None,
    seed: int = 0,
    target: str = "portable",
    left_out: Sequence[str] = (),
    put_in: Sequence[str] = (),
    precisions: Sequence[str] = ("fp32",),
    hints: Hints | None = None,
    by_hand: ByHand = SAID_NOTHING,
    vae: Path | None = None,
    vae_shape: VaeShape = ONE_TILE,
    revision: str | None = None,
    on_stage: OnStage = unheard,
) -> ExportReport:
    """Trace a checkpoint, hold its graphs against PyTorch, and write a bundle.

    Args:
        source: A checkpoint's path, a preset's name, or that of a repository on a hub.
        out: The bundle's folder; a bundle that is there already is replaced.
        batch: Rows of one denoiser call, from 1 to 256; guidance takes two for an image.
        image_size: Of the image in pixels, where it is not the config's: rows and columns, or the
            side of a square.
        seed: For the weights of a preset that was never trained.
        target: What the graphs are made for, a name in `export.target.TARGETS`.
        left_out: Names of passes, or ``split``, that are not to run.
        put_in: Names of passes that run although they are off for the target.
        precisions: Of the denoiser's graphs, names in `runtime.bundle.precision.FLOATING`; fp32 is
            always among them.
        hints: What a checkpoint of other people's cannot tell by itself.
        by_hand: What is said of the model's schedule; a scheduler beside it is then not read.
        vae: A folder of diffusers with the VAE whose two halves go into the bundle, the name of a
            repository with one, or None.
        vae_shape: What they are traced for.
        revision: Of the repository that the checkpoint is in; None for its main branch.
        on_stage: Told what is being done.

    Returns:
        A report. Where one of its gates is not met, nothing was written.

    Raises:
        PitstopError: The source cannot be read, an option does not exist, or ``out`` cannot be
            written.
        PassBroken: A pass changed what the graph computes; nothing was written.
    """
    if not 1 <= batch <= MAX_BATCH:
        raise OptionError(f"The batch is {batch}", f"Choose 1 to {MAX_BATCH} rows")
    if not 0 <= seed <= MAX_SEED:
        raise OptionError(f"The seed is {seed}", f"Choose one from 0 to {MAX_SEED}")
    steps, chosen = choose_steps(target, left_out, put_in), choose_precisions(precisions)
    check_precisions(target, chosen)
    model = find_model(source, revision, hints, on_stage)
    autoencoder = None if vae is None else find_vae(vae, on_stage)
    source = model.path
    on_stage("reading the checkpoint")
    read = None if autoencoder is None else read_vae(Path(autoencoder.path))
    enlarges = None if read is None else (read.latent_channels, read.factor)
    checkpoint = load_source(source, image_size, seed, hints, enlarges)
    with new_bundle(out, on_stage) as folder:
        alone = manifest_for(checkpoint, model.name, batch)
        sources = tuple(one.source for one in (model, autoencoder) if one and one.source)
        manifest, notes = _in_its_space(
            alone, source, by_hand, read, resized=image_size is not None
        )
        settings = _checked_settings(source, manifest)
        on_stage("tracing")
        traced = trace(checkpoint.model, batch, find_target(target).opset)
        folded = optimize(traced, example_feeds(manifest), steps, on_stage)
        on_stage("writing the graphs")
        manifest = dataclasses.replace(
            manifest,
            graphs={name: write_graph(g, folder, name) for name, g in folded.graphs.items()},
            passes=folded.reports,
            target=target,
            sources=sources,
        )
        step = write_graph(step_graph(manifest), folder, STEP)
        manifest = dataclasses.replace(manifest, graphs={**manifest.graphs, STEP: step})
        reference = Pipeline(manifest, TorchSession(checkpoint.model), "fp32")
        images = max(GOLDEN_IMAGES, batch // 2)
        moved = on_stage("running PyTorch for the goldens", images, settings.steps)
        goldens = _draw_goldens(reference, settings, images, moved)
        write_goldens(goldens, folder)
        moved = on_stage("comparing ONNX Runtime with PyTorch", len(goldens.timesteps))
        parity = check_parity(open_here(manifest, folder, "fp32"), goldens, FP32_TOLERANCE, moved)
        report = ExportReport(out, {"fp32": parity}, folded.reports)
        for name in chosen[1:] if parity.passed else ():
            on_stage(f"writing the denoiser in {name}")
            manifest, parity = add_precision(manifest, folder, LOW[name], folded, goldens)
            report = ExportReport(out, {**report.parities, name: parity}, manifest.passes)
        if read is not None and report.passed:
            opset = find_target(target).opset
            manifest, decoders = add_decoders(
                manifest, folder, read, vae_shape, goldens, opset, on_stage
            )
            manifest, encoder, said = add_encoder(
                manifest, folder, read, vae_shape, goldens, opset, on_stage
            )
            notes += said
            report = dataclasses.replace(
                report, vae={**decoders, **encoder}, passes=manifest.passes
            )
        if report.passed:
            write_manifest(folder, manifest)
    return dataclasses.replace(report, notes=(*checkpoint.notes, *notes))


def _in_its_space(
    alone: Manifest, source: str, by_hand: ByHand, vae: Vae | None, *, resized: bool
) -> tuple[Manifest, tuple[str, ...]]:
    """The manifest with what pipeline, user and VAE say, and notes of what they do not."""
    manifest, notes = with_pipeline(source, alone, by_hand)
    if vae is not None:
        return manifest_with(vae, manifest), notes
    channels = manifest.latent_shape[0]
    if resized and manifest.latent_space != alone.latent_space:
        raise CheckpointError(
            f"{source} draws latents of {channels} channels, and nothing says how many pixels of "
            "the image one of theirs is wide",
            "Name its VAE with `--vae`, or leave `--image-size` out",
        )
    if manifest.latent_space == "pixel" and channels == RGB:
        notes += (
            f"its {RGB} channels are taken for the image itself; where they are latents (LDM's "
            "f4), name their VAE with `--vae`",
        )
    return manifest, notes


def _checked_settings(source: str, manifest: Manifest) -> Settings:
    """How the goldens are sampled, which must be possible as the model's scheduler has it."""
    settings = golden_settings(manifest)
    try:
        sampler_for(manifest, settings)
    except OptionError as error:
        raise CheckpointError(
            f"{source} has a scheduler that the goldens cannot be drawn by: {error.problem}",
            "Say both `--prediction` and `--betas`, which leave it unread, or mend its config",
        ) from error
    return settings


def _draw_goldens(reference: Pipeline, settings: Settings, images: int, moved: Moved) -> Goldens:
    try:
        return draw_goldens(reference, settings, images, rows=2 * GOLDEN_IMAGES, on_step=moved)
    except NonFiniteError as error:
        raise CheckpointError(
            f"PyTorch itself leaves the finite numbers with this checkpoint: {error.problem}",
            "Take an earlier checkpoint",
        ) from error


def add_precision(
    manifest: Manifest, folder: Path, precision: Precision, folded: Optimized, goldens: Goldens
) -> tuple[Manifest, Parity]:
    """Write the denoiser in one more precision, and hold it against PyTorch.

    A target that has more of it in low precision than `kept_fp32.RULES` say has it so where that
    passes the gate.
    """
    for rules in dict.fromkeys((rules_for(precision, find_target(manifest.target)), RULES)):
        added, parity = _add_lowered(manifest, folder, precision, folded, goldens, rules)
        if parity.passed:
            break
    return added, parity


def _add_lowered(
    manifest: Manifest,
    folder: Path,
    precision: Precision,
    folded: Optimized,
    goldens: Goldens,
    rules: Sequence[Rule],
) -> tuple[Manifest, Parity]:
    """Write the denoiser in a precision, and hold it against PyTorch.

    The gate holds for the twin that rounds as a device does, and for the graph itself where ONNX
    Runtime can run it.
    """
    wide = folded.graphs[DENOISER]
    lowered = lower(wide, precision, denoiser_calls(folded.graphs, goldens), rules=rules)
    name = f"denoiser.{precision.name}"
    graphs = {**manifest.graphs, name: write_graph(lowered.model, folder, name)}
    passes = (*manifest.passes, lowered.report)
    manifest = dataclasses.replace(manifest, graphs=graphs, passes=passes)
    errors = tuple(map(relative_l2, goldens.predictions, lowered.predictions))
    if precision.runs_here:
        run = open_here(manifest, folder, precision.name)
        errors += check_parity(run, goldens, precision.tolerance).relative_l2
    return manifest, Parity(errors, precision.tolerance)


def open_here(manifest: Manifest, folder: Path, precision: str) -> Pipeline:
    """A bundle that is still being written, on ONNX Runtime's CPU provider."""
    options = SessionOptions(provider="CPUExecutionProvider")
    return Pipeline.of(open_denoiser(Bundle(folder, manifest), precision, "onnxruntime", options))
