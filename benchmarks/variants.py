"""Compare variants of the default recipe in accuracy and time, on several sets of images and seeds.

The defaults were chosen this way; results are in docs/adr/010. All runs share one cache, so that forward passes below
the cut point are not counted, except those of random views. Finished runs are stored in the JSON file; after an
interruption, the same command resumes.

    python benchmarks/variants.py FLOWERS TRASH --weights FILE.weights.h5 --alpha 0.35 --json results-variants.json \\
        --vary "one view:augment.views=1" --vary "live:augment.views=live"
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--model", default="mobilenet_v2")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--alpha", type=float, default=1.0)
    parser.add_argument("--vary", action="append", required=True, metavar="NAME:A.B=C;D.E=F", help="a variant")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    results = json.loads(args.json.read_text(encoding="utf-8")) if args.json.is_file() else {"runs": []}
    finished = {(run["set"], run["seed"], run["variant"]) for run in results["runs"]}
    with tempfile.TemporaryDirectory() as home:
        for data in args.data:
            for seed in range(args.seeds):
                for name, _, settings in (variant.partition(":") for variant in args.vary):
                    if (data.name, seed, name) in finished:
                        continue
                    run = _run(args, data, Path(home), [f"seed={seed}", *filter(None, settings.split(";"))])
                    results["runs"].append({"set": data.name, "seed": seed, "variant": name, **run})
                    print(results["runs"][-1], flush=True)
                    results["summary"] = _summarise(results["runs"])
                    args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(results["summary"], indent=1))


def _run(args: argparse.Namespace, data: Path, home: Path, settings: list[str]) -> dict[str, object]:
    with tempfile.TemporaryDirectory(dir=home) as out:
        command = [sys.executable, "-m", "tlcli", "finetune", str(data), "--model", args.model, "--quiet"]
        command += ["--weights", args.weights, "--json", "--out", str(Path(out) / "run")]
        command += [
            f"--set={setting}"
            for setting in (f"model.arguments.alpha={args.alpha}", "performance.reuse_results=false", *settings)
        ]
        environment = os.environ | {"TLCLI_CACHE": str(home / "cache")}
        process = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    record = json.loads(process.stdout)
    return {
        "test": record["scores"]["test"]["accuracy"],
        "val": record["scores"]["val"]["accuracy"],
        "val_loss": record["phases"][-1]["val_loss"],
        "kept": [phase["kept"] for phase in record["phases"][1:]],
        "phase_s": sum(record["seconds"]["phases"]),
        "prefix_s": record["seconds"]["prefix"],
    }


def _summarise(runs: list[dict[str, object]]) -> dict[str, dict[str, object]]:
    """Per variant: test accuracy of each set as mean over seeds, mean over sets, mean validation loss, median time."""
    summary: dict[str, dict[str, object]] = {}
    for variant in dict.fromkeys(str(run["variant"]) for run in runs):
        of_variant = [run for run in runs if run["variant"] == variant]
        accuracies = {
            name: statistics.fmean(float(str(run["test"])) for run in of_variant if run["set"] == name)
            for name in dict.fromkeys(str(run["set"]) for run in of_variant)
        }
        median_s = statistics.median(float(str(run["phase_s"])) for run in of_variant)
        mean_loss = statistics.fmean(float(str(run["val_loss"])) for run in of_variant)
        summary[variant] = {
            "test": {name: round(value, 4) for name, value in accuracies.items()},
            "mean_test": round(statistics.fmean(accuracies.values()), 4),
            "mean_val_loss": round(mean_loss, 4),
            "median_phase_s": round(median_s, 1),
        }
    return summary


if __name__ == "__main__":
    main()
