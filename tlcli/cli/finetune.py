"""`tlcli finetune`."""

import shlex
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from tlcli.cli.options import (
    QUIET,
    Interrupted,
    complete_recipes,
    examples,
    global_options,
    is_quiet,
    json_option,
    request_from,
    training_options,
)
from tlcli.errors import ExpectationError, UsageError

if TYPE_CHECKING:
    from tlcli.report.comparison import Candidates
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
        "finetune photos/ --size 160 160 --epochs 5 --set augment.preset=strong",
        "finetune photos/ --compare head-only,two-phase,unfreeze-until-plateau",
        "finetune photos/ -m efficientnet_lite0,mobilenet_v2",
        "finetune photos/ --budget 10m",
        "finetune --resume runs/first",
    )
)
@training_options
@click.option(
    "--compare",
    metavar="R,R…",
    shell_complete=complete_recipes,
    help="Run several recipes on the same split; keep the best.",
)
@click.option(
    "--log",
    "logs",
    multiple=True,
    type=click.Choice(["tensorboard", "mlflow"]),
    help="Also log to TensorBoard or MLflow; repeatable.",
)
@json_option
@global_options
def finetune(as_json: bool, compare: str | None, logs: tuple[str, ...], **options: Any) -> None:
    """Fine-tune a pretrained network on DATA.

    DATA is a folder of class folders, a folder with train/, val/ and test/ of class folders inside, or a manifest: a
    CSV, TSV, JSONL or Parquet file with the columns path and label.
    """
    from tlcli.cluster.hosts import this_host
    from tlcli.workflows.several_hosts import as_host

    if (host := this_host()) is not None and not host.is_first:
        # The first host says what there is to say, also to other programs.
        click.get_current_context().meta[QUIET], logs = True, ()
    with as_host(request_from(options)) as request:
        _finetune(request, compare, options, as_json=as_json, logs=logs)


def _finetune(
    request: "Request", compare: str | None, options: dict[str, Any], *, as_json: bool, logs: tuple[str, ...]
) -> None:
    """Fine-tune with one recipe or several, and print the result."""
    from tlcli.report import comparison
    from tlcli.workflows.remote_run import staged, upload_finished
    from tlcli.workflows.request import networks_of

    request = staged(request)
    is_comparison = compare is not None or (request.resume and comparison.holds_candidates(request.resume))
    if is_comparison and networks_of(request):
        hint = "Name one network, or leave out --compare."
        raise UsageError("--compare chooses a recipe, not a network", where="--model", hint=hint)
    if is_comparison:
        _refuse_logs(logs, "a comparison of several")
    if (run := upload_finished(request)) is not None:
        _print_run(request.place or Path(), run, as_json=as_json)
    elif is_comparison:
        run = compare_and_print(request, compare and _recipes(compare, options), as_json=as_json)
    else:
        _, run = run_and_print(request, as_json=as_json, logs=logs)
    require_met(run)


def _refuse_logs(logs: Sequence[str], of: str) -> None:
    if logs:
        hint = "Fine-tune with one recipe at a time."
        raise UsageError(f"logs one run, not {of}", where="--log", hint=hint)


def _recipes(compare: str, options: dict[str, Any]) -> list[str]:
    """The names given to --compare.

    Raises:
        UsageError: If --recipe or --resume is given as well.
    """
    for name in ("recipe", "resume"):
        if options[name] is not None:
            raise UsageError(
                f"cannot be combined with --{name}",
                where="--compare",
                hint="Name all recipes in --compare. To resume an interrupted comparison, give --resume alone.",
            )
    return [name.strip() for name in compare.split(",") if name.strip()]


def compare_and_print(request: "Request", recipes: Sequence[str] | None, *, as_json: bool) -> "RunRecord":
    """Fine-tune with several recipes and print the best run; without recipes, resume the comparison of the request."""
    from tlcli.recipe.load import locate
    from tlcli.report import comparison
    from tlcli.report.folder import own_folder
    from tlcli.workflows.remote_run import uploading
    from tlcli.workflows.request import Request, check_candidates, check_request

    if recipes is None and request.resume is not None:
        candidates = comparison.read_candidates(request.resume)
        if candidates.is_ladder:
            return _climb_again(request, candidates, as_json=as_json)
        resolved = [check_request(Request(recipe=candidates.recipe(name))) for name in candidates.names]
        lock: Any = own_folder(candidates.out, resume=True)
    else:
        candidates, resolved = check_candidates(request, recipes or ())
        files = [locate(recipe) for recipe in recipes or ()]
        lock = comparison.write_candidates(candidates, [candidate.recipe for candidate in resolved], files)

    def work(reading: "BackgroundRead", observe: "Observer") -> "tuple[Path, RunRecord]":
        from tlcli.workflows.candidates import run_candidates

        with uploading(request), lock:
            return run_candidates(candidates, observe, reading=reading)

    return _run_and_print(work, resolved[0], as_json=as_json, place=request.place)[1]


