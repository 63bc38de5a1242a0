"""Heads: pooling, hidden layers, penalties, norm limits and probabilities."""

import math
from typing import get_args

import keras
import numpy as np
import pytest

from tlcli.model.head import attach_head
from tlcli.model.layer_groups import Layer, LayerGroup, LayerGroups
from tlcli.recipe.schema import HeadSpec, HiddenSpec, Recipe
from tlcli.train.plan import head_parameters_of

CHANNELS, CLASSES = 6, 4
ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "selu": lambda x: 1.0507009 * np.where(x > 0, x, 1.6732632 * np.expm1(np.minimum(x, 0))),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.2 * x),
    "prelu": lambda x: np.where(x > 0, x, 0.25 * x),
    "rrelu": lambda x: np.where(x > 0, x, (1 / 8 + 1 / 3) / 2 * x),
    "gelu": lambda x: np.array([0.5 * value * (1 + math.erf(value / math.sqrt(2))) for value in x.flat]).reshape(
        x.shape
    ),
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "softplus": lambda x: np.log1p(np.exp(x)),
    "linear": lambda x: x,
}


def head(spec: HeadSpec, *, seed: int = 0) -> keras.Model:
    keras.utils.set_random_seed(seed)
    features = keras.Input((3, 5, CHANNELS))
    return keras.Model(features, attach_head(features, spec, CLASSES))


def features(count: int = 8) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 3, 5, CHANNELS)).astype(np.float32)


def softmax(logits: np.ndarray) -> np.ndarray:
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("pooling", "pooled"),
    [
        ("avg", lambda x: x.mean(axis=(1, 2))),
        ("max", lambda x: x.max(axis=(1, 2))),
        ("avg_max", lambda x: np.hstack([x.mean(axis=(1, 2)), x.max(axis=(1, 2))])),
    ],
)
def test_pooling_and_probabilities(pooling, pooled):
    model, x = head(HeadSpec(pooling=pooling, dropout=0.5)), features()
    kernel, bias = model.get_layer("head_probabilities").get_weights()
    probabilities = model.predict_on_batch(x)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities, softmax(pooled(x) @ kernel + bias), rtol=1e-4)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_hidden_layer_is_dense_norm_activation(activation, where):
    parts = {"batch_norm": where, "batch_norm_momentum": 0.7, "batch_norm_epsilon": 0.5}
    spec = HeadSpec(dropout=0.0, hidden=[HiddenSpec(units=7, activation=activation, **parts)])
    model, x = head(spec), features()
    norm = model.get_layer("head_bn_1")
    random = np.random.default_rng(1)
    norm.set_weights([random.uniform(0.5, 2, 7) for _ in range(4)])
    gamma, beta, mean, variance = norm.get_weights()
    kernel, bias = model.get_layer("head_dense_1").get_weights()

    def normed(values: np.ndarray) -> np.ndarray:
        return (values - mean) / np.sqrt(variance + 0.5) * gamma + beta

    dense, activate = x.mean(axis=(1, 2)) @ kernel + bias, ACTIVATIONS[activation]
    inner = activate(normed(dense)) if where == "before" else normed(activate(dense))
    last, offset = model.get_layer("head_probabilities").get_weights()
    np.testing.assert_allclose(model.predict_on_batch(x), softmax(inner @ last + offset), rtol=1e-3, atol=1e-6)
    if activation == "rrelu":
        return  # In training its outputs are random.
    model(x, training=True)
    batch = dense if where == "before" else activate(dense)
    np.testing.assert_allclose(norm.get_weights()[2], 0.7 * mean + 0.3 * batch.mean(axis=0), rtol=1e-4, atol=1e-6)


def test_norms_of_the_head_are_before_the_activation_and_faster_than_those_of_the_zoo():
    """The momentum of the zoo, 0.999, is too slow for the few hundred steps of a head."""
    model = head(HeadSpec(hidden=[HiddenSpec(units=2, batch_norm=True)]))
    names = [layer.name for layer in model.layers]
    assert names.index("head_bn_1") < names.index("head_activation_1")
    assert (model.get_layer("head_bn_1").momentum, model.get_layer("head_bn_1").epsilon) == (0.9, 1e-3)


def test_every_activation_of_the_recipe_works():
    for activation in get_args(HiddenSpec.model_fields["activation"].annotation):
        spec = HeadSpec(hidden=[HiddenSpec(units=2, activation=activation)])
        probabilities = head(spec).predict_on_batch(features())
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5, err_msg=activation)


