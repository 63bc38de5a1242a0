"""`tlcli probe`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tlcli.cli.options import (
    LOCAL,
    LOCATION,
    cluster_option,
    complete_model,
    cut_option,
    examples,
    exclude_option,
    global_options,
    is_quiet,
    json_option,
    trust_option,
)
from tlcli.text import whole_percent

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from tlcli.train.depth_probe import Depth, Lead, NetworkComparison, NetworkProbe, ProbeResult

# Width of the bar for an accuracy of 1, characters.
BAR = 10
EIGHTHS = " ▏▎▍▌▋▊▉"


@click.command(
    epilog=examples(
        "probe photos/",
        "probe photos/ -m mobilenet_v2 -m efficientnet_b0 --plot depths.png",
        "probe photos/ -m mobilenet_v2 --size 160 160 --set data.val=0.3",
    )
)
@click.argument("data", type=LOCATION)
@click.option(
    "--model",
    "-m",
    "models",
    metavar="M",
    multiple=True,
    shell_complete=complete_model,
    help="Network, as for finetune; repeatable. [default: auto]",
)
@click.option("--weights", metavar="FILE", help="Weights file, or 'random'. [default: the network's own]")
@cut_option
@click.option("--set", "settings", metavar="A.B=C", multiple=True, help="Set a value of the recipe; repeatable.")
@exclude_option
@click.option("--size", nargs=2, type=int, metavar="H W", help="Input height and width. [default: the network's own]")
@click.option("--plot", metavar="FILE.png", type=LOCAL, help="Plot accuracy over depth.")
@click.option("--device", metavar="D", default="auto", help="cpu, gpu, gpu:1 or tpu. [default: auto]")
@cluster_option
@json_option
@trust_option
@global_options
def probe(
    data: Path,
    models: tuple[str, ...],
    weights: str | None,
    cut: str | None,
    settings: tuple[str, ...],
    exclude: Path | None,
    size: tuple[int, int] | None,
    plot: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Measure a linear probe at every depth of a network.

    DATA is as for `finetune`. The probe at the end of each layer group shows where to cut the network, and which
    network to choose.
    """
    from tlcli.cli import console
    from tlcli.cli.progress import observer
    from tlcli.workflows.probe_request import ProbeRequest, check_probe

    request = ProbeRequest(data, models, weights, settings, size, plot, device, exclude, cut)
    resolved = check_probe(request)
    if not is_quiet():
        for sentence in dict.fromkeys(entry.licence for entry in resolved if entry.licence):
            console.print_text(console.err(), console.safe(sentence, "dim"))
        console.err().print("loading Keras …", style="dim")
    with console.loading_keras():
        from tlcli.workflows import probe as workflow
    with observer() as observe:
        result = workflow.probe(request, resolved, observe)
    if plot is not None:
        from tlcli.report import plots

        plots.plot_probes(result.models, plot, title=f"linear probes on {data}")
    if as_json:
        console.print_json(result.to_json())
    else:
        print_result(result, plot)


def print_result(result: "ProbeResult", plot: Path | None) -> None:
    """Print a table for each network, and how far the best network is ahead of the others."""
    from tlcli.cli import console

    out = console.out()
    for number, network in enumerate(result.models):
        if number:
            out.print()
        _print_network(out, network, result.data["counts"])
    if result.comparisons:
        out.print()
    for comparison in result.comparisons:
        console.print_text(out, console.safe(_comparison(comparison)))
    if plot is not None:
        out.print(console.safe(f"plot  {plot}"))


def _print_network(out: "Console", network: "NetworkProbe", counts: dict[str, int]) -> None:
    from tlcli import text
    from tlcli.cli import console

    height, width = network.size
    features_s, probes_s = (text.duration(network.seconds[name]) for name in ("features", "probes"))
    console.print_text(
        out, console.safe(f"{network.model}, weights {network.weights}, input {height} × {width}", "bold")
    )
    console.print_text(
        out,
        f"{counts['train']} training, {counts['val']} validation, {counts['test']} test images;"
        f" features {features_s}, probes {probes_s}",
    )
    out.print()
    columns = ["group", "drop_top", "channels", "FLOPs", "val accuracy", "val loss", "test acc", "1/L2"]
    rows = [_row(depth, is_best=depth is network.best) for depth in network.depths]
    console.print_table(out, columns, rows, optional=["1/L2", "channels", "FLOPs", "drop_top"])
    out.print()
    console.print_text(out, console.safe(_verdict(network)))


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


def bar(fraction: float) -> str:
    """A fraction (0-1) as a bar of fixed width.

    >>> [bar(0.0), bar(0.55), bar(1.0)]
    ['          ', '█████▌    ', '██████████']
    """
    whole, eighths = divmod(round(fraction * BAR * 8), 8)
    return ("█" * whole + EIGHTHS[eighths].strip()).ljust(BAR)


def _verdict(network: "NetworkProbe") -> str:
    """The best depth by validation loss, and whether to cut there."""
    best, top, lead = network.best, network.depths[-1], network.lead_over_top
    if best is top:
        return f"* lowest validation loss: {best.group}, the top; cutting gains nothing"
    advice = "" if lead.is_clear else ": no clear reason to cut"
    return (
        f"* lowest validation loss: {best.group} (--set model.drop_top={best.drop_top}),"
        f" {_lead(lead)} than {top.group}{_confidence(lead)}{advice}"
    )


def _comparison(comparison: "NetworkComparison") -> str:
    lead = comparison.lead
    return f"{comparison.model} is ahead of {comparison.over}: validation loss {_lead(lead)}{_confidence(lead)}"


def _lead(lead: "Lead") -> str:
    return f"{lead.gain:.3f} ± {lead.standard_error:.3f} lower"


def _confidence(lead: "Lead") -> str:
    within = "" if lead.is_clear else ", within its standard error"
    return f" at {whole_percent(lead.confidence)} confidence{within}"
