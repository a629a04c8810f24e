"""The options that several commands share: what belongs together is handed on as one value."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .. import OptionError
from .inputs import check_input

if TYPE_CHECKING:
    from ..models.format import Hints
    from ..runtime.backend import SessionOptions
    from ..runtime.sampling.settings import Settings

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

TYPES = {"calls": int}  # of options of `SAMPLING` whose default has none

SAMPLING: dict[str, tuple[Any, str]] = {  # defaults, and what they are
    "steps": (50, "Of a run."),
    "sampler": (
        "auto",
        "ddim, ddpm, dpmpp_2m, dpmpp_2m_sde, unipc, unipc_3 or euler; for flow models euler, heun "
        "or euler_maruyama. auto takes what came with the model, else the first.",
    ),
    "cfg_scale": (4.0, "Guidance scale; 1 is none."),
    "eta": (0.0, "DDIM's share of fresh noise, 0 to 1."),
    "spacing": (
        "auto",
        "Which timesteps are visited: leading, linspace, trailing or official (DiT's own). auto "
        "takes what came with the model, else the sampler's own.",
    ),
    "calls": (
        None,
        "Steps that call the denoiser, the others are forecast: by what `pitstop forecast` "
        "fitted, else by a Taylor series. All by default.",
    ),
    "cfg_interval": (
        None,
        "Guide from LOW to HIGH alone, in the model's own time (0:0.7) or in sigma "
        "(sigma:0.28:5.42): elsewhere the unguided half is not computed.",
    ),
    "cfg_schedule": (
        None,
        "Let the guidance scale grow from 1 at the noise: linear, power-cosine or "
        "power-cosine:POWER. constant by default.",
    ),
    "cfg_channels": (
        None,
        "How many leading channels are guided, or all; by default as the model's own code does.",
    ),
    "shift": (
        None,
        "How much longer a flow's run stays at the noise: a number, as diffusers' shift, or "
        "dynamic, which goes by the image's size.",
    ),
    "noise": (
        None,
        "torch: what torch.randn draws from a CPU generator of each seed; by default the bundle's "
        "rule.",
    ),
}


def as_value(name: str, *options: Decorator) -> Callable[[Callable[..., object]], Decorator]:
    """Turn a function that makes one value of options into a decorator that adds them to a command.

    The command gets the value under ``name`` in their place. Values are made from the command's
    first option on; the libraries that they are from are imported where they are made.
    """
    names = [option.name for option in click.command()(_with(options, lambda: None)).params]

    def decorator_of(make: Callable[..., object]) -> Decorator:
        def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(command)
            def call(**given: Any) -> Any:
                value = make(**{option: given.pop(option) for option in names})
                return command(**given, **{name: value})

            return _with(options, call)

        return decorate

    return decorator_of


def _with(options: Sequence[Decorator], command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(options):
        command = option(command)
    return command


def split_names(
    ctx: click.Context, option: click.Parameter, given: str | Sequence[str] | None
) -> tuple[str, ...]:
    """The names in a list with commas, or in several lists, each once."""
    lists = [given] if isinstance(given, str) else given or ()
    names = (name.strip() for one in lists for name in one.split(","))
    return tuple(dict.fromkeys(names))


def parse_image_size(
    ctx: click.Context, option: click.Parameter, given: str | None
) -> tuple[int, int] | None:
    """``256`` and ``256x512`` as rows and columns of pixels."""
    from ..runtime.said import shortly

    if given is None:
        return None
    sides = given.lower().split("x")
    if len(sides) > 2 or not all(re.fullmatch(r"-?[0-9]{1,20}", side) for side in sides):
        raise OptionError(
            f"The image size is {shortly(given)}",
            "Say HEIGHTxWIDTH in pixels, such as 256x512, or one number for a square",
        )
    return int(sides[0]), int(sides[-1])


@as_value(
    "options",
    click.option("--provider", metavar="NAME", help="ONNX Runtime's execution provider."),
    click.option("--threads", type=click.IntRange(1, 1024), help="CPU threads inside an operator."),
)
def session_options(**fields: Any) -> SessionOptions:
    """How graphs are opened."""
    from ..runtime.backend import SessionOptions

    return SessionOptions(**fields)


precision_option = click.option(
    "--precision", help="fp32, fp16, ...; by default the most exact in the bundle."
)
backend_option = click.option(
    "--backend", default="auto", show_default=True, help="What runs the denoiser."
)
revision_option = click.option(
    "--revision",
    metavar="R",
    help="Branch, tag or commit of a repository on a hub; main by default.",
)


def sampling_options(*names: str, text: str | None = None) -> Decorator:
    """How images are sampled, as ``settings``.

    Args:
        names: Those of `SAMPLING` that a command has; all by default.
        text: What its help says of each, where that is something else.
    """
    options = (
        click.option(
            f"--{name.replace('_', '-')}",
            default=SAMPLING[name][0],
            type=TYPES.get(name),
            show_default=True,
            help=text or SAMPLING[name][1],
        )
        for name in names or SAMPLING
    )
    return as_value("settings", *options)(_settings)


def _settings(**fields: Any) -> Settings:
    from ..runtime.sampling.settings import Settings

    return Settings(**fields)


@as_value(
    "begins",
    click.option(
        "--init",
        "picture",
        type=click.Path(path_type=Path),
        metavar="IMAGE",
        callback=check_input,
        help="A picture to begin with, in the place of noise alone.",
    ),
    click.option(
        "--strength",
        type=float,
        help="The share of the steps that it is drawn through, above 0, up to 1; 0.8 by default, "
        "1 with a mask.",
    ),
    click.option(
        "--mask",
        type=click.Path(path_type=Path),
        metavar="IMAGE",
        callback=check_input,
        help="White where the picture is drawn anew, black where it is kept.",
    ),
)
def init_options(**fields: Any) -> Mapping[str, Any]:
    """What images begin with, as `Pipeline.begin_with` takes it."""
    return fields


@as_value(
    "hints",
    click.option("--format", metavar="NAME", help="Of a checkpoint that its keys cannot tell."),
    click.option(
        "--heads",
        "num_heads",
        type=click.IntRange(min=1),
        help="Attention heads, where the shapes cannot tell.",
    ),
    click.option(
        "--classes",
        "num_classes",
        type=click.IntRange(min=1),
        help="Classes, where the shapes cannot tell.",
    ),
    click.option(
        "--amm",
        metavar="auto|weak|off|BLOCKS",
        help="EDT's attention modulation: the authors' blocks for guidance of 2 and above, theirs "
        "for guidance up to 1.5, none, or blocks such as 8,10; for an EDT auto, else off by "
        "default.",
    ),
    click.option(
        "--weights",
        metavar="ema|model|KEY",
        help="Which weights of a file that holds several; ema where there are some by default.",
    ),
    click.option(
        "--variant",
        metavar="NAME",
        help="Which weights of a folder of diffusers, such as bf16 or non_ema.",
    ),
)
def hint_options(**fields: Any) -> Hints | None:
    """What is said of a checkpoint; None where nothing is, so that a bundle needs no PyTorch."""
    if all(value is None for value in fields.values()):
        return None
    from ..models.format import Hints

    return Hints(**fields)
