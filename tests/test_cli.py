from __future__ import annotations

import json
import pickle
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import safetensors.torch
import torch
from bundle_helpers import toy_manifest, write_bundle
from checkpoint_helpers import tiny_checkpoint
from cli_helpers import refused, run, without_stages

from pitstop.cli import COMMANDS
from pitstop.runtime.backends import choose_backend
from pitstop.runtime.bundle.folder import open_bundle, write_manifest

PITSTOP = [sys.executable, "-c", "from pitstop.cli import main; main(prog_name='pitstop')"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors")


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    result = run(
        "export", checkpoint, "--out", folder / "bundle", "--json", folder / "figures.json"
    )
    assert result.exit_code == 0, result.output
    return folder / "bundle"


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "toy", toy_manifest(split=True))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str) -> None:
    result = run(command, "--help")

    assert result.exit_code == 0
    assert f"Example: pitstop {command}" in result.output


def test_an_unknown_command_lists_the_valid_ones() -> None:
    result = run("genrate")

    assert result.exit_code == 2
    assert ", ".join(COMMANDS) in result.stderr


def test_an_export_draws_compares_and_inspects(
    checkpoint: Path, exported: Path, tmp_path: Path
) -> None:
    figures = json.loads((exported.parent / "figures.json").read_text())
    assert figures["relative_l2"] <= 1e-5
    assert [step["name"] for step in figures["passes"]][-1] == "split"

    drawn = run("generate", exported, "--label", "bag", "--num", 2, "--steps", 3, "--out",
                tmp_path / "out", "--json", tmp_path / "g.json")  # fmt: skip
    assert drawn.exit_code == 0, drawn.output
    assert (tmp_path / "out" / "grid.png").exists()
    assert json.loads((tmp_path / "g.json").read_text())["drawn"] == 2

    compared = run("compare", exported, "--checkpoint", checkpoint, "--images", 2, "--steps", 4,
                   "--json", tmp_path / "c.json")  # fmt: skip
    assert compared.exit_code == 0, compared.output
    keys = "backend precision steps images relative_l2_max psnr_db_median psnr_db_min ssim_median"
    more = "class_agreement frechet_distance passed"
    measured = json.loads((tmp_path / "c.json").read_text())
    assert {*keys.split(), *more.split()} <= set(measured)
    assert measured["passed"] is True

    inspected = run("inspect", exported, "--json", tmp_path / "i.json")
    assert inspected.exit_code == 0
    assert "window_major" in inspected.output
    keys = "kind model parameters flops_per_call graphs passes engines"
    assert set(keys.split()) <= set(json.loads((tmp_path / "i.json").read_text()))


