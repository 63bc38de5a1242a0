"""The page of `tlcli evaluate --html`: scores, confusions, and the images with wrong labels."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from tlcli.evaluate.evaluation import Evaluation
from tlcli.evaluate.reliability import wilson
from tlcli.paths import write_text
from tlcli.report import score_sections
from tlcli.report.pages import SIDE, render
from tlcli.report.predictions import ScoredImage
from tlcli.report.run_images import choose_images, illustrate, read_file
from tlcli.report.score_sections import between, percent
from tlcli.storage.location import locate
from tlcli.text import plural

# Images with wrong labels on the page.
MAX_MISTAKES = 48


def write_evaluation_page(evaluation: Evaluation, title: str, file: Path) -> None:
    """Write the page.

    Args:
        evaluation: The scores and the outcome for each image.
        title: Description of the images.
        file: The page.
    """
    scores = evaluation.to_json()
    scored = [
        ScoredImage(row["path"], row["label"], "", row["predicted"], row["probability"], row["probability"], "")
        for row in evaluation.rows
    ]
    wrong = sorted((image for image in scored if not image.is_hit), key=lambda image: -image.probability)
    chosen = replace(choose_images(scored), mistakes=wrong[:MAX_MISTAKES], doubts=[])
    pictures = illustrate(chosen, lambda image: read_file(locate(image.path), (SIDE, SIDE), "pad"), None)
    hits, count = len(scored) - len(wrong), len(scored)
    values = {
        "title": title,
        "result": f"{percent(hits / count)} of {plural(count, 'image')} are classified correctly"
        f" (95 % interval {between(wilson(hits, count))}).",
        "notes": _notes(evaluation),
        "tiles": _tiles(scores, hits, count),
        "confusion": score_sections.confusion(scores, chosen, pictures),
        "classes": score_sections.classes(scores),
        "mistakes": [score_sections.figure(image, pictures) for image in chosen.mistakes],
        "mistakes_text": f"{plural(len(wrong), 'image')}, the most confident first"
        + (f"; {MAX_MISTAKES} shown, --csv lists all" if len(wrong) > MAX_MISTAKES else ""),
    }
    write_text(file, render("evaluate.html", values))


def _notes(evaluation: Evaluation) -> list[str]:
    """What limits the scores."""
    notes = []
    if evaluation.trained:
        notes.append(f"The run was trained on {evaluation.trained} of these images: the scores are too high.")
    if evaluation.missing:
        notes.append(f"No images of {', '.join(evaluation.missing)}: these classes are not scored.")
    if evaluation.unreadable:
        path, reason = evaluation.unreadable[0]
        notes.append(f"{plural(len(evaluation.unreadable), 'file')} cannot be read, first {path} ({reason}).")
    return notes


def _tiles(scores: dict[str, Any], hits: int, count: int) -> list[tuple[str, str, str]]:
    """Name, number and remark of the main numbers."""
    tiles = [
        ("accuracy", percent(scores["accuracy"]), f"{hits} of {count}"),
        ("balanced accuracy", percent(scores["balanced_accuracy"]), "mean recall of the classes"),
        ("loss", f"{scores['loss']:.4f}", "cross-entropy"),
    ]
    top = [(f"top-{k}", percent(share), "the class is among them") for k, share in scores["top_k"].items()]
    return [*tiles, *top]
