"""Structures: measured layer groups on disk, bundled for the networks of the zoo and cached for all others.

With a stored structure, the layer groups of a network are known without building it in Keras.
"""

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
from tlcli.model.layer_groups import Layer, LayerGroup, LayerGroups
from tlcli.paths import bundled, cache_dir, write_text
from tlcli.zoo import hub, trust
from tlcli.zoo.card import GroupPattern, ModelCard

FORMAT = 4

# The fields of a layer in its row, in this order; defaults at the end are left out.
_ROW = (
    "name", "kind", "parameters", "trainable_parameters", "output_shape", "batch_norms", "flops", "stride",
    "receptive_field", "sees_all", "parts",
)  # fmt: skip
_DEFAULTS = {field.name: field.default for field in fields(Layer)}

# The program of the process that measures a network.
_MEASURE = """\
from tlcli.zoo.download import no_sockets
with no_sockets():
    from tlcli.model import graph
graph.main()
"""

Sizes = tuple[tuple[int, int], tuple[int, int]]
"""Measured and requested input size, each as height and width, pixels."""

Measure = Callable[[ModelCard, Mapping[str, Any], tuple[int, int]], LayerGroups]
"""From a card, architecture arguments and input height and width, pixels, to the layer groups of the network."""


def key(
    source: str, arguments: Mapping[str, Any], patterns: Sequence[GroupPattern] = (), cut: str | None = None
) -> str:
    """The key under which groups are stored: equal for the same network, arguments, group patterns and cut."""
    rows = [[pattern.name, pattern.pattern] for pattern in patterns]
    parts = [FORMAT, _identity(source), dict(arguments), rows, *([] if cut is None else [cut])]
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _card_key(card: ModelCard, arguments: Mapping[str, Any]) -> str:
    return key(card.source, {**card.arguments, **arguments}, card.groups, card.cut)


def _identity(source: str) -> str:
    """The source, or a hash of files and folders, because another one may be saved under the same name."""
    kind, _, handle = source.partition(":")
    if kind == "tfhub":
        return f"tfhub:{trust.folder_sha256(hub.locate(handle)[1])}"
    if kind == "kerashub" and Path(handle).is_dir():
        contents = [path.read_bytes() for path in sorted(Path(handle).glob("*.json")) if path.name != "metadata.json"]
        return f"{kind}:{hashlib.sha256(b''.join(contents)).hexdigest()}"
    # The second file of a network of Caffe holds only weights.
    path = Path(handle.partition(".prototxt,")[0] + ".prototxt" if kind == "caffe" else handle)
    if kind not in ("file", "caffe") or not path.is_file():
        return source
    with path.open("rb") as file:
        return f"{kind}:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def find(card: ModelCard, arguments: Mapping[str, Any], size: tuple[int, int], *, cache: Path) -> LayerGroups | None:
    """The stored groups of a network, from the bundled structures or the cache; None if there are none.

    Names and parameters are exact at every size. Shapes, FLOPs and bytes are exact at the measured size and approximate
    at others; see `at_size`.

    Args:
        card: The network and its group patterns.
        arguments: Architecture arguments besides those of the card.
        size: Requested input height and width, pixels.
        cache: The cache folder.
    """
    expected_key = _card_key(card, arguments)
    for path in (bundled("models") / "structures" / f"{card.name}.json", _cached(cache, expected_key)):
        if groups := _read(path, expected_key):
            return at_size(groups, size)
    return None


def store(groups: LayerGroups, card: ModelCard, arguments: Mapping[str, Any], *, cache: Path) -> Path:
    """Store measured groups in the cache, atomically; returns the path of the file."""
    name = _card_key(card, arguments)
    return write(groups, _cached(cache, name), name)


def write(groups: LayerGroups, path: Path, name: str) -> Path:
    """Write groups and their key `name` as JSON, one group per line; returns `path`."""
    content = to_dict(groups)
    rows = ",\n".join(_compact(row) for row in content.pop("groups"))
    head = _compact({"key": name, **content}).removesuffix("}")
    write_text(path, f'{head},"groups":[\n{rows}\n]}}\n')
    return path


def to_dict(groups: LayerGroups) -> dict[str, Any]:
    """The groups as plain JSON values; layers are lists of values, which keeps files small."""
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
        ModelError: `to_dict` did not write these values.
    """
    try:
        height, width = stored["input_size"]
        groups = tuple(_group(row) for row in stored["groups"])
        return LayerGroups(str(stored["name"]), (int(height), int(width)), groups)
    except (KeyError, TypeError, ValueError) as problem:
        raise ModelError(f"the values are not a stored structure ({problem!r})", where="structure") from problem


def _row(layer: Layer) -> list[Any]:
    values = [getattr(layer, field) for field in _ROW[:-1]] + [[_row(part) for part in layer.parts]]
    while len(values) > 2 and values[-1] in (_DEFAULTS[_ROW[len(values) - 1]], [], False, 0):
        values.pop()
    return [_short(value) if isinstance(value, tuple) else value for value in values]


def _short(pair: tuple[Any, ...]) -> Any:
    """A pair of equal numbers as one: strides and fields are often square; shapes of two equal sizes do not occur."""
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
    """The groups at another input size: names and parameters are exact, shapes and FLOPs are estimates.

    Heights and widths follow from the strides at the measured size, and FLOPs scale with the number of positions. They
    are right within a pixel, and exact if the size is a multiple of the largest stride and the convolutions pad.
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
    """A scaled shape (height, width, channels); shapes of one position or of another rank are returned unchanged."""
    if len(shape) != 3 or shape[:2] == (1, 1):
        return shape
    sides = [side and _scaled(side, old, new) for side, old, new in zip(shape, *sizes, strict=False)]
    return (*sides, shape[2])


def _scaled(side: int, old_input: int, new_input: int) -> int:
    """Side of a feature map for an input of `new_input` pixels, from its side for `old_input` pixels."""
    stride = 2 ** max(0, round(math.log2(old_input / side)))
    if side >= old_input // stride:
        return max(1, math.ceil(new_input / stride) + side - math.ceil(old_input / stride))
    # Convolutions without padding remove a margin that does not depend on the input size.
    return max(1, math.floor(new_input / stride - (old_input / stride - side)))


def _cached(cache: Path, name: str) -> Path:
    return cache / "structures" / f"{name}.json"


def _read(path: Path, expected_key: str) -> LayerGroups | None:
    """The groups in a file; None if it is missing, damaged or has another key, so that they are measured again."""
    if not path.is_file():
        return None
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return from_dict(stored) if stored["key"] == expected_key else None
    except (ValueError, KeyError, TypeError, ModelError):
        return None


def _compact(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def measure_in_subprocess(card: ModelCard, arguments: Mapping[str, Any], size: tuple[int, int]) -> LayerGroups:
    """The layer groups of a network, from a stored structure; else a new process measures and stores them.

    Raises:
        ModelError: The network cannot be built from this card, size and arguments.
        RunError: The process failed for another reason.
    """
    stored = find(card, dict(arguments), size, cache=cache_dir())
    if stored is not None:
        return stored
    task = json.dumps({"card": card.model_dump(mode="json"), "arguments": dict(arguments), "size": size})
    command = [sys.executable, "-c", _MEASURE]
    done = subprocess.run(command, input=task, capture_output=True, text=True, check=False)
    if done.returncode == ModelError.exit_code:
        raise ModelError(**json.loads(done.stdout))
    measured = find(card, dict(arguments), size, cache=cache_dir())
    if measured is None:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise RunError(f"the layers of {card.name} cannot be measured: {reason}")
    return measured
