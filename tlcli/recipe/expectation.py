"""Expectations such as `val.accuracy >= 0.90`, checked against the record of a run."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tlcli.errors import did_you_mean
from tlcli.recipe import expression
from tlcli.recipe.expression import ExpressionError, Path

BASELINE = "baseline"
# Classes listed in a message.
_LISTED = 20
# The keys of run.json. An expectation names one of them, a split of `scores`, or the baseline.
SECTIONS = (
    *(
        "advice",
        "agreement",
        "compared",
        "lr_ranges",
        "data",
        "error",
        "expectations",
        "hardware",
        "model",
        "phases",
        "recipe",
    ),
    *("schema", "scores", "seconds", "seed", "started", "status", "versions", "warnings"),
)
_SCORES = ("accuracy", "balanced_accuracy", "loss", "count")
_OF_A_CLASS = ("precision", "recall", "f1", "support")
_OF_A_STEP = (
    *("trainable_parameters", "epochs", "best_epoch", "loss_before", "accuracy_before", "val_loss", "val_accuracy"),
    *("confidence", "seconds", "interpolation", "learnable"),
)
# The numbers of a split, below its name or `scores` and its name.
_OF_A_SPLIT = (
    *_SCORES,
    *("top_k.*", "confusion.*.*", "folds.count", "folds.accuracy.*", "folds.mean", "folds.deviation"),
    *(f"per_class.*.{name}" for name in _OF_A_CLASS),
)
# All other numbers of run.json. `*` is any name or index, `**` any names below: their keys are free.
_NUMBERS = (
    *("seed", "schema", "hardware.cpus", "model.parameters", "model.head_parameters", "model.temperature"),
    *("model.size.*", "data.counts.train", "data.counts.val", "data.counts.test", "data.per_class.*.*"),
    *(f"phases.*.{name}" for name in _OF_A_STEP),
    *("agreement.images", "agreement.same_label", "agreement.largest_difference"),
    *("seconds.total", "seconds.prefix", "seconds.phases.*"),
    *("recipe.**", "model.arguments.**", "model.card.**", "lr_ranges.**", "compared.**", "expectations.**"),
)
# The numbers that recipes use most, for suggestions.
KEYS = (*(f"{split}.{name}" for split in ("val", "test") for name in _SCORES), "seconds.total", "seconds.prefix")
# Numbers from 0 to 1.
_SHARES = ("accuracy", "balanced_accuracy", "val_accuracy", "precision", "recall", "f1", "same_label", "top_k")


@dataclass(frozen=True)
class Verdict:
    """The outcome of one expectation.

    Attributes:
        expectation: The expectation as written.
        numbers: Each number that it names, by its path; None if the record does not have it.
        passed: True if it was met.
        reason: The measured numbers, or why it could not be judged.
    """

    expectation: str
    numbers: Mapping[str, float | None]
    passed: bool
    reason: str

    def __str__(self) -> str:
        return f"{self.expectation}: {'met' if self.passed else 'not met'}, {self.reason}"

    def to_json(self) -> dict[str, Any]:
        """The verdict in the form of run.json. `measured` is the number of an expectation that names only one."""
        measured = next(iter(self.numbers.values())) if len(self.numbers) == 1 else None
        return {
            "expectation": self.expectation,
            "measured": measured,
            "passed": self.passed,
            "numbers": dict(self.numbers),
            "reason": self.reason,
        }


def parse(text: str) -> expression.Operation:
    """Parse an expectation and check the names of the numbers in it.

    Raises:
        ExpressionError: If it has another form, or if no record has one of its numbers.
    """
    node = expression.parse(text)
    for path in expression.paths(node):
        if hint := _unknown(path):
            raise ExpressionError(f"unknown number {path.text}. {hint}", text, path.column)
    for comparison in expression.comparisons(node):
        _check_comparison(comparison, text)
    return node


def _check_comparison(comparison: expression.Operation, text: str) -> None:
    """Refuse a comparison that says the same of every run."""
    if not list(expression.paths(comparison)):
        raise ExpressionError("compares no number of the run: it is the same for all", text, comparison.column)
    share = next((part for part in comparison.operands if isinstance(part, Path)), None)
    limit = next((part for part in comparison.operands if isinstance(part, expression.Number)), None)
    if share and limit and not {*share.parts[-2:]}.isdisjoint(_SHARES) and limit.value > 1:
        raise ExpressionError(f"{share.text} is from 0 to 1, such as 0.90 for 90 %", text, limit.column)


def unknown_classes(text: str, classes: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The classes that an expectation names and the images do not have, each with a hint.

    Args:
        text: The expectation, which is valid.
        classes: The class names of the images.
    """
    for path in expression.paths(parse(text)):
        if path.parts[0] == BASELINE or "per_class" not in path.parts[:-1]:
            continue
        name = path.parts[path.parts.index("per_class") + 1]
        is_index = str(name).isdecimal() and int(name) < len(classes)
        if str(name) not in classes and not is_index:
            yield str(name), did_you_mean(str(name), classes) or f"Classes: {', '.join(classes[:_LISTED])}."


