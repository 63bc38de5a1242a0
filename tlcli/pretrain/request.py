"""The request for a pretraining, and every check that is possible before Keras loads."""

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlcli.errors import ModelError, OutputError, UsageError, WeightsError
from tlcli.pretrain.images import require_folder
from tlcli.recipe import load
from tlcli.recipe.schema import RANDOM
from tlcli.zoo import catalogue, resolve
from tlcli.zoo.card import FineTuning, ModelCard

CARD_SUFFIX = ".yaml"
WEIGHTS_SUFFIX, CURVES_SUFFIX, PAGE_SUFFIX = ".weights.h5", ".png", ".md"

# Name of the training stage in progress events.
STAGE = "pretraining"
# Network, arguments and input size for synthetic images, unless --model names another network.
SYNTHETIC_MODEL, SYNTHETIC_ARGUMENTS, SYNTHETIC_SIZE = "mobilenet", {"alpha": 0.4375}, 64
# Network that training on a folder of images starts from by default.
START_MODEL = "mobilenet_synthetic"

_ARGUMENTS = "model.arguments."
_OTHER_OUT = "Choose another --out."


@dataclass(frozen=True)
class PretrainRequest:
    """The command line of `tlcli pretrain`. None stands for an option that was not given.

    Attributes:
        out: The card file to write, with or without its suffix.
        unlabelled: Folder of images; None with `synthetic`.
        synthetic: Train on synthetic images instead of a folder.
        model: Network to start from, as in `--model` of other commands.
        weights: A weights file or `random`, instead of the network's own weights.
        settings: Architecture arguments `model.arguments.NAME=VALUE`, as in `--set` of other commands.
        size: Height and width, pixels.
        epochs: Epochs over a folder of images.
        images: Number of synthetic images.
        batch: Images per step.
        seed: Seed of everything random.
        overwrite: Replace an existing card.
        licence: Licence of the weights.
        device: As in `--device` of other commands.
    """

    out: Path
    unlabelled: Path | None = None
    synthetic: bool = False
    model: str | None = None
    weights: str | None = None
    settings: tuple[str, ...] = ()
    size: int | None = None
    epochs: int | None = None
    images: int | None = None
    batch: int | None = None
    seed: int = 0
    overwrite: bool = False
    licence: str | None = None
    device: str = "auto"


@dataclass(frozen=True)
class PretrainTask:
    """A checked request.

    Attributes:
        request: The request.
        out: The card file, with its suffix.
        card: Card of the network to start from.
        arguments: Architecture arguments in addition to those of the card.
        side: Height and width to train at, pixels.
        weights: None for the card's own weights, a file, or `random`.
    """

    request: PretrainRequest
    out: Path
    card: ModelCard
    arguments: dict[str, Any]
    side: int
    weights: str | None

    @property
    def base(self) -> ModelCard:
        """Card of the architecture, with the size and arguments used in training."""
        return self.card.model_copy(update={"size": self.side, "arguments": self.card.arguments | self.arguments})

    @property
    def start(self) -> str:
        """A clause that names the initial weights, such as `, starting from w.h5`; empty for random weights."""
        if self.weights == RANDOM:
            return ""
        if self.weights is not None:
            return f", starting from {Path(self.weights).name}"
        return f", starting from weights trained on {self.card.data or 'ImageNet'}"

    @property
    def fine_tuning(self) -> FineTuning:
        """Recommended settings for unfreezing: the card's if training starts from its weights, else the defaults."""
        return self.card.fine_tuning if self.weights is None else FineTuning()

    @property
    def licence(self) -> str:
        """The licence from the request; by default the user's own, plus that of the initial weights."""
        if self.request.licence is not None or self.weights == RANDOM:
            return self.request.licence or "yours"
        initial = "their own licence" if self.weights is not None else self.card.licence
        return f"yours, on weights under {initial}"


def card_path(typed: Path) -> Path:
    """The path of the card file, with its suffix added if it was not typed.

    >>> [card_path(Path(name)).name for name in ("mine", "mine.yaml", "mine.yml", "mine.v2")]
    ['mine.yaml', 'mine.yaml', 'mine.yaml', 'mine.v2.yaml']
    """
    is_card = typed.suffix.lower() in (CARD_SUFFIX, ".yml")
    return typed.with_suffix(CARD_SUFFIX) if is_card else typed.with_name(typed.name + CARD_SUFFIX)


def sibling(out: Path, suffix: str) -> Path:
    """The file with the same stem and another suffix: `mine.yaml` and `.md` give `mine.md`."""
    return out.with_name(out.stem + suffix)


def output_files(out: Path) -> list[Path]:
    """All files that a pretraining writes, the card last."""
    return [*(sibling(out, suffix) for suffix in (WEIGHTS_SUFFIX, CURVES_SUFFIX, PAGE_SUFFIX)), out]


