"""The most FLOP/s that this machine reaches in matmuls of a model's sizes, by whatever library.

Measured in turns with the models, so that both meet the same clock rates and the same neighbours.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from .... import PitstopError
from ....runtime.backend import SessionOptions
from ....runtime.backends import import_backend
from ....runtime.bundle.folder import GraphFile
from ....runtime.session import Array, Session
from ..timed_run import Clock
from .chain import LINKS, Chain, Weights

BACKENDS = ("onnxruntime", "openvino")  # what runs an ONNX file as it is
REPEATS = 5  # in a turn; the first is not counted

Chains = dict[str, tuple[Chain, Callable[[], None]]]
"""By name, the chain and what runs it once."""


def open_chains(chain: Chain, options: SessionOptions, folder: Path) -> Chains:
    """All that can run ``chain`` here.

    Args:
        chain: The matmuls.
        options: Of the sessions; the threads are PyTorch's too.
        folder: For the graphs, which stay there while they are open.
    """
    found: dict[str, Callable[[], None]] = {}
    if importlib.util.find_spec("torch") is not None:
        from .pytorch import torch_chains

        made = torch_chains(chain, options.threads)
        found |= {f"torch {name}": run for name, run in made.items()}
    if importlib.util.find_spec("onnx") is not None:
        found |= _graph_chains(chain, options, folder)
    if not found and options.threads is None:  # numpy does not let itself be told
        found["numpy fp32"] = _numpy_chain(chain)
    return {
        f"{name}, {chain.rows} x {chain.width} x {chain.inner}": (chain, run)
        for name, run in found.items()
    }


def time_chain(run: Callable[[], None], clock: Clock = time.perf_counter) -> list[float]:
    """Seconds of each run of a turn but the first."""
    taken = []
    for _ in range(REPEATS):
        start = clock()
        run()
        taken.append(clock() - start)
    return taken[1:]


def peak_flops(chains: Chains, turns: Mapping[str, Sequence[Sequence[float]]]) -> dict[str, float]:
    """FLOP/s of each chain, by its median run, the fastest first."""
    reached = {
        name: chain.flops / float(np.median(np.concatenate(list(turns[name]))))
        for name, (chain, _) in chains.items()
    }
    return dict(sorted(reached.items(), key=lambda item: -item[1]))


def _graph_chains(
    chain: Chain, options: SessionOptions, folder: Path
) -> dict[str, Callable[[], None]]:
    from .graph import PRECISIONS, write_chain

    found: dict[str, Callable[[], None]] = {}
    feeds: dict[str, Array] = {"x": chain.draw_input()}
    for precision in PRECISIONS:
        path = folder / f"{chain.rows}-{chain.width}-{chain.inner}-{precision}.onnx"
        spec = write_chain(chain, precision, path)
        for name in BACKENDS:
            backend = import_backend(name)
            if backend.why_not() is not None:
                continue
            try:
                session = backend.open_graph(GraphFile(path, spec), options)
                session.run(feeds)
            except PitstopError:  # no kernels for it there: then it is not this machine's peak
                continue
            found[f"{name} {precision}"] = _runner(session, feeds)
    return found


def _runner(session: Session, feeds: Mapping[str, Array]) -> Callable[[], None]:
    def run() -> None:
        session.run(feeds)

    return run


def _numpy_chain(chain: Chain) -> Callable[[], None]:
    x, (up, down) = chain.draw_input(), tuple(chain.draw_weights())

    def run() -> None:
        value: Weights = x
        for _ in range(LINKS):
            value = np.matmul(np.matmul(value, up), down)

    return run
