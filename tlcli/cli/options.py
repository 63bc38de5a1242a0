"""Options that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

Function = Callable[..., Any]
QUIET = "tlcli.quiet"


def state(function: Function) -> Function:
    """`--quiet` and `--debug`, which hold for every command."""
    for option in (
        click.option(
            "--quiet", "-q", is_flag=True, expose_value=False, callback=_note, help="No progress and no hints."
        ),
        click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error."),
    ):
        function = option(function)
    return function


def examples(*lines: str) -> str:
    """The end of a command's help: lines to try, as they are."""
    return "\b\nExamples:\n" + "\n".join(f"  tlcli {line}" for line in lines)


def is_quiet() -> bool:
    """Whether `--quiet` was given, before or after the command's name."""
    context = click.get_current_context(silent=True)
    return bool(context and context.meta.get(QUIET))


def as_json(function: Function) -> Function:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")(function)


def exclude(function: Function) -> Function:
    """`--exclude`."""
    return click.option(
        "--exclude",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="List of images to leave out, as `tlcli check --quarantine` writes it.",
    )(function)


def training(function: Function) -> Function:
    """What `finetune` and `plan` are given."""
    options = (
        click.argument("data", required=False, type=click.Path(path_type=Path)),
        click.option(
            "--model", "-m", metavar="M", help="Network: a name from `tlcli zoo list`, or a file. [default: auto]"
        ),
        click.option("--weights", metavar="FILE", help="Weights instead of the network's own, or 'random'."),
        click.option(
            "--recipe", "-r", metavar="R", help="Bundled recipe or YAML file. [default: unfreeze-until-plateau]"
        ),
        click.option(
            "--set", "settings", metavar="A.B=C", multiple=True, help="Change one value of the recipe; repeatable."
        ),
        click.option(
            "--out", "-o", type=click.Path(path_type=Path), help="Run folder. [default: runs/<data>-<model>-<n>]"
        ),
        exclude,
        click.option("--resume", metavar="RUN", type=click.Path(path_type=Path), help="Go on with an unfinished run."),
        click.option("--device", metavar="D", default="auto", help="auto, cpu, gpu, gpu:1, tpu."),
        click.option(
            "--precision",
            type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
            help="Arithmetic. [default: auto]",
        ),
        click.option("--budget", metavar="TIME", help="Time the run, or each of --compare, may take: 90s, 10m, 2h."),
        click.option("--strict", is_flag=True, help="An unreadable image is an error instead of a warning."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def _note(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        context.meta[QUIET] = True
