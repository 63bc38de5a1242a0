"""Compare folds with a validation split where there are few images of each class.

For every set and seed, some images of each class are for training and validation; the others, at most `TEST` in all,
test. Every run is a process of its own with empty caches. After an interruption, the same command resumes.

    python benchmarks/folds.py --data SAMPLES --weights mobilenet_v2_0.35.weights.h5 --json results-folds.json
"""

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from policies import images_by_class, run_in_subprocess

SETS = ("tf_flowers", "clothing", "sign_digits", "trashnet", "bccd_cells")
WAYS = {"split": (), "folds": ("data.folds=5",)}
TEST = 600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the sets of images")
    parser.add_argument("--weights", required=True, help="weights of MobileNetV2 0.35 without top")
    parser.add_argument("--images", type=int, nargs="+", default=[12, 24], help="training images of each class")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print("RESULT " + json.dumps(run(json.loads(args.one), args)))
        return
    runs = json.loads(args.json.read_text(encoding="utf-8"))["runs"] if args.json.is_file() else []
    for seed in args.seeds:
        for images in args.images:
            for name in SETS:
                for way in WAYS:
                    job = {"set": name, "images": images, "seed": seed, "way": way}
                    if any(all(run[key] == value for key, value in job.items()) for run in runs):
                        continue
                    runs.append(job | run_in_subprocess(__file__, job))
                    print(json.dumps(runs[-1]), flush=True)
                    result = {"summary": summarise(runs), "runs": runs}
                    args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(summarise(runs), indent=1))


def run(job: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """Run tlcli once; return scores and seconds."""
    with tempfile.TemporaryDirectory() as home:
        os.environ["TLCLI_CACHE"] = str(Path(home) / "cache")
        data = Path(home) / "images"
        _lay_out(args.data / job["set"], job["images"], job["seed"], data)
        from tlcli.train import events
        from tlcli.workflows import finetune
        from tlcli.workflows.request import Request, check_request

        settings = ("model.name=mobilenet_v2", "model.arguments.alpha=0.35", f"seed={job['seed']}", *WAYS[job["way"]])
        options = {"data.path": str(data), "model.weights": args.weights}
        began = time.perf_counter()
        request = Request(settings=settings, options=options, out=Path(home) / "run")
        _, record = finetune.finetune(request, check_request(request), events.ignore)
        test, val = record.scores["test"], record.scores["val"]
        return {
            "test_accuracy": test["accuracy"],
            "test_loss": test["loss"],
            "test_images": test["count"],
            "val_accuracy": val["accuracy"],
            "wall_s": round(time.perf_counter() - began, 1),
            "kept": [step["step"] for step in record.phases if step["kept"]],
        }


def _lay_out(source: Path, images: int, seed: int, target: Path) -> None:
    """Lay out `images` of each class as `train/`, and a random share of the others as `test/`."""
    rng = random.Random(f"{source.name} {images} {seed}")
    others: list[tuple[Path, str]] = []
    chosen: list[tuple[str, Path, str]] = []
    for label, paths in sorted(images_by_class(source).items()):
        rng.shuffle(paths)
        chosen += [("train", path, label) for path in paths[:images]]
        others += [(path, label) for path in paths[images:]]
    rng.shuffle(others)
    chosen += [("test", path, label) for path, label in others[:TEST]]
    for number, (part, path, label) in enumerate(chosen):
        folder = target / part / label
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}{path.suffix}").write_bytes(path.read_bytes())


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean scores and seconds by images of each class and way, over the settings that both ways have."""
    by_setting: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = defaultdict(dict)
    for one in runs:
        by_setting[one["images"], one["set"], one["seed"]][one["way"]] = one
    pairs = {key: ways for key, ways in by_setting.items() if ways.keys() == WAYS.keys()}
    result: dict[str, Any] = {}
    for images in sorted({key[0] for key in pairs}):
        own = [ways for key, ways in pairs.items() if key[0] == images]
        gains = [100 * (ways["folds"]["test_accuracy"] - ways["split"]["test_accuracy"]) for ways in own]
        result[f"{images} images a class"] = {
            "settings": len(own),
            **{
                way: {
                    key: round(statistics.fmean(ways[way][key] for ways in own), 4)
                    for key in ("test_accuracy", "test_loss", "wall_s")
                }
                for way in WAYS
            },
            "gain_points": {
                "mean": round(statistics.fmean(gains), 2),
                "standard_error": round(statistics.stdev(gains) / len(gains) ** 0.5, 2) if len(gains) > 1 else None,
                "folds_better": sum(gain > 0 for gain in gains),
            },
        }
    return result


if __name__ == "__main__":
    main()
