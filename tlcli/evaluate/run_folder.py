"""The classifier of a run folder, found and checked without reading the whole record."""

import hashlib
import json
import shlex
from pathlib import Path
from typing import Any

from tlcli.errors import ModelError, UsageError
from tlcli.text import why_unreadable

RECORD = "run.json"
# The file with the candidates of a comparison, in its run folder.
COMPARISON = "compare.json"
# The file that the folder of a search has.
SEARCH = "tune.json"
# The file that a bundle has.
BUNDLE_CARD = "card.json"


def read_json(folder: Path) -> dict[str, Any]:
    """The content of run.json.

    Raises:
        UsageError: If the folder is not a run folder, or its record is damaged.
    """
    path = folder / RECORD
    if not path.is_file():
        raise _no_record(folder)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise damaged(folder, error) from error
    if not isinstance(content, dict) or not isinstance(content.get("model", {}), dict):
        raise damaged(folder, "not a record")
    return content


def damaged(folder: Path, reason: Exception | str) -> UsageError:
    """The error for a damaged run.json."""
    hint = "Restore the file, or name model.keras in the same folder instead."
    why = reason if isinstance(reason, str) else why_unreadable(reason)
    return UsageError(f"is damaged ({why})", where=str(folder / RECORD), hint=hint)


def _no_record(folder: Path) -> UsageError:
    """The error for a folder without run.json."""
    if (folder / COMPARISON).is_file():
        hint = f"Finish it with: tlcli finetune --resume {shlex.quote(str(folder))}"
        return UsageError("the comparison in this folder is not complete", where=str(folder), hint=hint)
    if (folder / SEARCH).is_file():
        best, quoted = folder / "best", shlex.quote(str(folder))
        if (best / RECORD).is_file():
            hint = f"Name the run of its best recipe: {shlex.quote(str(best))}."
        else:
            hint = f"Finish it with: tlcli tune --resume {quoted}"
        return UsageError("is the folder of a search, not of a run", where=str(folder), hint=hint)
    if (folder / BUNDLE_CARD).is_file():
        hint = "Name the run folder that it was made from."
        return UsageError("is a bundle of `tlcli export`, not a run", where=str(folder), hint=hint)
    what = "is not a run folder: it has no run.json" if folder.exists() else "there is no such run"
    return UsageError(what, where=str(folder), hint="Name the run folder that `tlcli finetune` printed.")


def require_complete(folder: Path) -> None:
    """Check that a run is complete, so that its folder has a classifier.

    Raises:
        UsageError: If the folder is not a run folder, or the run is not complete.
    """
    status = read_json(folder).get("status")
    if status != "complete":
        resume = f"tlcli finetune --resume {shlex.quote(str(folder))}"
        hint = f"Finish it with: {resume}" if status == "interrupted" else "Start it again."
        raise UsageError(f"the run is {status}, it has no classifier yet", where=str(folder), hint=hint)


def classifier_file(folder: Path) -> Path:
    """The classifier file of a complete run, checked against its recorded sha256.

    Raises:
        UsageError: If the folder is not a run folder, or the run is not complete.
        ModelError: If the file is missing or changed.
    """
    require_complete(folder)
    file = folder / "model.keras"
    if not file.is_file():
        raise ModelError("the run's classifier is missing", where=str(file), hint="Restore the file.")
    with file.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    if sha256 != read_json(folder).get("model", {}).get("sha256"):
        raise ModelError(
            "is not the classifier that the run wrote: its sha256 differs from the one in run.json",
            where=str(file),
            hint="Restore it, or name the file instead of the folder.",
        )
    return file
