"""Search spaces: the recipe keys that `tlcli tune` varies, and their values."""

import copy
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tlcli.errors import Problem, RecipeError, did_you_mean
from tlcli.recipe import load
from tlcli.recipe.draft import Draft, KeyPath, key_path, read_draft
from tlcli.recipe.problems import line_order, shortened
from tlcli.recipe.schema import Recipe
from tlcli.text import why_unreadable

# Short names of two recipe keys.
ALIASES = {"model": "model.name", "size": "data.size"}
BOUNDS = ("low", "high", "log", "step")
# Keys that decide which images are scored, or that say nothing about training.
FIXED = (
    *("data.path", "data.val", "data.test", "data.folds", "data.classes", "data.exclude"),
    *("recipe", "name", "description", "extends", "seed", "report", "expect"),
    *("performance.budget", "performance.cache", "performance.cache_budget", "performance.reuse_results"),
)
# Most values of one parameter in a grid, and most combinations.
MAX_VALUES = 100
MAX_GRID = 10_000
# Largest number of a range.
MAX_NUMBER = 1e15


@dataclass(frozen=True)
class Parameter:
    """A recipe key that is varied: a list of values, or a range of numbers.

    Attributes:
        key: The recipe key, such as `phases.1.lr`.
        choices: The values as YAML texts; empty for a range.
        low: Lowest number of a range; likewise `high`. Both are int if all numbers of the range are.
        log: True if the logarithm is spread evenly.
        step: Distance between the numbers of a range; None for any.
        where: File, line and column.
    """

    key: str
    choices: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float | None = None
    where: str = ""

    @property
    def is_int(self) -> bool:
        """True for a range of whole numbers."""
        return not self.choices and all(isinstance(value, int) for value in (self.low, self.high, self.step or 1))

    def describe(self) -> str:
        """The values in words, such as `0.0001 … 0.003, log`."""
        if self.choices:
            return ", ".join(self.choices)
        step = "" if self.step is None else f", step {self.step:g}"
        return f"{self.low:g} … {self.high:g}{', log' if self.log else ''}{step}"

    def samples(self) -> list[str]:
        """All choices, or both ends of a range and a number between them, as YAML texts."""
        if self.choices:
            return list(self.choices)
        # Of a range without steps, a number that is not whole if any may be.
        between = self.low + self.step if self.step else self.low + (self.high - self.low) * 0.377
        ends = [as_yaml(self.low), as_yaml(self.high)]
        return ends if self.is_int else [*ends, as_yaml(float(f"{between:.4g}"))]

    def values(self) -> list[Any]:
        """All values of a grid: the choices, or the numbers of a range with steps.

        Raises:
            RecipeError: If they are not finite, or too many.
        """
        if self.choices:
            return list(self.choices)
        step = 1 if self.step is None and self.is_int else self.step
        count = math.inf if step is None else math.floor((self.high - self.low) / step + 1e-9) + 1
        if step is None or self.log or count > MAX_VALUES:
            message = f"a grid needs a list, or a range with at most {MAX_VALUES} steps"
            raise RecipeError(
                [Problem(f"{self.where} {self.key}", message, "Use --sampler tpe or random for a range.")]
            )
        return [self.low + number * step for number in range(int(count))]


@dataclass(frozen=True)
class Space:
    """A search space.

    Attributes:
        parameters: The keys that are varied, in the order of the file.
        text: The file as it was written.
    """

    parameters: tuple[Parameter, ...]
    text: str

    def has(self, key: str) -> bool:
        """True if the key is varied."""
        return any(parameter.key == key for parameter in self.parameters)

    def grid(self) -> list[dict[str, Any]]:
        """All combinations of all values.

        Raises:
            RecipeError: If a parameter is not finite, or there are too many combinations.
        """
        values = [parameter.values() for parameter in self.parameters]
        if (count := math.prod(map(len, values))) > MAX_GRID:
            hint = "Shorten the lists, or use --sampler tpe or random."
            raise RecipeError([Problem("--sampler grid", f"the space has {count} combinations", hint)])
        names = [parameter.key for parameter in self.parameters]
        return [dict(zip(names, combination, strict=True)) for combination in itertools.product(*values)]

    def settings(self, values: dict[str, Any]) -> list[str]:
        """The `--set` texts for the values of a trial, by key."""
        return [f"{parameter.key}={parameter_text(parameter, values[parameter.key])}" for parameter in self.parameters]


