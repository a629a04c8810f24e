"""Which set of weights in a file is read, and its keys without what training wrapped around them.

A set is a dict of tensors under a name, or all the keys behind one word, as Lightning and
ema_pytorch write them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .. import CheckpointError

ASKED = {"ema": ("ema", "ema_model"), "model": ("model",)}  # the names behind `--weights`' words
BEHIND = (*ASKED["ema"], *ASKED["model"])  # words in front of keys, the averaged weights first
WEIGHTS = (*BEHIND, "state_dict")
# What DistributedDataParallel, compile, FSDP and activation checkpointing put into keys, anywhere.
WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
SHADOW = "shadow_params"  # of diffusers' EMAModel: tensors without names
COUNT = "n_averaged"  # of torch's AveragedModel, beside its module


@dataclass(frozen=True)
class WeightSet:
    """The weights that are read, and what is there beside them.

    Attributes:
        tensors: By key.
        under: The entry of the file that they are in; None where it is the file itself.
        name: What `--weights` calls them; empty where there is nothing to choose.
        others: The names of other sets.
        skipped: Keys, or words in front of keys, that are not read.
    """

    tensors: Mapping[str, Tensor]
    under: str | None = None
    name: str = ""
    others: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()


def choose_set(where: str, content: Mapping[Any, Any], asked: str | None) -> WeightSet:
    """The set that is asked for, or the averaged weights before the trained ones.

    Args:
        where: The file, for messages.
        content: What is in it: tensors by key, and dicts of them.
        asked: ``ema``, ``model``, another name in the file, an entry's and a word's with a dot
            between them, or None.

    Raises:
        CheckpointError: There is no such set, two of its keys are one without the wrappers, or
            nothing tells the names of its tensors.
    """
    sets = {
        name: value
        for name, value in content.items()
        if isinstance(name, str) and name and _is_set(value)
    }
    bare = _tensors(content)
    if sets and any("." in key for key in bare):
        sets = {"model": bare, **sets}  # trained weights at the top, averaged ones beside them
    under = next((name for name in _names(asked, WEIGHTS) if name in sets), None)
    missing = bool(asked) and under is None  # so far: it may stand in front of keys
    order = _names(asked, BEHIND) if missing else (*_names(asked, ()), *BEHIND)
    entry, _, word = (asked or "").partition(".")
    if missing and word and entry in sets:
        under, order = entry, (word,)
    elif missing and "state_dict" in sets:
        under = "state_dict"
    found = content if under is None else sets[under]
    named = _named(where, found, sets) if SHADOW in found else found
    tensors, skipped = _unwrapped(where, _tensors(named))
    tensors, words = _behind_words(tensors, order)
    others = {name for name in sets if name in WEIGHTS} | words.others
    if asked and missing and not words.taken:
        raise _no_such(where, asked, others | set(sets))
    name = words.taken or under or ""
    left = skipped | words.skipped
    return WeightSet(
        tensors, under, name, tuple(sorted(others - {name, under})), tuple(sorted(left))
    )


@dataclass(frozen=True)
class _Words:
    """The words in front of keys: the last that was taken, those that were sets too, and others."""

    taken: str = ""
    others: frozenset[str] = frozenset()
    skipped: frozenset[str] = frozenset()


def _behind_words(
    tensors: dict[str, Tensor], order: tuple[str, ...]
) -> tuple[dict[str, Tensor], _Words]:
    """The tensors behind a word, and behind the next one, as in ``ema.ema_model.pos_embed``."""
    sets = frozenset(name for name in BEHIND if _stands_before_modules(name, tensors))
    taken = next((name for name in order if _stands_before_modules(name, tensors)), None)
    if taken is None:
        return tensors, _Words(others=sets)
    start = f"{taken}."
    inner = {key.removeprefix(start): t for key, t in tensors.items() if key.startswith(start)}
    inner, deeper = _behind_words(inner, (*order, *BEHIND))
    beside = {key.partition(".")[0] for key in tensors if not key.startswith(start)}
    return inner, _Words(taken, sets, deeper.skipped | beside)


def _stands_before_modules(word: str, tensors: Mapping[str, Tensor]) -> bool:
    """Whether modules' keys are behind a word, and not a count alone, such as ``ema.decay``."""
    start = f"{word}."
    return any("." in key.removeprefix(start) for key in tensors if key.startswith(start))


def _tensors(content: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {
        key: value
        for key, value in content.items()
        if isinstance(key, str) and isinstance(value, Tensor)
    }


def _names(asked: str | None, default: tuple[str, ...]) -> tuple[str, ...]:
    return ASKED.get(asked, (asked,)) if asked else default


def _is_set(value: object) -> bool:
    """Whether an entry holds weights by name, or those of an EMAModel."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        return False
    return SHADOW in value or any("." in key for key in _tensors(value))


def _no_such(where: str, asked: str, there: Iterable[str]) -> CheckpointError:
    names = sorted(there)
    return CheckpointError(
        f"{where} has no weights called {asked!r} (found: "
        f"{', '.join(names) or 'one set without a name'})",
        f"Say `--weights {names[0]}`, or name a file that has them"
        if names
        else "Name a file that has them, or leave `--weights` out",
    )


def _named(
    where: str, average: Mapping[str, Any], sets: Mapping[str, Mapping[str, Any]]
) -> dict[str, Tensor]:
    """The tensors of an EMAModel by the keys of the model beside it, whose order is its own."""
    shadow = average[SHADOW]
    model = next((sets[name] for name in ("model", "state_dict") if name in sets), None)
    if model is None or model is average or not isinstance(shadow, list | tuple):
        raise CheckpointError(
            f"{where} keeps its averaged weights without names ({SHADOW}), and no model beside "
            "them tells their keys",
            "Save `model.state_dict()` beside them under 'model'",
        )
    weights = _tensors(model)
    if len(shadow) != len(weights) or any(
        not isinstance(found, Tensor) or found.shape != trained.shape
        for found, trained in zip(shadow, weights.values(), strict=False)
    ):
        raise CheckpointError(
            f"{where} has {len(shadow)} averaged weights without names ({SHADOW}), which are not "
            f"of the shapes of the {len(weights)} weights under 'model'",
            "Read those under 'model' with `--weights model`",
        )
    return dict(zip(weights, shadow, strict=True))


def _unwrapped(where: str, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], set[str]]:
    """The tensors without wrappers' words in their keys, and the counts of averages left out."""
    counts = {key for key in tensors if _counts_averages(key, tensors)}
    bare: dict[str, Tensor] = {}
    came_from: dict[str, str] = {}
    for key, tensor in tensors.items():
        if key in counts:
            continue
        short = ".".join(word for word in key.split(".") if word not in WRAPPERS)
        if short in bare:
            raise CheckpointError(
                f"{where} has {came_from[short]} and {key}, which are one key without what "
                "training wrapped around the model",
                "Save the weights of one of them alone",
            )
        bare[short], came_from[short] = tensor, key
    return bare, counts


def _counts_averages(key: str, tensors: Mapping[str, Tensor]) -> bool:
    start, _, last = key.rpartition(".")
    module = f"{start}.module." if start else "module."
    return last == COUNT and any(other.startswith(module) for other in tensors)
