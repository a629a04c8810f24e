"""The commands, one a file: each parses its options, calls one library function and prints.

A command's file is imported when it is called, and its libraries inside it, so that
``pitstop --help`` and every command that runs on a device start without PyTorch.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import signal
import sys
from typing import NoReturn

import click

from .. import PitstopError, __version__
from .escaped import escaped

COMMANDS = (
    "demo", "export", "calibrate", "forecast", "build", "generate", "serve", "compare", "evaluate",
    "bench", "inspect", "presets", "doctor",
)  # fmt: skip


class Commands(click.Group):
    """A group that loads its commands by name and turns a mendable error into one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"{__name__}.{cmd_name}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            raise click.UsageError(
                f"There is no command {args[0]!r}. Choose one of: {', '.join(COMMANDS)}.", ctx
            ) from error

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except PitstopError as error:
            if ctx.params["debug"]:
                raise
            click.echo(f"pitstop: {escaped(str(error), one_line=True)}", err=True)
            sys.exit(2)
        except ModuleNotFoundError as error:
            if ctx.params["debug"] or error.name not in EXTRAS:
                raise
            click.echo(
                f"pitstop: This command needs the package {error.name}, which is not installed. "
                f"Install it with: pip install 'pitstop[{_extra(error.name, ctx)}]'.",
                err=True,
            )
            sys.exit(2)
        except OSError as error:
            if ctx.params["debug"] or error.errno not in REMEDIES:
                raise
            unnamed = "standard output or a file"
            what = unnamed if error.filename is None else os.fsdecode(error.filename)
            said = f"{what}: {error.strerror}. {REMEDIES[error.errno]}."
            click.echo(f"pitstop: {escaped(said, one_line=True)}", err=True)
            _leave_stdout()
            sys.exit(2)
        except MemoryError as error:
            if ctx.params["debug"]:
                raise
            click.echo(
                f"pitstop: The memory of this machine is not enough ({error}). Choose a smaller "
                "model, image size or batch, or fewer images.",
                err=True,
            )
            sys.exit(2)


# What helps where the system refuses a file that no command looked for.
REMEDIES = {
    errno.ENAMETOOLONG: "Name another one",
    errno.EACCES: "Give yourself the right to it, or name another place",
    errno.EPERM: "Give yourself the right to it, or name another place",
    errno.ENOSPC: "Free some space there, or write to another place",
    errno.EROFS: "Write to another place",
    errno.EDQUOT: "Free some space there, or write to another place",
}
EXTRAS = {
    "torch": "export",
    "onnx": "export",
    "onnx_ir": "export",
    "onnxscript": "export",
    "safetensors": "export",
    "diffusers": "vae",
    "onnxruntime": "cpu",
    "jinja2": "report",
    "matplotlib": "report",
    "skimage": "report",
    "starlette": "serve",
    "uvicorn": "serve",
    "prometheus_client": "serve",
}


def _extra(package: str, ctx: click.Context) -> str:
    """The extra with a package: for `calibrate` the one without PyTorch."""
    return "calibrate" if ctx.invoked_subcommand == "calibrate" else EXTRAS[package]


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pitstop")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def main(debug: bool) -> None:
    """Take a PiT diffusion transformer from PyTorch to an edge device."""
    signal.signal(signal.SIGTERM, _stop)


def _leave_stdout() -> None:
    """Let what standard output did not take be lost, or Python would try again as it ends."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _stop(signum: int, frame: object) -> NoReturn:
    """Leave through the same clean-up as Ctrl-C, so that nothing half-written stays."""
    sys.exit(128 + signum)