def _climb_again(request: "Request", candidates: "Candidates", *, as_json: bool) -> "RunRecord":
    """Resume a ladder and print its result."""
    from tlcli.report.comparison import ASKED
    from tlcli.workflows import best_request
    from tlcli.workflows.remote_run import uploading
    from tlcli.workflows.request import Request, check_request

    recipe = best_request.asked(candidates)

    def work(reading: "BackgroundRead", observe: "Observer") -> "tuple[Path, RunRecord]":
        from tlcli.workflows.best import climb

        with uploading(request), best_request.owned(candidates, recipe, resume=request.resume):
            return climb(candidates, recipe, observe, reading=reading)

    resolved = check_request(Request(recipe=candidates.recipe(ASKED)))
    return _run_and_print(work, resolved, as_json=as_json, place=request.place)[1]


def run_and_print(request: "Request", *, as_json: bool, logs: Sequence[str] = ()) -> "tuple[Path, RunRecord]":
    """Fine-tune and print the result; returns the run folder and the record.

    Args:
        request: The request.
        as_json: True to print JSON.
        logs: Names of the logs to write, as after `--log`.
    """
    from tlcli.workflows.before_training import checked
    from tlcli.workflows.remote_run import uploading
    from tlcli.workflows.request import networks_of

    if logs:
        from tlcli.report.logs import require_installed

        require_installed(logs)
    names, resolved = networks_of(request), checked(request)
    is_ladder = resolved.recipe.quality == "best"
    if is_ladder:
        _refuse_logs(logs, "the runs of quality best")

    def work(reading: "BackgroundRead", observe: "Observer") -> "tuple[Path, RunRecord]":
        with uploading(request):
            return logged(reading, observe)

    def logged(reading: "BackgroundRead", observe: "Observer") -> "tuple[Path, RunRecord]":
        from tlcli.workflows.finetune import finetune

        asked, chosen = request, resolved
        if names:
            from tlcli.workflows.choose_network import choose

            asked, chosen = choose(request, names, observe, reading=reading)
        if is_ladder:
            return _climb(asked, reading, observe)
        if not logs:
            return finetune(asked, chosen, observe, reading=reading)
        from tlcli.report.logs import logging_to

        with logging_to(logs, chosen.recipe.model_dump(mode="json"), observe) as logging:
            folder, run = finetune(asked, chosen, logging, reading=reading)
            logging.finish(run)
        return folder, run

    return _run_and_print(work, resolved, as_json=as_json, place=request.place)


def _climb(request: "Request", reading: "BackgroundRead", observe: "Observer") -> "tuple[Path, RunRecord]":
    """Climb the ladder of `quality: best`."""
    from tlcli.workflows import best_request
    from tlcli.workflows.best import climb

    candidates, recipe = best_request.begun(request)
    with best_request.owned(candidates, recipe, resume=None):
        return climb(candidates, recipe, observe, reading=reading)


def _run_and_print(
    work: "Work", resolved: "ResolvedRecipe", *, as_json: bool, place: Path | None = None
) -> "tuple[Path, RunRecord]":
    """Load Keras while the images are read, do the work, print the result; returns the run folder and the record.

    Args:
        work: What to do.
        resolved: The recipe.
        as_json: True to print JSON.
        place: What to call the run folder; None for its own path.
    """
    from tlcli.cli import console
    from tlcli.cli.progress import observer
    from tlcli.storage.shared_cache import shared_cache_warnings
    from tlcli.train.events import Event, FolderMade, warn
    from tlcli.train.preparation import BackgroundRead

    signal.signal(signal.SIGTERM, stop)
    if not is_quiet():
        if resolved.licence:
            console.print_text(console.err(), console.safe(resolved.licence, "dim"))
        console.err().print("loading Keras …", style="dim")
    folders: list[str] = []
    try:
        with BackgroundRead(resolved.recipe) as reading:
            with console.loading_keras():
                import tlcli.workflows.finetune  # noqa: F401
            with observer() as observe:

                def observe_folder(event: Event) -> None:
                    if isinstance(event, FolderMade):
                        folders.append(str(place or event.path))
                    observe(event)

                folder, run = work(reading, observe_folder)
                warn(observe, shared_cache_warnings())
                folder = place or folder
    except KeyboardInterrupt:
        resume = f" Resume with: tlcli finetune --resume {shlex.quote(folders[0])}" if folders else ""
        console.err().print(console.safe(f"Interrupted.{resume}"))
        raise Interrupted from None
    _print_run(folder, run, as_json=as_json)
    return folder, run


def _print_run(folder: Path, run: "RunRecord", *, as_json: bool) -> None:
    from tlcli.cli import console, tables
    from tlcli.cluster.hosts import this_host

    if (host := this_host()) is not None and not host.is_first:
        # The first host prints the result.
        return
    if as_json:
        console.print_json({"run": str(folder), **vars(run)})
    else:
        tables.print_result(folder, run)


def require_met(run: "RunRecord") -> None:
    """End with the exit code of an unmet expectation if the run has one."""
    from tlcli.cli import console

    if unmet := [verdict for verdict in run.expectations if not verdict["passed"]]:
        console.err().print(console.safe(f"{len(unmet)} of {len(run.expectations)} expectations not met", "red"))
        raise click.exceptions.Exit(ExpectationError.exit_code)


def stop(_signal: int, _frame: FrameType | None) -> None:
    """Treat SIGTERM like Ctrl-C: the run stays resumable."""
    raise KeyboardInterrupt
