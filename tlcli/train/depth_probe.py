"""Linear probes at every depth of a network, and the search for the best depth."""

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Any

import keras
import numpy as np

from tlcli.data.pixels import Images
from tlcli.errors import DataError
from tlcli.features import extraction
from tlcli.model import backbone, classifier
from tlcli.model.backbone import Backbone
from tlcli.model.groups import LayerGroup, LayerGroups
from tlcli.paths import cache_dir
from tlcli.recipe.schema import Recipe
from tlcli.train import decision, probe
from tlcli.train.events import Advanced, Noticed, Observer
from tlcli.train.plan import dropped_top, make_plan
from tlcli.train.preparation import ChosenNetwork, Prepared
from tlcli.train.probe import Features


@dataclass(frozen=True)
class Depth:
    """The linear probe on the features at the end of a layer group.

    Attributes:
        group: The group.
        channels: Features of an image there.
        flops_share: Share (0-1) of the network's operations up to there.
        drop_top: The `model.drop_top` that ends the network there.
        inverse_l2: One by the penalty, on standardised features; the one with the lowest validation loss.
        val_loss: Mean cross-entropy.
        val_accuracy: 0-1.
        test_accuracy: 0-1; None without test images.
    """

    group: str
    channels: int
    flops_share: float
    drop_top: int
    inverse_l2: float
    val_loss: float
    val_accuracy: float
    test_accuracy: float | None


@dataclass(frozen=True)
class Lead:
    """By how much one mean loss is below another, paired by image.

    Attributes:
        gain: The difference; above 0 where the first is lower.
        standard_error: Of the difference; 0 where there is but one image.
        confidence: Probability (0-1) that the gain is above 0.
    """

    gain: float
    standard_error: float
    confidence: float

    @property
    def is_clear(self) -> bool:
        """Whether the gain is more than its standard error."""
        return self.gain > self.standard_error


@dataclass(frozen=True)
class NetworkProbe:
    """The probes of one network.

    Attributes:
        model: Name of the network.
        weights: Where its weights come from.
        size: Input height and width, pixels.
        depths: From bottom to top.
        over_top: The lead of the best depth over the top.
        seconds: Spent on the pass over the images (`features`) and on solving (`probes`).
        notices: What the user should know of the choice of the network.
    """

    model: str
    weights: str
    size: tuple[int, int]
    depths: tuple[Depth, ...]
    over_top: Lead
    seconds: dict[str, float]
    notices: tuple[str, ...] = ()

    @cached_property
    def best(self) -> Depth:
        """The depth with the lowest validation loss; test images have no say."""
        return min(self.depths, key=lambda depth: depth.val_loss)

    def to_json(self) -> dict[str, Any]:
        """One of `models` in `tlcli probe --json`."""
        lead = {"gain_over_top": self.over_top.gain, "is_clear": self.over_top.is_clear}
        lead |= {"standard_error": self.over_top.standard_error, "confidence": self.over_top.confidence}
        return {
            "model": self.model,
            "weights": self.weights,
            "size": list(self.size),
            "depths": [asdict(depth) for depth in self.depths],
            "best": asdict(self.best) | lead,
            "seconds": self.seconds,
            "notices": list(self.notices),
        }


@dataclass(frozen=True)
class NetworkComparison:
    """The lead of the best network over another one, each at its best depth."""

    model: str
    over: str
    lead: Lead

    def to_json(self) -> dict[str, Any]:
        """One of `comparisons` in `tlcli probe --json`."""
        return {"model": self.model, "over": self.over, **asdict(self.lead), "is_clear": self.lead.is_clear}


@dataclass(frozen=True)
class ProbeResult:
    """What came out.

    Attributes:
        data: What was probed with, as `tlcli plan --json` says it.
        models: The networks in the order that was asked for.
        comparisons: The best of them over each other one; empty for one network.
    """

    data: dict[str, Any]
    models: tuple[NetworkProbe, ...]
    comparisons: tuple[NetworkComparison, ...]

    def to_json(self) -> dict[str, Any]:
        """The JSON shape of `tlcli probe --json`."""
        models = [probed.to_json() for probed in self.models]
        return {"data": self.data, "models": models, "comparisons": [each.to_json() for each in self.comparisons]}


def lead(losses: Sequence[float], over: Sequence[float]) -> Lead:
    """The lead of one probe over another, from their losses on the same images in the same order.

    >>> lead([0.0, 1.0, 2.0], [1.0, 2.0, 6.0])
    Lead(gain=2.0, standard_error=1.0, confidence=0.908248290463863)
    """
    gains = [other - own for own, other in zip(losses, over, strict=True)]
    spread = statistics.stdev(gains) if len(gains) > 1 else 0.0
    return Lead(statistics.fmean(gains), spread / math.sqrt(len(gains)), decision.confidence(gains))


SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class MeasuredProbe:
    """The probes of one network, and of its best one the losses of the validation images, in their order."""

    probed: NetworkProbe
    losses: list[float]


@dataclass(frozen=True)
class _Place:
    """A group that the network can end with, the share (0-1) of its operations up to there, and its `drop_top`."""

    group: LayerGroup
    flops_share: float
    drop_top: int


@dataclass(frozen=True)
class _Labels:
    """What all probes of one network share: the labels of each split, in the order of the features, and what to fit."""

    labels: dict[str, np.ndarray]
    classes: int
    is_balanced: bool

    def split(self, x: np.ndarray) -> dict[str, Features]:
        """Features of all images, `float32 (images, channels)`, by split."""
        found, start = {}, 0
        for name, labels in self.labels.items():
            found[name] = Features(x[start : start + len(labels)], labels)
            start += len(labels)
        return found


def build_backbone(recipe: Recipe, chosen: ChosenNetwork, *, weights: str | None = None) -> backbone.Backbone:
    """The backbone that a recipe means, with its weights or, where `weights` says so, `random` ones."""
    keras.utils.set_random_seed(recipe.seed)
    return backbone.build(
        chosen.card,
        size=chosen.size,
        arguments=recipe.model.arguments,
        weights=weights or recipe.model.weights,
        cut=dropped_top(recipe, chosen.groups).groups[-1].boundary if recipe.model.drop_top else None,
    )


def require_validation(prepared: Prepared) -> None:
    """Refuse a plan without validation images.

    Raises:
        DataError: If there are none.
    """
    if not prepared.plan.splits.val:
        raise DataError(
            "depths are compared by validation images, and there are none",
            where="data.val",
            hint="Set it above 0, for example --set data.val=0.2, or to a folder of class folders.",
        )


def probe_depths(
    prepared: Prepared, built: backbone.Backbone, notices: tuple[str, ...], observe: Observer
) -> MeasuredProbe:
    """Probe a network at every depth, from one pass over the images."""
    plan = prepared.plan
    ground, places = _labels_of(prepared), _places(plan.groups, dropped=plan.recipe.model.drop_top)
    began = time.perf_counter()
    features = _features(prepared, built, [place.group.boundary for place in places], observe)
    passed = time.perf_counter()
    found: list[tuple[Depth, list[float]]] = []
    for place, x in zip(places, features, strict=True):
        found.append(_solved(place, x, ground))
        observe(Advanced(f"probes of {plan.card.name}", len(found), len(places)))
    seconds = {"features": round(passed - began, 3), "probes": round(time.perf_counter() - passed, 3)}
    _, losses = min(found, key=lambda pair: pair[0].val_loss)
    steps, over_top = tuple(depth for depth, _ in found), lead(losses, found[-1][1])
    return MeasuredProbe(
        NetworkProbe(plan.card.name, built.weights_origin, plan.size, steps, over_top, seconds, notices), losses
    )


def _features(
    prepared: Prepared, built: backbone.Backbone, layers: Sequence[str], observe: Observer
) -> list[np.ndarray]:
    """Pooled features at these layers of all images, split after split: `float32 (images, channels)` for each."""
    plan = prepared.plan
    made = classifier.assemble(built, plan.recipe.head, classes=plan.classes, resize=plan.recipe.data.resize)
    rows = [prepared.pixels.rows_of(getattr(plan.splits, name)) for name in SPLITS]
    stage = f"features of {plan.card.name}"
    return extraction.extract_depths(
        extraction.pooled_model(made.features, layers, pooling=plan.recipe.head.pooling),
        Images(prepared.pixels.array, np.concatenate(rows)),
        cache_dir() / "probes",
        progress=lambda done, total: observe(Advanced(stage, done, total)),
    )


def _labels_of(prepared: Prepared) -> _Labels:
    splits, recipe = prepared.plan.splits, prepared.plan.recipe
    labels = {name: np.array([image.label for image in getattr(splits, name)], np.int64) for name in SPLITS}
    return _Labels(labels, len(prepared.plan.classes), recipe.data.class_weights == "balanced")


def _places(groups: LayerGroups, *, dropped: int) -> list[_Place]:
    """The groups that a network can end with. Where the FLOPs are unknown, all groups count alike."""
    costs = [group.flops for group in groups]
    spent = list(accumulate(costs if any(costs) else [1] * len(groups)))
    return [
        _Place(group, spent[index] / spent[-1], dropped + len(groups) - 1 - index)
        for index, group in enumerate(groups)
        if group.is_cut_point
    ]


