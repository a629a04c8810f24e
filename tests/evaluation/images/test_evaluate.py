"""Two sets through a network become scores: the shipped classifier, and stand-ins of Inception."""

from __future__ import annotations

import importlib.machinery
import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_helpers import refused, run
from torch import nn

from pitstop import CheckpointError, OptionError
from pitstop.evaluation.accuracy.quality import judge
from pitstop.evaluation.images.evaluate import evaluate
from pitstop.evaluation.images.gaussian import fit, frechet_distance
from pitstop.evaluation.images.inception import open_inception
from pitstop.evaluation.images.neighbours import precision_and_recall


def grey(count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    blurred = np.repeat(np.repeat(rng.integers(0, 256, (count, 8, 8)), 4, axis=1), 4, axis=2)
    return np.repeat(blurred.astype(np.uint8)[..., None], 3, axis=3)


@pytest.fixture
def small(tmp_path: Path) -> tuple[Path, Path]:
    """Sets of 4 x 4 pixels in colour."""
    for seed, name in enumerate(("c", "d")):
        images = np.random.default_rng(seed).integers(0, 256, (130, 4, 4, 3), np.uint8)
        np.savez(tmp_path / f"{name}.npz", images)
    return tmp_path / "c.npz", tmp_path / "d.npz"


@pytest.fixture
def sets(tmp_path: Path) -> tuple[Path, Path]:
    for name, count, seed in (("a", 150, 0), ("b", 140, 1)):
        np.savez(tmp_path / f"{name}.npz", grey(count, seed))
    return tmp_path / "a.npz", tmp_path / "b.npz"


def test_the_shipped_classifiers_scores_are_those_of_its_features(sets: tuple[Path, Path]) -> None:
    done = evaluate(*sets, features="fashion")

    a, b = (
        judge(np.load(path)["arr_0"][:, None, :, :, 0].astype(np.float32) / 127.5 - 1).features
        for path in sets
    )
    assert (done.images, done.reference, done.features) == (150, 140, 128)
    assert done.frechet_distance == pytest.approx(frechet_distance(fit(a), fit(b)), rel=1e-4)
    assert (done.precision, done.recall) == precision_and_recall(a, b)
    assert done.spatial_frechet_distance is None
    assert 1 < done.inception_score < 10


def test_one_set_alone_has_an_inception_score_alone(sets: tuple[Path, Path]) -> None:
    done = evaluate(sets[0], features="fashion")

    assert done.inception_score == evaluate(*sets, features="fashion").inception_score
    assert (done.reference, done.frechet_distance, done.precision) == (None, None, None)


def test_a_set_that_is_too_small_for_its_covariance_is_noted(tmp_path: Path) -> None:
    np.savez(tmp_path / "few.npz", grey(128, 0))
    np.savez(tmp_path / "least.npz", grey(3, 0))

    done = evaluate(tmp_path / "few.npz", tmp_path / "few.npz", features="fashion")

    assert any("has 128 images for 128 features" in note for note in done.notes)
    assert (done.precision, done.recall) == (1.0, 1.0)
    with pytest.raises(OptionError, match="has 3 images, and 4 are the least"):
        evaluate(tmp_path / "least.npz", features="fashion")


def test_colours_and_other_sizes_are_refused_by_the_shipped_classifier(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    np.savez(tmp_path / "colours.npz", colours)
    np.savez(tmp_path / "small.npz", colours[:, :16])

    with pytest.raises(OptionError, match=r"judges grey images.*--weights"):
        evaluate(tmp_path / "colours.npz", features="fashion")
    with pytest.raises(OptionError, match=r"16 x 32.*--weights"):
        evaluate(tmp_path / "small.npz", features="fashion")


class Inception(nn.Module):
    """As torch-fidelity's: uint8 [image, 3, row, column] in, features by their names out."""

    def __init__(self, name: str, features: list[str], weights: str) -> None:
        super().__init__()
        self.names = features
        self.Mixed_6d = nn.Module()
        self.Mixed_6d.branch1x1 = nn.Conv2d(3, 9, 1)
        self.load_state_dict(torch.load(weights))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        assert images.dtype == torch.uint8
        spatial = self.Mixed_6d.branch1x1(images.float())
        given = {"2048": spatial.mean(dim=(2, 3)), "logits_unbiased": spatial[:, :, 0, 0]}
        return tuple(given[name] for name in self.names)


def installed(monkeypatch: pytest.MonkeyPatch, name: str, **members: object) -> None:
    """Let a package that has one module of these members be installed."""
    package, _, module = name.partition(".")
    for called in (package, f"{package}.{module}"):
        made = types.ModuleType(called)
        made.__spec__ = importlib.machinery.ModuleSpec(called, None)
        made.__path__ = []
        monkeypatch.setitem(sys.modules, called, made)
    sys.modules[name].__dict__.update(members)


@pytest.fixture
def fidelity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The weights of a torch-fidelity that is installed."""
    name = "torch_fidelity.feature_extractor_inceptionv3"
    installed(monkeypatch, name, FeatureExtractorInceptionV3=Inception)
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 9, 1)
    names = {"weight": "Mixed_6d.branch1x1.weight", "bias": "Mixed_6d.branch1x1.bias"}
    weights = {names[key]: value for key, value in layer.state_dict().items()}
    torch.save(weights, tmp_path / "inception.pth")
    return tmp_path / "inception.pth"


def test_torch_fidelitys_features_are_taken_where_it_is_installed(
    fidelity: Path, small: tuple[Path, Path]
) -> None:
    done = evaluate(*small, weights=fidelity)

    look = open_inception("torch-fidelity", fidelity).look
    a, b = (look(np.load(path)["arr_0"]) for path in small)
    assert (done.network, done.features, a.spatial.shape) == ("torch-fidelity", 9, (130, 7 * 16))
    assert done.frechet_distance == pytest.approx(
        frechet_distance(fit(a.features), fit(b.features)), rel=1e-6
    )
    assert (done.precision, done.recall) == precision_and_recall(a.features, b.features)


def test_sfid_is_the_distance_of_the_first_seven_channels(
    fidelity: Path, small: tuple[Path, Path]
) -> None:
    layer = nn.Conv2d(3, 9, 1)
    state = torch.load(fidelity)
    layer.load_state_dict({key.rpartition(".")[2]: value for key, value in state.items()})

    done = evaluate(*small, weights=fidelity)

    with torch.inference_mode():
        images = (torch.from_numpy(np.load(path)["arr_0"]).float() for path in small)
        a, b = (layer(one.permute(0, 3, 1, 2))[:, :7].flatten(1).numpy() for one in images)
    expected = frechet_distance(fit(a), fit(b))
    assert done.spatial_frechet_distance == pytest.approx(expected, rel=1e-6)


def test_inceptions_weights_must_be_named_and_the_line_says_which_file(
    fidelity: Path, small: tuple[Path, Path]
) -> None:
    with pytest.raises(OptionError, match=r"weights-inception-2015-12-05-6726825d\.pth.*--weights"):
        evaluate(*small)


def test_a_file_that_is_not_inceptions_is_told(
    fidelity: Path, small: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "text.pth").write_text("no weights")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")

    for name in ("text.pth", "other.pth", "none.pth"):
        with pytest.raises(CheckpointError, match=f"{name} is not Inception's file"):
            evaluate(*small, weights=tmp_path / name)


def test_weights_that_would_run_code_are_refused(
    fidelity: Path, small: tuple[Path, Path], tmp_path: Path
) -> None:
    class Runs:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"a": Runs()}, tmp_path / "code.pth")

    with pytest.raises(CheckpointError, match=r"code\.pth is not Inception's file"):
        evaluate(*small, weights=tmp_path / "code.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_clean_fids_features_are_its_layers_of_its_own_resizing(
    monkeypatch: pytest.MonkeyPatch, sets: tuple[Path, Path], tmp_path: Path
) -> None:
    asked: list[str] = []

    def build_resizer(mode: str) -> object:
        asked.append(mode)
        return lambda image: image[:16, :16].astype(np.float32)

    installed(monkeypatch, "cleanfid.resize", build_resizer=build_resizer)

    class Base(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.AvgPool2d(8))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.layers(images)

    torch.jit.script(Base()).save(str(tmp_path / "inception.pt"))

    done = evaluate(*sets, features="clean-fid", weights=tmp_path / "inception.pt")

    a, b = (
        ((np.load(path)["arr_0"][:, :16, :16].astype(np.float64) - 128) / 128)
        .reshape(-1, 2, 8, 2, 8, 3).mean(axis=(2, 4)).reshape(-1, 12)
        for path in sets
    )  # fmt: skip
    assert asked == ["clean"]
    assert done.frechet_distance == pytest.approx(frechet_distance(fit(a), fit(b)), rel=1e-4)
    assert (done.inception_score, done.spatial_frechet_distance) == (None, None)


def test_a_network_that_is_not_there_is_told_with_what_helps(sets: tuple[Path, Path]) -> None:
    with pytest.raises(OptionError, match="pip install clean-fid"):
        evaluate(*sets, features="clean-fid")
    with pytest.raises(OptionError, match=r"network called 'vgg'.*torch-fidelity"):
        evaluate(*sets, features="vgg")
    with pytest.raises(OptionError, match=r"Leave `--weights` out"):
        evaluate(*sets, features="fashion", weights=sets[0])


def test_the_command_prints_a_table_and_writes_the_figures(
    sets: tuple[Path, Path], tmp_path: Path
) -> None:
    figures = tmp_path / "figures.json"

    done = run("evaluate", *sets, "--features", "fashion", "--json", figures)

    assert done.exit_code == 0, done.output
    assert "128 of fashion" in done.stdout
    assert "precision" in done.stdout
    assert "note: the Inception Score of fewer than 5000 images" in " ".join(done.stderr.split())
    written = json.loads(figures.read_text())
    assert written["images"] == 150
    assert written["spatial_frechet_distance"] is None
    assert "There is no" in refused("evaluate", tmp_path / "none")
