"""tlcli beside a two-phase Keras script: same images, split, weights and input size, in one sitting.

For every set of images: builds the split as `train/ val/ test/` folders of links, then runs both as programs of their
own, one after the other, `--rounds` times, each tlcli run with empty caches and, the first time, twice more with full
ones: as it is, and with everything trained anew. Prints one table a set and writes JSON, where the same command goes
on when it was stopped.

    python benchmarks/against_keras.py FLOWERS TRASH --alpha 0.35 --weights FILE.weights.h5 --json results.json

Without images it uses scikit-learn's digits and random weights: that shows the times, not what pretraining is worth.
"""

import argparse
import csv
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tlcli.workflows.demo import write_digits

HERE = Path(__file__).resolve().parent
SCRIPT = HERE / "keras_two_phase.py"
SCRIPT_NAME = "keras two-phase"
WARM, ANEW = ", warm", ", warm, trained anew"


def main() -> None:
    args = _arguments()
    found = json.loads(args.json.read_text(encoding="utf-8")) if args.json and args.json.is_file() else {"sets": {}}
    with tempfile.TemporaryDirectory() as home:
        for data in args.data or [write_digits(Path(home) / "digits")]:
            of_set = found["sets"].setdefault(data.name, {"runs": []})
            folders, of_set["counts"] = _split_folders(data, Path(home) / data.name)
            for job in _jobs(args)[len(of_set["runs"]) :]:
                run = _script(args, folders) if job == SCRIPT_NAME else _tlcli(args, job, folders, Path(home))
                print(f"{data.name:<12} {_line(run)}", flush=True)
                of_set["runs"].append(run)
                of_set["summary"] = _summary(of_set["runs"])
                found |= {"machine": _machine(), "times_faster": _geometric_means(found["sets"])}
                if args.json:
                    args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({name: of_set["summary"] for name, of_set in found["sets"].items()}, indent=1))
    print(json.dumps(found["times_faster"], indent=1))


def _jobs(args: argparse.Namespace) -> list[str]:
    """What runs after what for one set; `, warm` and `trained anew` are the run before once more, with full caches."""
    jobs = []
    for number in range(args.rounds):
        jobs += [SCRIPT_NAME] if number < args.script_rounds else []
        for recipe in args.recipes:
            jobs += [recipe, f"{recipe}{WARM}", f"{recipe}{ANEW}"] if number == 0 else [recipe]
    return jobs


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="*")
    parser.add_argument("--model", default="mobilenet_v2")
    parser.add_argument("--arch", default="MobileNetV2", help="the same network in keras.applications")
    parser.add_argument("--alpha", type=float)
    parser.add_argument("--weights", default="random")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--recipes", nargs="+", default=["head-only", "unfreeze-until-plateau"])
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="as of tlcli finetune")
    parser.add_argument("--script", type=Path, default=SCRIPT, help="another script with the same arguments and output")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--script-rounds", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if not args.data:
        args.alpha, args.size = 0.35, 64
    return args


def _split_folders(data: Path, home: Path) -> tuple[dict[str, Path], dict[str, int]]:
    """Lay tlcli's own split of DATA out as folders, so that both programs see the same three sets."""
    command = [sys.executable, "-c", _PLAN, str(data)]
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


_PLAN = """
import sys
from pathlib import Path
from tlcli.data import folder, split
from tlcli.report.folder import splits_csv
index = folder.scan(Path(sys.argv[1]))
print(splits_csv(split.make(index, val=0.15, test=0.15), index.classes), end="")
"""


def _script(args: argparse.Namespace, folders: dict[str, Path]) -> dict[str, object]:
    command = [
        sys.executable,
        str(args.script),
        str(folders["train"]),
        str(folders["val"]),
        "--test",
        str(folders["test"]),
    ]
    command += ["--arch", args.arch, "--weights", str(args.weights), "--size", str(args.size)]
    command += ["--alpha", str(args.alpha)] if args.alpha else []
    wall, output, memory, _ = _timed(command)
    found = json.loads(output.strip().splitlines()[-1])
    return {
        "program": SCRIPT_NAME,
        "wall_s": wall,
        "phase_s": found["phase_s"],
        "val_accuracy": found["val_accuracy"],
        "test_accuracy": found["test_accuracy"],
        "peak_memory_mb": memory,
    }


def _tlcli(args: argparse.Namespace, job: str, folders: dict[str, Path], home: Path) -> dict[str, object]:
    recipe, cache = job.partition(",")[0], home / "cache"
    if not job.endswith((WARM, ANEW)):
        shutil.rmtree(cache, ignore_errors=True)
    command = [sys.executable, "-m", "tlcli", "finetune", str(folders["train"].parent), "--model", args.model]
    command += ["--weights", str(args.weights), "--recipe", recipe, "--json"]
    command += ["--set", f"data.size=[{args.size},{args.size}]", *(f"--set={value}" for value in args.set)]
    command += ["--set", f"model.arguments.alpha={args.alpha}"] if args.alpha else []
    command += ["--set", "performance.reuse_results=false"] if job.endswith(ANEW) else []
    with tempfile.TemporaryDirectory(dir=home) as out:
        command += ["--out", str(Path(out) / "run")]
        # The first line about the head says that the linear probe is solved.
        wall, output, memory, probe = _timed(command, until="head: ", TLCLI_CACHE=str(cache))
    found = json.loads(output)
    return {
        "program": f"tlcli {job}",
        "wall_s": wall,
        "probe_s": probe,
        "prefix_s": found["seconds"]["prefix"],
        "phase_s": found["seconds"]["phases"],
        "val_accuracy": found["scores"]["val"]["accuracy"],
        "test_accuracy": found["scores"]["test"]["accuracy"],
        "peak_memory_mb": memory,
        "decisions": [phase["reason"] for phase in found["phases"]],
    }


def _timed(command: list[str], until: str | None = None, **environment: str) -> tuple[float, str, int, float | None]:
    """Of a process: wall seconds, stdout, peak memory in megabytes, and seconds until a line of stderr begins so."""
    with tempfile.TemporaryFile("w+") as output:
        began = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
        )
        said, reached = [], None
        for line in process.stderr or ():
            said.append(line)
            if until and reached is None and line.startswith(until):
                reached = round(time.perf_counter() - began, 1)
        _, status, usage = os.wait4(process.pid, 0)
        wall = round(time.perf_counter() - began, 1)
        output.seek(0)
        if status:
            raise SystemExit(f"{' '.join(command)}\n{''.join(said)}")
        return wall, output.read(), usage.ru_maxrss // 1024, reached


def _line(run: dict[str, object]) -> str:
    return (
        f"{run['program']:<50} {run['wall_s']:>7} s  val {run['val_accuracy']:.4f}  test {run['test_accuracy']:.4f}"
        f"  {run['peak_memory_mb']} MB"
    )


def _summary(runs: list[dict[str, object]]) -> dict[str, dict[str, float]]:
    """Medians by program, and how many times faster than the script each is."""
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
    """Times faster than the script over all sets, by program."""
    found: dict[str, list[float]] = {}
    for of_set in sets.values():
        for program, values in of_set.get("summary", {}).items():
            found.setdefault(program, []).append(values.get("times_faster", math.nan))
    return {program: round(statistics.geometric_mean(each), 2) for program, each in found.items()}


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
