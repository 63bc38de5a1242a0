"""Compare the default recipe, which chooses the depth by validation, with policies fixed in advance.

A cell is a set of images, a number of labelled images per class, and a seed that selects them. About a sixth of the
labelled images are for validation. All other images are for the test, at most 400 per class. In a cell, all ways run on
the same split, one after the other, in one process, with one cache.

- fixed: `head-only`, `two-phase`, `full`, `lp-ft`, `surgical`, and the probe's head with the top 30 % or all of the
  groups unfrozen at once, trained like a round of the default recipe;
- automatic: the default recipe, with several rules for the groups per round and for when another round follows.

On three sets, unfreezing cannot help: `shuffled` (flowers with their labels permuted within each split),
`noisy-colours` (shades of three colours, a fifth of the labels wrong) and `three-pictures` (the same with one shade of
each colour: three distinct images, which a head can separate completely). Rounds that are kept there are false. The
summary counts them, and how many of them raised the loss on the test images.

    python benchmarks/policies.py --data SAMPLES --weights FILE.weights.h5 --json benchmarks/results-policies.json

Finished runs are stored in the JSON file; after an interruption, the same command resumes.
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
VAL_FRACTION = 0.15 / 0.85
MAX_TEST_IMAGES = 400
SETS = ("clothing", "sign_digits", "tf_flowers", "trashnet")
SPLITS = {"train", "val", "validation", "test"}
# Sets with too few images for 100 labelled ones per class and a test. Of these, 70 % of the images are labelled.
SMALL = ("clothing", "sign_digits")
NULLS = ("shuffled", "noisy-colours", "three-pictures")
ROUND = ("policy=fixed", "lr=auto", "schedule=one_cycle", "layer_decay=auto", "batch_norm=auto", "epochs=auto")
DEFAULT = "unfreeze-until-plateau"
HEAD = "head-only"


@dataclass(frozen=True)
class Way:
    """A recipe with settings. `is_fixed` is true if what it trains is fixed in advance."""

    recipe: str
    settings: tuple[str, ...] = ()
    is_fixed: bool = True


def _fixed(selection: str) -> Way:
    return Way(DEFAULT, (*(f"phases.1.{setting}" for setting in ROUND), f"phases.1.train={selection}"))


def _automatic(*settings: str) -> Way:
    return Way(DEFAULT, tuple(f"phases.1.{setting}" for setting in settings), is_fixed=False)


# The names are those of the committed results.
WAYS = {
    "head-only": Way("head-only"),
    "two-phase": Way("two-phase"),
    "full": Way("full"),
    "lp-ft": Way("lp-ft"),
    "surgical": Way("surgical"),
    "top-30%": _fixed("top:5"),
    "top-100%": _fixed("all"),
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
        finished = {run["way"] for run in result["runs"] if all(run[key] == value for key, value in cell.items())}
        # Fixed ways other than the head always keep what they train, so they say nothing about false rounds.
        ways = [way for way in args.ways if cell["set"] not in NULLS or not WAYS[way].is_fixed or way == HEAD]
        remaining = [way for way in ways if way not in finished]
        if remaining:
            for run in _run_in_subprocess(cell | {"ways": remaining}):
                result["runs"].append(cell | run)
                args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
                print(json.dumps(result["runs"][-1]), flush=True)
    result["summary"] = summarise(result["runs"])
    args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result["summary"], indent=1))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the sets of images")
    parser.add_argument("--weights", required=True, help="weights of MobileNetV2 0.35 without top")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument(
        "--labelled",
        nargs="+",
        type=int,
        default=[20, 100, 0],
        help="labelled images per class; 0 for 70 %% of small sets",
    )
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args()


def _run_in_subprocess(job: dict[str, Any]) -> Any:
    """Run the ways of a cell in a new process; yield the results as they finish."""
    options = [*sys.argv[1:], "--one", json.dumps(job)]
    with subprocess.Popen([sys.executable, __file__, *options], stdout=subprocess.PIPE, text=True) as child:
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
            print(
                json.dumps({"way": name} | run_finetune(WAYS[name], data, args.weights, Path(home) / name)), flush=True
            )


def run_finetune(way: Way, data: Path, weights: str, out: Path) -> dict[str, Any]:
    """Run tlcli in one way; return scores, times and decisions."""
    import keras

    from tlcli.train import events
    from tlcli.workflows import finetune
    from tlcli.workflows.request import Request, check_request

    settings = ("model.name=mobilenet_v2", "model.arguments.alpha=0.35", f"data.size=[{SIZE},{SIZE}]", *way.settings)
    # Times are compared, so no way may reuse the results of another.
    settings += ("performance.reuse_results=false",)
    options = {"data.path": str(data), "model.weights": weights}
    keras.backend.clear_session()
    started = time.perf_counter()
    request = Request(recipe=way.recipe, settings=settings, options=options, out=out)
    _, record = finetune.finetune(request, check_request(request), events.ignore)
    return {
        "test": record.scores["test"]["accuracy"],
        "test_loss": record.scores["test"]["loss"],
        "val": record.scores["val"]["accuracy"],
        "test_images": record.scores["test"]["count"],
        "val_images": record.scores["val"]["count"],
        "train_images": record.data["counts"]["train"],
        "wall_s": round(time.perf_counter() - started, 2),
        "phase_s": round(sum(record.seconds["phases"]), 2),
        "kept": [phase["kept"] for phase in record.phases[1:]],
        "sure": [phase["confidence"] for phase in record.phases[1:]],
        "val_loss": [(phase["loss_before"], phase["val_loss"]) for phase in record.phases[1:]],
        "val_accuracy": [(phase["accuracy_before"], phase["val_accuracy"]) for phase in record.phases[1:]],
    }


def lay_out(job: dict[str, Any], source: Path, target: Path) -> None:
    """Lay out the images of a cell as `train/`, `val/` and `test/` with class folders."""
    rng = random.Random(f"{job['set']} {job['labelled']} {job['seed']}")
    if job["set"] in ("noisy-colours", "three-pictures"):
        _write_colours(target, rng, shades=job["set"] == "noisy-colours")
        return
    classes = _images_by_class(source / ("tf_flowers" if job["set"] == "shuffled" else job["set"]))
    parts: dict[str, list[tuple[Path, str]]] = {"train": [], "val": [], "test": []}
    for label, images in sorted(classes.items()):
        rng.shuffle(images)
        labelled = job["labelled"] or round(0.7 * len(images))
        val = max(1, round(VAL_FRACTION * labelled))
        chosen = {"val": images[:val], "train": images[val:labelled], "test": images[labelled:][:MAX_TEST_IMAGES]}
        for name, paths in chosen.items():
            parts[name] += [(path, label) for path in paths]
    for name, pairs in parts.items():
        labels = [label for _, label in pairs]
        if job["set"] == "shuffled":
            rng.shuffle(labels)
        for number, ((path, _), label) in enumerate(zip(pairs, labels, strict=True)):
            folder = target / name / label
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number}{path.suffix}").write_bytes(path.read_bytes())


def _images_by_class(folder: Path) -> dict[str, list[Path]]:
    """The distinct images of a set by class, regardless of the splits of the set."""
    images: dict[str, list[Path]] = defaultdict(list)
    seen: set[bytes] = set()
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in {".jpg", ".jpeg", ".png"} and (content := path.read_bytes()) not in seen:
            seen.add(content)
            images[path.parent.name].append(path)
    return dict(images)


def _write_colours(target: Path, rng: random.Random, *, shades: bool) -> None:
    """Write uniform images of three colours, or of shades of them; one label in five is wrong."""
    from PIL import Image, PngImagePlugin

    names = ("blue", "green", "red")
    for part, count in (("train", 240), ("val", 60), ("test", 300)):
        for number in range(count):
            true = number % 3
            colour = [rng.randint(0, 60) if shades else 30 for _ in range(3)]
            colour[true] = rng.randint(160, 255) if shades else 200
            label = names[true] if rng.random() < 0.8 else names[(true + rng.choice((1, 2))) % 3]
            folder = target / part / label
            folder.mkdir(parents=True, exist_ok=True)
            # tlcli treats files with the same bytes as copies; a title makes them differ.
            title = PngImagePlugin.PngInfo()
            title.add_text("Title", f"{part} {number}")
            Image.new("RGB", (SIZE, SIZE), tuple(colour)).save(folder / f"{number}.png", pnginfo=title)


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Regret of every way against the best fixed way of each cell, in percentage points of test accuracy.

    The best fixed way has the highest mean over the seeds. The best of every single run would depend on the chance of
    its test images.
    """
    fixed = [name for name, way in WAYS.items() if way.is_fixed]
    means = _mean_accuracies([run for run in runs if run["set"] not in NULLS])
    means = {cell: of_cell for cell, of_cell in means.items() if of_cell.keys() >= set(fixed)}
    best = {cell: max(fixed, key=lambda way: means[cell][way]) for cell in means}
    ways: dict[str, Any] = {}
    for name in WAYS:
        regrets, time_share, count = _regrets(runs, name, best, fixed)
        if not regrets:
            continue
        worst = min(regrets, key=lambda cell: regrets[cell])
        ways[name] = {
            "mean_regret": round(100 * statistics.fmean(regrets.values()), 2),
            "worst_regret": round(100 * regrets[worst], 2),
            "worst_at": worst,
            "share_of_time": round(time_share, 3),
            "runs": count,
            **{f"beats_{other}": _count_wins(runs, name, other) for other in ("two-phase", "full")},
        }
    return {
        "cells": {cell: {way: round(mean, 4) for way, mean in of_cell.items()} for cell, of_cell in means.items()},
        "best_fixed": best,
        "ways": ways,
        "false_keeps": _false_keeps([run for run in runs if run["set"] in NULLS]),
    }


