"""The error tree. Every mistake of a user, a file or a machine is a TlcliError; bugs keep their own types.

TlcliError
├── UsageError            exit 2   the command line asks for something that cannot be
├── RecipeError           exit 2   a recipe is wrong; carries all its problems at once
├── DataError             exit 2   the images or their folders are wrong
├── ModelError            exit 2   the network, a selection or its layers are wrong
│   └── WeightsError      exit 2   weights are missing, damaged or do not fit
├── OutputError           exit 2   the run folder cannot be used
├── RunError              exit 1   a run started and could not be finished
└── ExpectationError      exit 3   an expectation or a gate was not met
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar


class TlcliError(Exception):
    """A mistake that can be explained in one sentence.

    Args:
        message: What is wrong, with the value that was given.
        where: File, recipe key or option it concerns.
        hint: What is allowed, and the next step.
    """

    kind: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message, self.where, self.hint = message, where, hint

    def __str__(self) -> str:
        sentence = f"{self.where}: {self.message}" if self.where else self.message
        return f"{_ended(sentence)} {self.hint}" if self.hint else _ended(sentence)


class UsageError(TlcliError):
    """The command line asks for something that cannot be."""

    kind = "usage"
    exit_code = 2


class DataError(TlcliError):
    """The images or their folders are wrong."""

    kind = "data"
    exit_code = 2


class ModelError(TlcliError):
    """The network, a selection of its layers, or its input size is wrong."""

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
    """A run started and could not be finished."""

    kind = "run"
    exit_code = 1


class ExpectationError(TlcliError):
    """An expectation or a gate was not met."""

    kind = "expectation"
    exit_code = 3


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a recipe: `where` is `file:line:column key`."""

    where: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {_ended(self.message)}" + (f" {self.hint}" if self.hint else "")


class RecipeError(TlcliError):
    """A recipe is wrong. All problems are collected and shown together."""

    kind = "recipe"
    exit_code = 2

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        first = self.problems[0]
        super().__init__(first.message, where=first.where, hint=first.hint)

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))


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


def _ended(sentence: str) -> str:
    return sentence if sentence.endswith((".", "!", "?")) else sentence + "."
