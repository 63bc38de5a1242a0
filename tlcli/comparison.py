"""Several recipes on the same images, one after the other; the best of them becomes the run folder."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import keras

from tlcli import run
from tlcli.candidates import Candidates
from tlcli.errors import RunError
from tlcli.paths import replacing, write_json
from tlcli.prepare import Settled, check_first, input_size
from tlcli.report import advice, compare, record
from tlcli.report.record import RunRecord
from tlcli.train.events import Event, FolderMade, Noticed, Observer


def run_all(candidates: Candidates, first: Settled, observe: Observer) -> tuple[Path, RunRecord]:
    """Run every candidate that has not run to its end, and make the best one the run folder.

    One that fails in training is told and left out; the others go on.

    Args:
        candidates: What is compared; their folder must be there.
        first: The first of them; where its images are being read already, the others use that.
        observe: Told of every run.

    Raises:
        TlcliError: If something is wrong with the images or the machine, or every candidate failed.
    """
    observe(FolderMade(str(candidates.out)))
    failed: dict[str, RunError] = {}
    told: set[str] = set()
    for number, name in enumerate(candidates.names, start=1):
        if candidates.is_complete(name):
            continue
        observe(Noticed(f"recipe {number} of {len(candidates.names)}: {name}"))
        # Names of layers are counted through the whole process, and graphs of former runs are kept until then.
        keras.backend.clear_session()
        request = candidates.request(name)
        settled = check_first(request)
        if input_size(settled.recipe) == input_size(first.recipe):
            settled = replace(settled, reading=first.reading)
        try:
            run.finetune(request, settled, _Quiet(observe, told))
        except RunError as error:
            failed[name] = error
            observe(Noticed(f"{name} failed: {error}", is_warning=True))
    done = [candidates.folder(name) for name in candidates.names if candidates.is_complete(name)]
    if not done:
        raise next(iter(failed.values()))
    return candidates.out, _kept(candidates.out, done)


def _kept(out: Path, runs: Sequence[Path]) -> RunRecord:
    """The best run's files as those of the run folder, its record with all runs in it last."""
    table = compare.side_by_side(runs)
    chosen = runs[compare.best(table["runs"])]
    for path in chosen.iterdir():
        if path.is_file() and path.name not in (".lock", "run.json"):
            with replacing(out / path.name) as temporary:
                _same_file(path, temporary)
    note = record.read(chosen)
    note.compared = table["runs"]
    note.advice = advice.less(note.advice, [row["recipe"] for row in table["runs"]])
    write_json(out / "run.json", asdict(note))
    return note


def _same_file(path: Path, target: Path) -> None:
    """A second name for a file, which nothing changes any more; a copy where the disk has no second names."""
    target.unlink(missing_ok=True)
    try:
        os.link(path, target)
    except OSError:
        shutil.copyfile(path, target)


class _Quiet:
    """Passes on what happens in one of several runs, but for what others said of the images, and for its folder.

    It is the comparison that can be resumed.
    """

    def __init__(self, observe: Observer, told: set[str]) -> None:
        self.observe, self.told = observe, told
        self.is_prepared = False

    def __call__(self, event: Event) -> None:
        """Pass on one event."""
        if isinstance(event, FolderMade):
            self.is_prepared = True
            return
        if isinstance(event, Noticed) and not self.is_prepared:
            if event.message in self.told:
                return
            self.told.add(event.message)
        self.observe(event)
