"""The session: what the steps of one run share, such as images, classifier, caches and outcomes."""

import gc
import hashlib
import importlib.metadata
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tlcli.cache.results import ResultCache
from tlcli.cluster.hosts import this_host
from tlcli.data.augment import bounds_of
from tlcli.data.pixels import Examples, Images
from tlcli.features import extraction, frozen
from tlcli.features.placement import ImageCounts, Placement, placement_of
from tlcli.model import precision
from tlcli.model.backbone import Backbone
from tlcli.model.classifier import Classifier, assemble
from tlcli.model.devices import require_shareable, table_bytes
from tlcli.model.head import POOLED
from tlcli.model.hosts import count as host_count
from tlcli.model.hosts import require_same
from tlcli.model.layer_groups import LayerGroups
from tlcli.model.seed import set_random_seed
from tlcli.model.traces import release_traces
from tlcli.paths import cache_dir
from tlcli.recipe.fields import bytes_of
from tlcli.recipe.phase import PhaseSpec
from tlcli.recipe.schema import Recipe
from tlcli.text import plural
from tlcli.train import events, policy
from tlcli.train.budget import Budget, StepCost, epoch_flops
from tlcli.train.checkpoint import Arrays, Checkpoint
from tlcli.train.lr_range import LrRange
from tlcli.train.preparation import Prepared
from tlcli.train.stage import ImageSource, Stage, cut_point_of, open_stage


