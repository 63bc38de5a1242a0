"""Compare the bundled weights with random weights on few labelled images.

For every data set and seed, the script chooses the images and runs tlcli in several ways on the same split:

- probe: `head-only` from the bundled weights;
- thawed: `unfreeze-until-plateau` from the bundled weights;
- scratch: the same network from random weights, all layers trained, for as many epochs as `thawed`;
- scratch-long: the same for four times as many epochs.

    python benchmarks/bundled.py --json benchmarks/results-bundled.json                 # digits
    python benchmarks/bundled.py --data SAMPLES --json benchmarks/results-bundled.json  # with sign_digits, trashnet

Finished runs are stored in the JSON file; after an interruption, the same command resumes.
"""

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from tlcli.workflows.demo import write_digits

# Epochs of scratch-long, as a multiple of those of scratch.
LONGER = 4
BUNDLED = "mobilenet_synthetic"
# The name of the bundled network in the results.
BUNDLED_ROW = "drawn"


@dataclass(frozen=True)
class Set:
    """One comparison.

    Attributes:
        folder: Name of the folder with the images.
        labelled: Labelled images per class.
        test: Test images per class; None for all others.
        epochs: Epochs of each unfreezing round, chosen for 200 to 500 steps.
        mirrored: True if images may be mirrored.
        unlabelled: True to pretrain on the images without labels, too.
    """

    folder: str
    labelled: int
    test: int | None
    epochs: int
    mirrored: bool = True
    unlabelled: bool = False


SETS = {
    "digits-10": Set("digits", 10, None, 60, mirrored=False),
    "digits-50": Set("digits", 50, None, 24, mirrored=False),
    # It has 103 images per class: 75 labelled and 25 test images make 100.
    "signs-100": Set("sign_digits", 75, 25, 16),
    "trash-100": Set("trashnet", 100, None, 32),
    "trash-20": Set("trashnet", 20, None, 60, unlabelled=True),
}
RECIPES = {
    "probe": "head-only",
    "thawed": "unfreeze-until-plateau",
    "scratch": "from-scratch",
    "scratch-long": "from-scratch",
}
# Digits must not be mirrored: only small rotations, zooms and shifts.
UPRIGHT = ("augment.preset=custom", "augment.rotation=10", "augment.zoom=0.1", "augment.shift=0.08")


def main() -> None:
    args = _arguments()
    if args.one:
        print(json.dumps(_run_job(json.loads(args.one))))
        return
    result = json.loads(args.json.read_text(encoding="utf-8")) if args.json.is_file() else {"runs": []}
    finished = {(run["set"], run["seed"], run["model"], run["way"]) for run in result["runs"]}
    with tempfile.TemporaryDirectory() as home:
        for seed in range(args.seeds):
            for name in args.sets:
                source = _find_images(SETS[name], args.data, Path(home))
                if source is None:
                    print(f"skipped {name}: no folder {SETS[name].folder}; see --data", flush=True)
                    continue
                work = Path(home) / f"{name}-{seed}"
                for row in (BUNDLED_ROW, "simsiam") if SETS[name].unlabelled else (BUNDLED_ROW,):
                    ways = [way for way in args.ways if (name, seed, row, way) not in finished]
                    if not ways:
                        continue
                    if not work.exists():
                        lay_out_images(SETS[name], source, work / "data", seed=seed)
                    model = _pretrain(Path(home) / f"{name}.yaml", work, args.epochs) if row == "simsiam" else BUNDLED
                    job = {"set": name, "seed": seed, "home": str(work), "model": model, "ways": ways}
                    result["runs"] += [{**run, "model": row} for run in _run_in_subprocess(job)]
                    result |= {"machine": _machine(), "summary": summarise(result["runs"])}
                    args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result.get("summary", {}), indent=1))


def _find_images(spec: Set, data: Path | None, home: Path) -> Path | None:
    if spec.folder == "digits":
        return write_digits(home / "digits", per_class=500)
    return data / spec.folder if data and (data / spec.folder).is_dir() else None


def _pretrain(card: Path, work: Path, epochs: int) -> str:
    """Pretrain the bundled network further on all images but the test images, once for all seeds; return its card."""
    if not card.exists():
        options = [
            "pretrain",
            str(work / "unlabelled"),
            "--model",
            BUNDLED,
            "--epochs",
            str(epochs),
            "--out",
            str(card),
        ]
        print("tlcli", *options, flush=True)
        subprocess.run([str(Path(sys.executable).with_name("tlcli")), *options], check=True, stderr=subprocess.DEVNULL)
    return str(card)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with sign_digits and trashnet")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=[n for n, s in SETS.items() if not s.unlabelled])
    parser.add_argument("--ways", nargs="+", choices=RECIPES, default=list(RECIPES), help="scratch needs thawed")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=40, help="epochs of the pretraining without labels")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args(sys.argv[1:] if "--one" not in sys.argv else [*sys.argv[1:], "--json", os.devnull])


