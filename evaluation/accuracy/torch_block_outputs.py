"""What flows between the blocks in PyTorch, in the form that a bundle's own graphs give it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...export.passes.place_major import PLACE_MAJOR, PLACES_FIRST
from ...export.passes.window_major import WINDOW_MAJOR, Layout
from ...graphs.blocks import blocks_of, stream_norm
from ...graphs.interface import INPUTS, MODULATION
from ...models.denoiser import Denoiser
from ...runtime.bundle.manifest import CONDITIONER, Manifest
from ...runtime.sampling.sampler import Latent
from .block_outputs import Feeds, Flow


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
        leaving, modulation = _watch(model, feeds)
        made = {MODULATION: modulation} if split else {}
        ordered = {name: _ordered(stream, order, manifest) for name, stream in leaving.items()}
        flows.append(Flow({**feeds, **made}, ordered))
    return flows


def _ordered(stream: Latent, order: npt.NDArray[np.int64], manifest: Manifest) -> Latent:
    """Tokens in the graph's order; a stage with fewer has no windows, the prediction no tokens."""
    if stream.ndim != 3 or stream.shape[1] != len(order):
        return stream
    ordered: Latent = stream[:, order]
    if not _rewrites(manifest, PLACE_MAJOR.name):
        return ordered
    batch, tokens, channels = ordered.shape
    inside = manifest.model.config["pswa"]["window_size"] ** 2 if _windowed(manifest) else tokens
    apart = ordered.reshape(batch, tokens // inside, inside, channels)
    return apart.transpose(PLACES_FIRST).reshape(-1, channels)


def token_order(manifest: Manifest) -> npt.NDArray[np.int64]:
    """int64 [token]: the row-major place of each token of an image in the bundle's graphs."""
    config = manifest.model.config
    rows, columns = (side // config["patch_size"] for side in manifest.latent_shape[1:])
    if not _windowed(manifest):
        return np.arange(rows * columns)
    window = config["pswa"]["window_size"]
    return Layout(rows // window, window, columns // window, window).order()


def _windowed(manifest: Manifest) -> bool:
    return _rewrites(manifest, WINDOW_MAJOR.name)


def _rewrites(manifest: Manifest, name: str) -> bool:
    """Whether a pass found something to do in the bundle's graphs."""
    return any(report.rewritten for report in manifest.passes if report.name == name)


@torch.inference_mode()
def _watch(model: Denoiser, feeds: Feeds) -> tuple[dict[str, Latent], Latent]:
    """What leaves each block, and the modulations."""
    run: list[str] = []  # the modules in the order in which they run
    read: dict[int, Latent] = {}  # what the norms of the residual stream read, by their places
    chunks: list[Latent] = []

    def keep_input(name: str, inputs: tuple[Tensor]) -> None:
        if name and name == stream_norm(name):
            read[len(run)] = inputs[0].numpy()
        run.append(name)

    def keep_chunks(count: int, output: Tensor) -> None:
        # [shift, scale, gate] twice, or [shift, scale]; the conditioner's scales are 1 + scale.
        parts = output.numpy().reshape(len(output), count, -1)
        chunks.extend(parts[:, index] + np.float32(index % 3 == 1) for index in range(count))

    hooks = []
    for name, module in model.named_modules():
        owner, _, kind = name.rpartition(".")
        hooks.append(module.register_forward_pre_hook(lambda _, x, name=name: keep_input(name, x)))
        if kind == "adaLN_modulation":
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
    blocks = blocks_of(run)
    # What a norm reads is what the block before it hands on.
    leaving = {blocks[place - 1]: stream for place, stream in read.items()}
    return {**leaving, blocks[-1]: prediction}, _laid_out(chunks)


def _laid_out(chunks: Sequence[Latent]) -> Latent:
    """Chunks [batch, channel] as the conditioner gives them: [batch, chunk, channel].

    Those of several widths stand one behind the other in one.
    """
    if len({chunk.shape[1] for chunk in chunks}) == 1:
        return np.stack(chunks, axis=1)
    return np.concatenate(chunks, axis=1)[:, np.newaxis]
