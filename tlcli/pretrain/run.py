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
from tlcli.pretrain.images import ImageSet
from tlcli.pretrain.images import load_images as load_image_set
from tlcli.pretrain.request import STAGE, PretrainTask
from tlcli.pretrain.simsiam import OVERSIZE
from tlcli.pretrain.synthetic import training
from tlcli.train.events import Advanced, Noticed, Observer
from tlcli.zoo.card import FineTuning, ModelCard

_SHOWN = 10


@dataclass(frozen=True)
class PretrainResult:
    """What a pretraining left behind.

    Attributes:
        card: As `--model` finds it.
        files: What was written, the card last.
        account: How it came about.
        pictures: Different pictures that were used; 0 for drawn ones.
        unreadable: Files that were passed over.
    """

    card: ModelCard
    files: tuple[Path, ...]
    account: TrainingSummary
    pictures: int = 0
    unreadable: int = 0

    def to_json(self) -> dict[str, Any]:
        """The JSON shape of `tlcli pretrain --json`."""
        return {
            "card": str(self.files[-1]),
            "files": [str(path) for path in self.files],
            "name": self.card.name,
            "sha256": self.card.sha256,
            "data": self.card.data,
            "licence": self.card.licence,
            "size": self.card.size,
            "pictures": self.pictures,
            "unreadable": self.unreadable,
            "steps": self.account.steps,
            "seed": self.account.seed,
            "points": [dataclasses.asdict(point) for point in self.account.points],
            "command": self.account.command,
        }


def load_images(task: PretrainTask, root: Path, observe: Observer) -> ImageSet:
    found = load_image_set(
        root,
        side=round(OVERSIZE * task.side),
        cache=cache_dir() / "pixels",
        progress=lambda stage, done, total: observe(Advanced(stage, done, total)),
    )
    for path, reason in found.unreadable[:_SHOWN]:
        observe(Noticed(f"left out {root / path}: {reason}", is_warning=True))
    if len(found.unreadable) > _SHOWN:
        observe(Noticed(f"left out {len(found.unreadable)} unreadable files in all", is_warning=True))
    if found.copies:
        observe(Noticed(f"left out {found.copies} of {found.copies + len(found)} pictures that are copies of others"))
    return found


def train_on_images(task: PretrainTask, built: Backbone, found: ImageSet, observe: Observer) -> PretrainResult:
    asked = task.request
    course = simsiam.course_for(len(found), task.side, seed=asked.seed, epochs=asked.epochs, batch=asked.batch)
    steps = course.steps(len(found))
    observe(Noticed(f"{len(found)} pictures, {course.epochs} epochs of {steps} steps of {course.batch}"))
    left = PretrainCheckpoint(
        request.beside(task.out, CHECKPOINT_SUFFIX), _key(task, built, course, found), may_discard=asked.overwrite
    )
    done = len(left.points())
    if done:
        observe(Noticed(f"going on after epoch {done} (to begin anew, delete {left.folder})"))
    try:
        points = simsiam.train_simsiam(
            built,
            found,
            course,
            progress=_teller(observe, course.epochs, done),
            advance=lambda seen, total: observe(Advanced(STAGE, seen, total)),
            unfinished=left,
        )
    except RunError:
        # Going on would end the same way.
        left.remove()
        raise
    account = TrainingSummary(
        method='SimSiam, self-supervised (Chen & He 2021, "Exploring Simple Siamese Representation Learning",'
        " arXiv 2011.10566)",
        data=f"{len(found)} pictures of '{found.name}' without labels{task.start}",
        licence=task.licence,
        command=request.command(task, {"epochs": course.epochs, "batch-size": course.batch}),
        seed=course.seed,
        steps=steps * course.epochs,
        points=tuple(points),
        scores={f"spread when healthy, 1/√{simsiam.WIDTH}": simsiam.HEALTHY},
        limits=(
            "It has seen pictures of one kind. For pictures of another kind other weights may serve better.",
            "The loss is a cosine between views; it does not compare from one set of pictures to another.",
        ),
        healthy=simsiam.HEALTHY,
        fine_tuning=task.fine_tuning,
    )
    made = _written(task, built, account)
    left.remove()
    return dataclasses.replace(made, pictures=len(found), unreadable=len(found.unreadable))


def train_on_synthetic(task: PretrainTask, built: Backbone, observe: Observer) -> PretrainResult:
    asked = task.request
    given = {"images": asked.images, "batch": asked.batch, "seed": asked.seed}
    course = training.SyntheticCourse(**{name: value for name, value in given.items() if value is not None})
    observe(Noticed(f"{course.images} synthetic images of {course.classes} classes"))
    tell = _teller(observe, course.points)

    def told(point: Point) -> None:
        tell(point)
        observe(Advanced(STAGE, point.images, course.images))

    mode = task.card.preprocessing or "none"
    points = training.train_synthetic(built.network, lambda x: backbone.preprocess(x, mode), course, progress=told)
    account = TrainingSummary(
        method=f"supervised: telling {course.classes} classes of synthetic images apart, and which colours they have",
        data=f"{points[-1].images} synthetic images{task.start}",
        licence=task.licence,
        command=request.command(task, {"images": course.images, "batch-size": course.batch}),
        seed=course.seed,
        steps=points[-1].images // course.batch,
        points=tuple(points),
        fine_tuning=FineTuning(lr=4e-3, step="all", layer_decay=1.0, batch_norm="affine", epochs=12),
        limits=("It has never seen a photograph. Weights trained on photographs transfer better to photographs.",),
    )
    return _written(task, built, account)


def _teller(observe: Observer, of: int, done: int = 0) -> Callable[[Point], None]:
    """Tells each measurement as a numbered line."""
    numbers = itertools.count(done + 1)
    return lambda point: observe(Noticed(progress_line(point, next(numbers), of)))


def _written(task: PretrainTask, built: Backbone, account: TrainingSummary) -> PretrainResult:
    is_synthetic = task.request.synthetic
    made = write_card(
        task.out, built.network, base=task.base, account=account, half=is_synthetic, overwrite=task.request.overwrite
    )
    return PretrainResult(made, tuple(request.all_of(task.out)), account)


def _key(task: PretrainTask, built: Backbone, course: simsiam.Course, found: ImageSet) -> str:
    """Everything the training follows from."""
    base = task.base
    parts = [base.source, base.arguments, base.size, base.preprocessing, dataclasses.asdict(course)]
    text = json.dumps([*parts, built.weights_sha256, found.sha256], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
