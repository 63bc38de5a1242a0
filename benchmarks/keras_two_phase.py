"""Two-phase fine-tuning as in the Keras guide on transfer learning: the reference for `against_keras.py`.

Phase 1 trains a new head on the frozen network. Phase 2 unfreezes the layers from `--fine-tune-at` upwards and trains
with a hundredth of the learning rate. BatchNorm is in inference mode throughout, and the model contains light
augmentation. Prints one line of JSON with the scores of the epoch with the highest validation accuracy.
"""

import argparse
import json
import time

import keras
import tensorflow as tf


class BestEpoch(keras.callbacks.Callback):
    """Stores the weights of the epoch with the highest validation accuracy, over both phases; times all epochs."""

    def __init__(self):
        super().__init__()
        self.accuracy, self.weights, self.seconds = -1.0, None, []

    def on_epoch_begin(self, epoch, logs=None):
        self.began = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds.append(round(time.perf_counter() - self.began, 2))
        if logs["val_accuracy"] > self.accuracy:
            self.accuracy, self.weights = float(logs["val_accuracy"]), self.model.get_weights()


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("train")
    parser.add_argument("val")
    parser.add_argument("--test", required=True)
    parser.add_argument("--arch", default="MobileNetV2", help="in keras.applications, or a .keras file without top")
    parser.add_argument("--alpha", type=float)
    parser.add_argument("--weights", required=True, help="a weights file, or 'random'")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--fine-tune-at", type=int, default=100)
    parser.add_argument("--epochs", type=int, nargs=2, default=(10, 10))
    return parser.parse_args()


def load_images(folder, size, *, shuffle):
    dataset = keras.utils.image_dataset_from_directory(
        folder, image_size=(size, size), batch_size=32, shuffle=shuffle, seed=0, verbose=False
    )
    return dataset.prefetch(tf.data.AUTOTUNE), len(dataset.class_names)


def main():
    args = arguments()
    keras.utils.set_random_seed(0)
    train, classes = load_images(args.train, args.size, shuffle=True)
    val, _ = load_images(args.val, args.size, shuffle=False)
    shape = (args.size, args.size, 3)
    options = {} if args.alpha is None else {"alpha": args.alpha}
    if args.arch.endswith(".keras"):
        network = keras.saving.load_model(args.arch)
    else:
        network = getattr(keras.applications, args.arch)(
            weights=None if args.weights == "random" else args.weights, include_top=False, input_shape=shape, **options
        )
    image = keras.Input(shape)
    x = keras.layers.RandomRotation(0.1)(keras.layers.RandomFlip("horizontal")(image))
    x = network(keras.layers.Rescaling(1 / 127.5, offset=-1)(x), training=False)
    x = keras.layers.Dropout(0.2)(keras.layers.GlobalAveragePooling2D()(x))
    model = keras.Model(image, keras.layers.Dense(classes, activation="softmax")(x))
    best, seconds = BestEpoch(), []
    for phase, (epochs, lr) in enumerate(zip(args.epochs, (1e-3, 1e-5), strict=True)):
        started = time.perf_counter()
        network.trainable = phase == 1
        for layer in network.layers[: args.fine_tune_at]:
            layer.trainable = False
        model.compile(keras.optimizers.Adam(lr), "sparse_categorical_crossentropy", metrics=["accuracy"])
        model.fit(train, validation_data=val, epochs=epochs, callbacks=[best], verbose=0)
        seconds.append(round(time.perf_counter() - started, 1))
    model.set_weights(best.weights)
    test, _ = load_images(args.test, args.size, shuffle=False)
    accuracy = model.evaluate(test, verbose=0)[1]
    epochs = [best.seconds[: args.epochs[0]], best.seconds[args.epochs[0] :]]
    scores = {"val_accuracy": best.accuracy, "test_accuracy": round(float(accuracy), 4)}
    print(json.dumps({"phase_s": seconds, "epoch_s": epochs} | scores))


if __name__ == "__main__":
    main()
