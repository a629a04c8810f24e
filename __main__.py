"""``python -m pitstop``: the same as the command."""

from .cli import main

main(prog_name="pitstop")
