"""Configs to and from plain values, for a checkpoint's metadata and a bundle's manifest.

The nested dataclasses say what is expected, so a field that was misspelt or has another type is
named, and never falls back to a default in silence.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from .. import ConfigError
from .denoiser import Denoiser, DenoiserConfig
from .dit import Dit, DitConfig
from .edt import Edt, EdtConfig
from .pit import Pit, PitConfig

ARCHITECTURES: dict[str, tuple[type[DenoiserConfig], Callable[[Any], Denoiser]]] = {
    "pit": (PitConfig, Pit),
    "dit": (DitConfig, Dit),
    "edt": (EdtConfig, Edt),
}
"""Each with its config and what makes a network of it."""

T = TypeVar("T")


def config_to_dict(config: DenoiserConfig) -> dict[str, Any]:
    """All fields as JSON values, with the architecture under ``arch``."""
    return {"arch": config.arch, **dataclasses.asdict(config)}


def config_from_dict(values: object) -> DenoiserConfig:
    """The config that `config_to_dict` gave.

    Raises:
        ConfigError: An architecture, field or value that no config has.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"The config is {values!r}", "It must be an object with fields")
    rest = dict(values)
    arch = rest.pop("arch", None)
    if not isinstance(arch, str) or arch not in ARCHITECTURES:
        raise ConfigError(
            f"The config's arch is {arch!r}", f"It must be one of: {', '.join(ARCHITECTURES)}"
        )
    kind, _ = ARCHITECTURES[arch]
    return _read(kind, rest, "")


def _read(kind: type[T], values: Any, where: str) -> T:
    assert dataclasses.is_dataclass(kind)
    if not isinstance(values, Mapping):
        raise ConfigError(
            f"The config's {where.rstrip('.')} is {values!r}", "It must be an object with fields"
        )
    hints = get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]
    if unknown := sorted(set(values) - set(names), key=str):
        raise ConfigError(
            f"The config has an unknown field {where}{unknown[0]}",
            f"The fields there are: {', '.join(names)}",
        )
    read = {name: _value(hints[name], value, where + name) for name, value in values.items()}
    config: T = kind(**read)
    return config


def _value(hint: Any, value: Any, where: str) -> Any:
    """``value`` as the type of its field; JSON has no tuples, and no floats apart from numbers."""
    if dataclasses.is_dataclass(hint):
        return _read(hint, value, f"{where}.")  # type: ignore[arg-type]
    if get_origin(hint) is tuple and isinstance(value, list | tuple):
        return tuple(_value(get_args(hint)[0], item, where) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError as error:
            raise ConfigError(
                f"The config's {where} is a number of {value.bit_length()} bits",
                "It must be of type float",
            ) from error
    expected = str if get_args(hint) and get_origin(hint) is not tuple else hint
    if get_origin(hint) is tuple or type(value) is not expected:
        raise ConfigError(
            f"The config's {where} is {value!r}", f"It must be of type {_type_name(hint)}"
        )
    return value


def _type_name(hint: Any) -> str:
    if get_origin(hint) is tuple:
        return f"list of {_type_name(get_args(hint)[0])}"
    return "text" if get_args(hint) else str(getattr(hint, "__name__", hint))
