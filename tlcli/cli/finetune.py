"""`tlcli finetune` and `tlcli plan`."""

import shlex
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from tlcli.cli.group import Interrupted
from tlcli.cli.options import as_json, examples, is_quiet, state, training
from tlcli.errors import ExpectationError, UsageError

if TYPE_CHECKING:
    from tlcli.prepare import Request, Settled
    from tlcli.report.record import RunRecord
    from tlcli.train.events import Observer

    Work = Callable[[Settled, Observer], tuple[Path, RunRecord]]


@click.command(
    epilog=examples(
        "finetune photos/",
        "finetune photos/ -m resnet50 -r two-phase -o runs/first",
        "finetune photos/ --set data.size=[160,160] --set augment.preset=strong",
        "finetune photos/ --compare head-only,two-phase,unfreeze-until-plateau",
        "finetune photos/ --budget 10m",
        "finetune --resume runs/first",
    )
)
@training
@click.option("--compare", metavar="R,R…", help="Run several recipes on the same split and keep the best.")
@as_json
@state
def finetune(as_json: bool, compare: str | None, **asked: Any) -> None:
    """Fine-tune a pretrained network on DATA.

    DATA is a folder of class folders, or one with train/, val/ and test/ of class folders inside.
    """
    from tlcli import candidates

    request = request_from(asked)
    if compare is not None:
        compare_and_tell(request, _recipes(compare, asked), as_json=as_json)
    elif request.resume is not None and candidates.are_in(request.resume):
        compare_and_tell(request, None, as_json=as_json)
    else:
        run_and_tell(request, as_json=as_json)


@click.command()
@training
@as_json
@state
def plan(as_json: bool, **asked: Any) -> None:
    """Say what `finetune` would do; train nothing."""
    from tlcli import prepare
    from tlcli.cli import console, show
    from tlcli.cli.progress import observer

    request = request_from(asked)
    settled = prepare.check_first(request)
    with observer() as observe:
        chosen = prepare.choose(settled.recipe, measure=prepare.groups_without_keras)
        prepared = prepare.prepare(settled.recipe, chosen, strict=request.strict, observe=observe)
    if as_json:
        console.print_json(prepared.plan.to_json() | {"notices": list(settled.notices)})
    else:
        show.plan(prepared.plan, settled.notices)


COMMANDS = (finetune, plan)


def request_from(asked: dict[str, Any]) -> "Request":
    """Command-line values to a Request."""
    from tlcli.prepare import Request

    data: Path | None = asked["data"]
    options = {
        "data.path": None if data is None else str(data),
        "model.name": asked["model"],
        "data.exclude": None if asked["exclude"] is None else str(asked["exclude"]),
        "model.weights": asked["weights"],
        "performance.precision": asked["precision"],
        "performance.budget": asked["budget"],
    }
    return Request(
        recipe=asked["recipe"] or "unfreeze-until-plateau",
        settings=asked["settings"],
        options={key: value for key, value in options.items() if value is not None},
        strict=asked["strict"],
        out=asked["out"],
        resume=asked["resume"],
        device=asked["device"],
    )


def _recipes(compare: str, asked: dict[str, Any]) -> list[str]:
    """The recipes to compare, as named."""
    for name in ("recipe", "resume"):
        if asked[name] is not None:
            raise UsageError(
                f"goes without --{name}",
                where="--compare",
                hint="Name all recipes with --compare; an interrupted comparison goes on with --resume alone.",
            )
    return [name.strip() for name in compare.split(",") if name.strip()]


def compare_and_tell(request: "Request", recipes: Sequence[str] | None, *, as_json: bool) -> None:
    """Fine-tune by several recipes; None: go on with the comparison in the folder to resume."""
    from tlcli import candidates, prepare
    from tlcli.report import folder as folder_of_run

    if recipes is None and request.resume is not None:
        found = candidates.find(request.resume)
        settled = [prepare.check_first(prepare.Request(recipe=found.recipe(name))) for name in found.names]
        owned: Any = folder_of_run.owned(found.out, resume=True)
    else:
        found, settled = candidates.check(request, recipes or ())
        owned = candidates.written(found, settled)

    def work(first: "Settled", observe: "Observer") -> "tuple[Path, RunRecord]":
        from tlcli import comparison

        with owned:
            return comparison.run_all(found, first, observe)

    _work_and_tell(work, settled[0], as_json=as_json)


def run_and_tell(request: "Request", *, as_json: bool) -> Path:
    """Fine-tune with progress on stderr and the result on stdout; returns the run folder."""
    from tlcli import prepare
    from tlcli.report import folder as folder_of_run

    settled = prepare.check_first(request)
    if request.resume is not None:
        folder_of_run.require_idle(request.resume)

    def work(settled: "Settled", observe: "Observer") -> "tuple[Path, RunRecord]":
        from tlcli import run

        return run.finetune(request, settled, observe)

    return _work_and_tell(work, settled, as_json=as_json)


def _work_and_tell(work: "Work", settled: "Settled", *, as_json: bool) -> Path:
    """Do the work while the images are read, and tell what came out; returns the run folder."""
    from tlcli import prepare
    from tlcli.cli import console, show
    from tlcli.cli.progress import observer
    from tlcli.train.events import Event, FolderMade

    signal.signal(signal.SIGTERM, _stop)
    if not is_quiet():
        console.err().print("loading Keras …", style="dim")
    made: list[str] = []
    try:
        with prepare.reading_ahead(settled) as settled:
            with console.loading_keras():
                import tlcli.run  # noqa: F401
            with observer() as observe:

                def note(event: Event) -> None:
                    if isinstance(event, FolderMade):
                        made.append(event.path)
                    observe(event)

                folder, record = work(settled, note)
    except KeyboardInterrupt:
        then = f" Go on with: tlcli finetune --resume {shlex.quote(made[0])}" if made else ""
        console.err().print(console.safe(f"Interrupted.{then}"))
        raise Interrupted from None
    if as_json:
        console.print_json({"run": str(folder), **vars(record)})
    else:
        show.result(folder, record)
    if missed := [verdict for verdict in record.expectations if not verdict["passed"]]:
        console.err().print(console.safe(f"{len(missed)} of {len(record.expectations)} expectations not met", "red"))
        raise click.exceptions.Exit(ExpectationError.exit_code)
    return folder


def _stop(_signal: int, _frame: FrameType | None) -> None:
    """Take a polite kill like Ctrl-C: what is finished stays on disk, resumable."""
    raise KeyboardInterrupt
