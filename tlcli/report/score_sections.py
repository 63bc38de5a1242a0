"""The parts of a run's page about its scores: confusions, classes, images, reliability."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tlcli.evaluate.reliability import Interval, f1_interval, reliability, wilson
from tlcli.report import charts
from tlcli.report.predictions import ScoredImage
from tlcli.report.record import RunRecord
from tlcli.report.run_images import ChosenImages, Illustrations, Pair

# With more classes than this, pairs of classes are listed instead of a matrix.
MAX_MATRIX = 100
# Cells of a matrix with more classes are small.
SMALL_MATRIX = 24
# Pairs of classes that are listed with their images, and classes that are listed before the others are folded away.
TOP_PAIRS, TOP_PAIRS_WITHOUT_MATRIX, TOP_CLASSES = 3, 20, 30


def percent(share: float, digits: int = 1) -> str:
    """A fraction, 0-1, as a percentage. Only exactly 1 is 100 %.

    >>> percent(0.8771), percent(1.0), percent(0.99999)
    ('87.7 %', '100 %', '99.9 %')
    """
    if share >= 1:
        return "100 %"
    return (
        f"{math.floor(min(round(100 * share, digits), 100 - 10**-digits) * 10**digits + 0.5) / 10**digits:.{digits}f} %"
    )


def between(interval: Interval | None) -> str:
    """An interval in percent; empty for None."""
    return "" if interval is None else f"{100 * interval[0]:.1f}–{100 * interval[1]:.1f} %"


def confusion(scores: Mapping[str, Any], chosen: ChosenImages, pictures: Illustrations) -> dict[str, Any]:
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
        "images": [figure(image, pictures) for image in members],
    }


def figure(image: ScoredImage, pictures: Illustrations) -> dict[str, Any]:
    """Template values of an image."""
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


def classes(scores: Mapping[str, Any]) -> dict[str, Any]:
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
                    measure(row["precision"], wilson(hits, predicted)),
                    measure(row["recall"], wilson(hits, row["support"])),
                    measure(row["f1"], f1_interval(hits, row["support"] + predicted - 2 * hits)),
                ],
                "order": (not row["support"], row["f1"]),
            }
        )
    rows.sort(key=lambda row: row["order"])
    return {"first": rows[:TOP_CLASSES], "others": rows[TOP_CLASSES:]}


def measure(value: float, interval: Interval | None, *, digits: int = 0) -> dict[str, Any] | None:
    """A score with its interval in percent; None if it is undefined."""
    if interval is None:
        return None
    low, high = (100 * end for end in interval)
    return {
        "text": f"{100 * value:.{digits}f}",
        "range": f"{low:.{digits}f}–{high:.{digits}f}",
        "low": round(low, 1),
        "width": round(high - low, 1),
        "at": round(100 * value, 1),
    }


def reliability_section(run: RunRecord, scored: Sequence[ScoredImage]) -> dict[str, Any]:
    """How well the confidence of the scored images, at least one, agrees with their hits."""
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
