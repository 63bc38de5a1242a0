"""`tlcli demo`: the main job, whole, in about a minute, offline."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tlcli.cli.options import is_quiet, state

if TYPE_CHECKING:
    import numpy as np

    from tlcli.workflows.request import Request

# Shades for pictures in the terminal, dark to light.
SHADES = "@%#*+=-:. "
SIDE = 12
# Width of a picture and the gap beside it, in characters.
COLUMN = 2 * SIDE + 2
MOST_PICTURES = 5


@click.command()
@click.option(
    "--out", "-o", type=click.Path(path_type=Path), help="Where images and run go. [default: a new runs/demo-<n>]"
)
@state
def demo(out: Path | None) -> None:
    """See the whole job on handwritten digits. Needs no network connection."""
    from tlcli.cli import console
    from tlcli.cli.finetune import run_and_tell
    from tlcli.workflows.demo import from_scratch, write_digits
    from tlcli.workflows.request import Request

    home = out or _next_folder()
    data, run = home / "digits", home / "run"
    if not is_quiet():
        err = console.err()
        console.say(err, "Handwritten digits from scikit-learn, 60 of each, as a folder of class folders:", "bold")
        err.print(console.safe(f"  {data}/0 … {data}/9"))
        err.print(
            console.safe(
                "The network comes with tlcli: MobileNet, pretrained on images that a program drew, none of a digit."
                " First it is fine-tuned; then the same network learns the same from random weights, for comparison."
            )
        )
    write_digits(data)
    run_and_tell(Request(recipe="demo", options={"data.path": str(data.absolute())}, out=run), as_json=False)
    _compare(run, from_scratch(run, home / "from-scratch"))
    _show_guesses(run)
    _what_next(data, run)


def _compare(run: Path, request: "Request") -> None:
    """Carry the comparison out and print both accuracies beside each other."""
    from tlcli.cli import console
    from tlcli.cli.progress import observer
    from tlcli.report import record
    from tlcli.text import duration
    from tlcli.workflows.finetune import finetune
    from tlcli.workflows.request import check_request

    if not is_quiet():
        console.say(console.err(), "The same network from random weights, for comparison:", "bold")
    with observer() as observe:
        _, scratch = finetune(request, check_request(request), observe)
    tuned = record.read(run)
    out = console.out()
    out.print()
    out.print("What pretraining is worth here:", style="bold")
    rows = (("fine-tuned from the bundled weights", tuned), ("the same network from random weights", scratch))
    for name, note in rows:
        score, epochs = note.scores["test"]["accuracy"], sum(phase["epochs"] for phase in note.phases)
        time = duration(note.seconds["total"])
        out.print(console.safe(f"  {name:<38}test accuracy {score:.4f}  {epochs} epochs, {time}"))
    out.print()


def _next_folder() -> Path:
    number = 1
    while (folder := Path("runs") / f"demo-{number}").exists():
        number += 1
    return folder


def _show_guesses(run: Path) -> None:
    """As many test images as fit beside each other, as the classifier sees them, each with its guess."""
    from tlcli.cli import console
    from tlcli.data.pixels import read
    from tlcli.report import record
    from tlcli.report.folder import read_splits
    from tlcli.workflows.predict import predict

    root = Path(record.read(run).data["path"])
    tests = read_splits(run, "test")
    out = console.out()
    number = max(1, min(MOST_PICTURES, (out.width + 2) // COLUMN))
    chosen = tests[:: max(1, len(tests) // number)][:number]
    guesses = list(predict(run, [str(root / row["path"]) for row in chosen], top=1, progress=lambda *_: None))
    out.print()
    out.print("Some test images:", style="bold")
    pictures = [_drawn(read(root / row["path"], (SIDE, SIDE), "stretch")) for row in chosen]
    for lines in zip(*pictures, strict=True):
        out.print(console.safe("  ".join(lines)))
    said = [f"{guess.top[0].label} ({guess.top[0].probability:.0%})" for guess in guesses]
    marks = [
        "right" if guess.top[0].label == row["label"] else f"is {row['label']}"
        for guess, row in zip(guesses, chosen, strict=True)
    ]
    out.print(
        console.safe("  ".join(f"{text} {mark}".ljust(COLUMN - 2) for text, mark in zip(said, marks, strict=True)))
    )


def _drawn(pixels: "np.ndarray") -> list[str]:
    """A picture as lines of characters, two a pixel."""
    grey = pixels.mean(axis=2)
    return ["".join(SHADES[int(value * (len(SHADES) - 1) / 255)] * 2 for value in row) for row in grey]


def _what_next(data: Path, run: Path) -> None:
    from tlcli.cli import console

    out = console.out()
    out.print()
    out.print("What to type next:", style="bold")
    one = next(iter(sorted((data / "7").iterdir())))
    for line in (
        f"tlcli predict {run} {one}",
        f"tlcli evaluate {run}",
        "tlcli zoo list 'efficientnet*'",
        "tlcli inspect mobilenet_v2 --train top:30%",
        "tlcli plan YOUR-PHOTOS/      # one folder of pictures per class",
        "tlcli finetune YOUR-PHOTOS/",
    ):
        out.print(console.safe(f"  {line}"))
