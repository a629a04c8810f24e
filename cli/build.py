"""``pitstop build``: the engines of a bundle, kept in it by what they depend on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .inputs import check_input
from .options import split_names
from .printing import console, json_option, megabytes, table, write_json
from .progress import shown_stages

if TYPE_CHECKING:
    from ..export.engines.build import Built


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path), callback=check_input)
@click.option("--backend", "builder", required=True, help="tensorrt or tensorrt-rtx.")
@click.option("--precision", help="Of the denoiser; by default the most exact in the bundle.")
@click.option(
    "--compute-capability",
    "compute_capabilities",
    callback=split_names,
    metavar="X.Y[,X.Y...]",
    help="The GPUs to build for, such as 8.6,8.9,12.0; by default the one here. tensorrt-rtx only.",
)
@click.option(
    "--optimization-level",
    type=int,
    metavar="0-5",
    help="How long the builder searches; its own by default.",
)
@click.option(
    "--workspace",
    "workspace_mib",
    type=int,
    metavar="MIB",
    help="Device memory for one kernel beside its inputs; by default half of the GPU's.",
)
@click.option(
    "--hardware-compatible", is_flag=True, help="Run on every GPU from Ampere on. tensorrt only."
)
@click.option(
    "--version-compatible",
    is_flag=True,
    help="Run on later versions of the same major one. tensorrt only.",
)
@click.option("--force", is_flag=True, help="Build even where the engine is there.")
@json_option
def build(bundle: Path, json_path: Path | None, **asked: Any) -> None:
    """Build the engines of BUNDLE, on the device or for TensorRT-RTX without one.

    An engine that is there for the same graph, GPU, version and flags is kept.

    Example: pitstop build fashion.bundle --backend tensorrt-rtx --compute-capability 8.9
    """
    from ..export.engines.build import BuildOptions, build_engines

    options = BuildOptions(**asked)
    with shown_stages() as on_stage:
        built = build_engines(bundle, options, on_stage)
    write_json(json_path, figures(built))
    console.print(table(["engine", "graph", "size", "built in", "for"], map(_row, built)))
    console.print()
    console.print(f"engine  {built[0].engine.folder}", soft_wrap=True)


def figures(built: list[Built]) -> dict[str, Any]:
    """The denoiser's engine, and the other graphs' beside it."""
    first, *others = map(_figures, built)
    return {**first, "others": others}


def _figures(built: Built) -> dict[str, Any]:
    engine = built.engine
    return {
        "engine": str(engine.plan),
        "graph": engine.key.graph,
        "key": engine.key.digest,
        "bytes": engine.plan_bytes,
        "seconds": engine.seconds if built.is_new else None,
        "builder": f"{engine.key.builder} {engine.key.builder_version}",
        "compute_capability": engine.key.compute_capability,
        "kept": not built.is_new,
    }


def _row(built: Built) -> list[str]:
    engine = built.engine
    took = f"{engine.seconds:.1f} s" if built.is_new else "kept"
    return [
        engine.key.digest,
        engine.key.graph,
        megabytes(engine.plan_bytes),
        took,
        engine.key.compute_capability,
    ]
