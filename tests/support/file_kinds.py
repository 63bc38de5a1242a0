"""One small valid file of every kind that the program reads, and its reader."""

import json
import shutil
import zipfile
from contextlib import suppress
from pathlib import Path

import caffe_files
import numpy as np
import packed
import torch_files
from mutations import Case
from PIL import Image

from tlcli.data import exclude, pixels, source
from tlcli.paths import bundled
from tlcli.recipe import baseline, load, space
from tlcli.report import comparison, record
from tlcli.storage.location import locate
from tlcli.train.checkpoint import Checkpoint
from tlcli.tune import search
from tlcli.zoo import archive, card, own, weight_map
from tlcli.zoo.formats import arrays, caffe, caffe_graph, saved_model
from tlcli.zoo.formats.tf_checkpoint import open_checkpoint

RECIPE = """\
recipe: 1
name: small
data: {size: [32, 32], val: 0.2}
model: {name: mobilenet, weights: random, arguments: {alpha: 0.25}}
augment: {preset: custom, mixup: 0.2, rotation: 10}
phases:
  - {name: head, train: head, init: probe, epochs: 2}
  - {name: unfreeze, policy: gradual, step: 7, epochs: 2, lr: 1.0e-3, until: {metric: val_loss, patience: 2}}
expect: ["val.accuracy >= 0.9 and not (seconds.total > 600)"]
"""
METADATA = json.dumps(
    {"classes": ["a", "b"], "size": [16, 16], "resize": "crop", "training": {"model": "x", "seed": 3}}
)
SPACE = """\
optimizer.lr: [1e-4, 1e-3]
optimizer.name: [adam, sgd]
head.dropout: {low: 0.0, high: 0.5, step: 0.1}
size: [32, 48]
"""
STATE = {"conv.weight": np.ones((2, 3, 3, 3), np.float32), "bn.running_var": np.ones(2, np.float32)}
RECORD = {
    "status": "complete", "recipe": {"name": "small", "expect": []}, "model": {"name": "mobilenet", "sha256": "0"},
    "data": {"path": "photos", "classes": ["a", "b"], "counts": {"train": 3}}, "seed": 0, "started": "2026-01-01",
    "versions": {}, "hardware": {}, "phases": [], "seconds": {"total": 1.0},
    "scores": {"val": {"accuracy": 0.5, "loss": 0.1}},
}  # fmt: skip


def light(home: Path, photos: Path) -> dict[str, Case]:
    """Files whose readers load no network, by kind."""
    cases = {**_texts(home), **_images(home), **_packed(home, photos), **_weights(home), **_run(home)}
    return {name: case for name, case in cases.items() if case.file.is_file()}


def _write(file: Path, content: str | bytes) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def _texts(home: Path) -> dict[str, Case]:
    recipe = _write(home / "recipe.yaml", RECIPE)
    plain = _write(home / "plain.yaml", RECIPE)
    ranges = _write(home / "space.yaml", SPACE)
    asked = load.load(str(plain))
    network = _write(home / "card.yaml", (bundled("models") / "mobilenet.yaml").read_bytes())
    rules = _write(home / "map.yaml", next(iter(weight_map.bundled_maps().values())).read_bytes())
    excluded = _write(home / "exclude.txt", "# no\na/1.jpg\nb/2.jpg\n")
    scores = _write(
        home / "baseline.json",
        json.dumps({"baseline": 1, "recipes": {"plain.yaml": {"scores": {}, "seconds": {"total": 1}}}}),
    )
    named = network.read_text(encoding="utf-8").replace("name: mobilenet", "name: mine", 1)
    mine = _write(own.folder() / "mine" / "card.yaml", named)
    return {
        "recipe": Case(recipe, lambda: load.render(load.load(str(recipe)))),
        "space": Case(ranges, lambda: space.read(ranges, asked).grid()),
        "card": Case(network, lambda: card.read_card(network)),
        "own card": Case(mine, lambda: (own.cards(), own.find("mine"))),
        "weight map": Case(rules, lambda: weight_map.read_map(rules)),
        "exclusion list": Case(excluded, lambda: exclude.read_list(excluded)),
        "baseline": Case(scores, lambda: baseline.read(plain)),
    }


