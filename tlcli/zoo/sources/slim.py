"""Networks of TF-Slim from TensorFlow 1 checkpoints: `slim:ARCHITECTURE@PATH`, or `slim:PATH`.

The variables of a checkpoint tell which network it is, how wide it is, and where each value belongs. The argument
`restore` of a model, a regular expression, restores only the variables whose names it matches.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlcli.errors import ModelError, WeightsError, did_you_mean
from tlcli.zoo.architectures import slim
from tlcli.zoo.architectures.slim import ARCHITECTURES, Architecture
from tlcli.zoo.architectures.slim_widths import find_multiplier
from tlcli.zoo.card import ModelCard
from tlcli.zoo.formats.tf_checkpoint import Checkpoint, open_checkpoint
from tlcli.zoo.restored import Restored

if TYPE_CHECKING:
    import keras

RESTORE = "restore"
_AVERAGE = "/ExponentialMovingAverage"
_SHOWN = 4
# Names of weights in Keras and of variables in Slim. The kernel of a depthwise convolution has another name.
_VARIABLES = {
    "kernel": "weights", "bias": "biases", "gamma": "gamma", "beta": "beta", "moving_mean": "moving_mean",
    "moving_variance": "moving_variance", "depthwise_kernel": "depthwise_weights",
    "pointwise_kernel": "pointwise_weights",
}  # fmt: skip
_WHERE = "model.arguments"


@dataclass(frozen=True)
class Found:
    """A network in a checkpoint.

    Attributes:
        checkpoint: The checkpoint.
        architecture: The network.
        root: What its variables begin with: its scope, which may be inside others, and a slash.
    """

    checkpoint: Checkpoint
    architecture: Architecture
    root: str


def find_card(handle: str) -> ModelCard:
    """The card of the network in a checkpoint.

    Args:
        handle: `ARCHITECTURE@PATH`, or the path alone if the names of the variables tell the architecture. A path that
            begins with the name of an architecture and @ is written `./NAME@…`.

    Raises:
        ModelError: There is no such architecture.
        WeightsError: There is no such checkpoint, it is damaged, or it holds another network.
    """
    found = _find(handle)
    architecture = found.architecture
    return ModelCard(
        name=f"slim_{architecture.name}",
        source=f"slim:{architecture.name}@{found.checkpoint.path.resolve()}",
        title=architecture.title,
        size=architecture.size,
        min_size=architecture.min_size,
        preprocessing=architecture.preprocessing,
        licence="that of the checkpoint",
        paper=architecture.paper,
        groups=architecture.patterns,
        arguments=_own_arguments(found),
        data="the images of the checkpoint",
    )


def network(card: ModelCard, *, size: tuple[int, int], arguments: Mapping[str, Any], weights: bool) -> "keras.Model":
    """Build the network of a card without its top; see `Source.network`.

    Layers are named after Slim's scopes, with `__` for each slash. Where a checkpoint holds moving averages of weights
    (`…/ExponentialMovingAverage`), these are restored.

    Raises:
        ModelError: An argument is unknown, or the images are too small.
        WeightsError: The checkpoint is missing or damaged, or lacks variables that `restore` does not exclude.
    """
    import keras

    found = _find(card.source.partition(":")[2])
    chosen = _chosen_arguments(card, found, arguments)
    inputs = keras.Input((*size, 3), name="image")
    try:
        outputs = slim.build(found.architecture, inputs, chosen)
    except (ValueError, TypeError) as error:
        reason = str(error).partition("\n")[0][:200].rstrip(".")
        raise ModelError(
            f"{card.name} cannot be built for {size[0]} × {size[1]} pixels with {chosen} ({reason})",
            where=_WHERE,
            hint="Choose larger images with data.size, or other arguments.",
        ) from error
    model = keras.Model(inputs, outputs, name=f"slim_{found.architecture.name}")
    if weights:
        _restore(model, found, _pattern(card, arguments))
    return model


def restored(card: ModelCard, model: "keras.Model", arguments: Mapping[str, Any]) -> Restored:
    """What `network` restored: the same for every size.

    Args:
        card: The card.
        model: The network that `network` returned.
        arguments: The arguments that it got.
    """
    found, pattern = _find(card.source.partition(":")[2]), _pattern(card, arguments)
    names = [f"{found.root}{name}" for name, _ in _variables(model)]
    sources = _sources(found, names, pattern)
    covered = {*sources.values(), *sources}
    left = (name for name in found.checkpoint.variables if name not in covered)
    missing = (name for name in names if name not in sources)
    return Restored(
        found.checkpoint.path.name, pattern and pattern.pattern, tuple(sources.values()), tuple(left), tuple(missing)
    )


def _find(handle: str) -> Found:
    name, path = _split(handle)
    if name is None and not _is_checkpoint(path):
        _refuse_misspelt(handle)
    checkpoint = open_checkpoint(path)
    scopes = _scopes(checkpoint)
    if name is None:
        if len(scopes) != 1:
            raise _unknown_error(checkpoint, scopes)
        name = next(iter(scopes))
    if name not in scopes:
        other = f"that of {', '.join(scopes)}" if scopes else f"not that of a known network ({_tops(checkpoint)})"
        raise WeightsError(
            f"is not a checkpoint of {name}: it is {other}",
            where=str(checkpoint.path),
            hint=f"Leave out '{name}@' to use what is in it." if scopes else _known(),
        )
    return Found(checkpoint, ARCHITECTURES[name], scopes[name])


def _split(handle: str) -> tuple[str | None, Path]:
    """Architecture, if the handle names one, and path."""
    name, at, path = handle.partition("@")
    if at and name in ARCHITECTURES:
        text: str = path
    elif at and re.fullmatch(r"[\w.-]+", name) and not _is_checkpoint(Path(handle).expanduser()):
        raise _architecture_error(name)
    else:
        name, text = "", handle
    if not text:
        hint = f"Write slim:ARCHITECTURE@PATH or slim:PATH. {_known()}"
        raise ModelError(f"'slim:{handle}' names no checkpoint", where="model", hint=hint)
    return name or None, Path(text).expanduser()


def _is_checkpoint(path: Path) -> bool:
    """True if something lies at a path or, for the prefix of a V2 checkpoint, at its index."""
    return path.exists() or Path(f"{path}.index").exists()


def _refuse_misspelt(handle: str) -> None:
    """Refuse a path that is not there and looks like the name of an architecture."""
    if re.fullmatch(r"\w+", handle) and did_you_mean(handle, ARCHITECTURES):
        known = handle in ARCHITECTURES
        message = f"'{handle}' is an architecture and no path" if known else f"there is no checkpoint '{handle}'"
        hint = "" if known else f"{did_you_mean(handle, ARCHITECTURES)} "
        raise ModelError(message, where="model", hint=f"{hint}Name the checkpoint, too: slim:ARCHITECTURE@PATH.")


def _architecture_error(name: str) -> ModelError:
    hint = f"{did_you_mean(name, ARCHITECTURES)} {_known()}".strip()
    return ModelError(f"there is no TF-Slim architecture '{name}'", where="model", hint=hint)


def _known() -> str:
    return f"Architectures: {', '.join(ARCHITECTURES)}."


def _scopes(checkpoint: Checkpoint) -> dict[str, str]:
    """The networks in a checkpoint, and what the names of their variables begin with."""
    by_scope = {architecture.scope: architecture.name for architecture in ARCHITECTURES.values()}
    expression = re.compile(rf"((?:.*?/)??({'|'.join(map(re.escape, by_scope))})/).+")
    roots: dict[str, Counter[str]] = {}
    for variable in checkpoint.variables:
        if match := expression.fullmatch(variable):
            roots.setdefault(by_scope[match[2]], Counter())[match[1]] += 1
    # Optimisers may repeat all names inside a scope of their own; then the shorter one is the network's.
    return {name: max(counts, key=lambda root: (counts[root], -len(root))) for name, counts in roots.items()}


def _unknown_error(checkpoint: Checkpoint, scopes: Mapping[str, str]) -> WeightsError:
    if scopes:
        name = next(iter(scopes))
        hint = f"Name one of them: slim:{name}@{checkpoint.path}"
        return WeightsError(f"has several networks: {', '.join(scopes)}", where=str(checkpoint.path), hint=hint)
    return WeightsError(
        f"has no network that is known ({_tops(checkpoint)})",
        where=str(checkpoint.path),
        hint=f"{_known()} Other TensorFlow models have to be saved in a Keras format first.",
    )


def _tops(checkpoint: Checkpoint) -> str:
    tops = list(dict.fromkeys(name.partition("/")[0] for name in checkpoint.variables))
    return f"its variables begin with {_listed(tops)}" if tops else "it has no variables"


def _own_arguments(found: Found) -> dict[str, Any]:
    """The arguments that follow from names and shapes of the variables, apart from those that have their default."""
    variables, defaults = found.checkpoint.variables, found.architecture.arguments
    own: dict[str, Any] = {}
    if "gamma" in defaults:
        own["gamma"] = any(name.startswith(found.root) and name.endswith("/gamma") for name in variables)
    if "stem_norm" in defaults:
        own["stem_norm"] = f"{found.root}Conv2d_1a_7x7/BatchNorm/beta" in variables
    if "depth_multiplier" in defaults:
        own["depth_multiplier"] = _multiplier(found)
    top = variables.get(f"{found.root}Conv_1/weights")
    if "wide_top" in defaults and top is not None and own["depth_multiplier"] < 1:
        own["wide_top"] = top.shape[-1] == 1280
    return {name: value for name, value in own.items() if value != defaults[name]}


def _multiplier(found: Found) -> float:
    widths: dict[int, int] = {}
    for scope, channels in found.architecture.widths.items():
        variable = found.checkpoint.variables.get(f"{found.root}{scope}/weights")
        if variable is not None and len(variable.shape) == 4:
            widths[channels] = variable.shape[-1]
    multiplier = find_multiplier(widths, slim.width_function(found.architecture))
    if multiplier is None:
        raise WeightsError(
            f"no width of {found.architecture.name} has these channels: {_listed(map(str, widths.values()))}",
            where=str(found.checkpoint.path),
            hint=f"At width 1 they are {_listed(map(str, widths))}. The network was changed; it cannot be built here.",
        )
    return multiplier


def _chosen_arguments(card: ModelCard, found: Found, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the architecture: the user's, those of the card, those that the checkpoint shows."""
    chosen = {**_own_arguments(found), **card.arguments, **arguments}
    chosen.pop(RESTORE, None)
    defaults = found.architecture.arguments
    for name, value in chosen.items():
        if name not in defaults:
            known = ", ".join([*defaults, RESTORE])
            hint = f"{did_you_mean(name, [*defaults, RESTORE])} Arguments: {known}.".strip()
            raise ModelError(f"{card.name} has no argument '{name}'", where=_WHERE, hint=hint)
        is_number = isinstance(defaults[name], float)
        fits = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 10
        if not (fits if is_number else isinstance(value, bool)):
            allowed = "a number above 0, at most 10" if is_number else "true or false"
            raise ModelError(f"must be {allowed} (got {value!r})", where=f"{_WHERE}.{name}")
    return chosen


