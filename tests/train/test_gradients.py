"""Gradient surveys: relative gradient norms by group, without a change of weights."""

import itertools

import keras
import numpy as np
import pytest

from tlcli.errors import DivergedError
from tlcli.train import checkpoint, freeze, phases, policy
from tlcli.train.compile import batches_of


def survey_of(session) -> policy.GradientSurvey:
    survey = policy.next_step(session.recipe.phases, session.groups, [])
    assert isinstance(survey, policy.GradientSurvey)
    return survey


def test_a_gradient_sum_adds_gradients_and_changes_no_weight():
    variable = keras.Variable(np.array([3.0, -4.0], np.float32))
    gradient_sum = phases.GradientSum(learning_rate=1.0)
    gradient_sum.build([variable])
    for gradient in ([1.0, 0.0], [2.0, 4.0]):
        gradient_sum.apply([keras.ops.convert_to_tensor(np.array(gradient, np.float32))], [variable])
    assert keras.ops.convert_to_numpy(variable).tolist() == [3.0, -4.0]
    assert gradient_sum.norms() == [5.0]
    # A head on features near zero has such gradients.
    gradient_sum.apply([keras.ops.convert_to_tensor(np.array([3e30, 4e30], np.float32))], [variable])
    assert gradient_sum.norms() == [pytest.approx(5e30)]


def test_a_gradient_that_is_not_finite_is_an_error(lab, tmp_path):
    session = lab.session(lab.recipe({"policy": "surgical"}), tmp_path)
    kernel = session.classifier.model.get_layer("head_probabilities").kernel
    kernel.assign(kernel * np.nan)
    with pytest.raises(DivergedError, match=r"phase phase0: the gradient is not finite\. .* init: random"):
        phases.measure_gradients(session, survey_of(session))


@pytest.mark.parametrize("batch_norm", ["frozen", "affine"])
def test_norms_are_those_of_the_mean_gradient(lab, tmp_path, batch_norm):
    tensorflow = pytest.importorskip("tensorflow", reason="the reference is TensorFlow's gradient tape")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("the reference is TensorFlow's gradient tape")
    session = lab.session(lab.recipe({"policy": "surgical", "batch_norm": batch_norm}), tmp_path)
    survey = survey_of(session)
    before = checkpoint.copy_values(session.classifier.model.weights)
    norms = phases.measure_gradients(session, survey)
    after = checkpoint.copy_values(session.classifier.model.weights)
    assert [array.tobytes() for array in before] == [array.tobytes() for array in after]
    assert list(norms) == list(session.groups.names)

    trainable = freeze.set_trainable(session.classifier, survey.layers, batch_norm=batch_norm)
    step = policy.Step(0, 0, "survey", session.groups.names, survey.layers, 1)
    batches = list(itertools.islice(batches_of(session, step, 0, np.random.default_rng(0)), phases.SURVEY_BATCHES))
    assert len(batches) > 1
    values = [variable.value for variable in trainable]
    totals = [np.zeros(variable.shape) for variable in trainable]
    for inputs, labels, _ in batches:
        with tensorflow.GradientTape() as tape:
            probabilities = session.classifier.model(inputs.astype(np.float32), training=False)
            loss = tensorflow.reduce_mean(keras.losses.categorical_crossentropy(labels, probabilities))
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
        assert norms[group.name] == pytest.approx(gradient / weight, rel=2e-3)
