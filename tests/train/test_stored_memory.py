"""Memory does not grow with the number of images: a step with large stored features runs under a memory limit."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Allowed private memory above that of a small run, bytes. The stored features take 3.3 GB.
MARGIN = 2 * 10**9

# Mapped files do not count as private memory; arrays and cached batches do.
SCRIPT = """
import json, resource, sys
from pathlib import Path

import keras
import numpy as np

from tlcli.data.pixels import Examples
from tlcli.features.extraction import FeatureCache
from tlcli.model import graph
from tlcli.model.backbone import Backbone, weights_sha256
from tlcli.model.classifier import assemble
from tlcli.recipe.fields import bytes_of
from tlcli.recipe.schema import Recipe
from tlcli.train import phases
from tlcli.train.checkpoint import Checkpoint
from tlcli.train.events import ignore
from tlcli.train.session import Session
from tlcli.zoo.card import GroupPattern, ModelCard

folder, margin = Path(sys.argv[1]), int(sys.argv[2])
CARD = ModelCard(
    name="wide", source="file:wide.keras", title="Wide", size=32, min_size=8, preprocessing="tf", licence="x",
    groups=(GroupPattern(name="stem", pattern="stem_.*"), GroupPattern(name="top", pattern="top_.*")),
)
RECIPE = Recipe.model_validate({
    "name": "large",
    "augment": {"preset": "none"},
    "phases": [{"name": "top", "train": "top:1", "epochs": 1}],
    "performance": {"batch": 64},
})


def network():
    layers = keras.layers
    image = keras.Input((32, 32, 3))
    x = layers.Conv2D(64, 3, strides=2, padding="same", activation="relu", name="stem_conv")(image)
    return keras.Model(image, layers.Conv2D(8, 1, strides=4, name="top_conv")(x))


def pixels(count):
    '''A pixel cache on disk, written in parts.'''
    path = folder / f"{count}.npy"
    array = np.lib.format.open_memmap(path, "w+", np.uint8, (count, 32, 32, 3))
    for start in range(0, count, 1000):
        part = array[start : start + 1000]
        part[:] = np.random.default_rng(start).integers(0, 256, part.shape, np.uint8)
    array.flush()
    return np.load(path, mmap_mode="r")


def train(count):
    cache, rows = pixels(count), np.arange(count)
    parts = [Examples(cache, part, part % 2) for part in (rows[:-500], rows[-500:-250], rows[-250:])]
    keras.utils.set_random_seed(0)
    built = network()
    backbone = Backbone(CARD, built, (32, 32), "random", weights_sha256(built))
    classifier = assemble(backbone, RECIPE.head, classes=("a", "b"), resize="crop")
    run = folder / f"run-{count}"
    run.mkdir()
    contents = [f"{row:064x}" for row in rows]
    feature_cache = FeatureCache(folder / "activations", bytes_of(RECIPE.performance.cache_budget), contents)
    groups = graph.groups_of(built, CARD, (32, 32))
    session = Session(RECIPE, classifier, groups, *parts, feature_cache, Checkpoint(run), ignore)
    phases.run(session)
    return session.stage.placement


def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(name + ":")))


train(2000)
before = status("VmData"), status("RssAnon")
resource.setrlimit(resource.RLIMIT_DATA, (before[0] + margin, resource.RLIM_INFINITY))
placement = train(50_500)
print(json.dumps({
    "cut_point": placement.name, "views": placement.views, "stored": placement.bytes,
    "used": status("RssAnon") - before[1],
}))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="limits on private memory are those of Linux")
def test_fifty_thousand_images_are_trained_within_two_gigabytes(folder: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(folder), str(MARGIN)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr[-2000:]
    result = json.loads(process.stdout.splitlines()[-1])
    assert (result["cut_point"], result["views"]) == ("stem", 1)
    assert result["stored"] == 50_500 * 16 * 16 * 64 * 4 > 1.5 * MARGIN
    assert result["used"] < MARGIN / 4, result
