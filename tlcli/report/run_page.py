"""report.html: what a run did and how good its classifier is, on one self-contained page."""

import csv
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tlcli.errors import UsageError
from tlcli.evaluate.reliability import Interval, f1_interval, reliability, wilson
from tlcli.paths import write_text
from tlcli.report import charts, record
from tlcli.report.pages import render
from tlcli.report.predictions import ScoredImage, read_predictions
from tlcli.report.record import RunRecord
from tlcli.report.run_images import (
    ChosenImages,
    Illustrations,
    Pair,
    ReadPixels,
    choose_images,
    illustrate,
    reader_of_files,
)
from tlcli.text import compact, duration, plural

if TYPE_CHECKING:
    # This module loads Keras.
    from tlcli.model.classifier import Classifier

FILE = "report.html"
# With more classes than this, pairs of classes are listed instead of a matrix.
MAX_MATRIX = 100
# Cells of a matrix with more classes are small.
SMALL_MATRIX = 24
# Pairs of classes that are listed with their images, and classes that are listed before the others are folded away.
TOP_PAIRS, TOP_PAIRS_WITHOUT_MATRIX, TOP_CLASSES = 3, 20, 30


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
    reader = read or reader_of_files(Path(run.data["path"]), _size(run), run.recipe["data"]["resize"])
    pictures = illustrate(chosen, reader, classifier)
    write_text(file or folder / FILE, render("run.html", _values(run, folder, split, scored, chosen, pictures)))
    return pictures


def _size(run: RunRecord) -> tuple[int, int]:
    height, width = run.model["size"]
    return int(height), int(width)


def _values(
    run: RunRecord,
    folder: Path,
    split: str | None,
    scored: Sequence[ScoredImage],
    chosen: ChosenImages,
    pictures: Illustrations,
) -> dict[str, Any]:
    """Values for run.html."""
    steps, history = _read_lines(folder / "phases.jsonl"), _read_csv(folder / "history.csv")
    scores = run.scores[split] if split else None
    return {
        "title": f"{Path(run.data['path']).name}: {run.model['name']}",
        "status": run.status,
        "error": (run.error or {}).get("message"),
        "started": run.started.replace("T", " ").replace("Z", " UTC"),
        "result": _result(run, split),
        "tiles": _tiles(run, split),
        "split": {"test": "test", "val": "validation", None: None}[split],
        "charts": charts.learning_charts(steps, history),
        "steps": [_step(number, step) for number, step in enumerate(steps, start=1)],
        "confusion": scores and _confusion(scores, chosen, pictures),
        "classes": scores and _classes(scores),
        "mistakes": [_figure(image, pictures) for image in chosen.mistakes],
        "doubts": [_figure(image, pictures) for image in chosen.doubts],
        "has_maps": bool(pictures.maps),
        "has_predictions": bool(scored),
        "missing": _missing(run, chosen, pictures),
        "reliability": _reliability(run, scored) if scored else None,
        "data": _data(run),
        "cost": _cost(run, steps, history),
        "advice": run.advice,
        "compared": run.compared,
        "facts": _facts(run),
        "expectations": run.expectations,
        "recipe": _text_of(folder / "recipe.yaml").splitlines(),
        "run": str(folder),
    }


def _read_lines(file: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in _text_of(file).splitlines()]
    except ValueError as error:
        raise UsageError(f"is damaged ({error})", where=str(file), hint="Restore the file, or remove it.") from error


def _read_csv(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(_text_of(file).splitlines()))


def _text_of(file: Path) -> str:
    """The text of a file; empty if there is none, as in a run that has just begun."""
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot be read ({error})", where=str(file), hint="Restore the file.") from error


def percent(share: float, digits: int = 1) -> str:
    """A fraction, 0-1, as a percentage. Only exactly 1 is 100 %.

    >>> percent(0.8765), percent(1.0), percent(0.99999)
    ('87.7 %', '100 %', '99.9 %')
    """
    if share >= 1:
        return "100 %"
    return (
        f"{math.floor(min(round(100 * share, digits), 100 - 10**-digits) * 10**digits + 0.5) / 10**digits:.{digits}f} %"
    )


def _between(interval: Interval | None) -> str:
    return "" if interval is None else f"{100 * interval[0]:.1f}–{100 * interval[1]:.1f} %"


def _result(run: RunRecord, split: str | None) -> str:
    """The result in one sentence."""
    if split is None:
        if run.status != "complete":
            return f"The run is {run.status}; it has no scores."
        return "No images were set aside to score the classifier."
    scores = run.scores[split]
    hits = round(scores["accuracy"] * scores["count"])
    interval = _between(wilson(hits, scores["count"]))
    kind = "test images, which training never saw," if split == "test" else "validation images"
    text = f"{percent(scores['accuracy'])} of {scores['count']} {kind} are classified correctly"
    text += f" (95 % interval {interval})."
    if split == "val":
        text += " Training was steered by the same images, so new images may score lower."
    return text


