"""A whole bundle with graphs that are written by hand: the runtime's tests need no PyTorch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx

from pitstop.runtime.bundle import goldens
from pitstop.runtime.bundle.folder import new_bundle, write_manifest
from pitstop.runtime.bundle.label import LabelSpec
from pitstop.runtime.bundle.manifest import (
    CONDITIONER,
    DECODERS,
    GraphSpec,
    Manifest,
    ModelSpec,
    TensorSpec,
)
from pitstop.runtime.sampling.sampler import Latent
from pitstop.runtime.sampling.schedule.betas import Betas
from pitstop.runtime.sampling.settings import Settings
from pitstop.runtime.session import Array

SHAPE = (1, 8, 8)
LABELS = ("shirt", "shoe", "bag")
NULL_CLASS = len(LABELS)
GAINS = (0.31, 0.62, 0.93, 0.17)  # of each class, and of none
DRIFT = 3e-4  # of a timestep
CONDITIONER_ROWS = 4


def toy_prediction(latent: Latent, timestep: float, labels: list[int]) -> Latent:
    """What the denoiser of `write_bundle` says."""
    gains = np.array(GAINS, dtype=np.float32)[labels].reshape(-1, 1, 1, 1)
    return np.tanh(latent * gains + np.float32(timestep * DRIFT)).astype(np.float32)


def some_latent(rows: int, *, seed: int = 0) -> Latent:
    return np.random.default_rng(seed).standard_normal((rows, *SHAPE)).astype(np.float32)


def zeros(spec: GraphSpec) -> dict[str, Array]:
    """Feeds for a graph."""
    return {tensor.name: np.zeros(tensor.shape, tensor.dtype) for tensor in spec.inputs}


def toy_manifest(*, batch: int = 2, split: bool = False, null_class: bool = True) -> Manifest:
    """The manifest of a toy bundle; `write_manifest` adds the files."""
    return Manifest(
        model=ModelSpec("toy", {"arch": "toy"}, parameters=5, flops_per_call=384 * batch),
        batch=batch,
        latent_shape=SHAPE,
        latent_space="pixel",
        conditions=(LabelSpec(len(LABELS), NULL_CLASS if null_class else None, LABELS),),
        prediction_type="epsilon",
        learn_sigma=False,
        cfg_channels=1,
        schedule=Betas(),
        graphs=_split_graphs(batch) if split else {"denoiser.fp32": _whole_graph(batch)},
        goldens=goldens.FILE_NAME,
        versions={"onnx": onnx.__version__},
    )


def with_label(manifest: Manifest, **changes: object) -> Manifest:
    """The manifest with other classes, names or null class."""
    return dataclasses.replace(
        manifest,
        conditions=(dataclasses.replace(manifest.label, **changes),),  # type: ignore[arg-type]
    )


def with_decoder(manifest: Manifest, *, batch: int = 1, tile: int = SHAPE[1]) -> Manifest:
    """The toy as a model of latents, with a decoder that doubles every pixel of their tanh."""
    decoder = GraphSpec(
        path="decoder.fp32.onnx",
        inputs=(TensorSpec("latent", (batch, 1, tile, tile), "float32"),),
        outputs=(TensorSpec("image", (batch, 1, 2 * tile, 2 * tile), "float32"),),
        opset=18,
        nodes={"Tanh": 1, "Concat": 1, "DepthToSpace": 1},
        weight_bytes=0,
    )
    graphs = {**manifest.graphs, "decoder.fp32": decoder}
    return dataclasses.replace(
        manifest, latent_space="vae", latent_scale=2.5, latent_shift=0.25, graphs=graphs
    )


def toy_image(latent: Latent) -> Latent:
    """What the decoder of `with_decoder` makes of a latent of the toy."""
    return np.tanh(latent / 2.5 + 0.25).repeat(2, axis=2).repeat(2, axis=3)


def write_bundle(folder: Path, manifest: Manifest | None = None) -> Path:
    """Write a toy bundle to ``folder``, as an export does."""
    manifest = manifest or toy_manifest()
    with new_bundle(folder) as partial:
        for name, spec in manifest.graphs.items():
            write_graph(partial / spec.path, name, spec)
        goldens.write_goldens(zero_goldens(manifest), partial)
        write_manifest(partial, manifest)
    return folder


def write_graph(path: Path, name: str, spec: GraphSpec) -> Path:
    split = [tensor.name for tensor in spec.inputs] == ["latent", "modulation"]
    body = CONDITIONER_BODY if name == CONDITIONER else DENOISER_BODY if split else WHOLE_BODY
    body = DECODER_BODY if name in DECODERS else body
    sides = (", ".join(map(_as_text, side)) for side in (spec.inputs, spec.outputs))
    signature = " => ".join(f"({side})" for side in sides)
    header = '<ir_version: 10, opset_import: ["": 18]>'
    onnx.save(onnx.parser.parse_model(f"{header} toy {signature} {body}"), path)
    return path


def zero_goldens(manifest: Manifest) -> goldens.Goldens:
    rows = (manifest.batch, *manifest.latent_shape)
    return goldens.Goldens(
        timesteps=np.array([0, 999], dtype=np.int64),
        latents=np.zeros((2, *rows), dtype=np.float32),
        conditions={"label": np.zeros((2, manifest.batch), dtype=np.int64)},
        predictions=np.zeros((2, *rows), dtype=np.float32),
        settings=Settings(steps=4, cfg_scale=1.5),
        seeds=np.array([0, 2**64 - 1], dtype=np.uint64),
        told={"label": np.array([0, 1], dtype=np.int64)},
        trajectory=np.zeros((4, 2, *manifest.latent_shape), dtype=np.float32),
    )


def one_line(error: Exception) -> str:
    """The error's message, after a check that it is a line with a remedy at its end."""
    text = str(error)
    assert "\n" not in text
    assert text.endswith(f". {error.remedy}.")  # type: ignore[attr-defined]
    return text


