"""PSWA written a second time, slowly: a window and a head at a time, a tap at a time."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from pitstop.models.pit import HighFrequencyBridge, PitConfig, PseudoShiftedWindowAttention


def slow_pswa(attention: PseudoShiftedWindowAttention, config: PitConfig, x: Tensor) -> Tensor:
    width, attended = config.hidden_size, attention.attended
    order = [(channel + attention.offset) % width for channel in range(width)]
    x = x[:, :, order]
    if config.pswa.split == "projected":
        projected = attention.qkv(x)
        qkv, bridged = projected[:, :, : 3 * attended], projected[:, :, 3 * attended :]
    else:
        qkv, bridged = attention.qkv(x[:, :, :attended]), x[:, :, attended:]
    y = torch.cat([slow_windows(attention, config, qkv), bridged], dim=2)
    if config.pswa.merge == "add_proj" and hasattr(attention, "bridge"):
        y = y + slow_bridge(attention.bridge, config, qkv[:, :, 2 * attended :])
    elif attended < width:
        y[:, :, attended:] = slow_bridge(attention.bridge, config, bridged)
    back = torch.empty_like(y)
    back[:, :, order] = y
    return attention.proj(back)


def slow_windows(attention: PseudoShiftedWindowAttention, config: PitConfig, qkv: Tensor) -> Tensor:
    (rows, columns), (down, right), dim = config.grid, attention.window, config.head_dim
    attended = attention.attended
    y = torch.empty_like(qkv[:, :, :attended])
    for top in range(0, rows, down):
        for left in range(0, columns, right):
            places = [(top + r, left + c) for r in range(down) for c in range(right)]
            index = [row * columns + column for row, column in places]
            for head in range(attention.heads):
                q, k, v = (
                    qkv[:, index, part * attended + head * dim :][:, :, :dim] for part in range(3)
                )
                if config.pswa.qk_norm:
                    q, k = attention.q_norm(q), attention.k_norm(k)
                bias = slow_bias(attention, places, head) if config.pswa.rel_pos_bias else None
                y[:, index, head * dim : (head + 1) * dim] = (
                    functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
                )
    return y


def slow_bias(
    attention: PseudoShiftedWindowAttention, places: list[tuple[int, int]], head: int
) -> Tensor:
    """The bias [query, key] of a window: the table's entry for how far apart the two are."""
    rows, columns = attention.window
    table = attention.rel_pos_bias.table[:, head].tolist()
    width = 2 * columns - 1
    return torch.tensor(
        [
            [table[(a - r + rows - 1) * width + b - c + columns - 1] for r, c in places]
            for a, b in places
        ],
        dtype=torch.float64,
    )


def slow_bridge(bridge: HighFrequencyBridge, config: PitConfig, x: Tensor) -> Tensor:
    rows, columns = config.grid
    reach, kind = bridge.config.kernel // 2, bridge.config
    image = x.transpose(1, 2).reshape(len(x), -1, rows, columns)
    if kind.kind == "pool_dw":
        image = shifted(image, reach, outside=-torch.inf).amax(dim=0)
    taps = shifted(image, reach, outside=0.0)
    u = torch.einsum("knchw,ck->nchw", taps, bridge.dw.weight.flatten(1))
    u = u + bridge.dw.bias.view(-1, 1, 1)
    if kind.highpass:
        u = u - taps.mean(dim=0)
    if kind.norm == "bn":
        u = bridge.norm(u)
    u = {"none": lambda u: u, "silu": functional.silu, "gelu_tanh": nn.GELU("tanh")}[kind.act](u)
    if kind.kind != "dw":
        u = torch.einsum("nchw,dc->ndhw", u, bridge.pw.weight[:, :, 0, 0])
        u = u + bridge.pw.bias.view(-1, 1, 1)
    return u.flatten(2).transpose(1, 2)


def shifted(image: Tensor, reach: int, outside: float) -> Tensor:
    """The image once for each tap of a kernel, ``outside`` the grid: (taps, N, C, R, C)."""
    rows, columns = image.shape[2:]
    wide = functional.pad(image, [reach] * 4, value=outside)
    steps = range(2 * reach + 1)
    return torch.stack([
        wide[:, :, down : down + rows, right : right + columns] for down in steps for right in steps
    ])
