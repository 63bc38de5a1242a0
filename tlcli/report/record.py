"""The record of a run, and run.json, where it is stored."""

import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import TypeAdapter, ValidationError

from tlcli import __version__
from tlcli.evaluate.run_folder import damaged, read_json
from tlcli.model.metadata import TrainingFacts
from tlcli.model.sparsity import NEAR_ZERO, share_below
from tlcli.paths import write_json
from tlcli.recipe import wording
from tlcli.train import policy
from tlcli.train.plan import TrainPlan

if TYPE_CHECKING:
    # Both modules load Keras. Reading a record must not.
    from tlcli.train.depth_probe import DepthChoice
    from tlcli.train.session import Session

Status = Literal["complete", "interrupted", "failed"]
LIBRARIES = ("keras", "tensorflow", "jax", "numpy", "pillow", "scikit-learn", "h5py")
# Keys that are read of every run.
_NEEDED = {"recipe": ("name",), "model": ("name",), "data": ("path", "classes", "counts")}


@dataclass
class RunRecord:
    """The record of a run: the content of run.json.

    The status is `interrupted` from the start until the run is `complete` or `failed`, so it is right for a killed run.

    Attributes:
        status: `complete`, `interrupted` or `failed`.
        recipe: The recipe with every key, as `recipe.yaml` holds it.
        model: The network: source, weights, licence, size, hashes.
        data: The images: folder, classes, numbers by split and class.
        seed: The seed of all random numbers.
        started: When the run started, UTC, ISO 8601.
        versions: Versions of tlcli, Python and libraries.
        hardware: Device, processor, system and precision.
        phases: One entry per step, in their order: what was trained, and whether it was kept.
        scores: Scores by split: `train`, `val` and `test`.
        agreement: How far whole images change the answers, or null before the run is scored.
        seconds: Where the time went.
        warnings: Notices about the network and the images.
        expectations: What the recipe expects, and what was measured.
        baseline: Numbers of an earlier run that expectations compare with.
        advice: A diagnosis and commands to try next, or null.
        compared: After `--compare`, one entry per recipe.
        lr_ranges: Curves of range tests (`lr: find`) by phase.
        error: Kind, message and hint of the error that ended the run, or null.
        schema: The version of this format.
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
    baseline: dict[str, Any] = field(default_factory=dict)
    advice: dict[str, Any] | None = None
    compared: list[dict[str, Any]] = field(default_factory=list)
    lr_ranges: dict[str, dict[str, Any]] = field(default_factory=dict)
    error: dict[str, str] | None = None
    schema: int = 1


def read(folder: Path) -> RunRecord:
    """Read the record of a run folder.

    Raises:
        UsageError: If the folder is not a run folder, or its record is damaged.
    """
    content = read_json(folder)
    try:
        RunRecord(**content)
        run = TypeAdapter(RunRecord).validate_python(content)
    except TypeError as error:
        raise damaged(folder, error) from error
    except ValidationError as error:
        raise damaged(folder, wording.problem(error.errors()[0])) from error
    needed = _NEEDED | ({"seconds": ("total",)} if run.status == "complete" else {})
    places = ((section, key) for section, keys in needed.items() for key in keys)
    if missing := next((place for place in places if place[1] not in getattr(run, place[0])), None):
        raise damaged(folder, f"it has no {'.'.join(missing)}")
    return run


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
    plan: TrainPlan,
    device: str,
    *,
    notices: Sequence[str] = (),
    depth: "DepthChoice | None" = None,
    baseline: dict[str, Any] | None = None,
) -> RunRecord:
    """The record of a run before training.

    Args:
        plan: The plan of the run.
        device: Name of the device, such as `cpu:0`.
        notices: Notices about the choice of the network.
        depth: The result of the depth search, if there was one.
        baseline: Numbers that the expectations compare with.
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
        baseline=baseline or {},
    )


def training_facts(run: RunRecord) -> TrainingFacts:
    """What the classifier file of a scored run states about its training."""
    kept = ("accuracy", "loss", "count")
    return TrainingFacts(
        model=run.model["name"],
        licence=run.model.get("licence"),
        data=Path(run.data["path"]).name if run.data["path"] else None,
        images=run.data["counts"],
        recipe=run.recipe["name"],
        seed=run.seed,
        started=run.started,
        scores={split: {key: values[key] for key in kept} for split, values in run.scores.items()},
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
    kept = ("weights", "weights_sha256", "restored", "depth_search", "chosen_from")
    run.model |= {key: before.model[key] for key in kept if key in before.model}


def close_record(run: RunRecord, session: "Session") -> None:
    """Record decisions, seconds and precision of a finished session."""
    run.phases = [{"name": outcome.step.name, **policy.record(outcome)} for outcome in session.outcomes]
    run.seconds["prefix"] = round(session.prefix_s, 2)
    run.seconds["phases"] = [round(outcome.seconds, 2) for outcome in session.outcomes]
    if session.recipe.head.l1 or session.recipe.optimizer.l1:
        layers = {"head": session.classifier.head_layers, "all": session.classifier.model.layers}
        shares = {name: round(share_below(part, NEAR_ZERO), 4) for name, part in layers.items()}
        run.model["sparsity"] = {"threshold": NEAR_ZERO, **shares}
    run.lr_ranges = {name: asdict(found) for name, found in session.lr_ranges.items()}
    run.hardware["precision"] = {"asked": session.recipe.performance.precision, "measured": session.precisions}
