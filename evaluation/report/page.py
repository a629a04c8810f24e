"""The accuracy report: one HTML page that needs nothing from outside itself."""

from __future__ import annotations

import base64
import datetime
import io
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np
import numpy.typing as npt
from markupsafe import Markup, escape
from PIL import Image

from ... import __version__
from ...runtime.bundle.folder import WEIGHTS
from ...runtime.bundle.manifest import CONDITIONER
from ...runtime.bundle.precision import QUANTIZED
from ...runtime.distance import latent_peak
from ...runtime.figures import counted
from ...runtime.image import written_whole
from ...runtime.machine.system import this_machine
from ...runtime.sampling.sampler import Latent
from ..accuracy.measure import Accuracy, Row
from .calibration import Calibration, read_calibration
from .forecasts import forecasts_of
from .heat import DECADES, heat_map
from .plots import BlockSeries, Curve, plot_blocks, plot_curves, plot_drift, plot_forecasts

TEMPLATES = Path(__file__).parent / "templates"
SHOWN = 8  # images of each candidate, the worst first
GAIN = 8  # of the pictured difference


def write_report(accuracy: Accuracy, path: Path, *, command: str | None = None) -> None:
    """Write the page, whole or not at all; ``command`` is what made it.

    Raises:
        OptionError: ``path`` cannot be written.
    """
    page = render(accuracy, command=command)
    with written_whole(path, "--report") as beside:
        beside.write_text(page, encoding="utf-8")


def render(accuracy: Accuracy, *, command: str | None = None) -> str:
    """The page as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "decibel": decibel,
        "small": small,
        "percent": percent,
        "counted": counted,
        "code": code,
        "above": above,
        "megabytes": megabytes,
    }
    measured = [row for row in accuracy.rows if row.blocks is not None]
    forecasts, unusable = forecasts_of([
        row.bundle for row in accuracy.rows if row.bundle is not None
    ])
    return environment.get_template("report.html").render(
        accuracy=accuracy,
        manifest=accuracy.manifest,
        labels=accuracy.manifest.label.classes_in(accuracy.goldens.told),
        curves=Markup(plot_curves(_curves(accuracy))),
        measured=measured,
        blocks=Markup(plot_blocks(list(_series(accuracy.rows)))) if measured else None,
        heat=heat_map([row.blocks for row in measured if row.blocks]) if measured else None,
        decades=DECADES,
        sizes={row.name: _graph_bytes(row) for row in accuracy.rows},
        command=command,
        calibrations=list(_calibrations(accuracy)),
        forecasts=forecasts,
        left_out=[*accuracy.left_out, *unusable],
        fewer_calls=Markup(plot_forecasts(forecasts)) if forecasts else None,
        galleries=[(row, _gallery(accuracy, row)) for row in accuracy.rows],
        shown=SHOWN,
        gain=GAIN,
        graphs=_graphs(accuracy),
        version=__version__,
        machine=this_machine(),
        date=datetime.datetime.now(datetime.timezone.utc),
    )


def _calibrations(accuracy: Accuracy) -> Iterator[tuple[Row, Calibration, Markup]]:
    """Each quantized denoiser whose bundle tells of its calibration, and the plot of its drift."""
    for row in accuracy.rows:
        if row.bundle is not None and row.comparison.precision in QUANTIZED:
            calibration = read_calibration(row.bundle)
            if calibration is not None:
                yield row, calibration, Markup(plot_drift(calibration.drift))


def decibel(value: float) -> str:
    """``41.3 dB``, or ``equal`` where there is no difference at all."""
    if math.isnan(value):
        return "not a number"
    return "equal" if math.isinf(value) else f"{value:.1f} dB"


def code(text: str) -> Markup:
    """Text whose words in backticks are set as code."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # escaped


def above(margin_db: float) -> str:
    """``+21.3 dB`` above a gate, or ``-2.0 dB``."""
    if math.isnan(margin_db):
        return "none"
    return "without end" if math.isinf(margin_db) else f"{margin_db:+.1f} dB"


def megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


def small(value: float) -> str:
    """``3.1e-07``, or ``0``."""
    return f"{value:.1e}" if value else "0"


def percent(share: float) -> str:
    return f"{share:.1%}"


@dataclass(frozen=True)
class Picture:
    """One image of a candidate beside PyTorch's.

    Attributes:
        title: Which image it is.
        psnr_db: Of the candidate's.
        ssim: Of it, or None.
        expected: PyTorch's, as the address of a PNG that is inside the page.
        found: The candidate's.
        difference: Their distance, `GAIN` times as bright.
    """

    title: str
    psnr_db: float
    ssim: float | None
    expected: str
    found: str
    difference: str


def _gallery(accuracy: Accuracy, row: Row) -> list[Picture]:
    comparison, goldens, manifest = row.comparison, accuracy.goldens, accuracy.manifest
    pictures = []
    for image in comparison.worst_first[:SHOWN]:
        expected, found = goldens.trajectory[-1][image], comparison.latents[image]
        label = manifest.label.classes_in(goldens.told)[image]
        named = manifest.label.called(label) if manifest.label.names else f"label {label}"
        low = -1.0 if manifest.latent_space == "pixel" else float(expected.min())
        peak = latent_peak(expected, manifest.latent_space)
        pictures.append(
            Picture(
                title=f"{named}, seed {goldens.seeds[image]}",
                psnr_db=comparison.psnr_db[image],
                ssim=comparison.ssim[image] if comparison.ssim else None,
                expected=_png((expected - low) / peak),
                found=_png((found - low) / peak),
                difference=_png(GAIN * np.abs(found - expected) / peak),
            )
        )
    return pictures


def _png(image: Latent) -> str:
    """A data URI of [channel, row, column] in [0, 1]: grey, or the first three channels as RGB."""
    levels = np.rint(255 * np.clip(np.nan_to_num(image), 0, 1)).astype(np.uint8)
    pixels: npt.NDArray[np.uint8] = np.moveaxis(levels[:3], 0, 2) if len(levels) > 2 else levels[0]
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _curves(accuracy: Accuracy) -> list[Curve]:
    return [
        Curve(
            row.name,
            row.comparison.step_relative_l2,
            row.comparison.step_psnr_db,
            floor=row.bundle is None,
        )
        for row in (*accuracy.rows, *accuracy.floors)
    ]


def _series(rows: Sequence[Row]) -> Iterator[BlockSeries]:
    for place, row in enumerate(rows):
        if (found := row.blocks) is not None:
            yield BlockSeries(row.name, found.relative_l2, found.bad, found.limit, place)


def _graph_bytes(row: Row) -> int:
    """Of the denoiser's file, and of the one beside it where its weights are their own."""
    assert row.bundle is not None
    path = row.bundle.path(row.bundle.manifest.denoiser(row.comparison.precision).path)
    weights = path.with_name(path.name + WEIGHTS)
    return sum(file.stat().st_size for file in (path, weights) if file.exists())


def _graphs(accuracy: Accuracy) -> list[tuple[str, str]]:
    """The path and sha256 of every graph that took part."""
    graphs = {}
    for row in accuracy.rows:
        assert row.bundle is not None
        manifest = row.bundle.manifest
        specs = [manifest.denoiser(row.comparison.precision)]
        if CONDITIONER in manifest.graphs:
            specs.insert(0, manifest.graphs[CONDITIONER])
        for spec in specs:
            graphs[f"{row.bundle.folder.name}/{spec.path}"] = manifest.files[spec.path]
    return list(graphs.items())
