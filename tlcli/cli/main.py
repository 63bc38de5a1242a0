"""The entry point: the command group, and the edge where errors become sentences and exit codes."""

import json
import sys
from collections.abc import Sequence
from typing import Any

import click

from tlcli import __version__
from tlcli.cli import finetune, look, use
from tlcli.cli.demo import demo
from tlcli.cli.options import state
from tlcli.cli.recipe import recipe
from tlcli.cli.zoo import zoo
from tlcli.errors import TlcliError, did_you_mean

INTERRUPTED = 130


class Root(click.Group):
    """The command group. Errors leave it as one sentence on stderr and an exit code, and as JSON with `--json`."""

    def main(  # type: ignore[override]  # Click overloads it by standalone_mode, which has one meaning here
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> Any:
        """Run and exit."""
        words = list(sys.argv[1:] if args is None else args)
        extra.pop("standalone_mode", None)
        try:
            super().main(words, prog_name or "tlcli", standalone_mode=False, **extra)
        except click.exceptions.Exit as done:
            sys.exit(done.exit_code)
        except (click.Abort, KeyboardInterrupt):
            sys.exit(INTERRUPTED)
        except Exception as error:
            if "--debug" in words:
                raise
            sys.exit(_tell(error, as_json="--json" in words))
        sys.exit(0)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As Click does it, with a suggestion for a mistyped command."""
        if self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            hint = did_you_mean(args[0], self.commands) or f"Commands: {', '.join(sorted(self.commands))}."
            raise click.UsageError(f"there is no command '{args[0]}'. {hint}", ctx)
        return super().resolve_command(ctx, args)


def _tell(error: Exception, *, as_json: bool) -> int:
    """Say what went wrong; returns the exit code."""
    kind, where, message, hint, code = _parts(error)
    if as_json:
        click.echo(json.dumps({"error": {"kind": kind, "where": where, "message": message, "hint": hint}}))
    text = str(error) if isinstance(error, TlcliError) else " ".join(part for part in (message, hint) if part)
    click.echo(f"{click.style('Error:', fg='red', bold=True)} {_printable(text)}", err=True)
    return code


def _parts(error: Exception) -> tuple[str, str, str, str, int]:
    if isinstance(error, TlcliError):
        return error.kind, error.where, error.message, error.hint, error.exit_code
    if isinstance(error, click.ClickException):
        context = getattr(error, "ctx", None)
        hint = f"Try '{context.command_path} --help'." if context else ""
        return "usage", "", error.format_message(), hint, error.exit_code
    if isinstance(error, OSError) and error.filename:
        return "output", str(error.filename), f"{error.filename}: {error.strerror}.", "", 1
    hint = "This is a fault of tlcli, not yours. Run the command again with --debug for the details to report."
    return "internal", "", f"{type(error).__name__}: {error}.", hint, 1


def _printable(text: str) -> str:
    """Without control characters, which names of files and classes may hold."""
    return "".join(char if char == "\n" or char.isprintable() else f"\\x{ord(char):02x}" for char in text)


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, "-V", "--version", message="tlcli %(version)s")
@state
def cli() -> None:
    r"""Transfer learning on image folders.

    \b
    Start here:
      tlcli demo                      see the whole job in a minute, offline
      tlcli finetune photos/          photos/ holds one folder of pictures per class
      tlcli predict runs/… new/*.jpg  use what came out
    """


for command in (
    *finetune.COMMANDS,
    *use.COMMANDS,
    *look.COMMANDS,
    demo,
    recipe,
    zoo,
):
    cli.add_command(command)


def main() -> None:
    """The `tlcli` program."""
    cli.main()


if __name__ == "__main__":
    main()
