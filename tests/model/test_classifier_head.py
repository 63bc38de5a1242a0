"""Heads: pooling, hidden layers, penalties, norm limits and probabilities."""

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


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_hidden_layer_is_dense_norm_activation(activation):
    spec = HeadSpec(dropout=0.0, hidden=[HiddenSpec(units=7, activation=activation, batch_norm=True)])
    model, x = head(spec), features()
    norm = model.get_layer("head_bn_1")
    random = np.random.default_rng(1)
    norm.set_weights([random.uniform(0.5, 2, 7) for _ in range(4)])
    gamma, beta, mean, variance = norm.get_weights()
    kernel, bias = model.get_layer("head_dense_1").get_weights()
    inner = (x.mean(axis=(1, 2)) @ kernel + bias - mean) / np.sqrt(variance + norm.epsilon) * gamma + beta
    last, offset = model.get_layer("head_probabilities").get_weights()
    expected = softmax(ACTIVATIONS[activation](inner) @ last + offset)
    np.testing.assert_allclose(model.predict_on_batch(x), expected, rtol=1e-3, atol=1e-6)
    # The momentum of the zoo, 0.999, is too slow for the few hundred steps of a head.
    assert norm.momentum == 0.9


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


@pytest.mark.parametrize("spec", [{"dropout": 0.5}, {"dropout": 0.0, "hidden": [{"units": 64, "dropout": 0.5}]}])
def test_dropout_applies_only_in_training(spec):
    model, x = head(HeadSpec.model_validate(spec)), features()
    np.testing.assert_array_equal(model(x, training=False), model(x, training=False))
    assert not np.array_equal(model(x, training=True), model(x, training=True))


def test_dropout_drops_its_fraction():
    model = head(HeadSpec(dropout=0.3))
    dropped = np.asarray(model.get_layer("head_dropout")(np.ones((400, 50), np.float32), training=True))
    assert (dropped == 0).mean() == pytest.approx(0.3, abs=0.02)


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
    [{}, {"pooling": "avg_max"}, {"hidden": [{"units": 9, "batch_norm": True}, {"units": 3}], "pooling": "max"}],
)
def test_the_plan_counts_the_parameters_of_the_head(spec):
    recipe = Recipe.model_validate({"name": "r", "head": spec, "phases": [{"name": "p", "train": "head"}]})
    top = LayerGroup("top", (Layer("conv", "Conv2D", parameters=1),), "conv", True, (3, 5, CHANNELS), 1)
    model = head(recipe.head)
    trainable = sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
    assert head_parameters_of(recipe.head, LayerGroups("n", (8, 8), (top,)), CLASSES) == trainable
