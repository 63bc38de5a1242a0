"""The survey before surgery: gradients relative to weights, group by group, and nothing changed."""

import itertools

import keras
import numpy as np
import pytest

from tlcli.train import checkpoint, freeze, phases, policy
from tlcli.train.compile import batches_of


def survey_of(session) -> policy.GradientSurvey:
    found = policy.next_step(session.recipe.phases, session.groups, [])
    assert isinstance(found, policy.GradientSurvey)
    return found


def test_the_sums_change_no_weight_and_hold_the_gradients():
    variable = keras.Variable(np.array([3.0, -4.0], np.float32))
    sums = phases.Sums(learning_rate=1.0)
    sums.build([variable])
    for gradient in ([1.0, 0.0], [2.0, 4.0]):
        sums.apply([keras.ops.convert_to_tensor(np.array(gradient, np.float32))], [variable])
    assert keras.ops.convert_to_numpy(variable).tolist() == [3.0, -4.0]
    assert sums.norms() == [5.0]


@pytest.mark.parametrize("batch_norm", ["frozen", "affine"])
def test_norms_are_those_of_the_mean_gradient(lab, tmp_path, batch_norm):
    tensorflow = pytest.importorskip("tensorflow", reason="the gradient is checked against TensorFlow's tape")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("the gradient is checked against TensorFlow's tape")
    session = lab.session(lab.recipe({"policy": "surgical", "batch_norm": batch_norm}), tmp_path)
    wanted = survey_of(session)
    before = checkpoint.copy_values(session.classifier.model.weights)
    found = phases.measure_gradients(session, wanted)
    after = checkpoint.copy_values(session.classifier.model.weights)
    assert [array.tobytes() for array in before] == [array.tobytes() for array in after]
    assert list(found) == list(session.groups.names)

    trainable = freeze.apply(session.classifier, wanted.layers, batch_norm=batch_norm)
    step = policy.Step(0, 0, "survey", session.groups.names, wanted.layers, 1)
    batches = list(itertools.islice(batches_of(session, step, 0, np.random.default_rng(0)), phases.SURVEY_BATCHES))
    assert len(batches) > 1
    values = [variable.value for variable in trainable]
    totals = [np.zeros(variable.shape) for variable in trainable]
    for inputs, labels, _ in batches:
        with tensorflow.GradientTape() as tape:
            guesses = session.classifier.model(inputs.astype(np.float32), training=False)
            loss = tensorflow.reduce_mean(keras.losses.categorical_crossentropy(labels, guesses))
        for total, gradient in zip(totals, tape.gradient(loss, values), strict=True):
            total += gradient.numpy() / len(batches)
    for group in session.groups.groups:
        names = {layer.name for layer in group.layers}
        inside = [
            index
            for index, variable in enumerate(trainable)
            if any(variable is weight for layer in session.classifier.model.layers if layer.name in names
                   for weight in layer.weights)
        ]  # fmt: skip
        gradient = np.sqrt(sum(np.sum(totals[index] ** 2) for index in inside))
        weight = np.sqrt(sum(np.sum(trainable[index].numpy() ** 2) for index in inside))
        assert found[group.name] == pytest.approx(gradient / weight, rel=2e-3)
