from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from bundle_helpers import toy_manifest, write_bundle
from checkpoint_helpers import tiny_checkpoint
from cli_helpers import without_stages
from click.testing import CliRunner, Result
from perturb_helpers import perturb

from pitstop.cli import main
from pitstop.export.pipeline import export_bundle

FEW = ("--images", 2, "--steps", 3)
KEYS = {
    "backend", "precision", "steps", "images", "relative_l2_max", "psnr_db_median", "psnr_db_min",
    "ssim_median", "class_agreement", "frechet_distance", "passed",
}  # fmt: skip


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["compare", *map(str, arguments)])


def refused(*arguments: object) -> str:
    """The one line on stderr of a command that must end with exit code 2."""
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    [line] = without_stages(result.stderr)
    assert line.startswith("pitstop: ")
    return line


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors")


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "tiny.bundle"
    assert export_bundle(str(checkpoint), folder, precisions=("fp32", "fp16")).passed
    return folder


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "toy", toy_manifest(split=True))


def test_the_verdict_of_the_page_agrees_with_the_exit_code(
    checkpoint: Path, exported: Path, tmp_path: Path
) -> None:
    broken = perturb(exported, tmp_path / "broken", "blocks.0.mlp")

    for bundle, code, verdict in ((exported, 0, "passed"), (broken, 1, "failed")):
        page, figures = tmp_path / f"{verdict}.html", tmp_path / f"{verdict}.json"
        done = run(bundle, "--checkpoint", checkpoint, *FEW, "--report", page, "--json", figures)

        assert done.exit_code == code, done.output
        assert f"tiny: {verdict} against PyTorch</title>" in page.read_text()
        assert json.loads(figures.read_text())["passed"] is (code == 0)
        assert str(page) in done.output.replace("\n", "")