def uses_baseline(text: str) -> bool:
    """True if an expectation compares with the baseline."""
    return any(path.parts[0] == BASELINE for path in expression.paths(parse(text)))


def check(expectations: Sequence[str], record: Mapping[str, Any]) -> list[Verdict]:
    """Judge each expectation. Paths are looked up in the record, then below its `scores`.

    All numbers of an expectation must be there, also those that would not decide it.

    Args:
        expectations: The expectations of a recipe.
        record: The content of run.json, and `baseline`, the numbers of the baseline.
    """
    return [_judge(text, record) for text in expectations]


def _judge(text: str, record: Mapping[str, Any]) -> Verdict:
    node, text = parse(text), text.strip()
    numbers = {path.text: _measured(record, path) for path in expression.paths(node)}
    missing = [path for path, value in numbers.items() if value is None]
    found = {path: value for path, value in numbers.items() if value is not None}
    measured = ", ".join(f"{path} is {value:.6g}" for path, value in found.items())
    if missing:
        return Verdict(text, numbers, passed=False, reason=f"the record has no such number: {', '.join(missing)}")
    if strange := [path for path, value in found.items() if math.isnan(value)]:
        return Verdict(text, numbers, passed=False, reason=f"not a number: {', '.join(strange)}")
    try:
        passed = bool(expression.evaluate(node, found))
    except ZeroDivisionError:
        return Verdict(text, numbers, passed=False, reason=f"it divides by zero; {measured or 'no number is measured'}")
    if len(found) == 1:
        measured = f"measured {next(iter(found.values())):.6g}"
    return Verdict(text, numbers, passed=passed, reason=measured or "no number is measured")


def _measured(record: Mapping[str, Any], path: Path) -> float | None:
    tree, parts = (record.get(BASELINE), path.parts[1:]) if path.parts[0] == BASELINE else (record, path.parts)
    if not isinstance(tree, Mapping):
        return None
    measured = _number(tree, parts)
    return _number(tree.get("scores"), parts) if measured is None else measured


def _number(tree: Any, parts: Sequence[str | int]) -> float | None:
    """The number at a path of mappings and lists; None if there is none. Scores of a class are found by its name."""
    for part in parts:
        if isinstance(tree, list):
            named = [entry for entry in tree if isinstance(entry, Mapping) and entry.get("name") == part]
            index = int(part) if str(part).isdecimal() else len(tree)
            tree = named[0] if named else tree[index] if index < len(tree) else None
        else:
            tree = tree.get(str(part)) if isinstance(tree, Mapping) else None
    return float(tree) if isinstance(tree, int | float) and not isinstance(tree, bool) else None


def _unknown(path: Path) -> str:
    """What to write instead of a path that no record has; empty for others."""
    start = int(path.parts[0] == BASELINE)
    prefix = f"{BASELINE}." * start
    rest = path.parts[start:]
    if not rest:
        return f"{BASELINE} needs a key after it, such as {BASELINE}.val.accuracy."
    if rest[0] == "scores":
        prefix, rest = f"{prefix}scores.", rest[1:]
    of_splits = (f"{split}.{number}" for split in ("val", "test", "train") for number in _OF_A_SPLIT)
    if any(_fits(rest, pattern) for pattern in (*of_splits, *([] if "scores." in prefix else _NUMBERS))):
        return ""
    if path.text in SECTIONS:
        return "That key of run.json is no number."
    written = [prefix + number.replace("phases.*", "phases[0]") for number in (*KEYS, *_NUMBERS)]
    hint = did_you_mean(path.text, [name for name in written if "*" not in name])
    return hint or f"Known: {prefix}val.accuracy, {prefix}test.loss, {prefix}seconds.total and the keys of run.json."


def _fits(parts: Sequence[str | int], pattern: str) -> bool:
    """True if a path is of the form of a pattern."""
    names = pattern.split(".")
    if names[-1] == "**":
        return len(parts) >= len(names) and all(map(_is, parts, names[:-1]))
    return len(parts) == len(names) and all(map(_is, parts, names))


def _is(part: str | int, name: str) -> bool:
    return name in ("*", str(part))
