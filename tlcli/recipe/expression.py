"""The language of expectations: comparisons of numbers of a run, joined by and, or, not. Parsed, never evaluated.

expectation = and-part { "or" and-part }
and-part    = not-part { "and" not-part }
not-part    = "not" not-part | comparison
comparison  = sum [ ( "<" | "<=" | ">" | ">=" | "==" ) sum ]
sum         = product { ( "+" | "-" ) product }
product     = factor { ( "*" | "/" ) factor }
factor      = ( "-" | "+" ) factor | number | path | "(" expectation ")"
path        = name { "." name | "[" index "]" | '["' any text '"]' }
"""

import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

MAX_LENGTH = 500
MAX_DEPTH = 30

_COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
}
_ARITHMETIC: Mapping[str, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}
_LOGIC: Mapping[str, Callable[[float, float], bool]] = {
    "and": lambda left, right: bool(left and right),
    "or": lambda left, right: bool(left or right),
}
# Signs of other languages, and what to write for them.
_FOREIGN: Mapping[str, str] = {
    **{"!=": "not … == …", "<>": "not … == …", "&": "and", "|": "or", "!": "not", "%": "a share, such as 0.90"},
    **{"≥": ">=", "≤": "<=", "=>": ">=", "=<": "<=", "=": "==", "≠": "not … == …", "×": "*", "·": "*", "−": "-"},
}
_OPERATORS = {**_COMPARISONS, **_ARITHMETIC, **_LOGIC}
_QUOTED = r'"(?:[^"\\]|\\.)*"' + r"|'(?:[^'\\]|\\.)*'"
_PART = rf"\.(\w+)|\[(\d+)\]|\[({_QUOTED})\]"
_TOKEN = re.compile(
    rf"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)|(?P<path>[^\W\d]\w*(?:{_PART})*)|(?P<sign>[<>=]=|[-+*/()<>]))"
)


class ExpressionError(ValueError):
    """An expectation that cannot be read. `column` is counted from 1."""

    def __init__(self, message: str, text: str, column: int) -> None:
        shown = text if len(text) <= 60 else text[:57] + "…"
        super().__init__(f"column {column} of the expectation: {message} (got {shown!r})")
        self.column = column


@dataclass(frozen=True)
class Number:
    """A number as written."""

    value: float
    column: int


@dataclass(frozen=True)
class Path:
    """A number of the run. The parts are names of keys, and indices of lists."""

    text: str
    parts: tuple[str | int, ...]
    column: int


@dataclass(frozen=True)
class Operation:
    """A sign or word with its operands: two, or one after `not` and after the sign of a number."""

    sign: str
    operands: tuple["Node", ...]
    column: int

    @property
    def is_condition(self) -> bool:
        """True if the result is true or false, False if it is a number."""
        return self.sign in _COMPARISONS or self.sign in _LOGIC or self.sign == "not"


Node = Number | Path | Operation


def parse(text: str) -> Operation:
    """Parse an expectation.

    Args:
        text: Such as `val.accuracy >= 0.9 and not seconds.total > 2 * 60`.

    Raises:
        ExpressionError: If it has another form. The message has the column.
    """
    if len(text) > MAX_LENGTH:
        raise ExpressionError(f"an expectation has at most {MAX_LENGTH} characters", text, MAX_LENGTH + 1)
    parser = _Parser(text)
    node = parser.expectation(0)
    if parser.kind != "end":
        raise parser.error(f"unexpected {parser.word!r}{parser.remedy}")
    return parser.condition(node)


def paths(node: Node) -> Iterator[Path]:
    """The numbers of the run that an expectation names, from left to right."""
    if isinstance(node, Path):
        yield node
    elif isinstance(node, Operation):
        for operand in node.operands:
            yield from paths(operand)


def comparisons(node: Node) -> Iterator[Operation]:
    """The comparisons of an expectation, from left to right."""
    if isinstance(node, Operation):
        if node.sign in _COMPARISONS:
            yield node
        for operand in node.operands:
            yield from comparisons(operand)


def evaluate(node: Node, numbers: Mapping[str, float]) -> float:
    """The value of an expectation, as 0 or 1, or of a part of it.

    Args:
        node: The parsed expectation.
        numbers: The number of each path, by its text.

    Raises:
        ZeroDivisionError: If it divides by zero.
    """
    if isinstance(node, Number):
        return node.value
    if isinstance(node, Path):
        return numbers[node.text]
    values = [evaluate(operand, numbers) for operand in node.operands]
    if len(values) == 1:
        return float(not values[0]) if node.sign == "not" else -values[0] if node.sign == "-" else values[0]
    return float(_OPERATORS[node.sign](*values))


