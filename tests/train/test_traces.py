"""Memory does not grow from step to step: the graph of a training function goes with the step."""

import gc
from collections import Counter

import keras
import numpy as np
import pytest

from tlcli.model.traces import release_traces
from tlcli.train import phases
from tlcli.train.events import StepDone

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="graphs are those of TensorFlow")
STEPS = 4


def live_graphs() -> Counter:
    """The number of graphs of traced functions in memory, by name."""
    from tensorflow.python.framework.func_graph import FuncGraph

    gc.collect()
    return Counter(item.name for item in gc.get_objects() if isinstance(item, FuncGraph))


def test_a_step_leaves_no_graph_behind(lab, tmp_path):
    counts = []

    def observe(event) -> None:
        if isinstance(event, StepDone):
            counts.append(live_graphs()["one_step_on_data"])

    steps = [{"train": f"top:{1 + number % 2}"} for number in range(STEPS)]
    session = lab.session(lab.recipe(*steps), tmp_path / "run", observe=observe)
    release_traces()
    phases.run(session)
    assert len(counts) == STEPS
    assert counts[0] > 0
    assert counts == [counts[0]] * STEPS


def test_released_models_can_be_traced_again_with_gradients():
    """SiLU has a gradient of its own, so its graph stays in memory until it is released."""
    release_traces()
    before = live_graphs()
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, activation="silu")])
    model.compile("sgd", "mse")
    x, y = np.ones((4, 4), np.float32), np.zeros((4, 2), np.float32)
    model.train_on_batch(x, y)
    release_traces()
    losses = [model.train_on_batch(x[:rows], y[:rows]) for rows in (4, 3, 2)]
    assert sorted(losses, reverse=True) == losses
    del model
    assert live_graphs() - before
    release_traces()
    assert not live_graphs() - before
