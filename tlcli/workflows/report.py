"""Report: write the page of a run, or a page that compares runs."""

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from tlcli.errors import UsageError
from tlcli.evaluate.run_folder import classifier_file
from tlcli.paths import require_new_file
from tlcli.report import record
from tlcli.report.comparison import choose_complete
from tlcli.report.comparison_page import write_comparison_page
from tlcli.report.run_page import FILE, write_run_page

# The page that compares several runs, in the current folder.
COMPARISON = Path("comparison.html")


def report(runs: Sequence[Path], out: Path | None, *, loading: AbstractContextManager[None]) -> dict[str, Any]:
    """Write the page of one run, complete or not, or a comparison of several complete runs.

    Args:
        runs: Run folders.
        out: The page. None: report.html in the run folder, which is replaced, or comparison.html.
        loading: The context in which Keras is imported, for the maps of one run.

    Returns:
        The JSON shape of `tlcli report --json`: the file, its bytes, the seconds that it took, and with reasons the
        paths of images that the page of one run cannot show, and which of several folders are not complete runs.

    Raises:
        UsageError: If a folder is not a run folder, a file in it is damaged, or fewer than two of several are complete.
        ModelError: If the classifier of a complete run is missing or changed.
        OutputError: If the page cannot be written.
    """
    began, missing, skipped = time.perf_counter(), dict[str, str](), dict[str, str]()
    if len(runs) > 1:
        runs, skipped = choose_complete(runs)
    for run in runs:
        record.read(run)
    if len(set(runs)) < len(runs):
        raise UsageError("a run is named twice", where="RUN", hint="Name each run once.")
    file = out or (runs[0] / FILE if len(runs) == 1 else COMPARISON)
    if out is not None or len(runs) > 1:
        require_new_file(file, "--out")
    if len(runs) == 1:
        missing = _write_one(runs[0], file, loading)
    else:
        write_comparison_page(runs, file)
    seconds = round(time.perf_counter() - began, 2)
    found = {"file": file.as_posix(), "bytes": file.stat().st_size, "seconds": seconds}
    return found | {"missing": missing, "skipped": skipped}


def _write_one(run: Path, file: Path, loading: AbstractContextManager[None]) -> dict[str, str]:
    """Write the page of one run. Returns the images without a thumbnail, path to reason."""
    classifier = None
    if record.read(run).status == "complete":
        path = classifier_file(run)
        with loading:
            from tlcli.model.classifier import load
        classifier = load(path)
    return write_run_page(run, file=file, classifier=classifier).missing
