"""HeadSpec to head: pooling, hidden layers, dropout and the probabilities, on top of backbone features."""

from typing import Any

import keras

from tlcli.recipe.schema import HeadSpec, HiddenSpec

PREFIX = "head_"
OUTPUT = "head_probabilities"
# Layers that pool the features; the last of them gives what the rest of the head sees.
POOLED = "head_pool"


def pool(features: Any, kind: str) -> Any:
    """`(batch, height, width, channels)` to `(batch, channels)`, or twice the channels for `avg_max`."""
    pools = {"avg": keras.layers.GlobalAveragePooling2D, "max": keras.layers.GlobalMaxPooling2D}
    pooled = [pools[name](name=f"{POOLED}_{name}")(features) for name in kind.split("_")]
    return pooled[0] if len(pooled) == 1 else keras.layers.Concatenate(name=f"{POOLED}")(pooled)


def attach(features: Any, spec: HeadSpec, classes: int) -> Any:
    """Put a head on `(batch, height, width, channels)` features.

    Returns:
        The probabilities `float32 (batch, classes)`, 0-1; rows sum to 1.
    """
    x = pool(features, spec.pooling)
    for number, hidden in enumerate(spec.hidden, start=1):
        x = _hidden(x, hidden, spec, number)
    if spec.dropout:
        x = keras.layers.Dropout(spec.dropout, name=f"{PREFIX}dropout")(x)
    # float32 whatever the policy: a softmax over half-precision logits loses the small probabilities.
    output = _dense(classes, spec, name=OUTPUT, initializer=spec.initializer, activation="softmax", dtype="float32")
    return output(x)


def _hidden(x: Any, hidden: HiddenSpec, spec: HeadSpec, number: int) -> Any:
    x = _dense(hidden.units, spec, name=f"{PREFIX}dense_{number}", initializer=hidden.initializer)(x)
    if hidden.batch_norm:
        # The zoo's 0.999 is too slow for the few hundred steps a head is trained.
        x = keras.layers.BatchNormalization(momentum=0.9, name=f"{PREFIX}bn_{number}")(x)
    x = keras.layers.Activation(hidden.activation, name=f"{PREFIX}activation_{number}")(x)
    if hidden.dropout:
        x = keras.layers.Dropout(hidden.dropout, name=f"{PREFIX}dropout_{number}")(x)
    return x


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