def test_layers_are_in_the_order_of_the_recipe():
    hidden = [HiddenSpec(units=5, batch_norm=True, dropout=0.1), HiddenSpec(units=3)]
    names = [layer.name for layer in head(HeadSpec(pooling="avg_max", hidden=hidden, dropout=0.2)).layers[1:]]
    assert names == [
        "head_pool_avg",
        "head_pool_max",
        "head_pool",
        "head_dense_1",
        "head_bn_1",
        "head_activation_1",
        "head_dropout_1",
        "head_dense_2",
        "head_activation_2",
        "head_dropout",
        "head_probabilities",
    ]
    assert [layer.name for layer in head(HeadSpec(dropout=0.0)).layers[1:]] == ["head_pool_avg", "head_probabilities"]


@pytest.mark.parametrize(
    "spec",
    [
        {"dropout": 0.5},
        {"dropout": 0.0, "hidden": [{"units": 64, "dropout": 0.5}]},
        {"dropout": 0.0, "hidden": [{"units": 64, "activation": "rrelu"}]},
        {"dropout": 0.0, "input_dropout": 0.5},
        {"dropout": 0.0, "spatial_dropout": 0.5},
        {"dropout": 0.0, "spatial_dropout": 0.5, "pooling": "avg_max"},
    ],
)
def test_dropout_applies_only_in_training(spec):
    model, x = head(HeadSpec.model_validate(spec)), features()
    np.testing.assert_array_equal(model(x, training=False), model(x, training=False))
    assert not np.array_equal(model(x, training=True), model(x, training=True))


def test_dropout_drops_its_fraction():
    model = head(HeadSpec(dropout=0.3))
    dropped = np.asarray(model.get_layer("head_dropout")(np.ones((400, 50), np.float32), training=True))
    assert (dropped == 0).mean() == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize(
    ("key", "pooling", "together"),
    [("input", "avg_max", False), ("spatial", "avg_max", True), ("spatial", "max", True), ("input", "avg", True)],
)
def test_input_and_spatial_dropout_leave_out_pooled_features(key, pooling, together):
    """Mean and maximum of one feature map are left out together by spatial dropout, as if the map were zero."""
    spec = HeadSpec.model_validate({"dropout": 0.0, "pooling": pooling, f"{key}_dropout": 0.4})
    x = 5 + features(300)
    model = head(spec)
    below = keras.Model(model.input, model.get_layer("head_probabilities").input)
    pooled, dropped = np.asarray(below(x, training=False)), np.asarray(below(x, training=True))
    is_kept = dropped != 0
    np.testing.assert_allclose(dropped[is_kept], pooled[is_kept] / 0.6, rtol=1e-5)
    assert is_kept.mean() == pytest.approx(0.6, abs=0.04)
    maps = is_kept.reshape(len(x), -1, CHANNELS)
    assert (maps == maps[:, :1]).all() == together


def test_slopes_of_rrelu_vary_as_the_uniform_ones_of_the_paper():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((1, 1, 1))
    output = attach_head(inputs, HeadSpec(dropout=0.0, hidden=[HiddenSpec(units=500, activation="rrelu")]), 2)
    model = keras.Model(inputs, output)
    below = keras.Model(inputs, model.get_layer("head_probabilities").input)
    model.get_layer("head_dense_1").set_weights([np.ones((1, 500)), np.zeros(500)])
    slopes = -np.asarray(below(np.full((40, 1, 1, 1), -1.0, np.float32), training=True))
    assert slopes.mean() == pytest.approx((1 / 8 + 1 / 3) / 2, rel=0.01)
    assert slopes.std() == pytest.approx((1 / 3 - 1 / 8) / np.sqrt(12), rel=0.03)
    above = np.asarray(below(np.full((2, 1, 1, 1), 3.0, np.float32), training=True))
    np.testing.assert_array_equal(above, 3.0)


@pytest.mark.parametrize(
    ("activation", "deviation"), [("selu", 1 / 300), ("tanh", 2 / 500), ("relu", 2 / 300), ("elu", 2 / 300)]
)
def test_the_initialiser_suits_the_activation(activation, deviation):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((1, 1, 300))
    model = keras.Model(inputs, attach_head(inputs, HeadSpec(hidden=[HiddenSpec(units=200, activation=activation)]), 3))
    assert model.get_layer("head_dense_1").kernel.numpy().var() == pytest.approx(deviation, rel=0.04)


