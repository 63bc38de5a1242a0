"""What a pretraining is asked for, and everything that is checked before Keras loads."""

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
WEIGHTS, PICTURE, PAGE = ".weights.h5", ".png", ".md"
_ANOTHER = "Choose another --out."


def card_path(written: Path) -> Path:
    """The card file that a user means: with the suffix, whether it was typed or not.

    >>> [card_path(Path(name)).name for name in ("mine", "mine.yaml", "mine.yml", "mine.v2")]
    ['mine.yaml', 'mine.yaml', 'mine.yaml', 'mine.v2.yaml']
    """
    is_card = written.suffix.lower() in (CARD_SUFFIX, ".yml")
    return written.with_suffix(CARD_SUFFIX) if is_card else written.with_name(written.name + CARD_SUFFIX)


def beside(out: Path, suffix: str) -> Path:
    """A file of the same stem: `mine.yaml` and `.md` give `mine.md`."""
    return out.with_name(out.stem + suffix)


def all_of(out: Path) -> list[Path]:
    """Everything that a pretraining writes, the card last."""
    return [*(beside(out, suffix) for suffix in (WEIGHTS, PICTURE, PAGE)), out]


def require_new_card(out: Path, *, overwrite: bool) -> None:
    """Tell before anything is trained that the files cannot be written.

    Raises:
        OutputError: The name is none for a card, a file is there already, or the folder cannot be written to.
    """
    if not re.fullmatch(r"\w[\w.-]*", out.stem):
        raise OutputError(
            f"a network cannot be called '{out.stem}'",
            where="--out",
            hint="Letters, digits, '_', '-' and '.' make a name.",
        )
    taken = [path for path in all_of(out) if path.exists()]
    for path in taken:
        if path.is_dir():
            raise OutputError("is a folder, a file is to be written", where=str(path), hint=_ANOTHER)
    if taken and not overwrite:
        raise OutputError("already exists", where=str(taken[-1]), hint="Choose another --out, or give --overwrite.")
    folder = next(path for path in out.absolute().parents if path.exists())
    if not folder.is_dir():
        raise OutputError("is a file, a folder is needed", where=str(folder), hint=_ANOTHER)
    if not os.access(folder, os.W_OK):
        raise OutputError("cannot be written to", where=str(folder), hint=_ANOTHER)


# What progress calls the training itself.
STAGE = "pretraining"
# What synthetic images train unless another network is named, and at which size.
SYNTHETIC_MODEL, SYNTHETIC_ARGUMENTS, SYNTHETIC_SIZE = "mobilenet", {"alpha": 0.4375}, 64
# What pictures of one's own go on from.
START_MODEL = "mobilenet_synthetic"
_ARGUMENTS = "model.arguments."


@dataclass(frozen=True)
class PretrainRequest:
    """What was asked for. None is: not said.

    Attributes:
        unlabelled: Folder of pictures; None with `synthetic`.
        drawn: Train on synthetic images instead.
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
    """A request that has been checked.

    Attributes:
        request: What was asked for.
        out: The card file, with its suffix.
        card: Of the network to start from.
        arguments: Architecture arguments beside the card's own.
        side: Height and width to train at, pixels.
        weights: None for the card's own, a file, or `random`.
    """

    request: PretrainRequest
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


def check_request(request: PretrainRequest) -> PretrainTask:
    """Everything that can be told in a moment: no picture is read, no Keras loaded.

    Raises:
        TlcliError: For the first thing that is wrong.
    """
    _require_one_source(request)
    out = card_path(request.out)
    require_new_card(out, overwrite=request.overwrite)
    if request.unlabelled is not None:
        require_folder(request.unlabelled)
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
    is_default = request.synthetic and request.model is None
    side = request.size or (SYNTHETIC_SIZE if is_default else card.size)
    resolve.check_size(card, (side, side), where="--size")
    weights = RANDOM if request.synthetic and request.weights is None else request.weights
    return PretrainTask(request, out, card, arguments, side, weights)


def command(task: PretrainTask, chosen: Mapping[str, int]) -> str:
    """The command line that does the same again, with what was chosen for the user filled in.

    Folders are given by their own names: a model card travels, the paths of a machine do not.
    """
    request = task.request
    words = ["tlcli", "pretrain"]
    words += ["--synthetic"] if request.unlabelled is None else [f"{request.unlabelled.resolve().name}/"]
    words += ["--model", Path(request.model).name if request.model else _default_model(request)]
    words += [word for name, value in task.arguments.items() for word in ("--set", f"{_ARGUMENTS}{name}={value}")]
    words += ["--weights", Path(task.weights).name] if task.weights else []
    options: dict[str, int | str] = {"size": task.side, **chosen, "seed": request.seed, "out": task.out.name}
    words += [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return shlex.join(words)


def _require_one_source(request: PretrainRequest) -> None:
    hint = "Give a folder of pictures: tlcli pretrain photos/ --out mine.yaml. Or none, and --synthetic."
    if request.synthetic and request.unlabelled is not None:
        raise UsageError("--synthetic and a folder exclude each other", where=str(request.unlabelled), hint=hint)
    if not request.synthetic and request.unlabelled is None:
        raise UsageError("no pictures were named", where="UNLABELLED", hint=hint)
    if request.synthetic and request.epochs is not None:
        raise UsageError("goes with a folder of pictures", where="--epochs", hint="With --synthetic, give --images.")
    if not request.synthetic and request.images is not None:
        raise UsageError("goes with --synthetic", where="--images", hint="For a folder of pictures, give --epochs.")


def _default_model(request: PretrainRequest) -> str:
    return SYNTHETIC_MODEL if request.synthetic else START_MODEL


def _network(request: PretrainRequest) -> tuple[ModelCard, dict[str, Any]]:
    """The card of the network to start from, and architecture arguments beside its own."""
    for setting in request.settings:
        if not setting.startswith(_ARGUMENTS):
            raise UsageError(
                f"pretraining takes architecture arguments only (got '{setting}')",
                where="--set",
                hint=f"For example --set {_ARGUMENTS}alpha=0.5.",
            )
    card = catalogue.find(request.model or _default_model(request))
    if not card.source.startswith("keras:"):
        raise ModelError(
            "is no network of keras.applications, whose weights alone a card can hold",
            where=str(request.model),
            hint="Give a name from `tlcli zoo list`, or a card file (.yaml).",
        )
    usual = SYNTHETIC_ARGUMENTS if request.synthetic and request.model is None else {}
    return card, usual | load.load(load.DEFAULT, settings=request.settings).model.arguments
