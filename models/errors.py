"""What can be wrong with a config or a checkpoint, and what to do about it."""


class ModelError(ValueError):
    """A config or checkpoint that the user can mend: the problem, and the remedy."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}. {remedy}.".replace("\n", " "))
        self.problem = problem
        self.remedy = remedy


class ConfigError(ModelError):
    """A field of a config, or several together, that no model can have."""


class CheckpointError(ModelError):
    """A file that is no checkpoint, or whose tensors do not fit its config."""
