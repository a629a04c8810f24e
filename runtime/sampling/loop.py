"""What a loop is: something that takes requests from noise to latents, all their rows together.

The host's loop can draw whatever there is. A device's loop keeps the latents where the denoiser
runs; it draws what its tables can say, and says why not where they cannot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from .request import Request
from .sampler import Latent

OnStep = Callable[[Sequence[Latent]], None]
"""Told after each step: each request's latents where somebody looks, and nothing otherwise."""


class Loop(Protocol):
    """A denoiser with its loop."""

    @property
    def keeps_latents(self) -> bool:
        """Whether the latents stay on the device from step to step."""

    def why_not(self, requests: Sequence[Request]) -> str | None:
        """Say why the latents of these cannot stay on the device, or None where they can.

        A loop that is nothing but a device's cannot draw such requests.
        """

    def draw(
        self, requests: Sequence[Request], on_step: OnStep, *, look: bool = False
    ) -> list[Latent]:
        """Draw all images of all requests.

        Args:
            requests: What to draw; their rows share calls.
            on_step: Told of every step. One that raises ends the run.
            look: Whether ``on_step`` wants to see the latents, which costs a device time.

        Returns:
            The last latents of each request, float32 [image, channel, row, column].

        Raises:
            NonFiniteError: A latent left the finite numbers.
        """
