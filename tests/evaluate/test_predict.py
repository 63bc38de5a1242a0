"""Predictions for files: order, batches, unreadable files."""

from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from tlcli.data import pixels
from tlcli.errors import DataError
from tlcli.evaluate.predict import BATCH, ClassProbability, predict, probabilities_of
from tlcli.evaluate.runtimes.keras_model import KerasRuntime

SIZE = (6, 8)
CLASSES = ("red", "green", "blue")


@pytest.fixture(scope="module")
def classifier() -> KerasRuntime:
    """A classifier by mean colour."""
    image = keras.Input((None, None, 3))
    x = keras.layers.Resizing(*SIZE, antialias=True, crop_to_aspect_ratio=True)(image)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 64)(x))
    return KerasRuntime(keras.Model(image, keras.layers.Softmax()(x)), CLASSES, SIZE, "crop")


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> list[Path]:
    """More than two batches of different images of different sizes."""
    folder, random, paths = tmp_path_factory.mktemp("photos"), np.random.default_rng(0), []
    for number in range(2 * BATCH + 5):
        shape = random.integers(5, 30, 2)
        colour = random.integers(0, 255, 3)
        noise = random.integers(-20, 20, (*shape, 3))
        paths.append(folder / f"{number:03}.png")
        Image.fromarray(np.clip(colour + noise, 0, 255).astype(np.uint8)).save(paths[-1])
    return paths


def expected(classifier: KerasRuntime, paths: list[Path]) -> np.ndarray:
    """Probabilities computed with NumPy, one image at a time."""
    rows = []
    for path in paths:
        means = pixels.read_exactly(path, SIZE, "crop").mean(axis=(0, 1)) / 64
        rows.append(np.exp(means) / np.exp(means).sum())
    return np.array(rows)


def test_probabilities_of_many_files_come_in_order(classifier, photos):
    reports = []
    probabilities = probabilities_of(classifier, photos, progress=lambda *args: reports.append(args))
    assert probabilities.shape == (len(photos), 3)
    np.testing.assert_allclose(probabilities, expected(classifier, photos), rtol=1e-3)
    backwards = probabilities_of(classifier, photos[::-1], progress=lambda *args: None)
    np.testing.assert_allclose(backwards[::-1], probabilities, rtol=1e-5)
    assert reports == [(32, 69), (64, 69), (69, 69)]


def test_the_most_probable_class_comes_first(classifier, photos):
    by_hand = expected(classifier, photos)
    predictions = list(predict(classifier, photos, top=2, progress=lambda *args: None))
    assert [prediction.path for prediction in predictions] == [path.as_posix() for path in photos]
    assert all(prediction.error is None for prediction in predictions)
    for prediction, row in zip(predictions, by_hand, strict=True):
        order = np.argsort(-row)[:2]
        assert [candidate.label for candidate in prediction.top] == [CLASSES[index] for index in order]
        assert [candidate.probability for candidate in prediction.top] == pytest.approx(row[order], rel=1e-3)


def test_equal_probabilities_keep_the_order_of_the_classes(classifier, tmp_path):
    Image.new("RGB", (9, 9), (50, 50, 50)).save(tmp_path / "grey.png")
    (prediction,) = predict(classifier, [tmp_path / "grey.png"], top=9, progress=lambda *args: None)
    assert [candidate.label for candidate in prediction.top] == list(CLASSES)
    assert prediction.top[0] == ClassProbability("red", pytest.approx(1 / 3))


def with_unreadable(folder: Path, photos: list[Path]) -> list[Path]:
    """The photos and unreadable files: at the start, in the middle, as a whole batch, and at the end."""
    (folder / "text.png").write_text("not an image")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "half.png").write_bytes(photos[0].read_bytes()[:40])
    bad = [folder / "text.png", folder / "empty.jpg", folder / "half.png", folder / "gone.png"]
    return [bad[0], *photos[:40], bad[1], *photos[40:], *(bad * 20), bad[2], photos[0], bad[3]]


def test_an_unreadable_file_has_an_error_and_the_others_are_predicted(classifier, photos, tmp_path):
    paths = with_unreadable(tmp_path, photos)
    predictions = list(predict(classifier, paths, top=1, progress=lambda *args: None))
    assert [prediction.path for prediction in predictions] == [path.as_posix() for path in paths]
    readable = [prediction for prediction in predictions if prediction.error is None]
    assert [prediction.path for prediction in readable] == [path.as_posix() for path in [*photos, photos[0]]]
    by_hand = expected(classifier, photos)
    for prediction, row in zip(readable, [*by_hand, by_hand[0]], strict=True):
        assert prediction.top[0].label == CLASSES[row.argmax()]
        assert prediction.top[0].probability == pytest.approx(row.max(), rel=1e-3)
    unreadable = [prediction for prediction in predictions if prediction.error is not None]
    assert len(unreadable) == len(paths) - len(readable)
    assert all(prediction.error and prediction.top == () for prediction in unreadable)


def test_an_unreadable_file_stops_probabilities(classifier, photos, tmp_path):
    paths = with_unreadable(tmp_path, photos)
    with pytest.raises(DataError) as caught:
        probabilities_of(classifier, [photos[0], *paths[41:]], progress=lambda *args: None)
    assert caught.value.where == str(tmp_path / "empty.jpg")


def test_images_are_resized_as_the_classifier_requires(classifier, tmp_path):
    """The image is wide, red in the middle and blue at the sides, which a crop removes."""
    image = np.zeros((10, 60, 3), np.uint8)
    image[..., 2] = 250
    image[:, 23:37] = (250, 0, 0)
    Image.fromarray(image).save(tmp_path / "wide.png")
    for resize, label in (("crop", "red"), ("stretch", "blue")):
        resizing = KerasRuntime(classifier.model, CLASSES, SIZE, resize)
        (prediction,) = predict(resizing, [tmp_path / "wide.png"], top=1, progress=lambda *args: None)
        assert prediction.top[0].label == label


def test_no_files_give_no_predictions(classifier):
    assert list(predict(classifier, [], top=1, progress=lambda *args: None)) == []
