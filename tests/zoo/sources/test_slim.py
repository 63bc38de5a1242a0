"""Networks from TensorFlow 1 checkpoints: recognised, restored, partially restored, fine-tuned, and refused."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import yaml
from PIL import Image
from slim_checkpoints import image, save, weights_of

from tlcli.errors import ModelError, WeightsError
from tlcli.model import backbone
from tlcli.model.graph import weightless
from tlcli.zoo import catalogue
from tlcli.zoo.architectures import slim
from tlcli.zoo.sources import slim as source

SIZE = (64, 64)
# The image and output are those of tests/zoo/architectures/test_slim.py.
STORED = np.load(Path(__file__).parents[1] / "architectures" / "slim_outputs.npz")
TINY = {"depth_multiplier": 0.25}


def values_of(name: str, arguments: dict) -> dict[str, np.ndarray]:
    inputs = keras.Input((*SIZE, 3))
    network = keras.Model(inputs, slim.build(slim.ARCHITECTURES[name], inputs, arguments))
    return weights_of(network, slim.ARCHITECTURES[name].scope)


@pytest.fixture(scope="module")
def values() -> dict[str, np.ndarray]:
    """The variables of a narrow MobileNet V1, and others that a training leaves in checkpoints."""
    own = values_of("mobilenet_v1", TINY)
    slots = {f"{name}/RMSProp": value * 0 for name, value in own.items() if name.endswith("weights")}
    logits = {"MobilenetV1/Logits/Conv2d_1c_1x1/weights": np.zeros((1, 1, 256, 5), np.float32)}
    return own | slots | logits | {"global_step": np.int64(3)}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, values) -> Path:
    return save(tmp_path_factory.mktemp("slim") / "model.ckpt", values)


def load(path: Path | str, **arguments) -> keras.Model:
    card = catalogue.find(f"slim:{path}")
    return source.network(card, size=SIZE, arguments=arguments, weights=True)


def array_of(network: keras.Model, layer: str, index: int = 0) -> np.ndarray:
    return np.asarray(network.get_layer(layer).weights[index])


@pytest.mark.parametrize("version", [1, 2])
def test_output_equals_the_original_and_the_card_describes_it(tmp_path, values, version):
    path = save(tmp_path / "odd@name:1.ckpt", values, version=version)
    card = catalogue.find(f"slim:{path}")
    assert (card.name, card.preprocessing, card.size) == ("slim_mobilenet_v1", "tf", 224)
    assert card.arguments == TINY
    assert card.source == f"slim:mobilenet_v1@{path}"
    assert catalogue.find(card.source) == card
    network = source.network(card, size=SIZE, arguments={}, weights=True)
    output = np.asarray(network(image(64, 1)))
    expected = STORED["mobilenet_v1_025/values"]
    np.testing.assert_allclose(output.ravel()[:: (output.size // 192) | 1], expected, rtol=0, atol=3e-5)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("mobilenet_v1", {"depth_multiplier": 0.6}),
        ("mobilenet_v2", {"depth_multiplier": 1.4}),
        ("mobilenet_v2", {"depth_multiplier": 0.35, "wide_top": False}),
        ("inception_v2", {"depth_multiplier": 0.5, "stem_norm": True}),
        ("inception_v1", {"gamma": True}),
        ("resnet_v1_50", {}),
        ("vgg_a", {}),
    ],
)
def test_architecture_and_width_follow_from_the_variables(tmp_path, name, arguments):
    with weightless():
        inputs = keras.Input((*SIZE, 3))
        network = keras.Model(inputs, slim.build(slim.ARCHITECTURES[name], inputs, arguments))
        shapes = {variable: tuple(value.shape) for variable, value in source._variables(network)}
    # As in checkpoints of detectors, inside another scope. Values are not needed: one number, repeated.
    root = f"FeatureExtractor/{slim.ARCHITECTURES[name].scope}"
    path = save(
        tmp_path / "model.ckpt",
        {f"{root}/{variable}": np.zeros(shape, np.float32) for variable, shape in shapes.items()},
    )
    card = source.find_card(str(path))
    assert card.name == f"slim_{name}"
    with weightless():
        rebuilt = source.network(card, size=SIZE, arguments={}, weights=False)
        assert {variable: tuple(value.shape) for variable, value in source._variables(rebuilt)} == shapes
    # Another multiplier can give the same channels.
    assert card.arguments.keys() == arguments.keys()
    if arguments.get("depth_multiplier") != 0.6:
        assert card.arguments == arguments


def test_moving_averages_are_preferred(tmp_path, values):
    name = "MobilenetV1/Conv2d_0/weights"
    path = save(tmp_path / "model.ckpt", values | {f"{name}/ExponentialMovingAverage": values[name] + 1})
    card = source.find_card(str(path))
    network = source.network(card, size=SIZE, arguments={}, weights=True)
    np.testing.assert_array_equal(array_of(network, "Conv2d_0"), values[name] + 1)
    report = source.restored(card, network, {})
    assert f"{name}/ExponentialMovingAverage" in report.restored
    assert name not in report.left


def test_all_is_restored_and_what_a_training_adds_is_left(checkpoint, values):
    built = backbone.build(source.find_card(str(checkpoint)), size=SIZE, arguments={}, weights=None)
    report = built.restored
    assert report is not None
    own = {
        name for name in values if name.startswith("MobilenetV1/") and "RMSProp" not in name and "Logits" not in name
    }
    assert set(report.restored) == own
    assert set(report.left) == values.keys() - own
    assert report.missing == ()
    assert re.fullmatch(r"135 variables restored from model\.ckpt; \d+ left \(.*, …\); none missing", report.notice)
    assert backbone.build(source.find_card(str(checkpoint)), size=SIZE, arguments={}, weights="random").restored is None


def test_a_regular_expression_restores_some_and_leaves_the_rest_random(checkpoint, values):
    card = source.find_card(str(checkpoint))
    arguments = {"restore": r"/Conv2d_([0-5]|5_\w+)/|Conv2d_1_"}
    keras.utils.set_random_seed(1)
    network = source.network(card, size=SIZE, arguments=arguments, weights=True)
    keras.utils.set_random_seed(1)
    fresh = source.network(card, size=SIZE, arguments=arguments, weights=False)
    report = source.restored(card, network, arguments)
    assert report.pattern == arguments["restore"]
    assert set(report.restored) == {name for name in report.restored if re.search(arguments["restore"], name)}
    assert {*report.restored, *report.missing} == {
        name for name in values if name in {*report.restored, *report.missing}
    }
    assert not {*report.restored} & {*report.missing}
    assert len(report.restored) + len(report.missing) == 135
    assert set(report.left) == values.keys() - set(report.restored)
    np.testing.assert_array_equal(array_of(network, "Conv2d_0"), values["MobilenetV1/Conv2d_0/weights"])
    for layer in ("Conv2d_2_pointwise", "Conv2d_13_depthwise"):
        assert f"MobilenetV1/{layer}/BatchNorm/beta" in report.missing
        np.testing.assert_array_equal(array_of(network, layer), array_of(fresh, layer))


def test_a_regular_expression_that_matches_nothing_is_an_error(checkpoint):
    with pytest.raises(WeightsError, match=r"model\.arguments\.restore: 'Mixed_7' restores nothing.*for example"):
        load(checkpoint, restore="Mixed_7")
    for wrong, reason in (("(", "is not a regular expression"), (3, "must be a regular expression")):
        with pytest.raises(ModelError, match=reason):
            load(checkpoint, restore=wrong)


def test_missing_variables_are_named_and_can_be_left_random(tmp_path, values):
    some = {name: value for name, value in values.items() if "Conv2d_13" not in name}
    path = save(tmp_path / "model.ckpt", some)
    with pytest.raises(WeightsError, match=r"model\.ckpt: lacks 10 of the 135 variables.*Conv2d_13.*restore=\."):
        load(path)
    network = load(path, restore=".")
    np.testing.assert_array_equal(array_of(network, "Conv2d_0"), values["MobilenetV1/Conv2d_0/weights"])


def test_other_shapes_are_an_error_with_both(tmp_path, checkpoint, values):
    name = "MobilenetV1/Conv2d_3_pointwise/weights"
    path = save(tmp_path / "model.ckpt", values | {name: np.zeros((1, 1, 32, 40), np.float32)})
    shapes = r"Conv2d_3_pointwise/weights \(network \(1, 1, 32, 32\), file \(1, 1, 32, 40\)\)"
    with pytest.raises(WeightsError, match=rf"model\.ckpt: 1 of 135 variables have another shape.*{shapes}.*restore"):
        load(path)
    load(path, restore="^(?!.*Conv2d_3_pointwise/weights)")
    with pytest.raises(WeightsError, match="variables have another shape"):
        load(checkpoint, depth_multiplier=0.5)
    narrow = values | {"MobilenetV1/Conv2d_5_pointwise/weights": np.zeros((1, 1, 32, 99), np.float32)}
    with pytest.raises(WeightsError, match=r"no width of mobilenet_v1 has these channels: 256, 99, 8"):
        source.find_card(str(save(tmp_path / "odd.ckpt", narrow)))


def test_another_architecture_is_named(tmp_path, checkpoint):
    with pytest.raises(WeightsError, match=r"not a checkpoint of inception_v3: it is that of mobilenet_v1"):
        load(f"inception_v3@{checkpoint}")
    with pytest.raises(ModelError, match=r"no TF-Slim architecture 'mobilenet_v3'\. Did you mean 'mobilenet_v2'"):
        load(f"mobilenet_v3@{tmp_path}/none/model.ckpt")
    other = save(tmp_path / "other.ckpt", {"Encoder/kernel": np.zeros(3)})
    with pytest.raises(WeightsError, match=r"other\.ckpt: has no network that is known \(its variables begin with Enc"):
        load(other)
    both = save(tmp_path / "both.ckpt", {f"{scope}/conv1/weights": np.zeros(3) for scope in ("vgg_16", "resnet_v1_50")})
    with pytest.raises(WeightsError, match=r"both\.ckpt: has several networks: (resnet_v1_50|vgg_16), .*slim:\w+@"):
        load(both)
    with pytest.raises(ModelError, match="'slim:' names no network"):
        load("")


def test_unknown_and_wrong_arguments_are_errors(checkpoint):
    with pytest.raises(ModelError, match=r"no argument 'alpha'.*depth_multiplier, restore"):
        load(checkpoint, alpha=0.25)
    for wrong in (0, "1", True):
        with pytest.raises(ModelError, match=r"model\.arguments\.depth_multiplier: must be a number above 0"):
            load(checkpoint, depth_multiplier=wrong)


def test_a_card_file_names_a_checkpoint(tmp_path, checkpoint):
    card = {
        "name": "mine", "source": f"slim:{checkpoint}", "title": "Mine", "size": 64, "min_size": 32,
        "preprocessing": "tf", "licence": "mine", "arguments": {"restore": "Conv2d_0"},
    }  # fmt: skip
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(card))
    built = backbone.build(catalogue.find(str(tmp_path / "mine.yaml")), size=SIZE, arguments={}, weights=None)
    assert built.restored is not None
    assert len(built.restored.restored) == 5


RECIPE = """\
recipe: 1
name: tiny
data: {size: [32, 32], val: 0.2, test: 0.2}
phases:
  - {name: head, train: head, init: probe, epochs: 1}
  - {name: unfreeze, train: "top:2", epochs: 1, lr: 1.0e-3}