def require_new_card(out: Path, *, overwrite: bool) -> None:
    """Check before training that the card and the files beside it can be written.

    Raises:
        OutputError: The name is not valid for a card, a file exists already, or the folder is not writable.
    """
    if not re.fullmatch(r"\w[\w.-]*", out.stem):
        raise OutputError(
            f"not a valid network name (got '{out.stem}')",
            where="--out",
            hint="Use letters, digits, '_', '-' and '.', starting with a letter, a digit or '_'.",
        )
    existing = [path for path in output_files(out) if path.exists()]
    for path in existing:
        if path.is_dir():
            raise OutputError("is a folder, not a file", where=str(path), hint=_OTHER_OUT)
    if existing and not overwrite:
        raise OutputError("already exists", where=str(existing[-1]), hint="Choose another --out, or use --overwrite.")
    folder = next(path for path in out.absolute().parents if path.exists())
    if not folder.is_dir():
        raise OutputError("is a file, not a folder", where=str(folder), hint=_OTHER_OUT)
    if not os.access(folder, os.W_OK):
        raise OutputError("cannot be written to", where=str(folder), hint=_OTHER_OUT)


def check_request(request: PretrainRequest) -> PretrainTask:
    """Check a request without reading images or loading Keras.

    Raises:
        TlcliError: The first problem found.
    """
    _require_one_source(request)
    out = card_path(request.out)
    require_new_card(out, overwrite=request.overwrite)
    if request.unlabelled is not None:
        require_folder(request.unlabelled)
        if out.resolve().is_relative_to(request.unlabelled.resolve()):
            raise OutputError(
                "lies inside the folder of images",
                where=str(out),
                hint=f"Choose an --out outside {request.unlabelled}.",
            )
    if request.weights not in (None, RANDOM) and not Path(str(request.weights)).expanduser().is_file():
        raise WeightsError(
            f"there is no file '{request.weights}'",
            where="--weights",
            hint=f"Give the path of a .h5 or .keras file, or '{RANDOM}'.",
        )
    card, arguments = _find_network(request)
    is_default = request.synthetic and request.model is None
    side = request.size or (SYNTHETIC_SIZE if is_default else card.size)
    resolve.check_size(card, (side, side), where="--size")
    weights = RANDOM if request.synthetic and request.weights is None else request.weights
    return PretrainTask(request, out, card, arguments, side, weights)


def _require_one_source(request: PretrainRequest) -> None:
    hint = "Give a folder of images (tlcli pretrain photos/ --out mine.yaml) or --synthetic."
    if request.synthetic and request.unlabelled is not None:
        raise UsageError("--synthetic and a folder exclude each other", where=str(request.unlabelled), hint=hint)
    if not request.synthetic and request.unlabelled is None:
        raise UsageError("no folder of images given", where="UNLABELLED", hint=hint)
    if request.synthetic and request.epochs is not None:
        raise UsageError("needs a folder of images", where="--epochs", hint="With --synthetic, use --images.")
    if not request.synthetic and request.images is not None:
        raise UsageError("needs --synthetic", where="--images", hint="With a folder of images, use --epochs.")


def _find_network(request: PretrainRequest) -> tuple[ModelCard, dict[str, Any]]:
    """The card of the network to start from, and architecture arguments in addition to its own."""
    for setting in request.settings:
        if not setting.startswith(_ARGUMENTS):
            raise UsageError(
                f"not an architecture argument (got '{setting}')",
                where="--set",
                hint=f"pretrain allows only architecture arguments, such as --set {_ARGUMENTS}alpha=0.5.",
            )
    card = catalogue.find(request.model or _default_model(request))
    if not card.source.startswith("keras:"):
        raise ModelError(
            "not a network of keras.applications",
            where=str(request.model),
            hint="pretrain supports only these. Give a name from `tlcli zoo list` or a card file (.yaml).",
        )
    default = SYNTHETIC_ARGUMENTS if request.synthetic and request.model is None else {}
    return card, default | load.load(load.DEFAULT, settings=request.settings).model.arguments


def _default_model(request: PretrainRequest) -> str:
    return SYNTHETIC_MODEL if request.synthetic else START_MODEL


def command_line(task: PretrainTask, resolved: Mapping[str, int]) -> str:
    """The command line that repeats a training.

    Paths are reduced to their last part, so that a published card names no folders of the user's machine.

    Args:
        task: A checked request.
        resolved: Values of options that were resolved automatically, by option name without dashes.
    """
    request = task.request
    words = ["tlcli", "pretrain"]
    words += ["--synthetic"] if request.unlabelled is None else [f"{request.unlabelled.resolve().name}/"]
    words += ["--model", Path(request.model).name if request.model else _default_model(request)]
    words += [word for name, value in task.arguments.items() for word in ("--set", f"{_ARGUMENTS}{name}={value}")]
    words += ["--weights", Path(task.weights).name] if task.weights else []
    options: dict[str, int | str] = {"size": task.side, **resolved, "seed": request.seed, "out": task.out.name}
    words += [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return shlex.join(words)
