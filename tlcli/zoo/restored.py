"""What was restored from a checkpoint: which variables, which were left, and which the network lacks."""

from dataclasses import asdict, dataclass
from typing import Any

_SHOWN = 3


@dataclass(frozen=True)
class Restored:
    """A report on the variables of a checkpoint and of a network.

    Attributes:
        checkpoint: Name of the checkpoint, without its folder.
        pattern: The regular expression that chose the variables; None for all.
        restored: Variables of the checkpoint whose values the network has now.
        left: Variables of the checkpoint that are not in the network or were not chosen.
        missing: Variables of the network that keep their random initial values.
    """

    checkpoint: str
    pattern: str | None
    restored: tuple[str, ...]
    left: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def notice(self) -> str:
        """One line for the user."""
        missing = f"{len(self.missing)} missing{_examples(self.missing)}, which stay random" if self.missing else ""
        left = f"{len(self.left)} left{_examples(self.left)}" if self.left else "none left"
        parts = [f"{len(self.restored)} variables restored from {self.checkpoint}", left, missing or "none missing"]
        return "; ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def _examples(names: tuple[str, ...]) -> str:
    more = ", …" if len(names) > _SHOWN else ""
    return f" ({', '.join(names[:_SHOWN])}{more})"
