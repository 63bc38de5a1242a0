"""`tlcli tune`."""

import shlex
import signal
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tlcli.cli.options import (
    LOCAL,
    LOCATION,
    Interrupted,
    cluster_option,
    complete_model,
    complete_recipe,
    examples,
    exclude_option,
    global_options,
    is_quiet,
    json_option,
    trust_option,
)
from tlcli.cluster import connection
from tlcli.errors import UsageError

if TYPE_CHECKING:
    from tlcli.tune.search import Search
    from tlcli.zoo.resolve import ResolvedRecipe

# Trials in the table on the terminal.
SHOWN = 10
# Options that an unfinished search may be resumed with.
FREE = ("resume", "trials", "budget", "jobs", "device", "as_json")


@click.command(
    epilog=examples(
        "tune photos/",
        "tune photos/ --space space.yaml --trials 50 --budget 1h",
        "tune photos/ -m efficientnet_lite0,mobilenet_v2 --sampler random -j 2",
        "tune --resume runs/photos-tune-1",
        "finetune -r runs/photos-tune-1/best.yaml",
    )
)
@click.argument("data", required=False, type=LOCATION)
@click.option(
    "--recipe",
    "-r",
    metavar="R",
    shell_complete=complete_recipe,
    help="Recipe to start from. [default: unfreeze-until-plateau]",
)
@click.option(
    "--space",
    metavar="FILE",
    type=LOCAL,
    help="YAML file: recipe keys, and their lists or ranges of values.",
)
@click.option("--trials", metavar="N", type=click.IntRange(1, 100_000), help="Most trials. [default: 30]")
@click.option("--budget", metavar="TIME", help="Time after which no trial starts, such as 30m or 2h.")
@click.option("--folds", metavar="K", type=int, help="Score each trial by cross-validation on K folds.")
@click.option("--sampler", type=click.Choice(["tpe", "random", "grid"]), help="How to choose values. [default: tpe]")
@click.option(
    "--metric", type=click.Choice(["val_loss", "val_accuracy"]), help="What the best is best at. [default: val_loss]"
)
@click.option("--seed", metavar="N", type=click.IntRange(0, 2**31 - 1), help="Seed of the search. [default: 0]")
@click.option("--jobs", "-j", metavar="N", type=click.IntRange(1, 64), help="Processes. [default: 1]")
@click.option(
    "--model", "-m", metavar="M,M…", shell_complete=complete_model, help="Network, or several to choose from."
)
@click.option("--set", "settings", metavar="A.B=C", multiple=True, help="Set a value of the recipe; repeatable.")
@click.option("--out", "-o", type=LOCAL, help="Folder. [default: runs/<data>-tune-<n>]")
@exclude_option
@click.option("--resume", metavar="DIR", type=LOCAL, help="Resume an interrupted search.")
@click.option("--device", metavar="D", default="auto", help="cpu, gpu, gpu:1 or tpu. [default: auto]")
@click.option("--strict", is_flag=True, help="Stop at unreadable images instead of skipping them.")
@cluster_option
@trust_option
@json_option
@global_options
def tune(**options: Any) -> None:
    """Search the settings of a recipe.

    DATA is as for `finetune`. Trials are compared by the validation images; the best is scored on the test images once.
    """
    from tlcli.cli import console
    from tlcli.workflows.request import Request, check_request

    if options["resume"] is not None:
        search, lock = _resumed(options)
    else:
        search, lock = _begun(options)
    with lock:
        resolved = check_request(Request(str(search.recipe)))
        result = _run(search, resolved)
    if options["as_json"]:
        console.print_json({"run": str(search.out), **result})
    else:
        print_search(search.out, result)


def _resumed(options: dict[str, Any]) -> "tuple[Search, AbstractContextManager[Any]]":
    """The search to resume, and its lock.

    Raises:
        UsageError: If an option would change it.
    """
    from tlcli.report.folder import own_folder
    from tlcli.workflows import tune_request

    given = [name for name, value in options.items() if value not in (None, "auto", ()) and value is not False]
    if changed := [name for name in given if name not in FREE]:
        named = "DATA" if changed[0] == "data" else f"--{changed[0]}"
        hint = f"Leave {named} out, or start a new search. --trials, --budget, --jobs and --device may change."
        raise UsageError(f"a resumed search keeps its settings (got {named})", where="--resume", hint=hint)
    asked = _given(options, "trials", "jobs", *(["device"] if "device" in given else []))
    search = tune_request.resumed(options["resume"], asked, options["budget"])
    return search, own_folder(search.out, resume=True)


