"""What a run tells the outside: event dataclasses, and the Observer that receives them."""

from dataclasses import dataclass, field
from typing import Protocol

from tlcli.train.policy import Outcome, Step


@dataclass(frozen=True, slots=True)
class Advanced:
    """A stage of preparation moved on: `done` of `total` things."""

    stage: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Noticed:
    """Something the user should know. Warnings are things that may need a remedy."""

    message: str
    is_warning: bool = False


@dataclass(frozen=True, slots=True)
class FolderMade:
    """The run folder is there; from now on the run can be resumed."""

    path: str


@dataclass(frozen=True, slots=True)
class StepBegun:
    """A step of a phase begins: what is trained now, for at most `epochs` epochs of `batches` batches."""

    step: Step
    epochs: int
    batches: int
    images: int
    trainable_parameters: int


@dataclass(frozen=True, slots=True)
class BatchDone:
    """One batch was trained; loss and accuracy (0-1) are running means over the epoch so far."""

    step: Step
    epoch: int
    batch: int
    loss: float
    accuracy: float
    images_per_second: float


@dataclass(frozen=True, slots=True)
class EpochDone:
    """One epoch was trained and scored. Validation numbers are None where there are no validation images."""

    step: Step
    epoch: int
    loss: float
    accuracy: float
    val_loss: float | None
    val_accuracy: float | None
    lr: float
    seconds: float
    images_per_second: float
    is_best: bool


@dataclass(frozen=True, slots=True)
class StepDone:
    """A step ended and was kept or rolled back."""

    outcome: Outcome


Event = Advanced | Noticed | FolderMade | StepBegun | BatchDone | EpochDone | StepDone


class Observer(Protocol):
    """Anything that can be told what happens."""

    def __call__(self, event: Event) -> None:
        """Take note of one event."""


def ignore(event: Event) -> None:
    """The observer that does nothing."""


@dataclass
class NoticeOnce:
    """An observer that passes every event on, but each notice only once.

    Attributes:
        pass_on: Receives the events.
        said: Notices that were passed on; share the set between observers to say nothing twice in all of them.
        within_run: Whether this observes one run among several: its folder is not announced, and once the folder
            exists every notice is passed on.
    """

    pass_on: Observer
    said: set[str] = field(default_factory=set)
    within_run: bool = False
    _has_folder: bool = field(default=False, init=False)

    def __call__(self, event: Event) -> None:
        """Pass the event on, or drop it."""
        if self.within_run and isinstance(event, FolderMade):
            self._has_folder = True
            return
        if isinstance(event, Noticed) and not self._has_folder:
            if event.message in self.said:
                return
            self.said.add(event.message)
        self.pass_on(event)
