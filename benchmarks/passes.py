"""What each graph pass is worth: one denoiser call of PiT-S/2 and PiT-B/2, interleaved.

Each pass alone and all together against none, on each backend of this CPU.
"""

from __future__ import annotations

import click
from record import record
from variants import BATCH, OPTIONS, measure, print_rows

from pitstop.export.optimize import choose_steps

ALONE = ("fold_bridge", "window_major", "fuse_attention", "simplify", "split")
OPERATORS = ["fuse_attention", "multi_head_attention"]  # of ONNX Runtime alone


def variants_of(backend: str) -> dict[str, list[str]]:
    operators = {", ".join(OPERATORS): OPERATORS} if backend == "onnxruntime" else {}
    return {
        "none": [],
        **{name: [name] for name in ALONE},
        **operators,
        "all, target portable": choose_steps("portable", ()),
        f"all, target {backend}": choose_steps(backend, ()),
    }


@click.command()
@click.option("--preset", "presets", multiple=True, default=["pit-s-2", "pit-b-2"])
@click.option("--backend", "backends", multiple=True, default=list(OPTIONS))
@click.option("--rounds", default=20, show_default=True, help="Calls of each variant, in turn.")
@click.option("--keep", is_flag=True, help="Write the figures to results/passes.json.")
def main(presets: tuple[str, ...], backends: tuple[str, ...], rounds: int, keep: bool) -> None:
    """Export each variant, time them in turn, print a table."""
    figures = {
        backend: {
            preset: measure(preset, backend, variants_of(backend), rounds) for preset in presets
        }
        for backend in backends
    }
    for backend, found in figures.items():
        for preset, rows in found.items():
            print_rows(f"{preset} on {backend}", rows)
    if keep:
        click.echo(record("passes", {"batch": BATCH, "rounds": rounds, **figures}))


if __name__ == "__main__":
    main()