class _Parser:
    """Reads an expectation from left to right. `kind` and `word` are those of the next token."""

    def __init__(self, text: str) -> None:
        self.text, self.position = text, 0
        self.advance()

    def advance(self) -> None:
        """Go on to the next token."""
        match = _TOKEN.match(self.text, self.position)
        rest = self.text[self.position :]
        self.column = self.position + len(rest) - len(rest.lstrip()) + 1
        if match is None:
            self.kind, self.word = ("unknown", rest.split()[0]) if rest.strip() else ("end", "the end")
            return
        self.kind, self.position = str(match.lastgroup), match.end()
        self.word = match[self.kind]
        if self.word in ("and", "or", "not"):
            self.kind = "sign"

    @property
    def remedy(self) -> str:
        """What to write instead of the next token, which cannot be read; empty for others."""
        if self.kind != "unknown":
            return ""
        known = next((sign for sign in _FOREIGN if self.word.startswith(sign)), None)
        write = f"write {_FOREIGN[known]}; " if known else ""
        return f": {write}signs are {' '.join(_OPERATORS)} not ( )"

    def error(self, message: str, column: int | None = None) -> ExpressionError:
        """An error at the next token, or at a column."""
        return ExpressionError(message, self.text, column or self.column)

    def expectation(self, depth: int) -> Node:
        """An `or` of `and`s of conditions, or a single number."""
        if depth > MAX_DEPTH:
            raise self.error(f"is nested more than {MAX_DEPTH} deep")
        return self._joined(("or",), lambda: self._joined(("and",), lambda: self._negation(depth)))

    def condition(self, node: Node) -> Operation:
        """The node, which must be true or false."""
        if isinstance(node, Operation) and node.is_condition:
            return node
        raise self.error("is a number without a limit: compare it, such as val.accuracy >= 0.90", node.column)

    def _joined(self, signs: tuple[str, ...], operand: Callable[[], Node]) -> Node:
        """Operands with signs of one rank between them."""
        node = operand()
        while self.kind == "sign" and self.word in signs:
            sign, column = self.word, self.column
            self.advance()
            check = self.condition if sign in _LOGIC else self._number
            node = Operation(sign, (check(node), check(operand())), column)
        return node

    def _number(self, node: Node) -> Node:
        """The node, which must be a number."""
        if isinstance(node, Operation) and node.is_condition:
            raise self.error("compares a comparison: join two with and, such as 0 < a and a < 1", node.column)
        return node

    def _negation(self, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise self.error(f"is nested more than {MAX_DEPTH} deep")
        if (self.kind, self.word) == ("sign", "not"):
            column = self.column
            self.advance()
            return Operation("not", (self.condition(self._negation(depth + 1)),), column)
        return self._joined(tuple(_COMPARISONS), lambda: self._sum(depth))

    def _sum(self, depth: int) -> Node:
        return self._joined(("+", "-"), lambda: self._joined(("*", "/"), lambda: self._factor(depth)))

    def _factor(self, depth: int) -> Node:
        kind, word, column = self.kind, self.word, self.column
        if depth > MAX_DEPTH:
            raise self.error(f"is nested more than {MAX_DEPTH} deep")
        if kind == "unknown" or kind == "end" or (kind == "sign" and word not in ("-", "+", "(")):
            raise self.error(
                f"expected a number or a key of run.json, such as val.accuracy, but found {word!r}{self.remedy}"
            )
        self.advance()
        if kind == "number":
            if not math.isfinite(float(word)):
                raise self.error("is too large", column)
            return Number(float(word), column)
        if kind == "path":
            return Path(word, tuple(_parts(word)), column)
        if word in ("-", "+"):
            return Operation(word, (self._number(self._factor(depth + 1)),), column)
        node = self.expectation(depth + 1)
        if (self.kind, self.word) != ("sign", ")"):
            raise self.error(f"expected ')', but found {self.word!r}")
        self.advance()
        return node


def _parts(path: str) -> Iterator[str | int]:
    """The parts of a path: texts, and whole numbers for indices in brackets."""
    first = re.match(r"\w+", path)
    assert first is not None  # the token begins with a name
    yield first[0]
    for name, index, quoted in re.findall(_PART, path):
        yield name or (int(index) if index else re.sub(r"\\(.)", r"\1", quoted[1:-1]))
