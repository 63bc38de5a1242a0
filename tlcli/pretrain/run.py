"""Pretrain on a folder of images or on synthetic images, and write the card."""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlcli.errors import RunError
from tlcli.model import backbone
from tlcli.model.backbone import Backbone
from tlcli.paths import cache_dir
from tlcli.pretrain import request, simsiam
from tlcli.pretrain.card import Point, TrainingSummary, progress_line, write_card
from tlcli.pretrain.checkpoint import CHECKPOINT_SUFFIX, PretrainCheckpoint
from tlcli.pretrain.images import ImageSet, load_image_set
from tlcli.pretrain.request import STAGE, PretrainTask
from tlcli.pretrain.simsiam import OVERSIZE, SimSiamConfig
from tlcli.pretrain.synthetic import training
from tlcli.pretrain.synthetic.training import SyntheticConfig
from tlcli.train.events import Advanced, Noticed, Observer
from tlcli.zoo.card import FineTuning, ModelCard

_MAX_NAMED_FILES = 10


@dataclass(frozen=True)
class PretrainResult:
    """The result of a pretraining.

    Attributes:
        card: The card as `--model` loads it.
        files: Written files, the card last.
        summary: How the network was trained.
        images: Number of distinct images used; 0 for synthetic images.
        unreadable: Number of files left out because they could not be read.
    """

    card: ModelCard
    files: tuple[Path, ...]
    summary: TrainingSummary
    images: int = 0
    unreadable: int = 0

    def to_json(self) -> dict[str, Any]:
        """The document of `tlcli pretrain --json`."""
        return {
            "card": str(self.files[-1]),
            "files": [str(path) for path in self.files],
            "name": self.card.name,
            "sha256": self.card.sha256,
            "data": self.card.data,
            "licence": self.card.licence,
            "size": self.card.size,
            "images": self.images,
            "unreadable": self.unreadable,
            "steps": self.summary.steps,
            "seed": self.summary.seed,
            "points": [dataclasses.asdict(point) for point in self.summary.points],
            "command": self.summary.command,
        }


def load_images(task: PretrainTask, root: Path, observe: Observer) -> ImageSet:
    """Load the images under `root`, and report progress, unreadable files and copies."""
    images = load_image_set(
        root,
        side=round(OVERSIZE * task.side),
        cache=cache_dir() / "pixels",
        progress=lambda stage, done, total: observe(Advanced(stage, done, total)),
    )
    for path, reason in images.unreadable[:_MAX_NAMED_FILES]:
        observe(Noticed(f"left out {root / path}: {reason}", is_warning=True))
    if len(images.unreadable) > _MAX_NAMED_FILES:
        observe(Noticed(f"left out {len(images.unreadable)} unreadable files in all", is_warning=True))
    if images.copies:
        observe(Noticed(f"left out {images.copies} of {images.copies + len(images)} images: copies of other images"))
    return images


def train_on_images(task: PretrainTask, built: Backbone, images: ImageSet, observe: Observer) -> PretrainResult:
    """Train with SimSiam on unlabelled images, resuming from a checkpoint if there is one, and write the card.

    Raises:
        OutputError: The checkpoint belongs to other images or settings.
        RunError: The training collapsed or diverged, or the checkpoint is damaged.
    """
    options = task.request
    config = simsiam.choose_config(
        len(images), task.side, seed=options.seed, epochs=options.epochs, batch=options.batch
    )
    steps = config.steps(len(images))
    observe(Noticed(f"{len(images)} images, {config.epochs} epochs of {steps} steps of {config.batch} images"))
    checkpoint = _checkpoint(task, built, config, images.sha256)
    done = len(checkpoint.points())
    if done:
        observe(Noticed(f"resuming after epoch {done} (to start over, delete {checkpoint.folder})"))
    try:
        points = simsiam.train_simsiam(
            built,
            images,
            config,
            on_epoch=_report_lines(observe, config.epochs, done),
            on_step=lambda seen, total: observe(Advanced(STAGE, seen, total)),
            checkpoint=checkpoint,
        )
    except RunError:
        # A resumed training would fail the same way.
        checkpoint.remove()
        raise
    result = _write_result(task, built, _summarise_simsiam(task, config, images, points))
    checkpoint.remove()
    return dataclasses.replace(result, images=len(images), unreadable=len(images.unreadable))


