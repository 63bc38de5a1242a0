"""Compare tlcli with a two-phase Keras script on the same images, split, weights and input size.

For every set of images, the script lays out the split as folders `train/ val/ test/` of hard links. Then it runs both
programs alternately, `--rounds` times, as separate processes. Every tlcli run starts with empty caches. In the first
round it runs twice more with full caches: once unchanged, once without reusing results. It prints one line per run and
writes JSON; after an interruption, the same command resumes.

    python benchmarks/against_keras.py FLOWERS TRASH --alpha 0.35 --weights FILE.weights.h5 --json results.json
    python benchmarks/against_keras.py FLOWERS TRASH --model efficientnet_lite0 --json results.json

`--images` takes that many of each set, as many of each class as possible. `--script-epochs` lets the script train fewer
epochs than its ten in each phase, and adds the seconds of those that are missing, each like the mean of the epochs
after the first: its accuracy then says nothing.

Without images, it uses scikit-learn's digits and random weights. That compares times, but says nothing about transfer.
"""

import argparse
import csv
import itertools
import json
import math
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tlcli.recipe.schema import QUALITIES
from tlcli.workflows.demo import write_digits
from tlcli.zoo import catalogue

HERE = Path(__file__).resolve().parent
SCRIPT = HERE / "keras_two_phase.py"
SCRIPT_NAME = "keras two-phase"
# Epochs of each of its phases.
SCRIPT_EPOCHS = 10
SUFFIXES = (".jpg", ".jpeg", ".png")
# Suffixes of program names in the results: full caches, and full caches without reused results.
WARM, ANEW = ", warm", ", warm, trained anew"


def main() -> None:
    args = _arguments()
    results = json.loads(args.json.read_text(encoding="utf-8")) if args.json and args.json.is_file() else {"sets": {}}
    with tempfile.TemporaryDirectory() as home:
        if catalogue.find(args.model).kind == "package":
            args.weights, args.arch = None, str(_write_network(args, Path(home) / "network.keras"))
        for data in args.data or [write_digits(Path(home) / "digits")]:
            set_results = results["sets"].setdefault(data.name, {"runs": []})
            images = _some_of(data, args.images, Path(home) / "images" / data.name) if args.images else data
            folders, set_results["counts"] = _split_folders(images, Path(home) / data.name)
            for job in _jobs(args)[len(set_results["runs"]) :]:
                run = _run_script(args, folders) if job == SCRIPT_NAME else _run_tlcli(args, job, folders, Path(home))
                print(f"{data.name:<12} {_format(run)}", flush=True)
                set_results["runs"].append(run)
                set_results["summary"] = _summarise(set_results["runs"])
                results |= {"machine": _machine(), "times_faster": _geometric_means(results["sets"])}
                if args.json:
                    args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({name: set_results["summary"] for name, set_results in results["sets"].items()}, indent=1))
    print(json.dumps(results["times_faster"], indent=1))


def _jobs(args: argparse.Namespace) -> list[str]:
    """The programs to run on one set of images, in order. Runs with a suffix reuse the caches of the run before."""
    jobs = []
    for number in range(args.rounds):
        jobs += [SCRIPT_NAME] if number < args.script_rounds else []
        for recipe in args.recipes:
            jobs += [recipe, f"{recipe}{WARM}", f"{recipe}{ANEW}"] if number == 0 else [recipe]
    return jobs


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="*", help="folders of class folders; default: digits")
    parser.add_argument("--model", default="mobilenet_v2")
    parser.add_argument("--arch", default="MobileNetV2", help="the same network in keras.applications")
    parser.add_argument("--alpha", type=float)
    parser.add_argument("--weights", default="random")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--fine-tune-at", type=int, default=100, help="layer from which the script trains in phase 2")
    parser.add_argument(
        "--recipes", nargs="+", default=["head-only", *QUALITIES], help="recipes, and qualities of the default one"
    )
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="as in tlcli finetune")
    parser.add_argument("--script", type=Path, default=SCRIPT, help="another script with the same arguments and output")
    parser.add_argument("--images", type=int, help="number of images of each set; default: all")
    parser.add_argument("--script-epochs", type=int, default=SCRIPT_EPOCHS, choices=range(2, SCRIPT_EPOCHS + 1))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--script-rounds", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if not args.data:
        args.alpha, args.size = 0.35, 64
    return args


