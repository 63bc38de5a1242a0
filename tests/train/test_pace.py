"""The learning rate of every batch, in the variables of the optimiser."""

import keras
import numpy as np
import pytest

from tlcli.recipe.optimizer import OptimizerSpec
from tlcli.train import optimizer
from tlcli.train.pace import Pace

RATES = ([0.1, 0.2, 0.4], [0.8, 0.0, 1.6])


def trained(epochs: int, *, accumulate: int = 1, scaled: bool = False) -> tuple[list[float], list[float]]:
    """The weight after each batch of `fit`, if its gradient is always 1, and the learning rate after each epoch."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")])
    rule = optimizer.build(OptimizerSpec(name="sgd", accumulate=accumulate), 9.0, scales=[1.0])
    rule = keras.optimizers.LossScaleOptimizer(rule) if scaled else rule
    model.compile(optimizer=rule, loss=lambda _, output: keras.ops.mean(output), jit_compile=False)
    rule.build(model.trainable_variables)
    pace, weights, after = Pace(rule, 3), [], []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            weights.append(self.model.get_weights()[0].item())

    for epoch in range(epochs):
        pace.begin_epoch(RATES[epoch])
        model.fit(np.ones((3, 1)), np.ones((3, 1)), batch_size=1, verbose=0, callbacks=[Watch()])
        after.append(float(rule.learning_rate))
    return weights, after


@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "loss scale"])
def test_each_batch_of_each_epoch_has_its_rate(scaled):
    weights, after = trained(2, scaled=scaled)
    assert weights == pytest.approx([-0.1, -0.3, -0.7, -1.5, -1.5, -3.1], rel=1e-5)
    assert after == pytest.approx([0.4, 1.6])


def test_an_update_from_several_batches_has_the_rate_of_the_last():
    weights, _ = trained(2, accumulate=2)
    assert weights == pytest.approx([0.0, -0.2, -0.2, -1.0, -1.0, -2.6], rel=1e-5)


def test_few_shapes_serve_many_numbers_of_batches():
    shapes = set()
    for batches in range(1, 1000):
        rule = keras.optimizers.SGD(0.1)
        (room,) = Pace(rule, batches).rates.shape
        assert batches <= room <= max(64, 9 / 8 * batches + 1)
        shapes.add(room)
    assert len(shapes) < 40


def test_rates_and_anchors_are_in_no_checkpoint():
    weight = keras.Variable(np.ones(3, np.float32), name="a")
    pull = optimizer.Pull(0.1, [np.zeros(3, np.float32)])
    rule = optimizer.build(OptimizerSpec(name="adam"), 0.1, scales=[1.0], pull=pull)
    Pace(rule, 3).begin_epoch([0.1])
    rule.build([weight])
    names = [variable.name for variable in optimizer.changing_variables(rule)]
    assert len(rule.variables) == len(names) + 3
    assert {"rates", "first_batch", "anchor"}.isdisjoint(names)
    assert "iteration" in names
