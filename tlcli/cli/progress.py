"""Progress of a run on stderr: a progress bar on a terminal, lines elsewhere, warnings only with --quiet."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from tlcli.cli.console import err, print_text, safe
from tlcli.cli.options import is_quiet
from tlcli.cluster import connection
from tlcli.text import compact, duration, plural
from tlcli.train.events import Advanced, BatchDone, EpochDone, Event, Noticed, Observer, StepBegun, StepDone
from tlcli.train.policy import Step
from tlcli.zoo.download import reporting

# Without a terminal, a long stage prints a line this often, seconds.
PLAIN_EVERY_S = 10.0
# Marks a stage that has ended, instead of the time of its last line.
FINISHED = -1.0
ANY_WIDTH = 1000


@contextmanager
def observer(*, is_brief: bool = False) -> Iterator[Observer]:
    """The observer for stderr: live on a terminal, plain elsewhere, quiet with --quiet. Downloads report to it.

    With `is_brief`, the plain one prints nothing of a stage that takes less than `PLAIN_EVERY_S`.
    """
    console = err()
    if is_quiet():
        yield _Quiet(console)
    elif console.is_terminal:
        with Live(console) as live, reporting(_download_to(live)), connection.reporting(_notice_to(live)):
            yield live
    else:
        plain = Plain(console, is_brief=is_brief)
        with reporting(_download_to(plain)), connection.reporting(_notice_to(plain)):
            yield plain


def _notice_to(observe: Observer) -> Callable[[str], None]:
    return lambda text: observe(Noticed(text))


def _download_to(observe: Observer) -> Callable[[str, int, int], None]:
    return lambda title, done, total: observe(Advanced(f"{title}, kB", -(-done // 1000), -(-total // 1000)))


@dataclass
class _Quiet:
    """Prints warnings only."""

    console: Console

    def __call__(self, event: Event) -> None:
        if isinstance(event, Noticed) and event.is_warning:
            _print_notice(self.console, event)


@dataclass
class Plain:
    """Prints lines, without a progress bar.

    Attributes:
        console: Where.
        is_brief: True to print nothing of a stage that takes less than `PLAIN_EVERY_S`.
        printed: When the last line of a stage was due, or `FINISHED`.
        shown: The stages with a line.
        epochs: Epochs of the current step.
    """

    console: Console
    is_brief: bool = False
    printed: dict[str, float] = field(default_factory=dict)
    shown: set[str] = field(default_factory=set)
    epochs: int = 0

    def __call__(self, event: Event) -> None:
        """Print the line of an event, if it has one."""
        match event:
            case Advanced():
                self._advance(event)
            case Noticed():
                _print_notice(self.console, event)
            case StepBegun():
                self.epochs = event.epochs
                print_text(self.console, safe(_begin_line(event)))
            case EpochDone():
                self.console.print(safe(_epoch_line(event, self.epochs)))
            case StepDone():
                print_text(self.console, safe(f"{event.outcome.step.name}: {event.outcome.reason}"))

    def _advance(self, event: Advanced) -> None:
        """Print a line every `PLAIN_EVERY_S` seconds and one at the end. A stage may start again later."""
        now, last = time.monotonic(), self.printed.get(event.stage, FINISHED)
        is_finished = event.done >= event.total
        if is_finished and self.is_brief and event.stage not in self.shown:
            self.printed[event.stage] = FINISHED
        elif is_finished and (last != FINISHED or event.stage not in self.printed):
            self._print(event, FINISHED)
        elif not is_finished and last == FINISHED:
            self.printed[event.stage] = now
        elif not is_finished and now - last >= PLAIN_EVERY_S:
            self._print(event, now)

    def _print(self, event: Advanced, at: float) -> None:
        self.console.print(safe(f"{event.stage}: {event.done} of {event.total}"))
        self.printed[event.stage] = at
        self.shown.add(event.stage)


class Live:
    """Draws a progress bar for the current stage, and prints lines above it."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[detail]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            expand=True,
        )
        self.bars: dict[str, TaskID] = {}
        self.epochs = self.batches = 0

    def __enter__(self) -> "Live":
        """Start the display."""
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the bar; the lines stay."""
        self.progress.stop()

    def __call__(self, event: Event) -> None:
        """Draw or print an event."""
        match event:
            case Advanced():
                self._bar(event.stage, event.done, event.total, f"{event.done}/{event.total}")
            case Noticed():
                _print_notice(self.console, event)
            case StepBegun():
                self._clear()
                self.epochs, self.batches = event.epochs, event.batches
                print_text(self.console, safe(_begin_line(event), "bold"))
            case BatchDone():
                self._batch(event)
            case EpochDone():
                self.console.print(safe(_epoch_line(event, self.epochs, width=self.console.width)))
            case StepDone():
                self._clear()
                style = "green" if event.outcome.kept else "yellow"
                print_text(self.console, safe(f"{event.outcome.step.name}: {event.outcome.reason}", style))

    def _batch(self, event: BatchDone) -> None:
        done = (event.epoch - 1) * self.batches + event.batch
        detail = f"loss {event.loss:.3f}  acc {event.accuracy:.3f}  {event.images_per_second:.0f} img/s"
        title = f"{event.step.name} {event.epoch}/{self.epochs}"
        self._bar(event.step.name, done, self.epochs * self.batches, detail, title)

    def _bar(self, key: str, done: int, total: int, detail: str, title: str | None = None) -> None:
        if key not in self.bars:
            self._clear()
            self.bars[key] = self.progress.add_task(key, total=total, detail="")
        description = safe(title or key).plain.replace("[", r"\[")
        self.progress.update(self.bars[key], completed=done, total=total, detail=detail, description=description)

    def _clear(self) -> None:
        for bar in self.bars.values():
            self.progress.remove_task(bar)
        self.bars.clear()


def groups_text(step: Step) -> str:
    """The trained groups of a step: `head`, `block15, top + head`, `block3 … top (14 groups) + head`."""
    names = step.groups
    if not names:
        return "head"
    listed = ", ".join(names) if len(names) <= 3 else f"{names[0]} … {names[-1]} ({len(names)} groups)"
    return f"{listed} + head"


def _begin_line(event: StepBegun) -> str:
    parameters = f"{compact(event.trainable_parameters)} parameters"
    if event.epochs == 0:
        return f"{event.step.name}: linear probe, {parameters}"
    trained = f"training {groups_text(event.step)}, {parameters}"
    return f"{event.step.name}: {trained}, {event.images} images, up to {plural(event.epochs, 'epoch')}"


def _epoch_line(event: EpochDone, epochs: int, *, width: int = ANY_WIDTH) -> str:
    """The line of an epoch; with the speed if it fits into `width`."""
    number = f"{event.epoch}/{epochs}"
    line = f"  {number:>7}  loss {event.loss:.4f}  acc {event.accuracy:.3f}"
    if event.val_loss is not None and event.val_accuracy is not None:
        line += f"  val_loss {event.val_loss:.4f}  val_acc {event.val_accuracy:.3f}"
    speed = f"  {event.images_per_second:.0f} img/s"
    end = f"  {duration(event.seconds)}" + ("  best" if event.is_best else "")
    return line + (speed if len(line + speed + end) <= width else "") + end


def _print_notice(console: Console, event: Noticed) -> None:
    mark = safe("warning: ", "yellow") if event.is_warning else safe("")
    print_text(console, mark + safe(event.message))


@contextmanager
def bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """Draws the progress of one stage. The context is its callback `(done, total)`."""
    with observer(is_brief=True) as observe:
        yield lambda done, total: observe(Advanced(title, done, total))