def _write_network(args: argparse.Namespace, path: Path) -> Path:
    """Write a network that keras.applications lacks, for input from -1 to 1 as the script scales it."""
    subprocess.run([sys.executable, "-c", _WRITE_NETWORK, args.model, str(args.size), str(path)], check=True)
    return path


_WRITE_NETWORK = """
import sys
import keras
from tlcli.model.backbone import build, preprocess
from tlcli.zoo import catalogue
card, side = catalogue.find(sys.argv[1]), int(sys.argv[2])
network = build(card, size=(side, side), arguments={}, weights=None).network
image = keras.Input((side, side, 3))
pixels = keras.layers.Rescaling(127.5, offset=127.5)(image)
keras.Model(image, network.call(preprocess(pixels, card.preprocessing))).save(sys.argv[3])
"""


def _some_of(data: Path, count: int, home: Path) -> Path:
    """Lay out so many images of a set: the first of each class in random order, then the second, and so on."""
    by_class: dict[str, list[Path]] = {}
    for path in sorted(data.rglob("*")):
        if path.suffix.lower() in SUFFIXES:
            by_class.setdefault(path.parent.name, []).append(path)
    for paths in by_class.values():
        random.Random(0).shuffle(paths)
    in_turn = (paths[turn] for turn in itertools.count() for paths in by_class.values() if turn < len(paths))
    for number, path in enumerate(itertools.islice(in_turn, min(count, sum(map(len, by_class.values()))))):
        target = home / path.parent.name / f"{number}{path.suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return home


def _split_folders(data: Path, home: Path) -> tuple[dict[str, Path], dict[str, int]]:
    """Lay out tlcli's own split of `data` as folders, so that both programs use the same split; count its images."""
    command = [sys.executable, "-c", _PRINT_SPLIT, str(data)]
    rows = csv.DictReader(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines())
    counts = {"train": 0, "val": 0, "test": 0}
    for number, row in enumerate(rows):
        source = (data / row["path"]).resolve()
        target = home / row["split"] / row["label"] / f"{number:06d}{source.suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(source, target) if source.stat().st_dev == home.stat().st_dev else target.write_bytes(
            source.read_bytes()
        )
        counts[row["split"]] += 1
    return {split: home / split for split in counts}, counts


_PRINT_SPLIT = """
import sys
from pathlib import Path
from tlcli.data.pixels import open_cache
from tlcli.data.source import scan
from tlcli.data.split import make_splits
from tlcli.paths import cache_dir
from tlcli.quality.near_groups import find_near_groups
from tlcli.report.folder import splits_csv
index = scan(Path(sys.argv[1]))
pixels = open_cache(index, size=(32, 32), mode="crop", folder=cache_dir() / "pixels")
near = find_near_groups(index, pixels)
print(splits_csv(make_splits(index, val=0.15, test=0.15, near=near), index.classes), end="")
"""


def _run_script(args: argparse.Namespace, folders: dict[str, Path]) -> dict[str, object]:
    command = [
        sys.executable,
        str(args.script),
        str(folders["train"]),
        str(folders["val"]),
        "--test",
        str(folders["test"]),
    ]
    command += ["--arch", args.arch, "--weights", str(args.weights), "--size", str(args.size)]
    command += ["--fine-tune-at", str(args.fine_tune_at)]
    command += ["--alpha", str(args.alpha)] if args.alpha else []
    command += ["--epochs", str(args.script_epochs), str(args.script_epochs)]
    measured_s, output, memory_mb, _ = _time(command)
    scores = json.loads(output.strip().splitlines()[-1])
    missing = SCRIPT_EPOCHS - args.script_epochs
    added_s = missing * sum(statistics.fmean(seconds[1:]) for seconds in scores["epoch_s"])
    return {
        "program": SCRIPT_NAME,
        "wall_s": round(measured_s + added_s, 1),
        "measured_s": measured_s,
        "epochs": 2 * [args.script_epochs],
        "phase_s": scores["phase_s"],
        "val_accuracy": scores["val_accuracy"],
        "test_accuracy": scores["test_accuracy"],
        "peak_memory_mb": memory_mb,
    }


