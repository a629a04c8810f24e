"""What flows between the blocks in PyTorch, in the form that a bundle's own graphs give it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..export.passes.window_major import WINDOW_MAJOR, Layout
from ..export.split import MODULATION
from ..export.trace import INPUTS
from ..models.denoiser import Denoiser
from ..runtime.manifest import CONDITIONER, Manifest
from ..runtime.sampler import Latent
from .flow import Feeds, Flow

HALVES = ("attn", "mlp")  # of a block, each behind a norm of its own


def torch_flows(model: Denoiser, manifest: Manifest, calls: Sequence[Feeds]) -> list[Flow]:
    """Watch PyTorch in each call.

    Args:
        model: In fp32 and eval mode.
        manifest: Of the bundle whose form the flows take: its order of tokens, and the modulation
            where it has a conditioner.
        calls: The feeds.
    """
    order = token_order(manifest)
    split = CONDITIONER in manifest.graphs
    flows = []
    for feeds in calls:
        streams, modulation, prediction = _watch(model, feeds)
        leaving = {name: stream[:, order] for name, stream in streams.items()}
        made = {MODULATION: modulation} if split else {}
        flows.append(Flow({**feeds, **made}, {**leaving, "final_layer": prediction}))
    return flows


def token_order(manifest: Manifest) -> npt.NDArray[np.int64]:
    """int64 [token]: the row-major place of each token of the bundle's graphs."""
    config = manifest.model.config
    rows, columns = (side // config["patch_size"] for side in manifest.latent_shape[1:])
    moved = [report.rewritten for report in manifest.passes if report.name == WINDOW_MAJOR.name]
    if not any(moved):
        return np.arange(rows * columns)
    window = config["pswa"]["window_size"]
    return Layout(rows // window, window, columns // window, window).order()


@torch.inference_mode()
def _watch(model: Denoiser, feeds: Feeds) -> tuple[dict[str, Latent], Latent, Latent]:
    """What the norms of the residual stream read, the modulations, and the prediction."""
    read: list[Latent] = []
    chunks: list[Latent] = []

    def keep_input(module: object, inputs: tuple[Tensor]) -> None:
        read.append(inputs[0].numpy())

    def keep_chunks(module: object, inputs: object, output: Tensor) -> None:
        # [shift, scale, gate] twice, or [shift, scale]; the conditioner's scales are 1 + scale.
        made = output.unflatten(1, (-1, model.config.hidden_size)).numpy()
        chunks.append(made + (np.arange(made.shape[1]) % 3 == 1)[:, None].astype(np.float32))

    halves = [f"blocks.{index}.{half}" for index in range(len(model.blocks)) for half in HALVES]
    hooks = []
    for name, module in model.named_modules():
        if name.endswith((".norm1", ".norm2", ".norm_final")):
            hooks.append(module.register_forward_pre_hook(keep_input))
        elif name.endswith(".adaLN_modulation"):
            hooks.append(module.register_forward_hook(keep_chunks))
    try:
        inputs = [torch.from_numpy(np.ascontiguousarray(feeds[name])) for name in INPUTS]
        prediction = model(*inputs).numpy()
    finally:
        for hook in hooks:
            hook.remove()
    return (
        dict(zip(["x_embedder", *halves], read, strict=True)),
        np.concatenate(chunks, axis=1),
        prediction,
    )
