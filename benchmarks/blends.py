"""How good the places between the weights before and after a round of thawing are, and how sure one is of each.

One round of everything for every cell of `benchmarks/policies.py`. The weights at 0, 25, 50, 75 and 100 % of the way
are scored on the test images, which the program never chooses by, and judged by the validation images as it does.

    python benchmarks/blends.py --data SAMPLES --weights FILE.weights.h5 --json blends.json

Finished cells are kept in the JSON file; the same command goes on where it stopped.
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

PLACES = (1.0, *(0.75, 0.5, 0.25), 0.0)
# Another round would follow only a gain that never comes.
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
        print(json.dumps(_cell(json.loads(args.one), args)))
        return
    found = json.loads(args.json.read_text(encoding="utf-8"))["cells"] if args.json.is_file() else []
    known = [{key: each[key] for key in ("set", "labelled", "seed")} for each in found]
    for cell in CELLS:
        if cell not in known:
            words = [sys.executable, __file__, *sys.argv[1:], "--one", json.dumps(cell)]
            said = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout
            found.append(cell | json.loads(said.splitlines()[-1]))
            args.json.write_text(json.dumps({"cells": found, "summary": _summary(found)}, indent=1) + "\n")
            print(json.dumps(found[-1]), flush=True)
    print(json.dumps(_summary(found), indent=1))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds the sets of images")
    parser.add_argument("--weights", required=True, help="MobileNetV2 0.35 without its top")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args()


def _cell(cell: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as home:
        os.environ["TLCLI_CACHE"] = str(Path(home) / "cache")
        policies.lay_out(cell, args.data, Path(home) / "images")
        places = _watched()
        settings = tuple(f"phases.1.{each}" for each in ROUND)
        way = policies.Way(policies.DEFAULT, (*settings, "phases.1.epochs=auto"), is_fixed=False)
        policies.finetuned(way, Path(home) / "images", args.weights, Path(home) / "run")
        return {"places": places}


def _watched() -> list[dict[str, Any]]:
    """A list that is filled when the round is over, before the program looks for the best place itself."""
    import numpy as np

    from tlcli.train import checkpoint, compile, decision, step
    from tlcli.train.calibration import score
    from tlcli.train.session import Session

    places: list[dict[str, Any]] = []
    own = step._interpolate

    def blended(session: Session, running: compile.StepState) -> float:
        after = running.best if running.progress.best_epoch else checkpoint.copy_values(running.moving)
        start = running.progress.start_scores or []
        if not places:
            for place in PLACES:
                between = [
                    old + (new - old) * np.float32(place) for old, new in zip(running.before, after, strict=True)
                ]
                checkpoint.assign_values(running.moving, between)
                val, test = score(session, session.val), score(session, session.test)
                gains = [before - now for before, now in zip(start, val.values_for("val_loss"), strict=True)]
                places.append(
                    {
                        "place": place,
                        "test": float(test.hits.mean()),
                        "val_loss": float(val.losses.mean()),
                        "confidence": decision.confidence(gains),
                    }
                )
        return own(session, running)

    step._interpolate = blended
    return places


def _summary(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean test accuracy by place, over all cells and over those of 20 images a class."""
    few = [cell for cell in cells if cell["labelled"] == 20]
    return {
        name: {
            str(place): round(
                statistics.fmean(each["test"] for cell in some for each in cell["places"] if each["place"] == place), 4
            )
            for place in PLACES
        }
        for name, some in (("all", cells), ("20 a class", few))
        if some
    } | {
        "quarter_surer_than_whole": sum(
            cell["places"][-2]["confidence"] > cell["places"][0]["confidence"] for cell in cells
        )
    }


if __name__ == "__main__":
    main()
