"""Do the real sizes run in fp16 and int8 on two CPU backends, and build with TensorRT-RTX?

Random weights with a non-zero adaLN, batch 2, 256 px. Each graph answers the golden calls on
both CPU backends, and is parsed and built by TensorRT-RTX for compute capabilities 8.6, 8.9 and
12.0 at once, which needs no GPU. Whether the engines run is not measured here.
"""

from __future__ import annotations

import gc
import json
import tempfile
from pathlib import Path
from typing import Any

import click
from record import record

from pitstop import EngineError
from pitstop.calibration.pipeline import calibrate_bundle
from pitstop.calibration.recipe import Recipe
from pitstop.export.engines.build import BuildOptions, build_engines
from pitstop.export.parity import check_parity
from pitstop.export.pipeline import export_bundle
from pitstop.runtime.bundle.folder import Bundle, open_bundle
from pitstop.runtime.bundle.goldens import read_goldens
from pitstop.runtime.pipeline import Pipeline

CAPABILITIES = ("8.6", "8.9", "12.0")
PRESETS = ["fashion", "pit-s-2", "pit-b-2", "pit-l-2", "dit-xl-2"]
RECIPE = Recipe(num=2, steps=4)  # ranges of some kind: what is asked is whether it runs
BACKENDS = ("onnxruntime", "openvino")


@click.command()
@click.option("--preset", "presets", multiple=True, default=PRESETS, show_default=True)
@click.option("--keep", is_flag=True, help="Write the figures to results/builds.json.")
def main(presets: tuple[str, ...], keep: bool) -> None:
    """Export, calibrate, run, build, print."""
    figures = {}
    for preset in presets:
        with tempfile.TemporaryDirectory() as folder:
            figures[preset] = _measure(preset, Path(folder) / "bundle")
        click.echo(f"{preset}: {json.dumps(figures[preset])}")
        gc.collect()
    if keep:
        click.echo(record("builds", figures))


def _measure(preset: str, folder: Path) -> dict[str, Any]:
    assert export_bundle(preset, folder, target="tensorrt-rtx", precisions=("fp16",)).passed
    calibrate_bundle(folder, RECIPE)
    bundle = open_bundle(folder)
    fp32 = bundle.manifest.denoiser("fp32").weight_bytes
    figures = {}
    for precision in ("fp16", "int8"):
        spec = bundle.manifest.denoiser(precision)
        figures[precision] = {
            "weight_bytes": spec.weight_bytes,
            "weight_bytes_of_fp32": spec.weight_bytes / fp32,
            "relative_l2_max": {name: _run(bundle, precision, name) for name in BACKENDS},
            **_build(folder, precision),
        }
    return figures


def _run(bundle: Bundle, precision: str, backend: str) -> float:
    """The worst of the golden calls against PyTorch in fp32."""
    pipeline = Pipeline.from_bundle(bundle.folder, backend=backend, precision=precision)
    goldens = read_goldens(bundle.path(bundle.manifest.goldens))
    worst = check_parity(pipeline, goldens, float("inf")).worst
    pipeline.session.close()
    return worst


def _build(bundle: Path, precision: str) -> dict[str, Any]:
    try:
        options = BuildOptions("tensorrt-rtx", precision, CAPABILITIES)
        engine = build_engines(bundle, options)[0].engine
    except EngineError as error:
        return {"refused": str(error)}
    return {
        "builder": engine.key.builder_version,
        "compute_capabilities": list(CAPABILITIES),
        "plan_bytes": engine.plan_bytes,
        "seconds": engine.seconds,
    }


if __name__ == "__main__":
    main()
