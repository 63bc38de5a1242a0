"""Maps of weights: which array of another framework becomes which variable of a network, by rules on names.

A map is a YAML file with `rules` and `ignore`. A rule has `match`, a regular expression on the whole name of an array,
and `layer` and `variable`, which may contain captures as `{1}`, or looked up in one of the `tables` as `{TABLE:1}`. The
first rule that matches counts. Kernels are transposed by the kind of the layer unless the rule says `transpose: none`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tlcli.errors import ModelError, WeightsError
from tlcli.paths import bundled
from tlcli.recipe import wording, yaml_text
from tlcli.text import why_unreadable

Kind = Literal["conv", "depthwise", "dense", "other"]
# The names that Keras has for what PyTorch calls so.
_ALIASES = {
    "weight": ("kernel", "gamma"),
    "bias": ("beta",),
    "running_mean": ("moving_mean",),
    "running_var": ("moving_variance",),
}
_SHOWN = 5
_MAX_BYTES = 1_000_000


class Rule(BaseModel):
    """One rule; see the module."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    match: str
    layer: str
    variable: str
    transpose: Literal["auto", "none"] = "auto"


class WeightMap(BaseModel):
    """The rules of a map; names that match a pattern of `ignore` are left out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rules: list[Rule] = Field(min_length=1)
    ignore: list[str] = Field(default_factory=list)
    tables: dict[str, dict[str, str]] = Field(default_factory=dict)

    def target(self, name: str) -> tuple[str, str, Rule] | None:
        """Layer, variable and rule for the name of an array; None if no rule matches.

        Raises:
            KeyError, IndexError: A table has no such entry, or the pattern no such capture.
        """
        for rule in self.rules:
            if match := re.fullmatch(rule.match, name):
                return self._filled(rule.layer, match), self._filled(rule.variable, match), rule
        return None

    def _filled(self, text: str, match: re.Match[str]) -> str:
        def value(reference: re.Match[str]) -> str:
            capture = match[int(reference[2])]
            return self.tables[reference[1]][capture] if reference[1] else capture

        return re.sub(r"\{(?:(\w+):)?(\d+)\}", value, text)


@dataclass(frozen=True)
class Target:
    """A variable of a network: the kind of its layer, and its shape."""

    kind: Kind
    shape: tuple[int, ...]


@dataclass
class Report:
    """What became of the arrays.

    Attributes:
        matched: Name of the array, `layer variable`, and the array in the layout of Keras.
        ignored: Names of arrays that the map leaves out.
        unknown: Names of arrays without a rule, or whose rule names a variable that the network does not have.
        missing: Variables of the network without an array, as `layer variable`.
        misfits: Sentences on arrays of a wrong shape, type or value, or given twice.
    """

    matched: list[tuple[str, tuple[str, str], np.ndarray]] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    misfits: list[str] = field(default_factory=list)

    def require_complete(self, path: Path, network: str) -> None:
        """Check that every array and every variable has its counterpart.

        Raises:
            WeightsError: One has not; names both sides.
        """
        problems = [
            *_listed(self.misfits, "", separator="; "),
            *_listed(self.missing, f"variables of {network} without an array: "),
            *_listed(self.unknown, "arrays without a variable: "),
        ]
        if problems:
            raise WeightsError(
                f"does not fit {network}: {'; '.join(problems)}",
                where=str(path),
                hint="Nothing was imported. Choose another --architecture, or give a --map with rules for these names.",
            )


def _listed(names: list[str], what: str, separator: str = ", ") -> list[str]:
    if not names:
        return []
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return [f"{what}{separator.join(names[:_SHOWN])}{rest}"]


def bundled_maps() -> dict[str, Path]:
    """The bundled maps by name."""
    return {path.stem: path for path in sorted((bundled("models") / "maps").glob("*.yaml"))}


def read_map(path: Path) -> WeightMap:
    """Read a map.

    Raises:
        ModelError: The file cannot be read, or is not a map.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ModelError("is not a map of weights: it is larger than 1 MB", where=str(path))
        text = path.read_text(encoding="utf-8")
        weight_map = WeightMap.model_validate(yaml_text.read(text)[1])
        for pattern in [*(rule.match for rule in weight_map.rules), *weight_map.ignore]:
            re.compile(pattern)
    except (OSError, UnicodeDecodeError) as error:
        hint = f"Bundled maps: {', '.join(bundled_maps())}."
        raise ModelError(f"cannot be read ({why_unreadable(error)})", where=str(path), hint=hint) from error
    except (ValidationError, yaml.YAMLError, re.error) as error:
        raise ModelError(
            f"is not a map of weights ({_first_problem(error, text)})",
            where=str(path),
            hint="A map has rules: a list of {match, layer, variable}; and ignore: a list of patterns.",
        ) from error
    return weight_map


