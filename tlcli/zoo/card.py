"""Model cards: YAML files that describe pretrained networks, and the weights files beside them."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_serializer, model_validator

from tlcli.errors import ModelError, WeightsError, did_you_mean
from tlcli.recipe import wording, yaml_text
from tlcli.recipe.fields import BatchNormPolicy, Percent

try:
    from yaml import CSafeLoader as SafeLoader  # ten times faster; missing if PyYAML is built without libyaml
except ImportError:
    from yaml import SafeLoader  # type: ignore[assignment]

CARD_SUFFIXES = (".yaml", ".yml")
MAX_BYTES = 1_000_000
WEIGHTS_SUFFIX = ".weights.h5"
MODEL_SUFFIXES = (".keras", ".h5", ".hdf5")
_SHOWN_PROBLEMS = 3
_OTHER_WEIGHTS = "use other weights with --weights FILE or --weights random"

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F]{64}$", to_lower=True)]
# Kinds of sources that a card file may name. `file:` names a model file beside the card.
SOURCES = ("keras", "file", "package", "architecture", "state_dict", "tfhub", "caffe", "slim", "kerashub")
Preprocessing = Literal["none", "unit", "tf", "torch", "caffe", "lite"]


class GroupPattern(BaseModel):
    r"""A rule for layer groups: the last layer whose name matches `pattern` ends the group `name`.

    `name` may contain captures of the pattern as `{1}`, `{2}`: `block{1}` with `block_(\d+)_.*` gives block1, block2 …
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    pattern: str


class FineTuning(BaseModel):
    """How the network is unfrozen: the values that `auto` stands for in a phase.

    `step: auto` depends on the number of images, see `train.rounds`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    lr: Annotated[float, Field(gt=0, le=10)] = 1e-3
    step: Annotated[int, Field(ge=1)] | Literal["all", "auto"] | Percent = "auto"
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 0.8
    batch_norm: BatchNormPolicy = "frozen"
    epochs: Annotated[int, Field(ge=1)] = 3


class ModelCard(BaseModel):
    """A pretrained network: where it comes from and what input it expects.

    Attributes:
        name: The name in `--model`, snake case, for example `mobilenet_v2`.
        source: Kind and handle, `keras:MobileNetV2`, `package:DISTRIBUTION` or `file:PATH`. In a card file, PATH is the
            name of a model file beside the card. After reading: its absolute path.
        size: Input height and width of the training, pixels.
        min_size: Smallest input height and width, pixels.
        preprocessing: How RGB 0-255 becomes the input: `none` leaves it as it is, `unit` scales to 0..1, `tf` to
            -1..1, `torch` scales to 0..1 and normalises by the ImageNet mean and deviation, `caffe` is BGR minus the
            mean, `lite` is (x - 127) / 128. None if a model file does not say; then the recipe must, in
            `model.preprocessing`.
        groups: Ordered patterns on layer names. Empty: groups are found automatically.
        arguments: Architecture arguments, such as `{"alpha": 0.5}`.
        weights: The card's own weights, a Keras `.weights.h5` file without top. In a card file and in JSON: its name,
            beside the card. After reading: its absolute path. None: the weights that the source provides. Of a
            `package:` card: the path of the weights file in the installed Python package.
        sha256: Hash of that file, or of the model file of a `file:` source, 64 hexadecimal digits.
        cut: Layer whose output becomes that of the network, without the layers above; None keeps all layers below the
            original top.
        data: What the network was trained on, in words. Empty: ImageNet.
        fine_tuning: How it is unfrozen if the recipe says `auto`. The defaults, small steps and frozen BatchNorm, suit
            weights trained on photographs; other weights have to learn more.
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
    cut: str | None = None
    data: str = ""
    fine_tuning: FineTuning = FineTuning()

    @model_validator(mode="after")
    def _check_weights_have_hash(self) -> Self:
        has_file = self.weights is not None or (self.sha256 is not None and self.source.startswith("file:"))
        if has_file != (self.sha256 is not None):
            present, missing = ("sha256", "weights") if self.weights is None else ("weights", "sha256")
            raise ValueError(f"{present} needs {missing}")
        return self

    @property
    def kind(self) -> str:
        """The kind of its source, `keras` for `keras:MobileNetV2`."""
        return self.source.partition(":")[0]

    @field_serializer("weights", when_used="json")
    def _weights_without_folder(self, weights: str | None) -> str | None:
        # Records are shared between machines, so they contain no folders of this one.
        return weights if weights is None or self.kind == "package" else Path(weights).name


def read_card(path: Path) -> ModelCard:
    """Read a card file. Its weights are expected in the same folder; they are not checked here.

    Raises:
        ModelError: If the file is not a card, with the problems by key.
    """
    text = _read_text(path)
    tree = _parse(text, path)
    try:
        card = ModelCard.model_validate(tree)
    except ValidationError as error:
        lines = wording.lines_of(text)
        raise _card_error(path, [wording.problem(one, lines) for one in error.errors()], _hint(tree)) from error
    if problems := _file_problems(card):
        raise _card_error(path, problems, "")
    if card.kind == "package":
        return card
    # Resolved, so that a link to a card finds the weights beside the card itself.
    folder = path.resolve().parent
    weights = None if card.weights is None else str(folder / card.weights)
    kind, _, handle = card.source.partition(":")
    source = f"{kind}:{_with_folder(kind, handle, folder)}"
    return card.model_copy(update={"weights": weights, "source": source})


