"""Labels: the kind of condition that is a class, by number or by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ... import OptionError
from ..sampling.condition import Condition
from ..session import Array
from .fields import a_count, a_text, one_of, why_not_numbers


@dataclass(frozen=True)
class LabelSpec:
    """A condition whose values are classes.

    Attributes:
        classes: How many there are, without the null class.
        null: The class that stands for none, or None where guidance is impossible.
        names: The classes' names in order, or empty.
        name: Of the graph's input that takes it, int64 [row].
        kind: How users say it.
    """

    classes: int
    null: int | None = None
    names: tuple[str, ...] = ()
    name: str = "label"
    kind: Literal["label"] = "label"

    def index(self, label: str | int) -> int:
        """The class of a label, given by number or by name.

        Raises:
            OptionError: There is no such class; the message says which there are.
        """
        if isinstance(label, str) and label in self.names:
            return self.names.index(label)
        if isinstance(label, str) and (index := self._by_synonym(label)) is not None:
            return index
        if (index := _number(str(label), self.classes)) is not None:
            return index
        names = f", or by name: {', '.join(self.names)}" if self.names else ""
        raise OptionError(
            f"There is no label {label!r}",
            f"Labels go by number from 0 to {self.classes - 1}{names}",
        )

    def _by_synonym(self, label: str) -> int | None:
        """The class one of whose names, as ImageNet lists them with commas, is this."""
        found = [index for index, name in enumerate(self.names) if label in name.split(", ")]
        if len(found) > 1:
            raise OptionError(
                f"{len(found)} classes are called {label!r}",
                f"Name one by its number: {', '.join(map(str, found))}",
            )
        return found[0] if found else None

    def told(self, index: int) -> Condition:
        """What an image of a class is told."""
        return Condition({self.name: np.asarray(index, dtype=np.int64)})

    def called(self, index: int) -> str:
        """A class by its name, or its number where it has none."""
        if index == self.null:
            return "none"
        return self.names[index] if self.names else str(index)

    def called_rows(self, told: Mapping[str, Array]) -> list[str]:
        """As `called`, of what rows were told by name, [row, ...]."""
        return [self.called(index) for index in self.classes_in(told)]

    def why_not(self, array: Array, rows: int) -> str | None:
        """Say why an array does not tell each of ``rows`` rows a class, or None where it does."""
        last = self.classes - (self.null is None)
        return why_not_numbers("labels", array, rows, "int64", last)

    def classes_in(self, told: Mapping[str, Array]) -> list[int]:
        """The classes among what images were told, by name, [image, ...]."""
        classes: list[int] = told[self.name].tolist()
        return classes

    @property
    def untold(self) -> Condition | None:
        """What the unguided branch is told, or None where guidance is impossible."""
        return None if self.null is None else self.told(self.null)

    def spread(self, count: int) -> list[Condition]:
        """All classes in turn, or ``count`` of them evenly spread where there are more."""
        if count >= self.classes:
            return self.examples(count)
        return [self.told(index * self.classes // count) for index in range(count)]

    def examples(self, count: int) -> list[Condition]:
        """The classes in turn."""
        return [self.told(index % self.classes) for index in range(count)]


def _number(said: str, below: int) -> int | None:
    """A number in its plain form, where it is below another."""
    if len(said) > len(str(below)) or not said.isdecimal() or said != str(int(said)):
        return None
    return int(said) if int(said) < below else None


def read_label(content: dict[str, Any]) -> LabelSpec:
    """A manifest's condition, each field of its type.

    Raises:
        ValueError: A field is missing, of another type, or does not go with another.
    """
    one_of(content, "kind", ("label",))
    null = content["null"]
    values = {
        **content,
        "classes": a_count(content["classes"], "classes"),
        "null": None if null is None else a_count(null, "null", least=0),
        "names": tuple(a_text(name, "names") for name in content["names"]),
        "name": a_text(content["name"], "name"),
    }
    label = LabelSpec(**values)
    if label.null is not None and label.null > label.classes:
        raise ValueError(f"null is {label.null}, beyond the {label.classes} classes")
    if len(label.names) not in {0, label.classes}:
        raise ValueError(f"{len(label.names)} labels for {label.classes} classes")
    return label
