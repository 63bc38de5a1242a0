"""The pass through the frozen layers: TensorFlow, as in a run, beside OpenVINO in float32 and in bfloat16.

Prints images per second and the seconds of the preparation: for TensorFlow, tracing and the first batch; for OpenVINO,
import, conversion, compilation and the first batch. Batches of all sides alternate. A network whose results are in the
JSON file is not measured again.

    python benchmarks/prefix_runtimes.py --json results-prefix-runtimes.json
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tlcli.evaluate.runtimes.openvino import import_openvino
from tlcli.features.frozen import PASS_BATCH, FrozenModel
from tlcli.model.backbone import build
from tlcli.model.classifier import assemble, lower_model
from tlcli.model.head import POOLED
from tlcli.recipe.schema import HeadSpec
from tlcli.zoo import catalogue

ROUNDS = 5
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "mobilenet_v2_035": ("mobilenet_v2", {"alpha": 0.35}),
    "mobilenet_v2": ("mobilenet_v2", {}),
    "efficientnet_lite0": ("efficientnet_lite0", {}),
    "resnet50": ("resnet50", {}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=tuple(NETWORKS), choices=tuple(NETWORKS))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", type=Path, help="results, read first if they exist")
    args = parser.parse_args()
    results = json.loads(args.json.read_text(encoding="utf-8")) if args.json and args.json.exists() else {}
    for name in args.networks:
        if name not in results:
            results[name] = measure(*NETWORKS[name], rounds=args.rounds)
            if args.json:
                args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        for side, row in results[name].items():
            print(f"{name:<20} {side:<20} {json.dumps(row)}", flush=True)


def measure(card_name: str, arguments: dict[str, Any], *, rounds: int) -> dict[str, dict[str, float]]:
    """Images per second, CPU seconds per image, and seconds of preparation of each side, for random weights."""
    card = catalogue.find(card_name)
    backbone = build(card, size=(224, 224), arguments=arguments, weights="random")
    classifier = assemble(backbone, HeadSpec(), classes=("a", "b"), resize="crop")
    lower = lower_model(classifier, [POOLED])
    images = np.random.default_rng(0).integers(0, 256, (PASS_BATCH, 224, 224, 3), np.uint8)
    sides: dict[str, Callable[[], Any]] = {}
    rows: dict[str, dict[str, float]] = {}

    def prepare(side: str, make: Callable[[], Callable[[], Any]]) -> None:
        began = time.perf_counter(), time.process_time()
        sides[side] = make()
        sides[side]()
        rows[side] = {
            "preparation_s": time.perf_counter() - began[0],
            "preparation_cpu_s": time.process_time() - began[1],
        }

    def tensorflow() -> Callable[[], Any]:
        model = FrozenModel(None, lower)
        return lambda: model.predict_on_batch(images)

    prepare("tensorflow", tensorflow)
    for precision in ("f32", "bf16"):
        prepare(f"openvino {precision}", lambda precision=precision: with_openvino(lower, images, precision))
    expected = sides["tensorflow"]()
    seconds: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side, compute in sides.items():
            began = time.perf_counter(), time.process_time()
            outputs = compute()
            seconds[side].append((time.perf_counter() - began[0], time.process_time() - began[1]))
            rows[side]["largest_difference"] = float(np.abs(outputs - expected).max() / np.abs(expected).max())
    for side, times in seconds.items():
        wall, cpu = (statistics.median(column) for column in zip(*times, strict=True))
        rows[side] |= {"images_per_s": PASS_BATCH / wall, "cpu_s_per_image": cpu / PASS_BATCH}
    return {side: {key: round(value, 5) for key, value in row.items()} for side, row in rows.items()}


def with_openvino(lower: keras.Model, images: np.ndarray, precision: str) -> Callable[[], Any]:
    """The frozen layers, converted and compiled by OpenVINO."""
    openvino = import_openvino()
    with tempfile.TemporaryDirectory() as folder:
        lower.export(f"{folder}/lower.xml", format="openvino", verbose=False)
        settings = {"INFERENCE_NUM_THREADS": os.cpu_count() or 1, "INFERENCE_PRECISION_HINT": precision}
        compiled = openvino.Core().compile_model(f"{folder}/lower.xml", "CPU", settings)
    return lambda: compiled(images.astype(np.float32))[0]


if __name__ == "__main__":
    main()
