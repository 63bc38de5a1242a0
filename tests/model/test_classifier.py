"""The classifier: one flat model from raw images to probabilities, and its file."""

import json
import os
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest

from tlcli.errors import ModelError
from tlcli.model import classifier
from tlcli.model.backbone import Backbone, weights_sha256
from tlcli.model.classifier import assemble
from tlcli.model.metadata import MEMBER
from tlcli.recipe.schema import HeadSpec, HiddenSpec
from tlcli.zoo.card import ModelCard

CLASSES = ("Äpfel", "birnen & co", "梨")
SIZE = (8, 12)
CARD = ModelCard(
    name="tiny", source="file:tiny.keras", title="Tiny", size=8, min_size=8, preprocessing="tf", licence="x"
)


def backbone(mode: str = "tf") -> Backbone:
    """A network with a residual and a nested Sequential."""
    keras.utils.set_random_seed(0)
    image = keras.Input((*SIZE, 3))
    x = keras.layers.Conv2D(6, 3, strides=2, padding="same", name="stem")(image)
    inner = keras.Sequential([keras.layers.Conv2D(6, 3, padding="same"), keras.layers.BatchNormalization()], name="b")
    x = keras.layers.ReLU(name="top")(keras.layers.Add(name="add")([x, inner(x)]))
    network = keras.Model(image, x, name="tiny")
    return Backbone(CARD.model_copy(update={"preprocessing": mode}), network, SIZE, "random", weights_sha256(network))


def build(mode: str = "tf", head: HeadSpec | None = None, resize: str = "crop") -> classifier.Classifier:
    return assemble(backbone(mode), head or HeadSpec(dropout=0.5), classes=CLASSES, resize=resize)


def images(height: int, width: int, count: int = 2) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 255, (count, height, width, 3)).astype(np.float32)


@pytest.mark.parametrize("mode", ["none", "tf", "torch", "caffe", "unit"])
def test_it_computes_resize_preprocessing_backbone_and_head(mode):
    parts, raw = backbone(mode), images(*SIZE)
    built = assemble(parts, HeadSpec(), classes=CLASSES, resize="crop")
    prepared = {
        "none": raw,
        "tf": raw / 127.5 - 1,
        "torch": (raw / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225],
        "caffe": raw[..., ::-1] - [103.939, 116.779, 123.68],
        "unit": raw / 255,
    }[mode]
    features = parts.network.predict_on_batch(prepared.astype(np.float32))
    kernel, bias = built.head.get_layer("head_probabilities").get_weights()
    logits = features.mean(axis=(1, 2)) @ kernel + bias
    logits -= logits.max(axis=1, keepdims=True)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(built.model.predict_on_batch(raw), expected, rtol=1e-3, atol=1e-5)


def test_the_layers_of_the_backbone_are_layers_of_the_classifier():
    built = build()
    names = [layer.name for layer in built.model.layers]
    assert [name for name in names if name in ("stem", "b", "add", "top")] == ["stem", "b", "add", "top"]
    assert [layer.name for layer in built.head_layers] == ["head_pool_avg", "head_dropout", "head_probabilities"]
    assert (built.classes, built.size, built.resize) == (CLASSES, SIZE, "crop")


def test_the_parts_share_the_weights_of_the_classifier():
    parts = backbone()
    built = assemble(parts, HeadSpec(), classes=CLASSES, resize="crop")
    whole = {id(weight) for weight in built.model.weights}
    assert whole == {id(weight) for part in (built.features, built.head) for weight in part.weights}
    assert {id(weight) for weight in parts.network.weights} <= whole
    raw = images(*SIZE)
    np.testing.assert_allclose(
        built.head.predict_on_batch(built.features.predict_on_batch(raw)), built.model.predict_on_batch(raw), rtol=1e-5
    )


@pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
def test_images_of_any_size_are_resized(resize):
    built = build(resize=resize)
    for height, width in ((40, 20), (9, 31)):
        raw = images(height, width)
        probabilities = built.model.predict_on_batch(raw)
        assert probabilities.shape == (2, 3)
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
        flags = {f"{resize}_to_aspect_ratio": True} if resize != "stretch" else {}
        resized = keras.layers.Resizing(*SIZE, antialias=True, **flags)(raw)
        expected = built.model.predict_on_batch(np.asarray(resized))
        np.testing.assert_allclose(probabilities, expected, rtol=1e-4, atol=1e-6)


def test_features_start_after_resizing():
    """Stored features are computed from pixels that were resized when they were decoded."""
    built, raw = build(), images(40, 20)
    assert built.features.input_shape == (None, *SIZE, 3)
    assert "resize" not in [layer.name for layer in built.features.layers]
    resized = built.model.get_layer("resize")(raw)
    probabilities = built.head.predict_on_batch(built.features.predict_on_batch(np.asarray(resized)))
    np.testing.assert_allclose(probabilities, built.model.predict_on_batch(raw), rtol=1e-5)


def test_the_resize_modes_differ():
    raw = images(40, 20)
    outputs = [build(resize=resize).model.predict_on_batch(raw) for resize in ("crop", "pad", "stretch")]
    assert not any(np.allclose(one, other, rtol=1e-3) for one, other in [outputs[:2], outputs[1:], outputs[::2]])


