"""Options that several commands share, and the class of command groups."""

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from tlcli.errors import TlcliError, did_you_mean

if TYPE_CHECKING:
    from tlcli.workflows.request import Request

Function = Callable[..., Any]
QUIET = "tlcli.quiet"


class Interrupted(KeyboardInterrupt):
    """Ctrl-C that has already been reported to the user."""


class Group(click.Group):
    """A command group that prints its help if no command is given, and suggests names for mistyped commands."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Without a command, print the help on stderr and exit with code 2."""
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help(), err=True)
            ctx.exit(2)
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or suggest one."""
        if self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            hint = did_you_mean(args[0], self.commands) or f"Commands: {', '.join(sorted(self.commands))}."
            raise click.UsageError(f"there is no command '{args[0]}'. {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands with their descriptions, which Click would cut on a narrow terminal."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, self.commands[name].get_short_help_str(1000)) for name in sorted(self.commands)])


def global_options(function: Function) -> Function:
    """Add `--quiet` and `--debug`, which every command has, and turn the places that the user names into paths."""
    function = _with_paths(function)
    for option in (
        click.option(
            "--quiet", "-q", is_flag=True, expose_value=False, callback=_set_quiet, help="Hide progress and hints."
        ),
        click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error."),
    ):
        function = option(function)
    return function


def _with_paths(function: Function) -> Function:
    @functools.wraps(function)
    def with_paths(*arguments: Any, **values: Any) -> Any:
        paths = {name: _path_of(value) for name, value in values.items()}
        try:
            return function(*arguments, **paths)
        except TlcliError as error:
            for value, path in ((values[name], paths[name]) for name in values):
                _name_place(error, value, path)
            raise

    return with_paths


def _name_place(error: TlcliError, place: Any, path: Any) -> None:
    """Put what the user has named in an error in place of its local copy."""
    for one, copy in zip(place, path, strict=True) if isinstance(place, tuple) else [(place, path)]:
        if isinstance(one, _Place) and one.is_run and "://" in one.text:
            for part in ("where", "message", "hint"):
                setattr(error, part, getattr(error, part).replace(str(copy), one.text))


def _path_of(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_path_of, value))
    return value.path() if isinstance(value, _Place) else value


def _set_quiet(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        context.meta[QUIET] = True


def is_quiet() -> bool:
    """True if `--quiet` was given, before or after the name of the command."""
    context = click.get_current_context(silent=True)
    return bool(context and context.meta.get(QUIET))


def complete_model(_context: click.Context, _parameter: click.Parameter, start: str) -> list[CompletionItem]:
    """What the shell offers for a network: names of the zoo, or else files."""
    from tlcli.zoo import catalogue

    return _completions(catalogue.load(), start)


def complete_recipe(_context: click.Context, _parameter: click.Parameter, start: str) -> list[CompletionItem]:
    """What the shell offers for a recipe: names of the bundled ones, or else files."""
    from tlcli.recipe import load

    return _completions(load.names(), start)


def complete_recipes(_context: click.Context, _parameter: click.Parameter, start: str) -> list[CompletionItem]:
    """What the shell offers for recipes with commas between them."""
    from tlcli.recipe import load

    before, comma, last = start.rpartition(",")
    return [CompletionItem(before + comma + name) for name in load.names() if name.startswith(last)]


def _completions(names: Iterable[str], start: str) -> list[CompletionItem]:
    """The names that begin with a text. Without any, the shell completes files."""
    return [CompletionItem(name) for name in names if name.startswith(start)] or [CompletionItem(start, type="file")]


@dataclass(frozen=True)
class _Place:
    """A place that the user has named, before the command asks for it."""

    text: str
    is_run: bool

    def path(self) -> Path:
        """The path of the place; of a remote run, that of its local copy.

        Raises:
            TlcliError: If the address is of an unknown kind, or what must be copied cannot be read.
        """
        from tlcli.storage.location import is_address, local_copy, locate
        from tlcli.storage.transfer import download

        if not self.is_run:
            return locate(self.text)
        if not is_address(self.text):
            return Path(self.text)
        place = locate(self.text)
        return local_copy(place) if place.suffix and place.is_file() else download(place)


class _PlaceType(click.Path):
    """A local path, or the address of a remote store. Nothing is asked of a store while the command line is parsed."""

    def __init__(self, *, is_run: bool) -> None:
        super().__init__()
        self.is_run = is_run

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The place, which `global_options` turns into a path."""
        return value if isinstance(value, _Place) else _Place(str(value), self.is_run)


class LocalPath(click.Path):
    """A path on this machine; an address is an error."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path."""
        if isinstance(value, str) and "://" in value:
            self.fail(f"must be on this machine (got {value})", param, ctx)
        return super().convert(value, param, ctx)


# Images in any place, a path on this machine, and a run in any place.
LOCATION, LOCAL, RUN = _PlaceType(is_run=False), LocalPath(), _PlaceType(is_run=True)


