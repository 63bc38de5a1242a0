"""Members of folds as tasks of a cluster: each worker opens the session of the run again, and trains what it is given.

Workers read pixels and features from the caches of the run, which must lie on a disk that all nodes share.
"""

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import keras
import numpy as np

from tlcli.cluster import crew
from tlcli.cluster.connection import OPTION, Cluster
from tlcli.data.pixels import Examples
from tlcli.errors import RunError, UsageError
from tlcli.features.extraction import FeatureCache
from tlcli.model import backbone
from tlcli.model.classifier import assemble
from tlcli.model.layer_groups import LayerGroups
from tlcli.recipe.schema import Recipe
from tlcli.train import events, policy
from tlcli.train.checkpoint import Arrays, Checkpoint
from tlcli.train.lr_range import LrRange
from tlcli.train.member import Member, PreparedStep, Trained, prepare, train, use
from tlcli.train.session import Session
from tlcli.zoo import catalogue
from tlcli.zoo.resolve import resolve_card

# Most cores of a task.
TASK_CPUS = 2


@dataclass(frozen=True)
class Blueprint:
    """What a worker opens the session of a run by; likewise named attributes are those of the session.

    Attributes:
        run: The run folder.
        size: Height and width of the images, pixels.
        pixels: The file of the pixel cache.
        cache: The feature cache.
        pool: Rows in the pixel cache and labels of all images that train; likewise `test`.
    """

    run: Path
    recipe: Recipe
    groups: LayerGroups
    classes: tuple[str, ...]
    size: tuple[int, int]
    pixels: Path
    cache: FeatureCache
    pool: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    folds: tuple[int, ...]
    taught: np.ndarray | None
    device: str


@dataclass(frozen=True)
class Task:
    """A step of one member. Attributes that the session has, too, are those before the step."""

    step: policy.Step
    member: Member
    outcomes: list[policy.Outcome]
    precisions: dict[str, Any]
    lr_ranges: dict[str, LrRange]
    norms: dict[int, dict[str, float]]
    pretrained: Arrays


def train_on(cluster: Cluster, session: Session, members: Sequence[Member], step: policy.Step) -> Sequence[Trained]:
    """Train all members, each as a task.

    Args:
        cluster: The cluster.
        session: The session. The step has been prepared for the first member, so what is measured once is known.
        members: The members. They get the probabilities of a head that is solved already.
        step: The step.

    Raises:
        UsageError: If a node does not see the folders of the run.
        RunError: If every worker that trains a member is lost.
        TlcliError: As for training in this process.
    """
    cpus = min(TASK_CPUS, max(node.cpus for node in cluster.nodes()) or 1)
    job = crew.Job("folds", _open, (_blueprint(session),), cpus=cpus, ahead=1, most=len(members))

    def piece(number: int) -> tuple[Task]:
        member = members[number]
        # Images travel as rows of the pixel cache.
        sent = Member(_without_pixels(member.train), _without_pixels(member.val), member.weights, member.probabilities)
        before = (session.outcomes, session.precisions, session.lr_ranges, session.norms, session.pretrained)
        return (Task(step, sent, *before),)

    trained: dict[int, Trained] = {}
    for number, result in crew.run(cluster, job, len(members), piece):
        if result is crew.LOST:
            hint = "It may lack memory. Run the command with --resume to continue."
            raise RunError("every worker that trains it is lost", where=f"fold {number + 1}", hint=hint)
        trained[number], members[number].probabilities = result
        session.observe(events.Advanced(f"{step.name}, folds", len(trained), len(members)))
    return [trained[number] for number in range(len(members))]


def _blueprint(session: Session) -> Blueprint:
    classifier, pool, test = session.classifier, session.pool, session.test
    return Blueprint(
        session.checkpoint.folder.parent.absolute(),
        session.recipe,
        session.groups,
        classifier.classes,
        classifier.size,
        # The pixel cache is a memory map.
        Path(str(cast("np.memmap[Any, Any]", pool.pixels).filename)),
        session.feature_cache,
        (pool.rows, pool.labels),
        (test.rows, test.labels),
        session.folds,
        session.taught,
        session.device,
    )


def _without_pixels(examples: Examples) -> Examples:
    return Examples(np.zeros(0, np.uint8), examples.rows, examples.labels)


@dataclass
class _Opened:
    """The session of the run that this worker trains for, and the step that is compiled."""

    run: Path
    session: Session
    step: policy.Step | None = None
    prepared: PreparedStep | None = None


_opened: list[_Opened] = []


def _open(blueprint: Blueprint) -> Callable[[Task], tuple[Trained, np.ndarray | None]]:
    """In a worker: the function that trains a member. The session serves all steps of a run."""
    for path in (blueprint.run, blueprint.pixels):
        if not path.exists():
            hint = "Folds need a disk that all nodes share: choose --out, and TLCLI_CACHE, there."
            raise UsageError(f"node {platform.node()} does not see {path}", where=OPTION, hint=hint)
    if not _opened or _opened[0].run != blueprint.run:
        _opened[:] = [_Opened(blueprint.run, _session(blueprint))]
    opened, session = _opened[0], _opened[0].session

    def work(task: Task) -> tuple[Trained, np.ndarray | None]:
        session.outcomes, session.precisions = list(task.outcomes), dict(task.precisions)
        session.lr_ranges, session.norms, session.pretrained = task.lr_ranges, task.norms, task.pretrained
        train_images, val_images = (_with_pixels(session, part) for part in (task.member.train, task.member.val))
        member = Member(train_images, val_images, task.member.weights, task.member.probabilities)
        use(session, member)
        opened.prepared = prepare(session, task.step, opened.prepared if opened.step == task.step else None)
        opened.step = task.step
        return train(session, member, opened.prepared), member.probabilities

    return work


def _with_pixels(session: Session, examples: Examples) -> Examples:
    return Examples(session.pool.pixels, examples.rows, examples.labels)


def _session(blueprint: Blueprint) -> Session:
    """The session of a run, with random weights: every task brings those of its member."""
    recipe, groups = blueprint.recipe, blueprint.groups
    keras.backend.clear_session()
    card = resolve_card(recipe, catalogue.find(recipe.model.name))
    cut = groups.groups[-1].boundary if recipe.model.drop_top else None
    built = backbone.build(card, size=blueprint.size, arguments=recipe.model.arguments, weights="random", cut=cut)
    if recipe.model.batch_norm_epsilon is not None:
        backbone.set_batch_norm_epsilon(built.network, recipe.model.batch_norm_epsilon)
    pixels = np.load(blueprint.pixels, mmap_mode="r")
    pool, test = Examples(pixels, *blueprint.pool), Examples(pixels, *blueprint.test)
    return Session(
        recipe,
        assemble(built, recipe.head, classes=blueprint.classes, resize=recipe.data.resize),
        groups,
        pool,
        Examples(pixels, pool.rows[:0], pool.labels[:0]),
        test,
        blueprint.cache,
        Checkpoint(blueprint.run),
        device=blueprint.device,
        folds=blueprint.folds,
        taught=blueprint.taught,
    )