def test_a_saved_classifier_is_loaded_unchanged(tmp_path):
    hidden = HiddenSpec(units=5, activation="elu", batch_norm=True, dropout=0.3)
    head = HeadSpec(pooling="avg_max", hidden=[hidden], l1=0.01, l2=0.02, max_norm=2.0)
    built = build("caffe", head, resize="pad")
    built.model.get_layer("stem").trainable = False
    classifier.save(built, tmp_path / "model.keras")
    assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]
    loaded = classifier.load(tmp_path / "model.keras")
    assert (loaded.classes, loaded.size, loaded.resize) == (CLASSES, SIZE, "pad")
    assert loaded.features is loaded.head is None
    for raw in (images(*SIZE), images(40, 20)):
        np.testing.assert_array_equal(built.model.predict_on_batch(raw), loaded.model.predict_on_batch(raw))


def test_the_metadata_is_readable_without_any_library(tmp_path):
    classifier.save(build(), tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        stored = json.loads(archive.read(MEMBER))
    assert stored == {"classes": list(CLASSES), "size": list(SIZE), "resize": "crop"}


def test_saving_replaces_the_old_file_or_keeps_it(tmp_path):
    target = tmp_path / "model.keras"
    target.write_bytes(b"the old one")
    broken = classifier.Classifier(build().model, (object(),), SIZE, "crop")
    with pytest.raises(ValueError, match="classes"):
        classifier.save(broken, target)
    assert target.read_bytes() == b"the old one"
    classifier.save(build(), target)
    assert classifier.load(target).classes == CLASSES
    assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]


SCRIPT = """
import sys
import keras, numpy as np
model = keras.saving.load_model(sys.argv[1], safe_mode=True)
print(model.predict(np.load(sys.argv[2]), verbose=0).tolist())
assert not [name for name in sys.modules if name.partition(".")[0] == "tlcli"]
"""


def test_the_file_needs_only_keras(tmp_path):
    """A program without tlcli computes the same probabilities from raw images."""
    built, raw = build("caffe", HeadSpec(pooling="avg_max", hidden=[HiddenSpec(units=4)])), images(21, 30)
    classifier.save(built, tmp_path / "model.keras")
    np.save(tmp_path / "raw.npy", raw)
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "model.keras"), str(tmp_path / "raw.npy")]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True, check=True)
    np.testing.assert_allclose(json.loads(done.stdout), built.model.predict_on_batch(raw), rtol=1e-5)


def rewrite(path, **members: bytes | None) -> None:
    """Replace, add or (None) remove members of the archive; a double underscore stands for a dot."""
    named = {name.replace("__", "."): content for name, content in members.items()}
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()} | named
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in content.items():
            if value is not None:
                archive.writestr(name, value)


def flip_bits(path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def metadata_json(**changed) -> bytes:
    return json.dumps({"classes": CLASSES, "size": SIZE, "resize": "crop", **changed}).encode()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "is not a classifier"),
        (lambda path: path.write_bytes(b""), "is not a classifier"),
        (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n"), "is not a classifier"),
        (lambda path: path.write_bytes(path.read_bytes()[:-200]), "is not a classifier"),
        (lambda path: rewrite(path, tlcli__json=None), "holds no class names"),
        (lambda path: rewrite(path, tlcli__json=b"\xff{"), "is not a classifier"),
        (lambda path: rewrite(path, tlcli__json=b"[]"), "is not a classifier"),
        (lambda path: rewrite(path, tlcli__json=b"{}"), "is not a classifier"),
        (lambda path: rewrite(path, tlcli__json=metadata_json(classes=[])), "is not a classifier"),
        (lambda path: rewrite(path, tlcli__json=metadata_json(classes=[1, 2, 3])), "is not a classifier"),
        (lambda path: rewrite(path, tlcli__json=metadata_json(size=["a", 3])), "is not a classifier"),
        (lambda path: rewrite(path, tlcli__json=metadata_json(size=[0, 3])), "is not a classifier"),
        (lambda path: rewrite(path, tlcli__json=metadata_json(resize="squeeze")), "is not a classifier"),
        (lambda path: rewrite(path, tlcli__json=metadata_json(classes=["a", "b"])), "for each of its 2 classes"),
        (lambda path: rewrite(path, config__json=b"{}"), "cannot be loaded"),
        (lambda path: rewrite(path, config__json=b"not json"), "invalid model configuration"),
        (lambda path: rewrite(path, config__json=None), "is not a Keras model"),
        (lambda path: rewrite(path, model__weights__h5=None), "cannot be loaded"),
        (lambda path: rewrite(path, model__weights__h5=b"no weights"), "cannot be loaded"),
        (flip_bits, "cannot be loaded"),
    ],
)
def test_damaged_and_foreign_files_are_refused(tmp_path, damage, message):
    path = tmp_path / "model.keras"
    classifier.save(build(), path)
    damage(path)
    with pytest.raises(ModelError, match=message) as caught:
        classifier.load(path)
    assert caught.value.where == str(path)
    assert caught.value.hint


def test_code_in_a_file_is_not_run(tmp_path):
    image = keras.Input((None, None, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(image)
    keras.Model(image, keras.layers.Lambda(lambda x: x)(pooled)).save(tmp_path / "model.keras")
    rewrite(tmp_path / "model.keras", tlcli__json=metadata_json())
    with pytest.raises(ModelError, match="code from files is not run"):
        classifier.load(tmp_path / "model.keras")


def test_a_model_of_several_outputs_is_refused(tmp_path):
    image = keras.Input((None, None, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(image)
    keras.Model(image, [pooled, pooled]).save(tmp_path / "model.keras")
    rewrite(tmp_path / "model.keras", tlcli__json=metadata_json())
    with pytest.raises(ModelError, match="does not output one probability for each of its 3 classes"):
        classifier.load(tmp_path / "model.keras")
