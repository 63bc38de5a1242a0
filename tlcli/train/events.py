"""Events of a run, and the observers that receive them."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from tlcli.train.policy import Outcome, Step


@dataclass(frozen=True, slots=True)
class Advanced:
    """Progress of a stage outside training, such as decoding: `done` of `total` items."""

    stage: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Noticed:
    """A message for the user. A warning may need a remedy."""

    message: str
    is_warning: bool = False


@dataclass(frozen=True, slots=True)
class FolderMade:
    """The run folder exists. From now on the run can be resumed."""

    path: str


@dataclass(frozen=True, slots=True)
class StepBegun:
    """A step of a phase begins. It trains on `images` images for at most `epochs` epochs of `batches` batches."""

    step: Step
    epochs: int
    batches: int
    images: int
    trainable_parameters: int


@dataclass(frozen=True, slots=True)
class BatchDone:
    """A batch was trained. Loss and accuracy (0-1) are means over the epoch so far."""

    step: Step
    epoch: int
    batch: int
    loss: float
    accuracy: float
    images_per_second: float


@dataclass(frozen=True, slots=True)
class EpochDone:
    """An epoch was trained and scored. Validation scores are None if there are no validation images."""

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
    """A callable that receives events."""

    def __call__(self, event: Event) -> None:
        """Receive an event."""


def ignore(event: Event) -> None:
    """The observer that does nothing."""


def warn(observe: Observer, messages: Iterable[str]) -> None:
    """Report each message as a warning."""
    for message in messages:
        observe(Noticed(message, is_warning=True))


@dataclass
class NoticeOnce:
    """An observer that passes events on, but each notice only once.

    Attributes:
        observer: Receives the events.
        messages: Messages of the notices so far. Observers that share the set pass each notice on once between them.
        within_run: Whether this observes one of several runs. Its `FolderMade` is then dropped, and every notice after
            it is passed on.
    """

    observer: Observer
    messages: set[str] = field(default_factory=set)
    within_run: bool = False
    _has_folder: bool = field(default=False, init=False)

    def __call__(self, event: Event) -> None:
        """Pass the event on, or drop it."""
        if self.within_run and isinstance(event, FolderMade):
            self._has_folder = True
            return
        if isinstance(event, Noticed) and not self._has_folder:
            if event.message in self.messages:
                return
            self.messages.add(event.message)
        self.observer(event)
