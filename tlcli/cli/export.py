"""`tlcli export`."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tlcli.cli.options import LOCAL, LOCATION, RUN, examples, global_options, is_quiet, json_option
from tlcli.errors import ExpectationError
from tlcli.export.targets import QUANTIZE, TARGETS, ExportRequest, Format, Quantize, check_request

if TYPE_CHECKING:
    from tlcli.export.bundle import Bundle


@click.command(
    epilog=examples(
        "export runs/first --to litert",
        "export runs/first --to onnx --quantize int8 --max-drop 0.02",
        "predict runs/first-litert new/*.jpg",
    )
)
@click.argument("run", type=RUN)
@click.option("--to", required=True, type=click.Choice(list(TARGETS)), help="Format.")
@click.option(
    "--quantize", type=click.Choice(QUANTIZE), default="none", show_default=True, help="Smaller numbers for weights."
)
@click.option(
    "--max-drop",
    metavar="SHARE",
    type=click.FloatRange(0, 1),
    default=0.01,
    show_default=True,
    help="Largest loss of accuracy; beyond it exit code 3.",
)
@click.option(
    "--sparse",
    metavar="T",
    type=click.FloatRange(0, min_open=True),
    help="Set weights of kernels below this absolute value to zero.",
)
@click.option("--raw-input", is_flag=True, help="Take images of the network's size, without the resize inside.")
@click.option("--data", type=LOCATION, help="Images to compare on. [default: the run's validation images]")
@click.option("--out", "-o", type=LOCAL, help="Bundle folder. [default: RUN-FORMAT]")
@json_option
@global_options
def export(
    run: Path,
    to: Format,
    quantize: Quantize,
    max_drop: float,
    sparse: float | None,
    raw_input: bool,
    data: Path | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Convert the classifier of a run to another format.

    The file is run by the target's own runtime on the validation images and compared with the classifier. If it answers
    differently, it is set aside with the ending .refused, and the exit code is 3.
    """
    from tlcli.cli import console, progress
    from tlcli.evaluate.runtimes import require_model
    from tlcli.export.bundle import require_folder

    request = ExportRequest(run, to, quantize, max_drop, raw_input, data, out, sparse)
    require_model(run)
    check_request(request)
    require_folder(request.folder)
    with console.loading_keras():
        from tlcli.workflows import export as workflow
    if not is_quiet():
        console.print_text(console.err(), f"converting to {to}", "dim")
    with progress.bar("comparing") as advance:
        bundle = workflow.export(request, progress=advance)
    if trained := bundle.card["comparison"]["trained"]:
        total = bundle.card["comparison"]["images"]
        text = f"warning: the run was trained on {trained} of these {total} images: the accuracies are too high"
        console.print_text(console.err(), console.safe(text, "yellow"))
    if as_json:
        console.print_json(bundle.to_json())
    else:
        _print_bundle(bundle, run, of="validation images of the run" if data is None else f"images of {data}")
    if bundle.objections:
        raise click.exceptions.Exit(ExpectationError.exit_code)


def _print_bundle(bundle: "Bundle", run: Path, *, of: str) -> None:
    """Print what was exported from `run`; `of` says which images it was compared on."""
    from tlcli.cli import console

    card, found = bundle.card, bundle.card["comparison"]
    height, width = card["input"]["size"]
    images = (
        f"{card['input']['dtype']} RGB of any size" if card["input"]["resize_inside"] else f"{height} × {width} RGB"
    )
    lines = [
        ("bundle", str(bundle.folder)),
        ("file", f"{card['file']}{'.refused' if bundle.objections else ''}, {card['bytes'] / 1e6:.2f} MB, {images}"),
        (
            "accuracy",
            f"{found['accuracy']:.4f}, classifier {found['classifier_accuracy']:.4f} (on {found['images']} {of})",
        ),
        (
            "agreement",
            f"{found['agreement']:.1%} same label, largest difference of a probability"
            f" {found['largest_difference']:.2g}",
        ),
        *([("ranges", _calibration(found, run))] if found["calibration"] else []),
        *([("zeros", _sparsity(card["sparse"]))] if card["sparse"] else []),
        ("time", f"{found['milliseconds']:.1f} ms an image (median, {found['threads']} threads)"),
        ("licence", card["licence"] or "unknown"),
    ]
    lines += [("refused", f"{reason}; exit code 3") for reason in bundle.objections]
    if not bundle.objections and not is_quiet():
        lines.append(("next", f"tlcli predict {shlex.quote(str(bundle.folder))} IMAGE…"))
    for name, text in lines:
        style = "red" if name == "refused" else ""
        console.print_text(console.out(), console.safe(f"{name:<11}{text}", style))


def _calibration(found: dict[str, int], run: Path) -> str:
    from tlcli.evaluate.runtimes import is_run

    source = "training images of the run" if is_run(run) else "images of --data, on which it is not compared"
    return f"of 8-bit numbers from {found['calibration']} {source}"


def _sparsity(sparse: dict[str, float]) -> str:
    return f"{sparse['zeros']:.1%} of the weights of kernels (those below {sparse['threshold']:g})"