"""


def test_fine_tunes_and_plain_keras_predicts_the_same(tmp_path, monkeypatch, tlcli: Callable, photos, checkpoint):
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    monkeypatch.chdir(checkpoint.parent)
    out, model = tmp_path / "run", f"slim:{checkpoint.name}"
    some = ("--set", "model.arguments.restore=Conv2d_[0-9]_")
    words = (photos, "--recipe", tmp_path / "tiny.yaml", "--model", model, *some, "--json")
    result = tlcli("finetune", *words, "--out", out)
    assert result.code == 0, result.stderr
    assert re.search(r"\d+ variables restored from model\.ckpt; \d+ left .*; \d+ missing", result.stderr)
    record = json.loads((out / "run.json").read_text())
    restored = record["model"]["restored"]
    assert restored["pattern"] == "Conv2d_[0-9]_"
    assert len(restored["restored"]) + len(restored["missing"]) == 135
    assert [phase["name"] for phase in record["phases"]] == ["head", "unfreeze"]
    # The path is absolute, so that the run can be resumed in any folder.
    assert f"slim:mobilenet_v1@{checkpoint}" in (out / "recipe.yaml").read_text()
    classifier = keras.saving.load_model(out / "model.keras")
    small = tmp_path / "small.png"
    with Image.open(next(photos.rglob("*.bmp"))) as photo:
        photo.resize((32, 32)).save(small)
    predicted = tlcli("predict", out, small, "--top", 3, "--json").document[0]["top"]
    batch = np.asarray(Image.open(small).convert("RGB"), dtype=np.float32)[None]
    probabilities = sorted(classifier.predict(batch, verbose=0)[0], reverse=True)
    np.testing.assert_allclose([each["probability"] for each in predicted], probabilities, atol=1e-5)

    # The other commands find the groups that were measured above.
    assert tlcli("plan", *words).document["model"]["name"] == "slim_mobilenet_v1"
    report = tlcli("inspect", model, *some, "--size", 32, 32, "--json").document
    assert [group["name"] for group in report["groups"]][:2] == ["stem", "block1"]
    probed = tlcli("probe", photos, "--model", model, *some, "--size", 32, 32, "--json")
    assert probed.code == 0, probed.stderr
    assert len(probed.document["models"][0]["depths"]) == 14
    assert "missing" in probed.stderr
