"""The default recipe beside policies fixed in advance: what choosing the depth by validation costs and brings.

Every cell is a set of images, a number of labelled images a class, and a seed that draws them; about a sixth of the
labelled ones validate, all others are the test (at most 400 a class). In a cell all recipes run on the same split, one
after the other, in one process, with one cache.

- fixed: `head-only`, `two-phase`, `full`, `lp-ft`, `surgical`, and the probe's head with the top 30 % or all of the
  groups thawed at once, trained like a round of the default recipe;
- automatic: the default recipe, with several rules for how much a round thaws and when another follows.

Three cells have nothing for thawing to find: `shuffled` (flowers with their labels permuted within each split),
`noisy-colours` (shades of three colours, a fifth of the labels wrong) and `three-pictures` (the same with one shade of
each colour: three pictures, of which a head can say all there is to say). There, kept rounds are false; how many of
them raised the loss on the test images is counted, too.

    python benchmarks/policies.py --data SAMPLES --weights FILE.weights.h5 --json benchmarks/results-policies.json

Finished runs are kept in the JSON file; the same command goes on where it stopped.
"""

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SIZE = 128
VAL_SHARE = 0.15 / 0.85
MOST_TEST = 400
SETS = ("clothing", "sign_digits", "tf_flowers", "trashnet")
SPLITS = {"train", "val", "validation", "test"}
# Sets that have too few images for 100 labelled ones a class and a test: of these seven in ten are labelled.
SMALL = ("clothing", "sign_digits")
NULLS = ("shuffled", "noisy-colours", "three-pictures")
ROUND = ("policy=fixed", "lr=auto", "schedule=one_cycle", "layer_decay=auto", "batch_norm=auto", "epochs=auto")
DEFAULT = "unfreeze-until-plateau"
HEAD = "head-only"


@dataclass(frozen=True)
class Way:
    """One recipe, with settings, and whether it is fixed in advance."""

    recipe: str
    settings: tuple[str, ...] = ()
    is_fixed: bool = True


def _thawed(selection: str) -> Way:
    return Way(DEFAULT, (*(f"phases.1.{each}" for each in ROUND), f"phases.1.train={selection}"))


def _automatic(*settings: str) -> Way:
    return Way(DEFAULT, tuple(f"phases.1.{each}" for each in settings), is_fixed=False)


WAYS = {
    "head-only": Way("head-only"),
    "two-phase": Way("two-phase"),
    "full": Way("full"),
    "lp-ft": Way("lp-ft"),
    "surgical": Way("surgical"),
    "top-30%": _thawed("top:5"),
    "top-100%": _thawed("all"),
    "30% a round, while the loss halves": _automatic("step=30%", "until.min_relative_gain=0.5"),
    "30% a round, while the loss halves, 80% sure, blended": _automatic(
        "step=30%", "until.min_relative_gain=0.5", "until.confidence=0.8", "interpolate=true"
    ),
    "30% a round, while the loss halves, 80% sure, blended, patient": _automatic(
        "step=30%", "until.min_relative_gain=0.5", "until.confidence=0.8", "interpolate=true", "until.patience=2"
    ),
    "30% a round, while it falls by a fifth": _automatic("step=30%", "until.min_relative_gain=0.2"),
    "30% a round": _automatic("step=30%", "until.min_relative_gain=0"),
    "30% a round, 80% sure": _automatic("step=30%", "until.min_relative_gain=0", "until.confidence=0.8"),
    "30% a round, 80% sure, blended": _automatic(
        "step=30%", "until.min_relative_gain=0", "until.confidence=0.8", "interpolate=true", "until.patience=1"
    ),
    "30% a round, 80% sure, blended, patient": _automatic(
        "step=30%", "until.min_relative_gain=0", "until.confidence=0.8", "interpolate=true", "until.patience=2"
    ),
    "60% a round, 80% sure, blended": _automatic(
        "step=60%", "until.min_relative_gain=0", "until.confidence=0.8", "interpolate=true", "until.patience=1"
    ),
    "60% a round, while the loss halves, 80% sure, blended": _automatic(
        "step=60%", "until.min_relative_gain=0.5", "until.confidence=0.8", "interpolate=true", "until.patience=1"
    ),
    "60% a round, while the loss halves, 65% sure, blended": _automatic(
        "step=60%", "until.min_relative_gain=0.5", "until.confidence=0.65", "interpolate=true", "until.patience=1"
    ),
    "all at once, 65% sure, blended": _automatic(
        "step=all", "until.min_relative_gain=0", "until.confidence=0.65", "interpolate=true", "until.patience=1"
    ),
    "all at once and again, 85% sure, blended": _automatic(
        "step=all", "until.min_relative_gain=0", "until.confidence=0.85", "interpolate=true", "until.patience=1"
    ),
    "doubling, 80% sure": _automatic("step=double", "until.min_relative_gain=0", "until.confidence=0.8"),
    "group by group, 95% sure": _automatic("step=1", "until.min_relative_gain=0", "until.confidence=0.95"),
}


