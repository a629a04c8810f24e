"""What the server answers where it does not draw: a status, one sentence, and what it is about."""

from __future__ import annotations

import math

from .. import NonFiniteError, PitstopError

LONGEST_WAIT = 600  # seconds, of Retry-After


class Refused(PitstopError):
    """A request that is not served.

    Attributes:
        status: Of HTTP.
        param: The field of the body that is wrong, where it is one.
        headers: That go with it.
    """

    def __init__(
        self,
        status: int,
        problem: str,
        remedy: str,
        *,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(problem, remedy)
        self.status, self.param, self.headers = status, param, headers or {}


class Busy(Refused):
    """The queue is full."""

    def __init__(self, seconds: float) -> None:
        wait = min(LONGEST_WAIT, max(1, math.ceil(seconds)))
        super().__init__(
            429,
            "The queue is full",
            f"Ask again in {wait} s",
            headers={"Retry-After": str(wait)},
        )


class Leaving(Refused):
    """The server was told to stop."""

    def __init__(self) -> None:
        super().__init__(
            503, "The server is stopping", "Ask again in a while", headers={"Retry-After": "5"}
        )


class Fault(Refused):
    """Something is wrong here, which the client cannot mend and needs not know."""

    def __init__(self) -> None:
        super().__init__(500, "The server failed at this request", "Its log says at what")


def refusal_of(error: PitstopError, param: str | None = None) -> Refused:
    """An error of the library as the answer to a request."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, NonFiniteError):
        return Refused(
            422,
            "The image left the finite numbers and was given up",
            "Choose a lower `cfg_scale`, or another sampler or number of steps",
        )
    return Refused(400, error.problem, error.remedy, param=param)