def _images(home: Path) -> dict[str, Case]:
    rows, columns = np.mgrid[0:24, 0:32]
    image = Image.fromarray((np.stack([rows * 9, columns * 7, rows * columns], -1) % 256).astype(np.uint8))
    cases = {}
    for kind in ("jpeg", "png", "webp", "gif", "bmp", "tiff"):
        file = home / f"image.{kind}"
        image.save(
            file, **({"compression": "tiff_lzw"} if kind == "tiff" else {}), exif=b"" if kind == "gif" else _exif()
        )
        cases[kind] = Case(
            file, lambda file=file: (pixels.read(file, (16, 16), "crop"), pixels.read(file, (32, 32), "pad"))
        )
    return cases


def _exif() -> bytes:
    facts = Image.Exif()
    facts[0x0112] = 6
    return facts.tobytes()


def _packed(home: Path, photos: Path) -> dict[str, Case]:
    (home / "packed").mkdir()
    forms = packed.pack_all(photos, home / "packed")
    shard = next(forms["shards"].iterdir())
    files = {name: forms[name] for name in ("zip", "tar", "tar.gz")} | {"shard": shard}
    with suppress(ImportError):
        files["table"] = packed.write_table(photos, home / "packed" / "table.parquet")
    rows = [(path.relative_to(home.parent), path.parent.name) for path in sorted(photos.rglob("*.bmp"))]
    files["csv"] = _write(home.parent / "m.csv", "path,label\n" + "".join(f"{path},{label}\n" for path, label in rows))
    lines = (json.dumps({"path": str(path), "label": label, "group": label}) + "\n" for path, label in rows)
    files["jsonl"] = _write(home.parent / "m.jsonl", "".join(lines))
    return {name: Case(file, lambda file=file: _use_images(file)) for name, file in files.items()}


def _use_images(file: Path) -> None:
    """What training does first: find all images, and decode some."""
    index = source.scan(locate(str(file)))
    for image in index.images[:3]:
        pixels.read(index.file(image), (16, 16), "crop")


def _weights(home: Path) -> dict[str, Case]:
    import safetensors.numpy

    files = {
        "torch, legacy": _write(home / "legacy.pth", torch_files.legacy({"state_dict": STATE})),
        "torch, zip": _write(home / "zip.pth", torch_files.archive({"state_dict": STATE})),
        "safetensors": _write(home / "x.safetensors", safetensors.numpy.save(STATE)),
    }
    np.savez(home / "x.npz", **STATE)
    files["npz"] = home / "x.npz"
    cases = {name: Case(file, lambda file=file: arrays.read(file)) for name, file in files.items()}
    net = caffe_files.NetWriter((32, 32))
    net.relu("r", net.conv("conv1", "data", 4, 3))
    binary = _write(home / "x.caffemodel", net.binary())
    text = _write(home / "x.prototxt", net.text())
    graph = caffe_graph.backbone(caffe.read_prototxt(text))

    def read_prototxt() -> None:
        found = caffe_graph.backbone(caffe.read_prototxt(text))
        found.at((32, 32))

    cases["prototxt"] = Case(text, read_prototxt)
    cases["caffemodel"] = Case(
        binary, lambda: caffe_graph.match_weights(graph, caffe.read_weights(binary), str(binary))
    )
    pack = home / "pack.zip"
    _zoo_pack(pack)
    cases["zoo pack"] = Case(pack, lambda: _unpacked(pack, home / "unpacked"))
    return cases