def _with_folder(kind: str, handle: str, folder: Path) -> str:
    """The handle of a source with the folder of its card before the names of files that lie beside the card."""
    if kind == "file":
        return str(folder / handle)
    if kind == "kerashub" and handle == ".":
        return str(folder)
    if kind not in ("caffe", "slim", "tfhub") or re.search(r"[/\\]", handle):
        return handle
    architecture, at, prefix = handle.partition("@") if kind == "slim" else ("", "", handle)
    files = prefix.split(",") if kind == "caffe" else [prefix]
    is_here = all((folder / name).is_file() or (folder / f"{name}.index").is_file() for name in files)
    return f"{architecture}{at}{','.join(str(folder / name) for name in files)}" if is_here else handle


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise _card_error(path, ["it is larger than 1 MB"], "A card is a short YAML file.")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ModelError("is not text in UTF-8", where=str(path), hint="A card is a YAML file.") from error
    except OSError as error:
        raise ModelError(f"cannot be read ({error.strerror or error})", where=str(path)) from error


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        _, tree = yaml_text.read(text, SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise ModelError(f"is not valid YAML ({error.problem})", where=where) from error
    except yaml.YAMLError as error:
        raise ModelError(f"is not valid YAML ({str(error).partition(chr(10))[0]})", where=str(path)) from error
    if not isinstance(tree, dict):
        raise _card_error(path, ["the top level must be keys and values"], "")
    return tree


def _file_problems(card: ModelCard) -> list[str]:
    """Problems of values that a card file may not have, though a card made for a model file may."""
    problems = []
    if not re.fullmatch(r"\w[\w.-]*", card.name):
        problems.append(f"name: must consist of letters, digits, '_', '-' and '.' (got '{card.name}')")
    kind, _, handle = card.source.partition(":")
    if kind not in SOURCES or not handle:
        problems.append(f"source: must be KIND:NAME, where KIND is {', '.join(SOURCES)} (got '{card.source}')")
    if kind == "file" and not _is_beside(handle, MODEL_SUFFIXES):
        problems.append(
            f"source: after file: must be the name of a model file ({', '.join(MODEL_SUFFIXES)}) beside the card,"
            f" without a folder (got '{handle}')"
        )
    if kind == "package":
        if card.weights is None or not _is_inside(card.weights):
            problems.append(f"weights: must be the path of a file in the package, with / (got '{card.weights}')")
    elif card.weights is not None and not _is_beside(card.weights, (WEIGHTS_SUFFIX,)):
        problems.append(
            f"weights: must be the name of a {WEIGHTS_SUFFIX} file beside the card, without a folder"
            f" (got '{card.weights}')"
        )
    return problems


def _is_beside(name: str, suffixes: tuple[str, ...]) -> bool:
    # A colon is a drive or a stream on Windows.
    return name.endswith(suffixes) and not re.search(r"[/\\:\0]", name)


def _is_inside(path: str) -> bool:
    return not re.search(r"[\\:\0]", path) and all(part not in ("", ".", "..") for part in path.split("/"))


def _hint(tree: dict[str, Any]) -> str:
    """The next step for a tree that is not a card, or the empty string."""
    if "phases" in tree:
        return "It looks like a recipe; use --recipe for recipes."
    unknown = [str(key) for key in tree if key not in ModelCard.model_fields]
    suggestions = [text for key in unknown if (text := did_you_mean(key, ModelCard.model_fields))]
    return " ".join([*suggestions, f"Keys of a card: {', '.join(ModelCard.model_fields)}."]) if unknown else ""


def _card_error(path: Path, problems: list[str], hint: str) -> ModelError:
    rest = f"; and {len(problems) - _SHOWN_PROBLEMS} more" if len(problems) > _SHOWN_PROBLEMS else ""
    return ModelError(f"is not a model card: {'; '.join(problems[:_SHOWN_PROBLEMS])}{rest}", where=str(path), hint=hint)


def verified_weights(card: ModelCard) -> Path:
    """The path of a card's own weights, or of the model file of a `file:` card, after a check of their hash.

    A model file without a hash in its card is only looked for. Not for `package:` cards.

    Raises:
        WeightsError: The file is missing, or its hash differs from the card's.
    """
    path = Path(card.weights or card.source.removeprefix("file:"))
    if not path.is_file():
        raise WeightsError(
            f"the weights of {card.name} are missing",
            where=str(path),
            hint=f"Put them beside the card, or {_OTHER_WEIGHTS}.",
        )
    if card.sha256 is not None:
        require_hash(card, path, remedy="Fetch it again with its card")
    return path


def require_hash(card: ModelCard, path: Path, *, remedy: str) -> None:
    """Check that a file has the hash of a card. `remedy` says what helps if it is damaged.

    Raises:
        WeightsError: The hash differs.
    """
    if (sha256 := sha256_of(path)) != card.sha256:
        raise WeightsError(
            f"is not the file of the card of {card.name}: expected sha256 {card.sha256} (got {sha256})",
            where=str(path),
            hint=f"The file may be damaged or incomplete. {remedy}, or {_OTHER_WEIGHTS}.",
        )


def sha256_of(path: Path) -> str:
    """The sha256 of a file, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_arguments(
    card: ModelCard, arguments: Mapping[str, Any], *, defaults: Mapping[str, Any] | None = None
) -> None:
    """Check that architecture arguments fit the card's own weights.

    Args:
        card: A card with weights.
        arguments: The user's arguments.
        defaults: Default arguments of the architecture, if known.

    Raises:
        WeightsError: An argument differs from the card's own.
    """
    own = {**(defaults or {}), **card.arguments}
    for name, value in arguments.items():
        if name in own and own[name] != value:
            fitting = _joined(card.arguments) if name in card.arguments else f"{name}: {own[name]}"
            raise WeightsError(
                f"the weights of {card.name} fit only {{{fitting}}} (got {{{name}: {value}}})",
                where=f"model.arguments.{name}",
                hint=f"Remove the argument, choose another network with --model, or {_OTHER_WEIGHTS}.",
            )


def _joined(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in arguments.items())
