"""`tlcli check`."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tlcli.cli.options import (
    LOCAL,
    LOCATION,
    complete_model,
    examples,
    exclude_option,
    global_options,
    is_quiet,
    json_option,
)
from tlcli.errors import ExpectationError
from tlcli.text import plural

if TYPE_CHECKING:
    from rich.table import Table

    from tlcli.quality.check import CheckRequest, CheckResult
    from tlcli.quality.finding import Finding, Severity
    from tlcli.workflows.check import Checked

# Examples per finding in the table.
MAX_EXAMPLES = 2
STYLES = {"error": "red", "warning": "yellow", "info": "dim"}


@click.command(
    epilog=examples(
        "check photos/",
        "check photos/ --html findings.html --fail-on warning",
        "check photos/ --quarantine bad.txt",
        "finetune photos/ --exclude bad.txt",
    )
)
@click.argument("data", type=LOCATION)
@click.option(
    "--model",
    "-m",
    metavar="M",
    shell_complete=complete_model,
    help="Network whose input size counts. [default: efficientnet_lite0]",
)
@click.option("--size", nargs=2, type=int, metavar="H W", help="Input height and width. [default: the network's own]")
@exclude_option
@click.option("--html", metavar="FILE", type=LOCAL, help="Write a page with thumbnails.")
@click.option(
    "--quarantine",
    metavar="FILE",
    type=LOCAL,
    help="Write a list of images to leave out, for --exclude.",
)
@click.option(
    "--fail-on",
    type=click.Choice(["error", "warning", "info", "never"]),
    default="error",
    show_default=True,
    help="Exit code 3 for findings at least this severe.",
)
@json_option
@global_options
def check(
    data: Path,
    model: str | None,
    size: tuple[int, int] | None,
    exclude: Path | None,
    html: Path | None,
    quarantine: Path | None,
    fail_on: "Severity",
    as_json: bool,
) -> None:
    """Find faulty images: broken files, copies, leaks.

    Decodes every file of DATA as for training and compares it with all others. DATA is not changed.
    """
    from tlcli.cli import console
    from tlcli.cli.progress import observer
    from tlcli.quality.check import CheckRequest
    from tlcli.train.events import Advanced
    from tlcli.workflows import check as workflow

    request = CheckRequest(data, model, size, exclude, html, quarantine)
    with observer() as observe:
        checked = workflow.check(request, progress=lambda *at: observe(Advanced(*at)))
    is_failure = checked.result.reaches(fail_on)
    if as_json:
        console.print_json(checked.result.to_json() | {"failed": is_failure})
    else:
        _print_result(checked.result)
        _print_next(request, checked, fail_on=fail_on if is_failure else None)
    if is_failure:
        raise click.exceptions.Exit(ExpectationError.exit_code)


def _print_result(result: "CheckResult") -> None:
    """Print a table of the findings, and the remedies for errors and warnings."""
    from tlcli.cli import console

    out = console.out()
    console.print_text(out, console.safe(f"{result.data}: {result.summary()}", "bold"))
    if not result.findings:
        return
    out.print()
    console.print_lines(out, _table(result.findings))
    for finding in result.findings:
        if finding.severity != "info":
            out.print()
            title = console.safe(f"{_title(finding)}: ", STYLES[finding.severity])
            console.print_text(out, title + console.safe(f"{finding.message}. {finding.remedy}"))


def _table(findings: "tuple[Finding, ...]") -> "Table":
    from rich.table import Table
    from rich.text import Text

    from tlcli.cli import console

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("severity", no_wrap=True)
    table.add_column("finding", no_wrap=True)
    table.add_column("count", justify="right", no_wrap=True)
    table.add_column("examples", overflow="fold")
    for finding in findings:
        style = STYLES[finding.severity]
        lines = Text("\n").join(console.safe(line, "dim" if style == "dim" else "") for line in _examples(finding))
        table.add_row(
            console.safe(finding.severity, style), console.safe(_title(finding), style), str(finding.count), lines
        )
    return table


def _examples(finding: "Finding") -> list[str]:
    """The first files or groups of files of a finding, one line each."""
    notes = finding.notes or {}
    if finding.groups:
        lines = [" = ".join(group[:3]) + (" = …" if len(group) > 3 else "") for group in finding.groups[:MAX_EXAMPLES]]
    else:
        lines = [f"{path} ({notes[path]})" if notes.get(path) else path for path in finding.paths[:MAX_EXAMPLES]]
    return [*lines, *(["…"] if len(finding.groups or finding.paths) > MAX_EXAMPLES else [])]


def _title(finding: "Finding") -> str:
    return finding.kind.replace("_", " ")


def _print_next(request: "CheckRequest", checked: "Checked", *, fail_on: str | None) -> None:
    """Print the written files, the exit code if `fail_on` is given, and the commands to type next."""
    from tlcli.cli import console

    left_out, following = len(checked.left_out), checked.command or checked.obstacle
    lines = []
    if request.html is not None:
        lines.append(("page", str(request.html)))
    if request.quarantine is not None:
        lines.append(("list", f"{request.quarantine}, {plural(left_out, 'image')}"))
        if left_out and following:
            lines.append(("next", following))
    if fail_on:
        lines.append(("exit code", f"3: findings of severity {fail_on} (--fail-on)"))
    repeated = ["tlcli", "check", str(request.data)]
    repeated += ["--exclude", str(request.exclude)] if request.exclude else []
    repeated += ["--model", request.model] if request.model else []
    repeated += ["--size", *map(str, request.size)] if request.size else []
    if request.html is None and checked.result.findings and not is_quiet():
        lines.append(("page", shlex.join([*repeated, "--html", "findings.html"])))
    if request.quarantine is None and left_out and not is_quiet():
        lines.append(("list", f"{shlex.join([*repeated, '--quarantine', 'bad.txt'])}  ({plural(left_out, 'image')})"))
    out = console.out()
    if lines:
        out.print()
    for name, text in lines:
        out.print(console.safe(f"{name:<11}{text}"))
