"""`tlcli probe`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tlcli.cli.options import as_json, examples, exclude, is_quiet, state

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from tlcli.train.depth_probe import Depth, Lead, NetworkComparison, NetworkProbe, ProbeResult

# Width of the bar of a full accuracy, characters.
BAR = 10
EIGHTHS = " ▏▎▍▌▋▊▉"


@click.command(
    epilog=examples(
        "probe photos/",
        "probe photos/ -m mobilenet_v2 -m efficientnet_b0 --plot depths.png",
        "probe photos/ -m mobilenet_v2 --size 160 160 --set data.val=0.3",
    )
)
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "--model", "-m", "models", metavar="M", multiple=True, help="Network as for finetune; repeatable. [default: auto]"
)
@click.option("--weights", metavar="FILE", help="Weights instead of the network's own, or 'random'.")
@click.option("--set", "settings", metavar="A.B=C", multiple=True, help="Change one value of the recipe; repeatable.")
@exclude
@click.option("--size", nargs=2, type=int, metavar="H W", help="Input height and width. [default: the network's own]")
@click.option("--plot", metavar="FILE.png", type=click.Path(path_type=Path), help="Draw accuracy over depth.")
@click.option("--device", metavar="D", default="auto", help="auto, cpu, gpu, gpu:1, tpu.")
@as_json
@state
def probe(
    data: Path,
    models: tuple[str, ...],
    weights: str | None,
    settings: tuple[str, ...],
    exclude: Path | None,
    size: tuple[int, int] | None,
    plot: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Say how well a linear head does at every depth of a network.

    DATA is what `finetune` takes. One pass over the images for each network, then the best linear head on the pooled
    features at the end of every layer group. It shows where to cut, and which network to take.
    """
    from tlcli.cli import console
    from tlcli.cli.progress import observer
    from tlcli.workflows.request import ProbeRequest, check_probe

    asked = ProbeRequest(data, models, weights, settings, size, plot, device, exclude)
    resolved = check_probe(asked)
    if not is_quiet():
        console.err().print("loading Keras …", style="dim")
    with console.loading_keras():
        from tlcli.workflows import probe as workflow
    with observer() as observe:
        done = workflow.probe(asked, resolved, observe)
    if plot is not None:
        from tlcli.report import plots

        plots.plot_probes(done.models, plot, title=f"linear probes on {data}")
    if as_json:
        console.print_json(done.to_json())
    else:
        tell(done, plot)


def tell(done: "ProbeResult", plot: Path | None) -> None:
    """A table a network, what to make of it, and which network is ahead."""
    from tlcli.cli import console

    out = console.out()
    for number, probed in enumerate(done.models):
        if number:
            out.print()
        _tell_one(out, probed, done.data["counts"])
    if done.comparisons:
        out.print()
    for comparison in done.comparisons:
        console.say(out, console.safe(_compared(comparison)))
    if plot is not None:
        out.print(console.safe(f"plot  {plot}"))


def _tell_one(out: "Console", probed: "NetworkProbe", counts: dict[str, int]) -> None:
    from tlcli import text
    from tlcli.cli import console

    height, width = probed.size
    console.say(out, console.safe(f"{probed.model}, weights {probed.weights}, input {height} × {width}", "bold"))
    console.say(
        out,
        f"linear probes on {counts['train']} images, chosen by {counts['val']}, tested on {counts['test']};"
        f" features {text.duration(probed.seconds['features'])},"
        f" probes {text.duration(probed.seconds['probes'])}",
    )
    out.print()
    columns = ["group", "drop_top", "channels", "FLOPs", "val accuracy", "val loss", "test acc", "1/L2"]
    rows = [_row(depth, is_best=depth is probed.best) for depth in probed.depths]
    out.print(console.table(columns, rows, spare=["1/L2", "channels", "FLOPs", "drop_top"]))
    out.print()
    console.say(out, console.safe(_verdict(probed)))


def _row(depth: "Depth", *, is_best: bool) -> list["str | Text"]:
    from tlcli.cli import console

    cells = [
        f"{depth.group} *" if is_best else depth.group,
        str(depth.drop_top),
        str(depth.channels),
        f"{depth.flops_share:.0%}",
        f"{bar(depth.val_accuracy)} {depth.val_accuracy:.3f}",
        f"{depth.val_loss:.3f}",
        "–" if depth.test_accuracy is None else f"{depth.test_accuracy:.3f}",
        f"{depth.inverse_l2:.1g}" if depth.inverse_l2 < 10 else f"{depth.inverse_l2:.0f}",
    ]
    return [console.safe(cell, "bold" if is_best else "") for cell in cells]


def bar(share: float) -> str:
    """A share of 0-1 as a bar, always of the same width.

    >>> [bar(0.0), bar(0.55), bar(1.0)]
    ['          ', '█████▌    ', '██████████']
    """
    whole, eighths = divmod(round(share * BAR * 8), 8)
    return ("█" * whole + EIGHTHS[eighths].strip()).ljust(BAR)


def _verdict(probed: "NetworkProbe") -> str:
    """Where to cut, by validation alone."""
    best, top = probed.best, probed.depths[-1]
    if best is top:
        return f"* lowest validation loss: at the top, {best.group}; nothing is gained by cutting"
    lead = probed.over_top
    advice = "" if lead.is_clear else ", so there is no clear reason to cut"
    return (
        f"* lowest validation loss: {best.group}, to end there: --set model.drop_top={best.drop_top}."
        f" Against {top.group} it is {_led(lead)}{advice}"
    )


def _compared(comparison: "NetworkComparison") -> str:
    return f"{comparison.model} is ahead of {comparison.over}: the validation loss is {_led(comparison.lead)}"


def _led(lead: "Lead") -> str:
    than = "more" if lead.is_clear else "not more"
    lower = f"{lead.gain:.3f} ± {lead.standard_error:.3f} lower"
    return f"{lower}, {than} than its standard error ({lead.confidence:.0%} sure)"
