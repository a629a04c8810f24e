"""A command that remembers how it was typed: for a page that says what made it."""

from __future__ import annotations

import shlex

import click

TYPED = "pitstop.typed"


class AsTyped(click.Command):
    """Keeps its arguments before options make paths absolute, or fill in what was not said."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[TYPED] = shlex.join(["pitstop", str(self.name), *args])
        return super().parse_args(ctx, args)


def as_typed() -> str:
    """What was typed for the command that runs, fit for a shell."""
    return str(click.get_current_context().meta[TYPED])