def _solved(place: _Place, x: np.ndarray, ground: _Labels) -> tuple[Depth, list[float]]:
    """The probe at one depth, and its losses on the validation images."""
    split = ground.split(x)
    solution = probe.solve(split["train"], split["val"], classes=ground.classes, balanced=ground.is_balanced)
    losses, hits = probe.scored(solution, split["val"])
    depth = Depth(
        place.group.name,
        x.shape[1],
        place.flops_share,
        place.drop_top,
        solution.inverse_l2,
        float(losses.mean()),
        float(hits.mean()),
        float(probe.scored(solution, split["test"])[1].mean()) if len(split["test"].y) else None,
    )
    return depth, losses.tolist()


POLICY = "depth_search"
LEAST_CONFIDENCE = 0.9


@dataclass(frozen=True)
class DepthChoice:
    """What the probe chose: how many groups are dropped, why in one sentence, and what it saw."""

    drop_top: int
    reason: str
    probed: NetworkProbe

    def to_json(self) -> dict[str, Any]:
        """What run.json holds of it, under `model.depth_search`."""
        depths = [(depth.group, depth.drop_top, depth.val_loss, depth.val_accuracy) for depth in self.probed.depths]
        names = ("group", "drop_top", "val_loss", "val_accuracy")
        return {
            "drop_top": self.drop_top,
            "reason": self.reason,
            "depths": [dict(zip(names, each, strict=True)) for each in depths],
        }


def search_depth(
    prepared: Prepared, built: Backbone, network: ChosenNetwork, observe: Observer
) -> tuple[Prepared, Backbone, "DepthChoice | None"]:
    """Carry out the depth search if a phase asks for it: the plan and the backbone that end at the best depth.

    Returns:
        The plan, the backbone and the choice; the first two unchanged and None if no phase asks for it.
    """
    plan = prepared.plan
    if not wants_depth_search(plan.recipe):
        return prepared, built, None
    choice = choose_depth(prepared, built, observe)
    recipe = apply_choice(plan.recipe, choice)
    cut = make_plan(recipe, plan.card, groups=network.groups, splits=plan.splits, classes=plan.classes, speed=None)
    return replace(prepared, plan=cut), build_backbone(recipe, network), choice


def wants_depth_search(recipe: Recipe) -> bool:
    """Whether a phase asks for the search."""
    return any(phase.policy == POLICY for phase in recipe.phases)


def choose_depth(prepared: Prepared, built: Backbone, observe: Observer) -> DepthChoice:
    """Probe every depth, and drop what lies above the best one if it is better than the top by enough.

    Enough is what the phase asks, `until.confidence` by the paired test on the validation images and `until.min_delta`
    in validation loss, but at least `LEAST_CONFIDENCE`: the best of many depths was chosen by the same images.

    Raises:
        DataError: If there are no validation images, or no room for the features.
    """
    require_validation(prepared)
    until = next(phase.until for phase in prepared.plan.recipe.phases if phase.policy == POLICY)
    probed = probe_depths(prepared, built, (), observe).probed
    best, lead, top = probed.best, probed.over_top, probed.depths[-1]
    if best is top:
        choice = DepthChoice(top.drop_top, f"the top is the best depth (validation loss {top.val_loss:.4f})", probed)
    else:
        found = f"{best.group} has a validation loss {lead.gain:.4f} below that of the top, {lead.confidence:.0%} sure"
        asked = max(until.confidence, LEAST_CONFIDENCE)
        if lead.confidence >= asked and lead.gain > until.min_delta:
            dropped = best.drop_top - top.drop_top
            choice = DepthChoice(best.drop_top, f"{found}: {dropped} group{'s' * (dropped > 1)} dropped", probed)
        else:
            choice = DepthChoice(
                top.drop_top, f"{found}, too little to drop what is above it ({asked:.0%} is asked)", probed
            )
    observe(Noticed(f"depth search: {choice.reason}"))
    return choice


def apply_choice(recipe: Recipe, choice: DepthChoice) -> Recipe:
    """The recipe that the search amounts to: running it gives the same run."""
    phases = [
        phase.model_copy(update={"policy": "gradual"}) if phase.policy == POLICY else phase for phase in recipe.phases
    ]
    model = recipe.model.model_copy(update={"drop_top": choice.drop_top})
    return recipe.model_copy(update={"phases": phases, "model": model})


def compare_probes(measured: Sequence[MeasuredProbe]) -> list[NetworkComparison]:
    """The network with the lowest validation loss against each of the others, by the same validation images."""
    best = min(measured, key=lambda each: each.probed.best.val_loss)
    return [
        NetworkComparison(best.probed.model, other.probed.model, lead(best.losses, other.losses))
        for other in measured
        if other is not best
    ]
