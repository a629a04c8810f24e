"""Who takes part in a benchmark: every bundle on every backend in every precision, and PyTorch."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ... import BackendUnavailable, OptionError
from ...runtime.backend import SessionOptions
from ...runtime.backends import AUTO, backend_names, choose_backend, import_backend
from ...runtime.bundle.folder import Bundle
from .contender import Contender

NEEDED = ("torch", "safetensors", "onnx_ir")  # to run PyTorch's side


@dataclass(frozen=True)
class Wanted:
    """What a user named.

    Attributes:
        backends: Names, or ``auto``; none for all that run here.
        precisions: Names; none for all that are in a bundle and run here.
        options: Of the sessions; PyTorch takes the threads too.
        torch: Whether PyTorch's rows are wanted; None for where they can be had.
        checkpoint: What PyTorch runs; empty for the preset that a bundle is named after.
        calls: Steps of the graphs' rows that call the denoiser; None for all, as PyTorch's.
        cfg_interval: Where a second row of each graph is guided; None for no such rows.
    """

    backends: Sequence[str] = ()
    precisions: Sequence[str] = ()
    options: SessionOptions = field(default_factory=SessionOptions)
    torch: bool | None = None
    checkpoint: str = ""
    calls: int | None = None
    cfg_interval: str | None = None

    @property
    def names_graphs(self) -> bool:
        """Whether each graph on each backend was asked for, so that none may be left out."""
        return bool(self.backends and self.precisions)

    @property
    def names_torch(self) -> bool:
        return bool(self.torch or self.checkpoint)


def find_contenders(
    wanted: Wanted, bundles: Mapping[Path, Bundle]
) -> tuple[list[Contender], list[str]]:
    """All contenders, PyTorch's first.

    Returns:
        They, and why PyTorch is not among them where it is not: a sentence each.

    Raises:
        OptionError: A backend or precision that does not exist, or options that contradict.
        BackendUnavailable: A backend that was named cannot run here, or PyTorch.
    """
    if wanted.torch is False and wanted.checkpoint:
        raise OptionError(
            "A checkpoint is for PyTorch's rows, which `--no-torch` leaves out",
            "Leave out `--checkpoint` or `--no-torch`",
        )
    graphs = [
        Contender(folder, backend, precision, wanted.options, "", wanted.calls, interval)
        for folder, bundle in bundles.items()
        for backend in _backends(wanted)
        for precision in _precisions(wanted, bundle)
        for interval in dict.fromkeys((None, wanted.cfg_interval))
    ]
    if wanted.torch is False:
        return graphs, []
    found, left_out = [], []
    for folder, bundle in bundles.items():
        source = _find_source(wanted, bundle)
        if source.missing:
            if wanted.names_torch:
                raise BackendUnavailable(source.missing, source.remedy)
            left_out.append(f"PyTorch beside {folder.name}: {source.missing}. {source.remedy}")
            continue
        from .torch_rows import torch_contenders

        found += torch_contenders(folder, source.name, wanted.options)
    return [*found, *graphs], left_out


def name_contenders(contenders: Iterable[Contender]) -> dict[str, Contender]:
    """A name for each, with its bundle where there are several, and its path where those clash."""
    contenders = list(dict.fromkeys(contenders))
    folders = {contender.folder for contender in contenders}
    clashes = Counter(folder.name for folder in folders)
    named = {}
    for contender in contenders:
        name, folder = f"{contender.precision}, {contender.backend}", contender.folder
        if contender.calls is not None:
            name = f"{name}, {contender.calls} calls"
        if contender.cfg_interval is not None:
            name = f"{name}, guided {contender.cfg_interval}"
        if len(folders) > 1:
            name = f"{folder if clashes[folder.name] > 1 else folder.name}, {name}"
        named[name] = contender
    return named


def _backends(wanted: Wanted) -> list[str]:
    if not wanted.backends:
        able = [name for name in backend_names() if import_backend(name).why_not() is None]
        return able or [choose_backend(AUTO).name]  # which says why there is none
    return [choose_backend(name, wanted.options).name for name in wanted.backends]


def _precisions(wanted: Wanted, bundle: Bundle) -> Sequence[str]:
    for precision in wanted.precisions:
        bundle.manifest.denoiser(precision)
    return wanted.precisions or bundle.manifest.precisions


@dataclass(frozen=True)
class _Source:
    """What PyTorch runs for a bundle, or why there is nothing."""

    name: str = ""
    missing: str = ""
    remedy: str = ""


def _find_source(wanted: Wanted, bundle: Bundle) -> _Source:
    for package in NEEDED:
        if importlib.util.find_spec(package) is None:
            missing = f"The package {package} is not installed"
            return _Source("", missing, "Install it with: pip install 'pitstop[export]'")
    if wanted.checkpoint:
        return _Source(wanted.checkpoint)
    from ...models.presets import PRESETS

    name = bundle.manifest.model.name
    if name in PRESETS:
        return _Source(name)
    missing = f"{name} is no preset, and the bundle does not hold PyTorch's weights"
    return _Source("", missing, "Name its file with `--checkpoint`")
