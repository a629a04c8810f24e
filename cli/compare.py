"""``pitstop compare``: a bundle against PyTorch, by its goldens or live."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import backend_option, precision_option, provider_option, threads_option
from .printing import console, decibel, json_option, step_progress, table, write_json

if TYPE_CHECKING:
    from ..evaluation.compare import Comparison


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--checkpoint",
    metavar="CHECKPOINT|PRESET",
    help="Run PyTorch live instead of reading the goldens.",
)
@click.option(
    "--images", type=click.IntRange(min=1), default=8, show_default=True, help="With --checkpoint."
)
@click.option("--steps", default=50, show_default=True, help="With --checkpoint.")
@click.option("--sampler", default="ddim", show_default=True, help="With --checkpoint.")
@click.option("--cfg-scale", default=4.0, show_default=True, help="With --checkpoint.")
@precision_option
@backend_option
@provider_option
@threads_option
@click.option(
    "--min-psnr",
    type=float,
    metavar="DB",
    help="Gate of the median image; by default 60 for fp32 and fp16, 48 for bf16, 40 for int8.",
)
@json_option
def compare(
    bundle: Path,
    checkpoint: str | None,
    images: int,
    steps: int,
    sampler: str,
    cfg_scale: float,
    precision: str | None,
    backend: str,
    provider: str | None,
    threads: int | None,
    min_psnr: float | None,
    json_path: Path | None,
) -> None:
    """Hold BUNDLE against PyTorch in fp32, on the same noise; exit 1 where the gate is not met.

    Example: pitstop compare fashion.bundle --checkpoint fashion --min-psnr 60
    """
    from ..evaluation.compare import compare as compare_pipelines
    from ..runtime.backend import SessionOptions
    from ..runtime.bundle import open_bundle
    from ..runtime.goldens import read_goldens
    from ..runtime.pipeline import Pipeline, Settings

    candidate = Pipeline.from_bundle(
        bundle, backend=backend, precision=precision, options=SessionOptions(provider, threads)
    )
    with step_progress() as progress:
        if checkpoint is None:
            opened = open_bundle(bundle)
            goldens = read_goldens(opened.path(opened.manifest.goldens))
        else:
            from ..evaluation.reference import live_goldens

            settings = Settings(steps, sampler, cfg_scale)
            task = progress.add_task("PyTorch", total=images * steps)
            goldens = live_goldens(
                checkpoint,
                candidate.manifest,
                settings,
                images,
                on_step=lambda moved: progress.advance(task, moved),
            )
        task = progress.add_task(
            candidate.session.device, total=len(goldens.seeds) * goldens.settings.steps
        )
        report = compare_pipelines(
            candidate,
            goldens,
            reference=f"{checkpoint}, live" if checkpoint else "the bundle's goldens",
            min_psnr_db=min_psnr,
            on_step=lambda moved: progress.advance(task, moved),
        )
    write_json(json_path, figures(report))
    _print(report)
    if not report.passed:
        sys.exit(1)


def figures(report: Comparison) -> dict[str, Any]:
    """The figures for ``--json``; what this comparison does not measure is null."""
    return {
        "backend": report.backend,
        "precision": report.precision,
        "reference": report.reference,
        "steps": len(report.step_relative_l2),
        "images": len(report.psnr_db),
        "relative_l2_max": report.relative_l2_max,
        "relative_l2": dict(zip(map(str, report.timesteps), report.relative_l2, strict=True)),
        "step_relative_l2": report.step_relative_l2,
        "psnr_db": report.psnr_db,
        "psnr_db_median": report.psnr_db_median,
        "psnr_db_min": min(report.psnr_db),
        "ssim_median": None,
        "class_agreement": None,
        "frechet_distance": None,
        "min_psnr_db": report.min_psnr_db,
        "max_relative_l2": report.max_relative_l2,
        "passed": report.passed,
    }


def _print(report: Comparison) -> None:
    calls = zip(report.timesteps, report.relative_l2, strict=True)
    console.print(
        f"{report.backend}, {report.precision}, against {report.reference}: "
        f"{len(report.psnr_db)} images, {len(report.step_relative_l2)} steps\n"
    )
    console.print(
        table(["one call at timestep", "relative L2"], ([str(t), f"{e:.1e}"] for t, e in calls))
    )
    shown = _quarters(len(report.step_relative_l2))
    steps = ([str(k + 1), f"{report.step_relative_l2[k]:.1e}"] for k in shown)
    console.print()
    console.print(table(["latent after step", "relative L2"], steps))
    console.print()
    psnr = [decibel(value) for value in report.psnr_db[:ROWS]]
    console.print(table(["image", "PSNR"], ([str(k), value] for k, value in enumerate(psnr))))
    if len(report.psnr_db) > ROWS:
        console.print(f"... and {len(report.psnr_db) - ROWS} images more", style="dim")
    limit = report.max_relative_l2
    worst = f"; worst call {report.relative_l2_max:.1e}" + (
        f", at most {limit:.0e}" if limit else ""
    )
    verdict = "[green]passed[/]" if report.passed else "[red]FAILED[/]"
    console.print(
        f"\nmedian PSNR {decibel(report.psnr_db_median)}, at least {report.min_psnr_db:g} dB"
        f"{worst}: {verdict}"
    )


ROWS = 16  # images listed one by one


def _quarters(steps: int) -> list[int]:
    return sorted({round(share * (steps - 1) / 4) for share in range(5)})
