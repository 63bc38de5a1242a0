"""`tlcli recipe run`."""

import json
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tlcli.cli.options import LOCAL, LOCATION, complete_recipe, global_options, is_quiet, json_option, trust_option
from tlcli.errors import RecipeError, TlcliError
from tlcli.paths import require_writable

if TYPE_CHECKING:
    from tlcli.report.ci import Outcome
    from tlcli.workflows.request import Request


@click.command()
@click.argument("recipes", metavar="RECIPE…", nargs=-1, required=True, shell_complete=complete_recipe)
@click.option("--data", type=LOCATION, help="Images, in place of data.path of the recipes.")
@click.option("--set", "settings", metavar="A.B=C", multiple=True, help="Set a value of the recipes; repeatable.")
@click.option(
    "--out",
    "-o",
    type=LOCAL,
    help="Run folder, of several recipes the folder of all. [default: a new one in runs/]",
)
@click.option("--junit", type=LOCAL, help="Write the results as JUnit XML.")
@click.option("--jobs", "-j", type=click.IntRange(1, 64), default=1, help="Recipes at a time. [default: 1]")
@click.option("--dry-run", is_flag=True, help="Only check recipes, images and weights files.")
@click.option("--update-baseline", is_flag=True, help="Write the results to baseline.json beside each recipe.")
@click.option("--strict", is_flag=True, help="Stop at unreadable images instead of skipping them.")
@trust_option
@json_option
@global_options
@click.pass_context
def run(
    context: click.Context,
    recipes: tuple[str, ...],
    data: Path | None,
    settings: tuple[str, ...],
    out: Path | None,
    junit: Path | None,
    jobs: int,
    dry_run: bool,
    update_baseline: bool,
    strict: bool,
    as_json: bool,
) -> None:
    """Fine-tune with recipes and check their expectations, for CI.

    RECIPE is a bundled name, a file, or a folder: all *.yaml and *.yml files in it. All are checked before the first
    one is trained. Exit code 3 if an expectation is not met. In GitHub Actions, mistakes and unmet expectations appear
    beside their lines, and a summary on the job.
    """
    from tlcli.recipe import files
    from tlcli.report import ci
    from tlcli.workflows.recipe_run import check
    from tlcli.workflows.request import Request

    words, images = files.split_data(recipes, has_data=data is not None)
    if junit is not None:
        require_writable(junit, "--junit")
    names = files.find(words)
    options = {} if images is None and data is None else {"data.path": str(data or images)}
    requests = [Request(recipe=name, settings=settings, options=options, strict=strict) for name in names]
    if update_baseline:
        requests = [_without_baseline(request) for request in requests]
    if not dry_run and names == list(words) and len(names) == 1:
        _run_one(replace(requests[0], out=out), junit, as_json=as_json, update_baseline=update_baseline)
        return
    folders = [None if out is None else out / folder for folder in _folders(names)]
    outcomes = [check(replace(request, out=folder)) for request, folder in zip(requests, folders, strict=True)]
    if not dry_run and (wrong := sum(outcome.code != 0 for outcome in outcomes)):
        _say_that_none_is_trained(wrong, len(outcomes))
    elif not dry_run:
        outcomes = _run_all(requests, out, jobs=jobs, has_trust=_is_given(context, "trust"))
        if update_baseline:
            _update_baselines(outcomes)
    _print(outcomes, as_json=as_json)
    _report(outcomes, junit)
    if code := ci.worst_code(outcomes):
        raise click.exceptions.Exit(code)


