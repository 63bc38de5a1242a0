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
# Numbers of a record that recipes ask for most; others are looked up by their whole path.
_SCORES = tuple(
    f"{split}.{name}" for split in ("val", "test") for name in ("accuracy", "balanced_accuracy", "loss", "count")
)
KEYS = (*_SCORES, *(f"scores.{name}" for name in _SCORES), "seconds.total", "seconds.prefix")
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
    _require_known(match[1])
    return Expectation(match[1], match[2], float(match[3]))


def _require_known(key: str) -> None:
    """Refuse, before any training, a number that no record has."""
    if key.split(".")[0] not in {name.split(".")[0] for name in KEYS} or key in KEYS or ".top_k." in key:
        return
    raise ValueError(f"no record has '{key}'. {did_you_mean(key, KEYS) or 'Known: ' + ', '.join(KEYS)} (got {key})")


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