def test_the_page_says_what_was_typed_for_it(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a bundle").symlink_to(exported)

    done = run("a bundle", "--report", "page.html")

    assert done.exit_code == 0, done.output
    page = (tmp_path / "page.html").read_text()
    typed = "pitstop compare &#39;a bundle&#39; --report page.html"
    assert f"<dt>command</dt><dd><code>{typed}</code></dd>" in page
    assert str(tmp_path) not in page


def test_a_perturbed_block_is_named_on_the_terminal_and_in_the_figures(
    checkpoint: Path, exported: Path, tmp_path: Path
) -> None:
    broken = perturb(exported, tmp_path / "broken", "blocks.0.mlp")

    done = run(broken, "--checkpoint", checkpoint, *FEW, "--json", tmp_path / "figures.json")

    assert done.exit_code == 1
    assert "first bad block: blocks.0.mlp" in done.output
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["first_bad_block"] == "blocks.0.mlp"
    assert figures["block_relative_l2"]["blocks.0.mlp"] > 1e-5


def test_the_figures_of_one_denoiser_are_one_object_and_of_several_rows(
    exported: Path, tmp_path: Path
) -> None:
    run(exported, "--json", tmp_path / "one.json")
    run(exported, "--precision", "fp32,fp16", "--json", tmp_path / "two.json")

    one = json.loads((tmp_path / "one.json").read_text())
    two = json.loads((tmp_path / "two.json").read_text())
    assert set(one) >= KEYS
    assert 0.999 < one["ssim_median"] <= 1
    assert one["class_agreement"] is None
    assert [row["precision"] for row in two["rows"]] == ["fp32", "fp16"]
    assert two["passed"] is all(row["passed"] for row in two["rows"])
    assert all(set(row) >= KEYS for row in two["rows"])


def test_each_gate_of_the_user_counts(exported: Path) -> None:
    assert run(exported).exit_code == 0
    assert run(exported, "--min-psnr", 500).exit_code == 1
    assert run(exported, "--max-rel-l2", 1e-12).exit_code == 1
    assert run(exported, "--precision", "fp16", "--max-rel-l2", 1e-6).exit_code == 1


def test_fewer_calls_are_held_against_all_of_pytorchs(
    checkpoint: Path, exported: Path, tmp_path: Path
) -> None:
    live = ("--checkpoint", checkpoint, "--images", 2, "--steps", 8)

    page, few = tmp_path / "few.html", ("--calls", 4, "--min-psnr", -100)
    done = run(exported, *live, *few, "--json", tmp_path / "few.json", "--report", page)

    figures = json.loads((tmp_path / "few.json").read_text())
    assert done.exit_code == 0, done.output
    assert "note: no forecast was fitted" in " ".join(done.stderr.split())
    assert ", 4 of 8 calls: median PSNR" in " ".join(done.stdout.split())
    assert ", 4 of 8 calls</strong>" in page.read_text()
    assert "Note: no forecast was fitted" in page.read_text()
    assert (figures["calls"], figures["steps"]) == (4, 8)
    assert figures["relative_l2_max"] < 1e-5
    assert figures["psnr_db_median"] < 60
    assert "at most 8 calls, or more steps" in refused(exported, *live, "--calls", 9)
    run(exported, *live, "--calls", 4, "--json", tmp_path / "gate.json")
    assert json.loads((tmp_path / "gate.json").read_text())["min_psnr_db"] == 40


def test_more_calls_than_the_goldens_have_steps_are_refused_with_where_those_come_from(
    exported: Path,
) -> None:
    said = refused(exported, "--calls", 999)

    assert "999 calls were asked for, and the goldens were drawn in" in said
    assert "live with `--checkpoint`" in said


@pytest.mark.parametrize("gate", ["--min-psnr", "--max-rel-l2"])
def test_a_gate_that_is_no_number_is_refused_before_the_run(exported: Path, gate: str) -> None:
    assert f"Choose a number with `{gate}`" in refused(exported, gate, "nan")


def test_bundles_of_different_models_are_refused(exported: Path, toy: Path) -> None:
    assert "of different models: arch is pit and toy" in refused(exported, toy)


def test_missing_goldens_are_told(toy: Path) -> None:
    (toy / "goldens.npz").unlink()

    assert "goldens.npz is missing" in refused(toy)


@pytest.mark.parametrize(
    ("place", "found"), [("none/page.html", "is no folder"), ("", "it is a folder")]
)
def test_a_report_that_cannot_be_written_is_refused_before_the_run(
    tmp_path: Path, place: str, found: str
) -> None:
    line = refused(tmp_path / "no-bundle-at-all", "--report", tmp_path / place)

    assert found in line
    assert "`--report`" in line


@pytest.mark.parametrize(
    ("options", "found", "valid"),
    [
        (["--precision", "int8"], "int8", "fp32, fp16"),
        (["--precision", "fp32,"], "no  denoiser", "fp32, fp16"),
        (["--backend", "onnx"], "'onnx'", "onnxruntime"),
        (["--backend", ""], "''", "onnxruntime"),
        (["--classifier", "none.safetensors"], "none.safetensors holds no classifier", "fashion"),
        (["--classifier", "fashion"], "grey images of 32 x 32", "--classifier"),
    ],
)
def test_a_wrong_option_is_named(
    exported: Path, options: list[str], found: str, valid: str
) -> None:
    line = refused(exported, *options)

    assert found in line
    assert valid in line


@pytest.mark.parametrize("option", ["--images", "--steps", "--sampler", "--cfg-scale"])
def test_an_option_that_the_goldens_cannot_follow_is_refused(option: str, toy: Path) -> None:
    value = "ddim" if option == "--sampler" else "3"
    line = refused(toy, option, value)
    assert f"`{option}` is of images that PyTorch draws live" in line
    assert "--checkpoint" in line


@pytest.mark.parametrize(
    ("package", "extra"),
    [("jinja2", "report"), ("matplotlib", "report"), ("torch", "export")],
)
def test_a_missing_package_names_its_extra(
    toy: Path, tmp_path: Path, package: str, extra: str
) -> None:
    blocked = f"import sys; sys.modules[{package!r}] = None; from pitstop.cli import main; main()"
    options = ["--checkpoint", "fashion"] if package == "torch" else ["--report", "page.html"]

    done = subprocess.run(
        [sys.executable, "-c", blocked, "compare", str(toy), *options],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 2, done.stderr
    [line] = without_stages(done.stderr)
    assert f"pip install 'pitstop[{extra}]'" in line
    assert not (tmp_path / "page.html").exists()


def test_noise_that_differs_from_the_goldens_is_told_before_the_figures(
    exported: Path, toy: Path, tmp_path: Path
) -> None:
    alike = run(exported, "--json", tmp_path / "alike.json")
    other = run(toy, "--json", tmp_path / "other.json")  # its goldens begin from zeros

    assert "start noise" not in alike.output
    assert json.loads((tmp_path / "alike.json").read_text())["other_noise"] is None
    assert "gives other start noise here than in the goldens" in " ".join(other.stderr.split())
    assert "start noise" in json.loads((tmp_path / "other.json").read_text())["other_noise"]