def main() -> None:
    args = _arguments()
    if args.one:
        _run_cell(json.loads(args.one), args)
        return
    result = json.loads(args.json.read_text(encoding="utf-8")) if args.json.is_file() else {"runs": []}
    cells = [
        {"set": name, "labelled": labelled, "seed": seed}
        for seed in range(args.seeds)
        for labelled in args.labelled
        for name in (*args.sets, *(NULLS if labelled == 100 else ()))
        if (labelled == 20 or name in NULLS) or (labelled == 0) == (name in SMALL)
    ]
    for cell in cells:
        known = {run["way"] for run in result["runs"] if all(run[key] == value for key, value in cell.items())}
        # Fixed ways but the head keep whatever they train.
        wanted = [way for way in args.ways if cell["set"] not in NULLS or not WAYS[way].is_fixed or way == HEAD]
        left = [way for way in wanted if way not in known]
        if left:
            for run in _in_child(cell | {"ways": left}):
                result["runs"].append(cell | run)
                args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
                print(json.dumps(result["runs"][-1]), flush=True)
    result["summary"] = summary(result["runs"])
    args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result["summary"], indent=1))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds the sets of images")
    parser.add_argument("--weights", required=True, help="MobileNetV2 0.35 without its top")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument(
        "--labelled", nargs="+", type=int, default=[20, 100, 0], help="a class; 0: seven in ten of small sets"
    )
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args()