def _run_tlcli(args: argparse.Namespace, job: str, folders: dict[str, Path], home: Path) -> dict[str, object]:
    recipe, cache = job.partition(",")[0], home / "cache"
    if not job.endswith((WARM, ANEW)):
        shutil.rmtree(cache, ignore_errors=True)
    command = [sys.executable, "-m", "tlcli", "finetune", str(folders["train"].parent), "--model", args.model]
    command += ["--weights", str(args.weights)] if args.weights else []
    command += ["--quality", recipe, "--json"] if recipe in QUALITIES else ["--recipe", recipe, "--json"]
    command += ["--set", f"data.size=[{args.size},{args.size}]", *(f"--set={value}" for value in args.set)]
    command += ["--set", f"model.arguments.alpha={args.alpha}"] if args.alpha else []
    command += ["--set", "performance.reuse_results=false"] if job.endswith(ANEW) else []
    with tempfile.TemporaryDirectory(dir=home) as out:
        command += ["--out", str(Path(out) / "run")]
        # The first line about the head appears when the linear probe is solved.
        wall_s, output, memory_mb, probe_s = _time(command, until="head: ", TLCLI_CACHE=str(cache))
    record = json.loads(output)
    return {
        "program": f"tlcli {job}",
        "wall_s": wall_s,
        "probe_s": probe_s,
        "prefix_s": record["seconds"]["prefix"],
        "phase_s": record["seconds"]["phases"],
        "val_accuracy": record["scores"]["val"]["accuracy"],
        "test_accuracy": record["scores"]["test"]["accuracy"],
        "peak_memory_mb": memory_mb,
        "decisions": [phase["reason"] for phase in record["phases"]],
    }


def _time(command: list[str], until: str | None = None, **environment: str) -> tuple[float, str, int, float | None]:
    """Run a command and measure it.

    Args:
        command: The command.
        until: Start of a line on stderr to wait for.
        environment: Additional environment variables.

    Returns:
        Wall time in seconds, stdout, peak memory in megabytes, and the seconds until the line on stderr, or None.
    """
    with tempfile.TemporaryFile("w+") as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
        )
        lines, reached_s = [], None
        for line in process.stderr or ():
            lines.append(line)
            if until and reached_s is None and line.startswith(until):
                reached_s = round(time.perf_counter() - started, 1)
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = round(time.perf_counter() - started, 1)
        output.seek(0)
        if status:
            raise SystemExit(f"{' '.join(command)}\n{''.join(lines)}")
        return wall_s, output.read(), usage.ru_maxrss // 1024, reached_s


def _format(run: dict[str, object]) -> str:
    return (
        f"{run['program']:<50} {run['wall_s']:>7} s  val {run['val_accuracy']:.4f}  test {run['test_accuracy']:.4f}"
        f"  {run['peak_memory_mb']} MB"
    )


def _summarise(runs: list[dict[str, object]]) -> dict[str, dict[str, float]]:
    """Medians per program, and the factor by which each is faster than the script."""
    programs = list(dict.fromkeys(str(run["program"]) for run in runs))
    summary = {
        program: {
            key: round(statistics.median(float(str(run[key])) for run in runs if run["program"] == program), 4)
            for key in ("wall_s", "probe_s", "val_accuracy", "test_accuracy", "peak_memory_mb")
            if all(run.get(key) is not None for run in runs if run["program"] == program)
        }
        for program in programs
    }
    if SCRIPT_NAME in summary:
        for values in summary.values():
            values["times_faster"] = round(summary[SCRIPT_NAME]["wall_s"] / values["wall_s"], 2)
            if "probe_s" in values:
                values["probe_times_faster"] = round(summary[SCRIPT_NAME]["wall_s"] / values["probe_s"], 2)
    return summary


def _geometric_means(sets: dict[str, dict]) -> dict[str, float]:
    """Geometric means over all sets of the factor by which each program is faster than the script."""
    factors: dict[str, list[float]] = {}
    for set_results in sets.values():
        for program, values in set_results.get("summary", {}).items():
            factors.setdefault(program, []).append(values.get("times_faster", math.nan))
    return {program: round(statistics.geometric_mean(values), 2) for program, values in factors.items()}


def _machine() -> dict[str, object]:
    import keras
    import tensorflow as tf

    model = next(
        (line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.processor()
    )
    return {"cpu": model, "cpus": os.cpu_count(), "keras": keras.__version__, "tensorflow": tf.__version__}


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []


if __name__ == "__main__":
    main()
