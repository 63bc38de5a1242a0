"""The parts of a run's page about the run: steps, data, cost, facts."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from tlcli.report.record import RunRecord
from tlcli.text import compact, duration

# Classes that are listed before the others are folded away.
TOP_CLASSES = 30


def step(number: int, step: Mapping[str, Any]) -> dict[str, Any]:
    """Template values of a line of phases.jsonl."""
    groups = step["trained_groups"]
    names = ", ".join(groups) if len(groups) <= 2 else f"{groups[0]} … {groups[-1]} ({len(groups)} groups)"
    return {
        "number": number,
        "name": step["step"],
        "trained": f"head and {names}" if groups else "head",
        "parameters": compact(step["trainable_parameters"]),
        "epochs": step["epochs"],
        "loss": _change(step["loss_before"], step["val_loss"], 3),
        "accuracy": _change(step["accuracy_before"], step["val_accuracy"], 3),
        "confidence": "–" if step["confidence"] is None else f"{step['confidence']:.0%}",
        "kept": step["kept"],
        # The decision is shown beside it.
        "reason": step["reason"].removeprefix("kept: ").removeprefix("rolled back: "),
        "seconds": duration(step["seconds"]),
        "from_cache": step["from_cache"],
    }


def _change(before: float | None, after: float | None, digits: int) -> str:
    if after is None:
        return "–"
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
        "command": shlex.join(["tlcli", "check", str(run.data["path"])]),
    }


def cost(
    run: RunRecord, steps: Sequence[Mapping[str, Any]], history: Sequence[Mapping[str, str]]
) -> list[dict[str, Any]]:
    """Seconds of each part of the run, and images per second of its epochs."""
    total, prefix = run.seconds.get("total", 0.0), run.seconds.get("prefix", 0.0)
    parts: list[tuple[str, float, float | None]] = [("frozen layers, computed once", prefix, None)]
    for step in steps:
        speeds = [float(row["images_per_second"]) for row in history if row["phase"] == step["step"]]
        seconds = 0.0 if step["from_cache"] else step["seconds"]
        name = f"{step['step']} (from the result cache)" if step["from_cache"] else step["step"]
        parts.append((name, seconds, sorted(speeds)[len(speeds) // 2] if speeds else None))
    # A step measures its own pass through the frozen layers, too, so the rest may be smaller than 0.
    rest = total - sum(seconds for _, seconds, _ in parts)
    parts.append(("reading images, scoring, saving", max(rest, 0.0), None))
    return [
        {"name": name, "seconds": duration(seconds), "width": round(100 * seconds / total, 1) if total else 0,
         "speed": f"{speed:.0f}" if speed else ""}
        for name, seconds, speed in parts
    ]  # fmt: skip


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
