"""Compare the qualities of the default recipe with fixed recipes, on real images at the network's own input size.

For every set of images and every seed, 30 % of the images test, 15 % validate and the rest train, class by class. Every
run is a process of its own with empty caches. After an interruption, the same command resumes.

The *regret* of a way, for one network and one set, is its distance in test accuracy to the best of `two-phase`, `full`
and `lp-ft`. The test answers of all seeds are pooled first, because the best of three on a few hundred images is partly
chance. On the sets in `NULLS` there is nothing to be found: a kept round is a false one.

    python benchmarks/policies.py --data SAMPLES --weights mobilenet_v2_0.35.weights.h5 --json results-policies.json
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tlcli.report.record import RunRecord
    from tlcli.workflows.request import Request

SETS = ("tf_flowers", "trashnet", "clothing", "sign_digits", "bccd_cells")
# Flowers with shuffled labels, and shades of three colours with a fifth of the labels wrong.
NULLS = ("shuffled", "noisy-colours")
MODELS = ("mobilenet_v2", "efficientnet_lite0")
DEFAULT = "unfreeze-until-plateau"
FIXED = ("two-phase", "full", "lp-ft")
QUALITIES = {name: (DEFAULT, f"quality={name}") for name in ("fast", "balanced", "best")}
# Other bundled recipes that train a pretrained network, for a look at single cells.
OTHERS = (
    "best-accuracy",
    "depth-search",
    "fine-grained",
    "head-only",
    "imbalanced",
    "noisy-labels",
    "sparse",
    "surgical",
    "textbook",
    "tiny-data",
)
WAYS = QUALITIES | {name: (name,) for name in (*FIXED, *OTHERS)}
TEST, VAL = 0.30, 0.15
SIZE = 224


def main() -> None:
    args = _arguments()
    if args.one:
        print("RESULT " + json.dumps(run(json.loads(args.one), args)))
        return
    runs = json.loads(args.json.read_text(encoding="utf-8"))["runs"] if args.json.is_file() else []
    for job in _jobs(args):
        if any(all(run[key] == value for key, value in job.items()) for run in runs):
            continue
        runs.append(job | run_in_subprocess(__file__, job))
        print(json.dumps({key: value for key, value in runs[-1].items() if key not in ("steps", "rungs")}), flush=True)
        result = {"runs": runs, "summary": summarise(runs)}
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(summarise(runs), indent=1))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the sets of images")
    parser.add_argument("--weights", required=True, help="weights of MobileNetV2 0.35 without top")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--sets", nargs="+", choices=(*SETS, *NULLS), default=[*SETS, *NULLS])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    usual = [way for way in WAYS if way not in ("best", *OTHERS)]
    parser.add_argument(
        "--ways", nargs="+", choices=WAYS, default=usual, help="default: fast, balanced and the three fixed recipes"
    )
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args()


def _jobs(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for seed in args.seeds:
        for name in args.sets:
            for model in args.models:
                # The fixed ways always keep what they train, so they say nothing about false rounds.
                for way in (way for way in args.ways if name not in NULLS or way in QUALITIES):
                    yield {"model": model, "set": name, "seed": seed, "way": way}


def run_in_subprocess(script: str, job: dict[str, Any]) -> dict[str, Any]:
    """Run one job of a script in a process of its own, by its option `--one`; return its result."""
    command = [sys.executable, script, *sys.argv[1:], "--one", json.dumps(job)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("RESULT "))
    result: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
    return result


def run(job: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """Run tlcli once; return scores, seconds and decisions."""
    with tempfile.TemporaryDirectory() as home:
        os.environ["TLCLI_CACHE"] = str(Path(home) / "cache")
        data = Path(home) / "images"
        lay_out(job["set"], job["seed"], args.data, data)
        from tlcli.workflows.request import Request

        recipe, *settings = WAYS[job["way"]]
        settings += [f"model.name={job['model']}", f"seed={job['seed']}"]
        options = {"data.path": str(data)}
        if job["model"] == "mobilenet_v2":
            settings.append("model.arguments.alpha=0.35")
            options["model.weights"] = args.weights
        began, began_cpu = time.perf_counter(), time.process_time()
        request = Request(recipe=recipe, settings=tuple(settings), options=options, out=Path(home) / "run")
        record = _train(request, is_ladder=job["way"] == "best")
        test = record.scores["test"]
        return {
            "correct": round(test["accuracy"] * test["count"]),
            "test_images": test["count"],
            "wall_s": round(time.perf_counter() - began, 1),
            "cpu_s": round(time.process_time() - began_cpu, 1),
            "steps": [
                {
                    key: step[key]
                    for key in ("step", "epochs", "kept", "confidence", "loss_before", "val_loss", "seconds")
                }
                for step in record.phases
            ],
            "rungs": [
                {key: row[key] for key in ("recipe", "in_result", "val_loss", "test_accuracy", "seconds")}
                for row in record.compared or []
            ],
        }


def _train(request: "Request", *, is_ladder: bool) -> "RunRecord":
    from tlcli.train import events
    from tlcli.workflows.request import check_request

    if not is_ladder:
        from tlcli.workflows.finetune import finetune

        return finetune(request, check_request(request), events.ignore)[1]
    from tlcli.workflows import best_request
    from tlcli.workflows.best import climb

    candidates, recipe = best_request.begun(request)
    with best_request.owned(candidates, recipe, resume=None):
        return climb(candidates, recipe, events.ignore)[1]


def lay_out(name: str, seed: int, source: Path, target: Path) -> None:
    """Lay out the images of a set as `train/`, `val/` and `test/` with class folders."""
    rng = random.Random(f"{name} {seed}")
    if name == "noisy-colours":
        _write_colours(target, rng)
        return
    parts: dict[str, list[tuple[Path, str]]] = {"test": [], "val": [], "train": []}
    for label, paths in sorted(images_by_class(source / ("tf_flowers" if name == "shuffled" else name)).items()):
        rng.shuffle(paths)
        test, val = round(TEST * len(paths)), max(1, round(VAL * len(paths)))
        chosen = {"test": paths[:test], "val": paths[test : test + val], "train": paths[test + val :]}
        for part, files in chosen.items():
            parts[part] += [(path, label) for path in files]
    for part, pairs in parts.items():
        labels = [label for _, label in pairs]
        if name == "shuffled":
            rng.shuffle(labels)
        for number, ((path, _), label) in enumerate(zip(pairs, labels, strict=True)):
            folder = target / part / label
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number}{path.suffix}").write_bytes(path.read_bytes())


def images_by_class(folder: Path) -> dict[str, list[Path]]:
    """The distinct images of a set by class, regardless of the splits of the set."""
    images: dict[str, list[Path]] = defaultdict(list)
    seen: set[bytes] = set()
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in {".jpg", ".jpeg", ".png"} and (content := path.read_bytes()) not in seen:
            seen.add(content)
            images[path.parent.name].append(path)
    return dict(images)


def _write_colours(target: Path, rng: random.Random) -> None:
    from PIL import Image, PngImagePlugin

    names = ("blue", "green", "red")
    for part, count in (("train", 1200), ("val", 300), ("test", 300)):
        for number in range(count):
            true = number % 3
            colour = [rng.randint(0, 60) for _ in range(3)]
            colour[true] = rng.randint(160, 255)
            label = names[true] if rng.random() < 0.8 else names[(true + rng.choice((1, 2))) % 3]
            folder = target / part / label
            folder.mkdir(parents=True, exist_ok=True)
            # tlcli treats files with the same bytes as copies; a title makes them differ.
            title = PngImagePlugin.PngInfo()
            title.add_text("Title", f"{part} {number}")
            Image.new("RGB", (SIZE, SIZE), tuple(colour)).save(folder / f"{number}.png", pnginfo=title)


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Pooled accuracy, regret in points and mean seconds by network, set and way; and false keeps."""
    cells: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for one in runs:
        cells[f"{one['model']}, {one['set']}"][one["way"]].append(one)
    real = {
        cell: ways for cell, ways in cells.items() if cell.split(", ")[1] not in NULLS and ways.keys() >= set(FIXED)
    }
    rows = {cell: _row(_on_common_seeds(ways)) for cell, ways in real.items()}
    regrets = {way: [row["regret"][way] for row in rows.values() if way in row["regret"]] for way in WAYS}
    return {
        "cells": rows,
        "regret": {
            way: {"mean": round(statistics.fmean(values), 2), "worst": max(values), "cells": len(values)}
            for way, values in regrets.items()
            if values
        },
        "false_rounds": {
            f"{cell}, {way}": {
                "runs": len(of_way),
                "kept": sum(any(step["kept"] for step in one["steps"] if step["epochs"]) for one in of_way),
                "seconds": round(statistics.fmean(one["wall_s"] for one in of_way), 1),
            }
            for cell, ways in cells.items()
            if cell.split(", ")[1] in NULLS
            for way, of_way in ways.items()
        },
    }


def _on_common_seeds(ways: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """The runs whose seed every way has: while a study runs, some ways are ahead."""
    common = set.intersection(*({one["seed"] for one in of_way} for of_way in ways.values()))
    return {way: [one for one in of_way if one["seed"] in common] for way, of_way in ways.items()}


def _row(ways: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    if not all(ways.values()):
        return {"seeds": 0, "test_images": 0, "accuracy": {}, "regret": {}, "seconds": {}}
    images = {way: sum(one["test_images"] for one in of_way) for way, of_way in ways.items()}
    accuracy = {way: sum(one["correct"] for one in of_way) / images[way] for way, of_way in ways.items()}
    best = max(accuracy[way] for way in FIXED)
    return {
        "seeds": len(ways[FIXED[0]]),
        "test_images": images[FIXED[0]],
        "accuracy": {way: round(value, 4) for way, value in accuracy.items()},
        "regret": {way: round(100 * (best - value), 2) for way, value in accuracy.items()},
        "seconds": {way: round(statistics.fmean(one["wall_s"] for one in of_way), 1) for way, of_way in ways.items()},
    }


if __name__ == "__main__":
    main()
