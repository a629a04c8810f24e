"""What a client asks for: the fields of its body, each checked, and no others."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from .. import OptionError
from ..runtime.said import is_finite, shortly
from ..runtime.sampling.asked import MAX_SEED
from ..runtime.sampling.settings import Settings
from .engine import Engine
from .refused import Refused, refusal_of

B64, URL = "b64_json", "url"
MOST_PREVIEWS = 16
MOST_LETTERS = 200
RANDOM_SEEDS = 2**32  # so many that JavaScript's numbers hold them

T = TypeVar("T")
Schema = Mapping[str, Any]
FIELDS: Mapping[str, Schema] = {
    "model": {"type": "string", "description": "The one that is served, as /v1/models says."},
    "prompt": {"type": "string", "description": "A class by its name; or give `label`."},
    "label": {
        "type": ["integer", "string"],
        "description": "A class by number or name; or give `prompt`.",
    },
    "n": {"type": "integer", "minimum": 1, "description": "Images, of seeds that count up; 1."},
    "size": {"type": "string", "description": "WIDTHxHEIGHT, as the model's images are, or auto."},
    "seed": {
        "type": "integer",
        "minimum": 0,
        "maximum": MAX_SEED,
        "description": "Of the first image; by default a random one, which the answer says.",
    },
    "steps": {"type": "integer", "minimum": 1, "description": "Of a run; 50."},
    "cfg_scale": {"type": "number", "minimum": 0, "description": "Guidance scale; 4, 1 is none."},
    "sampler": {"type": "string", "description": "As `pitstop generate --sampler`; auto."},
    "spacing": {"type": "string", "description": "As `pitstop generate --spacing`; auto."},
    "eta": {"type": "number", "minimum": 0, "maximum": 1, "description": "Of DDIM; 0."},
    "calls": {
        "type": "integer",
        "minimum": 3,
        "description": "Steps that call the denoiser, the others are forecast; all.",
    },
    "cfg_interval": {
        "type": "string",
        "description": "Where the run is guided, LOW:HIGH or sigma:LOW:HIGH; everywhere.",
    },
    "response_format": {"type": "string", "enum": [B64, URL], "description": "b64_json."},
    "output_format": {"type": "string", "enum": ["png"], "description": "png."},
    "stream": {"type": "boolean", "description": "Answer with server-sent events; false."},
    "partial_images": {
        "type": "integer",
        "minimum": 0,
        "maximum": MOST_PREVIEWS,
        "description": "With `stream`, previews of each image; 3.",
    },
    "user": {"type": "string", "description": "Taken, and not looked at."},
}
SAMPLING = ("steps", "cfg_scale", "sampler", "spacing", "eta", "calls", "cfg_interval")
EXAMPLES = {"string": "a text", "integer": "a whole number", "number": "a number"}
EXAMPLES["boolean"] = "true or false"


@dataclass(frozen=True)
class Limits:
    """What one request may ask for at most."""

    images: int = 16
    steps: int = 250


@dataclass(frozen=True)
class Asked:
    """A request that can be drawn.

    Attributes:
        label: The class.
        seeds: Of the images.
        settings: How they are sampled.
        by_url: Whether the images stay here, to be fetched.
        previews: Of each image on its way; None where the answer comes at the end, whole.
    """

    label: int
    seeds: tuple[int, ...]
    settings: Settings
    by_url: bool = False
    previews: int | None = None

    @property
    def watched(self) -> frozenset[int]:
        """The steps that there are previews of, evenly spread."""
        steps, count = self.settings.steps, self.previews or 0
        return frozenset(steps * (k + 1) // (count + 1) for k in range(count)) - {0, steps}


def parse_body(body: bytes) -> dict[str, Any]:
    """The fields of a body, none of them null, each of its type and within its bounds.

    Raises:
        Refused: It is no JSON object, or a field is unknown or of another type.
    """
    try:
        content = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise Refused(400, "The body is not JSON", 'Send an object, such as {"label": 3}') from None
    if not isinstance(content, dict):
        raise Refused(400, "The body is no JSON object", 'Send one, such as {"label": 3}')
    for name in content:
        if name not in FIELDS:
            raise Refused(
                400,
                f"There is no field {shortly(name)}",
                f"Leave it out; this model has: {', '.join(FIELDS)}",
                param=name[:60],
            )
    fields = {name: value for name, value in content.items() if value is not None}
    for name, value in fields.items():
        _check(name, value, FIELDS[name])
    return fields


def read_asked(fields: Mapping[str, Any], engine: Engine, limits: Limits) -> Asked:
    """What fields ask of a model.

    Raises:
        Refused: The model has no such thing, or it is more than one request may ask for.
    """
    _refuse_other("model", fields, engine.manifest.model.name, status=404)
    width, height = engine.size
    _refuse_other("size", fields, f"{width}x{height}", "auto")
    images = fields.get("n", 1)
    _at_most("n", images, limits.images)
    _at_most("steps", fields.get("steps", Settings.steps), limits.steps)
    first = fields.get("seed")
    first = secrets.randbelow(RANDOM_SEEDS) if first is None else first
    _at_most("seed", first + images - 1, MAX_SEED)
    if "partial_images" in fields and not fields.get("stream"):
        raise Refused(
            400, "partial_images goes with stream", 'Say "stream": true', param="partial_images"
        )
    return Asked(
        _label(fields, engine),
        tuple(range(first, first + images)),
        _settings(fields, engine),
        by_url=fields.get("response_format") == URL,
        previews=fields.get("partial_images", 3) if fields.get("stream") else None,
    )


def _settings(fields: Mapping[str, Any], engine: Engine) -> Settings:
    chosen = {name: fields[name] for name in SAMPLING if name in fields}
    if not engine.manifest.guidable:
        chosen.setdefault("cfg_scale", 1.0)
    return about(fields, lambda: engine.settle(Settings(**chosen)))


def _label(fields: Mapping[str, Any], engine: Engine) -> int:
    """The class that is asked for, by one of two names."""
    if ("prompt" in fields) == ("label" in fields):
        raise Refused(
            400,
            "A class is asked for by prompt or by label",
            'Give one of the two, such as "label": 3',
            param="label",
        )
    name = "prompt" if "prompt" in fields else "label"
    known, asked = engine.manifest.label, fields[name]
    try:
        return known.index(asked)
    except OptionError:
        raise Refused(
            400,
            f"The model draws classes, and {shortly(asked)} is none of them",
            f"Give a number from 0 to {known.classes - 1}, or a name that GET /v1/models lists",
            param=name,
        ) from None


def about(fields: Mapping[str, Any], make: Callable[[], T]) -> T:
    """Make something of the settings among fields; what is wrong may be about the only one."""
    try:
        return make()
    except OptionError as error:
        named = [name for name in SAMPLING if name in fields]
        raise refusal_of(error, named[0] if len(named) == 1 else None) from None


def _check(name: str, value: Any, schema: Schema) -> None:
    """Refuse a value of another type than its schema's, out of its bounds, or none of its words."""
    types = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    if not any(_is(value, one) for one in types):
        wanted = " or ".join(EXAMPLES[one] for one in types)
        raise Refused(400, f"{name} is {shortly(value)}", f"Give {wanted}", param=name)
    if isinstance(value, str) and len(value) > MOST_LETTERS:
        raise Refused(
            400,
            f"{name} has {len(value)} letters",
            f"Give at most {MOST_LETTERS}",
            param=name,
        )
    if "enum" in schema and value not in schema["enum"]:
        words = " or ".join(schema["enum"])
        raise Refused(400, f"{name} is {shortly(value)}", f"Choose {words}", param=name)
    if "minimum" in schema and value < schema["minimum"]:
        least = schema["minimum"]
        raise Refused(400, f"{name} is {shortly(value)}", f"Choose at least {least}", param=name)
    if "maximum" in schema:
        _at_most(name, value, schema["maximum"])


def _is(value: Any, kind: str) -> bool:
    if kind == "boolean" or isinstance(value, bool):
        return kind == "boolean" and isinstance(value, bool)
    if kind == "number":
        return isinstance(value, int | float) and is_finite(value)
    return isinstance(value, {"string": str, "integer": int}[kind])


def _at_most(name: str, value: float, most: float) -> None:
    if value > most:
        raise Refused(400, f"{name} is {shortly(value)}", f"Choose at most {most}", param=name)


def _refuse_other(
    name: str, fields: Mapping[str, Any], there: str, *also: str, status: int = 400
) -> None:
    if name in fields and fields[name] not in (there, *also):
        asked = shortly(fields[name])
        raise Refused(status, f"{name} is {asked}", f"This server has {there}", param=name)


def _no_constant(name: str) -> None:
    raise ValueError(name)