@dataclass
class Session:
    """What the steps of one run share.

    Attributes:
        recipe: The resolved recipe.
        classifier: The classifier in training.
        groups: The layer groups of its backbone.
        train: The training images; likewise `val` and `test`. With folds, those of the current fold.
        feature_cache: Where features of frozen layers are stored.
        checkpoint: Where the state of the run is saved.
        observe: Receives events.
        outcomes: The outcomes of the finished steps, in order.
        history: One row per epoch.
        prefix_s: Time spent on the features of frozen layers, seconds.
        device: Name of the device, such as `cpu:0`.
        budget: The time budget.
        precisions: The measured precision by step name, and for the frozen layers, if it was measured.
        lr_ranges: The range test of each phase that has `lr: find`, by name of the phase.
        norms: The relative gradient norm of each layer group, by phase, if the policy needs it.
        pretrained: The backbone weights before the first step, in the order of the model, if a phase uses L2-SP.
        results: The result cache; None if results are not cached.
        folds: Fold of each image of `pool`, from 0; empty without folds.
        pool: The training images; with folds, those of all folds.
        out_of_fold: Probabilities of the images of `pool`, float32 (images, classes), each by the classifier of the
            fold that it validates; None without folds, and before the phases end.
        taught: What a teacher says of the images of `pool`, in their order: probabilities at the temperature of the
            recipe, `float32 (images, classes)`; None without a teacher.
        probe_from_cache: True if the head starts from the cached solution of a linear probe.
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
    lr_ranges: dict[str, LrRange] = field(default_factory=dict)
    norms: dict[int, dict[str, float]] = field(default_factory=dict)
    pretrained: Arrays = field(default_factory=list)
    results: ResultCache | None = None
    folds: tuple[int, ...] = ()
    out_of_fold: np.ndarray | None = None
    taught: np.ndarray | None = None
    probe_from_cache: bool = False
    pool: Examples = field(init=False)
    _stage: Stage | None = field(default=None, init=False, repr=False)
    _images_done: int = field(default=0, init=False, repr=False)
    _is_told: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        self.pool = self.train

    def taught_of_train(self) -> np.ndarray | None:
        """The rows of `taught` for the images of `train`, which may be those of one fold; None without a teacher."""
        if self.taught is None:
            return None
        place = np.zeros(int(self.pool.rows.max()) + 1, np.int64)
        place[self.pool.rows] = np.arange(len(self.pool))
        return np.asarray(self.taught[place[self.train.rows]])

    @property
    def stage(self) -> Stage:
        """The stage of the current or the last step.

        Raises:
            RuntimeError: Before the first step; an internal error.
        """
        if self._stage is None:
            raise RuntimeError("no step has begun: there is no stage")
        return self._stage

    @property
    def measurements(self) -> Path:
        """Path of the file with the precision measurements of this machine."""
        return self.feature_cache.folder.parent / "precision.json"

    @property
    def backbone_weights(self) -> list[Any]:
        """All weights and statistics of the backbone, in the order of the model."""
        head = {id(weight) for layer in self.classifier.head_layers for weight in layer.weights}
        return [weight for weight in self.classifier.model.weights if id(weight) not in head]

    def learning_rate(self, phase: PhaseSpec) -> float:
        """The learning rate of a phase; with `lr: find` that of its range test."""
        asked = phase.learning_rate(self.recipe.optimizer.lr)
        return self.lr_ranges[phase.name].lr if asked == "find" else asked

    def enter(self, step: policy.Step) -> None:
        """Open the stage of a step; its features are read from the cache or computed."""
        placement = self.placement_of(step)
        had_table = self._stage is not None and self._stage.trainee.table is not None
        self._stage = None
        release_traces()
        if had_table:
            # Models are reference cycles, and Python does not know how much memory of a device they hold.
            gc.collect()
        with self._timed_pass(placement):
            also = self._later_cut_points(step, placement) if placement.is_stored else []
            source = self._image_source()
            # Mixing blends the inputs of a batch before they are sent.
            limit = 0 if self.recipe.augment.mixup or self.recipe.augment.cutmix else table_bytes()
            self._stage = open_stage(
                self.classifier, placement, source, also=also, progress=self._report_progress, table_bytes=limit
            )

    def reopen(self) -> None:
        """Open the stage of the last kept step for scores, if a resumed run had nothing left to train."""
        if self._stage is None:
            kept = [outcome for outcome in self.outcomes if outcome.kept]
            self.enter((kept or self.outcomes)[-1].step)

    def cost_of(self, step: policy.Step) -> StepCost:
        """The cost of a step in multiply-adds, if none of its features are stored yet."""
        placement, counts = self.placement_of(step), self._image_counts()
        below, above = self._flops(placement)
        per_epoch = epoch_flops(below, above, train=counts.train, val=len(self.val), stored=placement.is_stored)
        images = counts.images + (placement.views - 1) * counts.train if placement.is_stored else 0
        return StepCost(images * below, per_epoch)

    def _flops(self, placement: Placement | None) -> tuple[int, int]:
        """Multiply-adds per image below and above a cut point (None: above all groups)."""
        flops, depth = [group.flops for group in self.groups.groups], self._groups_below(placement)
        return sum(flops[:depth]), sum(flops[depth:])

    @contextmanager
    def _timed_pass(self, placement: Placement | None) -> Iterator[None]:
        """Add the time to `prefix_s`; report the speed to the budget if the layers below a cut point were computed."""
        began, self._images_done = time.perf_counter(), 0
        yield
        seconds = time.perf_counter() - began
        self.prefix_s += seconds
        self.budget.record_pass(self._images_done * self._flops(placement)[0], seconds)

    def pooled(self) -> Callable[[Examples], np.ndarray]:
        """A function that returns pooled features in the plain view, float32 (images, channels).

        The features of all images are read from the cache or computed in one pass.
        """
        source = self._image_source()
        feature_cache = self.feature_cache if self.recipe.performance.cache == "auto" else None
        also = self._later_cut_points(None, None) if feature_cache else []
        extractor = extraction.FeatureExtractor(self.classifier, source.images, source.plain)
        with self._timed_pass(None):
            (features,) = extractor.extract([POOLED], feature_cache, also=also, progress=self._report_progress)
        if feature_cache and not self._images_done:
            self.observe(events.Noticed("features of the frozen layers: from the cache"))
        row = source.row
        return lambda examples: features[row[examples.rows]]

    def _later_cut_points(self, step: policy.Step | None, placement: Placement | None) -> list[str]:
        """Cut points of likely later steps whose features are worth storing in the same pass.

        They fit the cache budget beside the features of this step, and no layer below them is trained before they are
        needed.
        """
        cut_points: dict[str, None] = {}
        current = cut_point_of(placement) if placement else None
        lowest, free_bytes = self._groups_below(placement), self.feature_cache.budget
        free_bytes -= placement.bytes if placement else 0
        for later in policy.likely_steps(self.recipe.phases, self.groups, step):
            candidate = self.placement_of(later)
            cut_point = cut_point_of(candidate)
            is_new = cut_point not in (None, POOLED, current, *cut_points)
            if candidate.is_stored and is_new and self._groups_below(candidate) <= lowest:
                free_bytes -= candidate.bytes
                if free_bytes < 0:
                    break
                cut_points[str(cut_point)] = None
            lowest = min(lowest, self._groups_below(candidate))
        return list(cut_points)

    def _groups_below(self, placement: Placement | None) -> int:
        """The number of groups below a cut point; all groups for None."""
        if placement is None:
            return len(self.groups)
        return self.groups.names.index(placement.group.name) + 1 if placement.group else 0

    def _report_progress(self, done: int, total: int) -> None:
        self._images_done = done
        self.observe(events.Advanced("images through the frozen layers", done, total))

    def placement_of(self, step: policy.Step) -> Placement:
        """The cut point of a step, and what is stored there."""
        return placement_of(self.recipe, step.epochs, step.layers, self.groups, self._image_counts())

    def _image_counts(self) -> ImageCounts:
        val = 0 if self.folds else len(self.val)
        return ImageCounts(len(self.pool) + val + len(self.test), len(self.pool))

    @property
    def frozen_precision(self) -> str:
        """The precision of frozen layers for training images, float32 for all others.

        With `precision: auto` it is the faster one if they take minutes, else float32.
        """
        images, flops = len(self.pool), sum(group.flops for group in self.groups.groups)
        asked = self.recipe.performance.precision
        if asked != precision.AUTO:
            return asked
        # Two operations per multiply-add.
        if not precision.is_worth_measuring(2.0 * images * flops, self.device):
            return precision.FULL
        if precision.FROZEN not in self.precisions:
            shape = (*self.classifier.size, extraction.MEASURED_IMAGES)
            key = precision.measurement_key(f"{self.groups.name} frozen", 2.0 * flops, shape, self.device)
            self.precisions[precision.FROZEN] = precision.choose_precision(
                self.measurements, key, self._measure_frozen_precision
            )
        return str(self.precisions[precision.FROZEN]["chosen"])

    def _measure_frozen_precision(self) -> dict[str, float]:
        """Seconds per batch of the frozen layers in each precision."""
        self.observe(events.Noticed(f"{precision.FROZEN}: measuring whether bfloat16 is faster"))
        return extraction.measure_precision(self.classifier, self.pool)

    def _image_source(self) -> ImageSource:
        validating = self.pool if self.folds else self.val
        scored = np.unique(np.concatenate([validating.rows, self.test.rows]))
        if self.frozen_precision == precision.FULL:
            # The order does not depend on the split, so that another split finds the same features in the cache.
            plain, rows = frozen.View(), np.union1d(self.pool.rows, scored)
        else:
            plain = frozen.View(precision=self.frozen_precision, exact=len(scored))
            rows = np.concatenate([scored, np.setdiff1d(self.pool.rows, scored)])
            self._report_precision(len(rows), len(scored))
        images, bounds = Images(self.pool.pixels, rows), bounds_of(self.recipe.augment)
        return ImageSource(images, self.pool, self.feature_cache, bounds, self.recipe.seed, plain)

    def _report_precision(self, images: int, exact: int) -> None:
        """Say it, once, if the precision that the recipe asks for has no effect on the frozen layers."""
        if self._is_told or frozen.computes_in_half(images, exact):
            return
        self._is_told = True
        asked, count = self.frozen_precision, plural(images, "image")
        reason = f"{count} fill no batch without validation or test images, which are computed in float32"
        self.observe(events.Noticed(f"{precision.FROZEN}: {asked} has no effect: {reason}"))

    def state(self) -> dict[str, Any]:
        """What a checkpoint stores besides weights, ready for JSON."""
        return {
            "outcomes": [policy.record(outcome) for outcome in self.outcomes],
            "history": self.history,
            "prefix_s": self.prefix_s,
            "taken_s": self.budget.taken_s,
            "precisions": self.precisions,
            "lr_ranges": {name: asdict(found) for name, found in self.lr_ranges.items()},
            "norms": {str(phase): norms for phase, norms in self.norms.items()},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from the state of a checkpoint. The steps follow from the recipe; only their results are stored."""
        self.lr_ranges = {name: LrRange(**found) for name, found in state["lr_ranges"].items()}
        self.norms = {int(phase): norms for phase, norms in state["norms"].items()}
        for line in state["outcomes"]:
            step = policy.next_step(self.recipe.phases, self.groups, self.outcomes, self.norms)
            if isinstance(step, policy.GradientSurvey):
                # The survey and its step were skipped, because the time budget did not allow them.
                (step,) = policy.steps_of(self.recipe.phases[step.phase], step.phase, self.groups)
            if step is None or step.name != line["step"]:
                raise RuntimeError(f"the checkpoint's step {line['step']!r} does not follow from the recipe")
            self.outcomes.append(policy.outcome_from(step, line))
        self.history, self.prefix_s = list(state["history"]), float(state["prefix_s"])
        self.precisions = dict(state["precisions"])


