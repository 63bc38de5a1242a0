"""Measuring Keras networks: order, weights, FLOPs, and names that do not depend on earlier networks."""

import math

import keras
import numpy as np
import pytest
from keras import layers

from tlcli.errors import ModelError
from tlcli.model.cut_points import LayerGraph, find_cut_points
from tlcli.model.graph import fresh_names, measure, tensors_at, weightless

# Number of layers and of cut points.
SIZES = {
    "VGG16": (19, 19),
    "MobileNetV2": (154, 74),
    "MobileNetV3Small": (157, 59),
    "ResNet50": (175, 39),
    "InceptionV3": (311, 29),
    "InceptionResNetV2": (780, 103),
    "Xception": (132, 25),
    "DenseNet121": (427, 79),
    "EfficientNetB0": (237, 83),
    "ConvNeXtTiny": (133, 25),
    "NASNetMobile": (769, 5),
}


def build(handle: str, side: int = 224) -> keras.Model:
    with weightless():
        return getattr(keras.applications, handle)(weights=None, include_top=False, input_shape=(side, side, 3))


def flops(graph: LayerGraph) -> int:
    return sum(layer.flops for layer in graph.layers)


@pytest.mark.parametrize("handle", SIZES)
def test_networks_have_the_expected_layers_and_cut_points(handle: str) -> None:
    model = build(handle)
    graph = measure(model)
    assert (len(model.layers), len(find_cut_points(graph))) == SIZES[handle]
    assert [layer.name for layer in graph.layers] == [operation.name for operation in model.operations]
    assert sum(layer.parameters for layer in graph.layers) == model.count_params()
    trainable = sum(math.prod(weight.shape) for weight in model.trainable_weights)
    assert sum(layer.trainable_parameters for layer in graph.layers) == trainable


@pytest.mark.parametrize(
    ("handle", "side", "published"),
    [
        # Multiply-adds from the papers; their classifiers add less than a percent.
        ("MobileNet", 224, 569e6),
        ("MobileNetV2", 224, 300e6),
        ("VGG16", 224, 15.35e9),
        ("ResNet50", 224, 3.86e9),
        ("Xception", 299, 8.4e9),
        ("EfficientNetB0", 224, 0.39e9),
        ("ConvNeXtTiny", 224, 4.5e9),
        ("NASNetMobile", 224, 564e6),
    ],
)
def test_flops_are_those_of_the_papers(handle: str, side: int, published: float) -> None:
    assert flops(measure(build(handle, side))) == pytest.approx(published, rel=0.02)


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (layers.Conv2D(5, 3, padding="same"), 8 * 8 * 5 * 3 * 3 * 4),
        (layers.Conv2D(8, 3, strides=2, padding="same", groups=2), 4 * 4 * 8 * 3 * 3 * 2),
        (layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2), 8 * 8 * 8 * 3 * 3),
        (layers.SeparableConv2D(5, 3, padding="same"), 8 * 8 * 4 * 3 * 3 + 8 * 8 * 4 * 5),
        (layers.Conv2DTranspose(5, 3, strides=2, padding="same"), 8 * 8 * 4 * 5 * 3 * 3),
        (layers.Dense(6), 8 * 8 * 4 * 6),
        (layers.BatchNormalization(), 0),
        (keras.Sequential([layers.Conv2D(5, 1), layers.ReLU(), layers.Dense(2)]), 64 * (4 * 5 + 5 * 2)),
    ],
)
def test_flops_are_multiply_adds(layer: keras.Layer, expected: int) -> None:
    inputs = keras.Input((8, 8, 4))
    assert measure(keras.Model(inputs, layer(inputs))).layers[-1].flops == expected


def test_an_open_input_size_gives_open_shapes_and_no_flops() -> None:
    inputs = keras.Input((None, None, 4))
    layer = measure(keras.Model(inputs, layers.Conv2D(5, 3)(inputs))).layers[-1]
    assert (layer.output_shape, layer.flops, layer.parameters) == ((None, None, 5), 0, 185)


def test_freezing_does_not_change_the_trainable_parameters() -> None:
    inputs = keras.Input((8, 8, 4))
    model = keras.Model(inputs, layers.BatchNormalization()(layers.Conv2D(5, 3)(inputs)))
    before = measure(model)
    model.trainable = False
    assert measure(model) == before
    assert [layer.trainable_parameters for layer in before.layers] == [0, 185, 10]
    assert [layer.parameters for layer in before.layers] == [0, 185, 20]
    assert [layer.batch_norms for layer in before.layers] == [0, 0, 1]


def test_a_nested_model_is_one_layer_with_all_its_weights() -> None:
    inputs = keras.Input((8, 8, 4))
    inner = keras.Sequential([layers.Conv2D(5, 1), layers.BatchNormalization(), layers.BatchNormalization()])
    layer = measure(keras.Model(inputs, inner(inputs))).layers[-1]
    assert (layer.kind, layer.parameters, layer.trainable_parameters, layer.batch_norms) == ("Sequential", 65, 45, 2)


