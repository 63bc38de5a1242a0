"""Expectations such as `val.accuracy >= 0.90`, checked against the record of a run."""

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tlcli.errors import did_you_mean

COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
}
# The numbers of a record that recipes use most. Others are found by their full path in the record.
_SCORES = tuple(
    f"{split}.{name}" for split in ("val", "test") for name in ("accuracy", "balanced_accuracy", "loss", "count")
)
KEYS = (*_SCORES, *(f"scores.{name}" for name in _SCORES), "seconds.total", "seconds.prefix")
_PATTERN = re.compile(r"^\s*([A-Za-z_][\w.]*)\s*(>=|<=|==|>|<)\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*$")


@dataclass(frozen=True)
class Expectation:
    """One comparison of a measured number with a limit."""

    key: str
    comparison: str
    limit: float

    def __str__(self) -> str:
        return f"{self.key} {self.comparison} {self.limit:g}"


@dataclass(frozen=True)
class Verdict:
    """The outcome of one expectation; `measured` is None if the record does not have the number."""

    expectation: Expectation
    measured: float | None
    passed: bool

    def __str__(self) -> str:
        measured = "the record has no such number" if self.measured is None else f"measured {self.measured:.6g}"
        return f"{self.expectation}: {'met' if self.passed else 'not met'}, {measured}"

    def to_json(self) -> dict[str, Any]:
        """The verdict in the form of run.json."""
        return {"expectation": str(self.expectation), "measured": self.measured, "passed": self.passed}


def parse(text: str) -> Expectation:
    """Parse `key comparison number`.

    >>> parse("val.accuracy >= 0.9")
    Expectation(key='val.accuracy', comparison='>=', limit=0.9)

    Raises:
        ValueError: If the text has another form, or if no record has the number.
    """
    match = _PATTERN.match(text)
    if match is None:
        raise ValueError(f"an expectation must have the form 'val.accuracy >= 0.90' (got {text!r})")
    _require_known(match[1])
    return Expectation(match[1], match[2], float(match[3]))


def _require_known(key: str) -> None:
    """Raise if a key lies in a known section of the record, but the record has no such number."""
    sections = {name.split(".")[0] for name in KEYS}
    if key.split(".")[0] not in sections or key in KEYS or ".top_k." in key:
        return
    raise ValueError(f"unknown number (got '{key}'). {did_you_mean(key, KEYS) or 'Known: ' + ', '.join(KEYS)}")


def check(expectations: list[str], record: Mapping[str, Any]) -> list[Verdict]:
    """Compare each expectation with the record. Keys are looked up in the record, then below its `scores`."""
    return [_judge(parse(text), record) for text in expectations]


def _judge(expectation: Expectation, record: Mapping[str, Any]) -> Verdict:
    measured = _number(record, expectation.key)
    if measured is None:
        measured = _number(record.get("scores", {}), expectation.key)
    passed = measured is not None and COMPARISONS[expectation.comparison](measured, expectation.limit)
    return Verdict(expectation, measured, passed)


def _number(tree: Any, key: str) -> float | None:
    """The number at a dotted path of nested mappings; None if there is none."""
    for part in key.split("."):
        if not isinstance(tree, Mapping) or part not in tree:
            return None
        tree = tree[part]
    return float(tree) if isinstance(tree, int | float) and not isinstance(tree, bool) else None
