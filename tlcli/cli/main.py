"""The entry point: the command group, and the place where errors become messages and exit codes."""

import atexit
import errno
import gc
import json
import os
import sys
import traceback
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import click

import tlcli
from tlcli.cli.check import check
from tlcli.cli.compare import compare
from tlcli.cli.completion import completion
from tlcli.cli.demo import demo
from tlcli.cli.doctor import doctor
from tlcli.cli.evaluate import evaluate
from tlcli.cli.export import export
from tlcli.cli.finetune import finetune
from tlcli.cli.inspect import inspect
from tlcli.cli.options import Group, Interrupted, global_options
from tlcli.cli.plan import plan
from tlcli.cli.predict import predict
from tlcli.cli.pretrain import pretrain
from tlcli.cli.probe import probe
from tlcli.cli.recipe import recipe
from tlcli.cli.report import report
from tlcli.cli.serve import serve
from tlcli.cli.tune import tune
from tlcli.cli.zoo import zoo
from tlcli.errors import OutputError, TlcliError, UsageError
from tlcli.paths import cache_dir
from tlcli.text import printable

INTERRUPTED = 130
_FULL = (errno.ENOSPC, errno.EDQUOT)
# What options take that take two values.
_PAIRS = {
    "--size": "It takes height and width in pixels, such as --size 224 224.",
    "--diff": "It takes two networks or runs, such as --diff runs/first runs/second.",
}
START = """Transfer learning on image folders.

\b
Start here:
  tlcli demo                      a complete example in a minute or two, offline
  tlcli finetune photos/          photos/ holds one folder of images per class
  tlcli predict runs/… new/*.jpg  classify images with the result
"""


class InternalError(TlcliError):
    """A bug in tlcli, reported in the same form as other errors."""

    kind = "internal"


class Root(Group):
    """The command group. Errors become one message on stderr and an exit code; with `--json` also JSON on stdout."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. Click would print an empty line after Ctrl-C."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            raise click.Abort from stop

    def main(  # type: ignore[override]  # Click overloads it by standalone_mode, which has one meaning here
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> Any:
        """Run the command and exit."""
        words = list(sys.argv[1:] if args is None else args)
        extra.pop("standalone_mode", None)
        try:
            # Outside standalone mode, Click returns the code of an Exit instead of raising it.
            code = super().main(words, prog_name or "tlcli", standalone_mode=False, **extra)
        except (click.Abort, KeyboardInterrupt) as stop:
            # Click turns every KeyboardInterrupt into an Abort.
            if not isinstance(stop.__cause__ or stop, Interrupted):
                click.echo("Interrupted.", err=True)
            sys.exit(INTERRUPTED)
        except Exception as error:
            if "--debug" in words:
                traceback.print_exc()
            sys.exit(_print_error(error, as_json=_wants_json(words)))
        sys.exit(code if isinstance(code, int) else 0)


def _wants_json(words: Sequence[str]) -> bool:
    return "--json" in words or "--format=json" in words or ("--format", "json") in pairwise(words)


def _print_error(error: Exception, *, as_json: bool) -> int:
    """Print an error as a message, with `as_json` also as JSON; returns the exit code."""
    from rich.text import Text

    from tlcli.cli.console import err

    shown, code = _as_tlcli_error(error)
    if as_json:
        click.echo(json.dumps({"error": shown.to_json()}, ensure_ascii=False))
    problems = getattr(shown, "problems", ())
    text = f" {len(problems)} problems\n{shown}" if len(problems) > 1 else f" {shown}"
    # Rich breaks lines between words on a terminal.
    console = err()
    shown_text = Text.assemble(("Error:", "bold red"), printable(text, keep="\n"))
    console.print(shown_text, soft_wrap=not console.is_terminal)
    return code


def _as_tlcli_error(error: Exception) -> tuple[TlcliError, int]:
    """Any exception as a TlcliError, and its exit code."""
    if isinstance(error, TlcliError):
        return error, error.exit_code
    if isinstance(error, click.ClickException):
        # Click lists choices on lines of their own.
        return UsageError(" ".join(error.format_message().split()), hint=_usage(error)), error.exit_code
    if isinstance(error, OSError) and error.filename:
        return OutputError(error.strerror or str(error), where=str(error.filename), hint=_remedy(error)), 1
    if isinstance(error, OSError) and error.errno in _FULL:
        return OutputError(f"the disk is full ({error.strerror})", hint=_remedy(error)), 1
    hint = "This is a bug in tlcli. Run the command again with --debug for a traceback to report."
    return InternalError(f"{type(error).__name__}: {error}", hint=hint), InternalError.exit_code


def _usage(error: click.ClickException) -> str:
    """The hint for a wrong command line; empty if there is none."""
    names = [getattr(error, "option_name", ""), *getattr(getattr(error, "param", None), "opts", ())]
    if pairs := [_PAIRS[name] for name in names if name in _PAIRS]:
        return pairs[0]
    context = getattr(error, "ctx", None)
    return f"Try '{context.command_path} --help'." if context else ""


def _remedy(error: OSError) -> str:
    """The hint for a file that cannot be read or written; empty if there is none."""
    free = "Free disk space." if error.errno in _FULL else ""
    if error.filename and Path(os.fsdecode(error.filename)).absolute().is_relative_to(cache_dir().absolute()):
        return f"The file is in the cache. {free or 'Set TLCLI_CACHE to a writable folder.'}"
    return free


@click.group(
    "tlcli", cls=Root, help=START, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(tlcli.__version__, "-V", "--version", message="tlcli %(version)s")
@global_options
def cli() -> None:
    """The root command."""


for command in (
    check,
    compare,
    completion,
    demo,
    doctor,
    evaluate,
    export,
    finetune,
    inspect,
    plan,
    predict,
    pretrain,
    probe,
    recipe,
    report,
    serve,
    tune,
    zoo,
):
    cli.add_command(command)


def main() -> None:
    """The `tlcli` program."""
    # TensorFlow creates a million objects that live until exit. Searching them for garbage took 0.8 s of every command
    # that loads it, and another second at exit.
    gc.set_threshold(50_000, 20, 100)
    atexit.register(gc.freeze)
    tlcli.is_program = True
    cli.main()