def _pattern(card: ModelCard, arguments: Mapping[str, Any]) -> re.Pattern[str] | None:
    text = {**card.arguments, **arguments}.get(RESTORE)
    if text is None:
        return None
    where = f"{_WHERE}.{RESTORE}"
    hint = "It is searched for in the names of variables, for example: ^InceptionV3/(Conv2d|Mixed_5)"
    if not isinstance(text, str):
        raise ModelError(f"must be a regular expression (got {text!r})", where=where, hint=hint)
    try:
        return re.compile(text)
    except re.error as error:
        raise ModelError(f"'{text}' is not a regular expression ({error})", where=where, hint=hint) from error


def _variables(model: "keras.Model") -> Iterator[tuple[str, Any]]:
    """Slim's names, without root, and the Keras variables of a network."""
    from tlcli.zoo.architectures.slim_layers import scope_of

    for layer in model.layers:
        for variable in layer.variables:
            name = _VARIABLES[variable.name]
            if type(layer).__name__ == "DepthwiseConv2D" and name == "weights":
                name = "depthwise_weights"
            yield f"{scope_of(layer.name)}/{name}", variable


def _sources(found: Found, names: list[str], pattern: re.Pattern[str] | None) -> dict[str, str]:
    """Variables of the network, and those of the checkpoint that they are restored from."""
    stored = found.checkpoint.variables
    chosen = [name for name in names if pattern is None or pattern.search(name)]
    averaged = {name: name + _AVERAGE if name + _AVERAGE in stored else name for name in chosen}
    return {name: source for name, source in averaged.items() if source in stored}


