"""The header of a layer report: where a network comes from and what it expects. Nothing is guessed."""

import hashlib
from pathlib import Path
from typing import Any

from tlcli.inspecting.target import Target, said_in
from tlcli.model.contract import Origin
from tlcli.zoo import catalogue

RANGES = {
    "none": "RGB from 0 to 255, as it is: the network scales it itself",
    "tf": "RGB from -1 to 1: value / 127.5 - 1",
    "torch": "RGB, about -2.1 to 2.6: value / 255, less (0.485, 0.456, 0.406), divided by (0.229, 0.224, 0.225)",
    "caffe": "BGR, about -124 to 152: value less (103.939, 116.779, 123.68)",
}


def about(target: Target) -> dict[str, Any]:
    """What is known of a network besides its layers, JSON-ready; None where nobody states it."""
    card, ran = target.card, target.record
    classes, outputs = _classes(target)
    found: dict[str, Any] = {
        "kind": target.kind,
        "title": "classifier written by tlcli" if target.kind == "file" and classes else card.title,
        "source": card.source if target.file is None or ran else str(target.file),
        "arguments": {**card.arguments, **target.arguments},
        "licence": card.licence,
        "paper": card.paper or None,
        "trained_on": _trained_on(target),
        "weights": None if ran is None else ran.model.get("weights"),
        "sha256": _sha256(target),
        "imagenet_top1": _published(target),
        "own_size": list(target.size) if target.kind == "file" else [card.size, card.size],
        "min_size": card.min_size if card.source.startswith("keras:") else None,
        "preprocessing": card.preprocessing,
        "expects": RANGES.get(card.preprocessing or ""),
        "classes": classes,
        "outputs": outputs,
        "scores": _scores(target),
    }
    if ran is not None:
        found["run"] = {
            "status": ran.status,
            "started": ran.started,
            "head_parameters": ran.model.get("head_parameters"),
            "weights_sha256": ran.model.get("weights_sha256"),
            "scores": found["scores"],
        }
    return found


def _trained_on(target: Target) -> str | None:
    if target.record is not None:
        path = target.record.data.get("path")
        return None if path is None else Path(path).name
    if target.file is not None:
        origin = _origin(target.file)
        return None if origin is None else origin.data
    return target.card.data or "ImageNet"


def _scores(target: Target) -> dict[str, Any] | None:
    """Of a classifier on its own images, by split: `accuracy`, `loss`, `count`; None where nobody states them."""
    if target.record is not None:
        found = target.record.scores
        return {name: {key: each[key] for key in ("accuracy", "loss", "count")} for name, each in found.items()}
    origin = None if target.file is None else _origin(target.file)
    return origin.scores if origin and origin.scores else None


def _origin(file: Path) -> Origin | None:
    said = said_in(file)
    return None if said is None else said.origin


def _published(target: Target) -> float | None:
    """Top-1 accuracy as the card states it, which is of its own architecture and of the weights that Keras provides."""
    differs = any(target.card.arguments.get(name) != value for name, value in target.arguments.items())
    return None if differs or target.kind == "file" else target.card.imagenet_top1


def _sha256(target: Target) -> str | None:
    """Of the model file, or of the weights that come with the card."""
    if target.file is not None and target.file.is_file():
        with target.file.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    return None if target.kind == "run" else target.card.sha256


def _classes(target: Target) -> tuple[list[str] | None, int | None]:
    """Names of the classes and their number, of what has a head."""
    if target.record is not None:
        names = [str(name) for name in target.record.data["classes"]]
        return names, len(names)
    if target.file is None:
        return None, None
    said = said_in(target.file)
    if said is None:
        return None, catalogue.outputs(target.file)
    return list(said.classes), len(said.classes)