def _in_child(job: dict[str, Any]) -> Any:
    """The runs of one cell, from a process of its own, as they finish."""
    words = [*sys.argv[1:], "--one", json.dumps(job)]
    with subprocess.Popen([sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True) as child:
        for line in child.stdout or ():
            if line.startswith("{"):
                yield json.loads(line)
        if child.wait():
            raise SystemExit(f"{job} failed")


def _run_cell(job: dict[str, Any], args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as home:
        os.environ["TLCLI_CACHE"] = str(Path(home) / "cache")
        data = Path(home) / "images"
        lay_out(job, args.data, data)
        for name in job["ways"]:
            print(json.dumps({"way": name} | finetuned(WAYS[name], data, args.weights, Path(home) / name)), flush=True)


def finetuned(way: Way, data: Path, weights: str, out: Path) -> dict[str, Any]:
    import keras

    from tlcli.train import events
    from tlcli.workflows import finetune
    from tlcli.workflows.request import Request, check_request

    settings = ("model.name=mobilenet_v2", "model.arguments.alpha=0.35", f"data.size=[{SIZE},{SIZE}]", *way.settings)
    # Times are compared, so each trains for itself.
    settings += ("performance.reuse_results=false",)
    options = {"data.path": str(data), "model.weights": weights}
    keras.backend.clear_session()
    began = time.perf_counter()
    request = Request(recipe=way.recipe, settings=settings, options=options, out=out)
    _, note = finetune.finetune(request, check_request(request), events.ignore)
    return {
        "test": note.scores["test"]["accuracy"],
        "test_loss": note.scores["test"]["loss"],
        "val": note.scores["val"]["accuracy"],
        "test_images": note.scores["test"]["count"],
        "val_images": note.scores["val"]["count"],
        "train_images": note.data["counts"]["train"],
        "wall_s": round(time.perf_counter() - began, 2),
        "phase_s": round(sum(note.seconds["phases"]), 2),
        "kept": [phase["kept"] for phase in note.phases[1:]],
        "sure": [phase["confidence"] for phase in note.phases[1:]],
        "val_loss": [(phase["loss_before"], phase["val_loss"]) for phase in note.phases[1:]],
        "val_accuracy": [(phase["accuracy_before"], phase["val_accuracy"]) for phase in note.phases[1:]],
    }


def lay_out(job: dict[str, Any], source: Path, target: Path) -> None:
    """The images of a cell as train/, val/ and test/ of class folders."""
    draw = random.Random(f"{job['set']} {job['labelled']} {job['seed']}")
    if job["set"] in ("noisy-colours", "three-pictures"):
        _colours(target, draw, shades=job["set"] == "noisy-colours")
        return
    classes = _images(source / ("tf_flowers" if job["set"] == "shuffled" else job["set"]))
    parts: dict[str, list[tuple[Path, str]]] = {"train": [], "val": [], "test": []}
    for label, images in sorted(classes.items()):
        draw.shuffle(images)
        labelled = job["labelled"] or round(0.7 * len(images))
        val = max(1, round(VAL_SHARE * labelled))
        borders = {"val": images[:val], "train": images[val:labelled], "test": images[labelled:][:MOST_TEST]}
        for name, chosen in borders.items():
            parts[name] += [(path, label) for path in chosen]
    for name, pairs in parts.items():
        labels = [label for _, label in pairs]
        if job["set"] == "shuffled":
            draw.shuffle(labels)
        for number, ((path, _), label) in enumerate(zip(pairs, labels, strict=True)):
            folder = target / name / label
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number}{path.suffix}").write_bytes(path.read_bytes())


def _images(folder: Path) -> dict[str, list[Path]]:
    """By class the images of a set, whatever split they come in; of equal files the first."""
    found: dict[str, list[Path]] = defaultdict(list)
    seen: set[bytes] = set()
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in {".jpg", ".jpeg", ".png"} and (content := path.read_bytes()) not in seen:
            seen.add(content)
            found[path.parent.name].append(path)
    return dict(found)


def _colours(target: Path, draw: random.Random, *, shades: bool) -> None:
    """Three colours, each picture one of them or a shade of it; one label in five is another's."""
    from PIL import Image, PngImagePlugin

    names = ("blue", "green", "red")
    for part, count in (("train", 240), ("val", 60), ("test", 300)):
        for number in range(count):
            true = number % 3
            shade = [draw.randint(0, 60) if shades else 30 for _ in range(3)]
            shade[true] = draw.randint(160, 255) if shades else 200
            label = names[true] if draw.random() < 0.8 else names[(true + draw.choice((1, 2))) % 3]
            folder = target / part / label
            folder.mkdir(parents=True, exist_ok=True)
            # Files are told apart by their bytes.
            name = PngImagePlugin.PngInfo()
            name.add_text("Title", f"{part} {number}")
            Image.new("RGB", (SIZE, SIZE), tuple(shade)).save(folder / f"{number}.png", pnginfo=name)


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Regret of every way in points of test accuracy, and what it was compared with.

    The best fixed way of a set is the best by its mean over the seeds: the best of every single cell would be chosen by
    the chance of its test images.
    """
    fixed = [name for name, way in WAYS.items() if way.is_fixed]
    mean = _means([run for run in runs if run["set"] not in NULLS], "test")
    mean = {cell: found for cell, found in mean.items() if found.keys() >= set(fixed)}
    best = {cell: max(fixed, key=lambda way: mean[cell][way]) for cell in mean}
    ways: dict[str, Any] = {}
    for name in WAYS:
        regrets, share, seeds = _regrets(runs, name, best, fixed)
        if not regrets:
            continue
        worst = min(regrets, key=lambda cell: regrets[cell])
        ways[name] = {
            "mean_regret": round(100 * statistics.fmean(regrets.values()), 2),
            "worst_regret": round(100 * regrets[worst], 2),
            "worst_at": worst,
            "share_of_time": round(share, 3),
            "runs": seeds,
            **{f"beats_{other}": _beaten(runs, name, other) for other in ("two-phase", "full")},
        }
    return {
        "cells": {cell: {way: round(value, 4) for way, value in found.items()} for cell, found in mean.items()},
        "best_fixed": best,
        "ways": ways,
        "false_keeps": _false_keeps([run for run in runs if run["set"] in NULLS]),
    }


def _false_keeps(runs: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """By cell and way: runs, those that kept a round, and those whose test loss is above that of the head after it."""
    heads = {(run["set"], run["seed"]): run["test_loss"] for run in runs if run["way"] == HEAD}
    found: dict[str, dict[str, int]] = {}
    for run in runs:
        if WAYS[run["way"]].is_fixed:
            continue
        counts = found.setdefault(f"{run['set']}, {run['way']}", {"runs": 0, "kept": 0, "kept_and_worse": 0})
        is_worse = run.get("test_loss", 0.0) > heads.get((run["set"], run["seed"]), math.inf)
        counts["runs"] += 1
        counts["kept"] += any(run["kept"])
        counts["kept_and_worse"] += any(run["kept"]) and is_worse
    return found


def _means(runs: list[dict[str, Any]], key: str) -> dict[str, dict[str, float]]:
    """By cell and way, the mean over the seeds."""
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        values[f"{run['set']}, {run['labelled'] or 'all'}"][run["way"]].append(float(run[key]))
    return {cell: {way: statistics.fmean(each) for way, each in ways.items()} for cell, ways in values.items()}


def _regrets(
    runs: list[dict[str, Any]], name: str, best: dict[str, str], fixed: list[str]
) -> tuple[dict[str, float], float, int]:
    """By cell the mean over the seeds that a way ran with, and its time as a share of that of all fixed ways there."""
    found = {(f"{run['set']}, {run['labelled'] or 'all'}", run["seed"], run["way"]): run for run in runs}
    apart: dict[str, list[float]] = defaultdict(list)
    own_s, fixed_s = 0.0, 0.0
    for (cell, seed, way), run in found.items():
        others = [found.get((cell, seed, each)) for each in fixed]
        if way != name or cell not in best or None in others:
            continue
        apart[cell].append(run["test"] - found[cell, seed, best[cell]]["test"])
        own_s += run["wall_s"]
        fixed_s += sum(other["wall_s"] for other in others if other)
    regrets = {cell: statistics.fmean(each) for cell, each in apart.items()}
    return regrets, own_s / fixed_s if fixed_s else 0.0, sum(len(each) for each in apart.values())


def _beaten(runs: list[dict[str, Any]], way: str, other: str) -> str:
    """In how many cells, seeds apart, a way had the higher test accuracy, and in how many the same."""
    scores = {
        (run["set"], run["labelled"], run["seed"], run["way"]): run["test"] for run in runs if run["set"] not in NULLS
    }
    pairs = [
        (score, scores[*key[:3], other])
        for key, score in scores.items()
        if key[3] == way and (*key[:3], other) in scores
    ]
    won, even = sum(mine > theirs for mine, theirs in pairs), sum(mine == theirs for mine, theirs in pairs)
    return f"{won} of {len(pairs)}, {even} even"


if __name__ == "__main__":
    main()