def test_the_first_call_of_a_shared_layer_has_its_weights() -> None:
    inputs = keras.Input((4,))
    shared = layers.Dense(4, name="shared")
    model = keras.Model(inputs, shared(layers.ReLU(name="relu")(shared(inputs))))
    keras.Model(inputs, layers.ReLU()(shared(model.output)))
    graph = measure(model)
    assert [layer.name for layer in graph.layers][1:] == ["shared", "relu", "shared@2"]
    assert [layer.parameters for layer in graph.layers] == [0, 20, 0, 0]
    assert [layer.flops for layer in graph.layers] == [0, 16, 0, 16]
    assert graph["shared@2"].inputs == ("relu",)
    assert graph.output == "shared@2"


def test_calls_in_other_models_are_ignored() -> None:
    inputs = keras.Input((4,))
    first = layers.Dense(4, name="first")(inputs)
    second = layers.Dense(4, name="second")
    keras.Model(inputs, second(inputs))
    assert measure(keras.Model(inputs, second(first)))["second"].inputs == ("first",)


def test_the_tail_of_a_network_can_be_measured() -> None:
    model = build("MobileNetV2", 96)
    with weightless():
        tail = keras.Model(model.get_layer("block_15_add").output, model.output)
    assert [layer.name for layer in measure(tail).layers][1] == "block_16_expand"


def test_operations_other_than_layers_are_in_the_graph() -> None:
    inputs = keras.Input((8, 8, 3))
    flipped = keras.ops.flip(inputs, axis=-1)
    graph = measure(keras.Model(inputs, layers.Conv2D(2, 1)(flipped + inputs)))
    assert [layer.kind for layer in graph.layers] == ["InputLayer", "Flip", "Add", "Conv2D"]
    assert [layer.parameters for layer in graph.layers] == [0, 0, 0, 8]
    assert len(find_cut_points(graph)) == 3


def test_sequential_networks_are_graphs() -> None:
    graph = measure(keras.Sequential([keras.Input((4,)), layers.Dense(3, name="a"), layers.Dense(2, name="b")]))
    assert [layer.parameters for layer in graph.layers] == [0, 15, 8]


def test_networks_without_exactly_one_symbolic_output_are_refused() -> None:
    inputs = keras.Input((4,))
    with pytest.raises(ModelError, match="2 symbolic outputs"):
        measure(keras.Model(inputs, [layers.Dense(1)(inputs), layers.Dense(1)(inputs)]))
    with pytest.raises(ModelError, match="no symbolic outputs"):
        measure(keras.Sequential([layers.Dense(1)]))


def test_automatic_names_do_not_depend_on_earlier_networks() -> None:
    first = [layer.name for layer in build("InceptionV3", 96).layers]
    build("Xception", 96)
    layers.Conv2D(1, 1)
    assert [layer.name for layer in build("InceptionV3", 96).layers] == first
    assert "conv2d_93" in first


def test_layers_built_after_fresh_names_do_not_repeat_names() -> None:
    before = layers.Conv2D(1, 1).name
    with fresh_names():
        inside = {layers.Conv2D(1, 1).name for _ in range(200)}
    assert "conv2d" in inside
    assert layers.Conv2D(1, 1).name not in inside | {before}


def test_a_weightless_network_never_allocates_its_weights() -> None:
    model = build("VGG16", 32)
    # Tracing a function makes Keras initialize all variables that still wait for it.
    layers.Lambda(lambda tensor: 2 * tensor)(keras.Input((4,)))
    assert all(weight._value is None for weight in model.weights)


def test_tensors_belong_to_the_given_model() -> None:
    """The layers are part of two models; `layer.output` of Keras always belongs to the first."""
    below = keras.Input((4,), name="below")
    twice = layers.Dense(4, name="twice")
    inner = keras.Model(below, layers.Dense(2, name="last")(twice(layers.ReLU(name="relu")(twice(below)))))
    image = keras.Input((4,), name="image")
    outer = keras.Model(image, inner.call(layers.Rescaling(-3.0, name="scale")(image)))
    names = ["relu", "twice@2", "last", "twice", "relu"]
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    kernel, bias = twice.get_weights()
    first = -3 * x @ kernel + bias
    second = np.maximum(first, 0) @ kernel + bias
    outputs = keras.Model(image, tensors_at(outer, names)).predict_on_batch(x)
    expected = [np.maximum(first, 0), second, outer.predict_on_batch(x), first, np.maximum(first, 0)]
    for output, reference in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(output, reference, rtol=1e-5, atol=1e-5)
    (last,) = tensors_at(outer, ["last"])
    assert last is not inner.outputs[0]


def test_every_measured_layer_has_a_tensor() -> None:
    model = build("MobileNetV2", 96)
    graph = measure(model)
    tensors = tensors_at(model, [layer.name for layer in graph.layers])
    assert [tuple(tensor.shape[1:]) for tensor in tensors] == [layer.output_shape for layer in graph.layers]


def test_the_tensor_of_an_unknown_layer_is_refused() -> None:
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(4, name="dense_one")(inputs))
    with pytest.raises(ModelError, match="no layer 'dense_two'") as error:
        tensors_at(model, ["dense_two"])
    assert "dense_one" in str(error.value.hint)
