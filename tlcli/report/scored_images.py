"""The images that a run is scored on afterwards, and whether it was trained on them."""

from collections.abc import Sequence
from pathlib import Path

from tlcli.data.hashes import content_hash
from tlcli.data.manifest import home_of
from tlcli.errors import DataError, UsageError
from tlcli.evaluate.runtimes import is_run
from tlcli.report import record
from tlcli.report.folder import read_splits
from tlcli.storage.location import join, locate


def own_images(
    run: Path, classes: Sequence[str], split: str, *, instead: str = "name a folder to score on"
) -> tuple[list[Path], list[int]]:
    """Paths and labels of a split of a run.

    Args:
        run: A run folder; a model file or bundle is an error, because it has no images.
        classes: The classes of its classifier.
        split: train, val or test.
        instead: What else the user can do if an image is missing or changed.

    Raises:
        UsageError: The run has no such images.
        DataError: One of them is missing or has changed since the run.
    """
    hint = "Name a folder of class folders as well."
    if not is_run(run):
        raise UsageError(f"a model without its run has no {split} images", where=str(run), hint=hint)
    rows = read_splits(run, split)
    if not rows:
        raise UsageError(f"the run has no {split} images", where=str(run), hint=hint)
    root = home_of(locate(record.read(run).data["path"]))
    for row in rows:
        path = join(root, row["path"])
        hint = f"Restore the file, or {instead}."
        if not path.is_file():
            raise DataError(f"a {split} image of the run is missing", where=str(path), hint=hint)
        if content_hash(path) != row["sha256"]:
            raise DataError(f"a {split} image has changed since the run", where=str(path), hint=hint)
    return [join(root, row["path"]) for row in rows], [list(classes).index(row["label"]) for row in rows]


def count_trained(run: Path, paths: Sequence[Path]) -> int:
    """The number of these images that the run was trained on; 0 for a model file, which has no record of them."""
    trained = set() if not is_run(run) else {row["sha256"] for row in read_splits(run, "train")}
    return sum(content_hash(path) in trained for path in paths) if trained else 0
