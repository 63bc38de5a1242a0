"""`tlcli check`."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tlcli.cli.options import as_json, examples, exclude, is_quiet, state
from tlcli.errors import ExpectationError
from tlcli.text import plural

if TYPE_CHECKING:
    from rich.table import Table

    from tlcli.quality.check import CheckRequest, CheckResult
    from tlcli.quality.finding import Finding, Severity
    from tlcli.workflows.check import Checked

# Examples of a finding in the table.
SHOWN = 2
STYLES = {"error": "red", "warning": "yellow", "info": "dim"}


@click.command(
    epilog=examples(
        "check photos/",
        "check photos/ --html findings.html --fail-on warning",
        "check photos/ --quarantine bad.txt",
        "finetune photos/ --exclude bad.txt",
    )
)
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--model", "-m", metavar="M", help="Network whose input size counts. [default: mobilenet_v2]")
@click.option("--size", nargs=2, type=int, metavar="H W", help="Input height and width. [default: the network's own]")
@exclude
@click.option("--html", metavar="FILE", type=click.Path(path_type=Path), help="Write a page with pictures.")
@click.option(
    "--quarantine",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write a list of images to leave out, for --exclude.",
)
@click.option(
    "--fail-on",
    type=click.Choice(["error", "warning", "info", "never"]),
    default="error",
    show_default=True,
    help="Exit code 3 for findings as severe as this.",
)
@as_json
@state
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
    """Look for what spoils training: broken images, copies, leaks.

    Every file of DATA is decoded as for training, and compared with all others. Nothing in DATA is changed.
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


def _print_result(found: "CheckResult") -> None:
    """A table of the findings, and what to do about those that matter."""
    from tlcli.cli import console

    out = console.out()
    console.say(out, console.safe(f"{found.data}: {found.summary()}", "bold"))
    out.print()
    if not found.findings:
        out.print("nothing was found")
        return
    out.print(_table(found.findings))
    for finding in found.findings:
        if finding.severity != "info":
            out.print()
            title = console.safe(f"{_title(finding)}: ", STYLES[finding.severity])
            console.say(out, title + console.safe(f"{finding.message}. {finding.remedy}"))


def _table(findings: "tuple[Finding, ...]") -> "Table":
    from rich.table import Table
    from rich.text import Text

    from tlcli.cli import console

    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    made.add_column("severity", no_wrap=True)
    made.add_column("finding", no_wrap=True)
    made.add_column("count", justify="right", no_wrap=True)
    made.add_column("for example", overflow="fold")
    for finding in findings:
        style = STYLES[finding.severity]
        cases = Text("\n").join(console.safe(line, "dim" if style == "dim" else "") for line in _cases(finding))
        made.add_row(
            console.safe(finding.severity, style), console.safe(_title(finding), style), str(finding.count), cases
        )
    return made


def _cases(finding: "Finding") -> list[str]:
    """The first examples, a line each."""
    notes = finding.notes or {}
    if finding.groups:
        lines = [" = ".join(group[:3]) + (" = …" if len(group) > 3 else "") for group in finding.groups[:SHOWN]]
    else:
        noted = [(path, notes.get(path)) for path in finding.paths[:SHOWN]]
        lines = [f"{path} ({note})" if note else path for path, note in noted]
    return [*lines, *(["…"] if len(finding.groups or finding.paths) > SHOWN else [])]


def _title(finding: "Finding") -> str:
    return finding.kind.replace("_", " ")


def _print_next(request: "CheckRequest", checked: "Checked", *, fail_on: str | None) -> None:
    """What was written, the exit code, and what to type next. `fail_on` is None if the exit code is 0."""
    from tlcli.cli import console

    left_out, use = len(checked.left_out), checked.command or checked.obstacle
    lines = []
    if request.html is not None:
        lines.append(("page", str(request.html)))
    if request.quarantine is not None:
        lines.append(("list", f"{request.quarantine}, {plural(left_out, 'image')}"))
        if left_out and use:
            lines.append(("use it", use))
    if fail_on:
        lines.append(("exit code", f"3, for findings of severity {fail_on} (--fail-on)"))
    again = ["tlcli", "check", str(request.data), *(["--exclude", str(request.exclude)] if request.exclude else [])]
    again += ["--model", request.model] if request.model else []
    again += ["--size", *map(str, request.size)] if request.size else []
    if request.html is None and not is_quiet():
        lines.append(("pictures", shlex.join([*again, "--html", "findings.html"])))
    if request.quarantine is None and left_out and not is_quiet():
        command = shlex.join([*again, "--quarantine", "bad.txt"])
        lines.append(("list", f"{command}: {plural(left_out, 'image')} to leave out"))
    out = console.out()
    out.print()
    for name, text in lines:
        console.say(out, console.safe(f"{name:<11}{text}"))