class FakeSession:
    """The toy denoiser without a file, which keeps what it was fed."""

    device = "fake"

    def __init__(self) -> None:
        self.calls: list[Mapping[str, Array]] = []
        self.closed = False

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        self.calls.append(feeds)
        [timestep] = set(feeds["timestep"].tolist())
        latent = np.asarray(feeds["latent"], dtype=np.float32)
        return {"prediction": toy_prediction(latent, timestep, feeds["label"].tolist())}

    def close(self) -> None:
        self.closed = True


_MOVE = "columns = Reshape(gain, to_columns) gained = Mul(latent, columns)"
_WEIGHTS = f"float[4] gains = {{{', '.join(map(str, GAINS))}}}, float[1] drift = {{{DRIFT}}}"

WHOLE_BODY = f"""
<{_WEIGHTS}, int64[4] to_columns = {{-1, 1, 1, 1}}>
{{
    gain = Gather(gains, label) {_MOVE}
    moved = Mul(timestep, drift) moved_columns = Reshape(moved, to_columns)
    sum = Add(gained, moved_columns) prediction = Tanh(sum)
}}
"""
CONDITIONER_BODY = f"""
<{_WEIGHTS}, int64[3] to_rows = {{-1, 1, 1}}>
{{
    gain = Gather(gains, label) gain_rows = Reshape(gain, to_rows)
    moved = Mul(timestep, drift) moved_rows = Reshape(moved, to_rows)
    modulation = Concat<axis = 1>(gain_rows, moved_rows)
}}
"""
DENOISER_BODY = f"""
<int64[4] to_columns = {{-1, 1, 1, 1}}>
{{
    gain, moved = Split<axis = 1, num_outputs = 2>(modulation) {_MOVE}
    moved_columns = Reshape(moved, to_columns)
    sum = Add(gained, moved_columns) prediction = Tanh(sum)
}}
"""
DECODER_BODY = """
{
    curved = Tanh(latent) copies = Concat<axis = 1>(curved, curved, curved, curved)
    image = DepthToSpace<blocksize = 2>(copies)
}
"""
_NODES = {"Gather": 1, "Reshape": 2, "Mul": 2, "Add": 1, "Tanh": 1}


def _as_text(tensor: TensorSpec) -> str:
    return f"{tensor.dtype.replace('32', '')}{list(tensor.shape)} {tensor.name}"


def _whole_graph(batch: int) -> GraphSpec:
    return GraphSpec(
        path="denoiser.fp32.onnx",
        inputs=(
            TensorSpec("latent", (batch, *SHAPE), "float32"),
            TensorSpec("timestep", (batch,), "float32"),
            TensorSpec("label", (batch,), "int64"),
        ),
        outputs=(TensorSpec("prediction", (batch, *SHAPE), "float32"),),
        opset=18,
        nodes=_NODES,
        weight_bytes=52,
    )


def _split_graphs(batch: int) -> dict[str, GraphSpec]:
    whole, rows = _whole_graph(batch), CONDITIONER_ROWS
    latent = whole.inputs[0]
    modulation = TensorSpec("modulation", (batch, 2, 1), "float32")
    conditioner = GraphSpec(
        path="conditioner.onnx",
        inputs=(
            TensorSpec("timestep", (rows,), "float32"),
            TensorSpec("label", (rows,), "int64"),
        ),
        outputs=(TensorSpec("modulation", (rows, 2, 1), "float32"),),
        opset=18,
        nodes={"Gather": 1, "Reshape": 2, "Mul": 1, "Concat": 1},
        weight_bytes=44,
    )
    denoiser = GraphSpec(
        whole.path, (latent, modulation), whole.outputs, 18, {"Split": 1, **_NODES}, 32
    )
    return {CONDITIONER: conditioner, "denoiser.fp32": denoiser}
