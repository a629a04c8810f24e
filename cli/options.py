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
threads_option = click.option(
    "--threads", type=click.IntRange(1, 1024), help="CPU threads inside an operator."
)
