"""Observers: a live display on a terminal, plain lines elsewhere, nothing with --quiet."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from tlcli.cli.console import err, safe, say
from tlcli.cli.options import is_quiet
from tlcli.text import compact, duration
from tlcli.train.events import Advanced, BatchDone, EpochDone, Event, Noticed, Observer, StepBegun, StepDone
from tlcli.train.policy import Step

# Without a terminal, a long preparation says something this often, seconds.
PLAIN_EVERY_S = 10.0
# In the place of when a stage was last told of: it has ended.
OVER = -1.0
ANY_WIDTH = 1000


@contextmanager
def observer() -> Iterator[Observer]:
    """The observer that fits where stderr goes."""
    console = err()
    if is_quiet():
        yield _Quiet(console)
    elif console.is_terminal:
        with Live(console) as live:
            yield live
    else:
        yield Plain(console)


@dataclass
class _Quiet:
    """Warnings only."""

    console: Console

    def __call__(self, event: Event) -> None:
        if isinstance(event, Noticed) and event.is_warning:
            _print_notice(self.console, event)


@dataclass
class Plain:
    """One line for everything worth keeping."""

    console: Console
    said: dict[str, float] = field(default_factory=dict)
    epochs: int = 0

    def __call__(self, event: Event) -> None:
        """Print what deserves a line."""
        match event:
            case Advanced():
                self._advance(event)
            case Noticed():
                _print_notice(self.console, event)
            case StepBegun():
                self.epochs = event.epochs
                say(self.console, safe(_begin_line(event)))
            case EpochDone():
                self.console.print(safe(_epoch_line(event, self.epochs)))
            case StepDone():
                say(self.console, safe(f"{event.outcome.step.name}: {event.outcome.reason}"))

    def _advance(self, event: Advanced) -> None:
        """Now and then a line, and one at the end; the stage may come again later."""
        now, last = time.monotonic(), self.said.get(event.stage, OVER)
        is_over = event.done >= event.total
        if is_over and (last != OVER or event.stage not in self.said):
            self._say(event, OVER)
        elif not is_over and last == OVER:
            self.said[event.stage] = now
        elif not is_over and now - last >= PLAIN_EVERY_S:
            self._say(event, now)

    def _say(self, event: Advanced, said: float) -> None:
        self.console.print(safe(f"{event.stage}: {event.done} of {event.total}"))
        self.said[event.stage] = said


class Live:
    """A bar for what is going on, above it the lines that stay."""

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
        """Start drawing."""
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the lines, remove the bar."""
        self.progress.stop()

    def __call__(self, event: Event) -> None:
        """Draw."""
        match event:
            case Advanced():
                self._bar(event.stage, event.done, event.total, f"{event.done}/{event.total}")
            case Noticed():
                _print_notice(self.console, event)
            case StepBegun():
                self._clear()
                self.epochs, self.batches = event.epochs, event.batches
                say(self.console, safe(_begin_line(event), "bold"))
            case BatchDone():
                self._batch(event)
            case EpochDone():
                self.console.print(safe(_epoch_line(event, self.epochs, width=self.console.width)))
            case StepDone():
                self._clear()
                style = "green" if event.outcome.kept else "yellow"
                say(self.console, safe(f"{event.outcome.step.name}: {event.outcome.reason}", style))

    def _batch(self, event: BatchDone) -> None:
        done = (event.epoch - 1) * self.batches + event.batch
        detail = f"loss {event.loss:.3f}  acc {event.accuracy:.3f}  {event.images_per_second:.0f} img/s"
        title = f"{event.step.name} {event.epoch}/{self.epochs}"
        self._bar(event.step.name, done, self.epochs * self.batches, detail, title)

    def _bar(self, key: str, done: int, total: int, detail: str, title: str | None = None) -> None:
        if key not in self.bars:
            self._clear()
            self.bars[key] = self.progress.add_task(key, total=total, detail="")
        shown = safe(title or key).plain.replace("[", r"\[")
        self.progress.update(self.bars[key], completed=done, total=total, detail=detail, description=shown)

    def _clear(self) -> None:
        for bar in self.bars.values():
            self.progress.remove_task(bar)
        self.bars.clear()


def groups_text(step: Step) -> str:
    """What a step trains, briefly: `head`, `block15, top + head`, `block3 … top (14 groups) + head`."""
    names = step.groups
    if not names:
        return "head"
    listed = ", ".join(names) if len(names) <= 3 else f"{names[0]} … {names[-1]} ({len(names)} groups)"
    return f"{listed} + head"


def _begin_line(event: StepBegun) -> str:
    parameters = f"{compact(event.trainable_parameters)} parameters"
    if event.epochs == 0:
        return f"{event.step.name}: the linear probe as it is, {parameters}"
    trained = f"training {groups_text(event.step)}, {parameters}"
    return f"{event.step.name}: {trained}, {event.images} images, up to {event.epochs} epochs"


def _epoch_line(event: EpochDone, epochs: int, *, width: int = ANY_WIDTH) -> str:
    """One epoch, below the line of its step; the speed only where it fits."""
    number = f"{event.epoch}/{epochs}"
    line = f"  {number:>7}  loss {event.loss:.4f}  acc {event.accuracy:.3f}"
    if event.val_loss is not None and event.val_accuracy is not None:
        line += f"  val_loss {event.val_loss:.4f}  val_acc {event.val_accuracy:.3f}"
    speed = f"  {event.images_per_second:.0f} img/s"
    end = f"  {duration(event.seconds)}" + ("  best" if event.is_best else "")
    return line + (speed if len(line + speed + end) <= width else "") + end


def _print_notice(console: Console, event: Noticed) -> None:
    mark = safe("warning: ", "yellow") if event.is_warning else safe("")
    say(console, mark + safe(event.message))


@contextmanager
def bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A progress callback `(done, total)` for one stage."""
    with observer() as observe:
        yield lambda done, total: observe(Advanced(title, done, total))