def test_a_perturbed_weight_fails_the_gate(exported: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    subprocess.run(["cp", "-r", exported, broken], check=True)
    path = broken / "graphs" / "denoiser.fp32.onnx"
    model = onnx.load(path)
    weight = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    weight.CopyFrom(
        onnx.numpy_helper.from_array(1.3 * onnx.numpy_helper.to_array(weight), weight.name)
    )
    onnx.save(model, path)
    manifest = open_bundle(exported).manifest
    (broken / "manifest.json").unlink()
    write_manifest(broken, manifest)

    result = run("compare", broken)

    assert result.exit_code == 1
    assert "FAILED" in result.output


def test_a_gate_that_the_user_sets_is_the_one_that_counts(exported: Path) -> None:
    assert run("compare", exported, "--min-psnr", 500).exit_code == 1


def truncated(path: Path, whole: bytes) -> None:
    path.write_bytes(whole[: len(whole) // 2])


def text(path: Path, whole: bytes) -> None:
    path.write_text("these are not weights")


def empty(path: Path, whole: bytes) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("spoil", [truncated, text, empty])
def test_a_broken_checkpoint_is_refused(
    checkpoint: Path, tmp_path: Path, spoil: Callable[[Path, bytes], None]
) -> None:
    path = tmp_path / "broken.safetensors"
    spoil(path, checkpoint.read_bytes())

    line = refused("export", path, "--out", tmp_path / "bundle")

    assert "broken.safetensors is not a whole safetensors file" in line
    assert not (tmp_path / "bundle").exists()


def test_a_pickled_object_is_refused_and_does_not_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (Path(tmp_path / "ran"),))  # type: ignore[return-value]

    torch.save({"model": Bomb()}, tmp_path / "bomb.pt", pickle_module=pickle)

    line = refused("inspect", tmp_path / "bomb.pt")

    assert "pickles" in line
    assert not (tmp_path / "ran").exists()


def test_weights_that_do_not_fit_their_config_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "misfit.safetensors"
    with safetensors.safe_open(checkpoint, "pt") as file:
        config = file.metadata()
    weights = safetensors.torch.load_file(checkpoint)
    name = next(name for name in weights if name.endswith("qkv.weight"))
    short = {name: weights[name][:-1].clone()}
    safetensors.torch.save_file({**weights, **short}, path, config)

    line = refused("export", path, "--out", tmp_path / "bundle")

    rows, columns = whole = list(weights[name].shape)
    assert f"{name} in {path} has shape {[rows - 1, columns]}" in line
    assert f"expects {whole}" in line


def test_a_missing_checkpoint_is_refused(tmp_path: Path) -> None:
    line = refused("export", tmp_path / "none.safetensors", "--out", tmp_path / "bundle")

    assert f"There is no checkpoint at {tmp_path}" in line


def test_an_unknown_preset_gets_a_suggestion(tmp_path: Path) -> None:
    line = refused("export", "pit-s2", "--out", tmp_path / "bundle")

    assert "'pit-s2'" in line
    assert "Did you mean pit-s-2?" in line


def test_a_name_that_is_too_long_is_one_line() -> None:
    assert "File name too long. Name another one." in refused("inspect", "a" * 300)


@pytest.mark.parametrize(
    ("options", "found", "valid"),
    [
        (["--image-size", "20"], "20 x 20", "multiple of 8"),
        (["--batch", "0"], "batch is 0", "1 to 256"),
        (["--target", "jetson"], "'jetson'", "portable, onnxruntime"),
        (["--no-pass", "fold"], "'fold'", "fold_bridge, window_major"),
        (["--seed", "-1"], "seed is -1", "0 to 9223372036854775807"),
        (["--image-size", "1152921504606846976"], "input_size is", "16384 at most"),
    ],
)
def test_a_wrong_option_of_export_is_named(
    checkpoint: Path, tmp_path: Path, options: list[str], found: str, valid: str
) -> None:
    line = refused("export", checkpoint, "--out", tmp_path / "bundle", *options)

    assert found in line
    assert valid in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "found", "valid"),
    [
        (["--label", "hat"], "'hat'", "shirt, shoe, bag"),
        (["--label", "3"], "'3'", "0 to 2"),
        (["--sampler", "euler_a"], "'euler_a'", "ddpm, ddim, dpmpp_2m"),
        (["--backend", "tensort"], "'tensort'", "auto, onnxruntime"),
        (["--precision", "fp8"], "fp8", "fp32"),
        (["--steps", "0"], "0 sampling steps", "1 to 1000"),
        (["--steps", "1001"], "1001 sampling steps", "1 to 1000"),
        (["--cfg-scale", "nan"], "nan", "at least 0"),
        (["--eta", "2"], "2.0", "1"),
        (["--seed", "-1"], "-1", "0 to"),
        (["--provider", "CUDA"], "CUDA", "CPUExecutionProvider"),
    ],
)
def test_a_wrong_option_of_generate_is_named(
    toy: Path, tmp_path: Path, options: list[str], found: str, valid: str
) -> None:
    line = refused("generate", toy, "--out", tmp_path / "out", *options)

    assert found in line
    assert valid in line


@pytest.mark.parametrize(
    "options",
    [
        ["--num", "0"],
        ["--num", "10000000000"],
        ["--threads", "0"],
        ["--threads", "100000"],
        ["--steps", "many"],
    ],
)
def test_a_number_out_of_range_is_a_usage_error(
    toy: Path, tmp_path: Path, options: list[str]
) -> None:
    result = run("generate", toy, "--out", tmp_path / "out", *options)

    assert result.exit_code == 2
    assert options[0] in result.stderr


def change_a_byte(bundle: Path) -> None:
    path = bundle / "denoiser.fp32.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")


def lose_a_file(bundle: Path) -> None:
    (bundle / "goldens.npz").unlink()


def leave_the_folder(bundle: Path) -> None:
    edit(bundle, lambda manifest: manifest["files"].update({"../outside": "0" * 64}))


def come_from_the_future(bundle: Path) -> None:
    edit(bundle, lambda manifest: manifest.update(schema_version=99))


def edit(bundle: Path, change: Callable[[dict], None]) -> None:
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (change_a_byte, "has changed"),
        (lose_a_file, "is missing"),
        (leave_the_folder, "outside the bundle"),
        (come_from_the_future, "schema version 99"),
    ],
)
@pytest.mark.parametrize("command", ["inspect", "compare"])
def test_a_spoilt_bundle_is_refused(
    toy: Path, spoil: Callable[[Path], None], message: str, command: str
) -> None:
    spoil(toy)

    assert message in refused(command, toy)


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    assert "is not a bundle" in refused("generate", tmp_path, "--out", tmp_path / "out")


def test_a_checkpoint_of_another_model_is_refused(exported: Path, tmp_path: Path) -> None:
    other = tiny_checkpoint(tmp_path / "other.safetensors", hidden_size=64)

    line = refused("compare", exported, "--checkpoint", other, "--images", 1)

    assert "hidden_size 64" in line
    assert "hidden_size 32" in line


def test_a_json_file_that_cannot_be_written_is_refused(toy: Path, tmp_path: Path) -> None:
    assert "--json" in refused("inspect", toy, "--json", tmp_path / "none" / "figures.json")