def parameter_text(parameter: Parameter, value: Any) -> str:
    """The value of a trial as a YAML text. Numbers of a range have four digits."""
    if parameter.choices:
        return str(value)
    return as_yaml(int(value) if parameter.is_int else float(f"{value:.4g}"))


def as_yaml(value: Any) -> str:
    """A value as one line of YAML.

    >>> as_yaml([160, 160]), as_yaml(1e-05), as_yaml(None)
    ('[160, 160]', '1.0e-05', 'null')
    """
    return (
        yaml.safe_dump(value, default_flow_style=True, width=math.inf, allow_unicode=True).removesuffix("...\n").strip()
    )


def read(path: Path, recipe: Recipe) -> Space:
    """Read a search space and check every value of it with a recipe.

    Args:
        path: The file.
        recipe: The recipe.

    Raises:
        RecipeError: With all problems of the space.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        hint = "Write recipe keys and lists of values, such as head.dropout: [0.0, 0.2]."
        raise RecipeError([Problem(str(path), f"cannot be read ({why_unreadable(error)})", hint)]) from error
    return parse(text, recipe, origin=str(path))


def parse(text: str, recipe: Recipe, *, origin: str = "space") -> Space:
    """Parse a search space from YAML and check every value of it with a recipe; messages call the text `origin`.

    Raises:
        RecipeError: With all problems of the space.
    """
    written = read_draft(text, origin)
    parameters: list[Parameter] = []
    problems = list(written.problems)
    for path, value in _leaves(written.tree):
        found = _parameter(".".join(map(str, path)), value, written.origin(path))
        if isinstance(found, Problem):
            problems.append(found)
        else:
            parameters.append(found)
    base, seen = Draft(recipe.model_dump(mode="json")), set[str]()
    for parameter in parameters:
        if parameter.key in seen:
            problems.append(Problem(f"{parameter.where} {parameter.key}", "is given twice", "Keep one of the two."))
        seen.add(parameter.key)
        problems += _problems_with(parameter, base)
    if not parameters and not problems:
        problems = [Problem(origin, "has no keys", "For example head.dropout: [0.0, 0.2].")]
    if problems:
        raise RecipeError(sorted(dict.fromkeys(problems), key=line_order))
    return Space(tuple(parameters), text)


def _leaves(tree: dict[Any, Any], path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """The paths below which values stand: a dict that is no range is a section."""
    for key, value in tree.items():
        below = (*path, str(key))
        if isinstance(value, dict) and value and not _is_range(value):
            yield from _leaves(value, below)
        else:
            yield below, value


def _is_range(value: dict[Any, Any]) -> bool:
    """True for keys and values with a bound, also a mistyped one; no value of a section is a single number."""
    if any(name in value for name in ("low", "high")):
        return True
    is_flat = not any(isinstance(item, dict | list) for item in value.values())
    return is_flat and any(did_you_mean(str(name), BOUNDS) for name in value)


def _parameter(key: str, value: Any, where: str) -> Parameter | Problem:
    """The parameter of a key, or what is wrong with it."""
    key = ".".join(map(str, key_path(ALIASES.get(key, key))))
    place = f"{where} {key}"
    if fixed := next((name for name in FIXED if key == name or key.startswith(f"{name}.")), None):
        return Problem(place, f"{fixed} is the same for all trials", "Set it in the recipe, or leave it out.")
    if isinstance(value, dict):
        return _range(key, value, where)
    if isinstance(value, list) and any(isinstance(item, dict) for item in value) and key == "phases":
        hint = "Write the number of a phase, such as phases.0.lr: [0.001, 0.01]."
        return Problem(place, "a space names the keys of single phases", hint)
    if not isinstance(value, list) or not value:
        message = f"needs a list of values, or a range (got {shortened(value)})"
        return Problem(place, message, f"For example {key}: [1, 2], or {key}: {{low: 0.1, high: 1.0, log: true}}.")
    if key == "data.size":
        value = [[item, item] if isinstance(item, int) else item for item in value]
    texts = [as_yaml(item) for item in value]
    if repeated := next((text for text in texts if texts.count(text) > 1), None):
        return Problem(place, f"has the value {repeated} twice", "Keep one of the two.")
    return Parameter(key, tuple(texts), where=where)


def _range(key: str, value: dict[Any, Any], where: str) -> Parameter | Problem:
    """The range of a key, or what is wrong with it."""
    place = f"{where} {key}"
    if unknown := [str(name) for name in value if name not in BOUNDS]:
        close = [suggestion for name in unknown if (suggestion := did_you_mean(name, BOUNDS))]
        hint = " ".join(close) or f"A range has {', '.join(BOUNDS)}."
        return Problem(place, "a range has no " + " and no ".join(f"'{name}'" for name in unknown), hint)
    low, high, step = (_number(value.get(name)) for name in ("low", "high", "step"))
    log = value.get("log", False)
    if low is None or high is None or ("step" in value and step is None) or not isinstance(log, bool):
        return Problem(place, "a range needs numbers low and high; step is a number, log true or false")
    if low >= high or (step is not None and step <= 0):
        return Problem(place, f"low must be below high, and step above 0 (got {low:g} to {high:g})")
    if log and (low <= 0 or step is not None):
        return Problem(place, f"log needs low above 0, and no step (got low {low:g})")
    if step is not None and abs((steps := (high - low) / step) - round(steps)) > 1e-6:
        last = low + math.floor(steps) * step
        hint = f"Write high: {last:g} or high: {last + step:g}."
        return Problem(place, f"steps of {step:g} from {low:g} do not end at high (got {high:g})", hint)
    if not all(isinstance(number, int) for number in (low, high, step or 1)):
        low, high = float(low), float(high)
    return Parameter(key, (), low, high, log, step, where)


def _number(value: Any) -> float | None:
    """A finite number that a float holds; YAML reads 1e-4 as text. None for anything else."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and abs(value) <= MAX_NUMBER else None


