"""The page of a run that has just finished, made with what is still in memory."""

from pathlib import Path

import numpy as np

from tlcli.errors import TlcliError
from tlcli.report.predictions import ScoredImage
from tlcli.report.run_page import write_run_page
from tlcli.train.events import Noticed
from tlcli.train.preparation import Prepared
from tlcli.train.session import Session


def session_report(session: Session, prepared: Prepared, folder: Path) -> None:
    """Write report.html into the folder of a complete run, unless its recipe says otherwise.

    The run is complete without it, so a failure is a warning. `tlcli report` makes the page later.
    """
    if not session.recipe.report:
        return
    rows = prepared.pixels.rows

    def read(image: ScoredImage) -> np.ndarray | str:
        return np.array(prepared.pixels.array[rows[image.sha256]])

    try:
        write_run_page(folder, classifier=session.classifier, read=read)
    except (TlcliError, OSError) as error:
        session.observe(Noticed(f"report.html was not written: {error}", is_warning=True))
