"""The options that several commands share."""

from __future__ import annotations

import click

backend_option = click.option(
    "--backend", default="auto", show_default=True, help="What runs the denoiser."
)
precision_option = click.option(
    "--precision", help="fp32, fp16, ...; by default the most exact in the bundle."
)
provider_option = click.option(
    "--provider", metavar="NAME", help="ONNX Runtime's execution provider."
)
format_option = click.option(
    "--format", "format_name", metavar="NAME", help="Of a checkpoint that its keys cannot tell."
)
heads_option = click.option(
    "--heads", type=click.IntRange(min=1), help="Attention heads, where the shapes cannot tell."
)
classes_option = click.option(
    "--classes", type=click.IntRange(min=1), help="Classes, where the shapes cannot tell."
)
amm_option = click.option(
    "--amm",
    metavar="auto|weak|off|BLOCKS",
    help="EDT's attention modulation: the authors' blocks for guidance of 2 and above, theirs for "
    "guidance up to 1.5, none, or blocks such as 8,10; for an EDT auto, else off by default.",
)
threads_option = click.option(
    "--threads", type=click.IntRange(1, 1024), help="CPU threads inside an operator."
)
