"""`tlcli report`."""

from pathlib import Path

import click

from tlcli.cli.options import LOCAL, RUN, examples, global_options, json_option, trust_option


@click.command(epilog=examples("report runs/first", "report runs/first --out first.html", "report runs/photos-*"))
@click.argument("runs", metavar="RUN…", type=RUN, nargs=-1, required=True)
@click.option(
    "--out",
    "-o",
    metavar="FILE",
    type=LOCAL,
    help="The page. [default: report.html in the run folder; of several runs: comparison.html]",
)
@json_option
@trust_option
@global_options
def report(runs: tuple[Path, ...], out: Path | None, as_json: bool) -> None:
    """Write a page about a run, or one that compares runs.

    The page is one HTML file that works offline. Every run writes it at its end, unless its recipe says report: false.
    """
    from tlcli.cli import console, tables
    from tlcli.workflows import report as workflow

    result = workflow.report(runs, out, loading=console.loading_keras())
    tables.warn_of_skipped(result["skipped"])
    if result["missing"]:
        text = f"warning: {len(result['missing'])} images of the page cannot be shown; the page says why"
        console.print_text(console.err(), console.safe(text, "yellow"))
    if as_json:
        console.print_json(result)
    else:
        console.print_text(console.out(), console.safe(f"page       {result['file']}"))
