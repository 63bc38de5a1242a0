"""Expectations such as `val.accuracy >= 0.90`, checked against the record of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tlcli.errors import did_you_mean
from tlcli.recipe import expression
from tlcli.recipe.expression import ExpressionError, Path

BASELINE = "baseline"
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
# The numbers that recipes use most. Those of other sections are looked up when the run is done.
KEYS = (*(f"{split}.{name}" for split in ("val", "test") for name in _SCORES), "seconds.total", "seconds.prefix")


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
    return node


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
    start += path.parts[start : start + 1] == ("scores",)
    rest = path.parts[start:]
    if _is_known(rest) or (start == 0 and rest[0] in SECTIONS and rest[0] != "seconds"):
        return ""
    prefix = "".join(f"{part}." for part in path.parts[:start])
    hint = did_you_mean(path.text, [prefix + key for key in (*KEYS, *SECTIONS)])
    return hint or f"Known: {prefix}val.accuracy, {prefix}test.loss, {prefix}seconds.total and the keys of run.json."


def _is_known(parts: Sequence[str | int]) -> bool:
    """True for a number of a split or of `seconds`."""
    if ".".join(map(str, parts)) in KEYS or parts[:2] == ("seconds", "phases"):
        return True
    if len(parts) < 3 or parts[0] not in ("val", "test"):
        return False
    if parts[1] == "per_class":
        return len(parts) == 4 and parts[3] in _OF_A_CLASS
    return parts[1] in ("top_k", "confusion", "folds")