def _zoo_pack(file: Path) -> None:
    """An archive of one network of one's own."""
    weights = _write(file.parent / "net.keras", b"a network" * 100)
    values = {"title": "Mine", "size": 32, "min_size": 1, "preprocessing": "unit", "licence": "MIT"}
    mine = card.ModelCard(name="packed", source="file:net.keras", **values)
    own.add_card(mine, {"net.keras": weights})
    archive.pack([own.find("packed")], file)


def _unpacked(file: Path, folder: Path) -> None:
    try:
        archive.unpack_to(file, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(home: Path) -> dict[str, Case]:
    run, other = home / "run", home / "other"
    for folder in (run, other):
        _write(folder / "run.json", json.dumps(RECORD))
        _write(folder / "splits.csv", "path,label,split,sha256\na/1.bmp,a,train,00\nb/1.bmp,b,val,01\n")
    kept = Checkpoint(run)
    kept.write({"step": 1, "epoch": 2}, {"weights": [np.ones(3)], "best": [np.zeros((2, 2))]})
    listed = _write(
        home / "many" / "compare.json",
        json.dumps({"recipes": ["a"], "strict": False, "device": "auto", "ladder": False}),
    )
    asked = {"trials": 3, "sampler": "tpe", "metric": "val_loss", "seed": 0, "jobs": 1}
    searched = _write(home / "search" / "tune.json", json.dumps({"search": asked, "status": "interrupted"}))

    def compared() -> None:
        comparison.side_by_side([run, other])

    return {
        "run.json": Case(run / "run.json", lambda: (record.read(run), compared())),
        "splits.csv": Case(run / "splits.csv", compared),
        "state.json": Case(run / "checkpoint" / "state.json", kept.read),
        "checkpoint": Case(run / "checkpoint" / "weights-1.npz", kept.read),
        "compare.json": Case(listed, lambda: comparison.read_candidates(listed.parent)),
        "tune.json": Case(searched, lambda: search.unfinished(searched.parent)),
    }


def heavy(home: Path) -> dict[str, Case]:
    """Files whose readers build a network or load TensorFlow, by kind."""
    import keras
    import saved_models
    import slim_checkpoints

    from tlcli.model import metadata
    from tlcli.zoo.sources import keras_file, weights_file

    layers = keras.layers
    shape = [layers.Input((16, 16, 3)), layers.Conv2D(4, 3, name="conv"), layers.BatchNormalization(name="bn")]
    model = keras.Sequential([*shape, layers.GlobalAveragePooling2D(), layers.Dense(2)])
    files = {name: home / f"model.{suffix}" for name, suffix in (("keras", "keras"), ("h5", "h5"))}
    for file in files.values():
        model.save(file)
    weights = home / "x.weights.h5"
    model.save_weights(weights)
    cases = {name: Case(file, lambda file=file: keras_file.load(file)) for name, file in files.items()}
    cases["weights.h5"] = Case(weights, lambda: weights_file.load(model, weights, with_top=lambda: model))
    described = home / "described.keras"
    with zipfile.ZipFile(described, "w") as file:
        file.writestr(metadata.MEMBER, METADATA)
    cases["metadata"] = Case(described, lambda: metadata.read_metadata(described))
    for version in (1, 2):
        folder = home / f"v{version}"
        folder.mkdir()
        found = slim_checkpoints.save(folder / "model.ckpt", STATE, version=version)
        file = found if version == 1 else folder / "model.ckpt.index"
        cases[f"checkpoint of TensorFlow, V{version}"] = Case(file, lambda found=found: _all_values(found))
    module = saved_models.module(home / "module")
    cases["SavedModel"] = Case(module / saved_model.FILE, lambda: _fresh(module))
    return cases


def _all_values(path: Path) -> None:
    checkpoint = open_checkpoint(path)
    dict(checkpoint.read({name: 0 for name, value in checkpoint.variables.items() if value.dtype is not None}))


def _fresh(module: Path) -> None:
    saved_model._read.cache_clear()
    saved_model.read(module)
