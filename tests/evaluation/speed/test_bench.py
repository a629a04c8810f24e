"""The whole benchmark on tiny bundles: that every figure is there, not how large it is."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bundle_helpers import FakeSession, one_line, toy_manifest, write_bundle
from checkpoint_helpers import tiny_checkpoint
from PIL import Image
from stage_helpers import Heard

from pitstop import BackendUnavailable, BundleError, CheckpointError, OptionError
from pitstop.evaluation.speed.bench import Bench, Row, make_row, run_bench
from pitstop.evaluation.speed.contender import Contender
from pitstop.evaluation.speed.contenders import Wanted, find_contenders, name_contenders
from pitstop.evaluation.speed.memory import gpu_used_bytes, measure_fresh
from pitstop.evaluation.speed.plot import check_suffix, plot_bench
from pitstop.evaluation.speed.spread import Spread
from pitstop.evaluation.speed.timed_run import Ready, Step, TimedRun
from pitstop.evaluation.speed.torch_rows import TorchRow, open_torch, torch_contenders
from pitstop.export.trace import TorchSession
from pitstop.models.checkpoint import load_checkpoint
from pitstop.runtime.backend import SessionOptions
from pitstop.runtime.backends import backend_names, import_backend
from pitstop.runtime.bundle.folder import open_bundle, write_manifest
from pitstop.runtime.session import Array

ONE_THREAD = SessionOptions(threads=1)
ALONE = Wanted(["onnxruntime"], ["fp32"], ONE_THREAD, torch=False)
OPENED = Ready(toy_manifest(batch=4), "fp32", FakeSession())


def hand_made_row(*, name: str = "row", backend: str = "onnxruntime", ms: float = 10.0) -> Row:
    even = Spread(ms, ms, ms)
    return Row(name, Contender(Path("toy"), backend, "fp32"), "CPU", 2, 1, 4_000_000, even, even,
               even, 1.0, 2.0, None, 0.1)  # fmt: skip


def hand_made_bench(*rows: Row, flops: Mapping[str, float] | None = None) -> Bench:
    return Bench(rows, 2, 1, {"best": 1e9, "other": 5e8} if flops is None else flops, (), ())


def steps(*milliseconds: tuple[float, float]) -> tuple[Step, ...]:
    return tuple(Step(step / 1000, (call / 1000,)) for step, call in milliseconds)


def test_a_rows_figures_are_those_of_its_turns() -> None:
    turns = [
        TimedRun(0.005, steps((90, 80), (10, 9), (20, 18)), 0.007),
        TimedRun(0.003, steps((90, 80), (30, 27), (40, 36)), 0.001),
        TimedRun(0.004, steps((90, 80), (50, 45), (60, 51)), 0.002),
    ]

    row = make_row("row", Contender(Path("toy"), "fake", "fp32"), OPENED, turns)

    assert (row.batch, row.images, row.device) == (4, 2, "fake")
    assert row.call.median == pytest.approx((27 + 36) / 2)
    assert row.call.p10 == pytest.approx((9 + 18) / 2)
    assert row.call.p90 == pytest.approx((45 + 51) / 2)
    assert dataclasses.astuple(row.step) == pytest.approx((35.0, 15.0, 55.0))
    assert row.conditioner_ms == pytest.approx(4.0)
    assert row.loop_ms == pytest.approx(160.0)
    assert row.decoder_ms == pytest.approx(2.0)
    assert row.image.median == pytest.approx(163.0 / 2)
    assert row.images_per_second == pytest.approx(2 / 0.163)
    assert row.loop_overhead == pytest.approx(0.1)
    assert row.flops_per_second == pytest.approx(384 * 4 / 0.0315)


def test_the_share_of_the_peak_is_of_the_fastest_matmuls() -> None:
    row = hand_made_row()  # 4 MFLOP in 10 ms

    assert hand_made_bench(row).peak_share(row) == pytest.approx(0.4)
    assert hand_made_bench(row, flops={}).peak_share(row) is None


def test_the_speedup_is_over_the_fastest_pytorch_of_the_same_bundle() -> None:
    ours = hand_made_row(ms=10.0)
    eager = hand_made_row(name="eager", backend="torch eager", ms=40.0)
    compiled = hand_made_row(name="compiled", backend="torch compile", ms=25.0)
    elsewhere = replace(eager, contender=Contender(Path("b"), "torch eager", "fp32"))

    bench = hand_made_bench(eager, compiled, ours)

    assert [bench.speedup(row) for row in bench.rows] == [0.625, 1.0, 2.5]
    assert hand_made_bench(ours, elsewhere).speedup(ours) is None


def test_the_speedup_of_fewer_calls_is_that_of_images() -> None:
    fewer = Contender(Path("toy"), "onnxruntime", "fp32", calls=5)
    half = replace(hand_made_row(ms=10.0), contender=fewer, step=Spread(0.1, 0.1, 0.1))
    eager = hand_made_row(name="eager", backend="torch eager", ms=40.0)

    assert hand_made_bench(eager, half).speedup(half) == 4.0
    assert list(name_contenders([fewer])) == ["fp32, onnxruntime, 5 calls"]


def test_a_bundle_is_timed_and_its_memory_is_a_processs_own(tiny_bundle: Path) -> None:
    bench = run_bench([tiny_bundle], ALONE, steps=2, rounds=2)

    [row] = bench.rows
    assert row.name == "fp32, onnxruntime"
    assert row.device == "CPUExecutionProvider"
    assert 0 < row.call.p10 <= row.call.median <= row.call.p90
    assert row.call.median < row.step.median < row.loop_ms
    assert 0 < row.loop_overhead < 1
    assert row.conditioner_ms is not None
    assert row.conditioner_ms > 0
    assert row.fresh is not None
    assert row.fresh.load_seconds > 0
    assert row.fresh.peak_memory_bytes is not None
    assert 20e6 < row.fresh.peak_memory_bytes < 150e6  # torch, loaded here, has not come along
    assert row.fresh.device_memory_bytes is None
    assert (bench.peak_share(row) or 0) > 0
    assert bench.left_out == ()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")  # of torch.compile
def test_pytorch_and_every_backend_take_their_turns(tmp_path: Path, tiny_bundle: Path) -> None:
    checkpoint = tiny_checkpoint(tmp_path / "tiny.safetensors")
    heard = Heard()
    wanted = Wanted(options=ONE_THREAD, checkpoint=str(checkpoint))
    bench = run_bench([tiny_bundle], wanted, steps=2, rounds=1, on_stage=heard)

    names = [row.name for row in bench.rows]
    assert names[:4] == [f"{p}, torch {w}" for w in ("eager", "compile") for p in ("fp32", "bf16")]
    able = [name for name in backend_names() if import_backend(name).why_not() is None]
    assert names[4:] == [f"{p}, {name}" for name in able for p in ("fp32", "fp16")]
    assert all(row.fresh and row.fresh.peak_memory_bytes for row in bench.rows)
    assert max(bench.speedup(row) or 0 for row in bench.rows[:4]) == 1.0
    assert bench.left_out == ()
    assert heard.stages[1:] == ["timing in turns", "load time and memory of each row"]
    assert heard.moved == heard.all_steps


def test_a_graph_that_no_backend_opens_is_refused_and_beside_others_left_out(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_bundle, tmp_path / "spoilt")
    manifest = open_bundle(folder).manifest
    (folder / manifest.denoiser("fp16").path).write_bytes(b"no graph")
    (folder / "manifest.json").unlink()
    write_manifest(folder, manifest)

    bench = run_bench([folder], replace(ALONE, precisions=[]), steps=2, rounds=1)
    with pytest.raises(BundleError) as told:
        run_bench([folder], replace(ALONE, precisions=["fp32", "fp16"]), steps=2, rounds=1)

    assert [row.name for row in bench.rows] == ["fp32, onnxruntime"]
    [reason] = bench.left_out
    assert reason.startswith("fp16, onnxruntime: ONNX Runtime cannot open")
    assert "denoiser.fp16.onnx" in one_line(told.value)


def test_a_provider_leaves_out_the_backends_that_have_none(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "toy")
    wanted = Wanted(options=SessionOptions("CPUExecutionProvider", 1), torch=False)

    bench = run_bench([folder], wanted, steps=2, rounds=1)

    assert [row.contender.backend for row in bench.rows] == ["onnxruntime"]
    refused = [reason for reason in bench.left_out if "openvino" in reason]
    assert len(refused) == (import_backend("openvino").why_not() is None)


def test_nothing_that_counts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError) as told:
        run_bench([tmp_path], ALONE, steps=1, rounds=3)

    assert "3 rounds of 1 steps" in one_line(told.value)


def test_several_bundles_are_told_apart_by_folder_and_by_path_where_those_clash() -> None:
    one, two, other = Path("a/same"), Path("b/same"), Path("b/other")
    contenders = [Contender(folder, "onnxruntime", "fp32") for folder in (one, two, other, one)]

    assert list(name_contenders(contenders)) == [
        "a/same, fp32, onnxruntime",
        "b/same, fp32, onnxruntime",
        "other, fp32, onnxruntime",
    ]
    assert list(name_contenders(contenders[:1])) == ["fp32, onnxruntime"]


@pytest.mark.parametrize(
    ("missing", "wanted", "found"),
    [
        ("torch", Wanted(checkpoint="mine.pt"), "The package torch is not installed"),
        ("torch", Wanted(torch=True), "pip install 'pitstop[export]'"),
        (None, Wanted(torch=True), "toy is no preset"),
    ],
)
def test_pytorch_by_name_is_refused_where_it_cannot_be_had(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    missing: str | None,
    wanted: Wanted,
    found: str,
) -> None:
    bundles = {tmp_path: open_bundle(write_bundle(tmp_path / "toy"))}
    if missing:
        monkeypatch.setitem(sys.modules, missing, None)

    with pytest.raises(BackendUnavailable) as told:
        find_contenders(wanted, bundles)

    assert found in one_line(told.value)


def test_pytorch_unasked_is_left_out_and_said(tmp_path: Path) -> None:
    bundles = {tmp_path: open_bundle(write_bundle(tmp_path / "toy"))}

    contenders, [reason] = find_contenders(Wanted(["onnxruntime"]), bundles)

    assert [contender.backend for contender in contenders] == ["onnxruntime"]
    assert "`--checkpoint`" in reason


def test_a_preset_is_found_by_the_bundles_name(tmp_path: Path) -> None:
    manifest = toy_manifest()
    manifest = replace(manifest, model=replace(manifest.model, name="pit-s-2"))
    bundles = {tmp_path: open_bundle(write_bundle(tmp_path / "toy", manifest))}

    contenders, _ = find_contenders(Wanted(["onnxruntime"]), bundles)

    assert {contender.checkpoint for contender in contenders if contender.is_torch} == {"pit-s-2"}


def test_a_checkpoint_of_another_model_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    other = tiny_checkpoint(tmp_path / "other.safetensors", hidden_size=48)
    wanted = Wanted(["onnxruntime"], ["fp32"], ONE_THREAD, checkpoint=str(other))

    with pytest.raises(CheckpointError) as told:
        run_bench([tiny_bundle], wanted, steps=2, rounds=1)

    assert "hidden_size 48" in one_line(told.value)


def answer(session: TorchRow | TorchSession) -> Array:
    rng = np.random.default_rng(3)
    feeds: dict[str, Array] = {
        "latent": rng.standard_normal((2, 1, 16, 16)).astype(np.float32),
        "timestep": np.full(2, 977, dtype=np.float32),
        "label": np.array([0, 2]),
    }
    return session.run(feeds)["prediction"]


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")  # of torch.compile
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("precision", "least", "most"), [("fp32", 0, 1e-6), ("bf16", 1e-4, 3e-2)])
def test_pytorchs_rows_compute_what_the_checkpoint_says(
    tiny_bundle: Path, tmp_path: Path, precision: str, least: float, most: float, compiled: bool
) -> None:
    checkpoint = tiny_checkpoint(tmp_path / "tiny.safetensors")
    wanted = answer(TorchSession(load_checkpoint(checkpoint).model)).astype(np.float64)
    manifest = open_bundle(tiny_bundle).manifest

    found = answer(open_torch(str(checkpoint), manifest, precision, compiled=compiled))

    distance = np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
    assert found.dtype == np.float32
    assert least <= distance <= most


def test_pytorch_has_a_row_for_each_way_and_precision() -> None:
    contenders = torch_contenders(Path("toy"), "mine.pt", ONE_THREAD)

    assert [(contender.backend, contender.precision) for contender in contenders] == [
        ("torch eager", "fp32"),
        ("torch eager", "bf16"),
        ("torch compile", "fp32"),
        ("torch compile", "bf16"),
    ]


def test_a_process_that_fails_says_why(tmp_path: Path) -> None:
    told = measure_fresh(Contender(tmp_path / "nothing", "onnxruntime", "fp32"), 2)

    assert isinstance(told, str)
    assert "is not a bundle" in told


def test_the_memory_of_all_gpus_is_added_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script in the place of nvidia-smi: no GPU is here to ask."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu_used_bytes() is None

    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 1024\necho 512\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert gpu_used_bytes() == 1536 << 20

    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho no driver\nexit 9\n")
    assert gpu_used_bytes() is None


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_a_plot_is_written_whole(tmp_path: Path, suffix: str) -> None:
    rows = [hand_made_row(name="eager", backend="torch eager"), hand_made_row(ms=4.0)]
    place = tmp_path / f"plot{suffix}"

    check_suffix(place)
    plot_bench(hand_made_bench(*rows), place)

    assert list(tmp_path.iterdir()) == [place]
    if suffix == ".png":
        with Image.open(place) as picture:
            assert picture.width > 800
            assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 10
    if suffix == ".svg":
        text = place.read_text()
        assert "eager" in text
        assert "1 turns of 2 steps" in text
        assert "noisy" not in text


def test_a_plot_of_a_noisy_machine_says_so(tmp_path: Path) -> None:
    noisy = replace(hand_made_bench(hand_made_row()), warnings=("others ran",))

    plot_bench(noisy, tmp_path / "plot.svg")

    assert "The machine was noisy" in (tmp_path / "plot.svg").read_text()


@pytest.mark.parametrize("name", ["plot", "plot.bmp"])
def test_a_plot_of_no_known_kind_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(OptionError) as told:
        check_suffix(tmp_path / name)

    assert ".png, .svg, .pdf" in one_line(told.value)


def test_a_plot_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OptionError) as told:
        plot_bench(hand_made_bench(hand_made_row()), tmp_path / "gone" / "plot.png")

    assert "`--plot`" in one_line(told.value)
    assert list(tmp_path.iterdir()) == []
