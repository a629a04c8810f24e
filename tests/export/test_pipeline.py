"""A whole export: what is in the bundle, and that nothing is written where something is wrong."""

from __future__ import annotations

import site
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from bundle_helpers import one_line
from checkpoint_helpers import tiny_checkpoint
from stage_helpers import Heard

import pitstop
from pitstop import BundleError, CheckpointError, OptionError
from pitstop.export import optimize as folding
from pitstop.export import pipeline
from pitstop.export.graph_pass import GraphPass, PassBroken, Sites
from pitstop.export.parity import FP32_TOLERANCE
from pitstop.export.pipeline import ExportReport, export_bundle
from pitstop.graphs import graph_file
from pitstop.models.checkpoint import load_checkpoint, save_checkpoint
from pitstop.models.presets import WEIGHTS
from pitstop.runtime.bundle.folder import Bundle, open_bundle
from pitstop.runtime.bundle.goldens import read_goldens
from pitstop.runtime.pipeline import Pipeline

HERE = Path(pitstop.__path__[0]).resolve()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"))


@pytest.fixture(scope="module")
def exported(checkpoint: str, tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    return export_bundle(checkpoint, tmp_path_factory.mktemp("exported") / "bundle")


@pytest.fixture
def bundle(exported: ExportReport) -> Bundle:
    return open_bundle(exported.bundle)


def draw(bundle: Path) -> np.ndarray:
    """Two images in three steps."""
    made = Pipeline.from_bundle(bundle)(labels=[0, 2], steps=3, seeds=[0, 1])
    return made.latents


def test_a_checkpoint_that_pytorch_itself_cannot_run_is_told_as_such(tmp_path: Path) -> None:
    path = tiny_checkpoint(tmp_path / "diverged.safetensors")
    checkpoint = load_checkpoint(path)
    with torch.no_grad():
        checkpoint.model.blocks[0].mlp.fc1.weight.mul_(1e30)
    save_checkpoint(checkpoint, path)

    with pytest.raises(CheckpointError) as caught:
        export_bundle(str(path), tmp_path / "bundle")

    told = one_line(caught.value)
    assert told.startswith("PyTorch itself leaves the finite numbers with this checkpoint: Step 1 ")
    assert told.endswith("Take an earlier checkpoint.")
    assert not (tmp_path / "bundle").exists()


def spoil(model: ir.Model) -> ir.Model:
    """The graph with one weight made larger."""
    values = list(model.graph.initializers.values())
    weight = max(
        values, key=lambda value: 0 if value.const_value is None else value.const_value.size
    )
    assert weight.const_value is not None
    weight.const_value = ir.tensor(1.01 * weight.const_value.numpy(), name=weight.name)
    return model


def test_the_report_tells_where_the_bundle_is_and_how_close_it_is(exported: ExportReport) -> None:
    assert exported.passed
    assert exported.parity.tolerance == FP32_TOLERANCE
    assert len(exported.parity.relative_l2) == 5
    assert 0 < exported.parity.worst <= FP32_TOLERANCE
    assert [step.name for step in exported.passes] == folding.choose_steps("portable", ())


def test_the_manifest_describes_the_model_and_the_graphs(bundle: Bundle) -> None:
    manifest = bundle.manifest

    assert manifest.model.name == "tiny"
    assert manifest.model.provenance == "random"
    assert (manifest.batch, manifest.latent_shape, manifest.latent_space) == (
        2,
        (1, 16, 16),
        "pixel",
    )
    assert (manifest.label.classes, manifest.label.null) == (3, 3)
    assert manifest.label.names == ("shirt", "shoe", "bag")
    assert manifest.target == "portable"
    assert manifest.versions["pitstop"] == pitstop.__version__
    assert set(manifest.graphs) == {"conditioner", "denoiser.fp32", "step"}
    assert set(manifest.files) == {"goldens.npz", *(spec.path for spec in manifest.graphs.values())}


def test_every_shape_in_the_written_graphs_is_static(bundle: Bundle) -> None:
    for spec in bundle.manifest.graphs.values():
        graph = onnx.load(bundle.path(spec.path)).graph
        outputs = {name for node in graph.node for name in node.output}
        typed = [*graph.input, *graph.output, *graph.value_info]

        assert outputs <= {value.name for value in typed}
        for value in typed:
            sides = value.type.tensor_type.shape.dim
            assert all(side.dim_value > 0 for side in sides), value


def test_the_written_graphs_are_valid_and_as_the_manifest_says(bundle: Bundle) -> None:
    for spec in bundle.manifest.graphs.values():
        model = onnx.load(bundle.path(spec.path))
        onnx.checker.check_model(model, full_check=True)

        assert [value.name for value in model.graph.input] == [t.name for t in spec.inputs]
        assert [value.name for value in model.graph.output] == [t.name for t in spec.outputs]
        assert [opset.version for opset in model.opset_import if not opset.domain] == [spec.opset]
        assert len(model.graph.node) == sum(spec.nodes.values())


def test_no_path_of_the_machine_is_in_the_bundle(bundle: Bundle) -> None:
    paths = [HERE, Path.home(), Path(bundle.folder).parent, *map(Path, site.getsitepackages())]

    for file in bundle.folder.rglob("*"):
        written = file.read_bytes() if file.is_file() else b""
        assert b"site-packages" not in written
        assert not [path for path in paths if f"{path}/".encode() in written]


def test_the_goldens_are_five_calls_and_a_trajectory_of_twenty_steps(bundle: Bundle) -> None:
    goldens = read_goldens(bundle.path(bundle.manifest.goldens))

    assert goldens.timesteps.tolist() == sorted(goldens.timesteps.tolist(), reverse=True)
    assert goldens.predictions.shape == (5, 2, 1, 16, 16)
    assert goldens.trajectory.shape == (20, 8, 1, 16, 16)
    assert np.isfinite(goldens.trajectory).all()


def test_the_goldens_are_images_of_different_classes_and_seeds(bundle: Bundle) -> None:
    goldens = read_goldens(bundle.path(bundle.manifest.goldens))
    labels = goldens.told["label"].tolist()

    assert goldens.seeds.tolist() == list(range(8))
    assert len(set(labels)) == min(8, bundle.manifest.label.classes)
    assert labels == [index % bundle.manifest.label.classes for index in range(8)]


def test_two_exports_write_the_same_bytes(checkpoint: str, bundle: Bundle, tmp_path: Path) -> None:
    export_bundle(checkpoint, tmp_path / "again")

    again = open_bundle(tmp_path / "again").manifest
    graphs = [spec.path for spec in again.graphs.values()]
    assert [again.files[path] for path in graphs] == [
        bundle.manifest.files[path] for path in graphs
    ]


def test_a_graph_that_left_pytorch_is_not_written(
    checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fold_and_spoil(*arguments: object) -> folding.Optimized:
        folded = folding.optimize(*arguments)  # type: ignore[arg-type]
        spoil(folded.graphs["denoiser.fp32"])
        return folded

    monkeypatch.setattr(pipeline, "optimize", fold_and_spoil)

    report = export_bundle(checkpoint, tmp_path / "bundle")

    assert not report.passed
    assert report.parity.worst > FP32_TOLERANCE
    assert list(tmp_path.iterdir()) == []


def test_an_older_bundle_stays_where_the_new_one_fails(
    checkpoint: str, exported: ExportReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "bundle"
    out.mkdir()
    (out / "manifest.json").write_text("older")
    monkeypatch.setattr(pipeline, "FP32_TOLERANCE", 0.0)

    report = export_bundle(checkpoint, out)

    assert not report.passed
    assert [path.name for path in tmp_path.rglob("*")] == ["bundle", "manifest.json"]
    assert (out / "manifest.json").read_text() == "older"


def scale_a_weight(graph: ir.Graph) -> Sites:
    spoil(ir.Model(graph, ir_version=10))
    return Sites()


def test_a_pass_that_breaks_the_graph_stops_the_export(
    checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = GraphPass("fold_bridge", scale_a_weight, tolerance=1e-6)
    monkeypatch.setattr(folding, "PASSES", (broken,))

    with pytest.raises(PassBroken, match="fold_bridge changed the graph's output") as caught:
        export_bundle(checkpoint, tmp_path / "bundle")

    assert "at most 1e-06" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_big_weights_stand_beside_the_graph(
    checkpoint: str, exported: ExportReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph_file, "INLINE_LIMIT", 10_000)

    report = export_bundle(checkpoint, tmp_path / "bundle")

    bundle = open_bundle(report.bundle)
    heavy = set(bundle.manifest.graphs) - {"step"}
    assert {f"graphs/{name}.onnx.data" for name in heavy} < set(bundle.manifest.files)
    np.testing.assert_array_equal(draw(report.bundle), draw(exported.bundle))
    with (bundle.folder / "graphs/denoiser.fp32.onnx.data").open("r+b") as file:
        file.write(b"changed")
    with pytest.raises(BundleError, match=r"denoiser.fp32.onnx.data has changed"):
        open_bundle(report.bundle)


@pytest.mark.parametrize(
    ("target", "left_out", "graphs", "opset"),
    [
        ("tensorrt10", ["fold_bridge"], 3, 19),
        ("portable", ["split"], 2, 19),
    ],
)
def test_a_target_and_the_passes_left_out_reach_the_bundle(
    checkpoint: str,
    exported: ExportReport,
    tmp_path: Path,
    target: str,
    left_out: Sequence[str],
    graphs: int,
    opset: int,
) -> None:
    report = export_bundle(checkpoint, tmp_path / "bundle", target=target, left_out=left_out)

    manifest = open_bundle(report.bundle).manifest
    assert manifest.target == target
    assert not set(left_out) & {done.name for done in manifest.passes}
    assert len(manifest.graphs) == graphs
    assert manifest.denoiser("fp32").opset == opset
    np.testing.assert_allclose(draw(report.bundle), draw(exported.bundle), atol=1e-4)


def test_another_image_size_gives_a_bundle_of_that_size(checkpoint: str, tmp_path: Path) -> None:
    report = export_bundle(checkpoint, tmp_path / "bundle", image_size=24, batch=1)

    manifest = open_bundle(report.bundle).manifest
    assert report.passed
    assert manifest.latent_shape == (1, 24, 24)
    assert manifest.model.config["input_size"] == [24, 24]
    assert draw(report.bundle).shape == (2, 1, 24, 24)


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_that_pytorch_cannot_take_is_refused(tmp_path: Path, seed: int) -> None:
    with pytest.raises(OptionError) as caught:
        export_bundle("pit-ti-8", tmp_path / "bundle", seed=seed)

    assert f"The seed is {seed}" in one_line(caught.value)


def test_a_file_that_is_no_checkpoint_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="model-card"):
        export_bundle(str(WEIGHTS / "model-card.safetensors"), tmp_path / "new" / "bundle")

    assert list(tmp_path.iterdir()) == []


def test_the_stages_are_told_in_order(
    exported: ExportReport, checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = Heard()
    monkeypatch.setattr(pipeline, "FP32_TOLERANCE", 0.0)

    export_bundle(checkpoint, tmp_path / "bundle", left_out=folding.STEP_NAMES, on_stage=heard)

    assert heard.moved == heard.all_steps
    assert heard.all_steps[-2:] == [8 * 20, 5]
    assert heard.stages == [
        "reading the checkpoint",
        "tracing",
        "writing the graphs",
        "running PyTorch for the goldens",
        "comparing ONNX Runtime with PyTorch",
    ]


def test_where_fp32_fails_no_other_precision_is_tried(
    checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "FP32_TOLERANCE", 0.0)

    report = export_bundle(checkpoint, tmp_path / "bundle", precisions=["fp16"])

    assert list(report.parities) == ["fp32"]
    assert list(tmp_path.iterdir()) == []
