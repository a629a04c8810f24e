"""PyTorch that keeps what parts of the network answered, and extrapolates it at cheap steps.

FORA keeps the outputs of every block's attention and MLP, before their gates, and takes the last:
order 0. TaylorSeer keeps their finite differences as well, and takes a Taylor series. Gates, shifts
and scales are those of the present step in both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from pitstop.export.trace import TorchSession
from pitstop.models.denoiser import Denoiser
from pitstop.runtime.session import Array

BLOCKS, TOKENS = "blocks", "tokens"


@dataclass
class Clock:
    """Where a run is.

    Attributes:
        called: Its steps that are whole calls.
        step: The present one.
        before: The last called one.
    """

    called: frozenset[int]
    step: int = -1
    before: int = 0


@dataclass
class Kept:
    """A function of the network that answers at called steps, and is extrapolated between them.

    Attributes:
        function: It.
        clock: Shared by all.
        order: Of the Taylor series; 0 takes the last answer.
        derivatives: The last answer, then its finite differences.
    """

    function: Callable[..., Tensor]
    clock: Clock
    order: int
    derivatives: list[Tensor] = field(default_factory=list)

    def __call__(self, *inputs: Tensor) -> Tensor:
        clock = self.clock
        if clock.step in clock.called:
            self._keep(self.function(*inputs))
            return self.derivatives[0]
        ahead = clock.step - clock.before
        terms = [
            each * (ahead**power / math.factorial(power))
            for power, each in enumerate(self.derivatives)
        ]
        return sum(terms[1:], terms[0])

    def _keep(self, answer: Tensor) -> None:
        old = self.derivatives if self.clock.step else []
        new = [answer]
        for each in old[: self.order]:
            new.append((new[-1] - each) / (self.clock.step - self.clock.before))
        self.derivatives = new


class CachedSession:
    """A denoiser behind the runtime's `Session`, for one group of images at a time.

    Each call is a step, the first after the last step is a new run's.
    """

    device = "torch cpu, cached"

    def __init__(
        self, model: Denoiser, steps: int, called: Sequence[int], order: int, grain: str
    ) -> None:
        """Take a denoiser, which is changed: nothing else may use it.

        Args:
            model: The denoiser.
            steps: Of a run.
            called: Which of them are whole.
            order: Of the Taylor series.
            grain: ``blocks`` for the outputs of attention and MLP of each, ``tokens`` for those of
                all blocks together.
        """
        assert 0 in called
        self._steps, self._clock = steps, Clock(frozenset(called))
        keep = lambda function: Kept(function, self._clock, order)  # noqa: E731
        if grain == TOKENS:
            model.through_blocks = keep(model.through_blocks)  # type: ignore[method-assign]
        else:
            for block in model.blocks:
                for part in (block.attn, block.mlp):
                    part.forward = keep(part.forward)
        self._session = TorchSession(model)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        clock = self._clock
        clock.step = (clock.step + 1) % self._steps
        answer = self._session.run(feeds)
        if clock.step in clock.called:
            clock.before = clock.step
        return answer

    def close(self) -> None:
        """The model is the caller's."""


def fresh(model: Denoiser) -> Any:
    """A copy whose parts can be replaced; the weights are shared."""
    made = type(model)(model.config)  # type: ignore[call-arg, arg-type]
    made.load_state_dict(model.state_dict(), assign=True)
    return made.eval()
