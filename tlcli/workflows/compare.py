"""Compare: put finished runs side by side. Keras is not loaded."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tlcli.report import record
from tlcli.report.comparison import choose_complete, side_by_side


def compare(runs: Sequence[Path]) -> dict[str, Any]:
    """The scores and differences of finished runs, as JSON values.

    Args:
        runs: Run folders. A single run that is the result of a comparison stands for all runs of that comparison. Of
            several folders, those that are not complete runs are left out.

    Raises:
        UsageError: If a folder does not exist or is damaged, or fewer than two of several are complete runs.
    """
    if len(runs) == 1 and (rows := record.read(runs[0]).compared):
        # The run folder may have moved since. The compared runs are still inside.
        parent = runs[0] / Path(rows[0]["run"]).parent.name
        runs = [parent / Path(row["run"]).name for row in rows]
    runs, skipped = choose_complete(runs)
    return side_by_side(runs) | {"skipped": skipped}
