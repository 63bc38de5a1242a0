"""`tlcli doctor`."""

import click

from tlcli.cli.options import global_options, json_option


@click.command()
@json_option
@global_options
def doctor(as_json: bool) -> None:
    """Show versions, devices, folders and extras.

    Add the output to a bug report.
    """
    from tlcli.cli import console

    with console.loading_keras():
        from tlcli.workflows.doctor import examine

        report = examine()
    if as_json:
        console.print_json(report)
        return
    out = console.out()
    for section, values in report.items():
        out.print(console.safe(section.replace("_", " "), "bold"))
        items = values.items() if isinstance(values, dict) else ((str(value), "") for value in values)
        for name, value in items:
            out.print(console.safe(f"  {name:<24} {value}".rstrip()))