def _summarise_simsiam(
    task: PretrainTask, config: SimSiamConfig, images: ImageSet, points: list[Point]
) -> TrainingSummary:
    return TrainingSummary(
        method='SimSiam, self-supervised (Chen & He 2021, "Exploring Simple Siamese Representation Learning",'
        " arXiv 2011.10566)",
        data=f"{len(images)} images of '{images.name}' without labels{task.start}",
        licence=task.licence,
        command=request.command_line(task, {"epochs": config.epochs, "batch-size": config.batch}),
        seed=config.seed,
        steps=config.steps(len(images)) * config.epochs,
        points=tuple(points),
        scores={f"healthy spread, 1/√{simsiam.WIDTH}": simsiam.HEALTHY},
        limits=(
            "The network was trained on images of one kind. For images of another kind, other weights may be better.",
            "The loss is a cosine between views. Losses on different sets of images are not comparable.",
        ),
        healthy=simsiam.HEALTHY,
        fine_tuning=task.fine_tuning,
    )


def train_on_synthetic(task: PretrainTask, built: Backbone, observe: Observer) -> PretrainResult:
    """Train on synthetic images, resuming from a checkpoint if there is one, and write the card.

    Raises:
        OutputError: The checkpoint belongs to other settings.
        RunError: The checkpoint is damaged.
    """
    options = task.request
    given = {"images": options.images, "batch": options.batch, "seed": options.seed}
    config = SyntheticConfig(**{name: value for name, value in given.items() if value is not None})
    observe(Noticed(f"{config.images} synthetic images of {config.classes} classes"))
    checkpoint = _checkpoint(task, built, config)
    done = len(checkpoint.points())
    if done:
        observe(Noticed(f"resuming after point {done} (to start over, delete {checkpoint.folder})"))
    report_line = _report_lines(observe, config.points, done)

    def report(point: Point) -> None:
        report_line(point)
        observe(Advanced(STAGE, point.images, config.images))

    mode = task.card.preprocessing or "none"
    points = training.train_synthetic(
        built.network, lambda x: backbone.preprocess(x, mode), config, on_point=report, checkpoint=checkpoint
    )
    result = _write_result(task, built, _summarise_synthetic(task, config, points))
    checkpoint.remove()
    return result


def _summarise_synthetic(task: PretrainTask, config: SyntheticConfig, points: list[Point]) -> TrainingSummary:
    return TrainingSummary(
        method=f"supervised classification of {config.classes} classes of synthetic images, with their colour histogram"
        " as a second task",
        data=f"{points[-1].images} synthetic images{task.start}",
        licence=task.licence,
        command=request.command_line(task, {"images": config.images, "batch-size": config.batch}),
        seed=config.seed,
        steps=points[-1].images // config.batch,
        points=tuple(points),
        fine_tuning=FineTuning(lr=4e-3, step="all", layer_decay=1.0, batch_norm="affine", epochs=12),
        limits=(
            "The network has never seen a photograph. For photographs, weights trained on photographs are better.",
        ),
    )


def _report_lines(observe: Observer, total: int, done: int = 0) -> Callable[[Point], None]:
    """A function that reports each point as a numbered line of progress."""
    numbers = itertools.count(done + 1)
    return lambda point: observe(Noticed(progress_line(point, next(numbers), total)))


def _write_result(task: PretrainTask, built: Backbone, summary: TrainingSummary) -> PretrainResult:
    card = write_card(
        task.out,
        built.network,
        base=task.base,
        summary=summary,
        half=task.request.synthetic,
        overwrite=task.request.overwrite,
    )
    return PretrainResult(card, tuple(request.output_files(task.out)), summary)


def _checkpoint(
    task: PretrainTask, built: Backbone, config: SimSiamConfig | SyntheticConfig, images: str = ""
) -> PretrainCheckpoint:
    """The checkpoint beside the card, for the digest of everything that determines the training, `images` included."""
    base = task.base
    parts = [base.source, base.arguments, base.size, base.preprocessing, dataclasses.asdict(config)]
    text = json.dumps([*parts, built.weights_sha256, images], sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()
    folder = request.sibling(task.out, CHECKPOINT_SUFFIX)
    return PretrainCheckpoint(folder, key, may_discard=task.request.overwrite)
