"""Measure the effect of recomputing BatchNorm statistics after training.

The script trains every layer with `batch_norm: train`. Then it sets the statistics of the classifier to their averages
over batches of training images without augmentation, and compares the test accuracies. Results are in docs/adr/012.

    python benchmarks/recalibration.py FLOWERS TRASH --weights FILE.weights.h5 --json results-recalibration.json
"""

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

SIZE, BATCH = 128, 64
RECIPE = """\
recipe: 1
name: statistics
phases:
  - {name: head, train: head, init: probe, epochs: 0}
  - {name: all, policy: all, batch_norm: train, schedule: one_cycle, lr: 1.0e-3, epochs: 10}
performance: {batch: 32}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--weights", required=True, help="weights of MobileNetV2 0.35 without top")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    runs = []
    with tempfile.TemporaryDirectory() as home:
        os.environ["TLCLI_CACHE"] = str(Path(home) / "cache")
        (Path(home) / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
        for data in args.data:
            for seed in range(args.seeds):
                runs.append({"set": data.name, "seed": seed} | _run(data, seed, args.weights, Path(home)))
                print(runs[-1], flush=True)
                args.json.write_text(json.dumps({"runs": runs}, indent=1) + "\n", encoding="utf-8")


def _run(data: Path, seed: int, weights: str, home: Path) -> dict[str, Any]:
    import numpy as np

    from tlcli.model import classifier, graph
    from tlcli.train import events, preparation
    from tlcli.workflows import finetune
    from tlcli.workflows.request import Request, check_request

    settings = ("model.name=mobilenet_v2", "model.arguments.alpha=0.35", f"data.size=[{SIZE},{SIZE}]", f"seed={seed}")
    settings += ("performance.reuse_results=false",)
    options = {"data.path": str(data), "model.weights": weights}
    out = home / f"{data.name}-{seed}"
    request = Request(recipe=str(home / "recipe.yaml"), settings=settings, options=options, out=out)
    resolved = check_request(request)
    _, record = finetune.finetune(request, resolved, events.ignore)
    network = preparation.choose_network(resolved.recipe, measure=graph.measure_groups)
    prepared = preparation.prepare(resolved.recipe, network, strict=False, observe=events.ignore)
    model = classifier.load(out / "model.keras").model
    splits, pixels = prepared.plan.splits, prepared.pixels

    def accuracy(images: Any) -> float:
        rows = pixels.rows_of(images)
        probabilities = np.concatenate(
            [
                np.asarray(model(pixels.array[rows[start : start + BATCH]].astype(np.float32), training=False))
                for start in range(0, len(rows), BATCH)
            ]
        )
        return float((probabilities.argmax(axis=1) == [image.label for image in images]).mean())

    before = {name: accuracy(getattr(splits, name)) for name in ("val", "test")}
    _recalibrate(model, pixels.array, np.random.default_rng(seed).permutation(pixels.rows_of(splits.train)))
    after = {name: accuracy(getattr(splits, name)) for name in ("val", "test")}
    return {"kept": record.phases[-1]["kept"], "before": before, "after": after}


def _recalibrate(model: Any, array: Any, rows: Any) -> None:
    """Set the BatchNorm statistics to their averages over batches, in place."""
    import keras
    import numpy as np

    norms = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
    model.trainable = True
    for number, start in enumerate(range(0, len(rows) - BATCH + 1, BATCH)):
        for norm in norms:
            norm.trainable, norm.momentum = True, number / (number + 1)
        model(array[rows[start : start + BATCH]].astype(np.float32), training=True)


if __name__ == "__main__":
    main()
