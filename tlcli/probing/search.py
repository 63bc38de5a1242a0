"""How many groups from the bottom are worth keeping: the choice of `policy: depth_search`, by the depth probe."""

from dataclasses import dataclass
from typing import Any

from tlcli.model.backbone import Backbone
from tlcli.prepare import Prepared
from tlcli.probing import job
from tlcli.probing.result import Probed
from tlcli.recipe.schema import Recipe
from tlcli.train.events import Noticed, Observer

POLICY = "depth_search"
LEAST_CONFIDENCE = 0.9


@dataclass(frozen=True)
class Choice:
    """What the probe chose: how many groups are dropped, why in one sentence, and what it saw."""

    drop_top: int
    reason: str
    probed: Probed

    def to_json(self) -> dict[str, Any]:
        """What run.json holds of it, under `model.depth_search`."""
        depths = [(depth.group, depth.drop_top, depth.val_loss, depth.val_accuracy) for depth in self.probed.depths]
        names = ("group", "drop_top", "val_loss", "val_accuracy")
        return {
            "drop_top": self.drop_top,
            "reason": self.reason,
            "depths": [dict(zip(names, each, strict=True)) for each in depths],
        }


def is_wanted(recipe: Recipe) -> bool:
    """Whether a phase asks for the search."""
    return any(phase.policy == POLICY for phase in recipe.phases)


def choose(prepared: Prepared, built: Backbone, observe: Observer) -> Choice:
    """Probe every depth, and drop what lies above the best one if it is better than the top by enough.

    Enough is what the phase asks, `until.confidence` by the paired test on the validation images and `until.min_delta`
    in validation loss, but at least `LEAST_CONFIDENCE`: the best of many depths was chosen by the same images.

    Raises:
        DataError: If there are no validation images, or no room for the features.
    """
    job.require_validation(prepared)
    until = next(phase.until for phase in prepared.plan.recipe.phases if phase.policy == POLICY)
    probed = job.measured(prepared, built, (), observe).probed
    best, lead, top = probed.best, probed.over_top, probed.depths[-1]
    if best is top:
        choice = Choice(top.drop_top, f"the top is the best depth (validation loss {top.val_loss:.4f})", probed)
    else:
        found = f"{best.group} has a validation loss {lead.gain:.4f} below that of the top, {lead.confidence:.0%} sure"
        asked = max(until.confidence, LEAST_CONFIDENCE)
        if lead.confidence >= asked and lead.gain > until.min_delta:
            dropped = best.drop_top - top.drop_top
            choice = Choice(best.drop_top, f"{found}: {dropped} group{'s' * (dropped > 1)} dropped", probed)
        else:
            choice = Choice(
                top.drop_top, f"{found}, too little to drop what is above it ({asked:.0%} is asked)", probed
            )
    observe(Noticed(f"depth search: {choice.reason}"))
    return choice


def settled(recipe: Recipe, choice: Choice) -> Recipe:
    """The recipe that the search amounts to: running it gives the same run."""
    phases = [
        phase.model_copy(update={"policy": "gradual"}) if phase.policy == POLICY else phase for phase in recipe.phases
    ]
    model = recipe.model.model_copy(update={"drop_top": choice.drop_top})
    return recipe.model_copy(update={"phases": phases, "model": model})
