"""Small real SavedModels: a trainable TensorFlow 2 module, a Keras export, a TensorFlow 1 module, one that writes."""

from pathlib import Path

import keras
import tensorflow as tf

SIDE = 32
CHANNELS = 6


class Module(tf.Module):
    """Convolution, normalisation with moving statistics, and optionally pooling."""

    def __init__(self, *, pools: bool = True) -> None:
        super().__init__()
        self.pools = pools
        kernel = tf.random.stateless_normal((3, 3, 3, CHANNELS), (1, 2)) * 0.3
        self.kernel = tf.Variable(kernel, name="conv/kernel")
        self.scale = tf.Variable(tf.linspace(0.5, 1.5, CHANNELS), name="norm/scale")
        self.mean = tf.Variable(tf.linspace(-0.1, 0.1, CHANNELS), trainable=False, name="norm/mean")
        self.unused = tf.Variable(tf.zeros(3), name="unused")

    @tf.function
    def __call__(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        values = tf.nn.conv2d(images, self.kernel, 2, "SAME")
        mean = tf.reduce_mean(values, (0, 1, 2)) if training else self.mean
        if training:
            self.mean.assign(0.9 * self.mean + 0.1 * mean)
        values = tf.nn.relu((values - mean) * self.scale)
        return tf.reduce_mean(values, (1, 2)) if self.pools else values


def module(folder: Path, *, pools: bool = True) -> Path:
    """A TensorFlow 2 module for images of any size, with inference and training mode."""
    built = Module(pools=pools)
    for training in (False, True):
        built.__call__.get_concrete_function(tf.TensorSpec((None, None, None, 3), tf.float32), training=training)
    tf.saved_model.save(built, str(folder))
    return folder


def keras_export(folder: Path) -> Path:
    """What `keras.Model.export` writes, for images of 32 pixels."""
    layers = keras.layers
    images = keras.Input((SIDE, SIDE, 3))
    x = layers.Conv2D(CHANNELS, 3, strides=2, kernel_initializer=keras.initializers.GlorotUniform(7))(images)
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(layers.BatchNormalization()(x)))
    keras.Model(images, x).export(folder, verbose=False)
    return folder


def old_module(folder: Path) -> Path:
    """A TensorFlow 1 module as TF Hub has them: a graph without tags, one with `train`, and the signature `default`."""
    v1 = tf.compat.v1
    builder = v1.saved_model.Builder(str(folder))
    for tags in ([], ["train"]):
        with tf.Graph().as_default(), v1.Session() as session:
            images = v1.placeholder(tf.float32, (None, SIDE, SIDE, 3))
            kernel = v1.get_variable("w", initializer=tf.random.stateless_normal((3, 3, 3, CHANNELS), (5, 6)))
            features = tf.reduce_mean(tf.nn.relu(tf.nn.conv2d(images, kernel, 2, "SAME")), (1, 2))
            session.run(v1.global_variables_initializer())
            signature = v1.saved_model.signature_def_utils.predict_signature_def({"x": images}, {"default": features})
            if tags:
                builder.add_meta_graph(tags, {"default": signature})
            else:
                builder.add_meta_graph_and_variables(session, tags, {"default": signature})
    builder.save()
    return folder


def writing_module(folder: Path, target: Path) -> Path:
    """A module that writes a file whenever it is called."""

    class Writing(Module):
        @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3), tf.float32)])
        def __call__(self, images: tf.Tensor) -> tf.Tensor:
            tf.io.write_file(str(target), "written")
            return tf.reduce_mean(images, (1, 2)) * self.mean[0]

    tf.saved_model.save(Writing(), str(folder))
    return folder


def text_module(folder: Path) -> Path:
    """A module that takes no images."""

    class Text(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None,), tf.string)])
        def __call__(self, words: tf.Tensor) -> tf.Tensor:
            return tf.strings.length(words)

    tf.saved_model.save(Text(), str(folder))
    return folder
