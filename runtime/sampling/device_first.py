"""The loop of a denoiser that can keep its latents: on the device, or else on the host."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ... import NonFiniteError
from ..session import SharedSession
from .loop import Loop, OnStep
from .request import Request
from .sampler import Latent


class DeviceFirst:
    """Draws on the device what it can draw, and the rest on the host.

    A device does not look at its latents on the way. A run that ends outside the finite numbers is
    walked again on the host, which names the step.
    """

    keeps_latents = True

    def __init__(self, device: Loop, host: Loop, denoiser: SharedSession) -> None:
        """Take both loops of one denoiser.

        Args:
            device: Has one place for its latents, so one run at a time is on it.
            host: For what the device cannot draw.
            denoiser: What both of them use.
        """
        self._device, self._host, self._denoiser = device, host, denoiser

    def why_not(self, requests: Sequence[Request]) -> str | None:
        return self._device.why_not(requests)

    def draw(
        self, requests: Sequence[Request], on_step: OnStep, *, look: bool = False
    ) -> list[Latent]:
        if self.why_not(requests) is not None:
            return self._host.draw(requests, on_step, look=look)
        with self._denoiser.used():
            drawn = self._device.draw(requests, on_step, look=look)
        if all(np.isfinite(latent).all() for latent in drawn):
            return drawn
        self._host.draw(requests, lambda latents: None)
        raise NonFiniteError(
            "The loop on the device left the finite numbers, where the host's does not",
            "Draw with `--backend onnxruntime --provider CPUExecutionProvider`, and report this",
        )
