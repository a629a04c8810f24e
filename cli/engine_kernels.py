"""What ``pitstop inspect --engine`` shows: the kernels of an engine, block by block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .. import EngineError
from .printing import console, table

if TYPE_CHECKING:
    from ..export.device_floor import Floor
    from ..export.engine_cost import Kernel
    from ..runtime.bundle.engines import Engine
    from ..runtime.bundle.folder import Bundle


def kernels_in(bundle: Bundle, engine: Engine) -> list[Kernel]:
    """The kernels of an engine of a bundle.

    Raises:
        EngineError: It was built of another graph, or has no list of kernels that can be read.
    """
    from ..export.engine_cost import kernels_of
    from ..export.engines.layers import read_layers
    from ..graphs.graph_file import read_graph

    again = f"Build it again with `pitstop build {bundle.folder} --force`"
    if not engine.layers.is_file():
        raise EngineError(f"{engine.folder} has no list of its kernels", again)
    spec = bundle.manifest.graphs.get(engine.key.graph)
    if spec is None or bundle.manifest.files[spec.path] != engine.key.graph_sha256:
        raise EngineError(
            f"{engine.folder} was built of another {engine.key.graph} than this bundle has", again
        )
    graph = read_graph(bundle.path(spec.path)).graph
    try:
        return kernels_of(read_layers(engine.layers.read_text(encoding="utf-8")), graph)
    except (OSError, ValueError) as error:
        raise EngineError(f"{engine.layers} cannot be read: {error}", again) from error


def find_engine(bundle: Bundle, key: str) -> Engine:
    """The engine whose key begins so.

    Raises:
        EngineError: There is none, or more than one.
    """
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
            "activation_bytes": kernel.activation_bytes,
            "constant_bytes": kernel.layer.constant_bytes,
            "flops": kernel.flops,
            "quantizes": kernel.quantizes,
            "multiplies_in": kernel.dtype,
            "types": sorted({tensor.dtype for tensor in kernel.layer.outputs}),
        }
        for kernel in kernels
    ]


def floors_of(engine: Engine, kernels: list[Kernel]) -> dict[str, Floor]:
    """What a call takes at least on the devices that the engine is for, as estimated."""
    from ..export.device_floor import devices_of, floor

    capabilities = engine.key.compute_capability.split(",")
    devices = [device for capability in capabilities for device in devices_of(capability)]
    return {device.name: floor(kernels, device) for device in devices}


def floor_figures(floors: Mapping[str, Floor]) -> list[dict[str, Any]]:
    return [
        {"device": name, "estimated_ms": 1e3 * found.seconds, "bound": dict(found.bound)}
        for name, found in floors.items()
    ]


def print_floors(floors: Mapping[str, Floor]) -> None:
    """A line for each device, and what the figures are."""
    from ..export.device_floor import CARD, JETSON

    if not floors:
        return
    rows = [
        [name, f"{1e3 * one.seconds:.2f}", ", ".join(f"{n} {by}" for by, n in one.bound.items())]
        for name, one in floors.items()
    ]
    console.print(table(["device", "ms a call, estimated", "kernels bound by"], rows))
    console.print(
        "estimated from the maker's bandwidths and peaks, and an assumed "
        f"{1e6 * CARD:.0f} us a kernel ({1e6 * JETSON:.0f} on a Jetson); not measured",
        markup=False,
    )


def print_kernels(kernels: list[Kernel]) -> None:
    """A line for each kernel, and one of the sums."""
    from ..export.engine_cost import cost_of

    rows = [
        [
            kernel.block,
            ", ".join(kernel.part),
            kernel.layer.kind,
            f"{kernel.activation_bytes / 1e6:.2f}",
            f"{kernel.layer.constant_bytes / 1e6:.2f}",
            f"{kernel.flops / 1e6:,.0f}" if kernel.flops else "",
            "moves" if kernel.moves else "quantizes" if kernel.quantizes else "",
        ]
        for kernel in kernels
    ]
    console.print(table(["block", "part", "kind", "MB", "const MB", "MFLOP", ""], rows))
    cost = cost_of(kernels)
    console.print(
        f"{cost.kernels} kernels, of them {cost.moves} only move data, {cost.quantizations} only "
        "quantize; "
        f"{cost.activation_bytes / 1e6:.1f} MB read and written, "
        f"{cost.constant_bytes / 1e6:.1f} MB of constants, {cost.flops / 1e9:.2f} GFLOP; "
        "counted from the builder's list, not measured",
        markup=False,
    )
