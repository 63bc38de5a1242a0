"""The result of a search: the best recipe, and the content of tune.json."""

import statistics
from collections.abc import Sequence
from typing import Any

from tlcli.recipe import load
from tlcli.recipe.schema import Recipe
from tlcli.report.record import RunRecord
from tlcli.tune.study import Study


def best_recipe(study: Study, number: int) -> Recipe:
    """The recipe of a trial, counted from 1, for `finetune -r`."""
    row = next(row for row in study.rows() if row["trial"] == number)
    settings = [f"{key}={text}" for key, text in row["values"].items()]
    recipe = load.load(str(study.search.recipe), settings=settings)
    told = {
        "name": f"{recipe.name.removesuffix('-tuned')}-tuned",
        "description": f"The best of {len(study.rows())} trials",
        "report": True,
    }
    return recipe.model_copy(update=told)


def result_of(study: Study, run: RunRecord, best: int, *, seconds: float) -> dict[str, Any]:
    """The content of tune.json of a complete search.

    Args:
        study: The study.
        run: The run of the best recipe.
        best: Number of the best trial, counted from 1.
        seconds: Time that the search took.
    """
    search, rows = study.search, study.rows()
    row = next(row for row in rows if row["trial"] == best)
    test = run.scores.get("test")
    return {
        "status": "complete",
        "data": run.data["path"],
        "space": {parameter.key: parameter.describe() for parameter in study.space.parameters},
        "counts": {state: sum(row["state"] == state for row in rows) for state in ("complete", "pruned", "failed")},
        "trials": rows,
        "best": {
            **{key: row[key] for key in ("trial", "values", "val_loss", "val_accuracy")},
            "recipe": str(search.best),
            "run": str(search.best_run),
        },
        "test": {key: test[key] for key in ("accuracy", "loss", "count")} if test else None,
        "importance": study.importance(),
        "seconds": {"total": seconds, **_per_trial(rows)},
    }


def _per_trial(rows: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """Median seconds of the first trial of a process (`cold`), and of later ones that were not pruned (`warm`)."""
    complete = [row for row in rows if row["state"] == "complete"]
    cold, warm = ([row["seconds"] for row in complete if row["cold"] == is_cold] for is_cold in (True, False))
    return {
        name: round(statistics.median(part), 2) if part else None for name, part in (("cold", cold), ("warm", warm))
    }
