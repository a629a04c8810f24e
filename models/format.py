"""What a checkpoint format is: how a file of other people's is recognised, and what its keys mean.

A format is told by the keys and shapes in a file, and by what is written beside them; never by a
file's name. Its config is inferred from the shapes; `Hints` are for what they cannot tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from .. import CheckpointError
from .denoiser import BLOCK_NUMBER, MAX_DEPTH, DenoiserConfig

SHOWN = 10  # keys named in a message, at most


@dataclass(frozen=True)
class Stored:
    """What the file or folder of a checkpoint holds.

    Attributes:
        path: Of the file or folder.
        tensors: By key, mapped from the file: they take memory only where they are read.
        facts: What is written beside them: a ``config.json``, or the arguments of a training run.
        skipped: The names of what else there is, such as an optimizer's state.
        weights: The name of the set that was read, where its file may hold several; or empty.
        others: The names of its other sets.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()
    weights: str = ""
    others: tuple[str, ...] = ()

    def shape(self, key: str, ndim: int) -> tuple[int, ...]:
        """The shape of a tensor that a format cannot be without.

        Raises:
            CheckpointError: It is not there, or has not ``ndim`` sides of at least 1.
        """
        if key not in self.tensors:
            raise CheckpointError(f"{self.path} lacks {key}", ANOTHER)
        shape = tuple(self.tensors[key].shape)
        if len(shape) != ndim or 0 in shape:
            raise CheckpointError(
                f"{key} in {self.path} has shape {list(shape)}, expected {ndim} sides", ANOTHER
            )
        return shape

    def require(self, title: str, keys: Iterable[str]) -> None:
        """Refuse a file that lacks keys which every one of its format, called ``title``, has."""
        missing = set(keys) - set(self.tensors)
        if missing:
            raise CheckpointError(
                f"{self.path}, read as {title}, lacks {name_some(missing)}", ANOTHER
            )

    def count(self, prefix: str) -> int:
        """How many blocks there are: one more than the largest number after ``prefix``.

        Raises:
            CheckpointError: More than any model has: a damaged key must not ask for millions.
        """
        found = (key.removeprefix(prefix).split(".")[0] for key in self.starting(prefix))
        numbers = {int(number) for number in found if BLOCK_NUMBER.fullmatch(number)}
        last = max(numbers, default=-1)
        if last >= MAX_DEPTH:
            missing = next(index for index in range(last + 2) if index not in numbers)
            raise CheckpointError(
                f"{self.path} has {prefix}{last}, but lacks {prefix}{missing}", ANOTHER
            )
        return last + 1

    def starting(self, prefix: str) -> list[str]:
        return [key for key in self.tensors if key.startswith(prefix)]


NOT_WHOLE = "Copy or download it again"  # where files are missing or cut short, and there alone
ANOTHER = (
    "It is another model, or was saved in part: the project's docs/checkpoints.md lists what can "
    "be read"
)


@dataclass(frozen=True)
class Hints:
    """What the user says of a file that its keys and shapes cannot tell; None where nothing.

    Attributes:
        format: A name in `models.formats.FORMATS`.
        num_heads: Attention heads.
        num_classes: Classes, without the null class.
        amm: Which blocks' attention is modulated, as `models.amm.choose_amm` reads it.
        weights: Which of a file's sets of weights, as `models.weight_sets` names them.
        variant: Which of a folder's weights, such as ``bf16`` or ``ema``.
    """

    format: str | None = None
    num_heads: int | None = None
    num_classes: int | None = None
    amm: str | None = None
    weights: str | None = None
    variant: str | None = None


@dataclass(frozen=True)
class Conversion:
    """How a file becomes the weights of a model of ours.

    Attributes:
        config: Of the model.
        sources: The file's keys for each key of ours that has others, joined along the first side
            where there are several. A key that the model computes by itself has none. Keys that
            are not here are the same on both sides.
        dropped: Keys of the file that the model has no use for.
        why_dropped: What they are, in a few words.
    """

    config: DenoiserConfig
    sources: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    dropped: frozenset[str] = frozenset()
    why_dropped: str = ""


@dataclass(frozen=True)
class Format:
    """The files of one code base.

    Attributes:
        name: As ``--format`` calls it.
        title: For people.
        licence: Of the weights that its authors published, or empty.
        fits: Whether a file is one.
        convert: What becomes of its keys; raises `CheckpointError` where the file is none.
        note: What a user should know where the file alone did not tell the format; or empty.
    """

    name: str
    title: str
    licence: str
    fits: Callable[[Stored], bool]
    convert: Callable[[Stored, Hints], Conversion]
    note: str = ""


def name_some(keys: Iterable[str]) -> str:
    """The first ten of many keys, and how many there are more."""
    named = sorted(keys)
    more = f" and {len(named) - SHOWN} more" if len(named) > SHOWN else ""
    return ", ".join(named[:SHOWN]) + more
