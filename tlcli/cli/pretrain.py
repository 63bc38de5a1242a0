"""`tlcli pretrain`."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tlcli.cli.options import Interrupted, as_json, examples, is_quiet, state

if TYPE_CHECKING:
    from tlcli.pretrain.request import PretrainTask
    from tlcli.pretrain.run import PretrainResult
    from tlcli.train.events import Observer


@click.command(
    epilog=examples(
        "pretrain heap-of-pictures/ --out mine.yaml",
        "pretrain heap-of-pictures/ -m mobilenet_v2 --set model.arguments.alpha=0.5 --weights random -o mine",
        "pretrain --synthetic --images 200000 --out drawn-by-me.yaml",
        "finetune photos/ --model mine.yaml",
    )
)
@click.argument("unlabelled", required=False, type=click.Path(path_type=Path))
@click.option("--synthetic", is_flag=True, help="Train on pictures drawn by this program; needs no pictures.")
@click.option(
    "--model", "-m", metavar="M", help="Network of `tlcli zoo list`, or a card file. [default: mobilenet_synthetic]"
)
@click.option("--weights", metavar="FILE", help="Weights to start from instead of the network's own, or 'random'.")
@click.option("--set", "settings", metavar="A.B=C", multiple=True, help="For example model.arguments.alpha=0.35.")
@click.option("--size", type=click.IntRange(1), metavar="N", help="Height and width, pixels. [default: the network's]")
@click.option("--epochs", type=click.IntRange(1), metavar="N", help="[default: about 200,000 pictures in all]")
@click.option("--images", type=click.IntRange(1), metavar="N", help="With --synthetic: pictures to draw.")
@click.option("--batch-size", "batch", type=click.IntRange(8), metavar="N", help="[default: 128; less at large sizes]")
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, metavar="N", help="Of all that is random."
)
@click.option("--licence", metavar="TEXT", help="Of the weights, for their card. [default: yours]")
@click.option("--out", "-o", required=True, metavar="CARD", type=click.Path(path_type=Path), help="Card file to write.")
@click.option("--overwrite", is_flag=True, help="Replace a card that is there.")
@click.option("--device", metavar="D", default="auto", help="auto, cpu, gpu, gpu:1, tpu.")
@as_json
@state
def pretrain(as_json: bool, **asked: Any) -> None:
    """Pretrain a network on pictures without labels.

    UNLABELLED is a folder of pictures, in sub-folders or not. The network learns to find two views of one picture
    alike. Writes CARD.yaml, for `--model CARD.yaml` elsewhere, and beside it weights, a page about them, and curves.

    Interrupted, the same command goes on after the last epoch; with --synthetic it begins anew.
    """
    from tlcli.cli import console
    from tlcli.pretrain.request import PretrainRequest, check_request

    task = check_request(PretrainRequest(**asked))
    if not is_quiet():
        console.err().print("loading Keras …", style="dim")
    with console.loading_keras():
        from tlcli.workflows import pretrain as workflow
    try:
        with _observer() as observe:
            done = workflow.pretrain(task, observe)
    except KeyboardInterrupt:
        then = "" if task.request.synthetic else " The same command resumes after the last complete epoch."
        console.err().print(console.safe(f"Interrupted.{then}"))
        raise Interrupted from None
    if as_json:
        console.print_json(done.to_json())
    else:
        _tell(task, done)


@contextmanager
def _observer() -> Iterator["Observer"]:
    """The usual one; where there is no bar to draw, a line for each epoch says enough."""
    from tlcli.cli import console, progress
    from tlcli.pretrain.request import STAGE
    from tlcli.train.events import Advanced, Event

    draws = console.err().is_terminal
    with progress.observer() as observe:

        def passed(event: Event) -> None:
            if draws or not (isinstance(event, Advanced) and event.stage == STAGE):
                observe(event)

        yield passed


def _tell(task: "PretrainTask", done: "PretrainResult") -> None:
    """What was written, how it went, and what to type next."""
    from tlcli import text
    from tlcli.cli import console
    from tlcli.pretrain.card import describe_curve

    out, points = console.out(), done.account.points
    card = shlex.quote(str(task.out))
    out.print(console.safe(f"{done.card.name}: {done.card.data}", "bold"))
    out.print(
        console.safe(f"{describe_curve(points)}; {points[-1].images} images in {text.duration(points[-1].seconds)}")
    )
    if done.unreadable:
        out.print(f"{done.unreadable} unreadable files were left out")
    out.print()
    for what, path in zip(("weights", "curves", "about it", "card"), done.files, strict=True):
        out.print(console.safe(f"{what:<10}{path}"))
    if not is_quiet():
        out.print(console.safe(f"use it    tlcli finetune photos/ --model {card}"))
