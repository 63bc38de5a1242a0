"""The page of `tlcli evaluate --html`: scores, confusions, and the images with wrong labels."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tlcli.paths import write_text
from tlcli.report.pages import render, thumbnails
from tlcli.text import plural

# Images with wrong labels on the page, and classes up to which it shows the confusion matrix.
MAX_MISTAKES = 48
MAX_CLASSES = 40


def write_evaluation_page(scores: dict[str, Any], title: str, rows: Sequence[dict[str, Any]], file: Path) -> None:
    """Write the page.

    Args:
        scores: The JSON shape of `tlcli evaluate --json`.
        title: Description of the images.
        rows: `path`, `label`, `predicted`, `probability` and `correct` of each image.
        file: The page.
    """
    wrong = sorted((row for row in rows if not row["correct"]), key=lambda row: -row["probability"])
    shown = wrong[:MAX_MISTAKES]
    pictures = thumbnails(Path(), [row["path"] for row in shown])
    values = scores | {
        "title": title,
        "matrix": _matrix(scores) if len(scores["classes"]) <= MAX_CLASSES else [],
        "mistakes": [row | {"thumbnail": pictures[row["path"]]} for row in shown],
        "mistakes_text": f"{plural(len(wrong), 'image')}, the most confident first"
        + (f"; {len(shown)} shown, --csv lists all" if len(wrong) > len(shown) else ""),
    }
    write_text(file, render("evaluate.html", values))


def _matrix(scores: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of the confusion matrix; a cell is as dark as its share of the row."""
    return [
        {
            "name": name,
            "cells": [
                {
                    "count": count,
                    "kind": "right" if i == j else "wrong",
                    "shade": round(0.1 + 0.4 * count / max(sum(row), 1), 2),
                }
                for j, count in enumerate(row)
            ],
        }
        for i, (name, row) in enumerate(zip(scores["classes"], scores["confusion"], strict=True))
    ]