def _tiles(run: RunRecord, split: str | None) -> list[tuple[str, str, str]]:
    """Name, number and remark of the main numbers."""
    tiles = []
    for name, title in (("test", "test accuracy"), ("val", "validation accuracy"), ("train", "training accuracy")):
        if scores := run.scores.get(name):
            hits, count = round(scores["accuracy"] * scores["count"]), scores["count"]
            remark = (
                plural(count, "image") if name == "train" else f"{hits} of {count}, {_between(wilson(hits, count))}"
            )
            tiles.append((title, percent(scores["accuracy"]), remark))
    if split:
        balanced = run.scores[split]["balanced_accuracy"]
        tiles.append(("balanced accuracy", percent(balanced), "mean recall of the classes"))
    images = sum(run.data["counts"].values())
    tiles.append(("images", str(images), f"{len(run.data['classes'])} classes"))
    if "total" in run.seconds:
        tiles.append(("time", duration(run.seconds["total"]), run.hardware["device"]))
    return tiles


def _step(number: int, step: Mapping[str, Any]) -> dict[str, Any]:
    groups = step["trained_groups"]
    names = ", ".join(groups) if len(groups) <= 2 else f"{groups[0]} … {groups[-1]} ({len(groups)} groups)"
    return {
        "number": number,
        "name": step["step"],
        "trained": f"head and {names}" if groups else "head",
        "parameters": compact(step["trainable_parameters"]),
        "epochs": step["epochs"],
        "loss": _change(step["loss_before"], step["val_loss"], 3),
        "accuracy": _change(step["accuracy_before"], step["val_accuracy"], 3),
        "confidence": "–" if step["confidence"] is None else f"{step['confidence']:.0%}",
        "kept": step["kept"],
        "reason": step["reason"],
        "seconds": duration(step["seconds"]),
        "from_cache": step["from_cache"],
    }


def _change(before: float | None, after: float | None, digits: int) -> str:
    if after is None:
        return "–"
    known = before is not None and abs(before - after) > 10**-digits / 2
    return f"{before:.{digits}f} → {after:.{digits}f}" if known else f"{after:.{digits}f}"


def _confusion(scores: Mapping[str, Any], chosen: ChosenImages, pictures: Illustrations) -> dict[str, Any]:
    """The confusion matrix, if there are few classes, and the pairs of classes with their images."""
    names, counts = scores["classes"], np.array(scores["confusion"])
    position = {name: index for index, name in enumerate(names)}
    has_matrix = len(names) <= MAX_MATRIX
    pairs = [_pair(pair, position, chosen, pictures, members) for pair, members in chosen.pairs.items()]
    shown = TOP_PAIRS if has_matrix else TOP_PAIRS_WITHOUT_MATRIX
    linked = {panel["id"]: panel for panel in pairs if panel["images"]}
    if has_matrix:
        hits = [_pair(pair, position, chosen, pictures, members) for pair, members in chosen.hits.items()]
        linked |= {panel["id"]: panel for panel in hits}
    return {
        "names": names,
        "rows": _matrix_rows(names, counts, linked) if has_matrix else [],
        "is_small": len(names) > SMALL_MATRIX,
        "top": pairs[:shown],
        "others": [panel for panel in linked.values() if panel not in pairs[:shown]] if has_matrix else [],
        "wrong": int(counts.sum() - np.trace(counts)),
    }