def lay_out_images(spec: Set, source: Path, target: Path, *, seed: int) -> None:
    """Lay out `train/` and `test/` as folders of links, and `unlabelled/` beside them for sets with unlabelled images.

    Such sets use the same half of the images for the test with every seed, so that one pretraining serves all seeds.
    """
    rng = random.Random(seed)
    for folder in sorted(path for path in source.iterdir() if path.is_dir()):
        images = sorted(path for path in folder.iterdir() if path.is_file())
        if spec.unlabelled:
            random.Random(0).shuffle(images)
            half = len(images) // 2
            test, others = images[:half], images[half:]
            parts = {"test": test, "unlabelled": others, "train": rng.sample(others, spec.labelled)}
        else:
            rng.shuffle(images)
            parts = {"train": images[: spec.labelled], "test": images[spec.labelled :][: spec.test]}
        for part, chosen in parts.items():
            # Unlabelled images lie outside the folder that finetune reads.
            part_folder = target / part / folder.name if part != "unlabelled" else target.parent / part
            part_folder.mkdir(parents=True, exist_ok=True)
            for image in chosen:
                (part_folder / f"{folder.name}-{image.name}").symlink_to(image.resolve())


def _run_in_subprocess(job: dict) -> list[dict]:
    """Run all ways of a job in a new process, which frees its memory before the next job."""
    command = [sys.executable, __file__, "--one", json.dumps(job)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    runs = json.loads(output.splitlines()[-1])
    for run in runs:
        print(
            f"{run['set']} seed {run['seed']} {run['way']:8} test {run['test']:.4f} {run['seconds']:.1f} s", flush=True
        )
    return runs


def _run_job(job: dict) -> list[dict]:
    from tlcli.workflows import finetune
    from tlcli.workflows.request import Request, check_request

    spec = SETS[job["set"]]
    home = Path(job["home"])
    runs: list[dict] = []
    for way in job["ways"]:
        settings = [f"seed={job['seed']}", *(() if spec.mirrored else UPRIGHT)]
        if way == "thawed":
            # The batch size of the other ways.
            settings += [f"phases.1.epochs={spec.epochs}", "performance.batch=32"]
        if way == "scratch":
            settings.append(f"phases.0.epochs={max(spec.epochs, runs[-1]['epochs'])}")
        if way == "scratch-long":
            settings.append(f"phases.0.epochs={LONGER * spec.epochs}")
        options = {"data.path": str(home / "data"), "model.name": job["model"]}
        request = Request(
            recipe=RECIPES[way],
            settings=tuple(settings),
            options=options,
            out=home / f"{Path(job['model']).stem}-{way}",
        )
        _, record = finetune.finetune(request, check_request(request), lambda _: None)
        runs.append(
            {
                "set": job["set"],
                "seed": job["seed"],
                "way": way,
                **{split: record.scores[split]["accuracy"] for split in ("val", "test")},
                "seconds": record.seconds["total"],
                "epochs": sum(phase["epochs"] for phase in record.phases),
                "kept": [phase["name"] for phase in record.phases if phase["kept"]],
            }
        )
    return runs


def summarise(runs: list[dict]) -> dict:
    """Mean and standard deviation of the test accuracy, and median seconds, per set, model and way."""
    table: dict[str, dict] = {}
    for run in runs:
        key = f"{run['set']} {run['model']}"
        table.setdefault(key, {}).setdefault(run["way"], []).append(run)
    return {
        key: {
            way: {
                "seeds": len(of_way),
                "test_mean": round(statistics.mean(run["test"] for run in of_way), 4),
                "test_std": round(statistics.stdev(run["test"] for run in of_way), 4) if len(of_way) > 1 else None,
                "seconds_median": round(statistics.median(run["seconds"] for run in of_way), 1),
            }
            for way, of_way in ways.items()
        }
        for key, ways in table.items()
    }


def _machine() -> dict:
    return {
        "cores": os.cpu_count(),
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("keras", "tensorflow")},
    }


if __name__ == "__main__":
    main()
