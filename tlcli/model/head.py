"""The head: the new layers on top of a backbone, from its features to probabilities."""

from typing import Any

import keras

from tlcli.recipe.fields import Activation
from tlcli.recipe.schema import HeadSpec, HiddenSpec

# Every layer name of the head starts with this.
HEAD_PREFIX = "head_"
# The layer that computes the probabilities.
OUTPUT_LAYER = "head_probabilities"
# The cut point at the pooled features, and the start of the names of the pooling layers.
POOLED = "head_pool"
# Initialisers that keep the variance of the outputs, by activation: He et al. 2015, arXiv 1502.01852, for functions
# that are zero or small on one side, LeCun for SELU (Klambauer et al. 2017, arXiv 1706.02515), Glorot for all others.
_INITIALIZERS: dict[Activation, str] = {
    "selu": "lecun_normal",
    "tanh": "glorot_uniform",
    "sigmoid": "glorot_uniform",
    "linear": "glorot_uniform",
}
_INITIALIZER = "he_normal"
# Slope of `rrelu` in predictions, and the rate of multiplicative noise on it in training: mean and deviation of the
# uniform slopes from 1/8 to 1/3 of Xu et al. 2015, arXiv 1505.00853. The noise is Gaussian, because Keras has a layer
# for it: every program that reads the classifier has its layers.
RRELU_SLOPE = (1 / 8 + 1 / 3) / 2
_RRELU_VARIANCE = ((1 / 3 - 1 / 8) ** 2 / 12) / RRELU_SLOPE**2
RRELU_RATE = _RRELU_VARIANCE / (1 + _RRELU_VARIANCE)


def pool(features: Any, kind: str) -> Any:
    """Pool `(batch, height, width, channels)` to `(batch, channels)`, or to twice the channels for `avg_max`.

    Features `(batch, channels)`, which the network has pooled itself, stay as they are.
    """
    if len(features.shape) == 2:
        return keras.layers.Identity(name=POOLED)(features)
    pools = {"avg": keras.layers.GlobalAveragePooling2D, "max": keras.layers.GlobalMaxPooling2D}
    pooled = [pools[name](name=f"{POOLED}_{name}")(features) for name in kind.split("_")]
    return pooled[0] if len(pooled) == 1 else keras.layers.Concatenate(name=f"{POOLED}")(pooled)


def attach_head(features: Any, spec: HeadSpec, classes: int) -> Any:
    """Apply a new head to symbolic features.

    Args:
        features: Tensor (batch, height, width, channels) or (batch, channels).
        spec: The head of the recipe.
        classes: Number of classes.

    Returns:
        Probabilities, float32 (batch, classes), 0–1; rows sum to 1.
    """
    x = pool(features, spec.pooling)
    if spec.spatial_dropout:
        x = _drop_channels(x, spec.spatial_dropout, channels=features.shape[-1])
    if spec.input_dropout:
        x = keras.layers.Dropout(spec.input_dropout, name=f"{HEAD_PREFIX}input_dropout")(x)
    for number, hidden in enumerate(spec.hidden, start=1):
        x = _hidden(x, hidden, spec, number)
    if spec.dropout:
        x = keras.layers.Dropout(spec.dropout, name=f"{HEAD_PREFIX}dropout")(x)
    # float32 under any policy: a softmax over half-precision logits loses the small probabilities.
    output = _dense(
        classes, spec, name=OUTPUT_LAYER, initializer=spec.initializer, activation="softmax", dtype="float32"
    )
    return output(x)


def _drop_channels(pooled: Any, rate: float, *, channels: int) -> Any:
    """Spatial dropout (Tompson et al. 2015, arXiv 1411.4280) of the features below the pooling.

    Pooling a map of zeros gives zero, and pooling a map times a positive number gives the pooled map times that number.
    So it is done above the pooling, where it works on stored features, too.
    """
    name = f"{HEAD_PREFIX}spatial_dropout"
    if pooled.shape[-1] == channels:
        return keras.layers.Dropout(rate, name=name)(pooled)
    # Mean and maximum of the same map are dropped together.
    x = keras.layers.Reshape((-1, channels), name=f"{name}_maps")(pooled)
    x = keras.layers.SpatialDropout1D(rate, name=name)(x)
    return keras.layers.Reshape((pooled.shape[-1],), name=f"{name}_pooled")(x)


def _hidden(x: Any, hidden: HiddenSpec, spec: HeadSpec, number: int) -> Any:
    x = _dense(hidden.units, spec, name=f"{HEAD_PREFIX}dense_{number}", initializer=initializer_of(hidden))(x)
    norm = keras.layers.BatchNormalization(
        momentum=hidden.batch_norm_momentum, epsilon=hidden.batch_norm_epsilon, name=f"{HEAD_PREFIX}bn_{number}"
    )
    if hidden.batch_norm in (True, "before"):
        x = norm(x)
    x = _activate(x, hidden.activation, name=f"{HEAD_PREFIX}activation_{number}")
    if hidden.activity_l1 or hidden.activity_l2:
        penalty = keras.layers.ActivityRegularization(
            hidden.activity_l1, hidden.activity_l2, name=f"{HEAD_PREFIX}activity_{number}"
        )
        x = penalty(x)
    if hidden.batch_norm == "after":
        x = norm(x)
    if hidden.dropout:
        x = keras.layers.Dropout(hidden.dropout, name=f"{HEAD_PREFIX}dropout_{number}")(x)
    return x


def _activate(x: Any, activation: Activation, *, name: str) -> Any:
    if activation == "prelu":
        return keras.layers.PReLU(alpha_initializer=keras.initializers.Constant(0.25), name=name)(x)
    if activation == "rrelu":
        # The part below zero, times the slope.
        below = keras.layers.ReLU(max_value=0.0, negative_slope=RRELU_SLOPE, name=f"{name}_below")(x)
        below = keras.layers.GaussianDropout(RRELU_RATE, name=f"{name}_noise")(below)
        return keras.layers.Add(name=name)([keras.layers.ReLU(name=f"{name}_above")(x), below])
    return keras.layers.Activation(activation, name=name)(x)


def initializer_of(hidden: HiddenSpec) -> str:
    """The initialiser of a hidden layer; `auto` is the one that suits its activation."""
    if hidden.initializer != "auto":
        return hidden.initializer
    return _INITIALIZERS.get(hidden.activation, _INITIALIZER)


def _dense(
    units: int,
    spec: HeadSpec,
    *,
    name: str,
    initializer: str,
    activation: str = "linear",
    dtype: str | None = None,
) -> keras.layers.Dense:
    penalty = keras.regularizers.L1L2(spec.l1, spec.l2) if spec.l1 or spec.l2 else None
    limit = keras.constraints.MaxNorm(spec.max_norm) if spec.max_norm else None
    return keras.layers.Dense(
        units,
        activation=activation,
        kernel_initializer=initializer,
        kernel_regularizer=penalty,
        kernel_constraint=limit,
        dtype=dtype,
        name=name,
    )
