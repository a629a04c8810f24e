"""PyTorch to one fp32 ONNX graph with static shapes, and PyTorch as a session of the runtime.

The only file here that imports torch, with the decoder's.
"""

from __future__ import annotations

import ast
import contextlib
import io
import logging
import platform
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from onnxscript.optimizer import fold_constants
from torch.utils.flop_counter import FlopCounterMode

from .. import CheckpointError, __version__
from ..graphs.interface import INPUTS, PREDICTION
from ..graphs.scopes import complete_modules, module_of, put_into
from ..models.checkpoint import (
    Checkpoint,
    build_model,
    checked,
    load_checkpoint,
    with_amm,
    with_input_size,
)
from ..models.checkpoint_files import is_stored
from ..models.config import config_to_dict
from ..models.denoiser import Denoiser
from ..models.format import Hints as Hints  # for the rest of the room, which imports no model
from ..models.hub import Downloaded as Downloaded
from ..models.hub import fetch_model as fetch_model
from ..models.hub import fetch_vae as fetch_vae
from ..models.hub import is_hub_name as is_hub_name
from ..models.presets import load_preset
from ..runtime.bundle.goldens import FILE_NAME
from ..runtime.bundle.label import LabelSpec
from ..runtime.bundle.manifest import LATENT_SCALES, Manifest, ModelSpec
from ..runtime.machine.system import installed_versions
from ..runtime.sampling.schedule.betas import Betas
from ..runtime.sampling.schedule.flow import LinearFlow
from ..runtime.session import Array

OPSET = 19
FOLDED = 2**23  # numbers: position biases over 32 x 32 tokens too, where the exporter stops early
SCOPES = "pkg.torch.onnx.name_scopes"  # of a node: the modules around it, and its own name
PACKAGES = ("torch", "onnx", "onnxscript", "onnx-ir", "onnxruntime", "onnxruntime-gpu", "numpy")
VAE_FACTOR = 8  # image pixels along one side of a latent pixel
PIXEL_CHANNELS = (1, 3)  # a denoiser of grey or RGB works on the image itself

ImageSize = int | tuple[int, int]
"""Rows and columns of an image in pixels, or the side of a square one."""


def load_source(
    source: str,
    image_size: ImageSize | None = None,
    seed: int = 0,
    hints: Hints | None = None,
    vae: tuple[int, int] | None = None,
) -> Checkpoint:
    """The checkpoint in the file or folder ``source``, or the preset of that name.

    Args:
        source: A path, or a preset's name.
        image_size: Of the image in pixels, where it is not the one in the config.
        seed: For the weights of a preset that was never trained.
        hints: What a file of other people's cannot tell by itself.
        vae: The channels of a VAE's latents, and image pixels along one side of a latent pixel.

    Raises:
        CheckpointError: No such file or preset, or one that cannot be read.
    """
    path = Path(source)
    # A folder may have a preset's name: a bundle that was made of it, say.
    is_preset = not (is_stored(path) or path.suffix or path.name != source)
    said = hints or Hints()
    if is_preset and (said.weights or said.variant):
        raise CheckpointError(
            f"{source} is no file, which alone has several weights",
            "Leave `--weights` and `--variant` out",
        )
    checkpoint = (
        checked(load_preset(source, seed), source, said)
        if is_preset
        else load_checkpoint(path, said)
    )
    if image_size is not None:
        checkpoint = _resized(checkpoint, image_size, vae)
    return with_amm(checkpoint, said.amm) if said.amm is not None else checkpoint


