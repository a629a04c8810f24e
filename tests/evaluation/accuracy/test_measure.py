from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from bundle_helpers import one_line, toy_manifest, with_label, write_bundle
from perturb_helpers import perturb

from pitstop import CheckpointError, OptionError
from pitstop.evaluation.accuracy import quality
from pitstop.evaluation.accuracy.measure import Accuracy, Asked, measure
from pitstop.evaluation.accuracy.quality import Judge, Judgement, open_judge
from pitstop.models.checkpoint import save_classifier
from pitstop.models.classifier import Classifier
from pitstop.models.presets import CLASSIFIER
from pitstop.runtime.bundle.folder import Bundle, GraphFile
from pitstop.runtime.bundle.manifest import Manifest
from pitstop.runtime.sampling.sampler import Latent
from pitstop.runtime.sampling.settings import Settings

FEW = Settings(steps=3, cfg_scale=2.0)


@pytest.fixture(scope="module")
def whole(exported: Path, checkpoint: Path) -> Accuracy:
    """Everything that a report shows, for both precisions."""
    return measure(
        Asked(
            [exported],
            backends=["onnxruntime"],
            precisions=["all"],
            checkpoint=str(checkpoint),
            settings=FEW,
            images=3,
            whole=True,
        )
    )


def test_all_means_every_precision_of_the_bundle(whole: Accuracy) -> None:
    assert [row.comparison.precision for row in whole.rows] == ["fp32", "fp16"]
    assert [row.name for row in whole.rows] == [
        "fp32, CPUExecutionProvider",
        "fp16, CPUExecutionProvider",
    ]
    assert whole.passed


def test_pytorchs_own_lower_precisions_are_the_floor(whole: Accuracy) -> None:
    fp16, bf16 = (row.comparison for row in whole.floors)

    assert (fp16.precision, bf16.precision) == ("fp16", "bf16")
    assert 1e-5 < fp16.relative_l2_max < bf16.relative_l2_max < 0.1
    assert whole.rows[0].comparison.relative_l2_max < fp16.relative_l2_max


def test_both_sides_start_from_the_same_noise(whole: Accuracy) -> None:
    assert whole.goldens.trajectory.shape == (3, 3, 1, 16, 16)
    assert max(whole.rows[0].comparison.step_relative_l2) < 1e-5


def test_every_block_is_measured_for_a_report(whole: Accuracy) -> None:
    for row in whole.rows:
        assert row.blocks is not None
        assert row.blocks.reference == "PyTorch fp32"
        assert row.blocks.bad == []


def test_a_perturbed_bundle_fails_and_its_block_is_named_without_a_report(
    exported: Path, checkpoint: Path, tmp_path: Path
) -> None:
    broken = perturb(exported, tmp_path / "broken", "blocks.1.mlp")

    [row] = measure(Asked([broken], checkpoint=str(checkpoint), settings=FEW, images=1)).rows

    assert not row.comparison.passed
    assert row.blocks is not None
    assert row.blocks.bad == ["blocks.1.mlp"]


def test_goldens_alone_show_less_and_say_so(exported: Path) -> None:
    done = measure(Asked([exported], ["onnxruntime"], ["fp32", "fp16"], whole=True))

    fp32, fp16 = done.rows
    assert done.floors == ()
    assert fp32.blocks is None
    assert fp16.blocks is not None
    assert fp16.blocks.reference == "the bundle's own fp32 graph"
    said = "\n".join(done.left_out)
    assert "fp32, CPUExecutionProvider, block by block: the goldens do not hold" in said
    assert "PyTorch's own fp16 and bf16" in said
    assert "no `--classifier` was given" in said


def test_a_passing_comparison_without_a_report_looks_into_no_block(exported: Path) -> None:
    [row] = measure(Asked([exported])).rows

    assert row.comparison.passed
    assert row.blocks is None


