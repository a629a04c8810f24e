"""``pitstop export``: a checkpoint or preset to a bundle."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .. import CalibrationError, PitstopError
from .escaped import escaped
from .inputs import check_input
from .options import as_value, hint_options, parse_image_size, revision_option, split_names
from .passes_table import passes_table
from .printing import console, json_option, megabytes, pairs, write_json
from .progress import shown_stages

if TYPE_CHECKING:
    from ..calibration.recipe import CalibrationReport
    from ..export.by_hand import ByHand
    from ..export.parity import Parity
    from ..export.pipeline import ExportReport
    from ..export.vae.add import VaeParity, VaeShape
    from ..runtime.stage import OnStage


TARGET_HELP = (
    "What the graphs are for: portable, onnxruntime, openvino, tensorrt10, tensorrt11 or "
    "tensorrt-rtx."
)


@as_value(
    "vae_shape",
    click.option(
        "--vae-tile",
        default=64,
        show_default=True,
        metavar="LATENT_PIXELS",
        help="Larger latents are decoded, and images encoded, in tiles of this side.",
    ),
    click.option("--vae-batch", default=1, show_default=True, help="Images of one decoder call."),
)
def vae_shape_options(vae_tile: int, vae_batch: int) -> VaeShape:
    """What the VAE's decoder is traced for."""
    from ..export.vae.add import VaeShape

    return VaeShape(vae_batch, vae_tile)


@as_value(
    "by_hand",
    click.option(
        "--prediction",
        metavar="NAME",
        help="What the model predicts, where no scheduler says it: epsilon, v_prediction, sample.",
    ),
    click.option(
        "--betas",
        metavar="NAME:start:end:steps",
        help="Its betas: linear, scaled_linear or squaredcos_cap_v2, such as "
        "scaled_linear:0.00085:0.012:1000.",
    ),
    click.option("--shift", type=float, help="Of a flow's times, as diffusers' shift."),
)
def by_hand_options(**fields: Any) -> ByHand:
    """What is said of the model's schedule."""
    from ..export.by_hand import ByHand

    return ByHand(**fields)


@click.command()
@click.argument("source", metavar="CHECKPOINT|PRESET|REPOSITORY", callback=check_input)
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder for the bundle."
)
@click.option(
    "--batch",
    default=2,
    show_default=True,
    help="Rows of one denoiser call; guidance takes two for an image.",
)
@click.option(
    "--image-size",
    callback=parse_image_size,
    metavar="HEIGHTxWIDTH",
    help="Of the image in pixels; one number for a square.",
)
@click.option("--seed", default=0, show_default=True, help="For a preset's random weights.")
@click.option("--target", default="portable", show_default=True, help=TARGET_HELP)
@click.option(
    "--no-pass", "left_out", multiple=True, metavar="NAME", help="Leave a pass out; repeatable."
)
@click.option(
    "--pass",
    "put_in",
    multiple=True,
    metavar="NAME",
    help="Run a pass that is off for the target, such as pad_heads; repeatable.",
)
@click.option(
    "--precision",
    "precisions",
    default="fp32",
    show_default=True,
    callback=split_names,
    metavar="NAME[,NAME...]",
    help="fp16, bf16 and int8 beside fp32, which is always written.",
)
@revision_option
@hint_options
@by_hand_options
@click.option(
    "--vae",
    type=click.Path(path_type=Path),
    metavar="DIR|REPOSITORY",
    callback=check_input,
    help="A diffusers folder with the VAE whose decoder and encoder go into the bundle.",
)
@vae_shape_options
@json_option
def export(
    source: str, out: Path, precisions: tuple[str, ...], json_path: Path | None, **asked: Any
) -> None:
    """Trace a checkpoint into ONNX, check it against PyTorch, and write a bundle.

    int8 is added by `pitstop calibrate` with its own defaults. What is neither here nor a preset
    is a repository's name on the Hugging Face hub, such as facebook/DiT-XL-2-256, or
    OWNER/NAME:FILE.

    PRESET is fashion, which is trained, or random weights: pit-{ti,s,b,l,xl}-{2,4,8},
    dit-{s,b,l,xl}-{2,4,8} or edt-{s,b,xl}-2, each of these with -512 too. `pitstop presets` lists
    all.

    Example: pitstop export fashion --out fashion.bundle --batch 8 --precision fp16,int8
    """
    from ..export.graph_pass import PassBroken
    from ..export.pipeline import export_bundle
    from ..runtime.bundle.precision import QUANTIZED

    out = Path(os.path.abspath(out))  # "." is moved away where a bundle is there already
    floating = [name for name in precisions if name not in QUANTIZED]
    try:
        with shown_stages() as on_stage:
            report = export_bundle(source, out, precisions=floating, on_stage=on_stage, **asked)
            calibrated = {
                name: _calibrate(out, name, on_stage)
                for name in QUANTIZED
                if report.passed and name in precisions
            }
    except PassBroken as error:
        click.echo(
            f"pitstop: {error}. Nothing was written; leave that pass out with `--no-pass`, and "
            "report the checkpoint's config.",
            err=True,
        )
        sys.exit(1)
    write_json(json_path, figures(out, report, calibrated))
    if not report.passed:
        click.echo(f"pitstop: {escaped(_failure(report), one_line=True)}", err=True)
        sys.exit(1)
    _print(out, report, calibrated)


