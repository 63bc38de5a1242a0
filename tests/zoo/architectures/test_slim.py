"""Networks of TF-Slim, compared with outputs of the original code.

`slim_outputs.npz` was written with the networks in research/slim/nets of github.com/tensorflow/models (of August 2019,
with tf-slim 1.1 and TensorFlow 2.21), in inference mode, with the weights and images of `slim_checkpoints`. For each
network it holds the shape of its output, some 200 of its values, and a hash of the names and shapes of its variables.
"""

import hashlib
import json
from pathlib import Path

import keras
import numpy as np
import pytest
from slim_checkpoints import MEAN, image, weights_of

from tlcli.model import grouping
from tlcli.model.graph import measure, weightless
from tlcli.zoo.architectures import slim
from tlcli.zoo.sources.slim import _variables

STORED = np.load(Path(__file__).with_name("slim_outputs.npz"))
# Networks of other widths by their names in the file: architecture and arguments.
NARROW = {
    "mobilenet_v1_025": ("mobilenet_v1", {"depth_multiplier": 0.25}),
    "mobilenet_v2_035": ("mobilenet_v2", {"depth_multiplier": 0.35}),
    "mobilenet_v2_140": ("mobilenet_v2", {"depth_multiplier": 1.4}),
    "inception_v2_050": ("inception_v2", {"depth_multiplier": 0.5}),
    "inception_v3_025": ("inception_v3", {"depth_multiplier": 0.25, "gamma": True}),
}
ALL = sorted({name.partition("/")[0] for name in STORED.files})
FAST = ["mobilenet_v1_025", "mobilenet_v2_035", "inception_v1", "inception_v2_050", "inception_v3_025", "vgg_a"]
FAST += ["resnet_v1_50", "resnet_v2_50"]
# Groups of the networks.
GROUPS = {"mobilenet_v1": 14, "mobilenet_v2": 18, "inception_v4": 20, "inception_resnet_v2": 44, "resnet_v2_50": 18}


def build(stored_name: str) -> tuple[keras.Model, str]:
    """A network at the size of its stored output, and its scope."""
    name, arguments = NARROW.get(stored_name, (stored_name, {}))
    architecture = slim.ARCHITECTURES[name]
    inputs = keras.Input((int(STORED[f"{stored_name}/size"]),) * 2 + (3,))
    return keras.Model(inputs, slim.build(architecture, inputs, arguments)), architecture.scope


def check_output(name: str) -> None:
    network, scope = build(name)
    values = weights_of(network, scope)
    for variable_name, variable in _variables(network):
        variable.assign(values[f"{scope}/{variable_name}"])
    subtracts_mean = name.startswith(("vgg", "resnet_v1"))
    batch = image(network.input.shape[1], 100 if subtracts_mean else 1)
    # The original takes images less the mean here; these networks subtract it themselves.
    output = np.asarray(network(batch + np.array(MEAN, np.float32) if subtracts_mean else batch))
    expected = STORED[f"{name}/values"]
    assert output.shape == tuple(STORED[f"{name}/shape"])
    found = output.ravel()[:: max(1, output.size // 192) | 1]
    np.testing.assert_allclose(found, expected, rtol=0, atol=3e-5 * np.abs(expected).max())
    check_variables(network, scope, name)


def check_variables(network: keras.Model, scope: str, name: str) -> None:
    variables = sorted([f"{scope}/{variable}", list(value.shape)] for variable, value in _variables(network))
    assert len(variables) == int(STORED[f"{name}/variables"][0])
    assert hashlib.sha256(json.dumps(variables).encode()).hexdigest()[:16] == str(STORED[f"{name}/digest"])


@pytest.mark.parametrize("name", FAST)
def test_outputs_and_variables_equal_those_of_the_original(name):
    check_output(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ALL if name not in FAST])
def test_outputs_and_variables_of_large_networks_equal_those_of_the_original(name):
    check_output(name)


@pytest.mark.parametrize("name", GROUPS)
def test_variables_equal_the_original_and_patterns_give_a_group_for_each_block(name):
    architecture = slim.ARCHITECTURES[name]
    with weightless():
        network, scope = build(name)
    check_variables(network, scope, name)
    groups = grouping.assign(measure(network), architecture.patterns, name=name, input_size=network.input.shape[1:3])
    assert len(groups) == GROUPS[name]
    weighted = [layer.name for group in groups for layer in group.layers]
    assert len(weighted) == len(set(weighted)) == len([layer for layer in network.layers if layer.weights])
    assert all(group.is_cut_point for group in groups)


def test_hidden_layers_of_vgg_are_kept_on_request():
    with weightless():
        inputs = keras.Input((224, 224, 3))
        output = slim.build(slim.ARCHITECTURES["vgg_16"], inputs, {"fully_connected": True})
        network = keras.Model(inputs, output)
    names = {name: tuple(variable.shape) for name, variable in _variables(network)}
    assert output.shape == (None, 1, 1, 4096)
    assert names["fc6/weights"] == (7, 7, 512, 4096)
    assert names["fc7/biases"] == (4096,)
