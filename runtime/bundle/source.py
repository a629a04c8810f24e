"""Where weights of a bundle came from, where that was a repository on a hub."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .fields import a_table, a_text, one_of

ROLES = ("model", "vae")


@dataclass(frozen=True)
class SourceSpec:
    """A repository whose weights are in a bundle.

    Attributes:
        role: ``model`` or ``vae``.
        repository: Its owner and name.
        revision: The commit, whatever branch or tag was asked for.
        file: The one of its files that was read; empty for a folder of diffusers.
        licence: As its model card names it; empty where it does not.
    """

    role: str
    repository: str
    revision: str
    file: str = ""
    licence: str = ""

    @property
    def called(self) -> str:
        """It in users' words."""
        file = f":{self.file}" if self.file else ""
        licence = f"licence {self.licence}" if self.licence else "no licence in its model card"
        return f"{self.repository}{file} at {self.revision}, {licence}"


def read_source(content: object) -> SourceSpec:
    """A record of a manifest.

    Raises:
        ValueError: A field is of another type, or missing.
    """
    told: dict[str, Any] = a_table(content, "sources")
    one_of(told, "role", ROLES)
    for name in ("repository", "revision"):
        a_text(told[name], f"sources.{name}")
    for name in ("file", "licence"):
        if told.get(name, "") != "":
            a_text(told[name], f"sources.{name}")
    return SourceSpec(**told)