def _problems_with(parameter: Parameter, base: Draft) -> list[Problem]:
    """What the recipe says against the values of a parameter, one problem per value at most."""
    problems: list[Problem] = []
    for number, text in enumerate(parameter.samples()):
        try:
            load.check(copy.deepcopy(base), settings=[f"{parameter.key}={text}"])
        except RecipeError as error:
            problem = error.problems[0]
            if number == 2 and not parameter.choices and not problems:
                hint = f"Write whole numbers, such as low: {math.ceil(parameter.low)}, high: {int(parameter.high)}."
                problem = Problem("", "takes some numbers of this range only: " + problem.message, hint)
            problems.append(Problem(f"{parameter.where} {parameter.key}", problem.message, problem.hint))
    # An unknown key is reported once, not for each value.
    return list(dict.fromkeys(problems))


def default_text(recipe: Recipe) -> str:
    """The search space without `--space`: head, augmentation, and learning rate and depth of the last phase.

    Args:
        recipe: The recipe.
    """
    lines = ["head.dropout: [0.0, 0.2, 0.4]", "augment.label_smoothing: [0.0, 0.1]"]
    if recipe.augment.preset != "custom":
        presets = "none, light, strong" if recipe.augment.flip in (None, "none") else "light, strong"
        lines.append(f"augment.preset: [{presets}]")
    phase, number = recipe.phases[-1], len(recipe.phases) - 1
    if phase.epochs == 0:
        lines.append(f"phases.{number}.epochs: [5, 10, 20]")
    elif phase.is_gradual:
        lines += [f"phases.{number}.step: [2, 30%, 60%]", f"phases.{number}.epochs: [4, 8, 12]"]
        lines.append(f"phases.{number}.layer_decay: [0.6, 0.8, 1.0]")
    else:
        lines.append(f"phases.{number}.epochs: [5, 10, 20]")
    lines.append(f"phases.{number}.lr: {{low: 1.0e-4, high: 1.0e-2, log: true}}")
    return "".join(f"{line}\n" for line in lines)


def of_models(space: Space, models: Sequence[str]) -> Space:
    """The space with networks as one more parameter."""
    text = f"{space.text.rstrip()}\nmodel: [{', '.join(map(as_yaml, models))}]\n"
    parameter = Parameter("model.name", tuple(map(as_yaml, models)), where="--model")
    return Space((*space.parameters, parameter), text)
