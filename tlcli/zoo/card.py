"""Model cards: what is known of a pretrained network before it is built, read from YAML, with the weights beside it."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_serializer, model_validator
from pydantic_core import ErrorDetails

from tlcli.errors import ModelError, WeightsError, did_you_mean
from tlcli.recipe.fields import BatchNormPolicy, Percent

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F]{64}$", to_lower=True)]
Preprocessing = Literal["none", "tf", "torch", "caffe"]


class GroupPattern(BaseModel):
    r"""One line of the group table: layers whose name matches `pattern` end a group called `name`.

    `name` may use the pattern's captures as `{1}`, `{2}`: `block{1}` with `block_(\d+)_.*` gives block1, block2 …
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    pattern: str


class FineTuning(BaseModel):
    """How the network is thawed where a recipe leaves it open: what `auto` stands for in a phase.

    `step: auto` leaves it to the number of images, see `train.cost.thawed_at_once`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    lr: Annotated[float, Field(gt=0, le=10)] = 1e-3
    step: Annotated[int, Field(ge=1)] | Literal["all", "auto"] | Percent = "auto"
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 0.8
    batch_norm: BatchNormPolicy = "frozen"
    epochs: Annotated[int, Field(ge=1)] = 3


class ModelCard(BaseModel):
    """One entry of the zoo: where a network comes from and what it expects.

    Attributes:
        name: The name users type, snake case, for example `mobilenet_v2`.
        source: Kind of source and handle, `keras:MobileNetV2` or `file:PATH`.
        size: Input height and width the weights were trained at, pixels.
        min_size: Smallest height and width the network takes, pixels.
        preprocessing: What the weights expect of RGB 0-255: `none` takes them as they are, `tf` scales to -1..1,
            `torch` scales to 0..1 and normalises by ImageNet mean and deviation, `caffe` is BGR minus the mean.
            None where a file does not tell; the recipe must, in `model.preprocessing`.
        groups: Ordered patterns on layer names; empty means automatic groups.
        arguments: Architecture arguments, such as `{"alpha": 0.5}`.
        weights: The card's own weights, a Keras `.weights.h5` without top: in a card file its name beside the card,
            once read its absolute path, in JSON its name again. None: those that the source itself provides.
        sha256: Hash of that file, 64 hexadecimal digits.
        data: What the network was trained on, in words; empty means ImageNet.
        fine_tuning: How it is thawed where the recipe says `auto`. The usual small steps and frozen BatchNorm suit
            weights trained on photographs; what was trained on something else has to learn more.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    source: str
    title: str
    size: Annotated[int, Field(ge=1)]
    min_size: Annotated[int, Field(ge=1)]
    preprocessing: Preprocessing | None
    parameters: int | None = None
    imagenet_top1: float | None = None
    licence: str
    paper: str = ""
    groups: tuple[GroupPattern, ...] = ()
    arguments: dict[str, Any] = Field(default_factory=dict)
    weights: str | None = None
    sha256: Sha256 | None = None
    data: str = ""
    fine_tuning: FineTuning = FineTuning()

    @model_validator(mode="after")
    def _hash_its_weights(self) -> Self:
        if (self.weights is None) != (self.sha256 is None):
            given, missing = ("sha256", "weights") if self.weights is None else ("weights", "sha256")
            raise ValueError(f"{given} needs {missing} beside it")
        return self

    @field_serializer("weights", when_used="json")
    def _weights_without_folder(self, weights: str | None) -> str | None:
        # Records travel; the folders of the machine they were made on stay there.
        return None if weights is None else Path(weights).name


try:
    from yaml import CSafeLoader as SafeLoader  # ten times faster, where libyaml is there
except ImportError:
    from yaml import SafeLoader  # type: ignore[assignment]

CARD_SUFFIXES = (".yaml", ".yml")
MAX_BYTES = 1_000_000
WEIGHTS_SUFFIX = ".weights.h5"
_SHOWN = 3


def read_card(path: Path) -> ModelCard:
    """The card in a file. Weights it names are looked for in its own folder, and nowhere else.

    Raises:
        ModelError: With what is wrong, by key; whether the weights are there is not asked.
    """
    tree = _tree(path)
    try:
        card = ModelCard.model_validate(tree)
    except ValidationError as error:
        raise _wrong(path, [_problem(details) for details in error.errors()], _hint(tree)) from error
    if problems := _misfits(card):
        raise _wrong(path, problems, "")
    # Resolved, so that a link to a card finds the weights where the card itself is.
    weights = None if card.weights is None else str(path.resolve().parent / card.weights)
    return card.model_copy(update={"weights": weights})


