"""The entry point: the command group, and the edge where errors become sentences and exit codes."""

import atexit
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
from tlcli.cli.demo import demo
from tlcli.cli.doctor import doctor
from tlcli.cli.evaluate import evaluate
from tlcli.cli.finetune import finetune
from tlcli.cli.inspect import inspect
from tlcli.cli.options import Group, Interrupted, state
from tlcli.cli.plan import plan
from tlcli.cli.predict import predict
from tlcli.cli.pretrain import pretrain
from tlcli.cli.probe import probe
from tlcli.cli.recipe import recipe
from tlcli.cli.zoo import zoo
from tlcli.errors import OutputError, RecipeError, TlcliError, UsageError
from tlcli.paths import cache_dir
from tlcli.text import printable

INTERRUPTED = 130
START = """Transfer learning on image folders.

\b
Start here:
  tlcli demo                      see the whole job in a minute, offline
  tlcli finetune photos/          photos/ holds one folder of pictures per class
  tlcli predict runs/… new/*.jpg  use what came out
"""


class Fault(TlcliError):
    """A fault of this program, told like the others."""

    kind = "internal"


class Root(Group):
    """The command group. Errors leave it as one sentence on stderr and an exit code, and as JSON with `--json`."""

    def main(  # type: ignore[override]  # Click overloads it by standalone_mode, which has one meaning here
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> Any:
        """Run and exit."""
        words = list(sys.argv[1:] if args is None else args)
        extra.pop("standalone_mode", None)
        try:
            # Outside its standalone mode, Click hands the code of an Exit back instead of raising it.
            code = super().main(words, prog_name or "tlcli", standalone_mode=False, **extra)
        except (click.Abort, KeyboardInterrupt) as stop:
            # Click makes an Abort of every interrupt.
            if not isinstance(stop.__cause__ or stop, Interrupted):
                click.echo("Interrupted.", err=True)
            sys.exit(INTERRUPTED)
        except Exception as error:
            if "--debug" in words:
                traceback.print_exc()
            sys.exit(_tell(error, as_json=_wants_json(words)))
        sys.exit(code if isinstance(code, int) else 0)


def _wants_json(words: Sequence[str]) -> bool:
    return "--json" in words or "--format=json" in words or ("--format", "json") in pairwise(words)


def _tell(error: Exception, *, as_json: bool) -> int:
    """Say what went wrong; returns the exit code."""
    said, code = _parts(error)
    if as_json:
        document = {"kind": said.kind, "where": said.where, "message": said.message, "hint": said.hint}
        problems = [vars(problem) for problem in error.problems] if isinstance(error, RecipeError) else []
        click.echo(json.dumps({"error": document | ({"problems": problems} if problems else {})}, ensure_ascii=False))
    click.echo(f"{click.style('Error:', fg='red', bold=True)} {printable(str(said), keep=chr(10))}", err=True)
    return code


def _parts(error: Exception) -> tuple[TlcliError, int]:
    """Any error as one of ours, with its exit code."""
    if isinstance(error, TlcliError):
        return error, error.exit_code
    if isinstance(error, click.ClickException):
        context = getattr(error, "ctx", None)
        hint = f"Try '{context.command_path} --help'." if context else ""
        return UsageError(error.format_message(), hint=hint), error.exit_code
    if isinstance(error, OSError) and error.filename:
        return OutputError(error.strerror or str(error), where=str(error.filename), hint=_remedy(error.filename)), 1
    hint = "This is a fault of tlcli, not yours. Run the command again with --debug for the details to report."
    return Fault(f"{type(error).__name__}: {error}", hint=hint), Fault.exit_code


def _remedy(file: str | bytes) -> str:
    """What helps where a file of the cache is in the way."""
    if Path(os.fsdecode(file)).absolute().is_relative_to(cache_dir().absolute()):
        return "It belongs to the cache: set TLCLI_CACHE to a folder that can be written."
    return ""


@click.group(
    "tlcli", cls=Root, help=START, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(tlcli.__version__, "-V", "--version", message="tlcli %(version)s")
@state
def cli() -> None:
    """The `tlcli` program as Click sees it."""


for command in (
    check,
    compare,
    demo,
    doctor,
    evaluate,
    finetune,
    inspect,
    plan,
    predict,
    pretrain,
    probe,
    recipe,
    zoo,
):
    cli.add_command(command)


def main() -> None:
    """The `tlcli` program."""
    # TensorFlow makes a million objects that live to the end. Looking through them for garbage again and again took
    # 0.8 seconds of every command that needs it, and at exit another second.
    gc.set_threshold(50_000, 20, 100)
    atexit.register(gc.freeze)
    tlcli.is_program = True
    cli.main()
