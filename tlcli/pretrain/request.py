"""What a pretraining is asked for, and everything that can be told of it before Keras is loaded."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlcli.errors import ModelError, OutputError, UsageError, WeightsError
from tlcli.pretrain import files, pictures
from tlcli.recipe import load
from tlcli.recipe.schema import RANDOM
from tlcli.train import plan
from tlcli.zoo import catalogue
from tlcli.zoo.card import FineTuning, ModelCard

# What progress calls the training itself.
STAGE = "pretraining"
# What drawn pictures train unless another network is named, and at which size.
DRAWN_MODEL, DRAWN_ARGUMENTS, DRAWN_SIZE = "mobilenet", {"alpha": 0.4375}, 64
# What pictures of one's own go on from.
START_MODEL = "drawn"
_ARGUMENTS = "model.arguments."


@dataclass(frozen=True)
class Request:
    """What was asked for. None is: not said.

    Attributes:
        unlabelled: Folder of pictures; None with `drawn`.
        drawn: Train on drawn pictures instead.
        out: The card file to write, with or without its suffix.
        model: Network to start from, as after `--model` elsewhere.
        weights: A file, or `random`, instead of the network's own.
        settings: `model.arguments.NAME=VALUE`, as after `--set` elsewhere.
        size: Height and width, pixels.
        epochs: For pictures of one's own.
        images: Drawn pictures.
        batch: Pictures a step.
        seed: Of everything random.
        overwrite: Replace a card that is there.
        licence: Of the weights.
        device: As after `--device` elsewhere.
    """

    out: Path
    unlabelled: Path | None = None
    drawn: bool = False
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
class Task:
    """A request that has been checked.

    Attributes:
        request: What was asked for.
        out: The card file, with its suffix.
        card: Of the network to start from.
        arguments: Architecture arguments beside the card's own.
        side: Height and width to train at, pixels.
        weights: None for the card's own, a file, or `random`.
    """

    request: Request
    out: Path
    card: ModelCard
    arguments: dict[str, Any]
    side: int
    weights: str | None

    @property
    def base(self) -> ModelCard:
        """The card of the architecture as it is trained."""
        return self.card.model_copy(update={"size": self.side, "arguments": self.card.arguments | self.arguments})

    @property
    def start(self) -> str:
        """What the weights learnt from before, as the end of a sentence; empty for random ones."""
        if self.weights == RANDOM:
            return ""
        if self.weights is not None:
            return f", going on from {Path(self.weights).name}"
        return f", going on from weights trained on {self.card.data or 'ImageNet'}"

    @property
    def fine_tuning(self) -> FineTuning:
        """How the network should be thawed: as before, where it goes on from the card's own weights."""
        return self.card.fine_tuning if self.weights is None else FineTuning()

    @property
    def licence(self) -> str:
        """The one that was named; else the user's, and that of the weights it went on from."""
        if self.request.licence is not None or self.weights == RANDOM:
            return self.request.licence or "yours"
        under = "their own licence" if self.weights is not None else self.card.licence
        return f"yours, on weights under {under}"


def check(request: Request) -> Task:
    """Everything that can be told in a moment: no picture is read, no Keras loaded.

    Raises:
        TlcliError: For the first thing that is wrong.
    """
    _require_one_source(request)
    out = files.card_path(request.out)
    files.require_new(out, overwrite=request.overwrite)
    if request.unlabelled is not None:
        pictures.require_folder(request.unlabelled)
        if out.resolve().is_relative_to(request.unlabelled.resolve()):
            raise OutputError(
                "would lie among the pictures", where=str(out), hint=f"Choose an --out outside {request.unlabelled}."
            )
    if request.weights not in (None, RANDOM) and not Path(str(request.weights)).expanduser().is_file():
        raise WeightsError(
            f"there is no file '{request.weights}'",
            where="--weights",
            hint=f"Give a path of .h5 or .keras weights, or: {RANDOM}",
        )
    card, arguments = _network(request)
    is_usual_drawn = request.drawn and request.model is None
    side = request.size or (DRAWN_SIZE if is_usual_drawn else card.size)
    plan.check_size(card, (side, side), where="--size")
    weights = RANDOM if request.drawn and request.weights is None else request.weights
    return Task(request, out, card, arguments, side, weights)


def command(task: Task, chosen: Mapping[str, int]) -> str:
    """The command line that does the same again, with what was chosen for the user filled in.

    Folders are given by their own names: a model card travels, the paths of a machine do not.
    """
    request = task.request
    words = ["tlcli", "pretrain"]
    words += ["--drawn"] if request.unlabelled is None else [f"{request.unlabelled.resolve().name}/"]
    words += ["--model", Path(request.model).name if request.model else _usual_model(request)]
    words += [word for name, value in task.arguments.items() for word in ("--set", f"{_ARGUMENTS}{name}={value}")]
    words += ["--weights", Path(task.weights).name] if task.weights else []
    options: dict[str, int | str] = {"size": task.side, **chosen, "seed": request.seed, "out": task.out.name}
    words += [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return shlex.join(words)


def _require_one_source(request: Request) -> None:
    hint = "Give a folder of pictures: tlcli pretrain photos/ --out mine.yaml. Or none, and --drawn."
    if request.drawn and request.unlabelled is not None:
        raise UsageError("--drawn and a folder exclude each other", where=str(request.unlabelled), hint=hint)
    if not request.drawn and request.unlabelled is None:
        raise UsageError("no pictures were named", where="UNLABELLED", hint=hint)
    if request.drawn and request.epochs is not None:
        raise UsageError("goes with a folder of pictures", where="--epochs", hint="With --drawn, give --images.")
    if not request.drawn and request.images is not None:
        raise UsageError("goes with --drawn", where="--images", hint="For a folder of pictures, give --epochs.")


def _usual_model(request: Request) -> str:
    return DRAWN_MODEL if request.drawn else START_MODEL


def _network(request: Request) -> tuple[ModelCard, dict[str, Any]]:
    """The card of the network to start from, and architecture arguments beside its own."""
    for setting in request.settings:
        if not setting.startswith(_ARGUMENTS):
            raise UsageError(
                f"pretraining takes architecture arguments only (got '{setting}')",
                where="--set",
                hint=f"For example --set {_ARGUMENTS}alpha=0.5.",
            )
    card = catalogue.find(request.model or _usual_model(request))
    if not card.source.startswith("keras:"):
        raise ModelError(
            "is no network of keras.applications, whose weights alone a card can hold",
            where=str(request.model),
            hint="Give a name from `tlcli zoo list`, or a card file (.yaml).",
        )
    usual = DRAWN_ARGUMENTS if request.drawn and request.model is None else {}
    return card, usual | load.load(load.DEFAULT, settings=request.settings).model.arguments
