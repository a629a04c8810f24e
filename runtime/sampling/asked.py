"""What users ask for in Python: taken where it is meant, or refused with how to say it."""

from __future__ import annotations

import math
import numbers
import operator
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ... import OptionError
from ..said import is_finite, shortly
from .condition import Condition

MAX_SEED = 2**64 - 1
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def a_whole_number(value: object, name: str) -> int:
    """A whole number of Python, NumPy or PyTorch.

    Raises:
        OptionError: It is something else, ``5.5``, ``"5"`` and ``True`` too.
    """
    if not isinstance(value, bool) and getattr(value, "ndim", 0) == 0:
        try:
            return operator.index(value)  # type: ignore[arg-type]
        except TypeError:
            pass
    raise OptionError(f"{name} is {shortly(value)}", "Give a whole number, such as 8")


def a_number(value: object, name: str, wanted: str) -> float:
    """A finite number of Python, NumPy or PyTorch; ``wanted`` says which are meant.

    Raises:
        OptionError: It is something else.
    """
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, numbers.Real) and not isinstance(value, bool) and is_finite(value):
        return float(value)
    raise OptionError(f"{name} is {shortly(value)}", f"Choose {wanted}")


def read_number(text: str) -> float:
    """A decimal number as users write it; NaN where it is none, Python's ``1_0`` and blanks too."""
    return float(text) if NUMBER.fullmatch(text) else math.nan


def a_list(values: Any, name: str, example: str) -> list[Any]:
    """The members of a list, tuple, range or array.

    Raises:
        OptionError: It is a text, one value, or what can be gone through only once.
    """
    if isinstance(values, str | bytes):
        raise OptionError(
            f"{name} is the text {shortly(values)}, not a list", f"Give a list, such as {example}"
        )
    try:
        length = len(values)
    except TypeError:
        many = hasattr(values, "__iter__") and getattr(values, "ndim", 1) > 0
        remedy = f"Give `list({name})`" if many else "Give a list"
        raise OptionError(
            f"{name} is {shortly(values)}, not a list", f"{remedy}, such as {example}"
        ) from None
    if not hasattr(values, "__getitem__") or isinstance(values, dict):
        raise OptionError(
            f"{name} is a {type(values).__name__}, which has no order",
            f"Give a list, such as {example}",
        )
    return [values[index] for index in range(length)]


def as_labels(labels: Any) -> list[int | str]:
    """The classes of images, each by number or by name.

    Raises:
        OptionError: No list, or one of something else.
    """
    listed = a_list(labels, "labels", "[3] or ['shoe']")
    return [str(one) if isinstance(one, str) else a_whole_number(one, "A label") for one in listed]


def check_conditions(conditions: Any) -> None:
    """Refuse what is no list of conditions.

    Raises:
        OptionError: It is none.
    """
    for one in a_list(conditions, "conditions", "manifest.examples(2)"):
        if not isinstance(one, Condition):
            raise OptionError(
                f"A condition is {shortly(one)}",
                "Give what `manifest.label.told(3)` says for class 3, one for each image",
            )


def as_latents(latents: Any, images: int, shape: tuple[int, int, int]) -> npt.NDArray[np.float32]:
    """The noise that images start from, float32 [image, channel, row, column].

    Raises:
        OptionError: It is of another shape or type, or holds numbers that are not finite.
    """
    wanted = f"{images} x {' x '.join(map(str, shape))} in float32, unscaled, one for each image"
    try:
        array = np.asarray(latents)
    except (ValueError, TypeError, RuntimeError) as error:
        raise OptionError(
            f"The latents are no array ({shortly(error)})", f"Give {wanted}"
        ) from None
    if array.dtype != np.float32 or array.shape != (images, *shape):
        found = " x ".join(map(str, array.shape)) or "one number"
        raise OptionError(f"The latents are {found} in {array.dtype}", f"Give {wanted}")
    if not np.isfinite(array).all():
        raise OptionError("The latents hold numbers that are not finite", f"Give {wanted}")
    return np.ascontiguousarray(array)


def as_seeds(seeds: Any, images: int) -> Sequence[int]:
    """A seed for each image, in [0, 2**64).

    Raises:
        OptionError: No list, another length, or a seed that is none.
    """
    if not images:
        raise OptionError("No labels were given", "Give one label for each image")
    listed = a_list(seeds, "seeds", "[0, 1]")
    if len(listed) != images:
        raise OptionError(
            f"{len(listed)} seeds were given for {images} labels", "Give one seed for each label"
        )
    whole = [a_whole_number(seed, "A seed") for seed in listed]
    for seed in whole:
        if not 0 <= seed <= MAX_SEED:
            raise OptionError(f"The seed is {shortly(seed)}", f"Choose one from 0 to {MAX_SEED}")
    return whole
