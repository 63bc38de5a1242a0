"""`tlcli pretrain`."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from tlcli.cli.options import (
    LOCAL,
    LOCATION,
    Interrupted,
    complete_model,
    examples,
    global_options,
    is_quiet,
    json_option,
)
from tlcli.text import plural

if TYPE_CHECKING:
    from tlcli.pretrain.request import PretrainTask
    from tlcli.pretrain.run import PretrainResult
    from tlcli.train.events import Observer


@click.command(
    epilog=examples(
        "pretrain unlabelled/ --out mine.yaml",
        "pretrain unlabelled/ -m mobilenet_v2 --set model.arguments.alpha=0.5 --weights random -o mine",
        "pretrain --synthetic --images 200000 --out synthetic.yaml",
        "finetune photos/ --model mine.yaml",
    )
)
@click.argument("unlabelled", required=False, type=LOCATION)
@click.option("--synthetic", is_flag=True, help="Train on synthetic images instead of a folder.")
@click.option(
    "--model",
    "-m",
    shell_complete=complete_model,
    metavar="M",
    help="Network from `tlcli zoo list`, or a card file. [default: mobilenet_synthetic]",
)
@click.option("--weights", metavar="FILE", help="Initial weights file, or 'random'. [default: the network's own]")
@click.option(
    "--set",
    "settings",
    metavar="A.B=C",
    multiple=True,
    help="Set a value, such as model.arguments.alpha=0.35; repeatable.",
)
@click.option(
    "--size", type=click.IntRange(1), metavar="N", help="Image height and width, pixels. [default: the network's own]"
)
@click.option(
    "--epochs", type=click.IntRange(1), metavar="N", help="Number of epochs. [default: about 200,000 images in all]"
)
@click.option("--images", type=click.IntRange(1), metavar="N", help="With --synthetic: number of images.")
@click.option(
    "--batch-size",
    "batch",
    type=click.IntRange(8),
    metavar="N",
    help="Images per batch. [default: 128; less at large sizes]",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, metavar="N", help="Random seed.")
@click.option("--licence", metavar="TEXT", help="Licence of the weights, for their card. [default: yours]")
@click.option("--out", "-o", required=True, metavar="CARD", type=LOCAL, help="Card file to write.")
@click.option("--overwrite", is_flag=True, help="Replace an existing card.")
@click.option("--device", metavar="D", default="auto", help="cpu, gpu, gpu:1 or tpu. [default: auto]")
@json_option
@global_options
def pretrain(as_json: bool, **options: Any) -> None:
    """Pretrain a network on images without labels.

    UNLABELLED is a folder of images, with or without subfolders. The network learns to give two views of an image the
    same features. Writes CARD.yaml for `--model CARD.yaml`, and next to it the weights, a description and curves.

    After an interruption, the same command resumes after the last complete epoch (--synthetic: at the last point).
    """
    from tlcli.cli import console
    from tlcli.pretrain.request import PretrainRequest, check_request

    task = check_request(PretrainRequest(**options))
    if not is_quiet():
        console.err().print("loading Keras …", style="dim")
    with console.loading_keras():
        from tlcli.workflows import pretrain as workflow
    try:
        with _observer() as observe:
            result = workflow.pretrain(task, observe)
    except KeyboardInterrupt:
        last = "point of the curves" if task.request.synthetic else "complete epoch"
        console.err().print(console.safe(f"Interrupted. The same command resumes after the last {last}."))
        raise Interrupted from None
    if as_json:
        console.print_json(result.to_json())
    else:
        _print_result(task, result)


@contextmanager
def _observer() -> Iterator["Observer"]:
    """The observer for stderr. Without a terminal, the pretraining stage prints one line per epoch and no progress."""
    from tlcli.cli import console, progress
    from tlcli.pretrain.request import STAGE
    from tlcli.train.events import Advanced, Event

    is_terminal = console.err().is_terminal
    with progress.observer() as observe:

        def filtered(event: Event) -> None:
            if is_terminal or not (isinstance(event, Advanced) and event.stage == STAGE):
                observe(event)

        yield filtered


def _print_result(task: "PretrainTask", result: "PretrainResult") -> None:
    """Print what was trained, the written files, and the command to type next."""
    from tlcli import text
    from tlcli.cli import console
    from tlcli.pretrain.card import describe_curve

    out, points = console.out(), result.summary.points
    out.print(console.safe(f"{result.card.name}: {result.card.data}", "bold"))
    out.print(
        console.safe(f"{describe_curve(points)}; {points[-1].images} images in {text.duration(points[-1].seconds)}")
    )
    if result.unreadable:
        out.print(f"skipped {plural(result.unreadable, 'unreadable file')}")
    out.print()
    for name, path in zip(("weights", "curves", "page", "card"), result.files, strict=True):
        out.print(console.safe(f"{name:<10}{path}"))
    if not is_quiet():
        out.print(console.safe(f"next      tlcli finetune photos/ --model {shlex.quote(str(task.out))}"))
