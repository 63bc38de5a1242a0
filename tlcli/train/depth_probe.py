"""Linear probes at every depth of a network, and the depth search, which drops the groups above the best depth."""

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np

from tlcli.data.pixels import Images
from tlcli.errors import DataError
from tlcli.features import extraction
from tlcli.model import classifier
from tlcli.model.backbone import Backbone, build, set_batch_norm_epsilon
from tlcli.model.layer_groups import LayerGroup, LayerGroups
from tlcli.model.seed import set_random_seed
from tlcli.paths import cache_dir
from tlcli.recipe.phase import UntilSpec
from tlcli.recipe.schema import Recipe
from tlcli.text import plural, whole_percent
from tlcli.train import decision, linear_probe
from tlcli.train.events import Advanced, Noticed, Observer, ignore
from tlcli.train.linear_probe import Features
from tlcli.train.plan import dropped_top, make_plan
from tlcli.train.preparation import ChosenNetwork, Prepared

SPLITS = ("train", "val", "test")
# The policy of a phase that starts with a depth search.
POLICY = "depth_search"
# Least confidence (0-1) for dropping groups. A lower `until.confidence` does not count, because the best of many
# depths is chosen by the same validation images.
MIN_CONFIDENCE = 0.9


@dataclass(frozen=True)
class Depth:
    """The linear probe on the pooled features at the end of one layer group.

    Attributes:
        group: Name of the group.
        channels: Number of features per image.
        flops_share: Fraction (0-1) of the network's multiply-adds up to this depth.
        drop_top: The `model.drop_top` that ends the network here.
        inverse_l2: Inverse L2 strength on standardised features, chosen by validation loss.
        val_loss: Mean cross-entropy on the validation images.
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
    """How much lower the mean loss of one probe is than that of another, paired by image.

    Attributes:
        gain: The mean difference; above 0 if the first is lower.
        standard_error: Standard error of the difference; 0 for a single image.
        confidence: Probability (0-1) that the gain is above 0.
    """

    gain: float
    standard_error: float
    confidence: float

    @property
    def is_clear(self) -> bool:
        """True if the gain exceeds its standard error."""
        return self.gain > self.standard_error


@dataclass(frozen=True)
class NetworkProbe:
    """The probes of one network.

    Attributes:
        model: Name of the network.
        weights: Origin of its weights.
        size: Input height and width, pixels.
        depths: From bottom to top.
        lead_over_top: The lead of the best depth over the top.
        seconds: Duration of the pass over the images (`features`) and of solving the probes (`probes`).
        notices: Notices about the choice of the network, for the user.
        best_losses: Cross-entropy of each validation image at the best depth.
    """

    model: str
    weights: str
    size: tuple[int, int]
    depths: tuple[Depth, ...]
    lead_over_top: Lead
    seconds: dict[str, float]
    notices: tuple[str, ...] = ()
    best_losses: tuple[float, ...] = field(default=(), repr=False)

    @cached_property
    def best(self) -> Depth:
        """The depth with the lowest validation loss. Test images have no influence."""
        return min(self.depths, key=lambda depth: depth.val_loss)

    def to_json(self) -> dict[str, Any]:
        """An element of `models` in `tlcli probe --json`."""
        lead = self.lead_over_top
        best = asdict(self.best) | {
            "gain_over_top": lead.gain,
            "is_clear": lead.is_clear,
            "standard_error": lead.standard_error,
            "confidence": lead.confidence,
        }
        return {
            "model": self.model,
            "weights": self.weights,
            "size": list(self.size),
            "depths": [asdict(depth) for depth in self.depths],
            "best": best,
            "seconds": self.seconds,
            "notices": list(self.notices),
        }


@dataclass(frozen=True)
class NetworkComparison:
    """The lead of the best network, `model`, over another one, `over`, each at its best depth."""

    model: str
    over: str
    lead: Lead

    def to_json(self) -> dict[str, Any]:
        """An element of `comparisons` in `tlcli probe --json`."""
        return {"model": self.model, "over": self.over, **asdict(self.lead), "is_clear": self.lead.is_clear}


@dataclass(frozen=True)
class ProbeResult:
    """The result of `tlcli probe`.

    Attributes:
        data: The images, as in `tlcli plan --json`.
        models: The networks in the order of the request.
        comparisons: The best network compared with each other one; empty for a single network.
    """

    data: dict[str, Any]
    models: tuple[NetworkProbe, ...]
    comparisons: tuple[NetworkComparison, ...]

    def to_json(self) -> dict[str, Any]:
        """The JSON shape of `tlcli probe --json`."""
        return {
            "data": self.data,
            "models": [model.to_json() for model in self.models],
            "comparisons": [comparison.to_json() for comparison in self.comparisons],
        }


def compare_losses(losses: Sequence[float], reference: Sequence[float]) -> Lead:
    """The lead of a probe over a reference, from the losses of both on the same images in the same order.

    >>> compare_losses([0.0, 1.0, 2.0], [1.0, 2.0, 6.0])
    Lead(gain=2.0, standard_error=1.0, confidence=0.908248290463863)
    """
    gains = [other - own for own, other in zip(losses, reference, strict=True)]
    deviation = statistics.stdev(gains) if len(gains) > 1 else 0.0
    return Lead(statistics.fmean(gains), deviation / math.sqrt(len(gains)), decision.confidence(gains))


def compare_probes(networks: Sequence[NetworkProbe]) -> list[NetworkComparison]:
    """The network with the lowest validation loss compared with each other one, on the same validation images."""
    best = min(networks, key=lambda network: network.best.val_loss)
    return [
        NetworkComparison(best.model, other.model, compare_losses(best.best_losses, other.best_losses))
        for other in networks
        if other is not best
    ]


def build_backbone(
    recipe: Recipe, network: ChosenNetwork, *, weights: str | None = None, observe: Observer = ignore
) -> Backbone:
    """Build the backbone of a recipe with its weights, or with those that `weights` names, such as `random`."""
    set_random_seed(recipe.seed)
    model = recipe.model
    cut = dropped_top(recipe, network.groups).groups[-1].boundary if model.drop_top else None
    weights = weights or model.weights
    backbone = build(network.card, size=network.size, arguments=model.arguments, weights=weights, cut=cut)
    if model.batch_norm_epsilon is not None:
        set_batch_norm_epsilon(backbone.network, model.batch_norm_epsilon)
    if backbone.restored is not None:
        observe(Noticed(backbone.restored.notice))
    return backbone


def require_validation(prepared: Prepared) -> None:
    """Check that there are validation images.

    Raises:
        DataError: If there are none.
    """
    if not prepared.plan.splits.val:
        raise DataError(
            "there are no validation images to compare depths by",
            where="data.val",
            hint="Set it above 0, for example --set data.val=0.2, or to a folder of class folders.",
        )


def probe_depths(prepared: Prepared, backbone: Backbone, notices: tuple[str, ...], observe: Observer) -> NetworkProbe:
    """Probe a network at every depth, with one pass over the images.

    Raises:
        DataError: If the disk has too little space for the features.
    """
    plan = prepared.plan
    labels, cut_points = labels_by_split(prepared), _cut_points(plan.groups, dropped=plan.recipe.model.drop_top)
    began = time.perf_counter()
    features = features_at(prepared, backbone, [cut.group.boundary for cut in cut_points], observe)
    extracted = time.perf_counter()
    depths: list[Depth] = []
    losses: list[np.ndarray] = []
    balanced = plan.recipe.data.is_balanced
    for cut, x in zip(cut_points, features, strict=True):
        depth, val_losses = _probe_depth(cut, by_split(x, labels), classes=len(plan.classes), balanced=balanced)
        depths.append(depth)
        losses.append(val_losses)
        observe(Advanced(f"probes of {plan.card.name}", len(depths), len(cut_points)))
    best_losses = losses[min(range(len(depths)), key=lambda index: depths[index].val_loss)].tolist()
    return NetworkProbe(
        plan.card.name,
        backbone.weights_origin,
        plan.size,
        tuple(depths),
        compare_losses(best_losses, losses[-1].tolist()),
        {"features": round(extracted - began, 3), "probes": round(time.perf_counter() - extracted, 3)},
        notices,
        tuple(best_losses),
    )


@dataclass(frozen=True)
class _CutPoint:
    """A group that the network can end with, the fraction (0-1) of multiply-adds up to there, and its `drop_top`."""

    group: LayerGroup
    flops_share: float
    drop_top: int


def _cut_points(groups: LayerGroups, *, dropped: int) -> list[_CutPoint]:
    """The cut points of a network of which `dropped` groups are gone. With unknown FLOPs, all groups count alike."""
    costs = [group.flops for group in groups]
    totals = list(accumulate(costs if any(costs) else [1] * len(groups)))
    return [
        _CutPoint(group, totals[index] / totals[-1], dropped + len(groups) - 1 - index)
        for index, group in enumerate(groups)
        if group.is_cut_point
    ]


def labels_by_split(prepared: Prepared) -> dict[str, np.ndarray]:
    """The labels of each split, `int64 (images,)`, in the order of the features."""
    splits = prepared.plan.splits
    return {name: np.array([image.label for image in getattr(splits, name)], np.int64) for name in SPLITS}


def features_at(prepared: Prepared, backbone: Backbone, layers: Sequence[str], observe: Observer) -> list[np.ndarray]:
    """Pooled features of all images at each layer, `float32 (images, channels)`, split after split."""
    plan = prepared.plan
    model = classifier.assemble(backbone, plan.recipe.head, classes=plan.classes, resize=plan.recipe.data.resize)
    rows = [prepared.pixels.rows_of(getattr(plan.splits, name)) for name in SPLITS]
    stage = f"features of {plan.card.name}"
    return extraction.extract_depths(
        extraction.pooled_model(model.features, layers, pooling=plan.recipe.head.pooling),
        Images(prepared.pixels.array, np.concatenate(rows)),
        cache_dir() / "probes",
        precision=plan.recipe.performance.precision,
        progress=lambda done, total: observe(Advanced(stage, done, total)),
    )


def by_split(x: np.ndarray, labels: Mapping[str, np.ndarray]) -> dict[str, Features]:
    """The features `x` of all images, `float32 (images, channels)`, divided into splits."""
    features, start = {}, 0
    for name, y in labels.items():
        features[name] = Features(x[start : start + len(y)], y)
        start += len(y)
    return features


def _probe_depth(
    cut: _CutPoint, features: Mapping[str, Features], *, classes: int, balanced: bool
) -> tuple[Depth, np.ndarray]:
    """The probe at one depth, and its losses on the validation images, `float64 (images,)`."""
    train, val, test = (features[name] for name in SPLITS)
    solution = linear_probe.solve(train, val, classes=classes, balanced=balanced)
    losses, hits = linear_probe.score(solution, val)
    depth = Depth(
        cut.group.name,
        train.x.shape[1],
        cut.flops_share,
        cut.drop_top,
        solution.inverse_l2,
        float(losses.mean()),
        float(hits.mean()),
        float(linear_probe.score(solution, test)[1].mean()) if len(test.y) else None,
    )
    return depth, losses


@dataclass(frozen=True)
class DepthChoice:
    """The result of the depth search.

    Attributes:
        drop_top: Number of groups dropped from the top.
        reason: Why, in one sentence.
        depths: The probes of all depths, from bottom to top.
    """

    drop_top: int
    reason: str
    depths: tuple[Depth, ...]

    def to_json(self) -> dict[str, Any]:
        """The value of `model.depth_search` in run.json."""
        names = ("group", "drop_top", "val_loss", "val_accuracy")
        return {
            "drop_top": self.drop_top,
            "reason": self.reason,
            "depths": [{name: getattr(depth, name) for name in names} for depth in self.depths],
        }


def search_depth(
    prepared: Prepared, backbone: Backbone, network: ChosenNetwork, observe: Observer
) -> tuple[Prepared, Backbone, DepthChoice | None]:
    """Search for the best depth if a phase has the policy `depth_search`.

    Returns:
        The plan and the backbone that end at the best depth, and the choice. Without such a phase, the plan and the
        backbone as they are, and None.
    """
    plan = prepared.plan
    if all(phase.policy != POLICY for phase in plan.recipe.phases):
        return prepared, backbone, None
    choice = choose_depth(prepared, backbone, observe)
    recipe = apply_choice(plan.recipe, choice)
    cut = make_plan(recipe, plan.card, groups=network.groups, splits=plan.splits, classes=plan.classes)
    return replace(prepared, plan=cut), build_backbone(recipe, network), choice


def choose_depth(prepared: Prepared, backbone: Backbone, observe: Observer) -> DepthChoice:
    """Probe every depth. Drop the groups above the best one if it is clearly better than the top.

    It is if its validation loss is lower by more than `until.min_delta`, and the confidence that the gain is real, from
    a paired test on the validation images, is at least `until.confidence` and at least `MIN_CONFIDENCE`.

    Raises:
        DataError: If there are no validation images, or the disk has too little space for the features.
    """
    require_validation(prepared)
    until = next(phase.until for phase in prepared.plan.recipe.phases if phase.policy == POLICY)
    choice = _choose(probe_depths(prepared, backbone, (), observe), until)
    observe(Noticed(f"depth search: {choice.reason}"))
    return choice


def _choose(network: NetworkProbe, until: UntilSpec) -> DepthChoice:
    best, top, lead = network.best, network.depths[-1], network.lead_over_top
    if best is top:
        return DepthChoice(top.drop_top, f"the top is the best depth (val_loss {top.val_loss:.4f})", network.depths)
    confidence, required = whole_percent(lead.confidence), max(until.confidence, MIN_CONFIDENCE)
    gain = f"val_loss is {lead.gain:.4f} lower at {best.group} than at the top, at {confidence} confidence"
    if lead.confidence >= required and lead.gain > until.min_delta:
        reason = f"{plural(best.drop_top - top.drop_top, 'group')} dropped: {gain}"
        return DepthChoice(best.drop_top, reason, network.depths)
    missing = whole_percent(required) if lead.confidence < required else f"more than {until.min_delta:g}"
    return DepthChoice(top.drop_top, f"no group dropped: {gain} ({missing} required)", network.depths)


def apply_choice(recipe: Recipe, choice: DepthChoice) -> Recipe:
    """The recipe with the choice written into it. Running it repeats the run without a search."""
    phases = [
        phase.model_copy(update={"policy": "gradual"}) if phase.policy == POLICY else phase for phase in recipe.phases
    ]
    model = recipe.model.model_copy(update={"drop_top": choice.drop_top})
    return recipe.model_copy(update={"phases": phases, "model": model})
