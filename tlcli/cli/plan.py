"""`tlcli plan`."""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tlcli.cli.options import LOCAL, global_options, json_option, request_from, training_options
from tlcli.cluster import connection
from tlcli.errors import UsageError

if TYPE_CHECKING:
    from tlcli.workflows.scale import Scale


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
    from tlcli.workflows.before_training import checked, unchecked_device
    from tlcli.workflows.remote_run import copied
    from tlcli.workflows.request import check_sheet, networks_of
    from tlcli.workflows.several_hosts import joining
    from tlcli.zoo.resolve import weights_licence
    from tlcli.zoo.store import weights_state

    request = joining(copied(request_from(options)))
    if names := networks_of(request):
        hint = "Name one of them. `tlcli finetune` chooses between them."
        raise UsageError(f"a plan is for one network (got {len(names)})", where="--model", hint=hint)
    resolved = checked(request)
    if augment_sheet is not None:
        check_sheet(augment_sheet, resolved)
        with console.loading_keras():
            importlib.import_module("tlcli.report.augment_sheet")
    with observer() as observe:
        prepared = workflow.plan(request, resolved, observe, augment_sheet=augment_sheet)
        result, cluster = prepared.plan, connection.current()
        scale = None
        if cluster is not None:
            with console.loading_keras():
                scales = importlib.import_module("tlcli.workflows.scale")
            scale = scales.measure(request, prepared, cluster, observe)
    licence = weights_licence(result.recipe, result.card)
    weights = weights_state(result.recipe, result.card, result.size)
    notices = [*resolved.notices, *unchecked_device(request)]
    if as_json:
        more = {} if scale is None else {"scale": scale.to_json()}
        console.print_json(result.to_json() | {"notices": notices, "weights": weights.to_json()} | more)
    else:
        tables.print_plan(result, notices, f"weights: licence {licence}; {weights}" if licence else "")
        if augment_sheet is not None:
            console.out().print(console.safe(f"sheet      {augment_sheet}"))
        if scale is not None:
            print_scale(scale)


def print_scale(scale: "Scale") -> None:
    """Print what a run on the cluster costs by number of images."""
    from tlcli.cli import console
    from tlcli.text import compact, duration, plural

    out = console.out()
    devices = plural(scale.gpus, "GPU") if scale.gpus else plural(scale.cores, "core")
    out.print()
    out.print(console.safe(f"on {plural(scale.nodes, 'node')} with {devices} ({scale.cluster})", "bold"))
    columns = [
        "images",
        "decode",
        "frozen",
        "trained",
        "total",
        "read",
        "written",
        f"{'GPU' if scale.gpus else 'core'} hours",
    ]
    rows = [
        [
            f"{cost.images:,}",
            *(duration(cost.seconds[name]) for name in ("decode", "frozen")),
            duration(cost.seconds["head"] + cost.seconds["trained"]),
            duration(cost.total_s),
            f"{compact(cost.read_bytes)}B",
            f"{compact(cost.written_bytes)}B",
            f"{cost.device_hours:,.1f}",
        ]
        for cost in scale.costs
    ]
    console.print_table(out, columns, rows, optional=["written", "read", "trained"], hint="--json has them.")
    rates = scale.rates
    console.print_text(
        out,
        f"measured: {rates.decode_per_s:,.0f} images/s decoded, {rates.frozen_per_s:,.0f} through the frozen layers,"
        f" {compact(rates.bytes_per_s)}B/s to a worker and back. From {plural(scale.most_workers, 'worker')}"
        " on, they wait for this machine.",
    )
