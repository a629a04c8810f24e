"""How fast PiT runs on this machine's CPU: every backend in every precision, beside PyTorch.

`pitstop bench` on bundles with random weights at 256 px, batch 2 (one guided image), and on the
demo. int8 is on an fp32 base, as the target ``openvino`` has it, and calibrated on two short
trajectories: its ranges do not change its speed. Run it on an idle machine.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
from record import record

from pitstop.calibration.pipeline import calibrate_bundle
from pitstop.calibration.recipe import Recipe
from pitstop.export.pipeline import export_bundle

PRESETS = ["fashion", "pit-s-2", "pit-b-2"]
RECIPE = Recipe(num=2, steps=4)
PITSTOP = [sys.executable, "-c", "from pitstop.cli import main; main(prog_name='pitstop')"]


@click.command()
@click.option("--preset", "presets", multiple=True, default=PRESETS, show_default=True)
@click.option("--steps", default=8, show_default=True, help="Of a trajectory.")
@click.option("--rounds", default=8, show_default=True, help="Trajectories of each row, in turns.")
@click.option("--keep", is_flag=True, help="Write the figures to results/cpu.json.")
def main(presets: tuple[str, ...], steps: int, rounds: int, keep: bool) -> None:
    """Export, calibrate, time, print."""
    figures = {}
    for preset in presets:
        with tempfile.TemporaryDirectory() as folder:
            bundle = Path(folder) / f"{preset}.bundle"
            assert export_bundle(preset, bundle, target="openvino", precisions=("bf16",)).passed
            calibrate_bundle(bundle, RECIPE)
            click.echo(preset)
            figures[preset] = _time(bundle, preset, steps, rounds)
    if keep:
        click.echo(record("cpu", figures))


def _time(bundle: Path, preset: str, steps: int, rounds: int) -> dict[str, Any]:
    place = bundle.with_suffix(".json")
    asked = ["bench", str(bundle), "--checkpoint", preset, "--json", str(place)]
    asked += ["--steps", str(steps), "--rounds", str(rounds)]
    subprocess.run([*PITSTOP, *asked], check=True)
    # Its messages name files; where the bundle stood for the run is of no use.
    found: dict[str, Any] = json.loads(place.read_text().replace(f"{bundle.parent}/", ""))
    del found["machine"]  # it stands once, at the top
    for row in found["rows"]:
        del row["bundle"]
    return found


if __name__ == "__main__":
    main()
