"""The default recipe with settings varied: what they cost and bring, over several sets of images and seeds.

How defaults were chosen; docs/adr/010 has what came out. All runs share one cache, so that their passes are not counted
but for those of random renderings. Finished runs are kept in the JSON file; the same command goes on where it stopped.

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
    parser.add_argument("--vary", action="append", required=True, metavar="NAME:A.B=C;D.E=F")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    found = json.loads(args.json.read_text(encoding="utf-8")) if args.json.is_file() else {"runs": []}
    known = {(run["set"], run["seed"], run["variant"]) for run in found["runs"]}
    with tempfile.TemporaryDirectory() as home:
        for data in args.data:
            for seed in range(args.seeds):
                for name, _, settings in (variant.partition(":") for variant in args.vary):
                    if (data.name, seed, name) in known:
                        continue
                    run = _run(args, data, Path(home), [f"seed={seed}", *filter(None, settings.split(";"))])
                    found["runs"].append({"set": data.name, "seed": seed, "variant": name, **run})
                    print(found["runs"][-1], flush=True)
                    found["summary"] = _summary(found["runs"])
                    args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found["summary"], indent=1))


def _run(args: argparse.Namespace, data: Path, home: Path, settings: list[str]) -> dict[str, object]:
    with tempfile.TemporaryDirectory(dir=home) as out:
        command = [sys.executable, "-m", "tlcli", "finetune", str(data), "--model", args.model, "--quiet"]
        command += ["--weights", args.weights, "--json", "--out", str(Path(out) / "run")]
        command += [
            f"--set={each}"
            for each in (f"model.arguments.alpha={args.alpha}", "performance.reuse_results=false", *settings)
        ]
        environment = os.environ | {"TLCLI_CACHE": str(home / "cache")}
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    note = json.loads(done.stdout)
    return {
        "test": note["scores"]["test"]["accuracy"],
        "val": note["scores"]["val"]["accuracy"],
        "val_loss": note["phases"][-1]["val_loss"],
        "kept": [phase["kept"] for phase in note["phases"][1:]],
        "phase_s": sum(note["seconds"]["phases"]),
        "prefix_s": note["seconds"]["prefix"],
    }


def _summary(runs: list[dict[str, object]]) -> dict[str, dict[str, object]]:
    """By variant: test accuracy of each set, their mean, and median seconds of thawing; means over seeds."""
    summary: dict[str, dict[str, object]] = {}
    for variant in dict.fromkeys(str(run["variant"]) for run in runs):
        mine = [run for run in runs if run["variant"] == variant]
        sets = {
            name: statistics.fmean(float(str(run["test"])) for run in mine if run["set"] == name)
            for name in dict.fromkeys(str(run["set"]) for run in mine)
        }
        seconds = statistics.median(float(str(run["phase_s"])) for run in mine)
        losses = statistics.fmean(float(str(run["val_loss"])) for run in mine)
        summary[variant] = {
            "test": {name: round(value, 4) for name, value in sets.items()},
            "mean_test": round(statistics.fmean(sets.values()), 4),
            "mean_val_loss": round(losses, 4),
            "median_phase_s": round(seconds, 1),
        }
    return summary


if __name__ == "__main__":
    main()
