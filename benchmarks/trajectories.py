"""Checkpoints of the full size through the whole export, beside the model they come from.

DiT-XL/2 from an official file and from a folder of diffusers, EDT-S/2 with its modulated attention
from a file of its authors' layout, all with random weights. Each bundle draws one guided image of
50 steps on ONNX Runtime; the reference draws it from the same noise: diffusers' own model for its
folder, for the others this package's PyTorch model, which tests hold against the authors' forward
passes at small sizes.
"""

from __future__ import annotations

import gc
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from checkpoints import write_diffusers, write_official
from record import record

from pitstop.evaluation.accuracy.compare import compare
from pitstop.evaluation.accuracy.reference import load_model
from pitstop.export.goldens import draw_goldens
from pitstop.export.pipeline import export_bundle
from pitstop.export.trace import TorchSession
from pitstop.models.presets import load_preset
from pitstop.runtime.bundle.folder import open_bundle
from pitstop.runtime.bundle.manifest import Manifest
from pitstop.runtime.pipeline import Pipeline
from pitstop.runtime.sampling.settings import Settings
from pitstop.runtime.stage import Moved

SETTINGS = Settings(steps=50, cfg_scale=4.0)
BATCH = 2


class FromDiffusers(torch.nn.Module):
    """Diffusers' model with the inputs of ours."""

    def __init__(self, path: Path) -> None:
        from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel

        super().__init__()
        self.model = DiTTransformer2DModel.from_pretrained(path)

    def forward(
        self, latent: torch.Tensor, timestep: torch.Tensor, label: torch.Tensor
    ) -> torch.Tensor:
        answer: torch.Tensor = self.model(latent, timestep=timestep, class_labels=label).sample
        return answer


def from_diffusers(path: Path, manifest: Manifest) -> torch.nn.Module:
    return FromDiffusers(path)


def from_ours(path: Path, manifest: Manifest) -> torch.nn.Module:
    return load_model(str(path), manifest)


def write_edt(folder: Path) -> Path:
    """The preset's weights under the keys of EDT's authors."""
    torch.save(load_preset("edt-s-2").model.state_dict(), folder / "edt.pt")
    return folder / "edt.pt"


@dataclass(frozen=True)
class Source:
    """A checkpoint to export.

    Attributes:
        write: Writes it into a folder.
        reference: Opens the model that the bundle is held against.
    """

    write: Callable[[Path], Path]
    reference: Callable[[Path, Manifest], torch.nn.Module]


SOURCES: Mapping[str, Source] = {
    "EDT-S/2": Source(write_edt, from_ours),
    "DiT-XL/2": Source(write_official, from_ours),
    "DiT-XL/2, diffusers": Source(write_diffusers, from_diffusers),
}


@click.command()
@click.option("--keep", is_flag=True, help="Write the figures to results/trajectories.json.")
def main(keep: bool) -> None:
    """Export each checkpoint, sample with both sides, print."""
    figures = {name: _measure(name, source) for name, source in SOURCES.items()}
    click.echo(json.dumps(figures, indent=2))
    if keep:
        click.echo(record("trajectories", figures))


def _measure(name: str, source: Source) -> dict[str, Any]:
    started = time.perf_counter()

    def say(what: str, parts: int = 0, steps: int = 1) -> Moved:
        click.echo(f"{time.perf_counter() - started:6.0f} s  {name}: {what}", err=True)
        return lambda count: None

    with tempfile.TemporaryDirectory() as folder:
        path, out = source.write(Path(folder)), Path(folder) / "bundle"
        report = export_bundle(str(path), out, batch=BATCH, on_stage=say)
        manifest = open_bundle(out).manifest
        gc.collect()
        say("the reference draws")
        reference = TorchSession(source.reference(path, manifest))
        goldens = draw_goldens(Pipeline(manifest, reference, "fp32"), SETTINGS, images=1)
        del reference
        gc.collect()
        say("the bundle draws")
        candidate = Pipeline.from_bundle(out, backend="onnxruntime")
        compared = compare(candidate, goldens, reference=name)
    return {
        "format": manifest.model.format,
        "export_relative_l2": report.parity.worst,
        "call_relative_l2_max": compared.relative_l2_max,
        "steps": len(compared.step_relative_l2),
        "psnr_db": compared.psnr_db_median,
        "passes": {done.name: len(done.rewritten) for done in report.passes},
        "passed": compared.passed,
    }


if __name__ == "__main__":
    main()
