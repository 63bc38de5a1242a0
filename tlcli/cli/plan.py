"""`tlcli plan`."""

import importlib
from pathlib import Path
from typing import Any

import click

from tlcli.cli.options import LOCAL, global_options, json_option, request_from, training_options
from tlcli.errors import UsageError


@click.command()
@training_options
@click.option(
    "--augment-sheet",
    metavar="FILE",
    type=LOCAL,
    help="Write a PNG with training images before and after augmentation.",
)
@json_option
@global_options
def plan(as_json: bool, augment_sheet: Path | None, **options: Any) -> None:
    """Show what `finetune` would do; train nothing."""
    from tlcli.cli import console, tables
    from tlcli.cli.progress import observer
    from tlcli.workflows import plan as workflow
    from tlcli.workflows.remote_run import copied
    from tlcli.workflows.request import check_request, check_sheet, networks_of
    from tlcli.zoo.resolve import weights_licence
    from tlcli.zoo.store import weights_state

    request = copied(request_from(options))
    if names := networks_of(request):
        hint = "Name one of them. `tlcli finetune` chooses between them."
        raise UsageError(f"a plan is for one network (got {len(names)})", where="--model", hint=hint)
    resolved = check_request(request)
    if augment_sheet is not None:
        check_sheet(augment_sheet, resolved)
        with console.loading_keras():
            importlib.import_module("tlcli.report.augment_sheet")
    with observer() as observe:
        result = workflow.plan(request, resolved, observe, augment_sheet=augment_sheet)
    licence = weights_licence(result.recipe, result.card)
    weights = weights_state(result.recipe, result.card, result.size)
    if as_json:
        console.print_json(result.to_json() | {"notices": list(resolved.notices), "weights": weights.to_json()})
    else:
        tables.print_plan(result, resolved.notices, f"weights: licence {licence}; {weights}" if licence else "")
        if augment_sheet is not None:
            console.out().print(console.safe(f"sheet      {augment_sheet}"))
