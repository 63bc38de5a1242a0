"""Using a finished run: its classifier on its own test images, on another folder, or on single pictures."""

import csv
from collections.abc import Callable, Iterator, Sequence
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np

from tlcli.data import folder
from tlcli.errors import DataError, UsageError
from tlcli.evaluate import metrics
from tlcli.evaluate.predict import Prediction, predict, probabilities_of
from tlcli.evaluate.scores import Scores
from tlcli.model import classifier
from tlcli.model.classifier import Classifier
from tlcli.report import record
from tlcli.shown import counted

Progress = Callable[[int, int], None]


def load(run: Path) -> Classifier:
    """The classifier of a run folder, or of a `.keras` file that a run wrote.

    Raises:
        UsageError: If there is none, or the run is not complete.
        ModelError: If it is damaged, or not the one that the run wrote.
    """
    if run.is_file():
        return classifier.load(run)
    return classifier.load(record.classifier_file(run))


def evaluate(run: Path, data: Path | None, *, progress: Progress) -> tuple[Scores, str, str]:
    """Scores of a run on its own test split, or on `data`; in words, on what; and what to be warned of, or nothing.

    Raises:
        UsageError: If the run has no test split of its own.
        DataError: If images are missing, unreadable, or of other classes.
    """
    made = load(run)
    if data is not None:
        paths, labels, what = _images_of(data, made)
    else:
        paths, labels, what = _own_test(run, made)
    seen = _trained_on(run, paths) if data is not None else 0
    warning = f"the run was trained on {seen} of these {len(paths)} images: its scores on them are too good"
    found = probabilities_of(made, paths, progress=progress)
    return metrics.score(np.array(labels), found, made.classes), what, warning if seen else ""


def _trained_on(run: Path, paths: Sequence[Path]) -> int:
    """How many of these pictures a run has learnt from; a model file alone does not know."""
    if run.is_file():
        return 0
    with (run / "splits.csv").open(encoding="utf-8", newline="") as stream:
        learnt = {row["sha256"] for row in csv.DictReader(stream) if row["split"] == "train"}
    return sum(folder.content_hash(path) in learnt for path in paths)


def predict_all(run: Path, patterns: Sequence[str], *, top: int, progress: Progress) -> Iterator[Prediction]:
    """One prediction per picture among paths, folders and globs.

    Raises:
        DataError: If a pattern matches nothing.
    """
    made, paths = load(run), pictures(patterns)
    return predict(made, paths, top=min(top, len(made.classes)), progress=progress)


def pictures(patterns: Sequence[str]) -> list[Path]:
    """Files named by paths, folders (all pictures inside, sorted) and globs, each once, in order.

    Raises:
        DataError: If one of them names nothing.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        path = Path(pattern)
        if path.is_dir():
            inside = folder.images_under(path)
            if not inside:
                raise DataError("holds no pictures", where=pattern, hint="Name files, a folder of pictures, or a glob.")
            found |= dict.fromkeys(inside)
        elif path.exists():
            found[path] = None
        else:
            matches = [Path(match) for match in sorted(glob(pattern, recursive=True)) if Path(match).is_file()]
            if not matches:
                raise DataError(
                    "there is no such file", where=pattern, hint="Name files, a folder of pictures, or a glob."
                )
            found |= dict.fromkeys(matches)
    return list(found)


def _own_test(run: Path, made: Classifier) -> tuple[list[Path], list[int], str]:
    if run.is_file():
        raise UsageError(
            "a model file has no images of its own", where=str(run), hint="Name a folder of class folders, too."
        )
    root = Path(record.read(run).data["path"])
    with (run / "splits.csv").open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["split"] == "test"]
    if not rows:
        raise UsageError("the run has no test images", where=str(run), hint="Name a folder of class folders, too.")
    for row in rows:
        path = root / row["path"]
        if not path.is_file():
            raise DataError(
                "a test image of the run is gone", where=str(path), hint="Restore it, or name a folder to score on."
            )
        if folder.content_hash(path) != row["sha256"]:
            raise DataError(
                "a test image has changed since the run", where=str(path), hint="Restore it, or name a folder."
            )
    labels = [made.classes.index(row["label"]) for row in rows]
    return [root / row["path"] for row in rows], labels, f"{len(rows)} test images of {run}"


def _images_of(data: Path, made: Classifier) -> tuple[list[Path], list[int], str]:
    """All images of class folders; where there are train/, val/ and test/, those of test (or else val)."""
    index = folder.scan(data)
    if set(index.classes) != set(made.classes):
        extra, missing = sorted(set(index.classes) - set(made.classes)), sorted(set(made.classes) - set(index.classes))
        parts = [f"{what}: {', '.join(names)}" for what, names in (("unknown", extra), ("missing", missing)) if names]
        raise DataError(
            f"the classes are not the classifier's ({'; '.join(parts)})",
            where=str(data),
            hint=f"It knows: {', '.join(made.classes)}.",
        )
    held_out = next((split for split in ("test", "val") if split in index.given_splits), None)
    images = [image for image in index.images if image.given == held_out]
    labels = [made.classes.index(index.classes[image.label]) for image in images]
    return (
        [index.file(image) for image in images],
        labels,
        f"{counted(len(images), 'image')} of {data}" + (f"/{held_out}" if held_out else ""),
    )


def as_rows(predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    """The JSON shape of `tlcli predict --json`."""
    rows: list[dict[str, Any]] = []
    for each in predictions:
        if each.error is not None:
            rows.append({"path": each.path, "error": each.error})
        else:
            first = each.top[0]
            top = [{"label": guess.label, "probability": guess.probability} for guess in each.top]
            rows.append({"path": each.path, "label": first.label, "probability": first.probability, "top": top})
    return rows
