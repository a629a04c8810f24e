"""What padding the heads is worth: one denoiser call with and without it, interleaved.

EDT has heads of 52 channels, padded to 64, and DiT-XL of 72, padded to 80.
"""

from __future__ import annotations

import click
from record import record
from variants import BATCH, OPTIONS, measure, print_rows

from pitstop.export.optimize import choose_steps


@click.command()
@click.option("--preset", "presets", multiple=True, default=["edt-s-2", "edt-b-2", "dit-xl-2"])
@click.option("--backend", "backends", multiple=True, default=list(OPTIONS))
@click.option("--rounds", default=20, show_default=True, help="Calls of each variant, in turn.")
@click.option("--keep", is_flag=True, help="Write the figures to results/head_padding.json.")
def main(presets: tuple[str, ...], backends: tuple[str, ...], rounds: int, keep: bool) -> None:
    """Export both variants with the passes of the backend's target, time them in turn, print."""
    figures = {}
    for backend in backends:
        variants = {
            "unpadded": choose_steps(backend, ()),
            "padded": choose_steps(backend, (), ("pad_heads",)),
        }
        figures[backend] = {
            preset: measure(preset, backend, variants, rounds) for preset in presets
        }
    for backend, found in figures.items():
        for preset, rows in found.items():
            print_rows(f"{preset} on {backend}", rows)
    if keep:
        click.echo(record("head_padding", {"batch": BATCH, "rounds": rounds, **figures}))


if __name__ == "__main__":
    main()
