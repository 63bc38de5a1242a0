"""`tlcli completion`."""

import click
from click.shell_completion import get_completion_class

from tlcli.cli.options import examples, global_options


@click.command(
    epilog=examples("completion bash >> ~/.bashrc", "completion fish > ~/.config/fish/completions/tlcli.fish")
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]), metavar="SHELL")
@global_options
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    SHELL is bash, zsh or fish. The script completes commands, options, networks, recipes and files.
    """
    script = get_completion_class(shell)
    assert script is not None
    click.echo(script(context.find_root().command, {}, "tlcli", "_TLCLI_COMPLETE").source())
