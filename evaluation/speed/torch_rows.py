"""PyTorch as a benchmark's contender: eager and compiled, in fp32, bf16, and fp16 on CUDA."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ... import BackendUnavailable
from ...graphs.interface import INPUTS, PREDICTION
from ...models.denoiser import Denoiser
from ...runtime.backend import SessionOptions
from ...runtime.bundle.manifest import Manifest
from ...runtime.session import Array
from ..accuracy.reference import load_model
from .contender import COMPILED, EAGER, Contender

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def torch_contenders(folder: Path, checkpoint: str, options: SessionOptions) -> list[Contender]:
    """Every way in which PyTorch could run a bundle's checkpoint here, the plainest first."""
    precisions = ["fp32", "bf16", *(["fp16"] if torch.cuda.is_available() else [])]
    return [
        Contender(folder, way, precision, options, checkpoint)
        for way in (EAGER, COMPILED)
        for precision in precisions
    ]


def open_torch(
    source: str,
    manifest: Manifest,
    precision: str,
    *,
    compiled: bool,
    threads: int | None = None,
) -> TorchRow:
    """Load a checkpoint for this machine's GPU, or else its CPU.

    Args:
        source: A checkpoint's path or a preset's name.
        manifest: Of the bundle that was exported from it.
        precision: A name in `DTYPES`.
        compiled: Through ``torch.compile`` in its default mode, for the bundle's shapes alone.
        threads: Of PyTorch in this process.

    Raises:
        CheckpointError: The checkpoint cannot be read, or is of another model than the bundle.
        BackendUnavailable: It cannot be compiled here.
    """
    if threads:
        torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = cast_weights(load_model(source, manifest), DTYPES[precision]).to(device)
    if not compiled:
        return TorchRow(model, DTYPES[precision], device)
    logging.getLogger("torch._dynamo").setLevel(logging.ERROR)
    return TorchRow(torch.compile(model, dynamic=False), DTYPES[precision], device)


def cast_weights(model: Denoiser, dtype: torch.dtype) -> Denoiser:
    """TimedRun a denoiser's weights into ``dtype``, but for the timestep's embedder.

    That is how PyTorch is fastest: under autocast the weights are cast again at every call.
    In bf16 the embedder could not tell one timestep from the next.
    """
    if dtype == torch.float32:
        return model
    for name, part in model.named_children():
        if name != "t_embedder":
            part.to(dtype)
    model.pos_embed.data = model.pos_embed.data.to(dtype)

    def cast(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        return output.to(dtype)

    model.t_embedder.register_forward_hook(cast)
    return model


class TorchRow:
    """A denoiser of PyTorch behind the runtime's `Session`."""

    def __init__(
        self, call: Callable[..., Tensor], dtype: torch.dtype, device: torch.device
    ) -> None:
        self._call: Callable[..., Tensor] | None = call
        self._dtype = dtype
        self._device = device

    @property
    def device(self) -> str:
        return f"PyTorch {self._device.type}"

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        assert self._call is not None
        latent, *rest = (
            torch.from_numpy(np.ascontiguousarray(feeds[name])).to(self._device) for name in INPUTS
        )
        try:
            with torch.inference_mode():
                prediction = self._call(latent.to(self._dtype), *rest)
                return {PREDICTION: prediction.float().cpu().numpy()}
        except torch._dynamo.exc.BackendCompilerFailed as error:
            raise BackendUnavailable(
                f"torch.compile failed: {str(error).strip().splitlines()[0]}",
                "Install a C++ compiler, or leave PyTorch out with `--no-torch`",
            ) from error

    def close(self) -> None:
        self._call = None


def device_peak_bytes() -> int | None:
    """The most that PyTorch has held on the GPU in this process; None without one."""
    return torch.cuda.max_memory_reserved() if torch.cuda.is_available() else None