def _begun(options: dict[str, Any]) -> "tuple[Search, AbstractContextManager[Any]]":
    """A new search, and the context that creates its folder."""
    from tlcli.workflows import tune_request
    from tlcli.workflows.request import Request

    recipe_options = {
        "data.path": None if options["data"] is None else str(options["data"]),
        "data.exclude": None if options["exclude"] is None else str(options["exclude"]),
        "data.folds": options["folds"],
        "model.name": options["model"],
    }
    request = Request(
        recipe=options["recipe"] or "unfreeze-until-plateau",
        settings=options["settings"],
        options={key: value for key, value in recipe_options.items() if value is not None},
        strict=options["strict"],
        out=options["out"],
        device=options["device"],
    )
    asked = _given(options, "trials", "sampler", "metric", "seed", "jobs")
    return tune_request.begun(request, options["space"], asked, options["budget"])


def _given(options: dict[str, Any], *names: str) -> dict[str, Any]:
    """The options that are given. On a cluster, --jobs is the number of tasks for which it has room."""
    given = {name: options[name] for name in names if options[name] is not None}
    if (cluster := connection.current()) is not None and "jobs" not in given:
        from tlcli.workflows.cluster_tasks import workers

        given["jobs"] = max(2, workers(cluster))
    return given


def _run(search: "Search", resolved: "ResolvedRecipe") -> dict[str, Any]:
    """Run the search with its progress on stderr."""
    from tlcli.cli import console
    from tlcli.cli.finetune import stop
    from tlcli.cli.progress import observer
    from tlcli.train.preparation import BackgroundRead
    from tlcli.workflows import tune as workflow

    signal.signal(signal.SIGTERM, stop)
    if not is_quiet():
        if resolved.licence:
            console.print_text(console.err(), console.safe(resolved.licence, "dim"))
        several = "" if search.jobs == 1 else f" in {search.jobs} processes"
        console.err().print(f"loading Keras{several} …", style="dim")
    try:
        if search.jobs > 1:
            with observer() as observe:
                return workflow.tune(search, observe)
        with BackgroundRead(resolved.recipe) as reading:
            with console.loading_keras():
                import tlcli.workflows.trials  # noqa: F401
            with observer() as observe:
                return workflow.tune(search, observe, reading=reading)
    except KeyboardInterrupt:
        resume = f"tlcli tune --resume {shlex.quote(str(search.out))}"
        console.err().print(console.safe(f"Interrupted. Resume with: {resume}"))
        raise Interrupted from None


def print_search(folder: Path, result: dict[str, Any]) -> None:
    """Print the best trials, what mattered, and where the best recipe is."""
    from tlcli.cli import console
    from tlcli.report.tune_page import NO_EFFECT, are_alike, ranked, short_names
    from tlcli.text import duration, plural

    out, best, counts, seconds = console.out(), result["best"], result["counts"], result["seconds"]
    names = short_names(list(result["space"]))
    rows = ranked(result["trials"], result["search"]["metric"])
    alike = are_alike(rows)
    cells = [_cells(row, list(names), is_best=row["trial"] == best["trial"] and not alike) for row in rows[:SHOWN]]
    columns = ["trial", "val_loss", "val_acc", *names.values(), "seconds"]
    # The least important keys go first.
    optional = ["seconds", *(names[key] for key in reversed(list(result["importance"]) or list(names)))]
    console.print_table(out, columns, cells, optional=optional, hint="report.html has them.")
    out.print()
    others = f"{counts['pruned']} stopped early, {counts['failed']} failed"
    warm = "" if seconds["warm"] is None else f", {duration(seconds['warm'])} a trial once warm"
    summary = f"{plural(len(rows), 'trial')} ({others}) in {duration(seconds['total'])}{warm}"
    console.print_text(out, console.safe(summary))
    if alike:
        console.print_text(out, console.safe(f"{NO_EFFECT}.", "yellow"))
    elif result["importance"]:
        shares = ", ".join(f"{names[key]} {share:.0%}" for key, share in result["importance"].items())
        console.print_text(out, console.safe(f"importance: {shares}"))
    if test := result["test"]:
        text = f"test accuracy of trial {best['trial']}: {test['accuracy']:.3f} on {plural(test['count'], 'image')}"
        console.print_text(out, console.safe(text, "bold"))
    for name in ("best.yaml", "best/", "report.html"):
        out.print(console.safe(f"{name:<12} {folder / name}"))


def _cells(row: dict[str, Any], keys: list[str], *, is_best: bool) -> list[Any]:
    from tlcli.cli import console

    scores = ["–" if row[name] is None else f"{row[name]:.4f}" for name in ("val_loss", "val_accuracy")]
    number = f"{row['trial']} *" if is_best else str(row["trial"])
    state = "" if row["state"] == "complete" else f" {row['state']}"
    seconds = "–" if row["seconds"] is None else f"{row['seconds']:.1f}"
    texts = [number + state, *scores, *(row["values"].get(key, "–") for key in keys), seconds]
    return [console.safe(text, "bold" if is_best else "") for text in texts]
