"""Expectations: `val.accuracy >= 0.90` against the record of a run."""

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
}
_FORM = re.compile(r"^\s*([A-Za-z_][\w.]*)\s*(>=|<=|==|>|<)\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*$")


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
    """An expectation with the value that was measured; `measured` is None when the record has no such number."""

    expectation: Expectation
    measured: float | None
    passed: bool

    def __str__(self) -> str:
        found = "the record has no such number" if self.measured is None else f"measured {self.measured:.6g}"
        return f"{self.expectation}: {'met' if self.passed else 'not met'}, {found}"

    def to_json(self) -> dict[str, Any]:
        """The verdict as it stands in run.json."""
        return {"expectation": str(self.expectation), "measured": self.measured, "passed": self.passed}


def parse(text: str) -> Expectation:
    """Read `key comparison number`.

    >>> parse("val.accuracy >= 0.9")
    Expectation(key='val.accuracy', comparison='>=', limit=0.9)

    Raises:
        ValueError: If the text has another form.
    """
    match = _FORM.match(text)
    if match is None:
        raise ValueError(f"an expectation reads 'val.accuracy >= 0.90' (got {text!r})")
    return Expectation(match[1], match[2], float(match[3]))


def check(expectations: list[str], record: Mapping[str, Any]) -> list[Verdict]:
    """Compare every expectation with the record; a key is looked up in the record and under `scores`."""
    return [_judge(parse(text), record) for text in expectations]


def _judge(expectation: Expectation, record: Mapping[str, Any]) -> Verdict:
    measured = _number(record, expectation.key)
    if measured is None:
        measured = _number(record.get("scores", {}), expectation.key)
    passed = measured is not None and COMPARISONS[expectation.comparison](measured, expectation.limit)
    return Verdict(expectation, measured, passed)


def _number(tree: Any, key: str) -> float | None:
    for part in key.split("."):
        if not isinstance(tree, Mapping) or part not in tree:
            return None
        tree = tree[part]
    return float(tree) if isinstance(tree, int | float) and not isinstance(tree, bool) else None
