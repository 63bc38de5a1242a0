"""RunRecord ⇄ run.json: what happened in a run."""

import hashlib
import json
import os
import platform
import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tlcli import __version__
from tlcli.errors import ModelError, UsageError
from tlcli.paths import write_json
from tlcli.train import policy
from tlcli.train.plan import TrainPlan

if TYPE_CHECKING:
    # Only named: both load Keras, and a record is read without it.
    from tlcli.train.depth_probe import DepthChoice
    from tlcli.train.session import Session

Status = Literal["complete", "interrupted", "failed"]
# The list of recipes in the folder of a comparison.
COMPARISON = "compare.json"
_GIVE = "Give the run folder that `tlcli finetune` printed."
LIBRARIES = ("keras", "tensorflow", "jax", "numpy", "pillow", "scikit-learn", "h5py")


@dataclass
class RunRecord:
    """What happened in a run; the content of run.json.

    A run is `interrupted` from its first moment until it is `complete` or `failed`, so that a killed one says so.
    """

    status: Status
    recipe: dict[str, Any]
    model: dict[str, Any]
    data: dict[str, Any]
    seed: int
    started: str
    versions: dict[str, str]
    hardware: dict[str, Any]
    phases: list[dict[str, Any]] = field(default_factory=list)
    scores: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    expectations: list[dict[str, Any]] = field(default_factory=list)
    advice: dict[str, Any] | None = None
    compared: list[dict[str, Any]] = field(default_factory=list)
    error: dict[str, str] | None = None
    schema: int = 1


def read(run: Path) -> RunRecord:
    """The record of a run folder.

    Raises:
        UsageError: If the folder is no run, or its record is damaged.
    """
    path = run / "run.json"
    if not path.is_file():
        if (run / COMPARISON).is_file():
            hint = f"Finish it with: tlcli finetune --resume {shlex.quote(str(run))}"
            raise UsageError("the comparison in this folder has not ended", where=str(run), hint=hint)
        if not run.exists():
            raise UsageError("there is no such run", where=str(run), hint=_GIVE)
        raise UsageError(
            "is not a run folder: it has no run.json", where=str(run), hint="Give the folder that --out named."
        )
    try:
        return RunRecord(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        hint = "Restore the file. The classifier beside it can be used by itself: name model.keras."
        raise UsageError(f"is damaged ({error})", where=str(path), hint=hint) from error


def require_complete(run: Path) -> None:
    """Refuse a run folder without a finished classifier.

    Raises:
        UsageError: If there is no such folder, it is no run, or the run is not complete.
    """
    status = read(run).status
    if status != "complete":
        resume = f"tlcli finetune --resume {shlex.quote(str(run))}"
        hint = f"Finish it with: {resume}" if status == "interrupted" else "Start it again."
        raise UsageError(f"the run is {status}, it has no classifier yet", where=str(run), hint=hint)


def classifier_file(run: Path) -> Path:
    """The classifier that a run wrote.

    Raises:
        UsageError: If there is no such folder, it is no run, or the run is not complete.
        ModelError: If the file is gone, or another one now.
    """
    require_complete(run)
    file = run / "model.keras"
    if not file.is_file():
        raise ModelError("the run's classifier is gone", where=str(file), hint="Restore the file.")
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != read(run).model.get("sha256"):
        raise ModelError(
            "is not the classifier that the run wrote, by the sha256 in run.json",
            where=str(file),
            hint="Restore it, or name the file itself instead of the folder.",
        )
    return file


def require_classifier(path: Path) -> None:
    """Check that a run folder has a finished, unchanged classifier. A file is checked when it is loaded.

    Raises:
        UsageError: If there is no such run, or it is not complete.
        ModelError: If its classifier is missing or was changed.
    """
    if not path.is_file():
        classifier_file(path)


def versions() -> dict[str, str]:
    """Versions of this program, Python and the libraries that decide numbers."""
    found = {"tlcli": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def hardware(device: str) -> dict[str, Any]:
    """The machine in words, without its name."""
    return {"device": device, "machine": platform.machine(), "system": platform.system(), "cpus": os.cpu_count() or 1}


def now() -> str:
    """UTC, ISO 8601, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def write(path: Path, run: RunRecord) -> None:
    """Write run.json into the run folder `path`, by rename."""
    write_json(path / "run.json", asdict(run))


def begin_record(
    plan: TrainPlan, device: str, *, notices: Sequence[str] = (), depth: "DepthChoice | None" = None
) -> RunRecord:
    """The record of a run before anything is trained.

    Args:
        plan: What the run will do.
        device: Where it computes.
        notices: What the user was told about the choice of the network.
        depth: The result of the depth search, if there was one.
    """
    described = plan.to_json()
    model = {"card": plan.card.model_dump(mode="json"), "groups": list(plan.groups.names)}
    return RunRecord(
        status="interrupted",
        recipe=described["recipe"],
        model=described["model"] | model | ({"depth_search": depth.to_json()} if depth else {}),
        data=described["data"],
        seed=plan.recipe.seed,
        started=now(),
        versions=versions(),
        hardware=hardware(device),
        warnings=[*notices, *plan.splits.warnings],
    )


def carry_over(run: RunRecord, before: RunRecord, *, taken_s: float) -> None:
    """Take over what an interrupted run had recorded.

    Args:
        run: The record of the resumed run.
        before: The record of the interrupted run.
        taken_s: Seconds taken by the time of the checkpoint. A killed run did not record its own.
    """
    run.started = before.started
    run.seconds = {"total": max(before.seconds.get("total", 0.0), round(taken_s, 2))}
    run.warnings = list(dict.fromkeys([*before.warnings, *run.warnings]))
    kept = ("weights", "weights_sha256", "depth_search")
    run.model |= {key: before.model[key] for key in kept if key in before.model}


def close_record(run: RunRecord, session: "Session") -> None:
    """Record the steps of a finished session: decisions, seconds, precision."""
    run.phases = [{"name": outcome.step.name, **policy.record(outcome)} for outcome in session.outcomes]
    run.seconds["prefix"] = round(session.prefix_s, 2)
    run.seconds["phases"] = [round(outcome.seconds, 2) for outcome in session.outcomes]
    asked = session.recipe.performance.precision
    run.hardware["precision"] = {"asked": asked, "measured": session.precisions}
