"""A file of weights that is something else is told as that, whatever PyTorch raises at it."""

import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pitstop import CheckpointError
from pitstop.evaluation.images.features import FIDELITY
from pitstop.evaluation.images.inception import open_inception


class Extractor(torch.nn.Module):
    """Takes a state dict, as torch-fidelity's does."""

    def __init__(self, name: str, features: list[str], weights: str) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.load_state_dict(torch.load(weights, weights_only=True))


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("<html>not found</html>"),
        lambda path: torch.save([1], path),
        lambda path: torch.save(torch.zeros(2), path),
        lambda path: torch.save({"layer.weight": 3}, path),
    ],
    ids=["empty", "text", "list", "tensor", "number"],
)
def test_weights_of_something_else_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], object]
) -> None:
    module = types.ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    monkeypatch.setattr(module, "FeatureExtractorInceptionV3", Extractor, raising=False)
    monkeypatch.setitem(sys.modules, "torch_fidelity", types.ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    path = tmp_path / "inception.pth"
    write(path)

    with pytest.raises(CheckpointError, match="is not Inception's file of torch-fidelity"):
        open_inception(FIDELITY, path)
