"""What the bundled weights are worth: few labelled images, from the bundled network and from random weights.

For every data set and seed: choose the images, then runs of tlcli on the same split:

- probe: `head-only` from the bundled weights;
- thawed: `unfreeze-until-plateau` from the bundled weights;
- scratch: the same network from random weights, all of it trained, with as many epochs as `thawed` took;
- scratch-long: the same with four times as many.

    python benchmarks/bundled.py --json benchmarks/results-bundled.json                 # digits
    python benchmarks/bundled.py --data SAMPLES --json benchmarks/results-bundled.json  # with sign_digits, trashnet

Finished runs are kept in the JSON file; the same command again goes on where it was stopped.
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

LONGER = 4


@dataclass(frozen=True)
class Set:
    """One comparison: where the images are, how many a class are labelled, how many a class are left for the test.

    `test` None: all the others. `epochs`: of each round of thawing; chosen for 200 to 500 steps.
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
    # Of its 103 images a class, 75 are labelled and 25 the test: 100 in all.
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
# Digits must not be mirrored: small turns, zooms and shifts only.
UPRIGHT = ("augment.preset=custom", "augment.rotation=10", "augment.zoom=0.1", "augment.shift=0.08")


def main() -> None:
    args = _arguments()
    if args.one:
        print(json.dumps(_runs(json.loads(args.one))))
        return
    result = json.loads(args.json.read_text(encoding="utf-8")) if args.json.is_file() else {"runs": []}
    known = {(run["set"], run["seed"], run["model"], run["way"]) for run in result["runs"]}
    with tempfile.TemporaryDirectory() as home:
        for seed in range(args.seeds):
            for name in args.sets:
                source = _source(SETS[name], args.data, Path(home))
                if source is None:
                    print(f"{name}: left out, no folder {SETS[name].folder}; see --data", flush=True)
                    continue
                work = Path(home) / f"{name}-{seed}"
                for model in ("mobilenet_synthetic", "simsiam") if SETS[name].unlabelled else ("mobilenet_synthetic",):
                    ways = [way for way in args.ways if (name, seed, model, way) not in known]
                    if not ways:
                        continue
                    if not work.exists():
                        chosen_images(SETS[name], source, work / "data", seed=seed)
                    card = _simsiam(Path(home) / f"{name}.yaml", work, args.epochs) if model == "simsiam" else model
                    job = {"set": name, "seed": seed, "home": str(work), "model": card, "ways": ways}
                    result["runs"] += [{**run, "model": model} for run in _in_child(job)]
                    result |= {"machine": _machine(), "summary": summary(result["runs"])}
                    args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result.get("summary", {}), indent=1))


def _source(spec: Set, data: Path | None, home: Path) -> Path | None:
    if spec.folder == "digits":
        return write_digits(home / "digits", per_class=500)
    return data / spec.folder if data and (data / spec.folder).is_dir() else None


def _simsiam(card: Path, work: Path, epochs: int) -> str:
    """The bundled network, trained on without labels on all images but those of the test; once for all seeds."""
    if not card.exists():
        words = [
            "pretrain",
            str(work / "unlabelled"),
            "--model",
            "mobilenet_synthetic",
            "--epochs",
            str(epochs),
            "--out",
            str(card),
        ]
        print("tlcli", *words, flush=True)
        subprocess.run([str(Path(sys.executable).with_name("tlcli")), *words], check=True, stderr=subprocess.DEVNULL)
    return str(card)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder that holds sign_digits and trashnet")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=[n for n, s in SETS.items() if not s.unlabelled])
    parser.add_argument("--ways", nargs="+", choices=RECIPES, default=list(RECIPES), help="scratch needs thawed")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=40, help="of the pretraining without labels")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args(sys.argv[1:] if "--one" not in sys.argv else [*sys.argv[1:], "--json", os.devnull])


def chosen_images(spec: Set, source: Path, target: Path, *, seed: int) -> None:
    """Lay `train/` and `test/` out as folders of links, and `unlabelled/` beside them where the set asks for it.

    There the test is the same half of all images for every seed, so that one pretraining on the others serves all.
    """
    chance = random.Random(seed)
    for folder in sorted(path for path in source.iterdir() if path.is_dir()):
        images = sorted(path for path in folder.iterdir() if path.is_file())
        if spec.unlabelled:
            random.Random(0).shuffle(images)
            half = len(images) // 2
            test, others = images[:half], images[half:]
            parts = {"test": test, "unlabelled": others, "train": chance.sample(others, spec.labelled)}
        else:
            chance.shuffle(images)
            parts = {"train": images[: spec.labelled], "test": images[spec.labelled :][: spec.test]}
        for part, chosen in parts.items():
            # Unlabelled images lie outside of what finetune is given.
            place = target / part / folder.name if part != "unlabelled" else target.parent / part
            place.mkdir(parents=True, exist_ok=True)
            for image in chosen:
                (place / f"{folder.name}-{image.name}").symlink_to(image.resolve())


def _in_child(job: dict) -> list[dict]:
    """Runs in a process of their own, so that one set's memory does not burden the next."""
    command = [sys.executable, __file__, "--one", json.dumps(job)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    runs = json.loads(said.splitlines()[-1])
    for run in runs:
        print(
            f"{run['set']} seed {run['seed']} {run['way']:8} test {run['test']:.4f} {run['seconds']:.1f} s", flush=True
        )
    return runs


def _runs(job: dict) -> list[dict]:
    from tlcli.workflows import finetune
    from tlcli.workflows.request import Request, check_request

    spec = SETS[job["set"]]
    home = Path(job["home"])
    found: list[dict] = []
    for way in job["ways"]:
        settings = [f"seed={job['seed']}", *(() if spec.mirrored else UPRIGHT)]
        if way == "thawed":
            # The batch of the others.
            settings += [f"phases.1.epochs={spec.epochs}", "performance.batch=32"]
        if way == "scratch":
            settings.append(f"phases.0.epochs={max(spec.epochs, found[-1]['epochs'])}")
        if way == "scratch-long":
            settings.append(f"phases.0.epochs={LONGER * spec.epochs}")
        options = {"data.path": str(home / "data"), "model.name": job["model"]}
        request = Request(
            recipe=RECIPES[way],
            settings=tuple(settings),
            options=options,
            out=home / f"{Path(job['model']).stem}-{way}",
        )
        _, note = finetune.finetune(request, check_request(request), lambda _: None)
        found.append(
            {
                "set": job["set"],
                "seed": job["seed"],
                "way": way,
                **{split: note.scores[split]["accuracy"] for split in ("val", "test")},
                "seconds": note.seconds["total"],
                "epochs": sum(phase["epochs"] for phase in note.phases),
                "kept": [phase["name"] for phase in note.phases if phase["kept"]],
            }
        )
    return found


def summary(runs: list[dict]) -> dict:
    """Mean and standard deviation of the test accuracy, and median seconds, of every set, model and way."""
    table: dict[str, dict] = {}
    for run in runs:
        key = f"{run['set']} {run['model']}"
        table.setdefault(key, {}).setdefault(run["way"], []).append(run)
    return {
        key: {
            way: {
                "seeds": len(found),
                "test_mean": round(statistics.mean(run["test"] for run in found), 4),
                "test_std": round(statistics.stdev(run["test"] for run in found), 4) if len(found) > 1 else None,
                "seconds_median": round(statistics.median(run["seconds"] for run in found), 1),
            }
            for way, found in ways.items()
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