def open_session(
    prepared: Prepared, backbone: Backbone, checkpoint: Checkpoint, *, device: str, budget: Budget
) -> Session:
    """A session at the start of a run, with a new head on the backbone.

    Args:
        prepared: The plan and its images.
        backbone: The backbone of the plan. Its layers become part of the classifier.
        checkpoint: Where the state of the run is saved.
        device: Name of the device, such as `cpu:0`.
        budget: The time budget.

    Raises:
        UsageError: If several devices cannot share a batch equally, or several hosts have other images or settings.
    """
    recipe, splits = prepared.plan.recipe, prepared.plan.splits
    require_shareable(recipe.performance.batch_size)
    require_same(_digest(prepared), "images or settings")
    set_random_seed(recipe.seed)
    classifier = assemble(backbone, recipe.head, classes=prepared.plan.classes, resize=recipe.data.resize)
    feature_cache = extraction.FeatureCache(
        cache_dir() / _feature_folder(), bytes_of(recipe.performance.cache_budget), prepared.pixels.contents
    )
    train, val, test = (prepared.pixels.examples(images) for images in (splits.train, splits.val, splits.test))
    return Session(
        recipe,
        classifier,
        prepared.plan.groups,
        train,
        val,
        test,
        feature_cache,
        checkpoint,
        device=device,
        budget=budget,
        # Results of folds are not cached. Several hosts could know different ones.
        results=None if splits.folds or host_count() > 1 else result_cache(recipe),
        folds=splits.folds,
        taught=prepared.taught,
    )


def _digest(prepared: Prepared) -> bytes:
    """A hash of what a run does, but for where its files lie: 32 bytes."""
    plan = prepared.plan
    files: Any = {"data": {"path", "val", "test", "exclude"}, "model": {"name", "weights"}, "teacher": True}
    settings = plan.recipe.model_dump(mode="json", exclude=files)
    images = [[image.sha256, image.label, split] for image, split in plan.splits.rows()]
    facts = [importlib.metadata.version("tlcli"), settings, plan.card.name, plan.size, plan.classes, images]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).digest()


def _feature_folder() -> str:
    """The folder of features in the cache. Hosts may share the cache, and would wait for the lock of each other."""
    host = this_host()
    return "activations" if host is None or host.is_first else f"activations-host-{host.number}"


def result_cache(recipe: Recipe) -> ResultCache | None:
    """The result cache of this machine, with an eighth of the cache budget; None if the recipe disables it."""
    spec = recipe.performance
    if spec.cache == "off" or not spec.reuse_results:
        return None
    return ResultCache(cache_dir() / "results", bytes_of(spec.cache_budget) // 8)
