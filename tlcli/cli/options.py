"""Options that several commands share, and groups of commands."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tlcli.errors import did_you_mean

if TYPE_CHECKING:
    from tlcli.workflows.request import Request

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


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, of which the user has been told."""


class Group(click.Group):
    """A group of commands that says what it has."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Without a command, the help on stderr and exit code 2."""
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help(), err=True)
            ctx.exit(2)
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As Click does it, with a suggestion for a mistyped command."""
        if self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            hint = did_you_mean(args[0], self.commands) or f"Commands: {', '.join(sorted(self.commands))}."
            raise click.UsageError(f"there is no command '{args[0]}'. {hint}", ctx)
        return super().resolve_command(ctx, args)


def request_from(asked: dict[str, Any]) -> "Request":
    """Command-line values to a Request."""
    from tlcli.workflows.request import Request

    data: Path | None = asked["data"]
    options = {
        "data.path": None if data is None else str(data),
        "model.name": asked["model"],
        "data.exclude": None if asked["exclude"] is None else str(asked["exclude"]),
        "model.weights": asked["weights"],
        "performance.precision": asked["precision"],
        "performance.budget": asked["budget"],
    }
    return Request(
        recipe=asked["recipe"] or "unfreeze-until-plateau",
        settings=asked["settings"],
        options={key: value for key, value in options.items() if value is not None},
        strict=asked["strict"],
        out=asked["out"],
        resume=asked["resume"],
        device=asked["device"],
    )
