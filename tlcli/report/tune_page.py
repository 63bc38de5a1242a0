"""The page of a search: its best recipe, all trials, and which settings mattered."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tlcli.paths import write_text
from tlcli.report.charts import parallel_chart, search_chart
from tlcli.report.pages import render
from tlcli.report.score_sections import percent
from tlcli.text import duration, plural

# Most axes of the chart of values.
MAX_AXES = 6
# What is said of trials that score alike.
NO_EFFECT = "No trial differs: the space had no effect"


def write_tune_page(folder: Path, result: Mapping[str, Any]) -> None:
    """Write report.html into the folder of a search.

    Args:
        folder: The folder.
        result: The content of tune.json.
    """
    metric, names = result["search"]["metric"], short_names(list(result["space"]))
    ordered = list(result["importance"]) or list(names)
    axes = {key: _brief(names[key]) for key in ordered[:MAX_AXES]}
    charts = [search_chart(result["trials"], metric)]
    if len(axes) > 1 and result["counts"]["complete"] > 1:
        charts.append(parallel_chart(result["trials"], axes, metric))
    values = {
        "title": f"Search on {result['data']}",
        "result": _result(result),
        "tiles": _tiles(result),
        "charts": charts,
        "metric": metric,
        "names": names,
        "space": result["space"],
        "importance": [(key, percent(share), round(100 * share, 1)) for key, share in result["importance"].items()],
        "trials": [_row(row) for row in ranked(result["trials"], metric)],
        "best": result["best"],
        "alike": are_alike(result["trials"]),
    }
    write_text(folder / "report.html", render("tune.html", values))


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """The last part of each key, or the whole key where others end alike.

    >>> short_names(["head.dropout", "phases.0.lr", "phases.1.lr"])
    {'head.dropout': 'dropout', 'phases.0.lr': 'phases.0.lr', 'phases.1.lr': 'phases.1.lr'}
    """
    ends = [key.rpartition(".")[2] for key in keys]
    return {key: key if ends.count(end) > 1 or end == "name" else end for key, end in zip(keys, ends, strict=True)}


def are_alike(trials: Sequence[Mapping[str, Any]]) -> bool:
    """True if several trials are complete and all of them have the same scores."""
    complete = [row for row in trials if row["state"] == "complete"]
    return len(complete) > 1 and len({(row["val_loss"], row["val_accuracy"]) for row in complete}) == 1


def ranked(trials: Sequence[dict[str, Any]], metric: str) -> list[dict[str, Any]]:
    """Complete trials from best to worst, of equal ones the lower loss first; then pruned and failed ones."""
    sign, order = -1 if metric == "val_accuracy" else 1, ("complete", "pruned", "failed")

    def key(row: dict[str, Any]) -> tuple[int, float, float, int]:
        score = row[metric]
        return order.index(row["state"]), sign * (score or 0.0), row["val_loss"] or 0.0, row["trial"]

    return sorted(trials, key=key)


def _result(result: Mapping[str, Any]) -> str:
    best, test = result["best"], result["test"]
    if are_alike(result["trials"]):
        return (
            f"{NO_EFFECT}. Trial {best['trial']} stands for all: {percent(best['val_accuracy'])} on validation images."
        )
    tested = "" if test is None else f", and {percent(test['accuracy'])} on {plural(test['count'], 'test image')}"
    return f"Trial {best['trial']} is best: {percent(best['val_accuracy'])} on validation images{tested}."


def _tiles(result: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    counts, seconds, test = result["counts"], result["seconds"], result["test"]
    others = f"{counts['pruned']} stopped early, {counts['failed']} failed"
    warm = "" if seconds["warm"] is None else f"{seconds['warm']:.1f} s a trial once warm"
    tiles = [
        (
            "validation loss",
            f"{result['best']['val_loss']:.3f}",
            "of all trials" if are_alike(result["trials"]) else "of the best trial; it chose",
        ),
        ("trials", str(len(result["trials"])), others),
        ("time", duration(seconds["total"]), warm),
    ]
    if test is not None:
        tiles.insert(0, ("test accuracy", percent(test["accuracy"]), "scored once, for one trial only"))
    return tiles


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A trial as cells."""
    scores = {name: "–" if row[name] is None else f"{row[name]:.4f}" for name in ("val_loss", "val_accuracy")}
    seconds = "–" if row["seconds"] is None else f"{row['seconds']:.1f}"
    return {**row, **scores, "seconds": seconds}


def _brief(name: str) -> str:
    """A name that fits below an axis."""
    return name if len(name) <= 12 else f"{name[:11]}…"
