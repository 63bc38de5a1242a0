"""Accuracy and confidence of weights interpolated between those before and after an unfreezing round.

For every cell of `benchmarks/policies.py`, the script trains one round with all layers unfrozen. It scores the weights
at 0, 25, 50, 75 and 100 % of the way on the test images, which tlcli never uses for decisions, and computes their
confidence on the validation images as tlcli does.

    python benchmarks/blends.py --data SAMPLES --weights FILE.weights.h5 --json blends.json

Finished cells are stored in the JSON file; after an interruption, the same command resumes.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import policies

POSITIONS = (1.0, 0.75, 0.5, 0.25, 0.0)
# The required relative gain is out of reach, so that no second round follows.
ROUND = ("step=all", "until.min_relative_gain=0.99", "until.confidence=0.5", "until.patience=1", "interpolate=true")
CELLS = [
    {"set": name, "labelled": labelled, "seed": seed}
    for seed in range(3)
    for labelled in (20, 100, 0)
    for name in policies.SETS
    if labelled == 20 or (labelled == 0) == (name in policies.SMALL)
]


def main() -> None:
    args = _arguments()
    if args.one:
        print(json.dumps(_run_cell(json.loads(args.one), args)))
        return
    results = json.loads(args.json.read_text(encoding="utf-8"))["cells"] if args.json.is_file() else []
    finished = [{key: result[key] for key in ("set", "labelled", "seed")} for result in results]
    for cell in CELLS:
        if cell not in finished:
            command = [sys.executable, __file__, *sys.argv[1:], "--one", json.dumps(cell)]
            output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            results.append(cell | json.loads(output.splitlines()[-1]))
            args.json.write_text(json.dumps({"cells": results, "summary": _summarise(results)}, indent=1) + "\n")
            print(json.dumps(results[-1]), flush=True)
    print(json.dumps(_summarise(results), indent=1))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the sets of images")
    parser.add_argument("--weights", required=True, help="weights of MobileNetV2 0.35 without top")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args()


def _run_cell(cell: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as home:
        os.environ["TLCLI_CACHE"] = str(Path(home) / "cache")
        policies.lay_out(cell, args.data, Path(home) / "images")
        places = _record_positions()
        settings = tuple(f"phases.1.{setting}" for setting in ROUND)
        way = policies.Way(policies.DEFAULT, (*settings, "phases.1.epochs=auto"), is_fixed=False)
        policies.run_finetune(way, Path(home) / "images", args.weights, Path(home) / "run")
        return {"places": places}


def _record_positions() -> list[dict[str, Any]]:
    """Patch the training to score every position after the round; return the list that the scores are added to."""
    import numpy as np

    from tlcli.train import checkpoint, compile, decision, step
    from tlcli.train.calibration import score
    from tlcli.train.session import Session

    places: list[dict[str, Any]] = []
    original = step._interpolate

    def interpolate(session: Session, state: compile.StepState) -> float:
        end_weights = state.best_weights if state.progress.best_epoch else checkpoint.copy_values(state.moving)
        start = state.progress.start_scores or []
        if not places:
            for position in POSITIONS:
                weights = [
                    old + (new - old) * np.float32(position)
                    for old, new in zip(state.start_weights, end_weights, strict=True)
                ]
                checkpoint.assign_values(state.moving, weights)
                val, test = score(session, session.val), score(session, session.test)
                gains = [before - now for before, now in zip(start, val.values_for("val_loss"), strict=True)]
                places.append(
                    {
                        "place": position,
                        "test": float(test.hits.mean()),
                        "val_loss": float(val.losses.mean()),
                        "confidence": decision.confidence(gains),
                    }
                )
        return original(session, state)

    step._interpolate = interpolate
    return places


def _summarise(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean test accuracy per position, over all cells and over those with 20 images per class."""
    few = [cell for cell in cells if cell["labelled"] == 20]
    return {
        name: {
            str(position): round(
                statistics.fmean(
                    score["test"] for cell in chosen for score in cell["places"] if score["place"] == position
                ),
                4,
            )
            for position in POSITIONS
        }
        for name, chosen in (("all", cells), ("20 a class", few))
        if chosen
    } | {
        "quarter_surer_than_whole": sum(
            cell["places"][-2]["confidence"] > cell["places"][0]["confidence"] for cell in cells
        )
    }


if __name__ == "__main__":
    main()