def _resized(
    checkpoint: Checkpoint, image_size: ImageSize, vae: tuple[int, int] | None
) -> Checkpoint:
    goes = vae is not None and vae[0] == checkpoint.config.in_channels
    factor = vae[1] if vae is not None and goes else vae_factor(checkpoint)
    asked = (image_size, image_size) if isinstance(image_size, int) else image_size
    said = " x ".join(map(str, asked)) if asked[0] != asked[1] else str(asked[0])
    if any(side < factor or side % factor for side in asked):
        raise CheckpointError(
            f"The image size is {said}, but a latent pixel is {factor} image pixels wide",
            f"Choose a multiple of {factor} above 0",
        )
    _check_sides(checkpoint, (asked[0] // factor, asked[1] // factor), factor)
    return with_input_size(checkpoint, (asked[0] // factor, asked[1] // factor))


def _check_sides(checkpoint: Checkpoint, latent: tuple[int, int], factor: int) -> None:
    """Refuse sides that patches, windows or stages do not divide, in pixels of the image.

    Raises:
        CheckpointError: They do not; the message says the nearest size that they do.
    """
    config = checkpoint.config
    if not any(side % config.divisor for side in latent):
        return
    unit = config.divisor * factor
    near = "x".join(str(max(1, round(side / config.divisor)) * unit) for side in latent)
    rows, columns = (side / config.patch_size for side in latent)
    raise CheckpointError(
        f"An image of {latent[0] * factor} x {latent[1] * factor} pixels has {rows:g} x "
        f"{columns:g} tokens, which {config.tiles}, {unit} pixels wide, do not tile",
        f"Choose a multiple of {unit} on both sides, such as {near}",
    )


def latent_space(checkpoint: Checkpoint) -> str:
    """``pixel`` for a denoiser of grey or RGB images, ``vae`` for one of latents.

    Nothing in a file tells RGB from latents of three channels (LDM's f4): their VAE does.
    """
    return "pixel" if checkpoint.config.in_channels in PIXEL_CHANNELS else "vae"


def vae_factor(checkpoint: Checkpoint) -> int:
    """Image pixels along one side of a latent pixel."""
    return 1 if latent_space(checkpoint) == "pixel" else VAE_FACTOR


def manifest_for(checkpoint: Checkpoint, name: str, batch: int) -> Manifest:
    """The manifest of a bundle, all but its graphs and its files' hashes."""
    config = checkpoint.config
    return Manifest(
        model=describe(checkpoint, name, batch),
        batch=batch,
        latent_shape=(config.in_channels, *config.input_size),
        latent_space=latent_space(checkpoint),
        conditions=(
            LabelSpec(
                classes=config.num_classes,
                null=config.num_classes if config.class_dropout_prob > 0 else None,
                names=checkpoint.labels,
            ),
        ),
        prediction_type=config.prediction_type,
        learn_sigma=config.learn_sigma,
        cfg_channels=config.cfg_channels,
        schedule=training(checkpoint),
        latent_scale=LATENT_SCALES[latent_space(checkpoint)],
        graphs={},
        goldens=FILE_NAME,
        versions={
            "pitstop": __version__,
            "python": platform.python_version(),
            **installed_versions(PACKAGES),
        },
    )


def training(checkpoint: Checkpoint) -> Betas | LinearFlow:
    """What a checkpoint's model calls time, and the noise that it knows."""
    config = checkpoint.config
    return LinearFlow(config.data_at) if config.prediction_type == "velocity" else Betas()


def describe(checkpoint: Checkpoint, name: str, batch: int) -> ModelSpec:
    """The manifest's account of a checkpoint; FLOPs are counted on PyTorch's meta device."""
    with torch.device("meta"):
        model = build_model(checkpoint.config).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(*_example(model, batch))
    return ModelSpec(
        name=name,
        config=config_to_dict(checkpoint.config),
        parameters=sum(weight.numel() for weight in model.parameters()),
        flops_per_call=counter.get_total_flops(),
        provenance=checkpoint.provenance,
        format=checkpoint.format,
        licence=checkpoint.licence,
        weights=checkpoint.weights,
        variant=checkpoint.variant,
    )


def trace(model: Denoiser, batch: int, opset: int = OPSET) -> ir.Model:
    """Trace a denoiser for a batch of one size.

    Args:
        model: The network with its weights.
        batch: Rows of one call.
        opset: Version of the ONNX operators.

    Returns:
        An fp32 graph with static shapes everywhere: latent float32 [batch, channel, row, column],
        timestep float32 [batch] and label int64 [batch] in, prediction float32 out.
    """
    return trace_module(model, _example(model, batch), INPUTS, PREDICTION, opset)


def trace_module(
    module: torch.nn.Module,
    example: tuple[torch.Tensor, ...],
    inputs: Sequence[str],
    output: str,
    opset: int,
) -> ir.Model:
    """Trace any network of one output, with the shapes of its example's inputs."""
    with quiet("torch.onnx"):
        program = torch.onnx.export(
            module.eval(),
            example,
            dynamo=True,
            opset_version=opset,
            input_names=list(inputs),
            output_names=[output],
            verbose=False,
        )
    assert program is not None
    traced = program.model
    fold_constants(traced, input_size_limit=FOLDED, output_size_limit=FOLDED)
    _keep_modules(traced.graph)
    _name_weights(traced.graph)
    return traced


def _keep_modules(graph: ir.Graph) -> None:
    """Keep each node's module, and no stack traces with the paths of this machine."""
    for node in graph:
        modules = ast.literal_eval(node.metadata_props.get(SCOPES, "[]"))[:-1]
        node.metadata_props.clear()
        if modules:
            put_into(node, modules[-1])
    complete_modules(graph)  # the Splits that constant folding made


def _name_weights(graph: ir.Graph) -> None:
    """Call the transposed weight of a linear as its module does."""
    for node in graph:
        weight = node.inputs[1] if node.op_type == "MatMul" else None
        if weight is None or not weight.is_initializer() or "." in str(weight.name):
            continue
        module = module_of(node)
        name = f"{module}.weight"
        if module and name not in graph.initializers:
            weight.name = name


class TorchSession:
    """PyTorch behind the runtime's `Session`: the reference runs the same loop as a backend."""

    device = "torch cpu"

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model.eval()

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        with torch.inference_mode():
            inputs = [torch.from_numpy(np.ascontiguousarray(feeds[name])) for name in INPUTS]
            return {PREDICTION: self._model(*inputs).numpy()}

    def close(self) -> None:
        """Nothing to give back: the model is the caller's."""


def _example(model: Denoiser, batch: int) -> tuple[torch.Tensor, ...]:
    config = model.config
    return (
        torch.zeros(batch, config.in_channels, *config.input_size),
        torch.zeros(batch),
        torch.zeros(batch, dtype=torch.int64),
    )


@contextlib.contextmanager
def quiet(library: str) -> Iterator[None]:
    """Keep what a library prints, logs and warns about itself off the terminal."""
    logger = logging.getLogger(library)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
