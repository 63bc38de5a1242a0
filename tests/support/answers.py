"""The ways to ask a saved classifier. All must give the same probabilities and leave its weights alone."""

from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np

TOLERANCE = 1e-5


def ways(model: keras.Model) -> Iterator[tuple[str, Callable[[np.ndarray], object]]]:
    """How people call a classifier, by name."""
    yield "model(x)", model
    yield "model(x, training=False)", lambda x: model(x, training=False)
    yield "predict", lambda x: model.predict(x, verbose=0)
    yield "predict_on_batch", model.predict_on_batch
    yield "nested in a Sequential", keras.Sequential([keras.Input((None, None, 3)), model])
    image = keras.Input((None, None, 3))
    outer = keras.Model(image, keras.layers.Rescaling(2.0)(model(keras.layers.Rescaling(1.0)(image))))
    yield "nested in a functional model", lambda x: outer(x) / 2.0
    yield "its layers called one by one", lambda x: keras.Model(model.input, model.call(model.input))(x)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        yield "traced by tf.function", lambda x: tf.function(model)(tf.constant(x))


def assert_one_answer(file: Path, images: np.ndarray) -> np.ndarray:
    """Ask the classifier in `file` in every way, in plain Keras; returns the probabilities, `(images, classes)`."""
    model = keras.models.load_model(file)
    weights = [np.array(keras.ops.convert_to_numpy(weight)) for weight in model.weights]
    expected = model.predict(images, verbose=0)
    for name, ask in ways(model):
        np.testing.assert_allclose(np.asarray(ask(images)), expected, atol=TOLERANCE, err_msg=name)
    for before, weight in zip(weights, model.weights, strict=True):
        np.testing.assert_array_equal(before, keras.ops.convert_to_numpy(weight), err_msg=weight.path)
    assert {layer.dtype_policy.name for layer in model._flatten_layers()} == {"float32"}
    return expected


def assert_exported_answer(file: Path, images: np.ndarray, expected: np.ndarray, folder: Path) -> None:
    """The classifier as a SavedModel, asked in TensorFlow without Keras."""
    import tensorflow as tf

    keras.models.load_model(file).export(folder, verbose=False)
    loaded = tf.saved_model.load(folder)
    np.testing.assert_allclose(loaded.serve(tf.constant(images)).numpy(), expected, atol=TOLERANCE)
