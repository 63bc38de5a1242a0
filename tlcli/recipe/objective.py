"""Recipe sections for what training minimises: the loss, and a teacher to imitate."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from tlcli.recipe.fields import Spec

# The focusing strength of the paper.
_GAMMA = 2.0


class LossSpec(Spec):
    """The loss of training. Rounds are compared by cross-entropy in any case.

    Attributes:
        name: `cross_entropy`, or `focal`, which gives images that are classified well less weight. Ref: Lin et al.
            2017, arXiv 1708.02002.
        gamma: Focusing strength of the focal loss; at 0 it is the cross-entropy.
    """

    name: Literal["cross_entropy", "focal"] = "cross_entropy"
    gamma: Annotated[float, Field(ge=0, le=10)] = _GAMMA

    @model_validator(mode="after")
    def _check_gamma(self) -> Self:
        if self.name != "focal" and self.gamma != _GAMMA:
            raise ValueError(f"gamma: has no effect with {self.name} (got {self.gamma:g}). It belongs to focal")
        return self


class TeacherSpec(Spec):
    """A classifier whose probabilities the network learns to imitate. Ref: Hinton et al. 2015, arXiv 1503.02531.

    Attributes:
        run: The teacher: a run folder, a bundle or a classifier file, with the same classes. The path is relative to
            the current folder.
        temperature: Both distributions are compared at this temperature, at which small probabilities count more.
        weight: Share of the teacher in the loss, 0-1; the labels have the rest.
    """

    run: Path
    temperature: Annotated[float, Field(ge=1, le=100)] = 2.0
    weight: Annotated[float, Field(gt=0, le=1)] = 0.5

    @model_validator(mode="after")
    def _check_run(self) -> Self:
        if not self.run.name:
            raise ValueError(f"run must name a run folder, a bundle or a classifier file (got '{self.run}')")
        return self


def teacher_of(value: Any) -> Any:
    """A section for the bare path of a teacher."""
    return {"run": value} if isinstance(value, str | Path) else value