def _is_given(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE


def _without_baseline(request: "Request") -> "Request":
    """The request without the expectations that compare with the baseline, which its run will write.

    Raises:
        RecipeError: If the recipe is bundled.
    """
    from tlcli.recipe import baseline, expectation, load

    try:
        file = load.locate(request.recipe)
        expect = load.load(request.recipe, settings=request.settings).expect
    except RecipeError:
        # Its run reports it, and those of other recipes continue.
        return request
    baseline.require_own(file)
    kept = [text for text in expect if not expectation.uses_baseline(text)]
    return replace(request, settings=(*request.settings, f"expect={json.dumps(kept)}"))


def _run_one(request: "Request", junit: Path | None, *, as_json: bool, update_baseline: bool) -> None:
    """Run a recipe in this process, with its progress and its result as `finetune` prints them."""
    from tlcli.cli.finetune import require_met, run_and_print
    from tlcli.report import ci

    began = time.perf_counter()
    try:
        folder, record = run_and_print(request, as_json=as_json)
    except TlcliError as error:
        _report([ci.outcome_of_error(request.recipe, error, time.perf_counter() - began)], junit)
        raise
    unmet = [row for row in record.expectations if not row["passed"]]
    outcome = ci.Outcome(
        request.recipe,
        3 if unmet else 0,
        time.perf_counter() - began,
        str(folder),
        record.scores,
        record.expectations,
    )
    if update_baseline:
        _update_baselines([outcome])
    _report([outcome], junit)
    require_met(record)


def _say_that_none_is_trained(wrong: int, count: int) -> None:
    from tlcli.cli import console

    text = f"nothing was trained: {wrong} of {count} recipes cannot run"
    console.print_text(console.err(), console.safe(text, "red"))


def _run_all(requests: Sequence["Request"], out: Path | None, *, jobs: int, has_trust: bool) -> list["Outcome"]:
    """Run every recipe in a process of its own; a line on stderr for each that is done."""
    from tlcli.cli import console
    from tlcli.cli.finetune import stop
    from tlcli.report.ci import Outcome
    from tlcli.text import duration
    from tlcli.workflows.recipe_run import Runs

    signal.signal(signal.SIGTERM, stop)
    # Read here: the context of Click belongs to this thread.
    home, done, quiet = out or _next_folder(), 0, is_quiet()
    common = ["--trust"] * has_trust + ["--quiet"] * quiet
    commands = []
    for request, folder in zip(requests, _folders([request.recipe for request in requests]), strict=True):
        words = [word for text in request.settings for word in ("--set", text)]
        words += ["--data", request.options["data.path"]] if request.options else []
        words += ["--strict"] * request.strict + ["--out", str(home / folder)]
        commands.append((request.recipe, [*words, *common]))

    def observe(outcome: Outcome) -> None:
        nonlocal done
        done += 1
        if not quiet:
            text = f"{done} of {len(requests)}: {outcome.recipe}: {outcome.status} ({duration(outcome.seconds)})"
            console.print_text(console.err(), console.safe(text, "green" if outcome.code == 0 else "red"))

    outcomes = Runs(observe, is_shown=jobs == 1 and not quiet).run(commands, jobs=jobs)
    if out is None and not any(home.iterdir()):
        home.rmdir()
    elif home.is_dir() and not quiet:
        console.print_text(console.err(), console.safe(f"run folders in {home}"))
    return outcomes


def _next_folder() -> Path:
    """A new folder for the runs of several recipes; made at once, because another process may look for one too."""
    number = 1
    while True:
        folder = Path("runs") / f"recipes-{number}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return folder


def _folders(recipes: Sequence[str]) -> list[str]:
    """A folder name for each recipe: that of its file without suffix, with a number if others have the same."""
    stems = [Path(recipe).stem for recipe in recipes]
    return [
        stem if stems.count(stem) == 1 else f"{stem}-{stems[: index + 1].count(stem)}"
        for index, stem in enumerate(stems)
    ]


def _update_baselines(outcomes: Sequence["Outcome"]) -> None:
    """Write the numbers of all runs that met their other expectations to baseline.json."""
    from dataclasses import asdict

    from tlcli.cli import console
    from tlcli.recipe import baseline, load
    from tlcli.report import record

    for outcome in outcomes:
        if outcome.code == 0 and outcome.run is not None:
            file = baseline.write(load.locate(outcome.recipe), asdict(record.read(Path(outcome.run))))
            text = console.safe(f"baseline of {outcome.recipe} written to {file}")
        else:
            text = console.safe(f"baseline of {outcome.recipe} not changed: {outcome.status}", "yellow")
        console.print_text(console.err(), text)


def _report(outcomes: Sequence["Outcome"], junit: Path | None) -> None:
    """Write JUnit XML if asked for, and tell GitHub Actions if this is one of its jobs.

    A file that cannot be written is a warning: it must not hide what became of the recipes.
    """
    from tlcli.paths import write_text
    from tlcli.report import ci

    if junit is not None:
        _try(lambda: write_text(junit, ci.junit(outcomes)), "the results as JUnit XML are not written")
    if ci.is_github():
        # GitHub reads commands on stderr too, and stdout is for results.
        for command in ci.annotations(outcomes):
            click.echo(command, err=True)
        _try(lambda: ci.write_summary(outcomes), "the summary of the job is not written")


def _try(write: Callable[[], None], failed: str) -> None:
    """Write a file, or warn."""
    from tlcli.cli import console

    try:
        write()
    except OSError as error:
        text = f"warning: {failed}: {error.filename or 'the file'}: {error.strerror or error}"
        console.print_text(console.err(), console.safe(text, "yellow"))


def _print(outcomes: Sequence["Outcome"], *, as_json: bool) -> None:
    """Print a row per recipe, then every problem and unmet expectation, or all as JSON."""
    from tlcli.cli import console
    from tlcli.report import ci
    from tlcli.text import duration

    if as_json:
        rows = [outcome.to_json() for outcome in outcomes]
        console.print_json({"recipes": rows, "exit_code": ci.worst_code(outcomes)})
        return
    table: list[list[Any]] = []
    all_dry = all(outcome.is_dry for outcome in outcomes)
    for outcome in outcomes:
        status = console.safe(outcome.status, "green" if outcome.code == 0 else "red")
        judged = [row["passed"] for row in outcome.expectations if "passed" in row]
        expected = f"{sum(judged)} of {len(judged)} met" if judged else f"{len(outcome.expectations)} to meet"
        scores = [f"{outcome.scores[name]['accuracy']:.4f}" if name in outcome.scores else "–" for name in ci.SPLITS]
        cells = [console.safe(outcome.recipe), status, expected, *scores, duration(outcome.seconds)]
        # A check has no scores.
        table.append(cells[:3] if all_dry else cells)
    columns = ["recipe", "result", "expectations", "val acc", "test acc", "time"][: 3 if all_dry else None]
    out = console.out()
    console.print_table(out, columns, table, text_columns=3, optional=["time", "val acc", "test acc"])
    for outcome in outcomes:
        for text in outcome.told:
            console.print_text(out, console.safe(text))
        for row in outcome.unmet:
            console.print_text(out, console.safe(f"{outcome.recipe}: {row['expectation']}: not met, {row['reason']}"))
