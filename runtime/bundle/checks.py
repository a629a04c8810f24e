"""The parts of a manifest that are only shown or counted: each field of its type, or refused."""

from __future__ import annotations

from typing import Any

from .fields import a_count, a_number, a_table, a_text

MOST_BYTES = 2**63 - 1  # and parameters, and operations


def model_fields(content: object) -> dict[str, Any]:
    """The fields of a `ModelSpec`.

    Raises:
        ValueError: One is of another type.
    """
    model = a_table(content, "model")
    config = a_table(model["config"], "model.config")
    a_text(config.get("arch"), "model.config.arch")
    for name in ("parameters", "flops_per_call"):
        a_count(model[name], name, least=0, most=MOST_BYTES)
    for name in ("name", "provenance", "format", "licence", "weights", "variant"):
        _words(model.get(name, ""), f"model.{name}")
    return model


def graph_fields(content: object) -> dict[str, Any]:
    """The fields of a `GraphSpec` but for its tensors."""
    graph = a_table(content, "graphs")
    a_text(graph["path"], "path")
    a_count(graph["opset"], "opset")
    _counts(graph["nodes"], "nodes")
    a_count(graph["weight_bytes"], "weight_bytes", least=0, most=MOST_BYTES)
    return graph


def pass_fields(content: object) -> dict[str, Any]:
    """The fields of a `PassReport`."""
    report = a_table(content, "passes")
    a_text(report["name"], "name")
    for side in ("before", "after"):
        _counts(report[f"nodes_{side}"], f"nodes_{side}")
        name = f"weight_bytes_{side}"
        a_count(report[name], name, least=0, most=MOST_BYTES)
        moves = a_table(report.get(f"block_moves_{side}", {}), f"block_moves_{side}")
        for operator in moves:
            a_number(moves, operator, 0.0)
    for site, why in a_table(report["skipped"], "skipped").items():
        _words(why, site)
    a_number(report, "relative_l2", 0.0)
    if report.get("weight_bits") is not None:
        a_count(report["weight_bits"], "weight_bits")
    return {**report, "rewritten": tuple(_words(name, "rewritten") for name in report["rewritten"])}


def digests(content: object) -> dict[str, str]:
    """The sha256 of every file, by its path."""
    files = a_table(content, "files")
    return {path: a_text(digest, path) for path, digest in files.items()}


def _counts(content: object, name: str) -> None:
    for operator, count in a_table(content, name).items():
        a_count(count, operator, least=0)


def _words(value: object, name: str) -> str:
    """Text that may be empty."""
    return a_text(value, name) if value != "" else ""
