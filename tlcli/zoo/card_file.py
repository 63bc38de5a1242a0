"""Card files: YAML to ModelCard, with the weights it may name beside it."""

import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from tlcli.errors import ModelError, did_you_mean
from tlcli.zoo.card import ModelCard

try:
    from yaml import CSafeLoader as SafeLoader  # ten times faster, where libyaml is there
except ImportError:
    from yaml import SafeLoader  # type: ignore[assignment]

SUFFIXES = (".yaml", ".yml")
MAX_BYTES = 1_000_000
WEIGHTS_SUFFIX = ".weights.h5"
_SHOWN = 3


def read(path: Path) -> ModelCard:
    """The card in a file. Weights it names are looked for in its own folder, and nowhere else.

    Raises:
        ModelError: With what is wrong, by key; whether the weights are there is not asked.
    """
    tree = _tree(path)
    try:
        card = ModelCard.model_validate(tree)
    except ValidationError as error:
        raise _wrong(path, [_problem(details) for details in error.errors()], _hint(tree)) from error
    if problems := _misfits(card):
        raise _wrong(path, problems, "")
    # Resolved, so that a link to a card finds the weights where the card itself is.
    weights = None if card.weights is None else str(path.resolve().parent / card.weights)
    return card.model_copy(update={"weights": weights})


def _tree(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise _wrong(path, ["it is larger than 1 MB"], "A card is a short YAML file.")
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise ModelError(f"is not valid YAML ({error.problem})", where=where) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ModelError(f"cannot be read ({error})", where=str(path)) from error
    if not isinstance(tree, dict):
        raise _wrong(path, ["the top level must be keys and values"], "")
    return tree


def _misfits(card: ModelCard) -> list[str]:
    """What a card in a file may not say, though a card made for a model file may."""
    problems = []
    if not re.fullmatch(r"\w[\w.-]*", card.name):
        problems.append(f"name: letters, digits, '_', '-' and '.' make a name (got '{card.name}')")
    kind, _, handle = card.source.partition(":")
    if kind != "keras" or not handle:
        problems.append(f"source: must be keras:NAME (got '{card.source}')")
    if card.weights is not None and not _is_beside(card.weights):
        problems.append(
            f"weights: must be the name of a {WEIGHTS_SUFFIX} file beside the card, without a folder"
            f" (got '{card.weights}')"
        )
    return problems


def _is_beside(name: str) -> bool:
    # A colon is a drive or a stream on Windows.
    return name.endswith(WEIGHTS_SUFFIX) and not re.search(r"[/\\:\0]", name)


def _problem(details: ErrorDetails) -> str:
    """One of pydantic's findings as `key: what is wrong`."""
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in details["loc"]).lstrip(".")
    if details["type"] == "extra_forbidden":
        return f"{key}: unknown key"
    if details["type"] == "missing":
        return f"{key}: is missing"
    message = details["msg"].removeprefix("Value error, ")
    got = details["input"]
    shown = "" if isinstance(got, dict | list) else f" (got {str(got)[:60]!r})"
    return f"{key}: {message[:1].lower()}{message[1:]}{shown}".removeprefix(": ")


def _hint(tree: dict[str, Any]) -> str:
    if "phases" in tree:
        return "It looks like a recipe: those are given with --recipe."
    unknown = [str(key) for key in tree if key not in ModelCard.model_fields]
    near = [found for key in unknown if (found := did_you_mean(key, ModelCard.model_fields))]
    return " ".join([*near, f"Keys of a card: {', '.join(ModelCard.model_fields)}."]) if unknown else ""


def _wrong(path: Path, problems: list[str], hint: str) -> ModelError:
    rest = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    return ModelError(f"is not a model card: {'; '.join(problems[:_SHOWN])}{rest}", where=str(path), hint=hint)