def _matrix_rows(names: Sequence[str], counts: np.ndarray, linked: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per true class; the heat of a cell is its share of the row, 0-100."""
    rows = []
    for i, (name, row) in enumerate(zip(names, counts, strict=True)):
        total = max(int(row.sum()), 1)
        cells = [
            {
                "count": int(count),
                "heat": round(100 * int(count) / total),
                "kind": "hit" if i == j else "miss",
                "link": f"pair-{i}-{j}" if f"pair-{i}-{j}" in linked else "",
                "predicted": names[j],
            }
            for j, count in enumerate(row)
        ]
        rows.append({"name": name, "cells": cells})
    return rows


def _pair(
    pair: Pair,
    position: Mapping[str, int],
    chosen: ChosenImages,
    pictures: Illustrations,
    members: Sequence[ScoredImage],
) -> dict[str, Any]:
    label, predicted = pair
    return {
        "id": f"pair-{position[label]}-{position[predicted]}",
        "label": label,
        "predicted": predicted,
        "is_hit": label == predicted,
        "count": chosen.counts[pair],
        "images": [_figure(image, pictures) for image in members],
    }


def _figure(image: ScoredImage, pictures: Illustrations) -> dict[str, Any]:
    return {
        "path": image.path,
        "label": image.label,
        "predicted": image.predicted,
        "is_hit": image.is_hit,
        "probability": percent(image.probability, 0 if image.probability < 0.99 else 1),
        "thumbnail": pictures.thumbnails.get(image.path, ""),
        "map": pictures.maps.get(image.path, ""),
        "missing": pictures.missing.get(image.path, ""),
    }


def _classes(scores: Mapping[str, Any]) -> dict[str, Any]:
    """One row per class, the lowest F1 first; classes without images last."""
    rows = []
    for index, row in enumerate(scores["per_class"]):
        hits = scores["confusion"][index][index]
        predicted = sum(line[index] for line in scores["confusion"])
        rows.append(
            {
                "name": row["name"],
                "support": row["support"],
                "measures": [
                    _measure(row["precision"], wilson(hits, predicted)),
                    _measure(row["recall"], wilson(hits, row["support"])),
                    _measure(row["f1"], f1_interval(hits, row["support"] + predicted - 2 * hits)),
                ],
                "order": (not row["support"], row["f1"]),
            }
        )
    rows.sort(key=lambda row: row["order"])
    return {"first": rows[:TOP_CLASSES], "others": rows[TOP_CLASSES:]}


def _measure(value: float, interval: Interval | None) -> dict[str, Any] | None:
    """A score with its interval in percent; None if it is undefined."""
    if interval is None:
        return None
    low, high = interval
    return {"text": f"{100 * value:.0f}", "range": f"{100 * low:.0f}–{100 * high:.0f}", "low": round(100 * low, 1),
            "width": round(100 * (high - low), 1), "at": round(100 * value, 1)}  # fmt: skip


def _missing(run: RunRecord, chosen: ChosenImages, pictures: Illustrations) -> str:
    """A sentence about images that the page cannot show; empty if it shows all."""
    if not pictures.missing:
        return ""
    path, reason = next(iter(pictures.missing.items()))
    share = f"{len(pictures.missing)} of {len(chosen.all)} images of this page cannot be shown"
    return f"{share}: {Path(run.data['path']) / path} is {reason}. The numbers are those of the run."


def _reliability(run: RunRecord, scored: Sequence[ScoredImage]) -> dict[str, Any]:
    hits = np.array([image.is_hit for image in scored])
    after = reliability(np.array([image.probability for image in scored]), hits)
    temperature = run.model.get("temperature")
    before = reliability(np.array([image.uncalibrated for image in scored]), hits) if temperature else None
    return {
        "chart": charts.reliability_chart(before, after),
        "after": percent(after.error),
        "before": percent(before.error) if before else None,
        "temperature": f"{temperature:.2f}" if temperature else None,
        "is_overconfident": bool(np.mean([image.probability for image in scored]) > hits.mean()),
    }


def _data(run: RunRecord) -> dict[str, Any]:
    """Images per class and split, the classes with the fewest training images first, and what was found."""
    per_class = run.data["per_class"]
    most = max((sum(counts.values()) for counts in per_class.values()), default=1)
    rows = [
        {"name": name, "counts": [counts[split] for split in ("train", "val", "test")],
         "widths": [round(100 * counts[split] / most, 2) for split in ("train", "val", "test")]}
        for name, counts in sorted(per_class.items(), key=lambda item: item[1]["train"])
    ]  # fmt: skip
    return {
        "path": str(run.data["path"]),
        "counts": [run.data["counts"][split] for split in ("train", "val", "test")],
        "first": rows[:TOP_CLASSES],
        "others": rows[TOP_CLASSES:],
        "warnings": run.warnings,
        "command": shlex.join(["tlcli", "check", str(run.data["path"])]),
    }


def _cost(
    run: RunRecord, steps: Sequence[Mapping[str, Any]], history: Sequence[Mapping[str, str]]
) -> list[dict[str, Any]]:
    """Seconds of each part of the run, and images per second of its epochs."""
    total, prefix = run.seconds.get("total", 0.0), run.seconds.get("prefix", 0.0)
    parts = [("frozen layers, computed once", prefix, None)]
    for step in steps:
        speeds = [float(row["images_per_second"]) for row in history if row["phase"] == step["step"]]
        seconds = 0.0 if step["from_cache"] else step["seconds"]
        name = f"{step['step']} (from the result cache)" if step["from_cache"] else step["step"]
        parts.append((name, seconds, sorted(speeds)[len(speeds) // 2] if speeds else None))
    # A step measures its own pass through the frozen layers, too, so the rest may be smaller than 0.
    rest = total - sum(seconds for _, seconds, _ in parts)
    parts.append(("reading images, scoring, saving", max(rest, 0.0), None))
    return [
        {"name": name, "seconds": duration(seconds), "width": round(100 * seconds / total, 1) if total else 0,
         "speed": f"{speed:.0f}" if speed else ""}
        for name, seconds, speed in parts
    ]  # fmt: skip


def _facts(run: RunRecord) -> dict[str, str]:
    model, versions = run.model, run.versions
    height, width = _size(run)
    facts = {
        "network": f"{model['name']}, {compact(model['parameters'])} parameters, input {height} × {width}",
        "weights": str(model.get("weights") or "random"),
        "licence of the weights": str(model.get("licence") or "not stated"),
        "recipe": f"{run.recipe['name']}, seed {run.seed}",
        "sha256 of the classifier": model.get("sha256"),
        "sha256 of the weights": model.get("weights_sha256"),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "device": ", ".join(
            str(run.hardware[name]) for name in ("device", "system", "machine") if name in run.hardware
        ),
    }
    return {name: text for name, text in facts.items() if text}
