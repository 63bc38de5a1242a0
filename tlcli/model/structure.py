"""Measured layer groups on disk: bundled for the cards, cached for everything else."""

import hashlib
import json
import math
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from tlcli.errors import ModelError, RunError
from tlcli.model.groups import Layer, LayerGroup, LayerGroups
from tlcli.paths import bundled, cache_dir, write_text
from tlcli.zoo.card import GroupPattern, ModelCard

FORMAT = 4

# What a row holds of a layer, in this order; defaults at its end are left out.
_ROW = (
    "name", "kind", "parameters", "trainable_parameters", "output_shape", "batch_norms", "flops", "stride",
    "receptive_field", "sees_all", "parts",
)  # fmt: skip
_DEFAULTS = {field.name: field.default for field in fields(Layer)}

Sizes = tuple[tuple[int, int], tuple[int, int]]
"""Input height and width measured at, and those wanted, pixels."""

Measure = Callable[[ModelCard, Mapping[str, Any], tuple[int, int]], LayerGroups]
"""Gives the layer groups of a network, its architecture arguments and its input height and width, pixels."""


def key(source: str, arguments: Mapping[str, Any], patterns: Sequence[GroupPattern] = ()) -> str:
    """The name under which groups are stored: the same for the same network cut by the same patterns."""
    rows = [[pattern.name, pattern.pattern] for pattern in patterns]
    text = json.dumps([FORMAT, _identity(source), dict(arguments), rows], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _identity(source: str) -> str:
    """A file counts by its content: another model saved under the same name is another network."""
    kind, _, handle = source.partition(":")
    if kind != "file" or not Path(handle).is_file():
        return source
    with Path(handle).open("rb") as file:
        return f"file:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def find(card: ModelCard, arguments: Mapping[str, Any], size: tuple[int, int], *, cache: Path) -> LayerGroups | None:
    """The groups measured before, or None: first those bundled with the program, then the cache.

    Names and parameters are exact at every size. Shapes, FLOPs and bytes are exact at the size that was measured and
    approximate at others; see `at_size`.

    Args:
        card: The network and its patterns.
        arguments: Architecture arguments besides the card's own.
        size: Height and width the answer should hold for, pixels.
        cache: The cache folder.
    """
    wanted = key(card.source, {**card.arguments, **arguments}, card.groups)
    for path in (bundled("models") / "structures" / f"{card.name}.json", _cached(cache, wanted)):
        if groups := _read(path, wanted):
            return at_size(groups, size)
    return None


def store(groups: LayerGroups, card: ModelCard, arguments: Mapping[str, Any], *, cache: Path) -> Path:
    """Put measured groups into the cache, atomically; returns the file."""
    name = key(card.source, {**card.arguments, **arguments}, card.groups)
    return write(groups, _cached(cache, name), name)


def write(groups: LayerGroups, path: Path, name: str) -> Path:
    """Write groups under their key as JSON, a group a line; returns the file."""
    content = to_dict(groups)
    rows = ",\n".join(_compact(row) for row in content.pop("groups"))
    head = _compact({"key": name, **content}).removesuffix("}")
    write_text(path, f'{head},"groups":[\n{rows}\n]}}\n')
    return path


def to_dict(groups: LayerGroups) -> dict[str, Any]:
    """The groups as plain JSON values; layers are rows to keep files small."""
    rows = [
        {
            "name": group.name,
            "boundary": group.boundary,
            "is_cut_point": group.is_cut_point,
            "output_shape": list(group.output_shape),
            "flops": group.flops,
            "layers": [_row(layer) for layer in group.members or group.layers],
        }
        | ({} if group.second_output is None else {"second_output": _row(group.second_output)})
        for group in groups
    ]
    return {"name": groups.name, "input_size": list(groups.input_size), "groups": rows}


def from_dict(stored: Mapping[str, Any]) -> LayerGroups:
    """The inverse of `to_dict`.

    Raises:
        ModelError: The values are not what `to_dict` writes.
    """
    try:
        height, width = stored["input_size"]
        groups = tuple(_group(row) for row in stored["groups"])
        return LayerGroups(str(stored["name"]), (int(height), int(width)), groups)
    except (KeyError, TypeError, ValueError) as problem:
        raise ModelError(f"not a stored structure ({problem!r})", where="structure") from problem


def _row(layer: Layer) -> list[Any]:
    values = [getattr(layer, field) for field in _ROW[:-1]] + [[_row(part) for part in layer.parts]]
    while len(values) > 2 and values[-1] in (_DEFAULTS[_ROW[len(values) - 1]], [], False, 0):
        values.pop()
    return [_short(value) if isinstance(value, tuple) else value for value in values]


def _short(pair: tuple[Any, ...]) -> Any:
    """Strides and fields are mostly alike along both sides; shapes are never of one size."""
    whole = [int(value) if isinstance(value, float) and value.is_integer() else value for value in pair]
    return whole[0] if len(whole) == 2 and whole[0] == whole[1] else whole


def _layer(values: Sequence[Any]) -> Layer:
    row = dict(zip(_ROW, values, strict=False))
    for name in ("stride", "receptive_field"):
        if row.get(name) is not None:
            sides = row[name] if isinstance(row[name], list) else [row[name], row[name]]
            row[name] = (sides[0], sides[1])
    row["output_shape"] = tuple(row.get("output_shape", ()))
    row["parts"] = tuple(_layer(part) for part in row.get("parts", ()))
    return Layer(**row)


def _group(row: Mapping[str, Any]) -> LayerGroup:
    members = tuple(_layer(values) for values in row["layers"])
    layers = tuple(layer for layer in members if layer.is_weighted)
    shape = tuple(row["output_shape"])
    second_output = _layer(row["second_output"]) if "second_output" in row else None
    is_cut_point, flops = bool(row["is_cut_point"]), int(row["flops"])
    return LayerGroup(row["name"], layers, row["boundary"], is_cut_point, shape, flops, members, second_output)


def at_size(groups: LayerGroups, size: tuple[int, int]) -> LayerGroups:
    """The same groups at another input size: names and parameters exactly, the rest approximately.

    Heights and widths are inferred from the stride that the measured size shows, FLOPs scaled by the positions that
    gives: within a pixel, and exact where the size is a multiple of the largest stride and the convolutions pad.
    Strides and receptive fields do not depend on the size.
    """
    if size == groups.input_size:
        return groups
    sides = (groups.input_size, size)
    return replace(groups, input_size=size, groups=tuple(_scaled_group(group, sides) for group in groups))


def _scaled_group(group: LayerGroup, sizes: Sizes) -> LayerGroup:
    members = tuple(_scaled_layer(layer, sizes) for layer in group.members)
    layers = tuple(layer for layer in members if layer.is_weighted)
    flops, shape = sum(layer.flops for layer in members), _scaled_shape(group.output_shape, sizes)
    second_output = group.second_output and _scaled_layer(group.second_output, sizes)
    return replace(group, layers=layers, members=members, output_shape=shape, flops=flops, second_output=second_output)


def _scaled_layer(layer: Layer, sizes: Sizes) -> Layer:
    shape = _scaled_shape(layer.output_shape, sizes)
    before, after = (math.prod(side or 1 for side in sides) for sides in (layer.output_shape, shape))
    parts = tuple(_scaled_layer(part, sizes) for part in layer.parts)
    return replace(layer, output_shape=shape, flops=round(layer.flops * after / before), parts=parts)


def _scaled_shape(shape: tuple[int | None, ...], sizes: Sizes) -> tuple[int | None, ...]:
    """A (height, width, channels) shape scaled; single positions, as after global pooling, and other ranks stay."""
    if len(shape) != 3 or shape[:2] == (1, 1):
        return shape
    sides = [side and _scaled(side, was, now) for side, was, now in zip(shape, *sizes, strict=False)]
    return (*sides, shape[2])


def _scaled(side: int, was: int, now: int) -> int:
    """A side of a map whose input was `was` pixels for an input of `now` pixels."""
    stride = 2 ** max(0, round(math.log2(was / side)))
    if side >= was // stride:
        return max(1, math.ceil(now / stride) + side - math.ceil(was / stride))
    # Convolutions without padding cost a margin that does not shrink with the image.
    return max(1, math.floor(now / stride - (was / stride - side)))


def _cached(cache: Path, name: str) -> Path:
    return cache / "structures" / f"{name}.json"


def _read(path: Path, wanted: str) -> LayerGroups | None:
    """The groups in a file; None where it is missing, for something else, or damaged: it is measured again then."""
    if not path.is_file():
        return None
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return from_dict(stored) if stored["key"] == wanted else None
    except (ValueError, KeyError, TypeError, ModelError):
        return None


def _compact(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def measure_in_subprocess(card: ModelCard, arguments: Mapping[str, Any], size: tuple[int, int]) -> LayerGroups:
    """The layer groups from a stored measurement; a network never seen before is measured by a process of its own.

    Raises:
        ModelError: If the network cannot be built so.
    """
    known = find(card, dict(arguments), size, cache=cache_dir())
    if known is not None:
        return known
    task = json.dumps({"card": card.model_dump(mode="json"), "arguments": dict(arguments), "size": size})
    command = [sys.executable, "-m", "tlcli.model.graph"]
    done = subprocess.run(command, input=task, capture_output=True, text=True, check=False)
    if done.returncode == ModelError.exit_code:
        raise ModelError(**json.loads(done.stdout))
    measured = find(card, dict(arguments), size, cache=cache_dir())
    if measured is None:
        raise RunError(f"{card.name} could not be measured: {done.stderr.strip().splitlines()[-1:] or done.returncode}")
    return measured
