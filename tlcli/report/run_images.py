"""The images on the page of a run: which are shown, their thumbnails, and what their predictions rest on."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from tlcli.data import pixels
from tlcli.data.hashes import content_hash
from tlcli.errors import DataError
from tlcli.recipe.fields import Resize
from tlcli.report.pages import data_url
from tlcli.report.predictions import ScoredImage
from tlcli.storage.location import join

if TYPE_CHECKING:
    # This module loads Keras, which a page without maps does not need.
    from tlcli.model.classifier import Classifier

# Most images in each gallery, pairs of classes with images, images of each pair, and classes with images of hits.
MAX_MISTAKES, MAX_DOUBTS = 12, 6
MAX_PAIRS, MAX_PER_PAIR = 40, 4
MAX_HIT_CLASSES, MAX_PER_CLASS = 30, 3
# Longest side of a thumbnail, pixels.
SIDE = 128

Pair = tuple[str, str]
"""True class and predicted class."""
ReadPixels = Callable[[ScoredImage], "np.ndarray | str"]
"""Pixels as the network sees them, uint8 (height, width, 3), RGB 0-255; or why there are none."""


@dataclass(frozen=True)
class ChosenImages:
    """The images that a page shows.

    Attributes:
        mistakes: Wrong predictions, the most confident first.
        doubts: Right predictions, the least confident first.
        pairs: For each pair of a true class and another predicted class, the most frequent first: its images, the most
            confident first. Beyond `MAX_PAIRS` they are empty.
        hits: The most confident hits by class.
        counts: Number of images of each pair, hits included.
    """

    mistakes: list[ScoredImage]
    doubts: list[ScoredImage]
    pairs: dict[Pair, list[ScoredImage]]
    hits: dict[Pair, list[ScoredImage]]
    counts: dict[Pair, int]

    @property
    def explained(self) -> list[ScoredImage]:
        """The images that get a map."""
        return [*self.mistakes, *self.doubts]

    @property
    def all(self) -> list[ScoredImage]:
        """Every image of the page, once."""
        parts = [self.explained, *self.pairs.values(), *self.hits.values()]
        return list({image.path: image for part in parts for image in part}.values())


def choose_images(images: Sequence[ScoredImage]) -> ChosenImages:
    """Choose the images that a page shows among those of one split."""
    by_confidence = sorted(images, key=lambda image: (-image.probability, image.path))
    by_pair: dict[Pair, list[ScoredImage]] = defaultdict(list)
    for image in by_confidence:
        by_pair[image.label, image.predicted].append(image)
    wrong = sorted((pair for pair in by_pair if pair[0] != pair[1]), key=lambda pair: (-len(by_pair[pair]), pair))
    right = sorted(pair for pair in by_pair if pair[0] == pair[1])
    shown_hits = right if len(right) <= MAX_HIT_CLASSES else []
    return ChosenImages(
        mistakes=[image for image in by_confidence if not image.is_hit][:MAX_MISTAKES],
        doubts=[image for image in reversed(by_confidence) if image.is_hit][:MAX_DOUBTS],
        pairs={pair: by_pair[pair][: MAX_PER_PAIR if rank < MAX_PAIRS else 0] for rank, pair in enumerate(wrong)},
        hits={pair: by_pair[pair][:MAX_PER_CLASS] for pair in shown_hits},
        counts={pair: len(members) for pair, members in by_pair.items()},
    )


@dataclass
class Illustrations:
    """Pictures for a page, as data URLs by path; `missing` has the reason for each image without a thumbnail."""

    thumbnails: dict[str, str] = field(default_factory=dict)
    maps: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def reader_of_files(root: Path, size: tuple[int, int], resize: Resize) -> ReadPixels:
    """Reads images from their files. A file that is missing or has changed since the run has no pixels.

    Args:
        root: The image folder.
        size: Height and width of the input of the network, pixels.
        resize: How images are resized to it.
    """

    def read(image: ScoredImage) -> np.ndarray | str:
        path = join(root, image.path)
        if not path.is_file():
            return "no longer there"
        try:
            if content_hash(path) != image.sha256:
                return "changed since the run"
        except OSError as error:
            return str(error.strerror or error)
        return read_file(path, size, resize)

    return read


def read_file(path: Path, size: tuple[int, int], resize: Resize) -> np.ndarray | str:
    """The pixels of a file, uint8 (height, width, 3), RGB 0-255, resized to `size`; or why there are none."""
    try:
        return pixels.read(path, size, resize)
    except (DataError, OSError) as error:
        return error.message if isinstance(error, DataError) else str(error.strerror or error)


def illustrate(chosen: ChosenImages, read: ReadPixels, classifier: "Classifier | None") -> Illustrations:
    """Thumbnails of the chosen images, and maps for the galleries.

    Args:
        chosen: The images.
        read: Returns the pixels of an image.
        classifier: Explains its predictions; None for no maps.
    """
    result, arrays = Illustrations(), {}
    for image in chosen.all:
        found = read(image)
        if isinstance(found, str):
            result.missing[image.path] = found
        else:
            arrays[image.path] = found
            result.thumbnails[image.path] = data_url(Image.fromarray(found), SIDE)
    explained = [image.path for image in chosen.explained if image.path in arrays]
    if classifier is not None and explained:
        from tlcli.evaluate.influence import influence_maps

        maps = influence_maps(classifier, np.stack([arrays[path] for path in explained]))
        for path, one in zip(explained, () if maps is None else maps, strict=maps is not None):
            result.maps[path] = data_url(Image.fromarray(_lit(arrays[path], one)), SIDE)
    return result


def _lit(image: np.ndarray, influence: np.ndarray) -> np.ndarray:
    """The image in colour where it speaks for the prediction, dark and grey elsewhere."""
    height, width = image.shape[:2]
    scaled = Image.fromarray((255 * influence).astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    light = np.asarray(scaled, np.float32)[..., None] / 255
    grey = image.mean(axis=2, keepdims=True) * 0.3
    return (light * image + (1 - light) * grey).astype(np.uint8)
