"""``pitstop inspect``: what a bundle, a checkpoint or a preset is."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .. import OptionError
from .engine_kernels import (
    find_engine,
    floor_figures,
    floors_of,
    kernel_figures,
    kernels_in,
    print_floors,
    print_kernels,
)
from .forecasts_table import forecasts_in, print_forecasts
from .inputs import check_input
from .options import hint_options, revision_option
from .passes_table import moves_lines, passes_table, skipped_lines
from .printing import console, json_option, megabytes, pairs, table, write_json
from .progress import shown_stages

if TYPE_CHECKING:
    from ..evaluation.inspection import CheckpointReport
    from ..models.format import Hints
    from ..runtime.bundle.folder import Bundle
    from ..runtime.bundle.manifest import Manifest, ModelSpec
    from ..runtime.bundle.source import SourceSpec

PREDICTED = {
    "epsilon": "the noise",
    "v_prediction": "v, of noise and image",
    "sample": "the image",
    "velocity": "the velocity",
}


@click.command()
@click.argument("target", metavar="BUNDLE|CHECKPOINT|PRESET|REPOSITORY", callback=check_input)
@hint_options
@revision_option
@click.option("--engine", metavar="KEY", help="List the kernels of this engine of a bundle.")
@json_option
def inspect(
    target: str,
    hints: Hints | None,
    revision: str | None,
    engine: str | None,
    json_path: Path | None,
) -> None:
    """Say what a bundle holds, or what a checkpoint is; a bundle's hashes are checked.

    Example: pitstop inspect fashion.bundle
    """
    is_bundle = Path(target).is_dir() and not _is_checkpoint(Path(target))
    if engine is not None and not is_bundle:
        raise OptionError(f"{target} is no bundle, and only bundles have engines", "Name a bundle")
    if is_bundle:
        from ..runtime.bundle.folder import open_bundle

        bundle = open_bundle(target)
        if engine is not None:
            _inspect_engine(bundle, engine, json_path)
            return
        write_json(json_path, bundle_figures(bundle))
        _print_bundle(bundle)
    else:
        from ..evaluation.inspection import inspect_checkpoint

        with shown_stages() as on_stage:
            report = inspect_checkpoint(target, hints, revision, on_stage)
        write_json(json_path, checkpoint_figures(report))
        _print_checkpoint(report)


def _inspect_engine(bundle: Bundle, key: str, json_path: Path | None) -> None:
    engine = find_engine(bundle, key)
    kernels = kernels_in(bundle, engine)
    floors = floors_of(engine, kernels)
    figures = {"kernels": kernel_figures(kernels), "floors": floor_figures(floors)}
    write_json(json_path, {"kind": "engine", **figures})
    print_kernels(kernels)
    print_floors(floors)


def _is_checkpoint(folder: Path) -> bool:
    """Whether a folder is one of diffusers."""
    return any((folder / name).is_file() for name in ("config.json", "model_index.json"))


def bundle_figures(bundle: Bundle) -> dict[str, Any]:
    manifest = bundle.manifest
    graphs = [
        {"name": name, "file": spec.path, "bytes": bundle.path(spec.path).stat().st_size}
        | {"weight_bytes": spec.weight_bytes, "nodes": dict(spec.nodes), "opset": spec.opset}
        | {
            side: list(map(dataclasses.asdict, getattr(spec, side)))
            for side in ("inputs", "outputs")
        }
        for name, spec in manifest.graphs.items()
    ]
    return {
        "kind": "bundle",
        "model": manifest.model.config,
        "parameters": manifest.model.parameters,
        "flops_per_call": manifest.model.flops_per_call,
        "conditions": list(map(dataclasses.asdict, manifest.conditions)),
        "fed": manifest.fed,
        "graphs": graphs,
        "passes": [dataclasses.asdict(done) for done in manifest.passes],
        "engines": list(engine_figures(bundle)),
        "forecasts": forecasts_in(bundle),
        "sources": list(map(dataclasses.asdict, manifest.sources)),
    }


def engine_figures(bundle: Bundle) -> Iterator[dict[str, Any]]:
    """Each engine, and why it would not load here; one that cannot be read has its folder alone."""
    from .. import EngineError
    from ..runtime.bundle.engines import list_engines, read_engine
    from ..runtime.devices.engine_check import why_not_here

    for folder in list_engines(bundle.folder):
        try:
            engine = read_engine(folder)
        except EngineError as error:
            yield {"key": folder.name, "why_not_here": error.problem}
            continue
        yield {
            **dataclasses.asdict(engine.key),
            "key": engine.key.digest,
            "bytes": engine.plan_bytes,
            "why_not_here": why_not_here(bundle, engine),
        }


def checkpoint_figures(report: CheckpointReport) -> dict[str, Any]:
    return {
        "kind": "checkpoint",
        "model": report.model.config,
        "parameters": report.model.parameters,
        "flops_per_call": report.model.flops_per_call,
        "format": report.model.format or None,
        "licence": report.model.licence or None,
        "source": dataclasses.asdict(report.source) if report.source else None,
        "notes": list(report.notes),
        "graphs": [],
        "passes": [],
        "engines": [],
    }


def _print_bundle(bundle: Bundle) -> None:
    manifest = bundle.manifest
    channel, row, column = manifest.latent_shape
    console.print(
        pairs([
            *_model_rows(manifest.model),
            *_source_rows(manifest.sources),
            ("FLOPs", f"{manifest.model.flops_per_call / 1e9:,.2f} G a call of {manifest.batch}"),
            ("latent", f"{channel} x {row} x {column}, {manifest.latent_space}"),
            ("labels", _labels(manifest.label.names, manifest.label.classes)),
            ("predicts", manifest.prediction_type),
            ("schedule", manifest.schedule.called),
            *([("scheduler", called)] if (called := manifest.scheduler.called) else []),
            ("latent scale", f"{manifest.latent_scale:g}, shift {manifest.latent_shift:g}"),
            ("fed", ", ".join(f"{name} per {rate}" for name, rate in manifest.fed.items())),
            ("fastest here", _fastest(manifest)),
            ("config", _config(manifest.model.config)),
            ("versions", ", ".join(f"{name} {v}" for name, v in manifest.versions.items())),
        ])
    )
    console.print()
    rows = (
        [name, megabytes(bundle.path(spec.path).stat().st_size), megabytes(spec.weight_bytes),
         str(sum(spec.nodes.values())), str(spec.opset)]
        for name, spec in manifest.graphs.items()
    )  # fmt: skip
    console.print(table(["graph", "file", "weights", "nodes", "opset"], rows))
    _print_engines(bundle)
    print_forecasts(bundle)
    if manifest.passes:
        console.print()
        console.print(passes_table(manifest.passes))
    for line in moves_lines(manifest.passes) + skipped_lines(manifest.passes):
        console.print(line, style="dim", markup=False)
    for name, spec in manifest.graphs.items():
        console.print(f"\n{name}", style="bold")
        console.print(
            pairs([
                ("in", ", ".join(map(str, spec.inputs))),
                ("out", ", ".join(map(str, spec.outputs))),
                ("nodes", ", ".join(f"{count} {op}" for op, count in spec.nodes.items())),
            ]),
            markup=False,
        )


def _fastest(manifest: Manifest) -> str:
    """Of the precisions, on this CPU, and how to get it where the bundle lacks it."""
    from ..runtime.machine.cpu import cpu_features, fastest_precision

    precision = fastest_precision(cpu_features())
    if precision is None:
        return "not measured on such a CPU"
    lacks = precision not in manifest.precisions
    return f"{precision}, on this CPU" + ("; add it with `pitstop calibrate`" if lacks else "")


def _print_engines(bundle: Bundle) -> None:
    engines = list(engine_figures(bundle))
    if not engines:
        return
    console.print()
    rows = (
        [
            engine["key"],
            engine.get("graph", ""),
            f"{engine['builder']} {engine['builder_version']}" if "builder" in engine else "",
            engine.get("compute_capability", ""),
            megabytes(engine["bytes"]) if "bytes" in engine else "",
        ]
        for engine in engines
    )
    console.print(table(["engine", "graph", "builder", "for", "size"], rows))
    for engine in engines:
        why = engine["why_not_here"]
        verdict = f"would not load here: {why}" if why else "loads here"
        console.print(f"{engine['key']} {verdict}", style="dim", markup=False)


def _print_checkpoint(report: CheckpointReport) -> None:
    channel, row, column = report.latent_shape
    config = report.model.config
    console.print(
        pairs([
            *_model_rows(report.model),
            *_source_rows([report.source] if report.source else []),
            ("tensors", f"{report.tensors}, {megabytes(report.weight_bytes)} in fp32"),
            ("FLOPs", f"{report.model.flops_per_call / 1e9:,.2f} G a row"),
            ("latent", f"{channel} x {row} x {column}, {report.latent_space}"),
            ("predicts", _prediction(report)),
            ("schedule", report.schedule),
            ("guidance", _guidance(config)),
            *_modulation(config),
            ("labels", _labels(report.labels, config["num_classes"])),
            ("config", _config(config)),
            *(("note", note) for note in report.notes),
        ]),
        markup=False,
    )
    # One line, whatever the width of the terminal: it is there to be copied.
    console.print(f"export      {report.export_command}", soft_wrap=True)


def _prediction(report: CheckpointReport) -> str:
    sigma = " and its variance" if report.model.config["learn_sigma"] else ""
    return f"{PREDICTED[report.predicts]}{sigma}"


def _guidance(config: Mapping[str, Any]) -> str:
    if not config["class_dropout_prob"]:
        return "none: it has no class for none"
    return f"on {config['cfg_channels']} of {config['in_channels']} channels"


def _modulation(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    blocks = ", ".join(map(str, config.get("amm", {}).get("blocks", ())))
    if not blocks and config["arch"] != "edt":
        return []
    where = f"in blocks {blocks}" if blocks else "off"
    return [("modulation", f"of the attention (AMM): {where}; `--amm` changes it")]


def _model_rows(model: ModelSpec) -> list[tuple[str, str]]:
    return [
        ("model", f"{model.name} ({model.config['arch']})"),
        ("weights", model.provenance or "the file does not say where they come from"),
        *([("licence", model.licence)] if model.licence else []),
        ("parameters", f"{model.parameters / 1e6:,.2f} M"),
    ]


def _source_rows(sources: Iterable[SourceSpec]) -> list[tuple[str, str]]:
    """The repositories that the weights came from."""
    return [("vae from" if one.role == "vae" else "from", one.called) for one in sources]


def _labels(labels: tuple[str, ...], classes: int) -> str:
    return ", ".join(labels) if labels else f"0 to {classes - 1}, without names"


def _config(config: Any, prefix: str = "") -> str:
    """The config on one line, nested fields with their path."""
    parts = []
    for name, value in config.items():
        if isinstance(value, dict):
            parts.append(_config(value, f"{prefix}{name}."))
        elif name != "arch":
            parts.append(f"{prefix}{name}={value}")
    return " ".join(parts)