def _tree(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise _wrong(path, ["it is larger than 1 MB"], "A card is a short YAML file.")
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise ModelError(f"is not valid YAML ({error.problem})", where=where) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ModelError(f"cannot be read ({error})", where=str(path)) from error
    if not isinstance(tree, dict):
        raise _wrong(path, ["the top level must be keys and values"], "")
    return tree


def _misfits(card: ModelCard) -> list[str]:
    """What a card in a file may not say, though a card made for a model file may."""
    problems = []
    if not re.fullmatch(r"\w[\w.-]*", card.name):
        problems.append(f"name: letters, digits, '_', '-' and '.' make a name (got '{card.name}')")
    kind, _, handle = card.source.partition(":")
    if kind != "keras" or not handle:
        problems.append(f"source: must be keras:NAME (got '{card.source}')")
    if card.weights is not None and not _is_beside(card.weights):
        problems.append(
            f"weights: must be the name of a {WEIGHTS_SUFFIX} file beside the card, without a folder"
            f" (got '{card.weights}')"
        )
    return problems


def _is_beside(name: str) -> bool:
    # A colon is a drive or a stream on Windows.
    return name.endswith(WEIGHTS_SUFFIX) and not re.search(r"[/\\:\0]", name)


def _problem(details: ErrorDetails) -> str:
    """One of pydantic's findings as `key: what is wrong`."""
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in details["loc"]).lstrip(".")
    if details["type"] == "extra_forbidden":
        return f"{key}: unknown key"
    if details["type"] == "missing":
        return f"{key}: is missing"
    message = details["msg"].removeprefix("Value error, ")
    got = details["input"]
    shown = "" if isinstance(got, dict | list) else f" (got {str(got)[:60]!r})"
    return f"{key}: {message[:1].lower()}{message[1:]}{shown}".removeprefix(": ")


def _hint(tree: dict[str, Any]) -> str:
    if "phases" in tree:
        return "It looks like a recipe: those are given with --recipe."
    unknown = [str(key) for key in tree if key not in ModelCard.model_fields]
    near = [found for key in unknown if (found := did_you_mean(key, ModelCard.model_fields))]
    return " ".join([*near, f"Keys of a card: {', '.join(ModelCard.model_fields)}."]) if unknown else ""


def _wrong(path: Path, problems: list[str], hint: str) -> ModelError:
    rest = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    return ModelError(f"is not a model card: {'; '.join(problems[:_SHOWN])}{rest}", where=str(path), hint=hint)


_OTHERS = "take other weights with --weights FILE, or --weights random"


def verified_weights(card: ModelCard) -> Path:
    """The file of a card's own weights, its hash compared.

    Raises:
        WeightsError: The file is missing, or is not the one that the card was written for.
    """
    path = Path(card.weights or "")
    if not path.is_file():
        raise WeightsError(
            f"the weights of {card.name} are not there",
            where=str(path),
            hint=f"Put them beside their card, or {_OTHERS}.",
        )
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != card.sha256:
        raise WeightsError(
            f"is not the file that the card of {card.name} names: expected sha256 {card.sha256} (got {found})",
            where=str(path),
            hint=f"It may be damaged or only partly copied: fetch it again, with its card, or {_OTHERS}.",
        )
    return path


def require_arguments(
    card: ModelCard, arguments: Mapping[str, Any], *, defaults: Mapping[str, Any] | None = None
) -> None:
    """Refuse architecture arguments that make another network than the card's own weights were made for.

    Args:
        card: A card with weights.
        arguments: The user's arguments.
        defaults: Those of the architecture, where they are known.

    Raises:
        WeightsError: An argument differs from the card's own.
    """
    own = {**(defaults or {}), **card.arguments}
    for name, value in arguments.items():
        if name in own and own[name] != value:
            fitting = f"{name}: {own[name]}" if name not in card.arguments else _flow(card.arguments)
            raise WeightsError(
                f"the weights of {card.name} fit only {{{fitting}}} (got {{{name}: {value}}})",
                where=f"model.arguments.{name}",
                hint=f"Leave it out, choose another network with --model, or {_OTHERS}.",
            )


def _flow(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in arguments.items())
