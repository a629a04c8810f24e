"""A chain of matmuls in PyTorch, on its GPU or else the CPU."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.functional import linear

from ....runtime.bundle.precision import INT8
from .chain import LINKS, Chain


def torch_chains(chain: Chain, threads: int | None) -> dict[str, Callable[[], None]]:
    """What runs the chain once, by precision."""
    if threads:
        torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    up, down = (torch.from_numpy(weight).T.contiguous() for weight in chain.draw_weights())
    x = torch.from_numpy(chain.draw_input())
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16}
    if device.type == "cuda":
        dtypes["fp16"] = torch.float16
    chains = {
        name: _chain(x.to(device, dtype), up.to(device, dtype), down.to(device, dtype))
        for name, dtype in dtypes.items()
    }
    if device.type == "cpu" or _fits_cuda(chain):
        chains[INT8.name] = _int8_chain(chain, device)
    return chains


def _fits_cuda(chain: Chain) -> bool:
    """Whether CUDA multiplies int8 of such sizes (aten/src/ATen/native/cuda/Blas.cpp)."""
    return chain.rows > 16 and chain.width % 8 == chain.inner % 8 == 0


def _chain(x: torch.Tensor, up: torch.Tensor, down: torch.Tensor) -> Callable[[], None]:
    @torch.inference_mode()
    def run() -> None:
        value = x
        for _ in range(LINKS):
            value = linear(linear(value, up), down)
        _wait(value)

    return run


def _int8_chain(chain: Chain, device: torch.device) -> Callable[[], None]:
    """As many products of int8 into int32, which nothing turns back into int8."""

    def draw(rows: int, columns: int) -> torch.Tensor:
        return torch.randint(-127, 128, (rows, columns), dtype=torch.int8, device=device)

    x, h = draw(chain.rows, chain.width), draw(chain.rows, chain.inner)
    up, down = draw(chain.inner, chain.width).T, draw(chain.width, chain.inner).T

    @torch.inference_mode()
    def run() -> None:
        for _ in range(LINKS):
            torch._int_mm(x, up)
            product = torch._int_mm(h, down)
        _wait(product)

    return run


def _wait(value: torch.Tensor) -> None:
    """On a GPU, until it has ended."""
    if value.is_cuda:
        torch.cuda.synchronize()
