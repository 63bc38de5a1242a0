"""Time tlcli on JAX, on whatever accelerator it finds: start, speed, and a second run that finds compiled programs.

Every run is a process of its own. The first of each kind starts with empty caches. The default run is timed as a whole.
`resnet50` and `full` train the whole network: what counts is the speed of the epochs after the first, and the time of
the first, with its compilation. Without an accelerator, compiled programs and seconds on a CPU are the result.

    python benchmarks/accelerator.py FLOWERS --json results-accelerator.json
    python benchmarks/accelerator.py FLOWERS --jobs default --device gpu:all
"""

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# Words after `tlcli finetune DATA`, by kind of run.
JOBS = {
    "default": (),
    "resnet50": ("--model", "resnet50", "--weights", "random", "--recipe", "from-scratch", "--epochs", "3"),
    "full": ("--recipe", "full", "--epochs", "3"),
}


def main() -> None:
    """Run all jobs, cold and warm; print one line per run and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    result: dict[str, Any] = {"machine": platform.machine(), "cpus": os.cpu_count(), "runs": []}
    with tempfile.TemporaryDirectory() as home:
        for job in args.jobs:
            for state in ("cold", "warm"):
                out = Path(home) / f"{job}-{state}"
                # Decoded images and compiled programs are kept for the warm run, trained steps are not.
                words = [str(args.data), *JOBS[job], "--device", args.device, "--precision", args.precision]
                words += ["--set", "performance.reuse_results=false", "--set", "report=false", "--out", str(out)]
                run = _time(words, out, cache=Path(home) / f"cache-{job}")
                result["runs"].append({"job": job, "caches": state} | run)
                print(json.dumps(result["runs"][-1]), flush=True)
                if args.json:
                    args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _time(words: list[str], out: Path, *, cache: Path) -> dict[str, Any]:
    environment = {**os.environ, "KERAS_BACKEND": "jax", "TLCLI_CACHE": str(cache)}
    programs = len(list(cache.glob("compiled/*-cache")))
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "tlcli", "finetune", "--quiet", *words], check=True, env=environment)
    wall_s = time.perf_counter() - began
    record = json.loads((out / "run.json").read_text(encoding="utf-8"))
    with (out / "history.csv").open(encoding="utf-8") as stream:
        epochs = list(csv.DictReader(stream))
    return {
        "device": record["hardware"]["device"],
        "versions": record["versions"],
        "wall_s": round(wall_s, 1),
        "prefix_s": record["seconds"]["prefix"],
        "programs_compiled": len(list(cache.glob("compiled/*-cache"))) - programs,
        "epochs": [
            {key: float(row[key]) for key in ("seconds", "images_per_second")} | {"phase": row["phase"]}
            for row in epochs
        ],
        "test_accuracy": record["scores"].get("test", {}).get("accuracy"),
    }


if __name__ == "__main__":
    main()
