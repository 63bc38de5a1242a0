"""From checked recipes to probes: one pass over the images for each network, then one linear probe for each depth."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import keras
import numpy as np

from tlcli.errors import DataError
from tlcli.model import backbone, classifier, measure
from tlcli.model.groups import LayerGroup, LayerGroups
from tlcli.paths import cache_dir
from tlcli.prepare import Chosen, Prepared, Settled, choose, prepare
from tlcli.probing import depths
from tlcli.probing.request import Request
from tlcli.probing.result import Comparison, Depth, Probed, lead
from tlcli.recipe.schema import Recipe
from tlcli.train import device, probe
from tlcli.train.events import Advanced, Event, Noticed, Observer
from tlcli.train.examples import Images
from tlcli.train.plan import dropped_top
from tlcli.train.probe import Features

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Finished:
    """What came out.

    Attributes:
        data: What was probed with, as `tlcli plan --json` says it.
        models: The networks in the order that was asked for.
        comparisons: The best of them over each other one; empty for one network.
    """

    data: dict[str, Any]
    models: tuple[Probed, ...]
    comparisons: tuple[Comparison, ...]

    def to_json(self) -> dict[str, Any]:
        """The JSON shape of `tlcli probe --json`."""
        models = [probed.to_json() for probed in self.models]
        return {"data": self.data, "models": models, "comparisons": [each.to_json() for each in self.comparisons]}


@dataclass(frozen=True)
class Measured:
    """The probes of one network, and of its best one the losses of the validation images, in their order."""

    probed: Probed
    losses: list[float]


@dataclass(frozen=True)
class _Place:
    """A group that the network can end with, the share (0-1) of its operations up to there, and its `drop_top`."""

    group: LayerGroup
    flops_share: float
    drop_top: int


@dataclass(frozen=True)
class _Ground:
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


def run(request: Request, settled: Sequence[Settled], observe: Observer) -> Finished:
    """Probe every network. `settled` is what `request.check` made of the request.

    Raises:
        TlcliError: If something is wrong with what was asked, the images, a network or the machine.
    """
    observe = _Once(observe)
    data: dict[str, Any] = {}
    found = []
    with device.use(request.device, settled[0].recipe.performance.precision):
        for each in settled:
            for notice in each.notices:
                observe(Noticed(notice, is_warning=True))
            chosen = choose(each.recipe, measure=measure.layer_groups)
            # Weights that are missing or do not fit are told before any image is read.
            built = pretrained(each.recipe, chosen)
            prepared = prepare(each.recipe, chosen, strict=False, observe=observe)
            require_validation(prepared)
            data = data or prepared.plan.to_json()["data"]
            found.append(measured(prepared, built, each.notices, observe))
    return Finished(data, tuple(each.probed for each in found), tuple(_compared(found)))


@dataclass
class _Once:
    """Passes every event on, but says nothing twice: what is told of the images is the same for every network."""

    observe: Observer
    said: frozenset[str] = frozenset()

    def __call__(self, event: Event) -> None:
        if isinstance(event, Noticed):
            if event.message in self.said:
                return
            self.said |= {event.message}
        self.observe(event)


def pretrained(recipe: Recipe, chosen: Chosen, *, weights: str | None = None) -> backbone.Backbone:
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


def measured(prepared: Prepared, built: backbone.Backbone, notices: tuple[str, ...], observe: Observer) -> Measured:
    """Probe a network at every depth, from one pass over the images."""
    plan = prepared.plan
    ground, places = _ground(prepared), _places(plan.groups, dropped=plan.recipe.model.drop_top)
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
    return Measured(Probed(plan.card.name, built.weights_origin, plan.size, steps, over_top, seconds, notices), losses)


def _features(
    prepared: Prepared, built: backbone.Backbone, layers: Sequence[str], observe: Observer
) -> list[np.ndarray]:
    """Pooled features at these layers of all images, split after split: `float32 (images, channels)` for each."""
    plan = prepared.plan
    made = classifier.assemble(built, plan.recipe.head, classes=plan.classes, resize=plan.recipe.data.resize)
    rows = [prepared.pixels.rows_of(getattr(plan.splits, name)) for name in SPLITS]
    stage = f"features of {plan.card.name}"
    return depths.run(
        depths.pooled(made.features, layers, pooling=plan.recipe.head.pooling),
        Images(prepared.pixels.array, np.concatenate(rows)),
        cache_dir() / "probes",
        progress=lambda done, total: observe(Advanced(stage, done, total)),
    )


def _ground(prepared: Prepared) -> _Ground:
    splits, recipe = prepared.plan.splits, prepared.plan.recipe
    labels = {name: np.array([image.label for image in getattr(splits, name)], np.int64) for name in SPLITS}
    return _Ground(labels, len(prepared.plan.classes), recipe.data.class_weights == "balanced")


def _places(groups: LayerGroups, *, dropped: int) -> list[_Place]:
    """The groups that a network can end with. Where the FLOPs are unknown, all groups count alike."""
    costs = [group.flops for group in groups]
    spent = list(accumulate(costs if any(costs) else [1] * len(groups)))
    return [
        _Place(group, spent[index] / spent[-1], dropped + len(groups) - 1 - index)
        for index, group in enumerate(groups)
        if group.is_frontier
    ]


def _solved(place: _Place, x: np.ndarray, ground: _Ground) -> tuple[Depth, list[float]]:
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


def _compared(measured: Sequence[Measured]) -> list[Comparison]:
    """The network with the lowest validation loss against each of the others, by the same validation images."""
    best = min(measured, key=lambda each: each.probed.best.val_loss)
    return [
        Comparison(best.probed.model, other.probed.model, lead(best.losses, other.losses))
        for other in measured
        if other is not best
    ]
