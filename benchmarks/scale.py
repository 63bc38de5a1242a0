"""Compare the costs that `tlcli plan --cluster` prints with measured runs, on small synthetic images.

python benchmarks/scale.py --counts 2000 20000 100000 [--json FILE]

Rates are measured on the images of each run, just before it; both begin with empty caches.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REFERENCE = 10_000
COMMON = ("-m", "mobilenet_synthetic", "--size", "64", "64", "-r", "head-only", "--json", "--quiet")


def tlcli(cache: Path, *words: object) -> tuple[dict[str, Any], float]:
    """The JSON of a command, and its seconds."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "tlcli", *map(str, words)]
    environment = {**os.environ, "TLCLI_CACHE": str(cache)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout), time.perf_counter() - began


def planned(costs: dict[str, Any], start_s: float, images: int) -> dict[str, float]:
    """The seconds of all stages, from those of ten thousand images."""
    share, seconds = images / REFERENCE, dict(costs["seconds"])
    seconds.pop("total")
    fixed = {"base": seconds["base"], "decode": start_s, "frozen": start_s}
    return {name: fixed.get(name, 0) + (value - fixed.get(name, 0)) * share for name, value in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[2000, 20_000, 100_000])
    parser.add_argument("--cluster", default="local")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="tlcli-scale-") as name:
        folder = Path(name)
        for count in sorted(options.counts):
            data = folder / f"images{count}"
            subprocess.run([sys.executable, Path(__file__).parent / "many_images.py", data, str(count)], check=True)
            plan, _ = tlcli(folder / f"plan{count}", "plan", data, *COMMON, "--cluster", options.cluster)
            rates, costs = plan["scale"]["rates"], plan["scale"]["costs"][0]
            print(json.dumps(rates))
            run, total = tlcli(
                folder / f"cache{count}",
                "finetune",
                data,
                *COMMON,
                "--cluster",
                options.cluster,
                "-o",
                folder / f"run{count}",
            )
            expected = planned(costs, rates["start_s"], count)
            row = {
                "images": count,
                "planned_s": round(sum(expected.values()), 1),
                "measured_s": round(total, 1),
                "error": round(sum(expected.values()) / total - 1, 3),
                "planned": {key: round(value, 1) for key, value in expected.items()},
                "prefix_s": run["seconds"]["prefix"],
                "phases_s": run["seconds"]["phases"],
            }
            rows.append(row)
            print(json.dumps(row), flush=True)
    if options.json:
        options.json.write_text(json.dumps({"rates": rates, "runs": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
