"""A saved classifier gives one answer, however it is called, and keeps its weights, however it was trained."""

import keras
import numpy as np
import pytest
from answers import assert_exported_answer, assert_one_answer
from laboratory import CARD

from tlcli.model import classifier
from tlcli.train import phases

POLICIES = {
    "fixed": {"policy": "fixed", "train": "top:2"},
    "all": {"policy": "all"},
    "gradual": {"policy": "gradual", "step": "all"},
    "lp_ft": {"policy": "lp_ft"},
    "surgical": {"policy": "surgical"},
    "depth_search": {"policy": "depth_search", "step": "all"},
}
BATCH_NORMS = ("frozen", "affine", "train")
CASES = [("lab", policy, batch_norm) for policy in POLICIES for batch_norm in BATCH_NORMS]
CASES += [("cells_lab", "all", batch_norm) for batch_norm in BATCH_NORMS]
# A head with everything that acts differently in training.
HEAD = {"hidden": [{"units": 5, "batch_norm": True, "dropout": 0.3}], "dropout": 0.3}


def images(count: int = 5) -> np.ndarray:
    """Photographs of another size than the network's."""
    return np.random.default_rng(0).uniform(0, 255, (count, 21, 17, 3)).astype(np.float32)


@pytest.mark.parametrize(("network", "policy", "batch_norm"), CASES)
def test_every_way_to_ask_gives_the_same_answer(request, tmp_path, network, policy, batch_norm):
    lab = request.getfixturevalue(network)
    head = {} if policy == "lp_ft" else HEAD
    recipe = lab.recipe({**POLICIES[policy], "batch_norm": batch_norm, "lr": 0.05}, head=head)
    session = lab.session(recipe, tmp_path / "run")
    phases.run(session)
    trained = session.classifier.model
    flags = [layer.trainable for layer in trained._flatten_layers()]
    file = tmp_path / "model.keras"
    classifier.save(session.classifier, file)
    answer = assert_one_answer(file, images())
    np.testing.assert_allclose(answer, trained.predict(images(), verbose=0), atol=1e-6)
    assert flags == [layer.trainable for layer in trained._flatten_layers()], "saving does not end the training"
    if batch_norm == "train" and policy == "all":
        assert_exported_answer(file, images(), answer, tmp_path / "exported")


def test_batch_norm_keeps_its_statistics_in_models_that_switch_to_training(lab, tmp_path):
    """Keras 3.15 hands `training=True` of a Resizing layer on to all layers after it."""
    recipe = lab.recipe({"policy": "all", "batch_norm": "train"}, head={"dropout": 0.0})
    session = lab.session(recipe, tmp_path / "run")
    phases.run(session)
    classifier.save(session.classifier, tmp_path / "model.keras")
    model = keras.models.load_model(tmp_path / "model.keras")
    before = [np.array(weight.numpy()) for weight in model.weights]
    keras.Sequential([keras.Input((None, None, 3)), keras.layers.Resizing(21, 17), model])(images())
    for value, weight in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(value, weight.numpy(), err_msg=weight.path)


def test_a_network_with_preprocessing_of_its_own_is_not_switched_to_training(lab, tmp_path):
    """A layer such as Resizing in a model file was recorded with `training=True`, too."""
    inner = lab.network(12)
    image = keras.Input((12, 12, 3))
    own = keras.Model(image, inner.call(keras.layers.Resizing(12, 12, name="own_resizing")(image)), name="own")
    recipe = lab.recipe({"train": "head"})
    built = lab.classifier(recipe)
    backbone = classifier.Backbone(CARD, own, (12, 12), "random", "")
    assembled = classifier.assemble(backbone, recipe.head, classes=built.classes, resize="crop")
    classifier.save(assembled, tmp_path / "model.keras")
    for layer in assembled.model.layers:
        assert layer.trainable
    assert_one_answer(tmp_path / "model.keras", images())


def test_a_classifier_trained_in_half_precision_computes_in_float32(lab, tmp_path):
    for precision in ("bfloat16", "float16"):
        recipe = lab.recipe({"policy": "all", "batch_norm": "affine"}, performance={"precision": precision})
        session = lab.session(recipe, tmp_path / precision)
        phases.run(session)
        assert session.stage.trainee.precision == precision
        classifier.save(session.classifier, tmp_path / "model.keras")
        assert_one_answer(tmp_path / "model.keras", images())