def test_several_bundles_are_held_against_the_goldens_of_the_first(
    exported: Path, tmp_path: Path
) -> None:
    broken = perturb(exported, tmp_path / "broken", "final_layer")

    done = measure(Asked([exported, broken]))

    assert [row.name.split(",")[0] for row in done.rows] == ["tiny.bundle", "broken"]
    assert [row.comparison.passed for row in done.rows] == [True, False]
    assert not done.passed


def test_what_cannot_run_is_left_out_of_all_and_said_but_refused_by_name(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoilt = Path(__file__)  # no graph
    given = Bundle.graph

    def lose_fp16(self: Bundle, name: str) -> GraphFile:
        graph = given(self, name)
        return GraphFile(spoilt, graph.spec, name) if name == "denoiser.fp16" else graph

    monkeypatch.setattr(Bundle, "graph", lose_fp16)
    done = measure(Asked([exported], ["onnxruntime"], ["all"]))

    assert [row.comparison.precision for row in done.rows] == ["fp32"]
    assert "tiny.bundle, fp16: ONNX Runtime cannot open" in done.left_out[0]
    with pytest.raises(Exception, match="cannot open"):
        measure(Asked([exported], precisions=["fp16"]))


def test_a_classifier_sees_classes_and_the_distance_of_enough_images(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def see(pixels: Latent) -> Judgement:
        """Every image is of class 0, by one feature: its mean."""
        return Judgement(np.zeros(len(pixels), np.int64), pixels.mean(axis=(2, 3), dtype=float))

    def open_fake(name: str, manifest: Manifest) -> Judge:
        return see

    monkeypatch.setattr(quality, "open_judge", open_fake)
    monkeypatch.setattr(
        quality, "frechet_distance", lambda first, second: abs(first - second).max()
    )
    done = measure(Asked([exported], classifier="fashion"))

    [row] = done.rows
    assert done.class_agreement == 3 / 8  # eight images of three classes in turn
    assert row.quality is not None
    assert row.quality.class_agreement == 3 / 8
    assert row.quality.frechet_distance == pytest.approx(0, abs=1e-3)


def manifest(**fields: object) -> Manifest:
    classes = fields.pop("classes", 10)
    known = {"latent_shape": (1, 32, 32), **fields}
    unnamed = with_label(toy_manifest(), classes=classes, names=())
    return dataclasses.replace(unnamed, **known)  # type: ignore[arg-type]


def test_the_shipped_classifier_judges_what_it_knows() -> None:
    judged = open_judge("fashion", manifest())(np.zeros((2, 1, 32, 32), np.float32))

    assert judged.features.shape == (2, 128)


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"latent_shape": (4, 32, 32), "latent_space": "vae"}, "[4, 32, 32] in vae space"),
        ({"classes": 3}, "knows 10 classes, but this model has 3"),
    ],
)
def test_images_that_the_classifier_does_not_know_are_refused(
    fields: dict[str, object], found: str
) -> None:
    with pytest.raises(OptionError) as caught:
        open_judge("fashion", manifest(**fields))

    assert found in one_line(caught.value)


def test_a_classifier_of_ones_own_is_read(tmp_path: Path) -> None:
    save_classifier(Classifier(3), tmp_path / "mine.safetensors")

    judge = open_judge(str(tmp_path / "mine.safetensors"), manifest(classes=3))

    assert set(judge(np.zeros((2, 1, 32, 32), np.float32)).named.tolist()) <= {0, 1, 2}


@pytest.mark.parametrize("content", [None, b"", b"no weights", CLASSIFIER.read_bytes()[:5000]])
def test_a_file_that_holds_no_classifier_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "classifier.safetensors"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(CheckpointError) as caught:
        open_judge(str(path), manifest())

    assert f"{path} holds no classifier" in one_line(caught.value)


def test_a_toy_without_blocks_is_compared_all_the_same(tmp_path: Path) -> None:
    [row] = measure(Asked([write_bundle(tmp_path / "toy")])).rows

    assert not row.comparison.passed  # its goldens are zeros
    assert row.blocks is None
