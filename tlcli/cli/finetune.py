"""`tlcli finetune`."""

import shlex
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from tlcli.cli.options import Interrupted, as_json, examples, is_quiet, request_from, state, training
from tlcli.errors import ExpectationError, UsageError

if TYPE_CHECKING:
    from tlcli.report.record import RunRecord
    from tlcli.train.events import Observer
    from tlcli.train.preparation import BackgroundRead
    from tlcli.workflows.request import Request
    from tlcli.zoo.resolve import ResolvedRecipe

    Work = Callable[[BackgroundRead, Observer], tuple[Path, RunRecord]]


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
    from tlcli.report import comparison

    request = request_from(asked)
    if compare is not None:
        compare_and_tell(request, _recipes(compare, asked), as_json=as_json)
    elif request.resume is not None and comparison.holds_candidates(request.resume):
        compare_and_tell(request, None, as_json=as_json)
    else:
        run_and_tell(request, as_json=as_json)


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
    """Fine-tune by several recipes; None resumes the comparison in the folder to resume."""
    from tlcli.report import comparison
    from tlcli.report.folder import own_folder
    from tlcli.workflows.request import Request, check_candidates, check_request

    if recipes is None and request.resume is not None:
        candidates = comparison.read_candidates(request.resume)
        resolved = [check_request(Request(recipe=candidates.recipe(name))) for name in candidates.names]
        owned: Any = own_folder(candidates.out, resume=True)
    else:
        candidates, resolved = check_candidates(request, recipes or ())
        owned = comparison.write_candidates(candidates, [each.recipe for each in resolved])

    def work(reading: "BackgroundRead", observe: "Observer") -> "tuple[Path, RunRecord]":
        from tlcli.workflows.compare import run_candidates

        with owned:
            return run_candidates(candidates, observe, reading=reading)

    _work_and_tell(work, resolved[0], as_json=as_json)


def run_and_tell(request: "Request", *, as_json: bool) -> Path:
    """Fine-tune with progress on stderr and the result on stdout; returns the run folder."""
    from tlcli.report.folder import require_idle
    from tlcli.workflows.request import check_request

    resolved = check_request(request)
    if request.resume is not None:
        require_idle(request.resume)

    def work(reading: "BackgroundRead", observe: "Observer") -> "tuple[Path, RunRecord]":
        from tlcli.workflows.finetune import finetune

        return finetune(request, resolved, observe, reading=reading)

    return _work_and_tell(work, resolved, as_json=as_json)


def _work_and_tell(work: "Work", resolved: "ResolvedRecipe", *, as_json: bool) -> Path:
    """Do the work, with the images read while Keras loads, and print the result; returns the run folder."""
    from tlcli.cli import console, tables
    from tlcli.cli.progress import observer
    from tlcli.train.events import Event, FolderMade
    from tlcli.train.preparation import BackgroundRead

    signal.signal(signal.SIGTERM, _stop)
    if not is_quiet():
        console.err().print("loading Keras …", style="dim")
    made: list[str] = []
    try:
        with BackgroundRead(resolved.recipe) as reading:
            with console.loading_keras():
                import tlcli.workflows.finetune  # noqa: F401
            with observer() as observe:

                def note(event: Event) -> None:
                    if isinstance(event, FolderMade):
                        made.append(event.path)
                    observe(event)

                folder, run = work(reading, note)
    except KeyboardInterrupt:
        then = f" Resume with: tlcli finetune --resume {shlex.quote(made[0])}" if made else ""
        console.err().print(console.safe(f"Interrupted.{then}"))
        raise Interrupted from None
    if as_json:
        console.print_json({"run": str(folder), **vars(run)})
    else:
        tables.print_result(folder, run)
    if missed := [verdict for verdict in run.expectations if not verdict["passed"]]:
        console.err().print(console.safe(f"{len(missed)} of {len(run.expectations)} expectations not met", "red"))
        raise click.exceptions.Exit(ExpectationError.exit_code)
    return folder


def _stop(_signal: int, _frame: FrameType | None) -> None:
    """Take a polite kill like Ctrl-C: what is finished stays on disk, resumable."""
    raise KeyboardInterrupt
