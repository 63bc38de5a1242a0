"""Predicting files: order, batches, files that cannot be read."""

from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from tlcli.data import pixels
from tlcli.errors import DataError
from tlcli.evaluate.predict import BATCH, Guess, predict, probabilities_of
from tlcli.model.classifier import Classifier

SIZE = (6, 8)
CLASSES = ("red", "green", "blue")


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    """Says which colour there is most of."""
    image = keras.Input((None, None, 3))
    x = keras.layers.Resizing(*SIZE, antialias=True, crop_to_aspect_ratio=True)(image)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 64)(x))
    return Classifier(keras.Model(image, keras.layers.Softmax()(x)), CLASSES, SIZE, "crop")


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> list[Path]:
    """More than two batches, no two alike, of different sizes."""
    folder, random, paths = tmp_path_factory.mktemp("photos"), np.random.default_rng(0), []
    for number in range(2 * BATCH + 5):
        shape = random.integers(5, 30, 2)
        colour = random.integers(0, 255, 3)
        noise = random.integers(-20, 20, (*shape, 3))
        paths.append(folder / f"{number:03}.png")
        Image.fromarray(np.clip(colour + noise, 0, 255).astype(np.uint8)).save(paths[-1])
    return paths


def expected(classifier: Classifier, paths: list[Path]) -> np.ndarray:
    """By hand, one picture at a time."""
    found = []
    for path in paths:
        means = pixels.read(path, SIZE, "crop").mean(axis=(0, 1)) / 64
        found.append(np.exp(means) / np.exp(means).sum())
    return np.array(found)


def test_probabilities_of_many_files_come_in_order(classifier, photos):
    told = []
    found = probabilities_of(classifier, photos, progress=lambda *args: told.append(args))
    assert found.shape == (len(photos), 3)
    np.testing.assert_allclose(found, expected(classifier, photos), rtol=1e-3)
    backwards = probabilities_of(classifier, photos[::-1], progress=lambda *args: None)
    np.testing.assert_allclose(backwards[::-1], found, rtol=1e-5)
    assert told == [(32, 69), (64, 69), (69, 69)]


def test_predictions_name_the_most_probable_first(classifier, photos):
    by_hand = expected(classifier, photos)
    found = list(predict(classifier, photos, top=2, progress=lambda *args: None))
    assert [each.path for each in found] == [path.as_posix() for path in photos]
    assert all(each.error is None for each in found)
    for each, row in zip(found, by_hand, strict=True):
        order = np.argsort(-row)[:2]
        assert [guess.label for guess in each.top] == [CLASSES[index] for index in order]
        assert [guess.probability for guess in each.top] == pytest.approx(row[order], rel=1e-3)


def test_equal_probabilities_keep_the_order_of_the_classes(classifier, tmp_path):
    Image.new("RGB", (9, 9), (50, 50, 50)).save(tmp_path / "grey.png")
    (found,) = predict(classifier, [tmp_path / "grey.png"], top=9, progress=lambda *args: None)
    assert [guess.label for guess in found.top] == list(CLASSES)
    assert found.top[0] == Guess("red", pytest.approx(1 / 3))


def spoiled(folder: Path, photos: list[Path]) -> list[Path]:
    """The photos with files among them that cannot be read: first, in the middle, a whole batch, last."""
    (folder / "text.png").write_text("not a picture")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "half.png").write_bytes(photos[0].read_bytes()[:40])
    bad = [folder / "text.png", folder / "empty.jpg", folder / "half.png", folder / "gone.png"]
    return [bad[0], *photos[:40], bad[1], *photos[40:], *(bad * 20), bad[2], photos[0], bad[3]]


def test_unreadable_files_have_an_error_and_stop_nothing(classifier, photos, tmp_path):
    paths = spoiled(tmp_path, photos)
    found = list(predict(classifier, paths, top=1, progress=lambda *args: None))
    assert [each.path for each in found] == [path.as_posix() for path in paths]
    good = [each for each in found if each.error is None]
    assert [each.path for each in good] == [path.as_posix() for path in [*photos, photos[0]]]
    by_hand = expected(classifier, photos)
    for each, row in zip(good, [*by_hand, by_hand[0]], strict=True):
        assert each.top[0].label == CLASSES[row.argmax()]
        assert each.top[0].probability == pytest.approx(row.max(), rel=1e-3)
    bad = [each for each in found if each.error is not None]
    assert len(bad) == len(paths) - len(good)
    assert all(each.error and each.top == () for each in bad)


def test_probabilities_need_every_file(classifier, photos, tmp_path):
    paths = spoiled(tmp_path, photos)
    with pytest.raises(DataError) as caught:
        probabilities_of(classifier, [photos[0], *paths[41:]], progress=lambda *args: None)
    assert caught.value.where == str(tmp_path / "empty.jpg")


def test_pictures_are_read_as_the_classifier_wants_them(classifier, tmp_path):
    """A wide picture: red in the middle, blue at the sides, which a crop does not see."""
    image = np.zeros((10, 60, 3), np.uint8)
    image[..., 2] = 250
    image[:, 23:37] = (250, 0, 0)
    Image.fromarray(image).save(tmp_path / "wide.png")
    for resize, label in (("crop", "red"), ("stretch", "blue")):
        other = Classifier(classifier.model, CLASSES, SIZE, resize)
        (found,) = predict(other, [tmp_path / "wide.png"], top=1, progress=lambda *args: None)
        assert found.top[0].label == label


def test_no_files_no_predictions(classifier):
    assert list(predict(classifier, [], top=1, progress=lambda *args: None)) == []
