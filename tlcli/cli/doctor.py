"""`tlcli doctor`."""

import click

from tlcli.cli.options import as_json, state


@click.command()
@as_json
@state
def doctor(as_json: bool) -> None:
    """Show versions, devices, folders and extras.

    What to look at first, and what to send with a bug report.
    """
    from tlcli.cli import console

    with console.loading_keras():
        from tlcli.workflows.doctor import examine

        found = examine()
    if as_json:
        console.print_json(found)
        return
    out = console.out()
    for section, lines in found.items():
        out.print(console.safe(section.replace("_", " "), "bold"))
        items = lines.items() if isinstance(lines, dict) else ((str(line), "") for line in lines)
        for name, value in items:
            out.print(console.safe(f"  {name:<24} {value}".rstrip()))
