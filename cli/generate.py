"""``pitstop generate``: images from a bundle, without PyTorch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .inputs import check_input
from .options import (
    backend_option,
    init_options,
    precision_option,
    sampling_options,
    session_options,
)
from .places import check_apart, check_beside_images, check_outside
from .printing import check_place, console, json_option, messages, pairs, write_json
from .progress import shown_stages

if TYPE_CHECKING:
    from ..runtime.backend import SessionOptions
    from ..runtime.bundle.manifest import Manifest
    from ..runtime.jobs import RunReport
    from ..runtime.pipeline import Pipeline
    from ..runtime.sampling.settings import Settings


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path), callback=check_input)
@click.option("--label", "labels", multiple=True, help="A class, by number or name; repeatable.")
@click.option("--num", type=click.IntRange(1, 1_000_000), help="Images in all, the labels in turn.")
@sampling_options()
@click.option(
    "--seed", default=0, show_default=True, help="Of the first image; then one more each."
)
@click.option(
    "--latents",
    type=click.Path(path_type=Path),
    metavar="FILE.npy",
    callback=check_input,
    help="Noise to start from, float32 [image, channel, row, column]; by default the seeds'.",
)
@init_options
@precision_option
@backend_option
@session_options
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the images.")
@click.option(
    "--npz",
    type=click.Path(path_type=Path),
    callback=check_place,
    metavar="FILE",
    help="All images in one .npz, as ADM's evaluator reads it; without --out in that alone.",
)
@click.option(
    "--overwrite",
    is_flag=True,
    help="Draw anew, and remove images of other options from the folder.",
)
@click.option("--strict", is_flag=True, help="Draw again what another backend drew.")
@json_option
def generate(
    bundle: Path,
    labels: tuple[str, ...],
    num: int | None,
    settings: Settings,
    seed: int,
    latents: Path | None,
    begins: Mapping[str, Any],
    precision: str | None,
    backend: str,
    options: SessionOptions,
    out: Path | None,
    npz: Path | None,
    overwrite: bool,
    strict: bool,
    json_path: Path | None,
) -> None:
    """Draw images with BUNDLE: one PNG each and a grid of all, or one .npz.

    Images that are in the folder already, from the same bundle and options, are kept: a run that
    was stopped goes on where it was. A folder or file of other options is refused.

    Example: pitstop generate fashion.bundle --label sneaker --num 8 --out pictures
    """
    from ..runtime.jobs import draw_images
    from ..runtime.jobs.draw_npz import draw_npz
    from ..runtime.jobs.plan import plan_images
    from ..runtime.jobs.start_latents import read_latents
    from ..runtime.pipeline import Pipeline

    _check_places(bundle, {"--npz": npz, "--json": json_path}, out, latents, begins)
    draw: Callable[..., RunReport]
    if npz is not None:
        draw = functools.partial(draw_npz, npz=npz, out=out)
    elif out is not None:
        draw = functools.partial(draw_images, out=out)
    else:
        raise click.UsageError("Say where the images go, with --out FOLDER or --npz FILE.")
    with shown_stages() as on_stage:
        on_stage(f"opening {bundle}")
        opened = Pipeline.from_bundle(bundle, backend=backend, precision=precision, options=options)
        with opened as pipeline:
            init = pipeline.begin_with(**begins)
            said = pipeline.forecast(settings, init)
            shape = pipeline.manifest.latent_shape
            starts = None if latents is None else read_latents(latents, shape)
            plan = plan_images(pipeline.manifest, labels, num, seed, starts)
            if said is not None and said.note:
                messages.print(f"note: {said.note}", style="yellow", markup=False)
            done = draw(
                pipeline,
                plan,
                settings,
                overwrite=overwrite,
                strict=strict,
                init=init,
                on_stage=on_stage,
            )
    write_json(json_path, done.figures())
    _print(done, out, opened)


def _check_places(
    bundle: Path,
    writes: Mapping[str, Path | None],
    out: Path | None,
    latents: Path | None,
    begins: Mapping[str, Any],
) -> None:
    """Refuse files that would be lost before anything is drawn."""
    reads = {"`--latents`": latents, "`--init`": begins["picture"], "`--mask`": begins["mask"]}
    check_apart(writes, reads)
    check_outside(writes, bundle)
    if out is not None:
        check_beside_images(writes, out)


def _print(done: RunReport, out: Path | None, opened: Pipeline) -> None:
    chosen = opened.chosen
    console.print(
        pairs([
            ("images", f"{done.drawn} drawn, {done.kept} kept from before"),
            *([("file", str(done.npz))] if done.npz else []),
            *([("folder", str(out))] if out else []),
            *(
                [("stays", f"{done.left}: it holds more, or another run draws there")]
                if done.left
                else []
            ),
            ("grid", str(done.grid) if done.grid else done.why_no_grid),
            ("backend", f"{done.device}, {done.precision}"),
            *([("auto", f"took {chosen.name}: {chosen.why}")] if chosen and chosen.why else []),
            *([("latents", f"through the host: {done.why_on_host}")] if done.why_on_host else []),
            ("time", f"{done.seconds:.1f} s, {done.ms_per_step or 0:.0f} ms a step"),
            *_faster(done, opened.manifest),
        ])
    )
    if why := _why_not_exact(done, opened.manifest):
        messages.print(
            f"note: {done.precision} is not exact here: {why}; fp32 is exact, and so is "
            f"{done.precision} after `pitstop calibrate --weight-bits 7`",
            style="yellow",
        )


def _faster(done: RunReport, manifest: Manifest) -> list[tuple[str, str]]:
    """The precision of the bundle's that is faster on this CPU, where there is one."""
    from ..runtime.machine.cpu import cpu_features, fastest_precision

    fastest = fastest_precision(cpu_features()) if "cpu" in done.device.lower() else None
    if fastest in (None, done.precision) or fastest not in manifest.precisions:
        return []
    return [("faster", f"`--precision {fastest}` on this CPU")]


def _why_not_exact(done: RunReport, manifest: Manifest) -> str | None:
    from ..runtime.bundle.precision import QUANTIZED
    from ..runtime.machine.cpu import cpu_features, why_int8_saturates

    on_cpu = "cpu" in done.device.lower()
    fits = done.precision not in QUANTIZED or manifest.weight_bits(done.precision) == 7
    return why_int8_saturates(cpu_features()) if on_cpu and not fits else None
