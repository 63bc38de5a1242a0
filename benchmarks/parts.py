"""Compare the times of parts of a run with stock Keras: decoding, warps, epochs of the head and of the upper layers.

Both sides are timed alternately, in one process if possible, and their medians are compared. Prints a table and writes
JSON.

    python benchmarks/parts.py FLOWERS --alpha 0.35 --weights FILE.weights.h5 --json results-parts.json
"""

import argparse
import csv
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from tlcli.data import pixels
from tlcli.data.augment import PRESETS, Augment, Bounds
from tlcli.data.source import scan
from tlcli.recipe import load

ROUNDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a folder of class folders of JPEG files")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--alpha", type=float, default=1.0)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        large = _enlarge_images(args.data, home / "large")
        for name, job in {
            "decode and resize": lambda: _time_decoding(args.data, args.size, home),
            "decode and resize, 12 megapixels": lambda: _time_decoding(large, args.size, home),
            "warp": lambda: _time_warps(args.size),
            "head epochs": lambda: _time_head(args, home),
            "tail epoch": lambda: _time_tail(args, home),
        }.items():
            results[name] = job()
            print(f"{name:<34}", json.dumps(results[name]), flush=True)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def _time_alternately(**jobs: Callable[[], object]) -> dict[str, float]:
    """Median seconds of each job over `ROUNDS` alternating calls, after one unmeasured call of each."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(1 + ROUNDS):
        for name, job in jobs.items():
            started = time.perf_counter()
            job()
            if number:
                seconds[name].append(time.perf_counter() - started)
    return {name: round(statistics.median(times), 4) for name, times in seconds.items()}


def _time_decoding(data: Path, size: int, home: Path) -> dict[str, float]:
    index = scan(data)
    cache = home / "pixels"

    def decode_with_tlcli() -> None:
        shutil.rmtree(cache, ignore_errors=True)
        pixels.open_cache(index, size=(size, size), mode="crop", folder=cache, worker_count=2)

    def decode_with_keras() -> None:
        options = tf.data.Options()
        options.threading.private_threadpool_size = 2
        dataset = keras.utils.image_dataset_from_directory(
            data, image_size=(size, size), crop_to_aspect_ratio=True, verbose=False
        )
        for _ in dataset.with_options(options):
            pass

    seconds = _time_alternately(tlcli=decode_with_tlcli, keras=decode_with_keras)
    return {"images": len(index.images), **seconds, "times_faster": round(seconds["keras"] / seconds["tlcli"], 2)}


def _enlarge_images(data: Path, home: Path) -> Path:
    """Copy 24 of the images at 12 megapixels, the size of phone photos."""
    for label in ("a", "b"):
        (home / label).mkdir(parents=True)
    for number, path in enumerate(sorted(data.rglob("*.jpg"))[:24]):
        with Image.open(path) as image:
            image.convert("RGB").resize((4000, 3000)).save(home / "ab"[number % 2] / f"{number}.jpg", quality=90)
    return home


def _time_warps(size: int) -> dict[str, float]:
    """The light preset on 64 images."""
    bounds = Bounds(**PRESETS["light"])
    rotation, zoom, shift = bounds.rotation / 360, bounds.zoom, bounds.shift
    layers = [
        keras.layers.RandomFlip("horizontal"),
        keras.layers.RandomRotation(rotation, fill_mode="nearest"),
        keras.layers.RandomZoom(zoom, fill_mode="nearest"),
        keras.layers.RandomTranslation(shift, shift, fill_mode="nearest"),
    ]
    single, stacked = (
        tf.function(lambda x, layer=layer: layer(x, training=True))
        for layer in (Augment(bounds), keras.Sequential(layers))
    )
    images = tf.constant(np.random.default_rng(0).uniform(0, 255, (64, size, size, 3)), tf.float32)
    seconds = _time_alternately(tlcli=lambda: single(images), keras=lambda: stacked(images))
    return {"images": 64, **seconds, "times_faster": round(seconds["keras"] / seconds["tlcli"], 2)}


def _finetune(args: argparse.Namespace, home: Path, cache: str, recipe: str, *settings: str) -> Path:
    """Run tlcli with the named cache, which is kept for later runs; return the run folder."""
    out = home / f"run-{len(list(home.glob('run-*')))}"
    command = [sys.executable, "-m", "tlcli", "finetune", str(args.data), "--model", "mobilenet_v2"]
    command += ["--weights", str(args.weights), "--out", str(out), "--recipe", recipe, "--quiet", "--json"]
    command += [f"--set={setting}" for setting in (f"model.arguments.alpha={args.alpha}", *settings)]
    command += ["--set", f"data.size=[{args.size},{args.size}]", "--set", "performance.reuse_results=false"]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"TLCLI_CACHE": str(home / cache)})
    return out


def _epoch_seconds(run: Path) -> list[float]:
    with (run / "history.csv").open(encoding="utf-8", newline="") as file:
        return [float(row["seconds"]) for row in csv.DictReader(file)]


def _time_head(args: argparse.Namespace, home: Path) -> dict[str, float]:
    """Twenty epochs of the head with Adam, validation included, and the forward pass that computes their features."""
    settings = ("phases.0.init=random", "phases.0.epochs=20", "augment.preset=none")
    passes, epochs = [], []
    for number in range(3):
        run = _finetune(args, home, f"cache-{number}", "head-only", *settings)
        epochs.append(sum(_epoch_seconds(run)))
        passes.append(json.loads((run / "run.json").read_text(encoding="utf-8"))["seconds"]["prefix"])
    seconds = {"twenty_epochs": statistics.median(epochs), "pass": statistics.median(passes)}
    return {key: round(value, 3) for key, value in seconds.items()} | {
        "share": round(seconds["twenty_epochs"] / seconds["pass"], 3)
    }


def _time_tail(args: argparse.Namespace, home: Path) -> dict[str, float]:
    """An epoch that trains the last third of the layers: on cached features, and in stock Keras."""
    settings = ("phases.1.policy=fixed", "phases.1.step=1", "phases.1.train=top:7", "phases.1.epochs=4")
    run = _finetune(args, home, "cache-0", load.DEFAULT, "performance.batch=32", *settings)
    with (run / "splits.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] != "test"]
    for number, row in enumerate(rows):
        source = args.data / row["path"]
        target = home / "split" / row["split"] / row["label"] / f"{number}{source.suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    tlcli_s, keras_s = [], []
    for _ in range(3):
        run = _finetune(args, home, "cache-0", load.DEFAULT, "performance.batch=32", *settings)
        # The first epoch traces the network and is left out on both sides.
        tlcli_s += _epoch_seconds(run)[1:]
        keras_s += _time_stock_epochs(args, home / "split")[1:]
    seconds = {"tlcli": statistics.median(tlcli_s), "keras": statistics.median(keras_s)}
    return {key: round(value, 3) for key, value in seconds.items()} | {
        "share": round(seconds["tlcli"] / seconds["keras"], 3)
    }


def _time_stock_epochs(args: argparse.Namespace, split: Path) -> list[float]:
    """Seconds of two epochs of a stock Keras model, trained from block 11 upwards, BatchNorm in inference mode."""
    size = (args.size, args.size)
    train, val = (
        keras.utils.image_dataset_from_directory(split / name, image_size=size, verbose=False).prefetch(2)
        for name in ("train", "val")
    )
    network = keras.applications.MobileNetV2(
        weights=args.weights, alpha=args.alpha, include_top=False, input_shape=(*size, 3)
    )
    names = [layer.name for layer in network.layers]
    for layer in network.layers[: names.index("block_11_expand")]:
        layer.trainable = False
    x = image = keras.Input((*size, 3))
    for layer in (keras.layers.RandomFlip("horizontal"), keras.layers.RandomRotation(0.1)):
        x = layer(x)
    x = network(keras.layers.Rescaling(1 / 127.5, offset=-1)(x), training=False)
    x = keras.layers.Dropout(0.2)(keras.layers.GlobalAveragePooling2D()(x))
    model = keras.Model(image, keras.layers.Dense(len(list((split / "train").iterdir())), "softmax")(x))
    model.compile(keras.optimizers.Adam(1e-5), "sparse_categorical_crossentropy", metrics=["accuracy"])
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        model.fit(train, validation_data=val, epochs=1, verbose=0)
        seconds.append(time.perf_counter() - started)
    return seconds


if __name__ == "__main__":
    main()
