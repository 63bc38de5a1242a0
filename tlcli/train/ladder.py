"""The ladder of `quality: best`: a run as with `balanced`, then runs that may be better, each on the evidence so far.

Every rung is a whole run on the same split. The validation images judge it: the next rungs start from the one with the
lowest loss, and at the end the runs whose mean predicts better become one classifier. Pure functions, without
Keras.

Ref: Caruana et al. 2004, Ensemble selection from libraries of models, ICML; Touvron et al. 2019, arXiv 1906.06423, for
larger images at the end.
"""

import math
import statistics
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from tlcli.recipe.schema import Recipe
from tlcli.text import whole_percent
from tlcli.train import decision
from tlcli.train.policy import LEARNABLE_CONFIDENCE
from tlcli.train.rounds import LONG_ROUND as BALANCED_ROUND

# Side of the larger images as a multiple of the network's own, and the multiple of pixels to which it is rounded.
LARGER, ROUNDED = 320 / 224, 32
# Runs that only differ in their random numbers, without a time budget and with one.
REPEATS, MOST_REPEATS = 1, 8
FIRST = "balanced"
# Of the rung with longer rounds: epochs from the second round on, and stored views of each image.
LONG_ROUND, VIEWS = 12, 6
# With a time budget, a rung begins if this share of the shortest rung so far is left.
WORTH_STARTING = 0.5


@dataclass(frozen=True)
class Rung:
    """A run of the ladder.

    Attributes:
        name: Its name, also of its folder.
        reason: What it tries, for users.
        settings: How its recipe differs from the one asked for, `KEY=VALUE`.
        needs_probe: True if it begins only if a linear probe has a lower validation loss than that of the best so far.
    """

    name: str
    reason: str
    settings: tuple[str, ...]
    needs_probe: bool = False


@dataclass(frozen=True)
class Climbed:
    """A finished rung and what it says of each validation image.

    Attributes:
        rung: The rung.
        losses: Cross-entropies at the temperature that fits.
        hits: 1 for a right answer, else 0.
        certainties: The probability of the answer, 0-1.
        size: Input height and width of its network, pixels.
        seconds: Duration of its run.
    """

    rung: Rung
    losses: Sequence[float]
    hits: Sequence[float]
    certainties: Sequence[float]
    size: tuple[int, int]
    seconds: float

    @property
    def loss(self) -> float:
        """Mean cross-entropy of the validation images."""
        return statistics.fmean(self.losses)

    @property
    def accuracy(self) -> float:
        """Share of right answers, 0-1."""
        return statistics.fmean(self.hits)


def next_rung(
    recipe: Recipe,
    climbed: Sequence[Climbed],
    networks: Sequence[str] = (),
    *,
    left_out: Collection[str] = (),
    left_s: float | None = None,
) -> Rung | None:
    """The rung that follows those climbed so far; None at the end of the ladder.

    After the first rung, the ladder ends if no validation image is left to correct, or the errors look like chance.

    Args:
        recipe: The recipe that is asked for.
        climbed: The rungs so far, in order.
        networks: Other networks that may be tried.
        left_out: Names of rungs that failed or whose probe was worse.
        left_s: Seconds of the time budget that are left; None without a budget.
    """
    if not climbed:
        return Rung(FIRST, "the head, then rounds of more and more groups", ("quality=balanced",))
    if not _is_worth_more(climbed[0]):
        return None
    if left_s is not None and left_s < WORTH_STARTING * min(done.seconds for done in climbed):
        return None
    names = {*left_out, *(done.rung.name for done in climbed)}
    later = _later_rungs(recipe, best_so_far(climbed), networks)
    return next((rung for rung in later if rung.name not in names), None)


def _is_worth_more(first: Climbed) -> bool:
    return min(first.hits) == 0 and decision.learnable(first.hits, first.certainties) >= LEARNABLE_CONFIDENCE


def relative_cost(recipe: Recipe, size: tuple[int, int]) -> float:
    """Rough cost of the whole ladder, as a multiple of its first rung, if the larger images turn out better.

    Args:
        recipe: The recipe that is asked for.
        size: Input height and width, pixels.
    """
    larger = recipe.data.size == "auto"
    pixels = math.prod(_larger(size)) / math.prod(size) if larger else 1.0
    return 1 + pixels * (larger + LONG_ROUND / BALANCED_ROUND + REPEATS)


def _larger(size: tuple[int, int]) -> tuple[int, int]:
    height, width = (max(ROUNDED, round(LARGER * pixels / ROUNDED) * ROUNDED) for pixels in size)
    return height, width


def _later_rungs(recipe: Recipe, best: Climbed, networks: Sequence[str]) -> Iterator[Rung]:
    """All rungs after the first, if this is the best so far."""
    before = best.rung.settings
    for network in networks:
        yield Rung(network, "another network", (*before, f"model.name={network}"), needs_probe=True)
    if recipe.data.size == "auto":
        height, width = _larger(best.size)
        settings = (*before, f"data.size=[{height}, {width}]")
        yield Rung("larger", f"images of {height} × {width}", settings, needs_probe=True)
    yield Rung("longer", "longer rounds with stronger augmentation", (*before, *_longer(recipe)))
    limit = REPEATS if recipe.performance.budget is None else MOST_REPEATS
    for number in range(1, limit + 1):
        yield Rung(f"again-{number}", "the same with other random numbers", (*before, f"seed={recipe.seed + number}"))


def _longer(recipe: Recipe) -> Iterator[str]:
    """Settings for stronger augmentation with more views and, where the quality chooses the rounds, longer ones."""
    yield "augment.preset=trivialaugment"
    yield f"augment.views={VIEWS}"
    for index, phase in enumerate(recipe.phases):
        if phase.is_gradual and phase.epochs == "auto":
            yield f"phases.{index}.epochs=[4, {LONG_ROUND}]"


def verdict(before: Climbed, last: Climbed) -> str:
    """What a rung is worth beside the best before it, for users."""
    sure = whole_percent(confidence_in(before.losses, last.losses))
    if best_so_far([before, last]) is last:
        return f"lower loss than {before.rung.name} at {sure} confidence: the next rungs start here"
    return f"not better than {before.rung.name}"


def best_so_far(climbed: Sequence[Climbed]) -> Climbed:
    """The rung that the next one starts from, and the first of the result: the one with the lowest validation loss."""
    return min(climbed, key=lambda done: done.loss)


def confidence_in(before: Sequence[float], after: Sequence[float]) -> float:
    """Confidence (0-1) that the losses after are lower, image by image."""
    return decision.confidence([old - new for old, new in zip(before, after, strict=True)])
