"""What flows between the blocks in PyTorch, in the form that a bundle's own graphs give it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ...export.passes.window_major import WINDOW_MAJOR, Layout
from ...graphs.interface import INPUTS, MODULATION
from ...models.denoiser import Denoiser
from ...runtime.bundle.manifest import CONDITIONER, Manifest
from ...runtime.sampling.sampler import Latent
from .block_outputs import Feeds, Flow

# The norms of the residual stream, and what follows their owner's name in that of the block that
# they begin. Those between the stages of an EDT are the only ones of their owner.
NORMS = {"norm1": ".attn", "norm2": ".mlp", "norm_final": "", "norm": ""}


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
        leaving = {name: _ordered(stream, order) for name, stream in streams.items()}
        made = {MODULATION: modulation} if split else {}
        flows.append(Flow({**feeds, **made}, {**leaving, "final_layer": prediction}))
    return flows


def _ordered(stream: Latent, order: npt.NDArray[np.int64]) -> Latent:
    """Tokens in the graph's order; a stage with fewer tokens has no windows to put them in."""
    return stream[:, order] if stream.shape[1] == len(order) else stream


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
    names: list[str] = []
    read: list[Latent] = []
    chunks: list[Latent] = []

    def keep_input(name: str, inputs: tuple[Tensor]) -> None:
        names.append(name)
        read.append(inputs[0].numpy())

    def keep_chunks(count: int, output: Tensor) -> None:
        # [shift, scale, gate] twice, or [shift, scale]; the conditioner's scales are 1 + scale.
        parts = output.numpy().reshape(len(output), count, -1)
        chunks.extend(parts[:, index] + np.float32(index % 3 == 1) for index in range(count))

    hooks = []
    for name, module in model.named_modules():
        owner, _, kind = name.rpartition(".")
        if kind in NORMS and isinstance(module, nn.LayerNorm):
            block = owner + NORMS[kind]
            hooks.append(
                module.register_forward_pre_hook(lambda _, x, block=block: keep_input(block, x))
            )
        elif kind == "adaLN_modulation":
            count = 6 if owner.startswith("blocks.") else 2
            hooks.append(
                module.register_forward_hook(lambda _, x, made, n=count: keep_chunks(n, made))
            )
    try:
        inputs = [torch.from_numpy(np.ascontiguousarray(feeds[name])) for name in INPUTS]
        prediction = model(*inputs).numpy()
    finally:
        for hook in hooks:
            hook.remove()
    # What a norm reads is what the block before it hands on.
    leaving = dict(zip(["x_embedder", *names[:-1]], read, strict=True))
    return leaving, _laid_out(chunks), prediction


def _laid_out(chunks: Sequence[Latent]) -> Latent:
    """Chunks [batch, channel] as the conditioner gives them: [batch, chunk, channel].

    Those of several widths stand one behind the other in one.
    """
    if len({chunk.shape[1] for chunk in chunks}) == 1:
        return np.stack(chunks, axis=1)
    return np.concatenate(chunks, axis=1)[:, np.newaxis]