def test_selu_keeps_mean_and_variance_through_many_layers():
    """Klambauer et al. 2017: with LeCun's initialiser the outputs stay near mean 0 and variance 1."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((1, 1, 300))
    hidden = [HiddenSpec(units=300, activation="selu")] * 8
    model = keras.Model(inputs, attach_head(inputs, HeadSpec(hidden=hidden, dropout=0.0), 3))
    outputs = keras.Model(inputs, model.get_layer("head_activation_8").output)
    values = outputs.predict_on_batch(np.random.default_rng(0).normal(size=(256, 1, 1, 300)).astype(np.float32))
    assert abs(values.mean()) < 0.1
    assert values.var() == pytest.approx(1, abs=0.2)


def test_the_penalty_on_outputs_is_part_of_the_loss():
    spec = HeadSpec(dropout=0.0, hidden=[HiddenSpec(units=5, activation="tanh", activity_l1=0.3, activity_l2=0.7)])
    model, x = head(spec), features()
    kernel, bias = model.get_layer("head_dense_1").get_weights()
    outputs = np.tanh(x.mean(axis=(1, 2)) @ kernel + bias)
    model(x)
    expected = (0.3 * np.abs(outputs).sum() + 0.7 * (outputs**2).sum()) / len(x)
    assert float(sum(model.losses)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("initializer", "deviation"),
    [
        ("glorot_uniform", np.sqrt(2 / (300 + 200))),
        ("glorot_normal", np.sqrt(2 / (300 + 200))),
        ("he_uniform", np.sqrt(2 / 300)),
        ("he_normal", np.sqrt(2 / 300)),
        ("lecun_uniform", np.sqrt(1 / 300)),
        ("lecun_normal", np.sqrt(1 / 300)),
        ("zeros", 0.0),
    ],
)
def test_initialisers(initializer, deviation):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((1, 1, 300))
    hidden = HiddenSpec(units=200, initializer=initializer)
    model = keras.Model(inputs, attach_head(inputs, HeadSpec(hidden=[hidden], initializer="zeros"), 3))
    kernel, bias = model.get_layer("head_dense_1").get_weights()
    assert kernel.std() == pytest.approx(deviation, rel=0.02)
    assert not bias.any()
    largest = np.abs(kernel).max() / max(deviation, 1e-9)
    assert largest <= 1.74 if "uniform" in initializer else largest > 1.9 or initializer == "zeros"
    assert not model.get_layer("head_probabilities").kernel.numpy().any()


def test_penalties_apply_to_every_kernel_and_no_bias():
    model = head(HeadSpec(hidden=[HiddenSpec(units=5)], l1=0.01, l2=0.1))
    for name in ("head_dense_1", "head_probabilities"):
        model.get_layer(name).bias.assign(np.full(model.get_layer(name).bias.shape, 100.0))
    kernels = [model.get_layer(name).kernel.numpy() for name in ("head_dense_1", "head_probabilities")]
    expected = sum(0.01 * np.abs(kernel).sum() + 0.1 * (kernel**2).sum() for kernel in kernels)
    assert float(sum(model.losses)) == pytest.approx(expected, rel=1e-5)
    assert head(HeadSpec(hidden=[HiddenSpec(units=5)])).losses == []


@pytest.mark.parametrize("limit", [0.4, None])
def test_the_norm_limit_holds_after_a_step(limit):
    model = head(HeadSpec(hidden=[HiddenSpec(units=5)], dropout=0.0, max_norm=limit))
    optimizer = keras.optimizers.SGD(1.0)
    optimizer.build(model.trainable_variables)
    random = np.random.default_rng(0)
    optimizer.apply([random.normal(size=variable.shape) for variable in model.trainable_variables])
    norms = [
        np.linalg.norm(model.get_layer(name).kernel.numpy(), axis=0) for name in ("head_dense_1", "head_probabilities")
    ]
    assert all(np.all(norm <= limit + 1e-5) if limit else norm.max() > 1 for norm in norms)


def test_probabilities_are_float32_under_any_policy():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = head(HeadSpec(hidden=[HiddenSpec(units=5)]))
    finally:
        keras.config.set_dtype_policy("float32")
    assert model.get_layer("head_dense_1").compute_dtype == "float16"
    assert model.output.dtype == "float32"
    model.get_layer("head_probabilities").bias.assign([0.0, -18.0, -18.0, -18.0])
    # Below the smallest positive float16 number.
    assert 0 < model.predict_on_batch(features() * 0).min() < 5e-8


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"pooling": "avg_max", "spatial_dropout": 0.1},
        {"hidden": [{"units": 9, "batch_norm": "after"}, {"units": 3, "activation": "prelu"}], "pooling": "max"},
    ],
)
def test_the_plan_counts_the_parameters_of_the_head(spec):
    recipe = Recipe.model_validate({"name": "r", "head": spec, "phases": [{"name": "p", "train": "head"}]})
    top = LayerGroup("top", (Layer("conv", "Conv2D", parameters=1),), "conv", True, (3, 5, CHANNELS), 1)
    model = head(recipe.head)
    trainable = sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
    assert head_parameters_of(recipe.head, LayerGroups("n", (8, 8), (top,)), CLASSES) == trainable
