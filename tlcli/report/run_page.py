"""report.html: what a run did and how good its classifier is, on one self-contained page."""

import csv
import io
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlcli.data.manifest import home_of
from tlcli.errors import UsageError
from tlcli.evaluate.reliability import wilson
from tlcli.paths import write_text
from tlcli.report import charts, record, run_sections, score_sections
from tlcli.report.comparison import best_row
from tlcli.report.folder import HISTORY
from tlcli.report.pages import render
from tlcli.report.predictions import ScoredImage, read_predictions
from tlcli.report.record import RunRecord
from tlcli.report.run_images import (
    ChosenImages,
    Illustrations,
    ReadPixels,
    choose_images,
    illustrate,
    reader_of_files,
)
from tlcli.report.score_sections import between
from tlcli.storage.location import locate
from tlcli.text import duration, plural, why_unreadable

if TYPE_CHECKING:
    # This module loads Keras.
    from tlcli.model.classifier import Classifier

FILE = "report.html"
# What the page needs of a line of phases.jsonl.
STEP_KEYS = (
    *("step", "trained_groups", "trainable_parameters", "epochs", "loss_before", "accuracy_before", "val_loss"),
    *("val_accuracy", "confidence", "kept", "reason", "seconds", "from_cache"),
)


def write_run_page(
    folder: Path, *, file: Path | None = None, classifier: "Classifier | None" = None, read: ReadPixels | None = None
) -> Illustrations:
    """Write the page of a run, complete or not.

    Args:
        folder: The run folder.
        file: The page; report.html in the run folder if None.
        classifier: The run's classifier, for the maps; None for a page without them.
        read: Returns the pixels of an image; None to read the files, which must not have changed since the run.

    Returns:
        The pictures on the page, with the images that have none.

    Raises:
        UsageError: If the folder is not a run folder, or a file in it is damaged.
    """
    run = record.read(folder)
    split = next((name for name in ("test", "val") if name in run.scores), None)
    scored = [image for image in read_predictions(folder) if image.split == split]
    chosen = choose_images(scored)
    reader = read or reader_of_files(
        home_of(locate(run.data["path"])), run_sections.size(run), run.recipe["data"]["resize"]
    )
    pictures = illustrate(chosen, reader, classifier)
    write_text(file or folder / FILE, render("run.html", _values(run, folder, split, scored, chosen, pictures)))
    return pictures


def _values(
    run: RunRecord,
    folder: Path,
    split: str | None,
    scored: Sequence[ScoredImage],
    chosen: ChosenImages,
    pictures: Illustrations,
) -> dict[str, Any]:
    """Values for run.html."""
    steps, history = _read_steps(folder / "phases.jsonl"), _read_history(folder / "history.csv")
    if run.status != "complete":
        steps += run_sections.unfinished(steps, history)
    cost = run_sections.cost(run, steps, history)
    scores = run.scores[split] if split else None
    return {
        "title": f"{Path(run.data['path']).name}: {run.model['name']}",
        "status": run.status,
        "error": (run.error or {}).get("message"),
        "resume": shlex.join(["tlcli", "finetune", "--resume", str(folder)]) if run.status == "interrupted" else "",
        "started": run.started.replace("T", " ").replace("Z", " UTC"),
        "result": _result(run, split),
        "tiles": _tiles(run, split),
        "split": {"test": "test", "val": "validation", None: None}[split],
        "charts": charts.learning_charts(steps, history),
        "ranges": [charts.range_chart(name, found) for name, found in run.lr_ranges.items()],
        "steps": [run_sections.step(number, step) for number, step in enumerate(steps, start=1)],
        "confusion": scores and score_sections.confusion(scores, chosen, pictures),
        "classes": scores and score_sections.classes(scores),
        "mistakes": [score_sections.figure(image, pictures) for image in chosen.mistakes],
        "doubts": [score_sections.figure(image, pictures) for image in chosen.doubts],
        "has_maps": bool(pictures.maps),
        "has_predictions": bool(scored),
        "missing": _missing(run, chosen, pictures),
        "reliability": score_sections.reliability_section(run, scored) if scored else None,
        "data": run_sections.data(run),
        "cost": cost.parts,
        "total": duration(cost.total_s),
        "is_augmented": run_sections.is_augmented(run),
        "advice": run.advice,
        **_comparison(run),
        "facts": run_sections.facts(run),
        "expectations": run.expectations,
        "recipe": _text_of(folder / "recipe.yaml").splitlines(),
        "run": str(folder),
    }


