"""The errors of this program. Errors of a user, a file or a machine are TlcliErrors; bugs raise other types.

TlcliError
├── UsageError            exit 2   the command line is invalid
├── RecipeError           exit 2   a recipe is invalid; carries all problems
├── DataError             exit 2   the images or their folders are invalid
│   ├── ManifestError     exit 2   a manifest of images is invalid; carries all problems
│   └── TooManyPixelsError  exit 2 an image has more pixels than are decoded
├── ModelError            exit 2   the network, a selection of layers or the input size is invalid
│   └── WeightsError      exit 2   weights are missing, damaged or do not fit
├── OutputError           exit 2   the run folder cannot be used
├── RunError              exit 1   a run started and failed
│   └── DivergedError     exit 1   a loss is not finite
└── ExpectationError      exit 3   an expectation or a gate was not met
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

# Problems of a manifest that are shown; all are in JSON.
MAX_LISTED_PROBLEMS = 20


class TlcliError(Exception):
    """An error that one sentence explains.

    Args:
        message: What is wrong, with the given value.
        where: The file, recipe key or option.
        hint: What is allowed, and the next step.
    """

    kind: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message, self.where, self.hint = message, where, hint

    def to_json(self) -> dict[str, Any]:
        """The error in its JSON form."""
        return {"kind": self.kind, "where": self.where, "message": self.message, "hint": self.hint}

    def __str__(self) -> str:
        return sentences(f"{self.where}: {self.message}" if self.where else self.message, self.hint)


class UsageError(TlcliError):
    """The command line is invalid."""

    kind = "usage"
    exit_code = 2


class DataError(TlcliError):
    """The images or their folders are invalid."""

    kind = "data"
    exit_code = 2


class TooManyPixelsError(DataError):
    """An image has more pixels than are decoded."""


class ModelError(TlcliError):
    """The network, a selection of its layers, or its input size is invalid."""

    kind = "model"
    exit_code = 2


class WeightsError(ModelError):
    """Weights are missing, damaged, or do not fit the network."""

    kind = "weights"


class OutputError(TlcliError):
    """The run folder cannot be used."""

    kind = "output"
    exit_code = 2


class RunError(TlcliError):
    """A run started and failed."""

    kind = "run"
    exit_code = 1


class DivergedError(RunError):
    """A loss is not finite."""


class ExpectationError(TlcliError):
    """An expectation or a gate was not met."""

    kind = "expectation"
    exit_code = 3


@dataclass(frozen=True)
class Problem:
    """One problem of a recipe. `where` is `file:line:column key`."""

    where: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {sentences(self.message, self.hint)}"


class RecipeError(TlcliError):
    """A recipe is invalid. Carries all its problems, so that they are shown together."""

    kind = "recipe"
    exit_code = 2

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        first = self.problems[0]
        super().__init__(first.message, where=first.where, hint=first.hint)

    def to_json(self) -> dict[str, Any]:
        """The error in its JSON form, with all problems."""
        return {**super().to_json(), "problems": [vars(problem) for problem in self.problems]}

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))


class ManifestError(DataError):
    """A manifest of images is invalid. Carries all its problems, so that they are shown together."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        first = self.problems[0]
        super().__init__(first.message, where=first.where, hint=first.hint)

    def to_json(self) -> dict[str, Any]:
        """The error in its JSON form, with all problems."""
        return {**super().to_json(), "problems": [vars(problem) for problem in self.problems]}

    def __str__(self) -> str:
        listed = [str(problem) for problem in self.problems[:MAX_LISTED_PROBLEMS]]
        more = len(self.problems) - len(listed)
        return "\n".join([*listed, f"and {more} more problems"] if more else listed)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A suggestion sentence for a mistyped word, or the empty string.

    >>> did_you_mean("epochss", ["epochs", "lr"])
    "Did you mean 'epochs'?"
    >>> did_you_mean("zzz", ["epochs", "lr"])
    ''
    """
    lowered = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=0.6)
    return f"Did you mean '{lowered[close[0]]}'?" if close else ""


def sentences(message: str, hint: str) -> str:
    """A message that ends as a sentence does, and its hint.

    >>> sentences("unknown key", "Did you mean 'seed'?")
    "unknown key. Did you mean 'seed'?"
    """
    ended = message if message.endswith((".", "!", "?")) else message + "."
    return f"{ended} {hint}" if hint else ended
