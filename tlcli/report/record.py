"""The record of a run, and run.json, where it is stored."""

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
    # Both modules load Keras. Reading a record must not.
    from tlcli.train.depth_probe import DepthChoice
    from tlcli.train.session import Session

Status = Literal["complete", "interrupted", "failed"]
# The file with the candidates of a comparison, in its run folder.
COMPARISON = "compare.json"
LIBRARIES = ("keras", "tensorflow", "jax", "numpy", "pillow", "scikit-learn", "h5py")


@dataclass
class RunRecord:
    """The record of a run: the content of run.json.

    The status is `interrupted` from the start until the run is `complete` or `failed`, so it is right for a killed run.
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
    agreement: dict[str, Any] | None = None
    seconds: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    expectations: list[dict[str, Any]] = field(default_factory=list)
    advice: dict[str, Any] | None = None
    compared: list[dict[str, Any]] = field(default_factory=list)
    error: dict[str, str] | None = None
    schema: int = 1


def read(folder: Path) -> RunRecord:
    """Read the record of a run folder.

    Raises:
        UsageError: If the folder is not a run folder, or its record is damaged.
    """
    path = folder / "run.json"
    if not path.is_file():
        raise _no_record(folder)
    try:
        return RunRecord(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        hint = "Restore the file, or name model.keras in the same folder instead."
        raise UsageError(f"is damaged ({error})", where=str(path), hint=hint) from error


def _no_record(folder: Path) -> UsageError:
    """The error for a folder without run.json."""
    if (folder / COMPARISON).is_file():
        hint = f"Finish it with: tlcli finetune --resume {shlex.quote(str(folder))}"
        return UsageError("the comparison in this folder is not complete", where=str(folder), hint=hint)
    what = "is not a run folder: it has no run.json" if folder.exists() else "there is no such run"
    return UsageError(what, where=str(folder), hint="Name the run folder that `tlcli finetune` printed.")


def require_complete(folder: Path) -> None:
    """Check that a run is complete, so that its folder has a classifier.

    Raises:
        UsageError: If the folder is not a run folder, or the run is not complete.
    """
    status = read(folder).status
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
    if sha256 != read(folder).model.get("sha256"):
        raise ModelError(
            "is not the classifier that the run wrote: its sha256 differs from the one in run.json",
            where=str(file),
            hint="Restore it, or name the file instead of the folder.",
        )
    return file


def require_classifier(path: Path) -> None:
    """Check that a run folder has an unchanged classifier. A classifier file is checked when it is loaded.

    Raises:
        UsageError: If the folder is not a run folder, or the run is not complete.
        ModelError: If the classifier is missing or changed.
    """
    if not path.is_file():
        classifier_file(path)


def versions() -> dict[str, str]:
    """Versions of tlcli, Python and the installed libraries that affect results."""
    installed = {"tlcli": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed


def hardware(device: str) -> dict[str, Any]:
    """Device, processor type, operating system and number of CPUs. The name of the machine is left out."""
    return {"device": device, "machine": platform.machine(), "system": platform.system(), "cpus": os.cpu_count() or 1}


def now() -> str:
    """The current time in UTC, ISO 8601, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def write(folder: Path, run: RunRecord) -> None:
    """Write run.json into a run folder, by rename."""
    write_json(folder / "run.json", asdict(run))


def begin_record(
    plan: TrainPlan, device: str, *, notices: Sequence[str] = (), depth: "DepthChoice | None" = None
) -> RunRecord:
    """The record of a run before training.

    Args:
        plan: The plan of the run.
        device: Name of the device, such as `cpu:0`.
        notices: Notices about the choice of the network.
        depth: The result of the depth search, if there was one.
    """
    planned = plan.to_json()
    model = {"card": plan.card.model_dump(mode="json"), "groups": list(plan.groups.names)}
    return RunRecord(
        status="interrupted",
        recipe=planned["recipe"],
        model=planned["model"] | model | ({"depth_search": depth.to_json()} if depth else {}),
        data=planned["data"],
        seed=plan.recipe.seed,
        started=now(),
        versions=versions(),
        hardware=hardware(device),
        warnings=[*notices, *plan.splits.warnings],
    )


def carry_over(run: RunRecord, before: RunRecord, *, taken_s: float) -> None:
    """Carry start time, elapsed time, warnings and weights of an interrupted run over to its resumption.

    Args:
        run: The record of the resumed run.
        before: The record of the interrupted run.
        taken_s: Seconds that the run had taken at the checkpoint. A killed run did not record its time.
    """
    run.started = before.started
    run.seconds = {"total": max(before.seconds.get("total", 0.0), round(taken_s, 2))}
    run.warnings = list(dict.fromkeys([*before.warnings, *run.warnings]))
    kept = ("weights", "weights_sha256", "restored", "depth_search")
    run.model |= {key: before.model[key] for key in kept if key in before.model}


def close_record(run: RunRecord, session: "Session") -> None:
    """Record decisions, seconds and precision of a finished session."""
    run.phases = [{"name": outcome.step.name, **policy.record(outcome)} for outcome in session.outcomes]
    run.seconds["prefix"] = round(session.prefix_s, 2)
    run.seconds["phases"] = [round(outcome.seconds, 2) for outcome in session.outcomes]
    run.hardware["precision"] = {"asked": session.recipe.performance.precision, "measured": session.precisions}