def _comparison(run: RunRecord) -> dict[str, Any]:
    """The candidates of a comparison or of a ladder, and which of them are the result by what rule."""
    rows = run.compared
    members, mark = [row["run"] for row in rows if row.get("in_result")], "in the result"
    if members:
        rule = "The marked runs are the result: one, or the mean of several, chosen by the validation loss."
    else:
        members, mark = [rows[best_row(rows)]["run"]] if rows else [], "best"
        rule = "This is the run with the lowest validation loss; of equal ones, that with the highest accuracy."
    return {"compared": rows, "in_result": members, "chosen_by": rule, "mark": mark}


def _read_steps(file: Path) -> list[dict[str, Any]]:
    try:
        steps = [json.loads(line) for line in io.StringIO(_text_of(file))]
        return [{key: step[key] for key in STEP_KEYS} for step in steps]
    except (ValueError, TypeError, KeyError) as error:
        raise _damaged(file, why_unreadable(error)) from error


def _read_history(file: Path) -> list[dict[str, str]]:
    rows = list(csv.DictReader(io.StringIO(_text_of(file), newline="")))
    if any(set(row) != set(HISTORY) for row in rows):
        raise _damaged(file, f"its columns are not {', '.join(HISTORY)}")
    return rows


def _damaged(file: Path, why: str) -> UsageError:
    hint = "Restore the file, or remove it: the page then leaves its part out."
    return UsageError(f"is damaged ({why})", where=str(file), hint=hint)


def _text_of(file: Path) -> str:
    """The text of a file; empty if there is none, as in a run that has just begun."""
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise _damaged(file, why_unreadable(error)) from error


def _result(run: RunRecord, split: str | None) -> str:
    """The result in one sentence."""
    if split is None:
        if run.status != "complete":
            return f"The run is {run.status}; it has no scores."
        return "No images were set aside to score the classifier."
    scores = run.scores[split]
    hits = round(scores["accuracy"] * scores["count"])
    interval = between(wilson(hits, scores["count"]))
    kind = "test images, which training never saw," if split == "test" else "validation images"
    text = f"{score_sections.percent(scores['accuracy'])} of {scores['count']} {kind} are classified correctly"
    text += f" (95 % interval {interval})."
    if split == "val":
        text += " Training was steered by the same images, so new images may score lower."
    return text


def _tiles(run: RunRecord, split: str | None) -> list[tuple[str, str, list[str]]]:
    """Name, number and remarks of the main numbers."""
    tiles: list[tuple[str, str, list[str]]] = []
    for name, title in (("test", "test accuracy"), ("val", "validation accuracy"), ("train", "training accuracy")):
        if scores := run.scores.get(name):
            hits, count = round(scores["accuracy"] * scores["count"]), scores["count"]
            remarks = (
                [plural(count, "image")] if name == "train" else [f"{hits} of {count}", between(wilson(hits, count))]
            )
            if folds := scores.get("folds"):
                remarks += [f"{folds['count']} folds", f"deviation {score_sections.percent(folds['deviation'])}"]
            tiles.append((title, score_sections.percent(scores["accuracy"]), remarks))
    if split:
        balanced = run.scores[split]["balanced_accuracy"]
        tiles.append(("balanced accuracy", score_sections.percent(balanced), ["mean recall of the classes"]))
    images = sum(run.data["counts"].values())
    tiles.append(("images", str(images), [f"{len(run.data['classes'])} classes"]))
    if "total" in run.seconds:
        tiles.append(("time", duration(run.seconds["total"]), [run.hardware["device"]]))
    return tiles


def _missing(run: RunRecord, chosen: ChosenImages, pictures: Illustrations) -> str:
    """A sentence about images that the page cannot show; empty if it shows all."""
    if not pictures.missing:
        return ""
    path, reason = next(iter(pictures.missing.items()))
    share = f"{len(pictures.missing)} of {len(chosen.all)} images of this page cannot be shown"
    return f"{share}: {Path(run.data['path']) / path} is {reason}. The numbers are those of the run."