def _restore(model: "keras.Model", found: Found, pattern: re.Pattern[str] | None) -> None:
    targets = {f"{found.root}{name}": variable for name, variable in _variables(model)}
    sources = _sources(found, list(targets), pattern)
    _require_complete(found, list(targets), sources, pattern)
    stored = found.checkpoint.variables
    wrong = [name for name, source in sources.items() if stored[source].shape != tuple(targets[name].shape)]
    if wrong:
        shapes = [
            f"{name} (network {tuple(targets[name].shape)}, file {stored[sources[name]].shape})" for name in wrong
        ]
        raise WeightsError(
            f"{len(wrong)} of {len(sources)} variables have another shape than in {found.architecture.name}:"
            f" {_listed(shapes)}",
            where=str(found.checkpoint.path),
            hint="Remove model.arguments that set the width, or leave these variables out with"
            f" {_WHERE}.{RESTORE}, a regular expression on the names to restore.",
        )
    by_source = {source: targets[name] for name, source in sources.items()}
    for source, values in found.checkpoint.read(by_source):
        by_source[source].assign(values)


def _require_complete(
    found: Found, names: list[str], sources: Mapping[str, str], pattern: re.Pattern[str] | None
) -> None:
    where, name = str(found.checkpoint.path), found.architecture.name
    if pattern is not None and not sources:
        raise WeightsError(
            f"'{pattern.pattern}' restores nothing: no variable of {name} in {found.checkpoint.path.name} matches it",
            where=f"{_WHERE}.{RESTORE}",
            hint=f"Names are, for example, {_listed(names)}",
        )
    if pattern is None and (missing := [variable for variable in names if variable not in sources]):
        raise WeightsError(
            f"lacks {len(missing)} of the {len(names)} variables of {name}: {_listed(missing)}",
            where=where,
            hint=f"To restore what it has and leave the rest random: --set model.arguments.{RESTORE}=.",
        )


def _listed(names: Any) -> str:
    shown = list(names)
    return ", ".join(shown[:_SHOWN]) + (f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else "")
