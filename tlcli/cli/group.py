"""Groups of commands: help where nothing was asked, a suggestion where a name was mistyped."""

import click

from tlcli.errors import did_you_mean


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
