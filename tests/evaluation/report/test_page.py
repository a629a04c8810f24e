from __future__ import annotations

import base64
import dataclasses
import io
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from perturb_helpers import perturb
from PIL import Image

from pitstop import OptionError
from pitstop.evaluation.accuracy.measure import Accuracy, Asked, Row, measure
from pitstop.evaluation.report.heat import heat
from pitstop.evaluation.report.page import (
    SHOWN,
    above,
    code,
    decibel,
    render,
    small,
    write_report,
)
from pitstop.evaluation.report.plots import (
    COLOURS,
    THEMED,
    BlockSeries,
    Curve,
    plot_blocks,
    plot_curves,
)
from pitstop.runtime.bundle.folder import Bundle
from pitstop.runtime.sampling.settings import Settings

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((found for name in BROWSERS if (found := shutil.which(name))), None)
FEW = Settings(steps=3, cfg_scale=2.0)
VOID = {"meta", "img", "br", "link", "input", "hr"}


@pytest.fixture(scope="module")
def sound(exported: Path, checkpoint: Path) -> Accuracy:
    return measure(
        Asked(
            [exported],
            ["onnxruntime"],
            ["all"],
            checkpoint=str(checkpoint),
            settings=FEW,
            whole=True,
        )
    )


@pytest.fixture(scope="module")
def broken(exported: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Accuracy:
    folder = perturb(exported, tmp_path_factory.mktemp("broken") / "bundle", "blocks.1.attn")
    return measure(Asked([folder], checkpoint=str(checkpoint), settings=FEW, whole=True))


class Reader(HTMLParser):
    """Reads a page as text, and sees that every element that opens closes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.sources: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.sources += [value or "" for name, value in attributes if name in {"src", "href"}]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "svg"} & set(self.open):
            self.words += data.split()

    @property
    def text(self) -> str:
        return " ".join(self.words)


def test_the_page_needs_nothing_from_outside(sound: Accuracy) -> None:
    page = render(sound)
    outside = [source for source in Reader(page).sources if not source.startswith("data:image/png")]

    assert outside == []
    assert not re.search(r"https?:|@import|url\((?!#)|<script|<link", page)


def test_the_verdict_and_its_gates_stand_at_the_top(sound: Accuracy, broken: Accuracy) -> None:
    good, bad = Reader(render(sound)).text, Reader(render(broken)).text

    assert "tiny: passed against PyTorch passed tiny beside PyTorch in fp32" in good
    assert "median PSNR" in good[:600]
    assert "at least 60 dB" in good[:600]
    assert "No bad block; the farthest is" in good[:800]
    assert "tiny: failed against PyTorch failed tiny beside PyTorch in fp32" in bad
    assert "at most 1.0e-05" in bad[:600]


def test_the_first_bad_block_is_named_first(broken: Accuracy) -> None:
    page = render(broken)

    assert "First bad block: blocks.1.attn ," in Reader(page).text
    assert page.count(">blocks.1.attn</text>") == 2  # on the axis, and beside its point


def test_every_denoiser_and_both_of_pytorchs_own_are_in_table_and_plots(sound: Accuracy) -> None:
    page = render(sound)
    text = Reader(page).text

    for name in (
        "fp32, CPUExecutionProvider",
        "fp16, CPUExecutionProvider",
        "fp16, PyTorch autocast",
        "bf16, PyTorch autocast",
    ):
        assert name in text
        assert f">{name}</text>" in page


def test_the_images_are_pytorchs_the_candidates_and_their_difference_worst_first(
    broken: Accuracy,
) -> None:
    pictures = [picture(source) for source in Reader(render(broken)).sources]
    compared = broken.rows[0].comparison
    worst = compared.worst_first[0]
    latents = broken.goldens.trajectory[-1][worst, 0], compared.latents[worst, 0]
    levels = [127.5 * (np.clip(latent, -1, 1) + 1) for latent in latents]
    times_8 = np.clip(8 * 127.5 * np.abs(np.subtract(*latents)), 0, 255)

    assert len(pictures) == 3 * SHOWN
    for shown, drawn in zip((*levels, times_8), pictures, strict=False):
        assert np.abs(drawn - shown).max() <= 0.51
    assert times_8.max() > 100


def test_every_block_has_a_figure_at_every_timestep_in_the_colour_of_its_margin(
    broken: Accuracy,
) -> None:
    page, blocks = render(broken), broken.rows[0].blocks
    assert blocks is not None

    for name, errors in blocks.calls.items():
        cells = "".join(
            rf'<td class="[^"]*" style="--h: {heat(error, blocks.limit):.2f}">{small(error)}</td>'
            for error in errors
        )
        assert re.search(f"<tr><td>{re.escape(name)}</td>{cells}</tr>", page)
    assert page.count('missed" style="--h: 1.00"') == sum(
        error > blocks.limit for errors in blocks.calls.values() for error in errors
    )


def test_the_colour_goes_from_a_thousandth_of_the_limit_to_the_limit() -> None:
    found = [
        heat(error, 1e-2) for error in (None, 0.0, 1e-6, 1e-5, 1e-3, 1e-2, 1.0, np.inf, np.nan)
    ]

    assert found == pytest.approx([0, 0, 0, 0, 2 / 3, 1, 1, 1, 1])


def test_margins_sizes_and_times_are_told(sound: Accuracy) -> None:
    text = Reader(render(sound)).text

    for row in sound.rows:
        assert row.bundle is not None
        compared = row.comparison
        graph = row.bundle.folder / row.bundle.manifest.denoiser(compared.precision).path
        assert f"(margin {above(compared.psnr_db_median - compared.min_psnr_db)})" in text
        assert row.ms_per_image_step is not None
        told = f"{graph.stat().st_size / 1e6:.1f} MB {row.ms_per_image_step:.3g} ms passed"
        assert told in text
    allowed = 1e-5 / sound.rows[0].comparison.relative_l2_max
    assert f"at most 1.0e-05 ({allowed:.2g} times as much)" in text


def test_the_command_that_made_the_page_is_told(sound: Accuracy) -> None:
    assert "command pitstop compare x --report y.html" in (
        Reader(render(sound, command="pitstop compare x --report y.html")).text
    )


def test_the_plots_take_the_pages_colours(sound: Accuracy) -> None:
    page = render(sound)
    drawings = "".join(re.findall(r"<svg.*?</svg>", page, re.DOTALL))

    assert "prefers-color-scheme: dark" in page
    for fixed in THEMED:
        assert fixed not in drawings
    for variable in ("--ink", "--line", "--blue"):
        assert f"var({variable})" in drawings
        assert page.count(f"{variable}:") == 2  # light and dark
    assert "#ffffff" not in drawings


def picture(source: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))))


def test_hashes_seeds_and_versions_are_told(sound: Accuracy) -> None:
    text = Reader(render(sound)).text

    for path, digest in sound.manifest.files.items():
        if path.startswith("graphs/") and path != sound.manifest.graphs["step"].path:
            assert f"tiny.bundle/{path} {digest}" in text
    assert "seeds 0 to 7, 8 images; labels 0, 1, 2, 0, 1" in text
    assert f"onnx-ir {sound.manifest.versions['onnx-ir']}" in text


def test_from_goldens_the_page_says_what_is_missing(exported: Path) -> None:
    text = Reader(render(measure(Asked([exported], whole=True)))).text

    assert "Not measured; the reason is at the end of this page." in text
    assert "it runs with --checkpoint" in text
    assert "`" not in text


def test_names_from_a_bundle_are_text_and_no_markup(sound: Accuracy) -> None:
    first = sound.rows[0]
    assert first.bundle is not None
    model = dataclasses.replace(first.bundle.manifest.model, name="<script>alert()</script>")
    manifest = dataclasses.replace(first.bundle.manifest, model=model)
    row = dataclasses.replace(first, bundle=Bundle(first.bundle.folder, manifest))

    page = render(dataclasses.replace(sound, rows=(row,)))

    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_latents_of_a_vae_are_shown_as_such(sound: Accuracy) -> None:
    goldens, first = sound.goldens, sound.rows[0]
    assert first.bundle is not None
    manifest = dataclasses.replace(first.bundle.manifest, latent_space="vae")
    comparison = dataclasses.replace(
        first.comparison, latents=np.repeat(first.comparison.latents, 4, axis=1)
    )
    bundle = Bundle(first.bundle.folder, manifest)
    row: Row = dataclasses.replace(first, bundle=bundle, comparison=comparison)
    trajectory = np.repeat(goldens.trajectory, 4, axis=2)
    wide = dataclasses.replace(goldens, trajectory=trajectory)

    page = Reader(render(dataclasses.replace(sound, goldens=wide, rows=(row,))))

    assert "These are latents" in page.text
    assert picture(page.sources[0]).shape == (16, 16, 3)


def test_a_denoiser_that_left_the_finite_numbers_has_a_page_too(sound: Accuracy) -> None:
    first = sound.rows[0]
    failed = dataclasses.replace(
        first.comparison,
        relative_l2=(np.inf,) * 3,
        step_relative_l2=(np.inf,) * 3,
        step_psnr_db=(np.nan,) * 3,
        psnr_db=(np.nan,) * 8,
        latents=np.full_like(first.comparison.latents, np.nan),
        failure="Step 1 of 3 (timestep 667) gave a latent that is not finite",
    )
    row = dataclasses.replace(first, comparison=failed)

    text = Reader(render(dataclasses.replace(sound, rows=(row,)))).text

    assert "failed tiny beside" in text
    assert "Step 1 of 3 (timestep 667) gave a latent that is not finite." in text
    assert "not a number" in text


def test_curves_of_equal_sides_can_be_drawn() -> None:
    drawn = plot_curves([Curve("same", [0.0, 0.0], [np.inf, np.inf])])

    assert drawn.startswith("<svg")
    assert ">same</text>" in drawn


def test_a_denoisers_blocks_have_the_colour_of_its_curve() -> None:
    drawn = plot_blocks([BlockSeries("second", {"a": 1e-7, "b": 1e-3}, [], 1e-2, place=1)])

    assert COLOURS[1] in drawn
    assert "var(--blue)" not in drawn


def test_the_same_plot_gives_the_same_file() -> None:
    series = [BlockSeries("one", {"a": 1e-7, "b": 1e-3}, ["b"], 1e-5)]

    assert plot_blocks(series) == plot_blocks(series)


def test_more_curves_than_colours_can_be_drawn() -> None:
    curves = [Curve(f"curve {k}", [1e-3, 1e-2], [60.0, 50.0]) for k in range(len(COLOURS) + 1)]

    assert all(f">curve {k}</text>" in plot_curves(curves) for k in range(len(curves)))


def test_numbers_are_told_in_words_where_they_are_none() -> None:
    assert [decibel(value) for value in (41.25, np.inf, np.nan)] == [
        "41.2 dB",
        "equal",
        "not a number",
    ]
    assert [small(value) for value in (3.14e-7, 0.0)] == ["3.1e-07", "0"]


def test_a_page_that_cannot_be_written_is_refused(sound: Accuracy, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(OptionError, match="--report"):
        write_report(sound, tmp_path / "file" / "page.html")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_browser_shows_the_page_whole(broken: Accuracy, tmp_path: Path) -> None:
    page, shot = tmp_path / "page.html", tmp_path / "page.png"
    write_report(broken, page)
    asked = [
        str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
        "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path / 'profile'}",
        "--window-size=1200,1600", f"--screenshot={shot}", "--dump-dom", page.as_uri(),
    ]  # fmt: skip

    done = subprocess.run(asked, capture_output=True, text=True, timeout=120, check=True)

    assert "CONSOLE" not in done.stderr
    assert done.stdout.count("<svg") == 2
    pixels = np.asarray(Image.open(shot).convert("RGB")).reshape(-1, 3)
    for colour in (COLOURS[0], "#c0262d"):  # the curve, and the verdict with the bad block
        rgb = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)])
        assert (np.abs(pixels - rgb).max(axis=1) <= 4).sum() > 200


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [420, 1280])
def test_nothing_but_tables_and_plots_is_wider_than_the_window(
    sound: Accuracy, tmp_path: Path, width: int
) -> None:
    """Asked of the browser itself, in a frame of that width: its own windows are never narrow."""
    page = tmp_path / "page.html"
    look = (
        "<script>document.title = 'over:' + (document.documentElement.scrollWidth"
        " - document.documentElement.clientWidth) + ':' + innerWidth</script></body>"
    )
    page.write_text(render(sound, command="pitstop compare a.bundle").replace("</body>", look))
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<iframe src="page.html" style="width:{width}px;height:900px;border:0" onload="'
        'document.title = this.contentDocument.title"></iframe>'
    )
    asked = [
        str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
        "--allow-file-access-from-files", f"--user-data-dir={tmp_path / 'profile'}",
        "--window-size=1400,1000", "--dump-dom", frame.as_uri(),
    ]  # fmt: skip

    done = subprocess.run(asked, capture_output=True, text=True, timeout=120, check=True)

    assert f"<title>over:0:{width}</title>" in done.stdout


def test_a_dollar_in_a_name_is_no_mathematics() -> None:
    assert ">costs $5_a$ or $^</text>" in plot_curves([Curve("costs $5_a$ or $^", [0.1], [30.0])])


def test_words_in_backticks_are_set_as_code_and_nothing_else_is_markup() -> None:
    assert code("no `--classifier` was <given>") == "no <code>--classifier</code> was &lt;given&gt;"
