"""The figures of engine_cost.py as Markdown tables, which docs/passes.md shows as they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

Row = dict[str, Any]
TYPES = {"Int8": "int8", "Half": "fp16", "BFloat16": "bf16", "Float": "fp32"}


def tables(rows: Sequence[Row]) -> str:
    return "\n\n".join("\n".join(table) for table in (passes(rows), precisions(rows), times(rows)))


def passes(rows: Sequence[Row]) -> list[str]:
    """Kernels, those of a block and MB of a call, for each choice of passes, in fp16 on 8.9."""
    chosen = [row for row in rows if _is(row, precision="fp16", capability="8.9")]
    counted = Counter(row["case"]["preset"] for row in chosen)
    presets = [preset for preset, count in counted.items() if count > 1]
    lines = _head(["passes, fp16, 8.9", *(f"{preset}: kernels, a block, MB" for preset in presets)])
    for name in dict.fromkeys(row["case"]["passes"] for row in chosen):
        cells: list[str] = []
        for preset in presets:
            row = next((row for row in chosen if _is(row, preset=preset, passes=name)), None)
            cells.append("" if row is None else ", ".join(_size(row)))
        lines.append(_line([name, *cells]))
    return lines


def precisions(rows: Sequence[Row]) -> list[str]:
    """A line for each precision of a preset, and one more where a capability differs."""
    lines = _head(
        ["model", "precision", "kernels", "only move", "only quantize", "a block", "MB", "a block",
         "weights, MB", "multiplies a block", "capabilities"]
    )  # fmt: skip
    for same in _alike(rows):
        case, call, block = same[0]["case"], same[0]["call"], same[0]["block"]
        portable = ", target portable" if case["passes"] == "all of portable" else ""
        lines.append(
            _line([
                case["preset"],
                case["precision"] + portable,
                *(str(call[name]) for name in ("kernels", "moves", "quantizations")),
                str(block["kernels"]),
                *(f"{one['activation_megabytes']:.1f}" for one in (call, block)),
                f"{call['constant_megabytes']:.1f}",
                ", ".join(f"{n} in {TYPES[t]}" for t, n in sorted(block["matmuls"].items())),
                ", ".join(row["case"]["capability"] for row in same),
            ])
        )
    return lines


def _alike(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """The rows with all of a target's passes, those together that differ in capability alone."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        case = row["case"]
        if case["passes"].startswith("all of"):
            counted = (case["preset"], case["passes"], case["precision"], row["call"], row["block"])
            groups.setdefault(str(counted), []).append(row)
    order = list(dict.fromkeys(row["case"]["preset"] for row in rows))
    yield from sorted(
        (
            sorted(same, key=lambda row: float(row["case"]["capability"]))
            for same in groups.values()
        ),
        key=lambda same: (order.index(same[0]["case"]["preset"]), same[0]["case"]["precision"]),
    )


def times(rows: Sequence[Row]) -> list[str]:
    """The estimates in ms of a call, with the passes of TensorRT's targets."""
    chosen = [row for row in rows if row["case"]["passes"].startswith("all of tensorrt10")]
    devices = list(dict.fromkeys(name for row in chosen for name in row["estimated_ms"]))
    wanted = list(
        dict.fromkeys((row["case"]["preset"], row["case"]["precision"]) for row in chosen)
    )
    short = [name.removeprefix("NVIDIA GeForce ") for name in devices]
    lines = _head(["model", "precision", *short])
    for preset, precision in wanted:
        found = {
            name: milliseconds
            for row in chosen
            if _is(row, preset=preset, precision=precision)
            for name, milliseconds in row["estimated_ms"].items()
        }
        cells = [f"{found[name]:.2f}" if name in found else "" for name in devices]
        lines.append(_line([preset, precision, *cells]))
    return lines


def _is(row: Row, **wanted: str) -> bool:
    return all(row["case"][name] == value for name, value in wanted.items())


def _size(row: Row) -> tuple[str, str, str]:
    return (
        str(row["call"]["kernels"]),
        str(row["block"]["kernels"]),
        f"{row['call']['activation_megabytes']:.1f}",
    )


def _head(names: Sequence[str]) -> list[str]:
    return [_line(names), _line(["---"] * len(names))]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
