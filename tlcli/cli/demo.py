"""`tlcli demo`: the whole job in a minute or two, offline."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tlcli.cli.options import LOCAL, global_options, is_quiet

if TYPE_CHECKING:
    import numpy as np

    from tlcli.workflows.request import Request

# Characters for gray values, dark to light.
SHADES = "@%#*+=-:. "
SIDE = 12
# Width of an image and the gap beside it, in characters.
COLUMN = 2 * SIDE + 2
MAX_IMAGES = 5


@click.command()
@click.option("--out", "-o", type=LOCAL, help="Folder for images and runs. [default: runs/demo-<n>]")
@click.option("--images", type=LOCAL, help="Only write the images, as class folders, to a new folder.")
@global_options
def demo(out: Path | None, images: Path | None) -> None:
    """Run a complete example on digits and photographs, offline."""
    from tlcli.cli import console
    from tlcli.cli.finetune import run_and_print
    from tlcli.paths import require_empty_folder
    from tlcli.workflows.demo import from_scratch, write_digits
    from tlcli.workflows.request import Request

    if images is not None:
        require_empty_folder(images, "--images")
        click.echo(str(write_digits(images)))
        return
    home = out or _next_folder()
    require_empty_folder(home, "--out")
    data, run = home / "digits", home / "run"
    if not is_quiet():
        err = console.err()
        console.print_text(
            err, "Handwritten digits from scikit-learn, 60 images of each, as a folder of class folders:", "bold"
        )
        err.print(console.safe(f"  {data}/0 … {data}/9"))
        err.print(
            console.safe(
                "The bundled network is a MobileNet pretrained on synthetic images, none of them digits. It is"
                " fine-tuned, then trained again from random weights for comparison."
            )
        )
    write_digits(data)
    run_and_print(Request(recipe="demo", options={"data.path": str(data.absolute())}, out=run), as_json=False)
    _print_comparison(run, from_scratch(run, home / "from-scratch"))
    _print_predictions(run)
    _photographs(home)
    _print_next_commands(data, run)


def _photographs(home: Path) -> None:
    """Train a new head on the default network, on patches of photographs. Without its weights, only say so."""
    from tlcli.cli import console
    from tlcli.cli.finetune import run_and_print
    from tlcli.data.patches import write_patches
    from tlcli.workflows.demo import on_patches
    from tlcli.zoo.default import PREFERRED, choose_default

    out = console.out()
    out.print()
    if choose_default({}, None).name != PREFERRED:
        out.print(console.safe(f"Photographs are left out: the weights of {PREFERRED} are not installed."))
        return
    data = write_patches(home / "patches")
    out.print("Photographs:", style="bold")
    text = (
        f"{data} has patches of the two photographs in scikit-learn, sorted by what they show. The default network,"
        " pretrained on ImageNet, gets a new head. This is easy: patches of one photograph look alike, so the score"
        " says little about other photographs."
    )
    console.print_text(out, console.safe(text))
    run_and_print(on_patches(data, home / "photographs"), as_json=False)


def _print_comparison(run: Path, request: "Request") -> None:
    """Train from random weights, and print both accuracies side by side."""
    from tlcli.cli import console
    from tlcli.cli.progress import observer
    from tlcli.report import record
    from tlcli.text import duration
    from tlcli.workflows.finetune import finetune
    from tlcli.workflows.request import check_request

    if not is_quiet():
        console.print_text(console.err(), "The same network from random weights:", "bold")
    with observer() as observe:
        _, scratch = finetune(request, check_request(request), observe)
    tuned = record.read(run)
    out = console.out()
    out.print()
    out.print("Effect of pretraining:", style="bold")
    rows = (("fine-tuned from the bundled weights", tuned), ("the same network from random weights", scratch))
    for name, result in rows:
        score, epochs = result.scores["test"]["accuracy"], sum(phase["epochs"] for phase in result.phases)
        time = duration(result.seconds["total"])
        out.print(console.safe(f"  {name:<38}test accuracy {score:.4f}  {epochs} epochs, {time}"))


def _next_folder() -> Path:
    number = 1
    while (folder := Path("runs") / f"demo-{number}").exists():
        number += 1
    return folder


def _print_predictions(run: Path) -> None:
    """Print test images side by side, each with its prediction."""
    from tlcli.cli import console
    from tlcli.data.pixels import read
    from tlcli.report import record
    from tlcli.report.folder import read_splits
    from tlcli.workflows.predict import PredictRequest, predict

    root = Path(record.read(run).data["path"])
    tests = read_splits(run, "test")
    out = console.out()
    number = max(1, min(MAX_IMAGES, (out.width + 2) // COLUMN))
    chosen = tests[:: max(1, len(tests) // number)][:number]
    request = PredictRequest(run, [str(root / row["path"]) for row in chosen])
    predictions = list(predict(request, progress=lambda *_: None))
    out.print()
    out.print("Some test images:", style="bold")
    images = [_as_characters(read(root / row["path"], (SIDE, SIDE), "stretch")) for row in chosen]
    for lines in zip(*images, strict=True):
        out.print(console.safe("  ".join(lines)))
    labels = [f"{prediction.top[0].label} ({prediction.top[0].probability:.0%})" for prediction in predictions]
    marks = [
        "right" if prediction.top[0].label == row["label"] else f"but is {row['label']}"
        for prediction, row in zip(predictions, chosen, strict=True)
    ]
    out.print(
        console.safe("  ".join(f"{text} {mark}".ljust(COLUMN - 2) for text, mark in zip(labels, marks, strict=True)))
    )


def _as_characters(pixels: "np.ndarray") -> list[str]:
    """An image as lines of characters, two per pixel."""
    grey = pixels.mean(axis=2)
    return ["".join(SHADES[int(value * (len(SHADES) - 1) / 255)] * 2 for value in row) for row in grey]


def _print_next_commands(data: Path, run: Path) -> None:
    from tlcli.cli import console

    out = console.out()
    out.print()
    out.print("Next commands:", style="bold")
    image = next(iter(sorted((data / "7").iterdir())))
    for line in (
        f"tlcli predict {run} {image}",
        f"tlcli evaluate {run}",
        "tlcli zoo list 'efficientnet*'",
        "tlcli inspect mobilenet_v2 --train top:30%",
        "tlcli plan YOUR-PHOTOS/      # one folder of images per class",
        "tlcli finetune YOUR-PHOTOS/",
    ):
        out.print(console.safe(f"  {line}"))
