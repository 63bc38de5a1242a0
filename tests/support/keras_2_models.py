"""Models as Keras 2 users build them, and the files in `keras_2/`, which tf-keras wrote from them.

`python tests/support/keras_2_models.py` writes the files again; it needs tf-keras.
"""

from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent / "keras_2"
SIDE = 24


def images() -> np.ndarray:
    """Two images, float32 (2, 24, 24, 3), 0-255."""
    return (np.arange(2 * SIDE * SIDE * 3).reshape(2, SIDE, SIDE, 3) * 7919 % 2551 / 10).astype(np.float32)


def base(keras: Any) -> Any:
    """A small base model with the kinds of layers of MobileNetV2, and weights that differ from each other."""
    layers = keras.layers
    inputs = keras.Input((SIDE, SIDE, 3))
    x = layers.Conv2D(4, 3, strides=2, use_bias=False, name="Conv1")(inputs)
    x = layers.BatchNormalization(name="bn_Conv1")(x)
    x = start = layers.ReLU(6.0, name="Conv1_relu")(x)
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="depthwise")(x)
    x = layers.BatchNormalization(name="depthwise_BN")(x)
    x = layers.Activation("swish", name="swish")(x)
    x = layers.Conv2D(4, 1, kernel_regularizer="l2", name="project")(x)
    x = layers.Add(name="add")([start, x])
    model = keras.Model(inputs, layers.LeakyReLU(0.1, name="out_relu")(x), name="mini")
    random = np.random.default_rng(0)
    model.set_weights([random.uniform(0.1, 0.9, weight.shape) for weight in model.get_weights()])
    return model


def fine_tuned(keras: Any) -> tuple[Any, Any]:
    """A model as in the guide to transfer learning of Keras 2, after fine-tuning, and the features before its pooling.

    Augmentation and preprocessing are inside; the lower layers of the base model are frozen.
    """
    layers = keras.layers
    augmentation = [layers.RandomFlip("horizontal"), layers.RandomRotation(0.2)]
    network = base(keras)
    for layer in network.layers[:4]:
        layer.trainable = False
    inputs = keras.Input((SIDE, SIDE, 3))
    x = keras.Sequential(augmentation, name="augmentation")(inputs)
    x = layers.RandomContrast(0.1)(x)
    scaled = keras.applications.mobilenet_v2.preprocess_input(x)
    x = network(scaled, training=False)
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, layers.Dense(3, name="predictions")(x))
    return model, lambda x: network(x / 127.5 - 1.0)


def bgr(keras: Any) -> tuple[Any, Any]:
    """A functional model with the preprocessing of ResNet50 (BGR minus the mean), and its features."""
    network = base(keras)
    inputs = keras.Input((SIDE, SIDE, 3))
    x = network(keras.applications.resnet50.preprocess_input(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(x)))
    return model, lambda x: network(x[..., ::-1] - np.array([103.939, 116.779, 123.68], np.float32))


def normalized(keras: Any) -> tuple[Any, Any]:
    """A functional model with the preprocessing of DenseNet (ImageNet mean and deviation), and its features."""
    network = base(keras)
    inputs = keras.Input((SIDE, SIDE, 3))
    x = network(keras.applications.densenet.preprocess_input(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.GlobalMaxPooling2D()(x)))
    mean, deviation = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    return model, lambda x: network((x / 255 - mean) / deviation)


def functions(keras: Any) -> tuple[Any, Any]:
    """A functional model that calls TensorFlow between its layers, as the hard swish of MobileNetV3 does."""
    import tensorflow as tf

    layers = keras.layers
    inputs = keras.Input((SIDE, SIDE, 3))
    x = tf.cast(inputs, tf.float32) / 255.0
    x = layers.Conv2D(4, 3, name="conv")(tf.image.resize(x, (16, 16)))
    gate = tf.nn.relu6(x + 3.0) * (1.0 / 6.0)
    x = tf.concat([x * gate, 1.0 - gate], axis=-1)
    features = layers.BatchNormalization(name="norm")(tf.nn.swish(x))
    pooled = tf.reduce_mean(features, axis=[1, 2])
    model = keras.Model(inputs, layers.Dense(2, name="logits")(pooled))
    return model, keras.Model(inputs, features)


def teachable_machine(keras: Any) -> tuple[Any, Any]:
    """The structure and the names of a Keras export of Teachable Machine: Sequential models in a Sequential model."""
    layers = keras.layers
    network = base(keras)
    pooling = layers.GlobalAveragePooling2D(name="global_average_pooling2d_GlobalAveragePooling2D1")
    dense = [
        layers.Dense(10, activation="relu", name="dense_Dense1"),
        layers.Dense(2, activation="softmax", use_bias=False, name="dense_Dense2"),
    ]
    model = keras.Sequential([keras.Sequential([network, pooling]), keras.Sequential(dense)])
    model.build((None, SIDE, SIDE, 3))
    return model, network


MODELS = {
    "fine_tuned": fine_tuned, "bgr": bgr, "normalized": normalized, "functions": functions,
    "teachable_machine": teachable_machine,
}  # fmt: skip


def write(folder: Path, keras: Any) -> None:
    """Write every model as `NAME.h5`, `fine_tuned.keras`, and the features of `images` as `features.npz`."""
    expected = {}
    for name, make in MODELS.items():
        model, features = make(keras)
        model.save(folder / f"{name}.h5")
        if name == "fine_tuned":
            model.save(folder / f"{name}.keras")
        expected[name] = np.asarray(features(images()))
    np.savez_compressed(folder / "features.npz", **expected)


if __name__ == "__main__":
    import tf_keras

    write(FOLDER, tf_keras)
