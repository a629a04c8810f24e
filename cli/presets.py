"""``pitstop presets``: the names that commands take, of models, targets, backends and samplers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from .printing import console, json_option, pairs, write_json


@click.command()
@json_option
def presets(json_path: Path | None) -> None:
    """List the presets, targets, backends and samplers that there are.

    Presets stand in for a checkpoint: fashion is trained, all others are random weights from a
    seed, for tests and benchmarks.

    Example: pitstop presets
    """
    from ..export.target import TARGETS
    from ..runtime.backends import AUTO, backend_names
    from ..runtime.sampling.samplers import FLOW_SAMPLERS, SAMPLERS

    listed, missing = _presets()
    targets: dict[str, dict[str, Any]] = {
        name: {"opset": target.opset, "precisions": [*target.precisions]}
        for name, target in TARGETS.items()
    }
    backends, samplers = [AUTO, *backend_names()], {"noise": [*SAMPLERS], "flow": [*FLOW_SAMPLERS]}
    write_json(
        json_path,
        {"presets": listed, "targets": targets, "backends": backends, "samplers": samplers},
    )
    console.print(
        pairs([
            *_preset_rows(listed),
            *([("presets", missing)] if missing else []),
            *(
                (f"target {name}", f"opset {row['opset']}, {', '.join(row['precisions'])}")
                for name, row in targets.items()
            ),
            ("backends", ", ".join(backends)),
            ("samplers", ", ".join(samplers["noise"])),
            ("for flows", ", ".join(samplers["flow"])),
        ])
    )


def _presets() -> tuple[list[dict[str, Any]], str]:
    """What is known of each preset; or why none is, where PyTorch is not installed."""
    try:
        from ..models.presets import PRESETS
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        return [], "need PyTorch: pip install 'pitstop[export]'"
    return [
        {
            "name": name,
            "arch": config.arch,
            "latent": list(config.input_size),
            "patch": config.patch_size,
            "depth": config.depth,
            "hidden_size": config.hidden_size,
            "trained": name == "fashion",
        }
        for name, config in PRESETS.items()
    ], ""


def _preset_rows(listed: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """The trained ones, then a row for each architecture."""
    rows: dict[str, list[str]] = {}
    for preset in listed:
        kind = "trained" if preset["trained"] else f"{preset['arch']}, random"
        rows.setdefault(kind, []).append(preset["name"])
    return [(kind, ", ".join(names)) for kind, names in rows.items()]