def test_a_json_file_that_cannot_be_written_is_refused_before_the_work(
    checkpoint: Path, tmp_path: Path
) -> None:
    out, figures = tmp_path / "bundle", tmp_path / "none" / "figures.json"

    assert "--json" in refused("export", checkpoint, "--out", out, "--json", figures)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["export", "generate", "demo"])
def test_a_folder_that_cannot_be_written_is_refused(
    checkpoint: Path, toy: Path, tmp_path: Path, command: str
) -> None:
    (tmp_path / "file").write_text("in the way")
    source = {"export": [checkpoint], "generate": [toy], "demo": []}[command]

    line = refused(command, *source, "--out", tmp_path / "file" / "out")

    assert f"{tmp_path / 'file'}" in line
    assert "--out" in line


@pytest.mark.parametrize(
    ("options", "found", "valid"),
    [
        (["--steps", "0"], "0 sampling steps", "1 to 1000"),
        (["--sampler", "euler_a"], "'euler_a'", "ddpm, ddim, dpmpp_2m"),
        (["--precision", "int8"], "int8", "fp32"),
        (["--min-psnr", "nan"], "nan", "--min-psnr"),
    ],
)
def test_a_wrong_option_of_compare_is_named(
    checkpoint: Path, exported: Path, options: list[str], found: str, valid: str
) -> None:
    line = refused("compare", exported, "--checkpoint", checkpoint, "--images", 1, *options)

    assert found in line
    assert valid in line


def test_a_missing_backend_names_its_extra(toy: Path, tmp_path: Path) -> None:
    blocked = f"import sys; sys.modules.update(onnxruntime=None, openvino=None); {PITSTOP[2]}"
    asked = [sys.executable, "-c", blocked, "generate", str(toy), "--out", str(tmp_path / "out")]

    done = subprocess.run(asked, capture_output=True, text=True, check=False)

    assert done.returncode == 2
    [line] = without_stages(done.stderr)
    assert line.startswith("pitstop: ")
    assert "pip install 'pitstop[cpu]'" in line


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    result = run("--debug", "inspect", tmp_path)

    assert result.exception is not None
    assert not isinstance(result.exception, SystemExit)


def test_a_full_disk_leaves_nothing_behind(checkpoint: Path, tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    asked = [*PITSTOP, "export", str(checkpoint), "--out", str(tmp_path / "out" / "bundle")]
    done = subprocess.run(asked, preexec_fn=limit, capture_output=True, text=True, check=False)

    assert done.returncode == 2, done.stderr
    [line] = without_stages(done.stderr)
    assert "cannot be written" in line
    assert "--out" in line
    assert list((tmp_path / "out").iterdir()) == []


def heed_sigint() -> None:
    """A process started in the background inherits that Ctrl-C is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_export_leaves_nothing_behind(
    checkpoint: Path, tmp_path: Path, sent: signal.Signals
) -> None:
    asked = [*PITSTOP, "export", str(checkpoint), "--out", str(tmp_path / "out" / "bundle")]
    export = subprocess.Popen(asked, stderr=subprocess.PIPE, text=True, preexec_fn=heed_sigint)
    while not list(tmp_path.glob("out/.bundle.*")):
        assert export.poll() is None
        time.sleep(0.01)

    export.send_signal(sent)
    _, stderr = export.communicate()

    assert export.returncode != 0
    assert "Traceback" not in stderr
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("place", "tolerance", "message"),
    [
        ("pitstop.export.optimize.SPLIT_TOLERANCE", -1.0, "The split changed the graph's output"),
        ("pitstop.export.pipeline.FP32_TOLERANCE", 0.0, "does not match PyTorch"),
    ],
)
def test_a_gate_that_is_not_met_writes_nothing_and_ends_with_1(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    tolerance: float,
    message: str,
) -> None:
    monkeypatch.setattr(place, tolerance)

    result = run("export", checkpoint, "--out", tmp_path / "bundle")

    assert result.exit_code == 1
    [line] = without_stages(result.stderr)
    assert message in line
    assert "Nothing was written" in line
    assert list(tmp_path.iterdir()) == []


def test_generate_says_what_auto_took_and_why(toy: Path, tmp_path: Path) -> None:
    wanted = ("generate", toy, "--num", 1, "--steps", 2)

    by_itself = run(*wanted, "--out", tmp_path / "auto")
    by_provider = run(*wanted, "--provider", "CPUExecutionProvider", "--out", tmp_path / "provider")
    by_name = run(*wanted, "--backend", "onnxruntime", "--out", tmp_path / "named")

    chosen = choose_backend("auto")
    [line] = [line for line in by_itself.output.splitlines() if line.startswith("auto ")]
    assert line.split(maxsplit=1)[1].startswith(f"took {chosen.name}: {chosen.why[:30]}")
    assert "took onnxruntime: CPUExecutionProvider" in by_provider.output
    assert "took" not in by_name.output
