"""`tlcli plan`."""

from typing import Any

import click

from tlcli.cli.options import as_json, request_from, state, training


@click.command()
@training
@as_json
@state
def plan(as_json: bool, **asked: Any) -> None:
    """Show what `finetune` would do; train nothing."""
    from tlcli.cli import console, tables
    from tlcli.cli.progress import observer
    from tlcli.workflows import plan as workflow
    from tlcli.workflows.request import check_request

    request = request_from(asked)
    resolved = check_request(request)
    with observer() as observe:
        made = workflow.plan(request, resolved, observe)
    if as_json:
        console.print_json(made.to_json() | {"notices": list(resolved.notices)})
    else:
        tables.print_plan(made, resolved.notices)