def _false_keeps(runs: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """By set and way: runs, runs that kept a round, and those of them with a higher test loss than the head alone."""
    heads = {(run["set"], run["seed"]): run["test_loss"] for run in runs if run["way"] == HEAD}
    by_way: dict[str, dict[str, int]] = {}
    for run in runs:
        if WAYS[run["way"]].is_fixed:
            continue
        counts = by_way.setdefault(f"{run['set']}, {run['way']}", {"runs": 0, "kept": 0, "kept_and_worse": 0})
        is_worse = run.get("test_loss", 0.0) > heads.get((run["set"], run["seed"]), math.inf)
        counts["runs"] += 1
        counts["kept"] += any(run["kept"])
        counts["kept_and_worse"] += any(run["kept"]) and is_worse
    return by_way


def _cell_name(run: dict[str, Any]) -> str:
    return f"{run['set']}, {run['labelled'] or 'all'}"


def _mean_accuracies(runs: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """The mean test accuracy over the seeds, by cell and way."""
    scores: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        scores[_cell_name(run)][run["way"]].append(float(run["test"]))
    return {cell: {way: statistics.fmean(of_way) for way, of_way in ways.items()} for cell, ways in scores.items()}


def _regrets(
    runs: list[dict[str, Any]], name: str, best: dict[str, str], fixed: list[str]
) -> tuple[dict[str, float], float, int]:
    """Regrets of one way.

    Returns:
        The regret per cell, mean over the seeds; the time of the way relative to the time of all fixed ways; and the
        number of runs that were compared.
    """
    by_key = {(_cell_name(run), run["seed"], run["way"]): run for run in runs}
    differences: dict[str, list[float]] = defaultdict(list)
    own_s, fixed_s = 0.0, 0.0
    for (cell, seed, way), run in by_key.items():
        fixed_runs = [by_key.get((cell, seed, fixed_way)) for fixed_way in fixed]
        if way != name or cell not in best or None in fixed_runs:
            continue
        differences[cell].append(run["test"] - by_key[cell, seed, best[cell]]["test"])
        own_s += run["wall_s"]
        fixed_s += sum(fixed_run["wall_s"] for fixed_run in fixed_runs if fixed_run)
    regrets = {cell: statistics.fmean(of_cell) for cell, of_cell in differences.items()}
    return regrets, own_s / fixed_s if fixed_s else 0.0, sum(len(of_cell) for of_cell in differences.values())


def _count_wins(runs: list[dict[str, Any]], way: str, other: str) -> str:
    """Count the pairs of runs on one split in which a way has a higher test accuracy than another, and the ties."""
    scores = {
        (run["set"], run["labelled"], run["seed"], run["way"]): run["test"] for run in runs if run["set"] not in NULLS
    }
    pairs = [
        (score, scores[*key[:3], other])
        for key, score in scores.items()
        if key[3] == way and (*key[:3], other) in scores
    ]
    won, even = sum(own > others for own, others in pairs), sum(own == others for own, others in pairs)
    return f"{won} of {len(pairs)}, {even} even"


if __name__ == "__main__":
    main()
