"""The parts of a run's page about the run: steps, data, cost, facts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tlcli.report.advice import image_command
from tlcli.report.record import RunRecord
from tlcli.text import compact, duration, whole_percent

# Classes that are listed before the others are folded away.
TOP_CLASSES = 30
_UNKNOWN = "–"


def step(number: int, step: Mapping[str, Any]) -> dict[str, Any]:
    """Template values of a line of phases.jsonl."""
    groups = step["trained_groups"]
    names = (
        ", ".join(groups or ())
        if groups is None or len(groups) <= 2
        else f"{groups[0]} … {groups[-1]} ({len(groups)} groups)"
    )
    return {
        "number": number,
        "name": step["step"],
        "trained": _UNKNOWN if groups is None else f"head and {names}" if groups else "head",
        "parameters": _UNKNOWN if groups is None else compact(step["trainable_parameters"]),
        "epochs": step["epochs"],
        "loss": _change(step["loss_before"], step["val_loss"], 3),
        "accuracy": _change(step["accuracy_before"], step["val_accuracy"], 3),
        "confidence": _UNKNOWN if step["confidence"] is None else whole_percent(step["confidence"]),
        "kept": step["kept"],
        # The decision is shown beside it.
        "reason": step["reason"].removeprefix("kept: ").removeprefix("rolled back: "),
        "seconds": duration(step["seconds"]),
        "from_cache": step["from_cache"],
    }


def unfinished(steps: Sequence[Mapping[str, Any]], history: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Steps that an interrupted run did not finish, by their epochs so far, in the shape of a line of phases.jsonl.

    What only a finished step tells is None.
    """
    done = {step["step"] for step in steps}
    nothing = ("trained_groups", "trainable_parameters", "loss_before", "accuracy_before", "val_loss", "val_accuracy")
    found = []
    for name in dict.fromkeys(row["phase"] for row in history if row["phase"] not in done):
        rows = [row for row in history if row["phase"] == name]
        known = {"step": name, "epochs": len(rows), "seconds": sum(float(row["seconds"]) for row in rows)}
        empty = dict.fromkeys((*nothing, "confidence", "kept"))
        found.append({**empty, **known, "reason": "", "from_cache": False})
    return found


def is_augmented(run: RunRecord) -> bool:
    """True if the training images of a run were changed at random."""
    spec = run.recipe["augment"]
    others = ("preset", "views", "label_smoothing")
    return spec["preset"] != "none" or any(value for key, value in spec.items() if key not in others)


def _change(before: float | None, after: float | None, digits: int) -> str:
    if after is None:
        return _UNKNOWN
    known = before is not None and abs(before - after) > 10**-digits / 2
    return f"{before:.{digits}f} → {after:.{digits}f}" if known else f"{after:.{digits}f}"


def size(run: RunRecord) -> tuple[int, int]:
    """Height and width of the network's input, pixels."""
    height, width = run.model["size"]
    return int(height), int(width)


def data(run: RunRecord) -> dict[str, Any]:
    """Images per class and split, the classes with the fewest training images first, and what was found."""
    per_class = run.data["per_class"]
    most = max((sum(counts.values()) for counts in per_class.values()), default=1)
    rows = [
        {"name": name, "counts": [counts[split] for split in ("train", "val", "test")],
         "widths": [round(100 * counts[split] / most, 2) for split in ("train", "val", "test")]}
        for name, counts in sorted(per_class.items(), key=lambda item: item[1]["train"])
    ]  # fmt: skip
    return {
        "path": str(run.data["path"]),
        "counts": [run.data["counts"][split] for split in ("train", "val", "test")],
        "first": rows[:TOP_CLASSES],
        "others": rows[TOP_CLASSES:],
        "warnings": run.warnings,
        "command": image_command(run, "check"),
    }


@dataclass(frozen=True)
class Cost:
    """Template values of each part of the run, and the seconds of all."""

    parts: list[dict[str, Any]]
    total_s: float


def cost(run: RunRecord, steps: Sequence[Mapping[str, Any]], history: Sequence[Mapping[str, str]]) -> Cost:
    """Seconds of each part of the run, and images per second of its epochs."""
    prefix = run.seconds.get("prefix", 0.0)
    parts: list[tuple[str, float, float | None]] = [("frozen layers, computed once", prefix, None)]
    for step in steps:
        speeds = [float(row["images_per_second"]) for row in history if row["phase"] == step["step"]]
        seconds = 0.0 if step["from_cache"] else step["seconds"]
        name = f"{step['step']} (from the result cache)" if step["from_cache"] else step["step"]
        parts.append((name, seconds, sorted(speeds)[len(speeds) // 2] if speeds else None))
    # A step measures its own pass through the frozen layers, too, so the rest may be smaller than 0.
    known = sum(seconds for _, seconds, _ in parts)
    # A run that was killed has no total.
    total = max(run.seconds.get("total", 0.0), known)
    parts.append(("reading images, scoring, saving", total - known, None))
    shown = [
        {"name": name, "seconds": duration(seconds), "width": round(100 * seconds / total, 1) if total else 0,
         "speed": f"{speed:.0f}" if speed else ""}
        for name, seconds, speed in parts
    ]  # fmt: skip
    return Cost(shown, total)


def facts(run: RunRecord) -> dict[str, str]:
    """Name and text of what identifies the run."""
    model, versions = run.model, run.versions
    height, width = size(run)
    sparsity = model.get("sparsity")
    found = {
        "network": f"{model['name']}, {compact(model['parameters'])} parameters, input {height} × {width}",
        "near zero": sparsity
        and f"{sparsity['head']:.1%} of the weights of the head's kernels are below {sparsity['threshold']:g}, "
        f"{sparsity['all']:.1%} of those of all kernels",
        "weights": str(model.get("weights") or "random"),
        "licence of the weights": str(model.get("licence") or "not stated"),
        "recipe": f"{run.recipe['name']}, seed {run.seed}",
        "sha256 of the classifier": model.get("sha256"),
        "sha256 of the weights": model.get("weights_sha256"),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "device": ", ".join(
            str(run.hardware[name]) for name in ("device", "system", "machine") if name in run.hardware
        ),
    }
    return {name: text for name, text in found.items() if text}