def figures(
    out: Path, report: ExportReport, calibrated: Mapping[str, CalibrationReport]
) -> dict[str, Any]:
    return {
        "bundle": str(out) if report.passed else None,
        "relative_l2": report.parity.worst,
        "relative_l2_by_precision": {
            **{name: parity.worst for name, parity in report.parities.items()},
            **{name: made.relative_l2 for name, made in calibrated.items()},
        },
        "tolerance": report.parity.tolerance,
        "decoder_psnr_db": {n: parity.worst for n, parity in report.vae.items()},
        "passes": [dataclasses.asdict(done) for done in report.passes],
        "passed": report.passed,
    }


def _print(out: Path, report: ExportReport, calibrated: Mapping[str, CalibrationReport]) -> None:
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    rows = [("bundle", str(out)), ("size", megabytes(size))]
    rows += [(name, _verdict(name, parity)) for name, parity in report.parities.items()]
    rows += [(name, _vae_verdict(parity)) for name, parity in report.vae.items()]
    rows += [
        (name, f"relative L2 {made.relative_l2:.1e} against PyTorch (no gate)")
        for name, made in calibrated.items()
    ]
    rows += [("note", note) for note in report.notes]
    console.print(passes_table(report.passes))
    console.print()
    console.print(pairs(rows))


def _calibrate(bundle: Path, precision: str, on_stage: OnStage) -> CalibrationReport:
    """Add a quantized denoiser; where that fails or is stopped, say what there is."""
    from ..calibration.pipeline import calibrate_bundle
    from ..calibration.recipe import Recipe
    from ..runtime.bundle.precision import PRECISIONS

    add = f"add it with `pitstop calibrate {bundle}`"
    try:
        recipe = Recipe(precision=PRECISIONS[precision])
        return calibrate_bundle(bundle, recipe, on_stage=on_stage)
    except PitstopError as error:
        remedy = f"{add}: {error.remedy[0].lower()}{error.remedy[1:]}"
        problem = f"{bundle} was written without {precision}: {error.problem}"
        raise CalibrationError(problem, remedy[0].upper() + remedy[1:]) from error
    except BaseException:
        click.echo(f"pitstop: {bundle} was written without {precision}; {add}.", err=True)
        raise


def _failure(report: ExportReport) -> str:
    failed = next((item for item in report.vae.items() if not item[1].passed), None)
    if failed is not None:
        return (
            f"The ONNX graph {failed[0]} does not match PyTorch: {_vae_verdict(failed[1])}. "
            "Nothing was written; leave out `--vae` and decode the latents elsewhere, or report "
            "the VAE."
        )
    name, parity = next(item for item in report.parities.items() if not item[1].passed)
    remedy = (
        "reinstall with the versions in the project's constraints.txt, or report the checkpoint"
        if name == "fp32"
        else f"leave {name} out of `--precision`"
    )
    return (
        f"The ONNX graph in {name} does not match PyTorch: {_verdict(name, parity)}. Nothing was "
        f"written; {remedy}."
    )


def _vae_verdict(parity: VaeParity) -> str:
    return f"PSNR {parity.worst:.1f} dB against PyTorch (at least {parity.least_db:.0f})"


def _verdict(name: str, parity: Parity) -> str:
    from ..runtime.bundle.precision import PRECISIONS

    verdict = f"relative L2 {parity.worst:.1e} against PyTorch (at most {parity.tolerance:.0e})"
    if not PRECISIONS[name].runs_here:
        verdict += (
            "; the graph was not run, but its values were rounded in fp32: ONNX Runtime's CPU "
            f"provider has no {name} kernels"
        )
    return verdict