def json_option(function: Function) -> Function:
    """Add `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")(function)


def exclude_option(function: Function) -> Function:
    """Add `--exclude`."""
    return click.option(
        "--exclude",
        metavar="FILE",
        type=LOCAL,
        help="List of images to leave out, from `tlcli check --quarantine`.",
    )(function)


def tta_option(function: Function) -> Function:
    """Add `--tta`."""
    return click.option(
        "--tta",
        metavar="N",
        type=click.IntRange(1, 9),
        default=1,
        help="Average over N shifted (mirrored) views of each image, at N times the cost. [default: 1]",
    )(function)


def cut_option(function: Function) -> Function:
    """Add `--cut`."""
    return click.option(
        "--cut", metavar="LAYER", help="Use the network up to the output of a layer. [default: below its pooling]"
    )(function)


def trust_option(function: Function) -> Function:
    """Add `--trust`, which trusts the SavedModels that the command names, and remembers them."""
    return click.option(
        "--trust",
        is_flag=True,
        expose_value=False,
        callback=_set_trust,
        help="Trust a SavedModel, a program; remember it.",
    )(function)


def _set_trust(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        from tlcli.zoo import trust

        context.with_resource(trust.allowing())


def _rate(_context: click.Context, _parameter: click.Parameter, value: str | None) -> float | str | None:
    """A learning rate as a number; other words go to the recipe as they are, which takes `find`."""
    try:
        return value if value is None else float(value)
    except ValueError:
        return value


def cluster_option(function: Function) -> Function:
    """Add `--cluster`, with which the command computes on a Ray cluster."""
    return click.option(
        "--cluster",
        metavar="ADDRESS",
        expose_value=False,
        callback=_set_cluster,
        help="Compute on a Ray cluster: local, auto or HOST:PORT.",
    )(function)


def _set_cluster(context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        from tlcli.cluster.connection import use_cluster

        context.with_resource(use_cluster(value))


# Short for `--set` with the keys that people change most.
SHORTCUTS = (
    click.option(
        "--size", nargs=2, type=int, metavar="H W", help="Input height and width. [default: the network's own]"
    ),
    click.option(
        "--epochs", type=click.IntRange(1), metavar="N", help="Most epochs of each phase or round that trains."
    ),
    click.option("--lr", metavar="RATE", callback=_rate, help="Learning rate of each phase that trains, or 'find'."),
    click.option("--batch", type=int, metavar="N", help="Images per training step. [default: by the recipe]"),
    click.option("--seed", type=int, metavar="N", help="Start of all random numbers. [default: 0]"),
)


def training_options(function: Function) -> Function:
    """Add the argument and the options of `finetune` and `plan`."""
    options = (
        click.argument("data", required=False, type=LOCATION),
        click.option(
            "--model",
            "-m",
            metavar="M",
            shell_complete=complete_model,
            help="Network from `tlcli zoo list`, or a file; `finetune` chooses of A,B. [default: auto]",
        ),
        trust_option,
        click.option("--weights", metavar="FILE", help="Weights file, or 'random'. [default: the network's own]"),
        cut_option,
        click.option(
            "--recipe",
            "-r",
            metavar="R",
            shell_complete=complete_recipe,
            help="Bundled recipe or YAML file. [default: unfreeze-until-plateau]",
        ),
        click.option(
            "--quality",
            type=click.Choice(["fast", "balanced", "best"]),
            help="Seconds or accuracy: how deep and long it trains; best tries several ways. [default: balanced]",
        ),
        click.option(
            "--folds",
            metavar="K",
            type=int,
            help="Cross-validate on K folds, then train on all: for few images.",
        ),
        *SHORTCUTS,
        click.option(
            "--set", "settings", metavar="A.B=C", multiple=True, help="Set a value of the recipe; repeatable."
        ),
        click.option("--out", "-o", type=LOCATION, help="Run folder. [default: runs/<data>-<model>-<n>]"),
        exclude_option,
        click.option("--resume", metavar="RUN", type=LOCATION, help="Resume an interrupted run."),
        click.option("--device", metavar="D", default="auto", help="cpu, gpu, gpu:1, gpu:all or tpu. [default: auto]"),
        click.option(
            "--precision",
            type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
            help="Floating-point format. [default: auto]",
        ),
        click.option(
            "--budget", metavar="TIME", help="Time limit, such as 90s, 10m or 2h. With --compare: for each recipe."
        ),
        cluster_option,
        click.option("--strict", is_flag=True, help="Stop at unreadable images instead of skipping them."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def examples(*lines: str) -> str:
    """The end of a command's help: example command lines."""
    return "\b\nExamples:\n" + "\n".join(f"  tlcli {line}" for line in lines)


def request_from(options: dict[str, Any]) -> "Request":
    """The Request for the values of `training_options`."""
    from tlcli.workflows.request import Request

    data: Path | None = options["data"]
    recipe_options = {
        "data.path": None if data is None else str(data),
        "model.name": options["model"],
        "data.exclude": None if options["exclude"] is None else str(options["exclude"]),
        "model.weights": options["weights"],
        "model.cut": options["cut"],
        "quality": options["quality"],
        "data.folds": options["folds"],
        "data.size": options["size"] and list(options["size"]),
        "phases.epochs": options["epochs"],
        "phases.lr": options["lr"],
        "performance.batch": options["batch"],
        "seed": options["seed"],
        "performance.precision": options["precision"],
        "performance.budget": options["budget"],
    }
    return Request(
        recipe=options["recipe"] or "unfreeze-until-plateau",
        settings=options["settings"],
        options={key: value for key, value in recipe_options.items() if value is not None},
        strict=options["strict"],
        out=options["out"],
        resume=options["resume"],
        device=options["device"],
    )
