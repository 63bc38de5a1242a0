"""What the steps of one run share: the images, the classifier as it is trained, and what was found so far."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tlcli.cache.results import ResultCache
from tlcli.data.augment import bounds_of
from tlcli.data.pixels import Examples, Images
from tlcli.features import extraction, placement
from tlcli.model import precision
from tlcli.model.backbone import Backbone
from tlcli.model.classifier import POOLED, Classifier, assemble
from tlcli.model.groups import LayerGroups
from tlcli.paths import cache_dir
from tlcli.recipe.fields import bytes_of
from tlcli.recipe.schema import Recipe
from tlcli.train import events, policy
from tlcli.train.budget import Budget, StepCost, epoch_flops
from tlcli.train.checkpoint import Arrays, Checkpoint
from tlcli.train.preparation import Prepared
from tlcli.train.stage import ImageSource, Stage, cut_point_of, open_stage


@dataclass
class Session:
    """What the steps of one run share.

    `history` collects one row an epoch; `prefix_s` is the time spent on outputs of frozen layers, seconds; `precisions`
    says of the steps, and of frozen layers, where it was measured what they compute in; `norms` holds by phase the
    relative gradient norm of each layer group, where a policy asked for it; `pretrained` the backbone's weights before
    the first step, in the order of the model, where a phase pulls towards them; `memory` is where results are found
    again.
    """

    recipe: Recipe
    classifier: Classifier
    groups: LayerGroups
    train: Examples
    val: Examples
    test: Examples
    feature_cache: extraction.FeatureCache
    checkpoint: Checkpoint
    observe: events.Observer = events.ignore
    outcomes: list[policy.Outcome] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    prefix_s: float = 0.0
    device: str = "cpu"
    budget: Budget = field(default_factory=Budget)
    precisions: dict[str, Any] = field(default_factory=dict)
    norms: dict[int, dict[str, float]] = field(default_factory=dict)
    pretrained: Arrays = field(default_factory=list)
    results: ResultCache | None = None
    _stage: Stage | None = field(default=None, init=False, repr=False)
    _images_done: int = field(default=0, init=False, repr=False)

    @property
    def stage(self) -> Stage:
        """Where the step that runs now, or ran last, begins.

        Raises:
            RuntimeError: Before the first step; an internal error.
        """
        if self._stage is None:
            raise RuntimeError("no step has begun, so that there is nothing to train or score with")
        return self._stage

    @property
    def measurements(self) -> Path:
        """Where the speed of this machine is noted."""
        return self.feature_cache.folder.parent / "precision.json"

    @property
    def backbone_weights(self) -> list[Any]:
        """Every weight and statistic of the backbone, in the order of the model."""
        head = {id(weight) for layer in self.classifier.head_layers for weight in layer.weights}
        return [weight for weight in self.classifier.model.weights if id(weight) not in head]

    def enter(self, step: policy.Step) -> None:
        """Have what the step is fed computed, or found, and the network above it built."""
        place = self.placement_of(step)
        with self._timed_pass(place):
            ahead = self._ahead(step, place) if place.is_stored else []
            self._stage = open_stage(self.classifier, place, self._ground(), ahead=ahead, progress=self._progress)

    def work(self, step: policy.Step) -> StepCost:
        """The multiply-adds of a step, if nothing of it is stored yet."""
        place, counts = self.placement_of(step), self._counts()
        below, above = self._flops(place)
        per_epoch = epoch_flops(below, above, train=counts.train, val=len(self.val), stored=place.is_stored)
        passes = counts.images + (place.views - 1) * counts.train if place.is_stored else 0
        return StepCost(passes * below, per_epoch)

    def _flops(self, place: placement.Placement) -> tuple[int, int]:
        """Multiply-adds for one image below a frontier and above it."""
        costs, depth = [group.flops for group in self.groups.groups], self._depth(place)
        return sum(costs[:depth]), sum(costs[depth:])

    @contextmanager
    def _timed_pass(self, place: placement.Placement | None) -> Iterator[None]:
        """Count the time, and learn the speed where the frozen layers below a frontier (None: all) were computed."""
        began, self._images_done = time.perf_counter(), 0
        yield
        seconds = time.perf_counter() - began
        self.prefix_s += seconds
        below = self._flops(place)[0] if place else sum(group.flops for group in self.groups.groups)
        self.budget.note_pass(self._images_done * below, seconds)

    def pooled(self) -> Callable[[Examples], np.ndarray]:
        """Pooled features of plain images, float32 (images, channels), from one pass over all there are."""
        ground = self._ground()
        feature_cache = self.feature_cache if self.recipe.performance.cache == "auto" else None
        also = self._ahead(None, None) if feature_cache else []
        with self._timed_pass(None):
            (found,) = extraction.extract(
                self.classifier,
                ground.images,
                feature_cache,
                at=[POOLED],
                also=also,
                view=ground.plain,
                progress=self._progress,
            )
        row = ground.row
        return lambda examples: found[row[examples.rows]]

    def _ahead(self, step: policy.Step | None, place: placement.Placement | None) -> list[str]:
        """Frontiers of the next steps, as far as the budget holds them beside that of this one.

        And as far as nothing below them learns before they are needed.
        """
        names: dict[str, None] = {}
        lowest, room = self._depth(place), self.feature_cache.budget - (place.bytes if place else 0)
        for later in policy.likely_steps(self.recipe.phases, self.groups, step):
            that = self.placement_of(later)
            name = cut_point_of(that)
            is_new = name not in (None, POOLED, cut_point_of(place) if place else None, *names)
            if that.is_stored and is_new and self._depth(that) <= lowest:
                room -= that.bytes
                if room < 0:
                    break
                names[str(name)] = None
            lowest = min(lowest, self._depth(that))
        return list(names)

    def _depth(self, place: placement.Placement | None) -> int:
        """How many groups lie below a frontier; all where no step has begun."""
        if place is None:
            return len(self.groups)
        return self.groups.names.index(place.group.name) + 1 if place.group else 0

    def _progress(self, done: int, total: int) -> None:
        self._images_done = done
        self.observe(events.Advanced("frozen layers", done, total))

    def placement_of(self, step: policy.Step) -> placement.Placement:
        """Where a step begins."""
        phase = self.recipe.phases[step.phase]
        return placement.placement_of(self.recipe, phase, step.layers, self.groups, self._counts())

    def _counts(self) -> placement.ImageCounts:
        return placement.ImageCounts(len(self.train) + len(self.val) + len(self.test), len(self.train))

    @property
    def frozen_precision(self) -> str:
        """What frozen layers compute in for training images: float32, or what is faster where that takes minutes.

        Scores of other images begin with float32 in any case.
        """
        images, flops = len(self.train), sum(group.flops for group in self.groups.groups)
        # Two operations a multiply-add.
        is_open = self.recipe.performance.precision == "auto"
        if not is_open or not precision.is_worth_measuring(2.0 * images * flops, self.device):
            return precision.FULL
        if precision.FROZEN not in self.precisions:
            shape = (*self.classifier.size, extraction.MEASURED_IMAGES)
            key = precision.measurement_key(f"{self.groups.name} frozen", 2.0 * flops, shape, self.device)
            self.precisions[precision.FROZEN] = precision.choose_precision(self.measurements, key, self._measured)
        return str(self.precisions[precision.FROZEN]["chosen"])

    def _measured(self) -> dict[str, float]:
        self.observe(events.Noticed(f"{precision.FROZEN}: measuring whether bfloat16 is faster"))
        return extraction.measure_precision(self.classifier, self.train)

    def _ground(self) -> ImageSource:
        scored = np.unique(np.concatenate([self.val.rows, self.test.rows]))
        if self.frozen_precision == precision.FULL:
            # In an order that does not depend on the split: another split finds them again.
            plain, rows = extraction.View(), np.union1d(self.train.rows, scored)
        else:
            plain = extraction.View(precision=self.frozen_precision, exact=len(scored))
            rows = np.concatenate([scored, np.setdiff1d(self.train.rows, scored)])
        bounds = bounds_of(self.recipe.augment)
        return ImageSource(
            Images(self.train.pixels, rows), self.train, self.feature_cache, bounds, self.recipe.seed, plain
        )

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold besides weights, JSON-ready."""
        return {
            "outcomes": [policy.record(outcome) for outcome in self.outcomes],
            "history": self.history,
            "prefix_s": self.prefix_s,
            "taken_s": self.budget.taken_s,
            "precisions": self.precisions,
            "norms": {str(phase): norms for phase, norms in self.norms.items()},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from the state of a checkpoint. Steps follow from the recipe, so only their results are stored."""
        self.norms = {int(phase): norms for phase, norms in state["norms"].items()}
        for line in state["outcomes"]:
            step = policy.next_step(self.recipe.phases, self.groups, self.outcomes, self.norms)
            if isinstance(step, policy.GradientSurvey):
                # There was no time even for that.
                (step,) = policy.steps_of(self.recipe.phases[step.phase], step.phase, self.groups)
            if step is None or step.name != line["step"]:
                raise RuntimeError(f"the checkpoint's step {line['step']!r} does not follow from the recipe")
            self.outcomes.append(policy.outcome_from(step, line))
        self.history, self.prefix_s = list(state["history"]), float(state["prefix_s"])
        self.precisions = dict(state["precisions"])


def open_session(
    prepared: Prepared, backbone: Backbone, checkpoint: Checkpoint, *, device: str, budget: Budget
) -> Session:
    """A session at the start of a run: a new head on the backbone, and the images of the plan.

    Args:
        prepared: The plan and its images.
        backbone: The network of the plan. Its layers become part of the classifier.
        checkpoint: Where the state of the run is saved.
        device: Where it computes.
        budget: The time it may take.
    """
    recipe, splits = prepared.plan.recipe, prepared.plan.splits
    keras.utils.set_random_seed(recipe.seed)
    made = assemble(backbone, recipe.head, classes=prepared.plan.classes, resize=recipe.data.resize)
    cache = extraction.FeatureCache(
        cache_dir() / "activations", bytes_of(recipe.performance.cache_budget), prepared.pixels.contents
    )
    train, val, test = (prepared.pixels.examples(images) for images in (splits.train, splits.val, splits.test))
    groups, results = prepared.plan.groups, result_cache(recipe)
    return Session(
        recipe, made, groups, train, val, test, cache, checkpoint, device=device, budget=budget, results=results
    )


def result_cache(recipe: Recipe) -> ResultCache | None:
    """The result cache of this machine, an eighth of the cache budget; None if the recipe turns it off."""
    spec = recipe.performance
    if spec.cache == "off" or not spec.reuse_results:
        return None
    return ResultCache(cache_dir() / "results", bytes_of(spec.cache_budget) // 8)
