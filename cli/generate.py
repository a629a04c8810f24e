"""``pitstop generate``: images from a bundle, without PyTorch."""

from __future__ import annotations

from pathlib import Path

import click

from .options import backend_option, precision_option, provider_option, threads_option
from .printing import console, json_option, pairs, step_progress, write_json


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--label", "labels", multiple=True, help="A class, by number or name; repeatable.")
@click.option("--num", type=click.IntRange(1, 1_000_000), help="Images in all, the labels in turn.")
@click.option("--steps", default=50, show_default=True, help="Denoiser calls for an image.")
@click.option(
    "--sampler",
    default="auto",
    show_default=True,
    help="ddim, ddpm or dpmpp_2m; for flow models euler or heun. The first is what auto takes.",
)
@click.option("--cfg-scale", default=4.0, show_default=True, help="Guidance scale; 1 is none.")
@click.option("--eta", default=0.0, show_default=True, help="DDIM's share of fresh noise, 0 to 1.")
@click.option(
    "--seed", default=0, show_default=True, help="Of the first image; then one more each."
)
@precision_option
@backend_option
@provider_option
@threads_option
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder for the images."
)
@json_option
def generate(
    bundle: Path,
    labels: tuple[str, ...],
    num: int | None,
    steps: int,
    sampler: str,
    cfg_scale: float,
    eta: float,
    seed: int,
    precision: str | None,
    backend: str,
    provider: str | None,
    threads: int | None,
    out: Path,
    json_path: Path | None,
) -> None:
    """Draw images with BUNDLE: one PNG each, and a grid of all.

    Images that are in the folder already, from the same bundle and options, are kept: a run that
    was stopped goes on where it was.

    Example: pitstop generate fashion.bundle --label sneaker --num 8 --out pictures
    """
    from ..runtime.backend import SessionOptions
    from ..runtime.jobs import draw_images, plan_images
    from ..runtime.pipeline import Pipeline
    from ..runtime.sampling.settings import Settings

    options = SessionOptions(provider, threads)
    pipeline = Pipeline.from_bundle(bundle, backend=backend, precision=precision, options=options)
    chosen = pipeline.chosen
    settings = Settings(steps, sampler, cfg_scale, eta)
    plan = plan_images(pipeline.manifest, labels, num, seed)
    with step_progress() as progress:
        task = progress.add_task("drawing", total=None)
        done = draw_images(
            pipeline,
            plan,
            settings,
            out,
            on_start=lambda total: progress.update(task, total=total),
            on_step=lambda: progress.advance(task),
        )
    write_json(json_path, done.figures())
    console.print(
        pairs([
            ("images", f"{done.drawn} drawn, {done.kept} kept from before"),
            ("folder", str(out)),
            ("grid", str(done.grid) if done.grid else done.why_no_grid),
            ("backend", f"{done.device}, {pipeline.precision}"),
            *([("auto", f"took {chosen.name}: {chosen.why}")] if chosen and chosen.why else []),
            *([("latents", f"through the host: {done.why_on_host}")] if done.why_on_host else []),
            ("time", f"{done.seconds:.1f} s, {done.ms_per_step or 0:.0f} ms a step"),
        ])
    )