def _first_problem(error: Exception, text: str) -> str:
    if isinstance(error, ValidationError):
        return wording.problem(error.errors()[0], wording.lines_of(text))
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return " ".join(str(error).split())[:200]


def assign(
    weight_map: WeightMap, arrays: Mapping[str, np.ndarray], targets: Mapping[tuple[str, str], Target]
) -> Report:
    """Pair arrays with the variables of a network, and bring them into the layout of Keras.

    Args:
        weight_map: The rules.
        arrays: Arrays of another framework by name.
        targets: The variables of the network by layer and name.
    """
    report = Report()
    taken: dict[tuple[str, str], str] = {}
    for name, array in arrays.items():
        if any(re.fullmatch(pattern, name) for pattern in weight_map.ignore):
            report.ignored.append(name)
            continue
        key, rule = _key(weight_map, name, targets)
        if key is None or rule is None:
            report.unknown.append(name)
            continue
        where = " ".join(key)
        if key in taken:
            report.misfits.append(f"{name} and {taken[key]} are both for {where}")
            continue
        taken[key] = name
        converted = _layout(array, targets[key], rule)
        if problem := _problem(converted, targets[key]):
            report.misfits.append(f"{name} {array.shape} does not fit {where} {targets[key].shape}: {problem}")
        else:
            report.matched.append((name, key, converted.astype(np.float32)))
    report.missing += [" ".join(key) for key in targets if key not in taken]
    return report


def _key(
    weight_map: WeightMap, name: str, targets: Mapping[tuple[str, str], Target]
) -> tuple[tuple[str, str] | None, Rule | None]:
    """The variable for an array, under its name in Keras."""
    try:
        found = weight_map.target(name)
    except (KeyError, IndexError):
        return None, None
    if found is None:
        return None, None
    layer, variable, rule = found
    for candidate in (variable, *_ALIASES.get(variable, ())):
        if (layer, candidate) in targets:
            return (layer, candidate), rule
    return None, None


def _layout(array: np.ndarray, target: Target, rule: Rule) -> np.ndarray:
    """The array in the layout of Keras; unchanged if its number of axes is not that of the kind."""
    if rule.transpose == "none":
        return array
    if target.kind == "conv" and array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    if target.kind == "depthwise" and array.ndim == 4:
        height, width, channels, multiplier = target.shape
        if array.shape == (channels * multiplier, 1, height, width):
            return array.reshape(channels, multiplier, height, width).transpose(2, 3, 0, 1)
    if target.kind == "depthwise" and array.ndim in (1, 3) and array.size == array.shape[0]:
        return array.reshape(1, 1, -1, 1) if len(target.shape) == 4 else array
    if target.kind == "dense" and array.ndim == 2:
        return array.T
    return array


def _problem(array: np.ndarray, target: Target) -> str:
    if array.dtype.kind not in "fiu":
        return f"its type is {array.dtype}"
    if array.shape != target.shape:
        return "the shapes differ"
    return "" if np.isfinite(array).all() else "it has infinite or NaN values"
