"""Weights of PyTorch by a map: features equal PyTorch's, imports are whole or fail, imported networks fine-tune."""

import importlib
import io
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
import torch_references
from safetensors.numpy import save_file

from tlcli.errors import ModelError, WeightsError
from tlcli.zoo import weight_map
from tlcli.zoo.architectures import table
from tlcli.zoo.formats import arrays
from tlcli.zoo.sources import state_dict

SMALL = "torchvision_mobilenet_v3_small"


def features(name: str, tensors: dict[str, np.ndarray]) -> np.ndarray:
    """The features of a small network in Keras, with these tensors."""
    module, options, map_name = torch_references.NETWORKS[name]
    builder = importlib.import_module(f"tlcli.zoo.architectures.{module}")
    network = builder.build(torch_references.SIZE, **options)
    rules = weight_map.read_map(weight_map.bundled_maps()[map_name])
    report = state_dict.fill(network, rules, tensors)
    report.require_complete(Path("small.pth"), name)
    return keras.ops.convert_to_numpy(network(torch_references.image()))


@pytest.mark.parametrize("name", torch_references.NETWORKS)
def test_features_are_those_of_pytorch(name):
    tensors, expected = torch_references.stored(name)
    actual = features(name, tensors)[..., ::4]
    assert expected.std() > 0.01
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=2e-4 * float(np.abs(expected).max()))


@pytest.mark.extras
@pytest.mark.parametrize("name", torch_references.NETWORKS)
def test_features_are_those_of_the_installed_pytorch(name):
    pytest.importorskip("torch")
    pytest.importorskip("timm" if name.startswith("timm") else "torchvision")
    shapes, expected = torch_references.compute(name)
    actual = features(name, torch_references.state(shapes))
    np.testing.assert_allclose(actual.transpose(0, 3, 1, 2), expected, rtol=1e-3, atol=2e-4 * np.abs(expected).max())
