"""What ``pitstop inspect --engine`` shows: the kernels of an engine, block by block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import EngineError
from .printing import console, table

if TYPE_CHECKING:
    from ..export.engine_cost import Kernel
    from ..runtime.bundle.engines import Engine
    from ..runtime.bundle.folder import Bundle


def kernels_in(bundle: Bundle, key: str) -> list[Kernel]:
    """The kernels of an engine of a bundle.

    Args:
        bundle: The bundle.
        key: The engine's, or how it begins.

    Raises:
        EngineError: There is no such engine, or its builder wrote no list of kernels.
    """
    from ..export.engine_cost import kernels_of
    from ..export.engines.layers import read_layers
    from ..graphs.graph_file import read_graph

    engine = _engine(bundle, key)
    again = f"Build it again with `pitstop build {bundle.folder} --force`"
    if not engine.layers.is_file():
        raise EngineError(f"{engine.folder} has no list of its kernels", again)
    try:
        layers = read_layers(engine.layers.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EngineError(f"{engine.layers} cannot be read: {error}", again) from error
    spec = bundle.manifest.graphs[engine.key.graph]
    return kernels_of(layers, read_graph(bundle.path(spec.path)).graph)


def _engine(bundle: Bundle, key: str) -> Engine:
    from ..runtime.bundle.engines import list_engines, read_engine

    folders = list_engines(bundle.folder)
    found = [folder for folder in folders if folder.name.startswith(key)]
    if len(found) != 1:
        names = ", ".join(folder.name for folder in folders)
        raise EngineError(
            f"{bundle.folder} has {len(found)} engines whose key begins with {key!r}",
            f"Choose one of: {names}" if names else "Build one with `pitstop build`",
        )
    return read_engine(found[0])


def kernel_figures(kernels: list[Kernel]) -> list[dict[str, Any]]:
    return [
        {
            "name": kernel.layer.name,
            "kind": kernel.layer.kind,
            "block": kernel.block,
            "part": list(kernel.part),
            "moves": kernel.moves,
            "activation_bytes": kernel.layer.activation_bytes,
            "constant_bytes": kernel.layer.constant_bytes,
            "flops": kernel.flops,
            "types": sorted({tensor.dtype for tensor in kernel.layer.outputs}),
        }
        for kernel in kernels
    ]


def print_kernels(kernels: list[Kernel]) -> None:
    """A line for each kernel, and one of the sums."""
    from ..export.engine_cost import cost_of

    rows = [
        [
            kernel.block,
            ", ".join(kernel.part),
            kernel.layer.kind,
            f"{kernel.layer.activation_bytes / 1e6:.2f}",
            f"{kernel.layer.constant_bytes / 1e6:.2f}",
            f"{kernel.flops / 1e6:,.0f}" if kernel.flops else "",
            "moves" if kernel.moves else "",
        ]
        for kernel in kernels
    ]
    console.print(table(["block", "part", "kind", "MB", "const MB", "MFLOP", ""], rows))
    cost = cost_of(kernels)
    console.print(
        f"{cost.kernels} kernels, {cost.moves} of them only move data; "
        f"{cost.activation_bytes / 1e6:.1f} MB read and written, "
        f"{cost.constant_bytes / 1e6:.1f} MB of constants, {cost.flops / 1e9:.2f} GFLOP; "
        "counted from the builder's list, not measured",
        markup=False,
    )
